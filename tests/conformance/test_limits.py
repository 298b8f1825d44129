"""How much a client may ask at once, how a large answer comes, and that one client does not delay another."""

import grpc
import pytest

from ads import Ended, sidecar
from objects import server
from rules import rule

SERVERS = 2_000
RESPONSE_BYTES_MAX = 4 << 20  # what a gRPC client takes unless told otherwise
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
TOO_MANY = [f"a/{number:060}" for number in range(80_000)]  # names of more than four mebibytes
NAMES = {f"crowd/s{number}" for number in range(SERVERS)}


@rule(19)
def test_a_request_over_four_mebibytes_is_refused_and_other_streams_live_on(plane):
    plane.operator.apply(server("a", "one"))
    victim = sidecar(plane, "a", servers=["a/one"])
    neighbour = sidecar(plane, "a", servers=["a/one"], identity=victim.identity)
    channel = plane.channel(victim.identity)
    elsewhere = sidecar(plane, "a", servers=["a/one"]).open()
    beside = neighbour.open(channel)
    elsewhere.subscribe("Server", {"a/one"})
    beside.subscribe("Server", {"a/one"})

    stream = victim.open(channel)
    stream.subscribe("Server", {"a/one"})
    stream.send("Server", subscribe=TOO_MANY)
    stream.expect_refused(grpc.StatusCode.RESOURCE_EXHAUSTED)

    plane.operator.apply(server("a", "one", call="61s"))
    elsewhere.expect("Server", {"a/one"})
    beside.expect("Server", {"a/one"})


@rule(19)
def test_a_first_request_over_four_mebibytes_is_refused(plane):
    stream = sidecar(plane, "a").open()
    stream.send("Server", subscribe=["*"], held=dict.fromkeys(TOO_MANY, "1"))
    stream.expect_refused(grpc.StatusCode.RESOURCE_EXHAUSTED)


@rule(19)
def test_no_end_of_names_that_do_not_exist_is_remembered_for_one_client(plane):
    """Each request is small; together they would be kept for as long as the stream lives."""
    stream = sidecar(plane, "a").open()
    for part in range(100):
        stream.send("Server", subscribe=[f"a/p{part}-{number:050}" for number in range(10_000)])
    stream.expect_refused(grpc.StatusCode.RESOURCE_EXHAUSTED)


@pytest.fixture(scope="module")
def crowded(shared_plane):
    """Two thousand servers, five mebibytes of them."""
    env = {"PADDING": "x" * 2600}
    shared_plane.operator.apply(
        *(
            server("crowd", name.split("/")[1], stdio={"command": "serve", "env": env})
            for name in sorted(NAMES)
        )
    )
    return shared_plane


@rule(19)
def test_a_large_first_answer_comes_whole_in_pieces_that_a_client_can_take(crowded):
    stream = sidecar(crowded, "crowd", stances=["outbound"]).open()
    stream.send("Server", subscribe=["*"])
    heard = []
    while len(heard) < SERVERS:
        message = stream.hear()
        assert sum(it.ByteSize() for it in message.resources.values()) < RESPONSE_BYTES_MAX
        heard += message.names
        stream.ack(message)
    assert len(heard) == len(set(heard)), "a name came twice"
    assert set(heard) == NAMES
    stream.expect_nothing()


@rule(19)
def test_a_node_that_says_no_end_of_things_about_itself_is_refused(shared_plane):
    stream = sidecar(shared_plane, "a", servers=[f"a/s{number}" for number in range(10_000)]).open()
    stream.send("Server", subscribe=["*"])
    stream.expect_refused(grpc.StatusCode.INVALID_ARGUMENT)


@rule(11)
def test_a_client_that_returns_with_two_thousand_servers_is_sent_only_what_changed(crowded):
    client = sidecar(crowded, "crowd", stances=["outbound"])
    stream = client.open()
    stream.subscribe("Server", NAMES)
    stream.close()
    held = dict(stream.held["Server"])
    held["crowd/s7"] = "an old version"
    again = client.open()
    again.send("Server", subscribe=["*"], held=held)
    again.expect("Server", {"crowd/s7"})
    again.expect_nothing()


@rule(19)
def test_a_client_that_does_not_read_delays_no_other(crowded):
    client = sidecar(crowded, "crowd", stances=["outbound"])
    asleep = client.open(reads=False)
    for type_name in ("Server", "Endpoints"):
        asleep.send(type_name, subscribe=["*"])
    awake = sidecar(crowded, "crowd", servers=["crowd/s1"]).open()
    awake.subscribe("Server", {"crowd/s1"})
    for call in ("61s", "62s", "63s"):
        crowded.operator.apply(server("crowd", "s1", call=call))
        awake.expect("Server", {"crowd/s1"}, within=3)

    asleep.start_reading()
    newest = {}
    while len(newest) < SERVERS or newest["crowd/s1"].timeouts.call.seconds != 63:
        message = asleep.hear()
        asleep.ack(message)
        if message.type == "Server":
            newest |= {name: message.body(name) for name in message.names}


@rule(19)
def test_a_client_that_does_not_read_is_told_the_newest_state_and_not_each_step_towards_it(plane):
    """What the server and the connection hold back for it is little, however much has changed. A server may also end
    the stream of such a client, which then returns."""
    changes, names = 6, {f"a/s{number}" for number in range(20)}
    stdio = {"command": "serve", "env": {key: "x" * 32_000 for key in "ABC"}}

    def state(seconds: int) -> list[dict]:
        return [server("a", name.split("/")[1], call=f"{seconds}s", stdio=stdio) for name in sorted(names)]

    revisions = {seconds: plane.operator.apply(*state(seconds)) for seconds in (1, 2)}
    client = sidecar(plane, "a", stances=["outbound"])
    stream = client.open(plane.channel(client.identity, *SMALL_WINDOW), reads=False)
    stream.send("Server", subscribe=["*"])
    for _ in range(changes // 2):
        for seconds in (1, 2):
            plane.operator.roll_back(revisions[seconds])
    plane.operator.apply(server("a", "s0", call="3s"))

    stream.start_reading()
    heard, newest = 0, {}
    while set(newest) != names or newest["a/s0"] != 3:
        message = stream.hear_or_end()
        if isinstance(message, Ended):
            assert message.code == grpc.StatusCode.DEADLINE_EXCEEDED
            return
        stream.ack(message)
        heard += len(message.names)
        newest |= {name: message.body(name).timeouts.call.seconds for name in message.names}
    assert heard < len(names) * changes / 2
