"""What one tenant learns of another: what it may reach, and otherwise not even what exists."""

import pytest

from ads import sidecar
from control_plane import eventually
from objects import access, at_address, quota, route, server, telemetry, tool_policy, virtual_server
from rules import rule

PERMISSION_DENIED = 7

CLOSED = [
    at_address("b", "it"),
    access("b", "it", callers=["b"]),
    quota("b", "it"),
    tool_policy("b", "it"),
    telemetry("b", "it"),
    route("b", "it", of="it", to="it"),
    virtual_server("b", "it", "it"),
]


@rule(18)
@pytest.mark.parametrize("stance", ["inbound", "outbound", "gateway"])
@pytest.mark.parametrize(
    "type_name",
    [
        "AccessPolicy",
        "QuotaPolicy",
        "ToolPolicy",
        "Telemetry",
        "Authentication",
        "Server",
        "Endpoints",
        "Route",
    ],
)
def test_names_of_another_tenant_are_denied_whether_they_exist_or_not(shared_plane, stance, type_name):
    shared_plane.operator.apply(*CLOSED)
    stream = sidecar(shared_plane, "a", stances=[stance]).open()
    asked = {"b/it", "b/not-there", "c/nor-this"}
    answer = stream.subscribe(type_name, removed=asked, to=asked)
    assert {name: error.code for name, error in answer.errors.items()} == dict.fromkeys(
        asked, PERMISSION_DENIED
    )
    said = {error.message.replace(name, "") for name, error in answer.errors.items()}
    assert len(said) == 1, f"the reasons tell apart what exists: {said}"


@pytest.mark.parametrize("stance", ["inbound", "outbound", "gateway"])
def test_the_wildcard_holds_nothing_of_another_tenant_that_may_not_be_seen(shared_plane, stance):
    shared_plane.operator.apply(*CLOSED)
    stream = sidecar(shared_plane, "a", stances=[stance]).open()
    for type_name in (
        "AccessPolicy",
        "QuotaPolicy",
        "ToolPolicy",
        "Telemetry",
        "Server",
        "Endpoints",
        "Route",
    ):
        assert not stream.subscribe(type_name).says_something()


def test_policies_of_another_tenant_are_not_told_even_if_its_servers_may_be_reached(plane):
    plane.operator.apply(
        at_address("b", "open"), access("b", "rules", callers=["a", "b"]), quota("b", "fair")
    )
    stream = sidecar(plane, "a", stances=["inbound", "outbound"]).open()
    stream.subscribe("Server", {"b/open"})
    stream.subscribe("AccessPolicy")
    stream.subscribe("AccessPolicy", removed={"b/rules"}, to=["b/rules"])
    stream.subscribe("QuotaPolicy", removed={"b/fair"}, to=["b/fair"])


def test_a_denied_subscription_is_logged_with_who_asked_for_what(plane):
    plane.operator.apply(*CLOSED)
    client = sidecar(plane, "a")
    client.open().subscribe("Server", removed={"b/it"}, to=["b/it"])
    eventually(lambda: any("b/it" in line and client.id in line for line in plane.log().splitlines()))


STANCES = pytest.mark.parametrize("stance", ["inbound", "outbound"])


@rule(7)
@STANCES
def test_a_name_that_was_denied_is_sent_when_its_tenant_allows_it_and_removed_when_not(plane, stance):
    plane.operator.apply(*CLOSED)
    stream = sidecar(plane, "a", stances=[stance]).open()
    stream.subscribe("Server", removed={"b/it"}, to=["b/it"])
    plane.operator.apply(access("b", "it", callers=["a", "b"]))
    stream.expect("Server", {"b/it"})
    plane.operator.apply(access("b", "it", callers=["b"]))
    stream.expect("Server", removed={"b/it"})


