"""HTTP/1.1 by hand, over TLS or not: what no client library would send."""

import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from io import BytesIO

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
ANSWER_SECS_MAX = 10
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def reason(self) -> str | None:
        return self.headers.get("weft-reason")


class Wire:
    """One connection."""

    def __init__(self, address: str, context: ssl.SSLContext | None = None):
        host, port = address.rsplit(":", 1)
        self.address = address
        self._socket = socket.create_connection((host, int(port)), ANSWER_SECS_MAX)
        if context:
            self._socket = context.wrap_socket(self._socket)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def send(self, data: bytes):
        self._socket.sendall(data)

    def half_close(self):
        raw = self._socket.unwrap() if isinstance(self._socket, ssl.SSLSocket) else self._socket
        raw.shutdown(socket.SHUT_WR)

    def answer(self, method: str = "POST") -> Answer:
        response = http.client.HTTPResponse(self._socket, method=method)
        response.begin()
        return Answer(response.status, response.headers, response.read())

    def ask(self, data: bytes) -> Answer:
        try:
            self.send(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            pass  # it answered and closed before it had heard everything
        return self.answer(data.split(b" ", 1)[0].decode())

    def is_closed(self) -> bool:
        """Whether the other side closes the connection now."""
        try:
            return self._socket.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


def meta(version: str = MODERN) -> dict:
    return {VERSION_KEY: version, CAPABILITIES_KEY: {}}


def modern_call(mark: str, name: str = "echo", **more) -> dict:
    params = {"name": name, "arguments": {"text": mark}, "_meta": meta(), **more}
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}


def legacy_call(mark: str) -> dict:
    params = {"name": "echo", "arguments": {"text": mark}}
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}


def modern_headers(**changed) -> list[tuple[str, str]]:
    """The headers of a modern call of `echo`; `changed` names some with `_` for `-`, and None leaves one out."""
    headers = {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/call",
        "mcp-name": "echo",
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    return [(name, value) for name, value in headers.items() if value is not None]


def legacy_headers(**changed) -> list[tuple[str, str]]:
    return modern_headers(mcp_protocol_version=LEGACY, mcp_method=None, mcp_name=None) + [
        (name.replace("_", "-"), value) for name, value in changed.items()
    ]


def request(
    body: bytes | dict | None,
    headers: list[tuple[str, str]],
    *,
    method: str = "POST",
    path: str = "/mcp",
    host: str = "localhost",
    length: bool = True,
) -> bytes:
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    out = BytesIO()
    out.write(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n".encode())
    for name, value in headers:
        out.write(f"{name}: {value}\r\n".encode("latin-1"))
    if length and body is not None:
        out.write(f"content-length: {len(body)}\r\n".encode())
    out.write(b"\r\n")
    out.write(body or b"")
    return out.getvalue()
