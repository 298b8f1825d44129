"""A client that returns: what it holds already, what changed meanwhile, and what it never had."""

import pytest

from ads import sidecar
from control_plane import ControlPlane
from objects import access, at_address, server
from rules import rule


def _restart(plane):
    plane.kill()
    plane.start()


def _stay(plane):
    pass


def _hold(client, **expected):
    """Subscribes to everything of these types and returns the stream, closed."""
    stream = client.open()
    for type_name, names in expected.items():
        stream.subscribe(type_name, names)
    stream.close()
    return stream


@rule(11)
def test_a_new_stream_knows_nothing_of_the_one_before(plane):
    plane.operator.apply(server("a", "one"))
    client = sidecar(plane, "a", servers=["a/one"])
    _hold(client, Server={"a/one"})
    again = client.open()
    again.subscribe("Mesh", {"mesh"})
    plane.operator.apply(server("a", "one", call="61s"))
    again.expect_nothing("Mesh")
    again.subscribe("Server", {"a/one"})


@rule(11)
@pytest.mark.parametrize("meanwhile", [_stay, _restart])
def test_what_the_client_holds_unchanged_is_not_sent_again(plane, meanwhile):
    plane.operator.apply(server("a", "one"), server("a", "two", aliases=["zwei"]), access("a", "rules"))
    client = sidecar(plane, "a", servers=["a/one", "a/two"])
    before = _hold(
        client, Mesh={"mesh"}, TrustBundle={"mesh.test"}, AccessPolicy={"a/rules"}, Server={"a/one", "a/two"}
    )
    meanwhile(plane)
    stream = client.open()
    for type_name, held in before.held.items():
        stream.send(type_name, subscribe=["*"], held=held)
    stream.expect_nothing()


@rule(11)
@pytest.mark.parametrize("meanwhile", [_stay, _restart])
def test_names_that_the_client_asks_for_and_holds_unchanged_are_not_sent_again(plane, meanwhile):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    client = sidecar(plane, "a")
    before = client.open()
    before.subscribe("Server", {"a/one", "a/two"}, to=["a/one", "a/two"])
    before.close()
    meanwhile(plane)
    stream = client.open()
    stream.send("Server", subscribe=["a/one", "a/two"], held=before.held["Server"])
    stream.expect_nothing()
    plane.operator.apply(server("a", "two", call="61s"))
    stream.expect("Server", {"a/two"})


@rule(16)
def test_what_the_client_holds_and_asks_for_by_an_alias_is_not_sent_again(plane):
    plane.operator.apply(server("a", "new", aliases=["old"]))
    client = sidecar(plane, "a")
    before = client.open()
    before.subscribe("Server", {"a/new"}, to=["a/old"])
    before.close()
    stream = client.open()
    stream.send("Server", subscribe=["a/old"], held=before.held["Server"])
    stream.expect_nothing()


