"""What a client is told for what it subscribes to: names, the wildcard, aliases, and what cannot be had."""

import grpc
import pytest

from ads import sidecar
from objects import access, at_address, route, server, virtual_server
from rules import rule

NOT_FOUND = 5
PERMISSION_DENIED = 7


# Names


@rule(6)
def test_a_name_that_the_client_has_already_is_sent_again_when_asked_for(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", {"a/one", "a/two"}, to=["a/one", "a/two"])
    stream.subscribe("Server", {"a/one"}, to=["a/one"])
    stream.subscribe("Server", {"a/one"}, to=["a/one"])
    stream.expect_nothing()


@rule(6)
def test_a_name_within_the_wildcard_is_sent_again_when_asked_for(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a", servers=["a/one", "a/two"]).open()
    stream.subscribe("Server", {"a/one", "a/two"})
    stream.subscribe("Server", {"a/one"}, to=["a/one"])
    stream.expect_nothing()


@rule(6)
def test_the_wildcard_is_answered_again_when_asked_for_again(plane):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"a/one"})
    stream.subscribe("Server", {"a/one"})


@rule(7)
def test_a_name_that_does_not_exist_is_removed_at_once_and_sent_when_it_appears(plane):
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", removed={"a/late"}, to=["a/late"])
    stream.expect_nothing()
    plane.operator.apply(server("a", "late"))
    stream.expect("Server", {"a/late"})
    plane.operator.delete(server("a", "late"))
    stream.expect("Server", removed={"a/late"})
    plane.operator.apply(server("a", "late"))
    stream.expect("Server", {"a/late"})


@rule(7)
@pytest.mark.parametrize("stance", ["inbound", "outbound"])
@pytest.mark.parametrize(
    ("type_name", "first", "second"),
    [
        ("Server", at_address("a", "x"), at_address("a", "x", call="61s")),
        ("Endpoints", at_address("a", "x"), at_address("a", "x", address="10.9.0.2:7443")),
        ("Route", route("a", "x", of="one", to="one"), route("a", "x", of="one", to="two")),
        ("VirtualServer", virtual_server("a", "x", "one"), virtual_server("a", "x", "two")),
    ],
)
def test_a_name_asked_for_is_followed_from_its_making_to_its_end(plane, stance, type_name, first, second):
    plane.operator.apply(at_address("a", "one"), at_address("a", "two"))
    stream = sidecar(plane, "a", stances=[stance]).open()
    stream.subscribe(type_name, removed={"a/x"}, to=["a/x"])
    for change in (first, second):
        plane.operator.apply(change)
        stream.expect(type_name, {"a/x"})
    plane.operator.delete(second)
    stream.expect(type_name, removed={"a/x"})
    stream.expect_nothing()


@rule(7)
def test_names_that_exist_and_names_that_do_not_are_answered_together(plane):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a").open()
    stream.subscribe(
        "Server", {"a/one"}, removed={"a/none", "a/nor-this"}, to=["a/none", "a/one", "a/nor-this"]
    )


@rule(7)
def test_a_missing_name_asked_for_again_is_answered_again(plane):
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", removed={"a/none"}, to=["a/none"])
    stream.subscribe("Server", removed={"a/none"}, to=["a/none"])


@rule(7)
@pytest.mark.parametrize(
    "name", ["a", "a/", "/one", "a/b/c", "a/ONE", "../a/one", "a/\x00", "a/" + "n" * 300, "ä/ö"]
)
def test_a_name_that_nothing_could_have_is_missing_and_harms_nothing(shared_plane, name):
    shared_plane.operator.apply(server("a", "one"))
    stream = sidecar(shared_plane, "a").open()
    stream.subscribe("Server", removed={name}, to=[name])
    stream.subscribe("Server", {"a/one"}, to=["a/one"])


@rule(19)
@pytest.mark.parametrize("name", ["", "a/" + "n" * 5000])
def test_an_empty_and_an_endless_name_are_refused(shared_plane, name):
    stream = sidecar(shared_plane, "a").open()
    stream.send("Server", subscribe=["a/one", name])
    stream.expect_refused(grpc.StatusCode.INVALID_ARGUMENT)


