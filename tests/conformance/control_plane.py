"""A control plane as a process of its own, and its API for operators."""

import base64
import json
import os
import queue
import re
import secrets
import subprocess
import threading
import time
from pathlib import Path

import grpc
import requests

TRUST_DOMAIN = "mesh.test"
START_SECS_MAX = 20


def eventually(look, within: float = 5.0):
    """The first true thing that `look` returns; looks again until time is up."""
    deadline = time.monotonic() + within
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not within {within} s: {look}; the last look gave {seen!r}"
        time.sleep(0.01)


def _session() -> requests.Session:
    """One that neither proxies nor certificates of its surroundings lead astray."""
    session = requests.Session()
    session.trust_env = False
    return session


class ControlPlane:
    """`weft control-plane` with its data in `directory`. It may be started again after it ended, on new ports."""

    def __init__(self, directory: Path, *flags: str):
        self.directory = directory
        self.flags = flags
        self.admin_token = None
        self._process = None
        self._channels = []
        self._starts = 0

    def start(self) -> "ControlPlane":
        self._starts += 1
        if self._starts == 1:
            self._write_ca_key()
        command = [
            os.environ["WEFT_BIN"],
            "control-plane",
            *("--data-dir", self.directory / "data"),
            *("--ca-key-file", self.directory / "ca.key"),
            *("--trust-domain", TRUST_DOMAIN),
            *("--listen-sidecars", "127.0.0.1:0"),
            *("--listen-operators", "127.0.0.1:0"),
            *("--listen-health", "127.0.0.1:0"),
            *("--log-format", "json"),
            *self.flags,
        ]
        with open(self._log_path(), "wb") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=self.directory)
        ready = self._ready_line()
        self.sidecars, self.health = ready["sidecars"], ready["health"]
        self.ca_file = self.directory / ready["caFile"]
        self.admin_token = ready.get("adminToken", self.admin_token)
        self.operator = Operator(ready["operators"], self.ca_file, self.admin_token)
        return self

    def kill(self):
        """Ends it as a power cut would."""
        self._process.kill()
        self._end()

    def stop(self):
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._end()

    def _end(self):
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        if self._process:
            self._process.wait()
            self._process.stdout.close()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("log-*")))

    def roots_pem(self) -> bytes:
        return self.ca_file.read_bytes()

    def channel(self, identity=None, *options: tuple[str, int]) -> grpc.Channel:
        """A connection of its own, with the identity's certificate if one is given."""
        credentials = grpc.ssl_channel_credentials(
            self.roots_pem(),
            private_key=identity and identity.key_pem,
            certificate_chain=identity and identity.chain_pem,
        )
        options = [
            *options,
            ("grpc.ssl_target_name_override", "localhost"),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
        ]
        channel = grpc.secure_channel(self.sidecars, credentials, options)
        self._channels.append(channel)
        return channel

    def is_ready(self) -> bool:
        return _session().get(f"http://{self.health}/healthz/ready", timeout=5).status_code == 200

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the metric's samples that carry these labels."""
        text = _session().get(f"http://{self.health}/metrics", timeout=5).text
        total = 0.0
        for found in re.finditer(rf"^{name}(?:\{{(.*)\}})? (\S+)", text, re.MULTILINE):
            carried = dict(re.findall(r'(\w+)="([^"]*)"', found[1] or ""))
            if labels.items() <= carried.items():
                total += float(found[2])
        return total

    def _write_ca_key(self):
        """The key that the authority's keys rest under."""
        opened = os.open(self.directory / "ca.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with open(opened, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(32)))

    def _log_path(self) -> Path:
        return self.directory / f"log-{self._starts}"

    def _ready_line(self) -> dict:
        lines = queue.SimpleQueue()
        threading.Thread(
            target=lambda out: lines.put(out.readline()), args=[self._process.stdout], daemon=True
        ).start()
        try:
            line = lines.get(timeout=START_SECS_MAX)
        except queue.Empty:
            line = b""
        if not line:
            self._process.kill()
            self._end()
            raise AssertionError(f"the control plane did not start:\n{self.log()[-4000:]}")
        return json.loads(line)


class Operator:
    """The API for operators, with the administrator's token."""

    def __init__(self, address: str, ca_file: Path, token: str):
        self._base = f"https://localhost:{address.rsplit(':', 1)[1]}"
        self._session = _session()
        self._session.verify = str(ca_file)
        self._session.headers["authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, **parts):
        answer = self._session.request(method, self._base + path, timeout=30, **parts)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def apply(self, *objects: dict) -> int:
        """Applies all the objects in one revision and waits until that is what sidecars are told."""
        return self._documents("/v1/apply", objects)

    def delete(self, *objects: dict) -> int:
        return self._documents("/v1/delete", objects)

    def delete_if_there(self, it: dict):
        metadata = it["metadata"]
        found = self.call(
            "GET", "/v1/resources", params={"kind": it["kind"], "namespace": metadata["namespace"]}
        )
        if metadata["name"] in {other["metadata"]["name"] for other in found["items"]}:
            self.delete(it)

    def _documents(self, path: str, objects) -> int:
        body = "\n---\n".join(json.dumps(it) for it in objects)
        return self._published(
            self.call("POST", path, data=body, headers={"content-type": "application/yaml"})
        )

    def roll_back(self, revision: int) -> int:
        return self._published(self.call("POST", "/v1/rollback", json={"to": revision}))

    def _published(self, change: dict) -> int:
        if any(it["action"] != "unchanged" for it in change["results"]):
            eventually(lambda: self.published_revision() >= change["revision"])
        return change["revision"]

    def published_revision(self) -> int:
        """The revision that sidecars are told."""
        return self.call("GET", "/v1/version")["publishedRevision"]

    def make_token(self, namespace: str, account: str, **more) -> dict:
        identity = {"namespace": namespace, "serviceAccount": account}
        return self.call("POST", "/v1/tokens", json={"identity": identity, **more})

    def token_state(self, token_id: str) -> str:
        return next(it["state"] for it in self.call("GET", "/v1/tokens")["items"] if it["id"] == token_id)

    def sidecar(self, node: str) -> dict:
        return self.call("GET", f"/v1/sidecars/{node}")

    def sidecar_type(self, node: str, type_name: str) -> dict:
        """What is known of one type at one sidecar; nothing if it has not asked for it."""
        found = [it for it in self.sidecar(node)["types"] if it["type"].rsplit(".", 1)[-1] == type_name]
        return found[0] if found else {}
