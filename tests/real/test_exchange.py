"""A server outside of the mesh that knows in whose name it is called. All three are others' work: `@jmondi/oauth2-server`
gives a token for each caller (RFC 8693), the server on the official Python SDK believes that authorization server alone,
and the callers are SDK clients: workloads, and a user who comes through a gateway with a token of `oidc-provider`."""

import asyncio
import json
import os
import sys
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from mesh import AGENT, NAMESPACE, TRUST_DOMAIN, Mesh, document, openssl
from processes import Process, eventually
from signin import claims, free_port, python

HERE = Path(__file__).parent
GATEWAY = ("edge", "gateway")
NAME = "protected"
ASSERTED_BY = "https://weft.example"
ANN, BEN, BOB = ((AGENT[0], name) for name in ("ann", "ben", "bob"))
SECRET = "of-weft"
NOT_EXCHANGED = 5027
TOKEN_SECS = 3
SECS_MAX = 20
CALL = ("whoami", {})


def spiffe(identity: tuple[str, str]) -> str:
    return f"spiffe://{TRUST_DOMAIN}/ns/{identity[0]}/sa/{identity[1]}"


class Place:
    """The server outside, its authorization server, and where calls leave to it: for three workloads, and for a gateway
    with the issuer that it believes. The authorization server knows all of them but Bob."""

    def __init__(self, directory: Path):
        modules = {"NODE_PATH": os.environ["NODE_PATH"]}
        self.directory = directory
        self.users = Process(directory / "users/log", "node", HERE / "servers/issuer.cjs", **modules)
        key, public = directory / "key.pem", directory / "public.pem"
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
        openssl("pkey", "-in", key, "-pubout", "-out", public)
        self.user = f"{self.users.ready['url']}#ann"
        known = ",".join((spiffe(ANN), spiffe(BEN), self.user))
        told = {"PUBLIC_KEY": str(public), "ISSUER": ASSERTED_BY, "KNOWN": known, "TOKEN_SECS": str(TOKEN_SECS)}
        self.tokens = Process(directory / "tokens/log", "node", HERE / "servers/exchange.cjs", **modules, **told)
        issuer = self.tokens.ready["url"]
        asks = {"AS": issuer, "SECRET": "of-outside"}
        self.outside = Process(directory / "outside/log", sys.executable, HERE / "servers/protected.py", **asks)
        self.mesh = Mesh(directory / "mesh", gateways=[spiffe(GATEWAY)])
        self.secret = directory / "secret"
        self.secret.write_text(SECRET)
        self.leaving = self._leaving(issuer, key)
        where = self.leaving.ready["inbound"]
        self.agents = {it: self.mesh.outbound(NAME, where, agent=it) for it in (ANN, BEN, BOB)}
        self.base = f"http://127.0.0.1:{free_port()}"
        self._gateway(where)

    def _leaving(self, issuer: str, key: Path) -> Process:
        exchange = {
            "tokenUrl": f"{issuer}/token",
            "clientId": "weft",
            "clientSecret": {"file": str(self.secret)},
            "assertion": {"issuer": ASSERTED_BY, "keyFile": str(key)},
            "audience": "outside",
            "privateAddresses": True,
        }
        url = self.outside.ready["url"]
        external = {"origin": url, "privateAddresses": True, "exchange": exchange}
        return self.mesh.inbound(NAME, {"external": {"url": f"{url}/mcp"}}, external=external)

    def _gateway(self, where: str):
        issuer = self.users.ready["url"]
        known = {
            "jwt": [{"issuer": issuer, "jwksUrl": f"{issuer}/jwks", "audiences": [self.base]}],
            "oauth": {"resource": self.base, "authorizationServers": [issuer], "requiredScopes": ["read"]},
        }
        section = {"address": self.base.removeprefix("http://"), "publicUrl": self.base, "keys": {"loopback": True}}
        self.mesh.gateway(GATEWAY, section, {NAME: where}, document("Authentication", GATEWAY[0], "public", known))

    def call(self, agent: tuple[str, str], mode: str = "auto") -> dict:
        """Whom the server outside takes the agent for, and by which token; or the error that the agent hears."""
        url = f"http://{self.agents[agent].ready['outbound']}/servers/{NAMESPACE}/{NAME}/mcp"
        return asyncio.run(asyncio.wait_for(called(url, mode), SECS_MAX))

    def seen(self) -> dict:
        return httpx2.get(f"{self.outside.ready['url']}/seen").raise_for_status().json()

    def close(self):
        try:
            self.mesh.close()
        finally:
            for process in (self.outside, self.tokens, self.users):
                process.stop()