@rule(11)
def test_names_outside_the_wildcard_that_the_client_holds_are_not_sent_again(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    client = sidecar(plane, "a", servers=["a/one"])
    before = client.open()
    before.subscribe("Server", {"a/one", "a/two"}, to=["*", "a/two"])
    before.close()
    stream = client.open()
    stream.send("Server", subscribe=["*", "a/two"], held=before.held["Server"])
    stream.expect_nothing()


@rule(11)
@pytest.mark.parametrize("meanwhile", [_stay, _restart])
@pytest.mark.parametrize("names", [["*"], [], ["a/same", "a/changed", "a/gone", "a/new"]])
def test_what_changed_is_sent_and_what_vanished_is_removed(plane, meanwhile, names):
    plane.operator.apply(server("a", "same"), server("a", "changed"), server("a", "gone"))
    client = sidecar(plane, "a", servers=["a/same", "a/changed", "a/gone", "a/new"])
    before = _hold(client, Server={"a/same", "a/changed", "a/gone"})
    plane.operator.delete(server("a", "gone"))
    plane.operator.apply(server("a", "changed", call="61s"), server("a", "new"))
    meanwhile(plane)
    stream = client.open()
    stream.send("Server", subscribe=names, held=before.held["Server"])
    stream.expect("Server", {"a/changed", "a/new"}, removed={"a/gone"})
    stream.expect_nothing()


@rule(11)
def test_what_the_client_may_no_longer_see_is_removed(plane):
    plane.operator.apply(at_address("b", "tools"))
    client = sidecar(plane, "a")
    before = client.open()
    before.subscribe("Server", {"b/tools"}, to=["b/tools"])
    before.close()
    plane.operator.apply(access("b", "own", callers=["b"]))
    stream = client.open()
    stream.send("Server", subscribe=["b/tools"], held=before.held["Server"])
    stream.expect("Server", removed={"b/tools"})


@rule(11)
def test_names_that_never_were_are_removed_from_a_client_that_claims_to_hold_them(plane):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.send("Server", subscribe=["*"], held={"a/ghost": "1", "b/ghost": "1"})
    stream.expect("Server", {"a/one"}, removed={"a/ghost", "b/ghost"})


@rule(11)
def test_versions_said_after_the_first_request_of_a_type_change_nothing(plane):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a").open()
    answer = stream.subscribe("Server", {"a/one"}, to=["a/one"])
    stream.send("Server", subscribe=["a/one"], held={"a/one": answer.version("a/one")})
    stream.expect("Server", {"a/one"})


@rule(11)
def test_versions_said_with_the_first_request_of_a_type_count_however_late_it_is(plane):
    plane.operator.apply(server("a", "one"), access("a", "rules"))
    client = sidecar(plane, "a", servers=["a/one"])
    before = _hold(client, AccessPolicy={"a/rules"})
    stream = client.open()
    stream.subscribe("Server", {"a/one"})
    stream.send("AccessPolicy", subscribe=["*"], held=before.held["AccessPolicy"])
    stream.expect_nothing()


@rule(3)
def test_a_first_request_with_versions_may_subscribe_to_more_and_less(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"), server("a", "three"))
    client = sidecar(plane, "a")
    before = client.open()
    before.subscribe("Server", {"a/one"}, to=["a/one"])
    before.close()
    stream = client.open()
    stream.send("Server", subscribe=["a/one", "a/two"], unsubscribe=["a/three"], held=before.held["Server"])
    stream.expect("Server", {"a/two"})
    stream.expect_nothing()


@rule(12)
def test_a_version_comes_from_the_content(plane):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    first = stream.subscribe("Server", {"a/one"}).version("a/one")
    plane.operator.apply(server("a", "one", call="61s"))
    second = stream.expect("Server", {"a/one"}).version("a/one")
    plane.operator.apply(server("a", "one"))
    third = stream.expect("Server", {"a/one"}).version("a/one")
    assert second != first
    assert third == first


@rule(12)
def test_a_rollback_brings_the_old_versions_back(plane):
    before = plane.operator.apply(server("a", "one"), access("a", "rules"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    first = stream.subscribe("Server", {"a/one"}).version("a/one")
    plane.operator.apply(server("a", "one", call="61s"))
    stream.expect("Server", {"a/one"})
    plane.operator.roll_back(before)
    assert stream.expect("Server", {"a/one"}).version("a/one") == first


@rule(12)
def test_a_change_of_one_resource_leaves_the_versions_of_others_alone(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    client = sidecar(plane, "a", servers=["a/one", "a/two"])
    before = _hold(client, Server={"a/one", "a/two"})
    plane.operator.apply(server("a", "one", call="61s"))
    after = _hold(client, Server={"a/one", "a/two"})
    assert after.held["Server"]["a/one"] != before.held["Server"]["a/one"]
    assert after.held["Server"]["a/two"] == before.held["Server"]["a/two"]


@rule(12)
def test_another_control_plane_told_the_same_gives_the_same_versions(plane, tmp_path_factory):
    other = ControlPlane(tmp_path_factory.mktemp("other")).start()
    try:
        held = []
        for each in (plane, other):
            each.operator.apply(server("a", "one", labels={"x": "1", "y": "2"}), access("a", "rules"))
            client = sidecar(each, "a", servers=["a/one"])
            held.append(_hold(client, Mesh={"mesh"}, AccessPolicy={"a/rules"}, Server={"a/one"}).held)
        assert held[0] == held[1]
    finally:
        other.stop()


@rule(13)
def test_a_resource_that_the_client_does_not_say_it_holds_is_sent(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    client = sidecar(plane, "a", servers=["a/one", "a/two"])
    before = _hold(client, Server={"a/one", "a/two"})
    del before.held["Server"]["a/two"]
    stream = client.open()
    stream.send("Server", subscribe=["*"], held=before.held["Server"])
    stream.expect("Server", {"a/two"})
    stream.expect_nothing()


@rule(13)
@pytest.mark.parametrize("names", [["*"], ["a/one"]])
def test_an_empty_version_means_that_the_client_does_not_hold_the_resource(plane, names):
    plane.operator.apply(server("a", "one"))
    client = sidecar(plane, "a", servers=["a/one"])
    stream = client.open()
    stream.send("Server", subscribe=names, held={"a/one": ""})
    stream.expect("Server", {"a/one"})


@rule(13)
def test_what_a_client_rejected_is_sent_again_when_it_returns(plane):
    plane.operator.apply(server("a", "one"))
    client = sidecar(plane, "a", servers=["a/one"])
    before = client.open()
    before.subscribe("Server", {"a/one"})
    plane.operator.apply(server("a", "one", call="61s"))
    rejected = before.expect("Server", {"a/one"}, ack=False)
    before.nack(rejected, "too long")
    before.close()
    stream = client.open()
    stream.send("Server", subscribe=["*"], held=before.held["Server"])
    again = stream.expect("Server", {"a/one"})
    assert again.version("a/one") == rejected.version("a/one")


@rule(12)
def test_a_returned_client_hears_of_changes_made_after_it_returned(plane):
    plane.operator.apply(server("a", "one"))
    client = sidecar(plane, "a", servers=["a/one"])
    before = _hold(client, Server={"a/one"})
    _restart(plane)
    stream = client.open()
    stream.send("Server", subscribe=["*"], held=before.held["Server"])
    stream.expect_nothing()
    plane.operator.apply(server("a", "one", call="61s"))
    stream.expect("Server", {"a/one"})
