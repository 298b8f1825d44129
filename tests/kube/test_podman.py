"""Injected pods that run: podman is their kubelet, the cluster's own API server says who they are.

The sidecar is in its plain form, for podman 4.3 has no native sidecars. Its program is the one that was just built, with the
libraries that it is linked with; that the static one of the images runs without any is shown by `test_images.py`.
"""

import json
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from calls import call, is_busy, text
from charts import ROOT
from cluster import Cluster
from pods import SIDECAR_USER, Node, small_server
from processes import Process, eventually

DOMAIN = "weft.local"
SERVERS = """
apiVersion: weft.dev/v1alpha1
kind: McpServer
metadata: { name: catalogue, namespace: library }
spec: { workload: { labels: { app: catalogue }, port: 8080 }, serviceAccount: catalogue }
---
apiVersion: weft.dev/v1alpha1
kind: McpServer
metadata: { name: notes, namespace: library }
spec: { workload: { labels: { app: notes } }, serviceAccount: notes }
---
apiVersion: weft.dev/v1alpha1
kind: AccessPolicy
metadata: { name: readers, namespace: library }
spec:
  servers: { names: [catalogue, notes] }
  rules:
    - { action: allow, from: [{ serviceAccounts: [agents/assistant] }], to: [{ tools: [greet, wait] }] }
"""


def manifest(name: str, namespace: str, container: dict, **annotations: str) -> dict:
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "labels": {"app": name},
            "annotations": {f"weft.dev/{key.replace('_', '-')}": it for key, it in annotations.items()},
        },
        "spec": {
            "serviceAccountName": name,
            "terminationGracePeriodSeconds": 30,
            "containers": [{"name": name, "imagePullPolicy": "Never", **container}],
        },
    }


PODS = [
    manifest("catalogue", "library", {"image": "localhost/small:1"}, servers="catalogue", port="8080"),
    manifest(
        "notes", "library", {"image": "localhost/weft:1", "command": ["/opt/weft", "example-server"]},
        servers="notes", stdio="notes",
    ),
    manifest("assistant", "agents", {"image": "localhost/small:1", "args": ["127.0.0.1:9999"]}),
]


