"""What requests mean: nodes, nonces, acknowledgements, and what may ride on them."""

import queue

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from ads import PREFIX, TYPES, Ended, Message, Stream, sidecar
from control_plane import eventually
from objects import access, server
from rules import rule


@rule(1)
def test_each_type_has_its_own_subscriptions(plane):
    plane.operator.apply(server("a", "one"), access("a", "rules"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.subscribe("Server", {"a/one"})
    stream.subscribe("AccessPolicy", {"a/rules"})
    stream.send("AccessPolicy", unsubscribe=["*"])
    plane.operator.apply(access("a", "rules", tool="x"), server("a", "one", call="61s"))
    stream.expect("Server", {"a/one"})
    stream.expect_nothing()


@rule(1)
def test_a_nonce_of_one_type_acknowledges_nothing_of_another(plane):
    plane.operator.apply(server("a", "one"), access("a", "rules"))
    client = sidecar(plane, "a", servers=["a/one"])
    stream = client.open()
    servers = stream.subscribe("Server", {"a/one"}, ack=False)
    policies = stream.subscribe("AccessPolicy", {"a/rules"}, ack=False)
    assert servers.nonce != policies.nonce

    stream.send("AccessPolicy", nonce=servers.nonce)
    stream.expect_nothing("Mesh")
    assert plane.operator.sidecar_type(client.id, "Server")["sync"] == "waiting"
    assert plane.operator.sidecar_type(client.id, "AccessPolicy")["sync"] == "waiting"
    stream.ack(servers)
    eventually(lambda: plane.operator.sidecar_type(client.id, "Server")["sync"] == "synced")
    assert plane.operator.sidecar_type(client.id, "AccessPolicy")["sync"] == "waiting"
    stream.ack(policies)
    eventually(lambda: plane.operator.sidecar_type(client.id, "AccessPolicy")["sync"] == "synced")


@rule(1)
def test_a_second_stream_of_the_same_node_replaces_the_first(plane):
    plane.operator.apply(server("a", "one"))
    client = sidecar(plane, "a", servers=["a/one"])
    first, second = client.open(), client.open()
    first.subscribe("Server", {"a/one"})
    second.subscribe("Server", {"a/one"})
    first.ended()
    plane.operator.apply(server("a", "one", call="61s"))
    second.expect("Server", {"a/one"})
    assert plane.operator.sidecar(client.id)["connected"]


@rule(1)
def test_another_account_cannot_replace_a_stream_by_taking_the_name_of_its_node(plane):
    plane.operator.apply(server("a", "one"))
    owner = sidecar(plane, "a", instance="same", account="owner", servers=["a/one"])
    stream = owner.open()
    stream.subscribe("Server", {"a/one"})
    taker = sidecar(plane, "a", instance="same", account="taker").open()
    taker.send("Mesh", subscribe=["*"])
    taker.hear_or_end()
    plane.operator.apply(server("a", "one", call="61s"))
    stream.expect("Server", {"a/one"})


@rule(1)
def test_two_nodes_on_one_connection_have_streams_of_their_own(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    one = sidecar(plane, "a", servers=["a/one"])
    two = sidecar(plane, "a", servers=["a/two"], identity=one.identity)
    channel = plane.channel(one.identity)
    first, second = one.open(channel), two.open(channel)
    first.subscribe("Server", {"a/one"})
    second.subscribe("Server", {"a/two"})
    first.expect_nothing()


@rule(2)
def test_a_stream_without_a_node_is_refused(plane):
    client = sidecar(plane, "a")
    stream = Stream(plane.channel(client.identity), None)
    stream.send("Server", subscribe=["*"])
    stream.expect_refused(grpc.StatusCode.INVALID_ARGUMENT)


@rule(2)
@pytest.mark.parametrize(
    "node_id", ["", "instance", "a/", "/i1", "a/b/c", "A/i1", "a/../b", "a/" + "i" * 4096]
)
def test_a_node_whose_name_is_malformed_is_refused(shared_plane, node_id):
    client = sidecar(shared_plane, "a")
    stream = Stream(
        shared_plane.channel(client.identity), base_pb2.Node(id=node_id, metadata=client.node.metadata)
    )
    stream.send("Server", subscribe=["*"])
    stream.expect_refused(grpc.StatusCode.INVALID_ARGUMENT)


@rule(2)
def test_a_node_of_another_namespace_than_its_certificate_is_refused(plane):
    client = sidecar(plane, "a")
    client.node.id = "b/i1"
    stream = client.open()
    stream.send("Server", subscribe=["*"])
    stream.expect_refused(grpc.StatusCode.PERMISSION_DENIED)


@rule(2)
@pytest.mark.parametrize(
    "metadata",
    [
        {"stances": ["sideways"]},
        {"stances": "inbound"},
        {"labels": "x"},
        {"labels": {"a": 1}},
        {"servers": [1]},
        {"servers": ["no-slash"]},
        {"address": "nonsense"},
    ],
)
def test_a_node_that_says_nonsense_about_itself_is_refused(shared_plane, metadata):
    client = sidecar(shared_plane, "a")
    client.node.metadata.update(metadata)
    stream = client.open()
    stream.send("Server", subscribe=["*"])
    stream.expect_refused(grpc.StatusCode.INVALID_ARGUMENT)


@rule(2)
@pytest.mark.parametrize("metadata", [{}, {"from": "a later version"}])
def test_a_node_may_say_little_or_more_than_is_known(shared_plane, metadata):
    client = sidecar(shared_plane, "a")
    node = base_pb2.Node(id=client.id)
    node.metadata.update(metadata)
    Stream(shared_plane.channel(client.identity), node).subscribe("Mesh", {"mesh"})


@rule(2)
def test_the_same_node_may_be_said_again(plane):
    plane.operator.apply(server("a", "one"))
    client = sidecar(plane, "a", servers=["a/one"])
    stream = client.open()
    stream.subscribe("Server", {"a/one"})
    stream.send("Server", subscribe=["a/one"], node=client.node)
    stream.expect("Server", {"a/one"})


@rule(2)
def test_another_node_on_a_later_request_does_not_change_who_the_client_is(plane):
    plane.operator.apply(server("a", "one"), access("a", "rules"), server("b", "one"), access("b", "rules"))
    client = sidecar(plane, "a", servers=["a/one"])
    other = base_pb2.Node()
    other.CopyFrom(client.node)
    other.id = "b/i1"
    other.metadata.update({"servers": ["b/one"]})
    stream = client.open()
    stream.subscribe("Server", {"a/one"})
    stream.send("AccessPolicy", subscribe=["*"], node=other)
    heard = stream.hear_or_end()
    match heard:
        case Ended():
            assert heard.code == grpc.StatusCode.INVALID_ARGUMENT
        case Message():
            assert heard.names == {"a/rules"}


@rule(3)
def test_subscriptions_may_ride_on_an_acknowledgement(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    client = sidecar(plane, "a", servers=["a/one"])
    stream = client.open()
    answer = stream.subscribe("Server", {"a/one"}, to=["a/one"], ack=False)
    stream.ack(answer, subscribe=["a/two"], unsubscribe=["a/one"])
    stream.expect("Server", {"a/two"})
    plane.operator.apply(server("a", "one", call="61s"), server("a", "two", call="61s"))
    stream.expect("Server", {"a/two"})
    eventually(lambda: plane.operator.sidecar_type(client.id, "Server")["sync"] == "synced")


@rule(3)
def test_subscriptions_may_ride_on_a_rejection(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    client = sidecar(plane, "a")
    stream = client.open()
    answer = stream.subscribe("Server", {"a/one"}, to=["a/one"], ack=False)
    stream.nack(answer, "not that one", subscribe=["a/two"])
    stream.expect("Server", {"a/two"})


@rule(3)
def test_one_message_may_subscribe_and_unsubscribe(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"), server("a", "three"))
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", {"a/one", "a/two"}, to=["a/one", "a/two"])
    stream.send("Server", subscribe=["a/three"], unsubscribe=["a/one"])
    stream.expect("Server", {"a/three"})
    plane.operator.apply(*(server("a", name, call="61s") for name in ("one", "two", "three")))
    stream.expect("Server", {"a/two", "a/three"})
    stream.expect_nothing()


@rule(3)
def test_a_spontaneous_request_acknowledges_nothing(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    client = sidecar(plane, "a")
    stream = client.open()
    first = stream.subscribe("Server", {"a/one"}, to=["a/one"], ack=False)
    stream.send("Server", unsubscribe=["a/two"])
    stream.expect_nothing("Mesh")
    assert plane.operator.sidecar_type(client.id, "Server")["sync"] == "waiting"
    stream.ack(first)
    eventually(lambda: plane.operator.sidecar_type(client.id, "Server")["sync"] == "synced")


@rule(5)
def test_subscriptions_are_applied_although_the_nonce_is_stale(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"), server("a", "three"))
    stream = sidecar(plane, "a").open()
    old = stream.subscribe("Server", {"a/one", "a/three"}, to=["a/one", "a/three"])
    plane.operator.apply(server("a", "one", call="61s"))
    new = stream.expect("Server", {"a/one"}, ack=False)
    stream.send("Server", nonce=old.nonce, subscribe=["a/two"], unsubscribe=["a/three"])
    stream.ack(new)
    stream.expect("Server", {"a/two"})
    plane.operator.apply(server("a", "three", call="61s"), server("a", "two", call="61s"))
    stream.expect("Server", {"a/two"})
    stream.expect_nothing()


@rule(5)
def test_subscriptions_are_applied_although_the_nonce_was_never_given(plane):
    plane.operator.apply(server("a", "one"), server("a", "two"))
    stream = sidecar(plane, "a").open()
    stream.subscribe("Server", {"a/one"}, to=["a/one"])
    stream.send("Server", nonce="never given", subscribe=["a/two"])
    stream.expect("Server", {"a/two"})


@rule(5)
def test_a_nonce_of_an_earlier_stream_does_not_stop_a_first_request(plane):
    plane.operator.apply(server("a", "one"))
    client = sidecar(plane, "a", servers=["a/one"])
    first = client.open()
    answer = first.subscribe("Server", {"a/one"})
    first.close()
    second = client.open()
    second.send("Server", nonce=answer.nonce, subscribe=["*"])
    second.expect("Server", {"a/one"})


@rule(5)
def test_a_stale_acknowledgement_acknowledges_nothing_newer(plane):
    plane.operator.apply(server("a", "one"))
    client = sidecar(plane, "a", servers=["a/one"])
    stream = client.open()
    old = stream.subscribe("Server", {"a/one"})
    plane.operator.apply(server("a", "one", call="61s"))
    new = stream.expect("Server", {"a/one"}, ack=False)
    stream.send("Server", nonce=old.nonce)
    stream.expect_nothing("Mesh")
    assert plane.operator.sidecar_type(client.id, "Server")["sync"] == "waiting"
    stream.ack(new)
    eventually(lambda: plane.operator.sidecar_type(client.id, "Server")["sync"] == "synced")


@rule(7)
def test_names_of_a_type_that_is_not_known_are_answered_as_missing(plane):
    stream = sidecar(plane, "a").open()
    stream.send(PREFIX + "FromTheFuture", subscribe=["a/x"])
    answer = stream.hear()
    assert (answer.type, answer.names, answer.removed) == ("FromTheFuture", set(), {"a/x"})


@rule(1)
@pytest.mark.parametrize(
    "type_url", [PREFIX + "FromTheFuture", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "x"]
)
def test_a_type_that_is_not_known_does_not_disturb_the_others(plane, type_url):
    plane.operator.apply(server("a", "one"))
    stream = sidecar(plane, "a", servers=["a/one"]).open()
    stream.send(type_url, subscribe=["*"])
    stream.send("Server", subscribe=["*"])
    heard = stream.hear()
    while heard.type != "Server":
        assert not heard.names
        heard = stream.hear()
    assert heard.names == {"a/one"}


@rule(1)
def test_a_request_without_a_type_is_refused(plane):
    client = sidecar(plane, "a")
    stream = client.open()
    stream.send_raw(discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=["*"]))
    stream.expect_refused(grpc.StatusCode.INVALID_ARGUMENT)


@rule(3)
def test_fields_of_later_versions_of_the_protocol_are_passed_over(plane):
    plane.operator.apply(server("a", "one"))
    client = sidecar(plane, "a", servers=["a/one"])
    request = discovery_pb2.DeltaDiscoveryRequest(
        node=client.node, type_url=PREFIX + "Server", resource_names_subscribe=["*"]
    )
    later = request.SerializeToString() + b"\xc2\x3e\x05later"  # field 1000, a text
    discovery_pb2.DeltaDiscoveryRequest.FromString(later)
    method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    call = plane.channel(client.identity).stream_stream(
        method, None, discovery_pb2.DeltaDiscoveryResponse.FromString
    )
    requests = queue.SimpleQueue()
    requests.put(later)
    responses = call(iter(requests.get, None), timeout=10)
    assert [it.name for it in next(responses).resources] == ["a/one"]
    requests.put(None)


def test_the_state_of_the_world_variant_is_not_offered(plane):
    client = sidecar(plane, "a")
    stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(plane.channel(client.identity))
    request = discovery_pb2.DiscoveryRequest(node=client.node, type_url=PREFIX + "Server")
    with pytest.raises(grpc.RpcError) as refusal:
        list(stub.StreamAggregatedResources(iter([request]), timeout=10))
    assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert refusal.value.details()


def test_every_type_can_be_subscribed_to_on_one_stream(plane):
    stream = sidecar(plane, "a").open()
    for type_name in TYPES:
        stream.send(type_name, subscribe=["*"])
    answered = set()
    while answered != set(TYPES):
        message = stream.hear()
        stream.ack(message)
        answered.add(message.type)
    stream.expect_nothing()
