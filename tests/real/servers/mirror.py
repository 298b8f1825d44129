"""A server on the official Python SDK that tells of each call whether what it sees of the arguments is as a policy wants
it. Its tools are the keys of `mirror.json`, whose values are what the policy says of each; here the same is said in
Python, of what the SDK gives to a handler. It listens on a port of the system's choice and prints it.
"""

import json
import socket
from pathlib import Path

import uvicorn
from mcp.server.lowlevel import Server

TOOLS = [*json.loads((Path(__file__).parent / "mirror.json").read_text()), "heard", "forbidden"]
heard = 0


def is_number(it) -> bool:
    return isinstance(it, (int, float)) and not isinstance(it, bool)


SATISFIED = {
    "path_is": lambda args: args.get("path") == "/public",
    "path_under": lambda args: isinstance(args.get("path"), str) and args["path"].startswith("/public/"),
    "path_in": lambda args: args.get("path") in ("/public", "/data"),
    "small": lambda args: is_number(args.get("size")) and args["size"] < 100,
    "exact": lambda args: is_number(args.get("size")) and args["size"] == 9007199254740992,
    "not_zero": lambda args: "size" in args and (not is_number(args["size"]) or args["size"] != 0),
    "unasked": lambda args: "admin" not in args,
    "not_forced": lambda args: "force" not in args or args["force"] is False,
    "nested": lambda args: isinstance(args.get("where"), dict) and args["where"].get("path") == "/public",
    "all_public": lambda args: isinstance(args.get("paths"), list)
    and all(isinstance(it, str) and it.startswith("/public") for it in args["paths"]),
}


async def list_tools(*_):
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
    return {"resultType": "complete", "tools": tools, "ttlMs": 60000, "cacheScope": "public"}


async def call_tool(_, params):
    global heard
    args = params.arguments or {}
    if params.name == "heard":
        told = {"heard": heard}
    else:
        heard += 1
        satisfied = params.name in SATISFIED and bool(SATISFIED[params.name](args))
        told = {"tool": params.name, "satisfied": satisfied, "saw": repr(args)[:2000]}
    return {"resultType": "complete", "content": [{"type": "text", "text": json.dumps(told)}]}


if __name__ == "__main__":
    app = Server("mirror", version="1", on_list_tools=list_tools, on_call_tool=call_tool).streamable_http_app()
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