@rule(8)
def test_unsubscribing_a_name_needs_no_answer_and_ends_its_updates(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", {"a/one", "a/two"}, to=["a/one", "a/two"])
    stream.send("Server", unsubscribe=["a/one"])
    stream.expect_nothing()
    plane.operator.apply(server("a", "one", call="61s"), server("a", "two", call="61s"))
    stream.expect("Server", {"a/two"})
    plane.operator.delete(server("a", "one"), server("a", "two"))
    stream.expect("Server", removed={"a/two"})


@rule(8)
def test_an_unsubscription_from_what_was_never_subscribed_to_is_ignored(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", {"a/one"}, to=["a/one"])
    stream.send("Server", unsubscribe=["a/two", "a/none", "*"])
    stream.expect_nothing()
    plane.operator.apply(server("a", "one", call="61s"))
    stream.expect("Server", {"a/one"})


@rule(8)
def test_unsubscribing_a_name_that_the_wildcard_holds_is_answered_with_the_resource(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"a/one"})
    stream.subscribe("Server", {"a/one"}, to=["a/one"])
    stream.send("Server", unsubscribe=["a/one"])
    stream.expect("Server", {"a/one"})
    plane.operator.apply(server("a", "one", call="61s"))
    stream.expect("Server", {"a/one"})


@rule(8)
def test_unsubscribing_a_name_outside_the_wildcard_is_answered_with_its_removal(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"a/one"})
    stream.subscribe("Server", {"a/two"}, to=["a/two"])
    stream.send("Server", unsubscribe=["a/two"])
    stream.expect("Server", removed={"a/two"})
    plane.operator.apply(server("a", "one", call="61s"), server("a", "two", call="61s"))
    stream.expect("Server", {"a/one"})
    stream.expect_nothing()


@rule(8)
def test_unsubscribing_a_missing_name_under_the_wildcard_is_answered_with_its_removal(plane):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"a/one"})
    stream.subscribe("Server", removed={"a/none"}, to=["a/none"])
    stream.send("Server", unsubscribe=["a/none"])
    stream.expect("Server", removed={"a/none"})


# The wildcard


@rule(9)
def test_a_first_request_that_names_nothing_is_a_wildcard(plane):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.send("Server")
    stream.expect("Server", {"a/one"})
    plane.operator.apply(server("a", "one", call="61s"))
    stream.expect("Server", {"a/one"})


@rule(9)
def test_the_first_request_is_meant_for_each_type_by_itself(plane):
    plane.operator.apply(server("a", "one"), access("a", "rules"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"a/one"}, to=["a/one"])
    stream.send("AccessPolicy")
    stream.expect("AccessPolicy", {"a/rules"})


@rule(9)
def test_the_unspoken_wildcard_stays_when_a_name_is_added_and_ends_when_it_is_left(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.send("Server")
    stream.expect("Server", {"a/one"})
    stream.subscribe("Server", {"a/two"}, to=["a/two"])
    plane.operator.apply(server("a", "one", call="61s"))
    stream.expect("Server", {"a/one"})
    stream.send("Server", unsubscribe=["*"])
    plane.operator.apply(server("a", "one", call="62s"), server("a", "two", call="62s"))
    heard = stream.hear()
    stream.ack(heard)
    if "a/one" in heard.removed:  # the server may say that leaving the wildcard removed it
        heard = stream.hear()
        stream.ack(heard)
    assert heard.names == {"a/two"}
    stream.expect_nothing()


@rule(9)
def test_a_first_request_that_names_something_is_no_wildcard(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"a/two"}, to=["a/two"])
    stream.expect_nothing()


@rule(9)
def test_a_first_request_that_only_unsubscribes_is_no_wildcard(plane):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.send("Server", unsubscribe=["a/one"])
    stream.expect_nothing()


@rule(9)
def test_a_request_that_names_nothing_is_no_wildcard_once_a_name_was_subscribed_to(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"a/two"}, to=["a/two"])
    stream.send("Server", unsubscribe=["a/two"])
    stream.send("Server")
    stream.expect_nothing()
    plane.operator.apply(server("a", "one", call="61s"), server("a", "two", call="61s"), access("a", "rules"))
    stream.subscribe("AccessPolicy", {"a/rules"}, to=["a/rules"])
    stream.expect_nothing()


@rule(9)
def test_explicit_names_stay_when_the_wildcard_is_left(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"), server("a", "three"))
    stream = sidecar(plane, "a", servers=["a/one", "a/two"]).open()
    stream.subscribe("Server", {"a/one", "a/two", "a/three"}, to=["*", "a/one", "a/three"])
    stream.send("Server", unsubscribe=["*"])
    strays = stream.fence()
    assert not any(stray.removed & {"a/one", "a/three"} for stray in strays)
    plane.operator.apply(*(server("a", name, call="61s") for name in ("one", "two", "three")))
    stream.expect("Server", {"a/one", "a/three"})
    stream.expect_nothing()


@rule(9)
def test_the_wildcard_and_a_name_outside_it_are_answered_together(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"a/one", "a/two"}, to=["*", "a/two"])


