"""One call, or datagrams, from the network namespace that this is started in. Prints what became of it as JSON.

    python caller.py call <address> <port> [<certificate> <key> <roots>]
    python caller.py datagrams <address> <text> <port>..."""

import http.client
import json
import socket
import ssl
import subprocess
import sys

ANSWER_SECS_MAX = 5
BODY = {
    "jsonrpc": "2.0", "id": 1, "method": "tools/call",
    "params": {"name": "who", "arguments": {}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }},
}
HEADERS = {
    "Host": "localhost", "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "who", "Connection": "close",
}


def call(address: str, port: str, *files: str) -> dict:
    """With files in PEM as a workload of the mesh, and to one; plain HTTP without."""
    peer = None
    try:
        connection = socket.create_connection((address, int(port)), ANSWER_SECS_MAX)
        if files:
            certificate, key, roots = files
            context = ssl.create_default_context(cafile=roots)
            # Names in the mesh are SPIFFE IDs.
            context.check_hostname = False
            context.load_cert_chain(certificate, key)
            connection = context.wrap_socket(connection)
            peer = identity(connection.getpeercert(binary_form=True))
        asked = http.client.HTTPConnection(address)
        asked.sock = connection
        asked.request("POST", "/mcp", json.dumps(BODY), HEADERS)
        answer = asked.getresponse()
        body = answer.read().decode()
        return {"status": answer.status, "reason": answer.headers.get("weft-reason"), "body": body, "peer": peer}
    except (OSError, http.client.HTTPException) as error:
        return {"error": repr(error)}


def identity(certificate: bytes) -> str:
    asked = ["openssl", "x509", "-inform", "DER", "-noout", "-ext", "subjectAltName"]
    shown = subprocess.run(asked, input=certificate, capture_output=True, check=True).stdout.decode()
    return shown.split("URI:")[1].strip()


def datagrams(address: str, text: str, *ports: str) -> dict:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            for port in ports:
                sender.sendto(text.encode(), (address, int(port)))
    except OSError as error:
        return {"error": repr(error)}
    return {}


print(json.dumps({"call": call, "datagrams": datagrams}[sys.argv[1]](*sys.argv[2:])))
