"""A server on the official Python SDK, in both eras, that is a resource server: whoever comes has a token, of which it
asks the authorization server whether it is good, and for whom (RFC 7662).

    AS=<url> SECRET=<of the client `outside`> protected.py

Its one tool says for whom the token was. `GET /seen` tells for whom it was called, and of each request the
`Authorization` headers and the names of those others that tell of whoever asked.
"""

import json
import os
import socket

import httpx2
import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from starlette.responses import JSONResponse

AUDIENCE = "outside"
CREDENTIALS = ("cookie", "x-api-key", "baggage")


class Asking:
    """Believes nobody but the authorization server."""

    def __init__(self, issuer: str, secret: str):
        self._issuer = issuer
        self._client = ("outside", secret)

    async def verify_token(self, token: str) -> AccessToken | None:
        async with httpx2.AsyncClient(auth=self._client) as http:
            answer = await http.post(f"{self._issuer}/introspect", data={"token": token})
        said = answer.raise_for_status().json()
        if not said["active"] or said["iss"] != self._issuer or said["aud"] != AUDIENCE:
            return None
        return AccessToken(
            token=token, client_id=said["client_id"], scopes=said["scope"].split(), subject=said.get("sub"), claims=said
        )


class Seeing:
    """Remembers what came by way of credentials."""

    def __init__(self, app, seen: list):
        self._app = app
        self._seen = seen

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/mcp":
            headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
            told = [name for name, _ in headers if name in CREDENTIALS or name.startswith("weft")]
            self._seen.append({"authorization": [it for name, it in headers if name == "authorization"], "told": told})
        await self._app(scope, receive, send)


def main():
    issuer = os.environ["AS"]
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    auth = AuthSettings(
        issuer_url=issuer, resource_server_url=f"http://localhost:{port}/mcp", validate_token_resource=False
    )
    server = MCPServer("protected", auth=auth, token_verifier=Asking(issuer, os.environ["SECRET"]))
    seen, for_whom = [], []

    @server.tool()
    def whoami() -> str:
        """For whom the token is, and which it is."""
        claims = get_access_token().claims
        for_whom.append(claims.get("sub"))
        return json.dumps({"sub": claims.get("sub"), "jti": claims["jti"]})

    @server.custom_route("/seen", methods=["GET"])
    async def all_seen(_):
        return JSONResponse({"requests": seen, "called": for_whom})

    app = Seeing(server.streamable_http_app(), seen)
    print(json.dumps({"url": f"http://localhost:{port}"}), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
