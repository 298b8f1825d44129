"""A door for exports over OTLP/HTTP, for those who look at what comes in."""

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Door:
    """Over TLS, if there is a context for it. Hands path and body of each export to `take`, and answers with the message that it gives; with 503 if none."""

    def __init__(self, take, tls: ssl.SSLContext | None = None):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802
                answer = take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                body = answer.SerializeToString() if answer is not None else b""
                self.send_response(200 if answer is not None else 503)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
