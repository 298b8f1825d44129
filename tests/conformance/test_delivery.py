"""The order in which a change reaches a client, and whom it reaches."""

import pytest
from weft.config.v1 import config_pb2

from ads import TYPES, sidecar
from control_plane import eventually
from objects import access, at_address, quota, route, server, telemetry, tool_policy, trust, virtual_server
from rules import rule

BOTH = ("inbound", "outbound")


def _everything(namespace: str, name: str) -> list[dict]:
    """Objects that become one resource of each type that points at something or is pointed at."""
    return [
        virtual_server(namespace, "all", name),
        route(namespace, "canary", of=name, to=name),
        server(namespace, name),
        telemetry(namespace, "seen", [name]),
        tool_policy(namespace, "careful", [name]),
        quota(namespace, "fair", [name]),
        access(namespace, "rules", [name]),
    ]


RESOURCES = {
    ("AccessPolicy", "a/rules"),
    ("QuotaPolicy", "a/fair"),
    ("ToolPolicy", "a/careful"),
    ("Telemetry", "a/seen"),
    ("Server", "a/new"),
    ("Endpoints", "a/new"),
    ("Route", "a/canary"),
    ("VirtualServer", "a/all"),
}


def _subscribe_to_everything(stream):
    """In an order that is not the order of delivery."""
    for type_name in reversed(TYPES):
        stream.send(type_name, subscribe=["*"])
    answered = set()
    while answered != set(TYPES):
        message = stream.hear()
        stream.ack(message)
        answered.add(message.type)


def _hear_all(stream, wanted: set, of) -> list[tuple[str, str]]:
    """What is heard, in order, until everything wanted was; `of` says what of a message counts."""
    heard = []
    while not wanted <= set(heard):
        message = stream.hear()
        heard += [(message.type, name) for name in of(message)]
        stream.ack(message)
    return heard


def _ranks(heard) -> list[int]:
    return [TYPES.index(type_name) for type_name, _ in heard]


def test_what_guards_or_is_pointed_at_arrives_first(plane):
    stream = sidecar(plane, "a", servers=["a/new"], stances=BOTH).open()
    _subscribe_to_everything(stream)
    plane.operator.apply(*_everything("a", "new"))
    heard = _hear_all(stream, RESOURCES, lambda message: message.names)
    assert _ranks(heard) == sorted(_ranks(heard)), heard


def test_what_guards_or_is_pointed_at_leaves_last(plane):
    plane.operator.apply(*_everything("a", "new"))
    stream = sidecar(plane, "a", servers=["a/new"], stances=BOTH).open()
    _subscribe_to_everything(stream)
    plane.operator.delete(*_everything("a", "new"))
    heard = _hear_all(stream, RESOURCES, lambda message: message.removed)
    assert _ranks(heard) == sorted(_ranks(heard), reverse=True), heard


def _outbound(plane):
    stream = sidecar(plane, "a", stances=["outbound"]).open()
    for type_name in ("Server", "Endpoints", "Route"):
        stream.send(type_name, subscribe=["*"])
        stream.ack(stream.hear())
    return stream


def test_servers_stay_until_the_removal_of_the_route_was_acknowledged(plane):
    plane.operator.apply(
        at_address("a", "old"), at_address("a", "new"), route("a", "canary", of="old", to="new")
    )
    stream = _outbound(plane)
    plane.operator.delete(at_address("a", "new"), route("a", "canary", of="old", to="new"))
    removal = stream.expect("Route", removed={"a/canary"}, ack=False)
    for _ in range(3):
        stream.expect_nothing("Server", "Endpoints")
    stream.ack(removal)
    stream.expect("Endpoints", removed={"a/new"})
    stream.expect("Server", removed={"a/new"})


def test_servers_stay_until_the_route_that_turned_away_from_them_was_acknowledged(plane):
    plane.operator.apply(
        at_address("a", "of"),
        at_address("a", "old"),
        at_address("a", "new"),
        route("a", "canary", of="of", to="old"),
    )
    stream = _outbound(plane)
    plane.operator.apply(route("a", "canary", of="of", to="new"))
    turned = stream.expect("Route", {"a/canary"}, ack=False)
    plane.operator.delete(at_address("a", "old"))
    for _ in range(3):
        stream.expect_nothing("Server", "Endpoints")
    stream.ack(turned)
    stream.expect("Endpoints", removed={"a/old"})
    stream.expect("Server", removed={"a/old"})


