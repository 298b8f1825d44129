"""A mesh on a node: the control plane on this machine, and the pods that its webhooks put sidecars into."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import yaml

import pods
from calls import call
from charts import named
from cluster import Cluster, free_port
from node import Node, Pod
from processes import Process, eventually

DOMAIN = "weft.local"
SYSTEM = "weft-system"
READY_SECS_MAX = 90


class Mesh:
    """A cluster with one node, its control plane, and one agent."""

    def __init__(self, folder: Path):
        self.folder = folder
        number = os.getpid() % 250
        self.cluster = Cluster(folder / "cluster")
        self.images = pods.Node(folder / "images", subnet=number, dns=False)
        self.node = Node(self.cluster, folder / "node", number)
        self.control_plane = None

    def start(self):
        self.cluster.start()
        self.cluster.defines()
        self.cluster.schedules()
        self.node.start(self._build_images())
        self.cluster.namespace(SYSTEM)
        self._inject()
        for namespace, account in (("library", "servers"), ("agents", "assistant")):
            self.cluster.namespace(namespace, weft_dev__inject="enabled")
            self.cluster.kubectl("create", "serviceaccount", account, "-n", namespace)
            eventually(lambda it=namespace: self.cluster.finds("configmap", "weft-roots", "-n", it), within=30)
        self.agent = self.runs(agent("assistant", args=["127.0.0.1:9999"]))

    def stop(self):
        for part in (self.node, self.control_plane, self.images, self.cluster):
            if part:
                part.stop()

    def makes(self, manifest: dict) -> Pod:
        """Makes a pod, which has the control plane's name at hand: nothing here answers for the names of Services."""
        metadata = manifest["metadata"]
        manifest["spec"]["hostAliases"] = self.names
        self.cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(manifest))
        return self.node.pod(metadata["name"], metadata["namespace"])

    def runs(self, manifest: dict) -> Pod:
        """Makes a pod and waits until its kubelet says that it is ready."""
        return self.awaits(self.makes(manifest))

    def awaits(self, pod: Pod) -> Pod:
        try:
            eventually(pod.is_ready, within=READY_SECS_MAX)
        except AssertionError as error:
            raise AssertionError(f"{pod.told()}{self.control_plane.log()[-3000:]}{self.node.told()}") from error
        return pod

    def answered(self, server: str, tool: str, **arguments) -> dict:
        """The first call that is answered: where a new instance is, agents know a moment after it is ready."""
        last = []

        def is_answered():
            last[:] = [call(self.agent, server, tool, arguments)]
            return "result" in last[0]

        try:
            eventually(is_answered, within=30)
        except AssertionError as error:
            raise AssertionError(f"{last[0]}\n{self.agent.told()}") from error
        return last[0]

    @contextmanager
    def frozen(self):
        """Lets the control plane answer nobody for a while."""
        os.kill(self.control_plane.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.control_plane.pid, signal.SIGCONT)

    @property
    def names(self) -> list[dict]:
        return [{"ip": self.node.host, "hostnames": [f"weft-control-plane.{SYSTEM}.svc"]}]

    def _build_images(self) -> list[Path]:
        self.images.build("pause:1", Path(shutil.which("catatonit")), "-P")
        self.images.build("small:1", pods.small_server(self.folder))
        self.images.build("weft-sidecar:1", Path(os.environ["WEFT_SIDECAR_BIN"]), user=pods.SIDECAR_USER)
        archives = []
        for it in ("pause", "small", "weft-sidecar"):
            archives.append(self.folder / f"{it}.tar")
            self.images.podman("save", "--quiet", "--format=docker-archive", "-o", archives[-1], f"localhost/{it}:1")
        return archives

    def _inject(self):
        """Starts the control plane with the webhooks of the manifests, and waits until they answer."""
        port = free_port()
        settings = yaml.safe_load(named("ConfigMap", "weft-injector")["data"]["settings.yaml"]) | {
            "trustDomain": DOMAIN, "controlPlane": f"weft-control-plane.{SYSTEM}.svc:{port}",
            "image": "localhost/weft-sidecar:1", "imagePullPolicy": "Never",
        }
        (self.folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        self.control_plane = Process(
            self.folder / "control-plane.log", os.environ["WEFT_BIN"], "control-plane", "--kubernetes",
            f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={SYSTEM}", f"--data-dir={self.folder / 'data'}",
            f"--trust-domain={DOMAIN}", f"--listen-sidecars=0.0.0.0:{port}", "--listen-operators=127.0.0.1:0",
            "--listen-health=127.0.0.1:0", "--listen-webhooks=0.0.0.0:0",
            f"--injector-settings={self.folder / 'settings.yaml'}",
        )
        self.cluster.apply(named("Service", "weft-webhooks"), named("MutatingWebhookConfiguration", "weft-injector"))
        webhooks = int(self.control_plane.ready["webhooks"].rsplit(":", 1)[1])
        self.cluster.answers("weft-webhooks", SYSTEM, webhooks=webhooks)
        self.cluster.namespace("trial", weft_dev__inject="enabled")

        def injects():
            trial = json.dumps(server("trial", namespace="trial", account="default"))
            made = self.cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=trial)
            return "weft-sidecar" in made

        eventually(injects, within=40)


def server(name: str, *args: str, namespace="library", account="servers", grace=30, **annotations: str) -> dict:
    """A pod with a server that asks for nothing but that its probes are asked often."""
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2}
    container = {
        "name": "server", "image": "localhost/small:1", "imagePullPolicy": "Never", "args": list(args),
        "livenessProbe": probe, "readinessProbe": probe,
    }
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "labels": {"app": name},
            "annotations": {f"weft.dev/{key.replace('_', '-')}": it for key, it in annotations.items()},
        },
        "spec": {"serviceAccountName": account, "terminationGracePeriodSeconds": grace, "containers": [container]},
    }


def agent(name: str, args: list[str]) -> dict:
    """A pod whose container calls servers, if it calls any."""
    made = server(name, *args, namespace="agents", account="assistant")
    for it in ("livenessProbe", "readinessProbe"):
        del made["spec"]["containers"][0][it]
    return made


def serving(*names: str) -> str:
    """The servers of these pods, which the agent may call."""
    servers = [{
        "apiVersion": "weft.dev/v1alpha1", "kind": "McpServer", "metadata": {"name": it, "namespace": "library"},
        "spec": {"workload": {"labels": {"app": it}, "port": 8080}, "serviceAccount": "servers"},
    } for it in names]
    policy = {
        "apiVersion": "weft.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "agents", "namespace": "library"},
        "spec": {
            "servers": {"names": list(names)},
            "rules": [{
                "action": "allow", "from": [{"serviceAccounts": ["agents/assistant"]}],
                "to": [{"tools": ["greet", "wait", "sicken"]}],
            }],
        },
    }
    return yaml.safe_dump_all([*servers, policy])
