"""Agents on official SDKs sign in at an OAuth server that nobody here wrote, `oidc-provider`, and reach a server through
a gateway: all that they are given is its address."""

import os
from pathlib import Path

import httpx2
import pytest

from conftest import HTTP
from mesh import NAMESPACE, Mesh, document
from processes import Process
from servers.recorder import Recorder
from signin import AGENTS, claims, free_port, python

HERE = Path(__file__).parent
GATEWAY = ("edge", "gateway")
SIMPLE = "test_simple_text"


def rule(claims: dict, *tools: str) -> dict:
    to = {"to": [{"tools": list(tools)}]} if tools else {}
    return {"action": "allow", "from": [{"claims": claims}], **to}


BY_GROUPS = [rule({"groups": ["dev"], "scope": ["read"]}), rule({"groups": ["guests"]}, SIMPLE)]
BY_SCOPES = [rule({"scope": ["read"]}, "echo"), rule({"groups": ["dev"], "scope": ["write"]}, SIMPLE)]
TWO_CALLS = [("echo", {"text": "hello"}), (SIMPLE, {})]


class Place:
    """Two servers with their sidecars, a gateway before both, and the OAuth server that the gateway trusts."""

    def __init__(self, directory: Path):
        modules = os.environ["NODE_PATH"]
        self.recorder = Recorder()
        self.issuer = Process(directory / "issuer/log", "node", HERE / "servers/issuer.cjs", NODE_PATH=modules)
        self.server = Process(directory / "server/log", *HTTP["python"], PORT="0")
        self.mesh = Mesh(directory / "mesh", gateways=[f"spiffe://mesh.test/ns/{GATEWAY[0]}/sa/{GATEWAY[1]}"])
        port = self.server.ready["port"]
        beside = {
            "notes": self._beside("notes", port, BY_GROUPS),
            "recorder": self._beside("recorder", self.recorder.port, BY_GROUPS),
            "guarded": self._beside("guarded", port, BY_SCOPES),
        }
        self.base = f"http://127.0.0.1:{free_port()}"
        issuer = self.issuer.ready["url"]
        known = {
            "jwt": [{"issuer": issuer, "jwksUrl": f"{issuer}/jwks", "audiences": [self.base]}],
            "oauth": {"resource": self.base, "authorizationServers": [issuer], "requiredScopes": ["read"]},
        }
        section = {"address": self.base.removeprefix("http://"), "publicUrl": self.base, "keys": {"loopback": True}}
        self.mesh.gateway(GATEWAY, section, beside, document("Authentication", GATEWAY[0], "public", known))

    def _beside(self, name: str, port: int, rules: list) -> str:
        policy = document("AccessPolicy", NAMESPACE, "by-claims", {"rules": rules})
        spec = {"workload": {"labels": {"app": name}, "port": port}}
        return self.mesh.inbound(name, spec, policy).ready["inbound"]

    def url(self, server: str) -> str:
        return f"{self.base}/servers/{NAMESPACE}/{server}/mcp"

    def close(self):
        try:
            self.mesh.close()
        finally:
            self.recorder.close()
            self.server.stop()
            self.issuer.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("gateway"))
    yield place
    place.close()


agents = pytest.mark.parametrize("agent", AGENTS)
modes = pytest.mark.parametrize("mode", ("auto", "legacy"))


@agents
@modes
def test_an_agent_signs_in_and_calls(place, agent, mode):
    came, [token] = AGENTS[agent](place.url("notes"), "ann", mode)
    assert came == [["hello"]]
    said = claims(token)
    assert (said["iss"], said["sub"], said["aud"]) == (place.issuer.ready["url"], "ann", place.url("notes"))


@agents
def test_who_is_let_in_may_still_not_do_everything(place, agent):
    came, [token] = AGENTS[agent](place.url("notes"), "bob", "legacy")
    assert claims(token)["groups"] == ["guests"]
    assert came == [{"error": 4030}]


@agents
def test_the_server_hears_who_calls_and_never_sees_the_token(place, agent):
    AGENTS[agent](place.url("recorder"), "ann", "legacy")
    seen = [it for it in place.recorder.requests if it.header("weft-caller")]
    assert {it.header("weft-caller")[0] for it in seen} == {f"{place.issuer.ready['url']}#ann"}
    names = {name.lower() for it in seen for name, _ in it.headers}
    assert not {"authorization", "cookie", "x-api-key", "weft-on-behalf-of"} & names
    assert all(b"eyJ" not in it.body and "eyJ" not in str(it.headers) for it in seen)


def test_a_token_for_one_server_is_not_for_another(place):
    _, [token] = python(place.url("notes"), "ann", "auto")
    initialize = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": initialize}
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    statuses = [httpx2.post(place.url(it), json=message, headers=headers).status_code for it in ("notes", "recorder")]
    assert statuses == [200, 401]


@agents
@modes
def test_a_call_that_needs_one_more_scope_is_made_again_with_it(place, agent, mode):
    came, given = AGENTS[agent](place.url("guarded"), "ann", mode, *TWO_CALLS, client="agent")
    assert came == [["hello"], ["This is a simple text response for testing."]]
    assert [set(claims(it)["scope"].split()) for it in given] == [{"read"}, {"read", "write"}]


@agents
@modes
def test_who_is_not_given_the_scope_is_refused_and_asked_no_further(place, agent, mode):
    came, given = AGENTS[agent](place.url("guarded"), "eve", mode, *TWO_CALLS, client="agent")
    assert came[0] == ["hello"] and "error" in came[1]
    assert len(given) == 2 and {claims(it)["scope"] for it in given} == {"read"}


@agents
def test_a_scope_that_would_not_do_is_not_asked_for(place, agent):
    came, [token] = AGENTS[agent](place.url("guarded"), "bob", "legacy", *TWO_CALLS, client="agent")
    assert came == [["hello"], {"error": 4030}]
    assert claims(token)["scope"] == "read"
