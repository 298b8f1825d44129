"""The catalogue knows what servers on official SDKs offer, whatever the era and the transport of each."""

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
import requests

from conftest import HERE, MODULES, STDIO
from processes import eventually

FIXTURE = json.loads((HERE / "servers/fixture.json").read_text())
SERVERS = (
    *("python", "typescript-legacy", "typescript-modern"),
    *("python-stdio", "typescript-legacy-stdio", "typescript-modern-stdio"),
)
SECS_MAX = 60


class Up:
    """`weft up` in a folder, which says in `.weft` where its doors are."""

    def __init__(self, folder: Path):
        self.folder = folder
        doors = ("--listen-sidecars", "--listen-operators", "--listen-health", "--listen-agent")
        ports = [word for door in doors for word in (door, "127.0.0.1:0")]
        self._log = (folder / "log").open("wb")
        command = [os.environ["WEFT_BIN"], "up", *ports]
        self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=self._log)
        # Whatever it says is to be taken, or it waits.
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        eventually((folder / ".weft/operator.json").exists, within=SECS_MAX)
        eventually(lambda: self._ran("status").returncode == 0, within=SECS_MAX)

    def _ran(self, *words: str, stdin: str = ""):
        command = [os.environ["WEFT_BIN"], *words]
        return subprocess.run(command, cwd=self.folder, input=stdin, capture_output=True, text=True, timeout=30)

    def weft(self, *words: str, stdin: str = "") -> str:
        ran = self._ran(*words, stdin=stdin)
        assert ran.returncode == 0, f"{words}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def items(self, server: str) -> dict:
        """What is known of a server, by kind and name."""
        listed = json.loads(self.weft("tools", "list", f"tests/{server}", "--kind", "all", "-o", "json"))
        return {(it["kind"], it["name"]): it for it in listed["items"]}

    def close(self):
        self._process.terminate()
        self._process.wait(20)
        self._log.close()


def declared(parts, name: str) -> str:
    """The resource of a server, as JSON, which is YAML."""
    if name in STDIO:
        command, *args = map(str, STDIO[name])
        env = {"NODE_PATH": str(MODULES), "PATH": os.environ["PATH"]}
        spec = {"stdio": {"command": command, "args": args, "env": env}}
    else:
        spec = {"workload": {"labels": {"app": name}, "port": parts.port(name)}}
    metadata = {"namespace": "tests", "name": name}
    return json.dumps({"apiVersion": "weft.dev/v1alpha1", "kind": "McpServer", "metadata": metadata, "spec": spec})


@pytest.fixture(scope="module")
def up(parts, tmp_path_factory):
    if parts.is_direct:
        pytest.skip("there is no catalogue without sidecars")
    up = Up(tmp_path_factory.mktemp("up"))
    try:
        up.weft("apply", "-f", "-", stdin="\n---\n".join(declared(parts, name) for name in SERVERS))
        yield up
    finally:
        up.close()


@pytest.mark.parametrize("server", SERVERS)
def test_everything_that_a_server_offers_is_in_the_catalogue(up, server):
    items = eventually(lambda: up.items(server), within=SECS_MAX)
    of = lambda kind: {name for found, name in items if found == kind}  # noqa: E731
    assert {it["name"] for it in FIXTURE["tools"]} <= of("tool")
    assert {it["name"] for it in FIXTURE["prompts"]} <= of("prompt")
    assert {it["uri"] for it in FIXTURE["resources"]} <= of("resource")
    assert {it["uriTemplate"] for it in FIXTURE["templates"]} <= of("template")
    assert all((it["instances"], it["agreeing"]) == (1, 1) for it in items.values())


def test_words_find_it_and_a_registry_client_reads_it(up):
    for server in SERVERS:
        eventually(lambda: up.items(server), within=SECS_MAX)
    found = json.loads(up.weft("tools", "search", "embedded", "resource", "--kind", "prompt", "-o", "json"))
    assert {it["name"] for it in found["items"][: len(SERVERS)]} == {"test_prompt_with_embedded_resource"}
    operator = json.loads((up.folder / ".weft/operator.json").read_text())
    answer = requests.get(
        f"{operator['server']}/v0.1/servers",
        params={"limit": 100},
        headers={"Authorization": f"Bearer {operator['token']}"},
        verify=str(up.folder / ".weft" / operator["caFile"]),
        timeout=10,
    )
    servers = {it["server"]["name"]: it["server"] for it in answer.json()["servers"]}
    assert {f"tests/{name}" for name in SERVERS} <= servers.keys()
    assert servers["tests/python"]["version"] == FIXTURE["server"]["version"]
