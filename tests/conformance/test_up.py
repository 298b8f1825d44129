"""`weft up`: a whole mesh in one process, as a newcomer starts it."""

import os
import queue
import re
import signal
import subprocess
import threading
from pathlib import Path

import requests

import control_plane

START_SECS_MAX = 40


class Up:
    """`weft up` in a folder, until its block ends."""

    def __init__(self, folder: Path, *flags: str):
        doors = ["--listen-sidecars", "--listen-operators", "--listen-health", "--listen-agent"]
        ports = [word for door in doors for word in (door, "127.0.0.1:0")]
        command = [os.environ["WEFT_BIN"], "up", *ports, *flags]
        self.folder = folder
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=self.log, text=True, start_new_session=True
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def said_until(self, pattern: str) -> str:
        """What was said up to a line with `pattern`."""
        said = ""
        while True:
            line = self.lines.get(timeout=START_SECS_MAX)
            assert line is not None, f"it ended:\n{said}\n{(self.folder / 'log').read_text()}"
            said += line
            if re.search(pattern, line):
                return said

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.log.close()


def children(pid: int) -> list[int]:
    """Everyone below a process."""
    below = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            below += [int(child), *children(int(child))]
    return below


def call(url: str, tool: str, arguments: dict) -> requests.Response:
    """Calls a tool as a client of 2026-07-28 does."""
    revision = "2026-07-28"
    meta = {
        "io.modelcontextprotocol/protocolVersion": revision,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments, "_meta": meta},
    }
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": revision,
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }
    session = requests.Session()
    session.trust_env = False
    return session.post(url, json=message, headers=headers, timeout=20)


def test_a_newcomer_sees_one_call_succeed_and_one_refused_and_nothing_is_left_behind(tmp_path):
    with Up(tmp_path) as up:
        said = up.said_until("delete_everything")
        assert "Hello, you!" in said
        assert re.search(r"delete_everything.*refused", said)
        url = re.search(r'"url": "(.+/servers/demo/example/mcp)"', said).group(1)
        added = call(url, "add", {"a": 1, "b": 2})
        assert added.json()["result"]["content"][0]["text"] == "3"
        refused = call(url, "delete_everything", {})
        assert (refused.status_code, refused.headers["weft-reason"]) == (403, "denied")

        status = [os.environ["WEFT_BIN"], "status"]
        shown = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, timeout=20)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.count("synced") >= 2

        below = children(up.process.pid)
        assert below, "the example server is a process"
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(20) == 0
        gone = lambda: not [pid for pid in below if Path(f"/proc/{pid}").exists()]  # noqa: E731
        control_plane.eventually(gone, within=10)


def test_the_servers_of_a_desktop_client_are_served(tmp_path):
    config = tmp_path / "desktop.json"
    weft = os.environ["WEFT_BIN"]
    config.write_text('{"mcpServers": {"My Tools": {"command": "%s", "args": ["example-server"]}}}' % weft)
    with Up(tmp_path, "-f", str(config)) as up:
        said = up.said_until(r'"url": ')
        url = re.search(r'"url": "(.+)"', said).group(1)
        assert url.endswith("/servers/local/my-tools/mcp")
        assert call(url, "greet", {"name": "Ada"}).json()["result"]["content"][0]["text"] == "Hello, Ada!"
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(20) == 0
