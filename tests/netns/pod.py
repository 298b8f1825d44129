"""A pod: a network namespace with a server on every address and the sidecar beside it; and another namespace, joined to it by
a cable, for whoever calls from elsewhere."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

from mesh import AGENT, TRUST_DOMAIN, Authority, document
from processes import Process, eventually

HERE = Path(__file__).parent
SECS_MAX = 20
# The server's port that is captured, one of its ports that is not, and the sidecar's.
PORT, FREE_PORT, SIDECAR_PORT = 9000, 9001, 7443
SIDECAR_USER = 7443
# The pod's addresses, as others have them.
ADDRESSES = ("10.77.0.1", "fd77::1")
LOOPBACK = ("127.0.0.1", "::1")
SERVER = ("tests", "server")
SERVER_ID = f"spiffe://{TRUST_DOMAIN}/ns/{SERVER[0]}/sa/{SERVER[1]}"
AGENT_ID = f"spiffe://{TRUST_DOMAIN}/ns/{AGENT[0]}/sa/{AGENT[1]}"
NUMBERS = itertools.count(1)


class Pod:
    def __init__(self, folder: Path):
        self.folder = folder
        self.authority = Authority(folder / "authority")
        number = next(NUMBERS)
        self.inside, self.outside = (f"{os.environ['WEFT_NETNS']}-{number}-{it}" for it in ("pod", "other"))
        self._made = []
        self._processes = []

    def start(self):
        for namespace in (self.inside, self.outside):
            ip("netns", "add", namespace)
            self._made.append(namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", self.inside, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.outside)
        for namespace, end in ((self.inside, 1), (self.outside, 2)):
            ip("-n", namespace, "addr", "add", f"10.77.0.{end}/24", "dev", "eth0")
            ip("-n", namespace, "addr", "add", f"fd77::{end}/64", "dev", "eth0", "nodad")
            ip("-n", namespace, "link", "set", "eth0", "up")
        self._heard = self.folder / "heard"
        python = [sys.executable, HERE / "server.py", self._heard, PORT, FREE_PORT]
        self._processes.append(Process(self.folder / "server.log", *self._within(self.inside), *python))
        self.sidecar = self._sidecar()
        self._processes.append(self.sidecar)

    def _sidecar(self) -> Process:
        resources = [
            document("Trust", "weft-system", "mesh", {"trustDomain": TRUST_DOMAIN}),
            document("McpServer", *SERVER, {"workload": {"labels": {"app": "server"}, "port": PORT},
                                            "serviceAccount": SERVER[1]}),
            document("AccessPolicy", SERVER[0], "agents", {
                "servers": {"names": [SERVER[1]]},
                "rules": [{"action": "allow", "from": [{"serviceAccounts": ["/".join(AGENT)]}]}],
            }),
        ]
        resources_file, file = self.folder / "resources.yaml", self.folder / "sidecar.yaml"
        resources_file.write_text("\n---\n".join(map(json.dumps, resources)))
        file.write_text(json.dumps({
            "node": {"id": "/".join(SERVER), "labels": {"app": "server"}, "servers": ["/".join(SERVER)]},
            "source": {"file": {"resources": str(resources_file),
                                "identity": self.authority.identity(*SERVER).as_files()}},
            "listen": {"inbound": f"[::]:{SIDECAR_PORT}", "outbound": None, "health": "127.0.0.1:0",
                       "admin": "127.0.0.1:0"},
        }))
        # Its user's id as in a pod; it reads the files of these tests all the same.
        user = [
            "setpriv", f"--reuid={SIDECAR_USER}", f"--regid={SIDECAR_USER}", "--clear-groups",
            "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
        ]
        command = [*self._within(self.inside), *user, os.environ["WEFT_SIDECAR_BIN"], "run", "--config", file]
        return Process(self.folder / "sidecar.log", *command)

    def stop(self):
        for process in reversed(self._processes):
            process.stop()
        for namespace in reversed(self._made):
            ip("netns", "del", namespace)

    def capture(self, *ports: int):
        done = self.run_capture("--port", ",".join(map(str, ports or [PORT])))
        assert done.returncode == 0, done.stderr

    def run_capture(self, *flags, before=()) -> subprocess.CompletedProcess:
        command = [*before, os.environ["WEFT_SIDECAR_BIN"], "capture", *flags]
        return run(*self._within(self.inside), *command)

    def rules(self) -> str:
        return self.nft("list", "ruleset").stdout

    def nft(self, *words: str) -> subprocess.CompletedProcess:
        done = run(*self._within(self.inside), "nft", *words)
        assert done.returncode == 0, done.stderr
        return done

    def release(self):
        self.nft("flush", "ruleset")

    def call(self, address: str, port: int = PORT, account=None, inside_as: int | None = None) -> dict:
        """One call: with mutual TLS as a workload if there is an account, from within the pod if there is a user."""
        files = [] if account is None else self.authority.identity(*account).as_files().values()
        namespace = self.outside if inside_as is None else self.inside
        return self._caller(namespace, inside_as, "call", address, port, *files)

    def send(self, address: str, text: str, *ports: int):
        """Datagrams from elsewhere, to one port after the other."""
        sent = self._caller(self.outside, None, "datagrams", address, text, *ports)
        assert sent == {}, sent

    def send_within(self, address: str, text: str, *ports: int) -> dict:
        """Datagrams of the sidecar's user to an address of the pod."""
        return self._caller(self.inside, SIDECAR_USER, "datagrams", address, text, *ports)

    def metric(self, name: str) -> float | None:
        """What the sidecar says of its server."""
        url = f"http://{self.sidecar.ready['health']}/metrics"
        shown = run(*self._within(self.inside), "curl", "--silent", "--fail", "--max-time", 5, url).stdout
        values = [line.rsplit(" ", 1)[1] for line in shown.splitlines() if line.startswith(f"{name}{{")]
        return float(values[0]) if len(values) == 1 else None

    def heard(self) -> list[dict]:
        """Everything that came to the server so far."""
        return [json.loads(line) for line in self._heard.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def hears(self, **said):
        eventually(lambda: said in self.heard())

    def _caller(self, namespace: str, user: int | None, *words) -> dict:
        become = [] if user is None else ["setpriv", f"--reuid={user}", "--inh-caps=+dac_read_search",
                                          "--ambient-caps=+dac_read_search"]
        done = run(*self._within(namespace), *become, sys.executable, HERE / "caller.py", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _within(self, namespace: str) -> list[str]:
        return ["ip", "netns", "exec", namespace]


def ip(*words: str):
    done = run("ip", *words)
    assert done.returncode == 0, (words, done.stderr)


def run(*words) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=SECS_MAX)