class Mesh:
    """A cluster, its control plane, and the pods that run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cluster = Cluster(folder / "cluster")
        self.node = Node(folder / "node", subnet=os.getpid() % 250)
        self.pods = {}

    def start(self):
        self.cluster.start()
        self.cluster.kubectl("apply", "--server-side", "-f", ROOT / "deploy/crds")
        for namespace in ("weft-system", "library", "agents"):
            self.cluster.namespace(namespace)
        for namespace, account in (("library", "catalogue"), ("library", "notes"), ("agents", "assistant")):
            self.cluster.kubectl("create", "serviceaccount", account, "-n", namespace)
        self.control_plane = Process(
            self.folder / "control-plane.log", os.environ["WEFT_BIN"], "control-plane", "--kubernetes",
            f"--kubeconfig={self.cluster.kubeconfig}", f"--data-dir={self.folder / 'data'}",
            f"--trust-domain={DOMAIN}", "--listen-sidecars=0.0.0.0:0", "--listen-operators=127.0.0.1:0",
            "--listen-health=127.0.0.1:0", "--listen-webhooks=127.0.0.1:0",
        )
        self._build_images()
        self.cluster.apply(SERVERS)
        for it in ("library", "agents"):
            eventually(lambda it=it: self.cluster.finds("configmap", "weft-roots", "-n", it), within=30)
        self.cluster.kubectl("create", "-f", "-", stdin=self._injected())
        for it in PODS:
            metadata = it["metadata"]
            pod = self.node.play(self.cluster, metadata["name"], metadata["namespace"], f"weft.{DOMAIN}")
            self.pods[metadata["name"]] = pod
        for pod in self.pods.values():
            try:
                eventually(lambda pod=pod: is_ready(pod), within=60)
            except AssertionError as error:
                raise AssertionError(self.told(pod.pod)) from error

    def told(self, pod: str) -> str:
        """What there is to read when something went wrong."""
        found = self.pods[pod]
        container = "notes" if pod == "notes" else "weft-sidecar"
        return found.log(container)[-3000:] + self.control_plane.log()[-3000:]

    def _build_images(self):
        self.node.build("small:1", small_server(self.folder))
        self.node.build("weft:1", Path(os.environ["WEFT_BIN"]))
        self.node.build("weft-sidecar:1", Path(os.environ["WEFT_SIDECAR_BIN"]), user=SIDECAR_USER)

    def _injected(self) -> str:
        port = self.control_plane.ready["sidecars"].rsplit(":", 1)[1]
        command = [
            os.environ["WEFT_BIN"], "inject", "-f", "-", "--no-native", "--image=localhost/weft-sidecar:1",
            "--image-pull-policy=Never", f"--trust-domain={DOMAIN}",
            f"--control-plane=weft-control-plane.weft-system.svc:{port}",
        ]
        given = yaml.safe_dump_all(PODS)
        return subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=30).stdout

    def call(self, server: str, tool: str, arguments: dict) -> dict:
        """A call of the agent through its own sidecar."""
        return call(self.pods["assistant"], server, tool, arguments)

    def answered(self, server: str, tool: str, arguments: dict) -> dict:
        """The first call that is answered: where instances are is known a moment after they are ready."""
        last = []

        def is_answered():
            last[:] = [self.call(server, tool, arguments)]
            return "result" in last[0]

        try:
            eventually(is_answered, within=30)
        except AssertionError as error:
            raise AssertionError(f"{last[0]}\n{self.told('assistant')}{self.told(server)}") from error
        return last[0]

    def stop(self):
        for part in (self.node.stop, getattr(self, "control_plane", None) and self.control_plane.stop, self.cluster.stop):
            if part:
                part()


def is_ready(pod) -> bool:
    try:
        with urllib.request.urlopen(f"http://{pod.address}:7401/healthz/ready", timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    assert shutil.which("podman"), "podman is missing"
    mesh = Mesh(tmp_path_factory.mktemp("podman"))
    try:
        mesh.start()
        yield mesh
    finally:
        mesh.stop()


def test_an_agent_calls_a_server_through_both_sidecars_as_who_it_is(mesh):
    answer = mesh.answered("catalogue", "greet", {"name": "pod"})
    assert text(answer) == "Hello, pod!"
    caller = f"spiffe://{DOMAIN}/ns/agents/sa/assistant"
    # The access log of the server's sidecar is written beside the calls.
    eventually(lambda: caller in mesh.pods["catalogue"].log("weft-sidecar"), within=10)
    refused = mesh.call("catalogue", "destroy", {})
    assert refused["error"]["data"]["reason"] == "denied", refused


def test_a_command_of_a_pod_is_served_by_the_sidecar_that_was_copied_to_it(mesh):
    answer = mesh.answered("notes", "greet", {"name": "pipe"})
    assert text(answer) == "Hello, pipe!"
    assert mesh.call("notes", "delete_everything", {})["error"]["data"]["reason"] == "denied"


def test_the_server_is_reached_by_no_other_way(mesh):
    at = mesh.pods["catalogue"].address
    around = mesh.pods["assistant"].inside("curl", "-sS", "--max-time", "5", f"http://{at}:8080/healthz")
    assert around.returncode == 7, around
    # Nor is its sidecar, without a certificate of the mesh.
    naked = mesh.pods["assistant"].inside("curl", "-sSk", "--max-time", "5", f"https://{at}:7443/mcp")
    assert naked.returncode != 0, naked


def test_the_sidecar_holds_nothing_that_the_pod_did_not_give_it(mesh):
    inspected = json.loads(mesh.node.podman("inspect", "library-catalogue-weft-sidecar"))[0]
    assert inspected["Config"]["User"] == "7443:7443" or inspected["Config"]["User"] == "7443"
    assert inspected["HostConfig"]["ReadonlyRootfs"]
    assert inspected["EffectiveCaps"] in (None, [])
    pid = inspected["State"]["Pid"]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert (int(status["CapEff"], 16), status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == (0, "1", "2")


def test_what_is_under_way_is_answered_when_the_pod_is_asked_to_end(mesh):
    said = []
    wait = {"name": "late", "milliseconds": 3000}
    caller = threading.Thread(target=lambda: said.append(mesh.call("catalogue", "wait", wait)))
    caller.start()
    eventually(lambda: is_busy(mesh.pods["catalogue"]), within=10)
    mesh.pods["catalogue"].stop(grace_secs=30)
    caller.join(30)
    assert text(said[0]) == "Hello, late!"
    for container in ("weft-sidecar", "catalogue"):
        assert mesh.pods["catalogue"].state(container)["ExitCode"] == 0, mesh.told("catalogue")