def test_a_change_that_turns_a_route_adds_first_and_removes_after_the_acknowledgement(plane):
    """To and fro between two states, since what goes wrong here goes wrong by a race."""
    before, after = "old", "new"
    at = {}
    at[before] = plane.operator.apply(
        at_address("a", "of"), at_address("a", before), route("a", "canary", of="of", to=before)
    )
    plane.operator.delete(route("a", "canary", of="of", to=before), at_address("a", before))
    at[after] = plane.operator.apply(at_address("a", after), route("a", "canary", of="of", to=after))
    stream = _outbound(plane)
    for _ in range(6):
        before, after = after, before
        plane.operator.roll_back(at[after])
        stream.expect("Server", {f"a/{after}"})
        stream.expect("Endpoints", {f"a/{after}"})
        turned = stream.expect("Route", {"a/canary"}, ack=False)
        assert turned.body("a/canary").rules[0].to[0].server == f"a/{after}"
        stream.expect_nothing("Server", "Endpoints")
        stream.ack(turned)
        stream.expect("Endpoints", removed={f"a/{before}"})
        stream.expect("Server", removed={f"a/{before}"})


def test_a_server_that_is_deleted_while_a_route_leads_to_it_is_removed_all_the_same(plane):
    plane.operator.apply(at_address("a", "of"), at_address("a", "to"), route("a", "canary", of="of", to="to"))
    stream = _outbound(plane)
    plane.operator.delete(at_address("a", "to"))
    heard = _hear_all(stream, {("Server", "a/to"), ("Endpoints", "a/to")}, lambda message: message.removed)
    assert ("Server", "a/of") not in heard


@rule(17)
@pytest.mark.parametrize(
    ("type_name", "write", "change"),
    [
        ("AccessPolicy", access, {"tool": "x"}),
        ("QuotaPolicy", quota, {"burst": 6}),
        ("ToolPolicy", tool_policy, {"timeout": "6s"}),
        ("Telemetry", telemetry, {"dimension": "limit"}),
    ],
)
def test_an_edited_policy_reaches_only_those_whom_it_concerns(plane, type_name, write, change):
    plane.operator.apply(
        server("a", "one"),
        server("a", "two"),
        write("a", "for-one", ["one"]),
        write("a", "for-both", ["one", "two"]),
    )
    one, two = (sidecar(plane, "a", servers=[name]).open() for name in ("a/one", "a/two"))
    for stream, servers, policies in (
        (one, {"a/one"}, {"a/for-one", "a/for-both"}),
        (two, {"a/two"}, {"a/for-both"}),
    ):
        stream.subscribe(type_name, policies)
        stream.subscribe("Server", servers)
    plane.operator.apply(write("a", "for-one", ["one"], **change))
    one.expect(type_name, {"a/for-one"})
    plane.operator.apply(write("a", "for-both", ["one", "two"], **change))
    one.expect(type_name, {"a/for-both"})
    two.expect(type_name, {"a/for-both"})
    one.expect_nothing()
    two.expect_nothing()