async def called(url: str, mode: str) -> dict:
    headers = {"Authorization": "Bearer of-the-agent", "Cookie": "of=the-agent", "Baggage": "user=agent"}
    async with httpx2.AsyncClient(headers=headers) as http:
        try:
            async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
                result = await client.call_tool(*CALL)
                return json.loads(result.content[0].text)
        except (MCPError, BaseExceptionGroup) as error:
            return {"error": first(error).code}


def first(error):
    return first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("exchange"))
    yield place
    place.close()


modes = pytest.mark.parametrize("mode", ("auto", "legacy"))


@modes
def test_each_workload_comes_with_a_token_that_was_issued_for_it(place, mode):
    came = {agent: place.call(agent, mode) for agent in (ANN, BEN)}
    assert {agent: said["sub"] for agent, said in came.items()} == {ANN: spiffe(ANN), BEN: spiffe(BEN)}


@modes
def test_a_user_of_a_gateway_comes_with_a_token_that_was_issued_for_the_user(place, mode):
    [[said]], [own] = python(f"{place.base}/servers/{NAMESPACE}/{NAME}/mcp", "ann", mode, CALL)
    assert json.loads(said)["sub"] == place.user
    assert own not in json.dumps(place.seen())


@modes
def test_who_gets_no_token_is_told_so_and_nothing_is_sent(place, mode):
    assert place.call(BOB, mode) == {"error": NOT_EXCHANGED}
    assert "the authorization server answered 400 invalid_request" in place.leaving.log()
    assert "the secret of" not in place.leaving.log(), "what else it says is not for a log"
    assert place.call(ANN, mode)["sub"] == spiffe(ANN)
    assert set(place.seen()["called"]) <= {spiffe(ANN), spiffe(BEN), place.user}


@modes
def test_a_token_that_ends_is_exchanged_for_another_before_it_does(place, mode):
    first = place.call(ANN, mode)
    # Each call comes through: none with a token that is over, of which the server would want to know nothing.
    later = eventually(lambda: differs(first, place.call(ANN, mode)), within=SECS_MAX)
    assert later["sub"] == spiffe(ANN)


def differs(first: dict, now: dict) -> dict | None:
    assert "error" not in now
    return now if now["jti"] != first["jti"] else None


def test_a_client_that_is_not_believed_gets_no_tokens_until_it_has_its_secret(place):
    place.secret.write_text("another")
    eventually(lambda: place.call(ANN) == {"error": NOT_EXCHANGED}, within=SECS_MAX)
    assert "the authorization server answered 401 invalid_client" in place.leaving.log()
    place.secret.write_text(f"{SECRET}\n")
    eventually(lambda: place.call(ANN).get("sub") == spiffe(ANN), within=SECS_MAX)


def test_nothing_but_tokens_of_the_authorization_server_ever_came(place):
    place.call(ANN)
    seen = place.seen()["requests"]
    assert seen and not [it for it in seen if it["told"]]
    issuers = {claims_of(it["authorization"])["iss"] for it in seen}
    assert issuers == {place.tokens.ready["url"]}


def claims_of(authorization: list[str]) -> dict:
    [value] = authorization
    return claims(value.removeprefix("Bearer "))
