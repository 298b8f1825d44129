"""Ports that lead to the sidecar: what comes to a server that listens on every address, and what does not."""

import pytest

from mesh import AGENT
from pod import ADDRESSES, AGENT_ID, FREE_PORT, LOOPBACK, PORT, SERVER_ID, SIDECAR_PORT, SIDECAR_USER
from processes import eventually

STRANGER = ("agents", "stranger")
OTHER_USER = 1000
# The sidecar looks every 15 s.
LOOK_SECS_MAX = 25
NO_CAPABILITY = ("setpriv", "--bounding-set=-net_admin")


def is_from_server(answer: dict, caller: str) -> bool:
    return answer.get("status") == 200 and f'"text": "{caller}"' in answer["body"]


def is_from_server_alone(answer: dict) -> bool:
    return is_from_server(answer, "nobody that the mesh knows")


@pytest.mark.parametrize("address", ADDRESSES)
def test_without_rules_everyone_reaches_the_server_past_its_sidecar(pod, address):
    assert is_from_server_alone(pod.call(address))
    assert is_from_server_alone(pod.call(address, inside_as=OTHER_USER))
    pod.send(address, f"without rules {address}", PORT)
    pod.hears(what="datagram", port=PORT, text=f"without rules {address}")


@pytest.mark.parametrize("address", ADDRESSES)
def test_plain_http_to_a_captured_port_never_reaches_the_server(captured, address):
    before = captured.heard()
    answer = captured.call(address)
    assert "error" in answer and "timed out" not in answer["error"], answer
    assert captured.heard() == before


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("port", [PORT, SIDECAR_PORT])
def test_a_workload_reaches_the_server_through_the_sidecar_at_either_port(captured, address, port):
    answer = captured.call(address, port, AGENT)
    assert is_from_server(answer, AGENT_ID), answer
    assert answer["peer"] == SERVER_ID


@pytest.mark.parametrize("address", ADDRESSES)
def test_policy_holds_at_a_captured_port(captured, address):
    before = captured.heard()
    answer = captured.call(address, PORT, STRANGER)
    assert answer["reason"] == "denied", answer
    assert captured.heard() == before


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_port_that_is_not_captured_is_left_alone(captured, address):
    assert is_from_server_alone(captured.call(address, FREE_PORT))


@pytest.mark.parametrize("address", ADDRESSES)
def test_datagrams_to_a_captured_port_are_dropped(captured, address):
    text = f"with rules {address}"
    captured.send(address, text, PORT, FREE_PORT)
    # They go one after the other on one cable.
    captured.hears(what="datagram", port=FREE_PORT, text=text)
    assert {"what": "datagram", "port": PORT, "text": text} not in captured.heard()


@pytest.mark.parametrize("address", ADDRESSES)
def test_others_within_the_pod_are_captured_at_the_pods_own_addresses(captured, address):
    before = captured.heard()
    answer = captured.call(address, inside_as=OTHER_USER)
    assert "error" in answer and "timed out" not in answer["error"], answer
    assert captured.heard() == before
    answer = captured.call(address, PORT, AGENT, inside_as=OTHER_USER)
    assert is_from_server(answer, AGENT_ID), answer


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_sidecars_user_reaches_the_server_at_every_address(captured, address):
    assert is_from_server_alone(captured.call(address, inside_as=SIDECAR_USER))


@pytest.mark.parametrize("address", LOOPBACK)
@pytest.mark.parametrize("user", [OTHER_USER, SIDECAR_USER])
def test_loopback_leads_to_the_server(captured, address, user):
    assert is_from_server_alone(captured.call(address, inside_as=user))


def test_the_sidecar_finds_captured_ports_by_a_datagram_that_is_refused(captured):
    sent = captured.send_within("127.119.101.102", "canary", PORT)
    assert sent == {"error": "PermissionError(1, 'Operation not permitted')"}
    assert captured.send_within("127.119.101.102", "canary", FREE_PORT) == {}
    captured.release()
    assert captured.send_within("127.119.101.102", "canary", PORT) == {}


def test_the_sidecar_says_that_its_server_is_exposed_until_its_port_is_captured(pod):
    eventually(lambda: pod.metric("weft_sidecar_server_exposed") == 1, within=LOOK_SECS_MAX)
    pod.capture()
    eventually(lambda: pod.metric("weft_sidecar_server_exposed") == 0, within=LOOK_SECS_MAX)


def test_rules_that_are_set_twice_are_there_once(captured):
    once = captured.rules()
    assert "redirect" in once
    captured.capture()
    assert captured.rules() == once


def test_rules_take_the_place_of_those_before_and_leave_other_tables_alone(captured):
    captured.nft("add table inet other; add chain inet other some; add rule inet other some drop")
    captured.capture(FREE_PORT)
    rules = captured.rules()
    assert f"dport {FREE_PORT}" in rules and f"dport {PORT}" not in rules
    assert "table inet other" in rules
    assert is_from_server_alone(captured.call(ADDRESSES[0], PORT))
    assert "error" in captured.call(ADDRESSES[0], FREE_PORT)


@pytest.mark.parametrize("ports", ["9000", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16"])
def test_nft_shows_the_rules_as_they_are_printed_and_reads_them(pod, ports):
    flags = ("--port", ports, "--to", "65535", "--uid", "4294967294")
    printed = pod.run_capture(*flags, "--print").stdout
    assert pod.rules() == "", "printing sets nothing"
    done = pod.run_capture(*flags)
    assert done.returncode == 0, done.stderr
    assert pod.rules() == printed
    (pod.folder / "printed.nft").write_text(printed)
    pod.release()
    pod.nft("-f", str(pod.folder / "printed.nft"))
    assert pod.rules() == printed


def test_without_the_capability_it_says_so_and_sets_nothing(pod):
    done = pod.run_capture("--port", str(PORT), before=NO_CAPABILITY)
    assert done.returncode == 1
    assert "NET_ADMIN" in done.stderr, done.stderr
    assert pod.rules() == ""


def test_the_capability_alone_is_enough(pod):
    nothing_else = ("setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs")
    done = pod.run_capture("--port", str(PORT), before=nothing_else)
    assert done.returncode == 0, done.stderr
    assert "redirect" in pod.rules()