def test_a_policy_follows_what_it_selects(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"), quota("a", "fair", ["one"]))
    one, two = (sidecar(plane, "a", servers=[name]).open() for name in ("a/one", "a/two"))
    one.subscribe("QuotaPolicy", {"a/fair"})
    two.subscribe("QuotaPolicy")
    plane.operator.apply(quota("a", "fair", ["two"]))
    two.expect("QuotaPolicy", {"a/fair"})
    one.expect("QuotaPolicy", removed={"a/fair"})


def test_a_policy_follows_the_labels_of_what_it_selects(plane):
    by_label = quota("a", "fair")
    by_label["spec"]["servers"] = {"labels": {"team": "x"}}
    plane.operator.apply(server("a", "one"), by_label)
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("QuotaPolicy")
    plane.operator.apply(server("a", "one", labels={"team": "x"}))
    stream.expect("QuotaPolicy", {"a/fair"})
    plane.operator.apply(server("a", "one", labels={"team": "y"}))
    stream.expect("QuotaPolicy", removed={"a/fair"})


def test_a_mesh_that_denies_by_default_hides_what_no_policy_allows(plane):
    plane.operator.apply(
        at_address("b", "open"), at_address("b", "allowed"), access("b", "rules", ["allowed"], callers=["a"])
    )
    stream = sidecar(plane, "a", stances=["outbound"]).open()
    stream.subscribe("Mesh", {"mesh"})
    stream.subscribe("Server", {"b/open", "b/allowed"})
    plane.operator.apply(trust("deny"))
    mesh = stream.expect("Mesh", {"mesh"}).body("mesh")
    assert mesh.default_action == config_pb2.DEFAULT_ACTION_DENY
    stream.expect("Server", removed={"b/open"})
    plane.operator.apply(trust("allow"))
    stream.expect("Mesh", {"mesh"})
    stream.expect("Server", {"b/open"})


def test_a_policy_of_the_root_namespace_reaches_every_tenant_and_others_only_their_own(plane):
    plane.operator.apply(server("a", "one"), server("b", "one"))
    a, b = (sidecar(plane, namespace, servers=[f"{namespace}/one"]).open() for namespace in "ab")
    a.subscribe("QuotaPolicy")
    b.subscribe("QuotaPolicy")
    plane.operator.apply(quota("a", "own"))
    a.expect("QuotaPolicy", {"a/own"})
    plane.operator.apply(quota("weft-system", "mesh-wide"))
    a.expect("QuotaPolicy", {"weft-system/mesh-wide"})
    b.expect("QuotaPolicy", {"weft-system/mesh-wide"})


def test_the_revision_that_a_change_answers_with_is_published(plane):
    plane.operator.apply(server("a", "one"))
    plane.operator.make_token("a", "default")
    for changed in (server("a", "one"), server("a", "one", call="61s")):
        revision = plane.operator.apply(changed)
        eventually(lambda revision=revision: plane.operator.published_revision() >= revision)


def test_an_inbound_sidecar_is_told_of_its_own_servers_only(plane):
    plane.operator.apply(
        server("a", "one"), server("a", "two"), at_address("b", "three"), route("a", "r", of="one", to="two")
    )
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"a/one"})
    stream.subscribe("Route")
    stream.subscribe("VirtualServer")


def test_an_inbound_sidecar_may_ask_for_any_server_it_may_reach(plane):
    plane.operator.apply(server("a", "one"), at_address("b", "three", address="10.8.0.1:7443"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"b/three"}, to=["b/three"])
    endpoints = stream.subscribe("Endpoints", {"b/three"}, to=["b/three"]).body("b/three")
    assert [it.address for it in endpoints.endpoints] == ["10.8.0.1:7443"]
    assert [it.spiffe_id for it in endpoints.endpoints] == ["spiffe://mesh.test/ns/b/sa/default"]


def test_an_outbound_sidecar_is_told_of_all_that_it_may_reach_and_of_nothing_else(plane):
    plane.operator.apply(
        at_address("a", "own"),
        at_address("b", "open"),
        at_address("b", "for-a"),
        at_address("b", "for-c"),
        access("b", "a-may", ["for-a"], callers=["a"]),
        access("b", "c-may", ["for-c"], callers=["c"]),
        route("b", "to-open", of="open", to="open"),
        route("b", "to-closed", of="for-c", to="for-c"),
        virtual_server("b", "whole", "open", "for-a"),
    )
    stream = sidecar(plane, "a", stances=["outbound"]).open()
    stream.subscribe("Server", {"a/own", "b/open", "b/for-a"})
    stream.subscribe("Endpoints", {"a/own", "b/open", "b/for-a"})
    stream.subscribe("Route", {"b/to-open"})
    stream.subscribe("VirtualServer", {"b/whole"})
    stream.expect_nothing()


def test_a_connected_instance_is_among_the_endpoints_of_its_server(plane):
    plane.operator.apply(server("a", "one"))
    beside = sidecar(plane, "a", servers=["a/one"], account="runner")
    caller = sidecar(plane, "b", stances=["outbound"]).open()
    assert not caller.subscribe("Endpoints", {"a/one"}).body("a/one").endpoints
    beside.open().subscribe("Server", {"a/one"})
    [endpoint] = caller.expect("Endpoints", {"a/one"}).body("a/one").endpoints
    assert endpoint.address == beside.node.metadata["address"]
    assert endpoint.node_id == beside.id
    assert endpoint.spiffe_id == "spiffe://mesh.test/ns/a/sa/runner"
