"""A server over stdin and stdout that does what it is asked to, and misbehaves where it is asked to.

The first argument says which era it speaks (legacy, modern, or fragile: legacy, and ends over anything before the
handshake); others are switches. A file in the place of an era has the era in it. The tool that is called says what to do.
"""

import json
import os
import resource
import signal
import sys

ERA, SWITCHES = sys.argv[1], sys.argv[2:]
if os.path.isfile(ERA):
    ERA = open(ERA).read()
cancelled = []
waiting = {}
notes = []
# Questions that were held back: all of them since the server was told to be mute.
held = None


def write(text, end="\n"):
    sys.stdout.write(text + end)
    sys.stdout.flush()


def say(**message):
    write(json.dumps({"jsonrpc": "2.0", **message}))


def answer(id, value):
    content = [{"type": "text", "text": json.dumps(value)}]
    say(id=id, result={"content": content, "resultType": "complete"})


def fork_off():
    """Starts a process that wants to outlive everyone; returns its id."""
    read, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for it in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                signal.signal(it, signal.SIG_IGN)
            os.write(write_end, str(os.getpid()).encode())
            os.close(write_end)
            while True:
                signal.pause()
        os._exit(0)
    os.close(write_end)
    return int(os.read(read, 100))


def attempt(act):
    try:
        act()
        return "done"
    except OSError as error:
        return os.strerror(error.errno)


def call(id, params):
    name, arguments = params["name"], params.get("arguments", {})
    if name == "echo":
        if "progressToken" in params.get("_meta", {}):
            token = params["_meta"]["progressToken"]
            say(method="notifications/progress", params={"progressToken": token, "progress": 1})
        answer(id, {"id": id, "arguments": arguments})
    elif name == "exit":
        sys.stderr.write("Error: asked to\n")
        sys.stderr.flush()
        os._exit(3)
    elif name == "never":
        pass
    elif name == "twice":
        answer(id, 1)
        answer(id, 2)
    elif name == "wrong":
        answer(id + 1000, 1)
        answer(str(id), 2)
        answer(id, 3)
    elif name == "garbage":
        write("Listening on stdio\r\n\r\n{\x00}")
        sys.stdout.flush()
        sys.stdout.buffer.write(b"\xff\xfe\n" + b"x" * 100_000 + b"\n")
        answer(id, "after")
    elif name == "cut":
        write(json.dumps({"jsonrpc": "2.0", "id": id, "result": {"cut": True}}), end="")
        os._exit(0)
    elif name == "stderr":
        sys.stderr.write("no\n" * 20_000 + "x" * 1_000_000 + "\n")
        sys.stderr.flush()
        answer(id, "after")
    elif name == "flood":
        for _ in range(20_000):
            write("no message")
        answer(id, "after")
    elif name == "notes":
        token = params["_meta"]["progressToken"]
        for progress in range(2000):
            say(method="notifications/progress", params={"progressToken": token, "progress": progress})
        answer(id, "after")
    elif name == "sample":
        waiting["s"] = id
        say(id="s", method="sampling/createMessage", params={"messages": []})
    elif name == "cancelled":
        answer(id, cancelled)
    elif name == "heard":
        answer(id, notes)
    elif name == "mute":
        global held
        held = []
        answer(id, "mute")
    elif name == "held":
        answer(id, [method for _, method in held])
    elif name == "unmute":
        for late, _ in held:
            say(id=late, result={})
        held = None
        answer(id, "unmute")
    elif name == "fork":
        answer(id, [os.getpid(), fork_off()])
    elif name == "pid":
        answer(id, [os.getpid()])
    elif name == "env":
        answer(id, dict(os.environ))
    elif name == "bounds":
        status = open("/proc/self/status").read()
        privileges = next(line for line in status.splitlines() if line.startswith("NoNewPrivs"))
        kinds = [resource.RLIMIT_DATA, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU]
        answer(id, [privileges.split()[1], [resource.getrlimit(kind)[0] for kind in kinds], os.getcwd()])
    elif name == "write":
        answer(id, [attempt(lambda path=path: open(path, "w").close()) for path in arguments["paths"]])
    elif name == "read":
        answer(id, [attempt(lambda path=path: open(path).close()) for path in arguments["paths"]])
    elif name == "kill":
        answer(id, attempt(lambda: os.kill(arguments["pid"], 0)))
    else:
        say(id=id, error={"code": -32602, "message": "no such tool"})


def request(message):
    id, method = message["id"], message["method"]
    if held is not None and method != "tools/call":
        held.append((id, method))
    elif method == "initialize" and ERA != "modern":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}
        say(id=id, result=result | {"serverInfo": {"name": "misbehaving", "version": "1"}})
    elif method == "server/discover" and ERA == "modern":
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"}
        say(id=id, result=result | {"ttlMs": 0, "cacheScope": "public"})
    elif method == "server/discover" and ERA == "fragile":
        os._exit(1)
    elif method == "tools/call":
        call(id, message["params"])
    elif method in ("resources/subscribe", "resources/unsubscribe"):
        notes.append(method)
        say(id=id, result={})
        if method == "resources/subscribe":
            say(method="notifications/resources/updated", params={"uri": message["params"]["uri"]})
    else:
        say(id=id, error={"code": -32601, "message": "Method not found"})


if "stubborn" in SWITCHES:
    for stubborn in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(stubborn, signal.SIG_IGN)

for text in sys.stdin:
    message = json.loads(text)
    if "method" in message and "id" in message:
        request(message)
    elif message.get("method") == "notifications/cancelled":
        cancelled.append(message["params"]["requestId"])
    elif "method" in message:
        notes.append(message["method"])
    elif message["id"] in waiting:
        answer(waiting.pop(message["id"]), message.get("result"))

while "stubborn" in SWITCHES:
    signal.pause()
