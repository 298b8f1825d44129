"""Becomes ContextForge with one server behind it, and says `registered` once its tools are known.

    contextforge.py HOST PORT URL FOLDER
"""

import json
import os
import sys
import time
import urllib.request

from mcpgateway.utils.create_jwt_token import _create_jwt_token

host, port, url, folder = sys.argv[1:]
admin = "admin@bench.test"
token = _create_jwt_token(
    {"sub": admin, "username": admin},
    expires_in_minutes=600,
    secret=os.environ["JWT_SECRET_KEY"],
    algorithm="HS256",
    user_data={"email": admin, "full_name": "bench", "is_admin": True, "auth_provider": "cli"},
)


def ask(path, message=None):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = json.dumps(message).encode() if message else None
    request = urllib.request.Request(f"http://{host}:{port}{path}", data, headers)
    return urllib.request.urlopen(request, timeout=10).read()


def register():
    for _ in range(600):
        try:
            ask("/health")
            break
        except OSError:
            time.sleep(0.1)
    ask("/gateways", {"name": "bench", "url": url, "transport": "STREAMABLEHTTP"})
    with open(f"{folder}/token", "w") as file:
        file.write(token)
    print("registered", flush=True)


if os.fork() == 0:
    register()
    os._exit(0)
program = os.path.join(os.path.dirname(sys.executable), "mcpgateway")
os.execv(program, [program, "mcpgateway.main:app", "--host", host, "--port", port])