@rule(7)
@STANCES
def test_a_name_of_another_tenant_is_followed_like_one_of_the_own(plane, stance):
    stream = sidecar(plane, "a", stances=[stance]).open()
    for type_name in ("Server", "Endpoints"):
        stream.subscribe(type_name, removed={"b/late"}, to=["b/late"])
    plane.operator.apply(at_address("b", "late"))
    stream.expect("Server", {"b/late"})
    stream.expect("Endpoints", {"b/late"})
    plane.operator.apply(at_address("b", "late", address="10.9.0.2:7443", call="61s"))
    stream.expect("Server", {"b/late"})
    stream.expect("Endpoints", {"b/late"})
    plane.operator.delete(at_address("b", "late"))
    stream.expect("Endpoints", removed={"b/late"})
    stream.expect("Server", removed={"b/late"})


@rule(18)
def test_a_name_that_is_lost_because_its_tenant_withdrew_it_is_said_to_be_denied(plane):
    plane.operator.apply(at_address("b", "it"))
    stream = sidecar(plane, "a", stances=["outbound"]).open()
    stream.subscribe("Server", {"b/it"}, to=["b/it"])
    plane.operator.apply(access("b", "it", callers=["b"]))
    removal = stream.expect("Server", removed={"b/it"})
    assert {name: error.code for name, error in removal.errors.items()} == {"b/it": PERMISSION_DENIED}


def test_a_node_that_claims_to_stand_beside_a_foreign_server_gains_nothing(plane):
    plane.operator.apply(server("b", "one"), access("b", "rules", callers=["b"]), quota("b", "fair"))
    caller = sidecar(plane, "b", stances=["outbound"]).open()
    assert not caller.subscribe("Endpoints", {"b/one"}).body("b/one").endpoints

    stream = sidecar(plane, "a", servers=["b/one"]).open()
    stream.send("Server", subscribe=["*"])
    heard = stream.hear_or_end()
    assert not getattr(heard, "resources", None)
    caller.expect_nothing()


def test_a_node_with_the_labels_of_a_foreign_server_gains_nothing(plane):
    plane.operator.apply(
        server("b", "one", workload={"labels": {"app": "one"}, "port": 8000}),
        access("b", "rules", callers=["b"]),
    )
    caller = sidecar(plane, "b", stances=["outbound"]).open()
    assert not caller.subscribe("Endpoints", {"b/one"}).body("b/one").endpoints
    stream = sidecar(plane, "a", labels={"app": "one"}).open()
    stream.subscribe("Server")
    stream.subscribe("AccessPolicy")
    caller.expect_nothing()


@pytest.mark.parametrize("location", [{}, {"workload": {"labels": {"app": "one"}, "port": 8000}}])
def test_a_workload_of_another_account_is_no_instance_of_a_server(plane, location):
    plane.operator.apply(server("a", "one", serviceAccount="runner", **location))
    caller = sidecar(plane, "b", stances=["outbound"]).open()
    assert not caller.subscribe("Endpoints", {"a/one"}).body("a/one").endpoints

    intruder = sidecar(plane, "a", servers=["a/one"], labels={"app": "one"}, account="intruder")
    intruder.open().subscribe("Mesh", {"mesh"})
    true_one = sidecar(plane, "a", servers=["a/one"], labels={"app": "one"}, account="runner")
    true_one.open().subscribe("Mesh", {"mesh"})
    [endpoint] = caller.expect("Endpoints", {"a/one"}).body("a/one").endpoints
    assert endpoint.node_id == true_one.id


def test_an_account_of_the_same_namespace_sees_only_what_its_account_may_reach(plane):
    only_reviewer = access("b", "rules", tool=None)
    only_reviewer["spec"]["rules"][0]["from"] = [{"serviceAccounts": ["a/reviewer"]}]
    plane.operator.apply(at_address("b", "it"), only_reviewer)
    sidecar(plane, "a", account="reviewer", stances=["outbound"]).open().subscribe("Server", {"b/it"})
    assert not sidecar(plane, "a", account="other", stances=["outbound"]).open().subscribe("Server").names
