"""`weft up` with servers of ours beside it, each applied as an operator would, and one address where all of them are."""

import json
import os
import queue
import re
import signal
import subprocess
import threading
from pathlib import Path

from agents import WATCHED
from conftest import HTTP, MODULES, STDIO
from mesh import document
from processes import Process, eventually

NAMESPACE = "tests"
SECS_MAX = 60


class Up:
    """Servers are called what the keys say, and each is of the kind that its value says."""

    def __init__(self, folder: Path, servers: dict[str, str], *more: dict):
        self.folder = folder
        self.kinds = servers
        self._servers = {}
        folder.mkdir(parents=True, exist_ok=True)
        documents = [document("McpServer", NAMESPACE, name, self._spec(name)) for name in servers] + list(more)
        (folder / "servers.yaml").write_text("".join(f"---\n{json.dumps(it)}\n" for it in documents))
        doors = ["--listen-sidecars", "--listen-operators", "--listen-health", "--listen-agent"]
        ports = [word for door in doors for word in (door, "127.0.0.1:0")]
        command = [os.environ["WEFT_BIN"], "up", "-f", "servers.yaml", *ports]
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=self._log, text=True, start_new_session=True
        )
        # Whatever it says is to be taken, or it waits.
        said = queue.SimpleQueue()
        threading.Thread(target=self._read, args=[said], daemon=True).start()
        self.all = said.get(timeout=SECS_MAX)
        assert self.all, (folder / "log").read_text()

    def _spec(self, name: str) -> dict:
        kind = self.kinds[name]
        if kind in STDIO:
            command, *args = map(str, STDIO[kind])
            env = {"NODE_PATH": str(MODULES), "PATH": os.environ["PATH"]}
            return {"stdio": {"command": command, "args": args, "env": env}}
        return {"workload": {"labels": {"app": name}, "port": self.port(name)}}

    def port(self, name: str) -> int:
        """Where an HTTP server listens, or listened."""
        if name not in self._servers:
            self.start(name, 0)
        return self._servers[name].ready["port"]

    def start(self, name: str, port: int):
        self._servers[name] = Process(self.folder / name / "log", *HTTP[self.kinds[name]], PORT=str(port))

    def pid(self, name: str) -> int | None:
        """The process of a server, while there is one."""
        if name in self._servers:
            return self._servers[name].pid
        command = [str(it) for it in STDIO[self.kinds[name]]]
        named = (pid for pid in below(self._process.pid) if words(pid) == command)
        return next(named, None)

    def kill(self, name: str):
        os.kill(self.pid(name), signal.SIGKILL)

    def _read(self, said: queue.SimpleQueue):
        for line in self._process.stdout:
            if line.startswith("All of them at one address"):
                said.put(line.split()[-1])
        said.put(None)

    def virtual(self, name: str) -> str:
        """The address of a virtual server."""
        return re.sub("/mcp$", f"/virtual/{NAMESPACE}/{name}/mcp", self.all)

    def weft(self, *words: str, stdin: str = "") -> str:
        command = [os.environ["WEFT_BIN"], *words]
        ran = subprocess.run(command, cwd=self.folder, input=stdin, capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, f"{words}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def items(self, server: str) -> dict:
        """What the catalogue knows of a server, by kind and name."""
        listed = json.loads(self.weft("tools", "list", f"{NAMESPACE}/{server}", "--kind", "all", "-o", "json"))
        return {(it["kind"], it["name"]): it for it in listed["items"]}

    def known(self):
        """Waits until the catalogue knows what every server offers."""
        for name in self.kinds:
            eventually(lambda: self.items(name), SECS_MAX)

    def close(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._log.close()
        for server in self._servers.values():
            server.stop()


def uri_at(servers: dict[str, str], server: str, uri: str = WATCHED) -> str:
    """What a resource is called at the address of all: of several that have the same, the first keeps it."""
    return uri if server == next(iter(servers)) else f"weft://{NAMESPACE}/{server}/{uri}"


def below(pid: int) -> list[int]:
    """Everyone below a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in read(task).split():
            found += [int(child), *below(int(child))]
    return found


def words(pid: int) -> list[str]:
    """The command of a process."""
    return read(Path(f"/proc/{pid}/cmdline")).split("\0")[:-1]


def read(file: Path) -> str:
    """What a file of a process says; nothing where it is gone."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