@rule(9)
def test_a_wildcard_with_nothing_in_it_is_answered_so_that_a_client_can_be_ready(plane):
    stream = sidecar(plane, "a").open()
    answer = stream.subscribe("Server")
    assert not answer.says_something()
    plane.operator.apply(server("a", "one"))
    stream.subscribe("Server", {"a/one"}, to=["a/one"])
    stream.expect_nothing()


@rule(9)
def test_what_enters_the_wildcard_is_sent_and_what_leaves_it_is_removed(plane):
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server")
    plane.operator.apply(server("a", "one"))
    stream.expect("Server", {"a/one"})
    plane.operator.delete(server("a", "one"))
    stream.expect("Server", removed={"a/one"})


@rule(9)
def test_a_server_enters_the_wildcard_of_the_workloads_whose_labels_it_selects(plane):
    stream = sidecar(plane, "a", labels={"app": "files", "tier": "x"}).open()
    stream.subscribe("Server")
    plane.operator.apply(server("a", "files", workload={"labels": {"app": "files"}, "port": 8000}))
    stream.expect("Server", {"a/files"})
    plane.operator.apply(server("a", "files", workload={"labels": {"app": "other"}, "port": 8000}))
    stream.expect("Server", removed={"a/files"})


@rule(10)
def test_subscribing_to_the_wildcard_and_leaving_it_at_once_is_a_subscription_to_nothing(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.send("Server", subscribe=["*"], unsubscribe=["*"])
    stream.expect_nothing()
    plane.operator.apply(server("a", "one", call="61s"))
    stream.subscribe("Server", {"a/two"}, to=["a/two"])
    stream.expect_nothing()
    plane.operator.apply(server("a", "one", call="62s"), server("a", "two", call="62s"))
    stream.expect("Server", {"a/two"})
    stream.expect_nothing()


# Names twice, and other names


@rule(14)
def test_a_resource_asked_for_in_every_way_at_once_comes_once(plane):
    plane.operator.apply(server("a", "one", aliases=["old", "older"]))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.send("Server", subscribe=["*", "a/one", "a/old", "a/older", "a/one", "*"])
    stream.expect("Server", {"a/one"})
    stream.expect_nothing()
    plane.operator.apply(server("a", "one", call="61s", aliases=["old", "older"]))
    stream.expect("Server", {"a/one"})
    stream.expect_nothing()


@rule(16)
def test_a_resource_asked_for_by_an_alias_comes_under_its_name_and_lists_its_aliases(plane):
    plane.operator.apply(server("a", "new", aliases=["old"]))
    stream = sidecar(plane, "a").open()
    answer = stream.subscribe("Server", {"a/new"}, to=["a/old"])
    assert list(answer.resources["a/new"].aliases) == ["a/old"]
    plane.operator.apply(server("a", "new", call="61s", aliases=["old"]))
    stream.expect("Server", {"a/new"})


@rule(16)
def test_an_alias_may_be_unsubscribed_like_a_name(plane):
    plane.operator.apply(server("a", "new", aliases=["old"]), server("a", "other"))
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", {"a/new", "a/other"}, to=["a/old", "a/other"])
    stream.send("Server", unsubscribe=["a/old"])
    plane.operator.apply(server("a", "new", call="61s", aliases=["old"]), server("a", "other", call="61s"))
    stream.expect("Server", {"a/other"})
    stream.expect_nothing()


@rule(16)
def test_a_name_stays_when_only_its_alias_is_unsubscribed(plane):
    plane.operator.apply(server("a", "new", aliases=["old"]))
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", {"a/new"}, to=["a/old", "a/new"])
    stream.send("Server", unsubscribe=["a/old"])
    stream.fence()
    plane.operator.apply(server("a", "new", call="61s", aliases=["old"]))
    stream.expect("Server", {"a/new"})


@rule(16)
def test_an_alias_that_a_server_gains_later_answers_who_waited_for_it(plane):
    plane.operator.apply(server("a", "new"))
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", removed={"a/old"}, to=["a/old"])
    plane.operator.apply(server("a", "new", aliases=["old"]))
    answer = stream.expect("Server", {"a/new"})
    assert list(answer.resources["a/new"].aliases) == ["a/old"]


@rule(16)
def test_what_was_asked_for_by_an_alias_is_removed_when_the_alias_is_dropped(plane):
    plane.operator.apply(server("a", "new", aliases=["old"]))
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", {"a/new"}, to=["a/old"])
    plane.operator.apply(server("a", "new"))
    heard = stream.hear()
    assert "a/new" in heard.removed and not heard.names


@rule(16)
def test_the_roots_are_known_by_trust_domain_and_by_spiffe_id(plane):
    stream = sidecar(plane, "a").open()
    by_alias = stream.subscribe("TrustBundle", {"mesh.test"}, to=["spiffe://mesh.test"])
    assert list(by_alias.resources["mesh.test"].aliases) == ["spiffe://mesh.test"]
    assert by_alias.body("mesh.test").trust_domain == "mesh.test"
    stream.subscribe("TrustBundle", {"mesh.test"}, to=["mesh.test"])


@rule(9)
def test_the_mesh_and_its_roots_are_in_everyones_wildcard(plane):
    stream = sidecar(plane, "a", stances=["outbound"]).open()
    mesh = stream.subscribe("Mesh", {"mesh"})
    assert mesh.body("mesh").trust_domain == "mesh.test"
    stream.subscribe("TrustBundle", {"mesh.test"})


# Lifetimes and reasons


@rule(15)
@pytest.mark.parametrize("features", [[], ["xds.config.supports-resource-ttl"]])
def test_a_time_to_live_is_only_for_clients_that_understand_it(plane, features):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a", servers=["a/one"], features=features).open()
    for type_name, name in [("Mesh", "mesh"), ("TrustBundle", "mesh.test"), ("Server", "a/one")]:
        resource = stream.subscribe(type_name, {name}).resources[name]
        if resource.HasField("ttl"):
            assert features, "this client cannot know what it means"
            assert resource.ttl.ToTimedelta().total_seconds() > 0


@rule(17)
def test_an_acknowledgement_is_not_answered(plane):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    answer = stream.subscribe("Server", {"a/one"})
    stream.ack(answer)
    stream.ack(answer)
    stream.expect_nothing()


@rule(17)
def test_nothing_is_sent_when_the_same_is_applied_again(plane):
    one = server(
        "a", "one", labels={"b": "1", "a": "2"}, stdio={"command": "serve", "env": {"X": "1", "Y": "2"}}
    )
    same = server(
        "a", "one", labels={"a": "2", "b": "1"}, stdio={"env": {"Y": "2", "X": "1"}, "command": "serve"}
    )
    plane.operator.apply(one)
    stream = sidecar(plane, "a", servers=["a/one", "a/two"]).open()
    stream.subscribe("Server", {"a/one"})
    plane.operator.apply(same)
    plane.operator.apply(one)
    plane.operator.apply(server("a", "two"))
    stream.expect("Server", {"a/two"})
    stream.expect_nothing()


@rule(17)
def test_nothing_is_sent_when_only_notes_for_people_change(plane):
    one = server("a", "one")
    plane.operator.apply(one)
    stream = sidecar(plane, "a", servers=["a/one", "a/two"]).open()
    stream.subscribe("Server", {"a/one"})
    one["metadata"]["annotations"] = {"note": "for people"}
    plane.operator.apply(one)
    plane.operator.apply(server("a", "two"))
    stream.expect("Server", {"a/two"})
    stream.expect_nothing()


@rule(18)
def test_an_absent_name_of_the_own_namespace_is_said_to_be_not_found(plane):
    stream = sidecar(plane, "a").open()
    answer = stream.subscribe("Server", removed={"a/none"}, to=["a/none"])
    assert answer.errors.keys() == {"a/none"}
    assert answer.errors["a/none"].code == NOT_FOUND
    assert answer.errors["a/none"].message


@rule(18)
def test_a_name_of_another_namespace_that_may_not_be_seen_is_said_to_be_denied(plane):
    plane.operator.apply(at_address("b", "secret"), access("b", "own", callers=["b"]))
    stream = sidecar(plane, "a").open()
    answer = stream.subscribe("Server", removed={"b/secret"}, to=["b/secret"])
    assert answer.errors.keys() == {"b/secret"}
    assert answer.errors["b/secret"].code == PERMISSION_DENIED
    assert answer.errors["b/secret"].message


@rule(18)
def test_what_can_be_had_carries_no_error(plane):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a").open()
    answer = stream.subscribe("Server", {"a/one"}, removed={"a/none"}, to=["a/one", "a/none"])
    assert answer.errors.keys() == {"a/none"}
