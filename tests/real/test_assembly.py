"""Agents on official SDKs use servers of both eras and several transports at one address, in a mesh with a control plane:
what is shown is what the sidecars read of their servers, as the control plane tells it."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from agents import AGENTS, RUST_AGENTS, WATCHED, talk
from conftest import HTTP, MODULES, STDIO
from mesh import document
from processes import Process, eventually

START_SECS_MAX = 60
# Names of servers, and what each is. Of resources that several have, those of the first keep their URIs.
SERVERS = {"a-both": "python", "b-legacy": "typescript-legacy-stdio", "c-modern": "typescript-modern"}
NAMESPACE = "tests"

# That the tools changed is told when they did: a server that says so and lists the same is not passed on.
SCRIPT = {
    "echo": ("call", "echo", {"text": "Grüße \u2028 \U0001f9f6"}),
    "failed": ("call", "test_error_handling"),
    "prompt": ("prompt", "test_prompt_with_arguments", {"arg1": "a", "arg2": "b"}),
    "completions": ("complete", "test_prompt_with_arguments", "arg1", "par"),
    "progress": ("call", "test_tool_with_progress"),
    "logs": ("call", "test_tool_with_logging"),
    "watch": ("watch",),
    "cancel": ("cancel",),
    "crowd": ("crowd", 20),
    "after": ("call", "echo", {"text": "still there"}),
}


class Up:
    """`weft up` with these servers, each of them applied as it would be by an operator."""

    def __init__(self, directory: Path):
        self.directory = directory
        directory.mkdir(parents=True)
        self._servers = []
        documents = [document("McpServer", NAMESPACE, name, self._spec(name)) for name in SERVERS]
        (directory / "servers.yaml").write_text("".join(f"---\n{json.dumps(it)}\n" for it in documents))
        doors = ["--listen-sidecars", "--listen-operators", "--listen-health", "--listen-agent"]
        ports = [word for door in doors for word in (door, "127.0.0.1:0")]
        command = [os.environ["WEFT_BIN"], "up", "-f", "servers.yaml", *ports]
        self._log = open(directory / "log", "wb")
        self._process = subprocess.Popen(
            command, cwd=directory, stdout=subprocess.PIPE, stderr=self._log, text=True, start_new_session=True
        )
        self.agent = self._address()

    def _spec(self, name: str) -> dict:
        kind = SERVERS[name]
        if kind in STDIO:
            command, *args = map(str, STDIO[kind])
            env = {"NODE_PATH": str(MODULES), "PATH": os.environ["PATH"]}
            return {"stdio": {"command": command, "args": args, "env": env}}
        server = Process(self.directory / name / "log", *HTTP[kind], PORT="0")
        self._servers.append(server)
        return {"workload": {"labels": {"app": name}, "port": server.ready["port"]}}

    def _address(self) -> str:
        """Where the agent finds all of it."""
        for line in self._process.stdout:
            if line.startswith("All of them at one address"):
                return line.split()[-1]
        raise AssertionError((self.directory / "log").read_text())

    def close(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._log.close()
        for server in self._servers:
            server.stop()


@pytest.fixture(scope="module")
def up(tmp_path_factory, request):
    if request.config.getoption("--direct"):
        pytest.skip("without sidecars there is no such address")
    it = Up(tmp_path_factory.mktemp("assembly") / "mesh")

    def everything() -> bool:
        tools, resources = talk("python-auto", it.agent, ("tools",), ("resources",)).answers
        return all(f"{name}_echo" in tools and uri_at(name, WATCHED) in resources for name in SERVERS)

    try:
        eventually(everything, START_SECS_MAX)
        yield it
    finally:
        it.close()


def uri_at(server: str, uri: str) -> str:
    first = next(iter(SERVERS))
    return uri if server == first else f"weft://{NAMESPACE}/{server}/{uri}"


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("agent", AGENTS)
def test_one_address_is_as_good_as_the_servers_own(up, agent, server):
    watched = uri_at(server, WATCHED)
    level = [("level", "info")] if agent.endswith("-legacy") else []
    it = talk(agent, up.agent, ("among", f"{server}_", watched), *level, *SCRIPT.values())
    came_of = dict(zip(SCRIPT, it.answers[1 + len(level) :]))
    assert came_of["echo"] == {"content": ["Grüße \u2028 \U0001f9f6"], "isError": False, "progress": []}
    assert came_of["failed"]["isError"]
    assert came_of["prompt"] == ["Prompt with arguments: arg1='a', arg2='b'"]
    assert came_of["completions"] == ["paris", "park", "party"]
    assert came_of["progress"]["progress"] == [0, 50, 100]
    assert came_of["logs"]["content"] == ["Logged three times."]
    assert it.logs == ["Tool execution started", "Tool processing data", "Tool execution completed"]
    assert came_of["watch"] == watched
    assert came_of["cancel"] == "abandoned"
    assert came_of["crowd"] == 20
    assert came_of["after"]["content"] == ["still there"]


@pytest.mark.parametrize("agent", AGENTS)
def test_everything_is_listed_once_under_a_name_of_its_own(up, agent):
    steps = [("tools",), ("prompts",), ("resources",), ("templates",)]
    reads = [("read", uri_at(server, "test://static-text")) for server in SERVERS]
    reads += [("read", uri_at(server, "test://template/7/data")) for server in SERVERS]
    tools, prompts, resources, templates, *read = talk(agent, up.agent, *steps, *reads).answers
    for name in SERVERS:
        assert f"{name}_echo" in tools and f"{name}_test_simple_prompt" in prompts
        assert uri_at(name, WATCHED) in resources
        assert uri_at(name, "test://template/{id}/data") in templates
    assert len(tools) == len(set(tools)) and len(resources) == len(set(resources))
    texts, data = read[: len(SERVERS)], read[len(SERVERS) :]
    assert texts == [["This is the content of the static text resource."]] * len(SERVERS)
    assert all("Data for ID: 7" in it[0] for it in data)


@pytest.mark.parametrize("agent", RUST_AGENTS)
def test_an_agent_in_rust_uses_it_too(up, agent):
    for server in SERVERS:
        tools, echo = talk(agent, up.agent, ("tools",), ("call", f"{server}_echo", {"text": "x"})).answers
        assert f"{server}_echo" in tools
        assert echo["content"] == ["x"]
