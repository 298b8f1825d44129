"""What a rejection does: it is seen at once, harms nothing else, and ends with the next good version."""

import time

import pytest

from ads import sidecar
from control_plane import eventually
from objects import access, server
from rules import rule

SEEN_SECS_MAX = 1.0


def _state(plane, client, type_name="Server"):
    return plane.operator.sidecar_type(client.id, type_name)


def _synced(plane, client, type_name="Server"):
    return eventually(lambda: (it := _state(plane, client, type_name)).get("sync") == "synced" and it)


@pytest.fixture
def rejecting(plane):
    """A client that holds a first version and has been sent a second one, and that one."""
    plane.operator.apply(server("a", "one"), access("a", "rules"))
    client = sidecar(plane, "a", servers=["a/one"])
    stream = client.open()
    stream.subscribe("AccessPolicy", {"a/rules"})
    stream.subscribe("Server", {"a/one"})
    _synced(plane, client)
    plane.operator.apply(server("a", "one", call="61s"))
    return client, stream, stream.expect("Server", {"a/one"}, ack=False)


@rule(4)
def test_a_rejection_is_seen_within_a_second_with_its_text_and_counted(plane, rejecting):
    client, stream, bad = rejecting
    counted = plane.metric("weft_xds_nacks_total", type="Server")
    stream.nack(bad, "a/one: call timeout of 61s is over my limit")
    started = time.monotonic()
    state = eventually(
        lambda: (it := _state(plane, client))["sync"] == "rejected" and it, within=SEEN_SECS_MAX
    )
    assert time.monotonic() - started < SEEN_SECS_MAX
    assert state["nack"]["message"] == "a/one: call timeout of 61s is over my limit"
    assert state["nack"]["at"]
    assert plane.operator.sidecar(client.id)["sync"] == "rejected"
    listed = plane.operator.call("GET", "/v1/sidecars", params={"namespace": "a"})["items"]
    assert [(it["node"], it["sync"]) for it in listed] == [(client.id, "rejected")]
    assert plane.metric("weft_xds_nacks_total", type="Server") == counted + 1
    assert plane.metric("weft_xds_nacks_total", type="AccessPolicy") == 0


@rule(4)
def test_the_last_good_version_remains_the_acknowledged_one(plane, rejecting):
    client, stream, bad = rejecting
    good = _state(plane, client)["acknowledgedRevision"]
    stream.nack(bad, "no")
    state = eventually(lambda: (it := _state(plane, client))["sync"] == "rejected" and it)
    assert state["acknowledgedRevision"] == good
    assert state["sentRevision"] > good


@rule(4)
def test_a_rejection_of_one_type_leaves_the_others_in_step(plane, rejecting):
    client, stream, bad = rejecting
    stream.nack(bad, "no")
    eventually(lambda: _state(plane, client)["sync"] == "rejected")
    assert _state(plane, client, "AccessPolicy")["sync"] == "synced"
    plane.operator.apply(access("a", "rules", tool="x"))
    stream.expect("AccessPolicy", {"a/rules"})
    assert _synced(plane, client, "AccessPolicy")
    assert _state(plane, client)["sync"] == "rejected"


@rule(4)
def test_what_was_rejected_is_not_sent_again_until_it_changes(plane, rejecting):
    client, stream, bad = rejecting
    stream.nack(bad, "no")
    stream.expect_nothing("Server")
    plane.operator.apply(server("a", "one", call="62s"))
    stream.expect("Server", {"a/one"})
    state = _synced(plane, client)
    assert state["acknowledgedRevision"] == state["sentRevision"]


@rule(4)
def test_a_rejection_that_gives_no_reason_is_a_rejection(plane, rejecting):
    client, stream, bad = rejecting
    stream.nack(bad, "")
    eventually(lambda: _state(plane, client)["sync"] == "rejected")


@rule(4)
def test_an_old_version_in_an_acknowledgement_is_no_rejection(plane, rejecting):
    client, stream, new = rejecting
    stream.send("Server", nonce=new.nonce, held={"a/one": "some old version"})
    _synced(plane, client)
    assert plane.metric("weft_xds_nacks_total", type="Server") == 0


@rule(4)
def test_a_rejection_may_be_long_and_harms_nobody(plane, rejecting):
    client, stream, bad = rejecting
    stream.nack(bad, "x" * 1_000_000)
    state = eventually(lambda: (it := _state(plane, client))["sync"] == "rejected" and it)
    assert 0 < len(state["nack"]["message"]) < 100_000
    stream.expect_nothing("Server")


@rule(13)
def test_one_bad_resource_among_good_ones_can_be_told_by_name(plane):
    plane.operator.apply(server("a", "good"), server("a", "bad"))
    client = sidecar(plane, "a", servers=["a/good", "a/bad"])
    stream = client.open()
    both = stream.subscribe("Server", {"a/good", "a/bad"}, ack=False)
    stream.nack(both, "a/bad: no")
    state = eventually(lambda: (it := _state(plane, client))["sync"] == "rejected" and it)
    assert "a/bad" in state["nack"]["message"]
    plane.operator.apply(server("a", "good", call="61s"))
    stream.expect("Server", {"a/good"})
    stream.close()
    returned = client.open()
    returned.send("Server", subscribe=["*"], held=stream.held["Server"])
    returned.expect("Server", {"a/bad"})
