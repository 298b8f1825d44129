"""A server of both eras that does next to nothing, and remembers each request as it came: what a sidecar lets through,
and what of it. It runs in the tests' own process."""

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
SERVER_INFO = {"name": "recorder", "version": "1"}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for it, value in self.headers if it.lower() == name]


class Recorder:
    def __init__(self):
        self.requests: list[Request] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self._body()
                recorder.requests.append(Request("POST", self.path, tuple(self.headers.items()), body))
                status, headers, answer = recorder._answer(json.loads(body), self.headers)
                self._send(status, headers, answer)

            def do_GET(self):
                recorder.requests.append(Request(self.command, self.path, tuple(self.headers.items()), b""))
                self._send(405, {"Allow": "POST"}, None)

            do_DELETE = do_GET

            def _body(self) -> bytes:
                if self.headers.get("transfer-encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("content-length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _send(self, status, headers, answer):
                body = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                if body:
                    self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def saw(self, mark: str) -> list[Request]:
        """The requests with this in their body."""
        return [it for it in self.requests if mark.encode() in it.body]

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, message: dict, headers) -> tuple[int, dict, dict | None]:
        if "id" not in message:
            return 202, {}, None
        is_modern = headers.get("mcp-protocol-version") == MODERN
        result, more = self._result(message, is_modern)
        if result is None:
            error = {"code": -32601, "message": "not here"}
            return 404 if is_modern else 200, {}, {"jsonrpc": "2.0", "id": message["id"], "error": error}
        if is_modern:
            result["resultType"] = "complete"
        return 200, more, {"jsonrpc": "2.0", "id": message["id"], "result": result}

    def _result(self, message: dict, is_modern: bool) -> tuple[dict | None, dict]:
        match message["method"]:
            case "server/discover" if is_modern:
                discovered = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
                info = {"io.modelcontextprotocol/serverInfo": SERVER_INFO}
                return discovered | {"_meta": info, "ttlMs": 0, "cacheScope": "private"}, {}
            case "initialize" if not is_modern:
                session = f"session-{len(self.requests)}"
                known = {"protocolVersion": LEGACY, "capabilities": {"tools": {}}, "serverInfo": SERVER_INFO}
                return known, {"Mcp-Session-Id": session}
            case "tools/list":
                tool = {"name": "echo", "inputSchema": {"type": "object"}}
                return {"tools": [tool], "ttlMs": 0, "cacheScope": "private"}, {}
            case "tools/call":
                return {"content": [{"type": "text", "text": "heard"}]}, {}
        return None, {}
