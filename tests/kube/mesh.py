"""A mesh on a node: a release of the chart, and the pods that its webhooks put sidecars into."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import yaml

import pods
from calls import call
from charts import CHART, helm
from cluster import NODE, Cluster, Refused
from node import Node, Pod
from processes import eventually

DOMAIN = "weft.local"
SYSTEM = "weft-system"
READY_SECS_MAX = 90
# The folder that `deploy/images` makes images from, where pods are to run in those and not in images of what was just built.
SHIPPED = os.environ.get("WEFT_IMAGES")
# Where the operator's command is in the image of the control plane.
WEFT = "/usr/bin/weft" if SHIPPED else "/opt/weft"


class Mesh:
    """A cluster with one node, a control plane on it, and one agent."""

    def __init__(self, folder: Path):
        self.folder = folder
        number = os.getpid() % 250
        self.cluster = Cluster(folder / "cluster")
        self.images = pods.Node(folder / "images", subnet=number, dns=False)
        self.node = Node(self.cluster, folder / "node", number)
        self.control_plane = self.node.pod("weft-control-plane-0", SYSTEM)

    def start(self):
        self.cluster.start()
        self.cluster.schedules()
        self.node.start(self._build_images())
        self._install()
        for namespace, account in (("library", "servers"), ("agents", "assistant")):
            self.cluster.namespace(namespace, weft_dev__inject="enabled")
            self.cluster.kubectl("create", "serviceaccount", account, "-n", namespace)
            eventually(lambda it=namespace: self.cluster.finds("configmap", "weft-roots", "-n", it), within=30)
        self.agent = self.runs(agent("assistant", args=["127.0.0.1:9999"]))

    def stop(self):
        for part in (self.node, self.images, self.cluster):
            part.stop()

    def makes(self, manifest: dict) -> Pod:
        """Makes a pod, which has the control plane's address at hand: nothing here answers for the names of Services."""
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
            raise AssertionError(f"{pod.told()}{self.control_plane.told()}{self.node.told()}") from error
        return pod

    def deploys(self, name: str, template: dict, replicas: int):
        """Makes a Deployment of pods as `template` is one, and waits until all of them are ready."""
        metadata = {key: it for key, it in template["metadata"].items() if key in ("labels", "annotations")}
        self.cluster.apply({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "library"},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": metadata, "spec": template["spec"] | {"hostAliases": self.names}},
            },
        })
        self.rolled_out(name)

    def rolled_out(self, name: str):
        """Waits until every pod of a Deployment is as it is to be."""
        try:
            self.cluster.kubectl("rollout", "status", f"deployment/{name}", "-n", "library", "--timeout=59s")
        except Refused as error:
            told = self.cluster.kubectl("describe", "pods", "-n", "library", "-l", f"app={name}")
            raise AssertionError(f"{told}{self.node.told()}") from error

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
        pid = self.control_plane.pid("control-plane")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @property
    def names(self) -> list[dict]:
        service = self.cluster.get("service", "weft-control-plane", "-n", SYSTEM)
        return [{"ip": service["spec"]["clusterIP"], "hostnames": [f"weft-control-plane.{SYSTEM}.svc"]}]

    def _build_images(self) -> list[Path]:
        self.images.build("pause:1", Path(shutil.which("catatonit")), "-P")
        # The sidecar of a command runs in the command's image; that of our own images would need nothing there.
        sidecar = Path(os.environ["WEFT_SIDECAR_BIN"])
        self.images.build("small:1", pods.small_server(self.folder), also=sidecar)
        if SHIPPED:
            for it in ("sidecar", "control-plane"):
                self.images.build_shipped(it, f"weft-{it}:1", Path(SHIPPED))
        else:
            self.images.build("weft-control-plane:1", Path(os.environ["WEFT_BIN"]))
            self.images.build("weft-sidecar:1", sidecar, user=pods.SIDECAR_USER)
        archives = []
        for it in ("pause", "small", "weft-control-plane", "weft-sidecar"):
            archives.append(self.folder / f"{it}.tar")
            self.images.podman("save", "--quiet", "--format=docker-archive", "-o", archives[-1], f"localhost/{it}:1")
        return archives

    def _install(self):
        """Installs the chart, and waits until its control plane is ready and its webhooks answer."""
        place = self.folder / "volume"
        place.mkdir()
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
        self.cluster.apply({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"},
            "spec": {
                "capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": str(place)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        })
        images = "image.hub=localhost,image.tag=1,image.pullPolicy=Never"
        helm("install", "weft", CHART, "-n", SYSTEM, "--create-namespace", "--set-string", images, cluster=self.cluster)
        eventually(lambda: self.cluster.finds("pod", self.control_plane.name, "-n", SYSTEM), within=20)
        self.awaits(self.control_plane)
        self.cluster.namespace("trial", weft_dev__inject="enabled")
        self.injects()

    def injects(self):
        """Waits until pods are made with sidecars."""

        def is_injected():
            trial = json.dumps(server("trial", namespace="trial", account="default"))
            made = self.cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=trial)
            return "weft-sidecar" in made

        eventually(is_injected, within=40)


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
                "to": [{"tools": ["greet", "wait", "sicken", "words"]}],
            }],
        },
    }
    return yaml.safe_dump_all([*servers, policy])
