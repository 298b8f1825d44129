"""Users who sign in with an SDK's own OAuth client, where the server says, and call a tool with what comes of it."""

import asyncio
import base64
import json
import socket
import subprocess
from pathlib import Path

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata
from mcp.shared.exceptions import MCPError

HERE = Path(__file__).parent
REDIRECT = "http://127.0.0.1:1/callback"
SECS_MAX = 60


class Memory:
    """What the SDK's OAuth client keeps, and every token that it was given."""

    def __init__(self, client: str | None):
        self.tokens = None
        self.given = []
        self.client = client and OAuthClientInformationFull(client_id=client, redirect_uris=[REDIRECT])

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens
        self.given.append(tokens.access_token)

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


class User:
    """A user with a browser, whose agent registers itself if it has no name yet."""

    def __init__(self, name: str, client: str | None):
        self.name = name
        self.memory = Memory(client)
        self._came = None

    async def goes(self, url: str):
        async with httpx2.AsyncClient(headers={"x-user": self.name}) as browser:
            for _ in range(20):
                answer = await browser.get(url)
                assert answer.is_redirect, f"{answer.status_code} at {url}: {answer.text}"
                url = str(answer.url.join(answer.headers["location"]))
                if url.startswith(REDIRECT):
                    self._came = dict(httpx2.URL(url).params)
                    return
        raise AssertionError("sent about without end")

    async def comes_back(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult(**{name: self._came.get(name) for name in ("code", "state", "iss")})

    def provider(self, url: str) -> OAuthClientProvider:
        metadata = OAuthClientMetadata(
            client_name="weft-tests",
            redirect_uris=[REDIRECT],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            token_endpoint_auth_method="none",
            application_type="native",
        )
        return OAuthClientProvider(url, metadata, self.memory, self.goes, self.comes_back)


ECHO = ("echo", {"text": "hello"})


async def call_python(url: str, user: User, mode: str, calls):
    came = []
    async with httpx2.AsyncClient(auth=user.provider(url)) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            for name, arguments in calls:
                try:
                    result = await client.call_tool(name, arguments)
                    came.append([it.text for it in result.content])
                except MCPError as error:
                    came.append({"error": error.code})
    return came


def python(url: str, name: str, mode: str, *calls, client: str | None = None):
    """What came of each call of a tool, and the tokens that were given, in order."""
    user = User(name, client)
    came = asyncio.run(asyncio.wait_for(call_python(url, user, mode, calls or [ECHO]), SECS_MAX))
    return came, user.memory.given


def typescript(url: str, name: str, mode: str, *calls, client: str | None = None):
    told = json.dumps({"url": url, "user": name, "client": client, "mode": mode, "calls": calls or [ECHO]})
    done = subprocess.run(
        ["node", HERE / "clients/signin.cjs", told], capture_output=True, text=True, timeout=SECS_MAX
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return said["came"], said["given"]


AGENTS = {"python": python, "typescript": typescript}


def claims(token: str) -> dict:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def free_port() -> int:
    """A port that nobody has, for what must know its own before it starts."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]
