"""Fixtures: the servers, and how an agent reaches them."""

import os
import sys
from pathlib import Path

import pytest

from mesh import Mesh
from processes import Process

HERE = Path(__file__).parent
MODULES = Path(os.environ["NODE_PATH"])
EVERYTHING = MODULES / "@modelcontextprotocol/server-everything/dist/index.js"
FILESYSTEM = MODULES / "@modelcontextprotocol/server-filesystem/dist/index.js"

HTTP = {
    "python": [sys.executable, HERE / "servers/fixture.py"],
    "typescript": ["node", HERE / "servers/fixture.cjs"],
    "typescript-legacy": ["node", HERE / "servers/fixture.cjs", "--legacy"],
    "typescript-modern": ["node", HERE / "servers/fixture.cjs", "--modern"],
    "everything": ["node", "--require", HERE / "servers/say-port.cjs", EVERYTHING, "streamableHttp"],
    "everything-sse": ["node", "--require", HERE / "servers/say-port.cjs", EVERYTHING, "sse"],
    "rust-tasks": [os.environ["WEFT_RMCP_TASKS"]],
}
STDIO = {
    "python-stdio": [sys.executable, HERE / "servers/fixture.py", "--stdio"],
    "typescript-stdio": ["node", HERE / "servers/fixture.cjs", "--stdio"],
    "typescript-legacy-stdio": ["node", HERE / "servers/fixture.cjs", "--stdio", "--legacy"],
    "typescript-modern-stdio": ["node", HERE / "servers/fixture.cjs", "--stdio", "--modern"],
    "everything-stdio": ["node", EVERYTHING, "stdio"],
    "filesystem": ["node", FILESYSTEM],
    "time": [sys.executable, "-m", "mcp_server_time", "--local-timezone", "UTC"],
}


def pytest_addoption(parser):
    parser.addoption("--direct", action="store_true", help="leave the sidecars out")


class Parts:
    """The servers, started when they are first asked for."""

    def __init__(self, directory: Path, is_direct: bool):
        self.directory = directory
        self.is_direct = is_direct
        self.mesh = Mesh(directory / "mesh")
        self._servers = {}
        self._urls = {}

    def port(self, name: str) -> int:
        """Where an HTTP server listens."""
        if name not in self._servers:
            self._servers[name] = Process(self.directory / name / "log", *HTTP[name], PORT="0")
        return self._servers[name].ready["port"]

    def direct(self, name: str) -> str:
        """The URL of an HTTP server itself."""
        return f"http://127.0.0.1:{self.port(name)}{'/sse' if name.endswith('-sse') else '/mcp'}"

    def through(self, name: str) -> str:
        """The URL by which an agent reaches the server."""
        if self.is_direct and name in STDIO:
            pytest.skip("a stdio server has no URL without a sidecar")
        if self.is_direct:
            return self.direct(name)
        if name not in self._urls:
            self._urls[name] = self._reach(name)
        return self._urls[name]

    def _reach(self, name: str) -> str:
        if name in STDIO:
            command, *args = map(str, STDIO[name])
            if name == "filesystem":
                args.append(str(self.files))
            env = {"NODE_PATH": str(MODULES), "PATH": os.environ["PATH"]}
            return self.mesh.reach(name, {"stdio": {"command": command, "args": args, "env": env}}).url
        more = {"protocol": "http-sse", "path": "/sse"} if name.endswith("-sse") else {}
        return self.mesh.reach_http(name, self.port(name), **more)

    @property
    def files(self) -> Path:
        """The folder that the server of files serves."""
        folder = self.directory / "files"
        if not folder.exists():
            folder.mkdir()
            (folder / "note.txt").write_text("A note.\n")
        return folder

    def close(self):
        try:
            self.mesh.close()
        finally:
            for process in self._servers.values():
                process.stop()


@pytest.fixture(scope="session")
def parts(tmp_path_factory, request):
    parts = Parts(tmp_path_factory.mktemp("parts"), request.config.getoption("--direct"))
    yield parts
    parts.close()
