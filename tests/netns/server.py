"""An MCP server that was written without a mesh in mind: on every address, for whoever comes. Its answers say who called, as
the sidecar tells it, and each line of its log who connected, or sent a datagram.

    python server.py <log> <port>..."""

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAMILIES = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
LOG = open(sys.argv[1], "a", buffering=1, encoding="utf-8")


def tell(what: str, port: int, text: str):
    LOG.write(json.dumps({"what": what, "port": port, "text": text}) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):  # noqa: N802
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        caller = self.headers.get("weft-caller", "nobody that the mesh knows")
        result = {"resultType": "complete", "content": [{"type": "text", "text": caller}]}
        body = json.dumps({"jsonrpc": "2.0", "id": request.get("id"), "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def streams(family: int, address: str, port: int):
    class Server(ThreadingHTTPServer):
        address_family = family
        daemon_threads = True

        def server_bind(self):
            if family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            super().server_bind()

        def get_request(self):
            connection, peer = super().get_request()
            tell("connection", port, peer[0])
            return connection, peer

    threading.Thread(target=Server((address, port), Handler).serve_forever).start()


def datagrams(family: int, address: str, port: int):
    listener = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))

    def read():
        while True:
            tell("datagram", port, listener.recv(1024).decode())

    threading.Thread(target=read).start()


for each in map(int, sys.argv[2:]):
    for of_family in FAMILIES:
        streams(*of_family, each)
        datagrams(*of_family, each)
print(json.dumps({"listening": True}), flush=True)
