"""The chart as it is installed, with the control plane that it describes: its arguments, its settings, and the rights of its
account and no others. Only its node is missing, so that it runs on this machine."""

import json
import os

import pytest
import yaml

from charts import CHART, helm
from cluster import Cluster, Refused
from processes import Process, eventually

SYSTEM = "weft-system"


class Installed:
    """A release in a cluster of its own, and its control plane."""

    def __init__(self, cluster: Cluster, folder, release: str, *values: str):
        self.cluster, self.release = cluster, release
        helm("install", release, CHART, "-n", SYSTEM, "--create-namespace", *values, cluster=cluster)
        suffix = "" if release == "weft" else f"-{release}"
        self.name = f"weft-control-plane{suffix}"
        said = eventually(lambda: cluster.finds("pod", f"{self.name}-0", "-n", SYSTEM), within=20)
        folder.mkdir()
        args = said["spec"]["containers"][0]["args"]
        settings = cluster.get("configmap", f"weft-injector{suffix}", "-n", SYSTEM)["data"]["settings.yaml"]
        (folder / "settings.yaml").write_text(settings)
        moved = {"--data-dir=/var/lib/weft": f"--data-dir={folder / 'data'}"}
        moved["--injector-settings=/etc/weft/settings.yaml"] = f"--injector-settings={folder / 'settings.yaml'}"
        assert set(moved) <= set(args)
        doors = [f"--listen-{door}=127.0.0.1:0" for door in ("sidecars", "operators", "health")]
        self.process = Process(
            folder / "control-plane.log", os.environ["WEFT_BIN"], *(moved.get(it, it) for it in args), *doors,
            "--listen-webhooks=0.0.0.0:0", f"--kubeconfig={self._kubeconfig(folder)}",
            WEFT_POD_NAME=said["metadata"]["name"],
        )
        cluster.answers(f"weft-webhooks{suffix}", SYSTEM, webhooks=int(self.process.ready["webhooks"].rsplit(":", 1)[1]))

    def _kubeconfig(self, folder):
        """How the pod reaches the API server: by the token of its account."""
        config = yaml.safe_load(self.cluster.kubeconfig.read_text())
        token = self.cluster.kubectl("create", "token", self.name, "-n", SYSTEM).strip()
        config["users"][0]["user"] = {"token": token}
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        return folder / "kubeconfig"

    def log(self) -> str:
        return self.process.log()


def forbidden(installed: Installed) -> list[str]:
    """What the control plane was not allowed, as it complained."""
    return [line for line in installed.log().splitlines() if "forbidden" in line.lower() or "403" in line]


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    cluster = Cluster(folder / "cluster")
    installed = None
    try:
        cluster.start()
        installed = Installed(cluster, folder / "main", "weft")
        yield installed
    finally:
        if installed:
            installed.process.stop()
        cluster.stop()


def made(cluster: Cluster, namespace: str, name: str, **labels: str) -> dict:
    """A pod as the API server would make it."""
    it = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {f"weft.dev/{key}": it for key, it in labels.items()}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }
    return json.loads(cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(it)))


def sidecar(pod: dict) -> str | None:
    images = [it["image"] for it in pod["spec"].get("initContainers", []) if it["name"] == "weft-sidecar"]
    return images[0] if images else None


def test_the_control_plane_leads_and_is_found_by_its_service(main):
    cluster = main.cluster
    leader = ("pod", f"{main.name}-0", "-n", SYSTEM)
    eventually(lambda: cluster.get(*leader)["metadata"]["labels"].get("weft.dev/leader") == "true", within=30)
    selector = cluster.get("service", main.name, "-n", SYSTEM)["spec"]["selector"]
    labels = cluster.get(*leader)["metadata"]["labels"]
    assert selector.items() <= labels.items() and "weft.dev/leader" in selector
    assert not forbidden(main)


def test_pods_of_a_namespace_that_opts_in_get_the_sidecar_of_the_release(main):
    cluster = main.cluster
    cluster.namespace("shop", weft_dev__inject="enabled")
    eventually(lambda: sidecar(made(cluster, "shop", "app")), within=30)
    assert sidecar(made(cluster, "shop", "app")) == "weft-sidecar:0.1.0"
    assert sidecar(made(cluster, "shop", "app", inject="disabled")) is None
    assert eventually(lambda: cluster.finds("configmap", "weft-roots", "-n", "shop"), within=20)
    assert not forbidden(main)


def test_resources_with_mistakes_are_refused_and_others_say_what_became_of_them(main):
    cluster = main.cluster
    server = {
        "apiVersion": "weft.dev/v1alpha1", "kind": "McpServer", "metadata": {"name": "catalogue", "namespace": "default"},
        "spec": {"workload": {"labels": {"app": "catalogue"}, "port": 8080}},
    }
    policy = {
        "apiVersion": "weft.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "wrong", "namespace": "default"},
        "spec": {"servers": {"names": ["catalogue"]}, "rules": [{"action": "allow", "when": "args.path +"}]},
    }

    def refused():
        try:
            cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(policy))
        except Refused as error:
            return "validator.weft.dev" in str(error) and "denied the request" in str(error)
        return False

    eventually(refused, within=30)
    cluster.apply(server)

    def accepted():
        status = cluster.get("mcpserver", "catalogue", "-n", "default").get("status", {})
        return any(it["type"] == "Accepted" and it["status"] == "True" for it in status.get("conditions", []))

    eventually(accepted, within=20)
    assert not forbidden(main)


def test_a_second_control_plane_is_tried_beside_the_first_and_taken_away_again(main, tmp_path):
    cluster = main.cluster
    values = ("--set", "revision=next,crds.install=false,proxy.image.tag=0.2.0")
    beside = Installed(cluster, tmp_path / "next", "next", *values)
    try:
        cluster.namespace("early", weft_dev__revision="next")
        eventually(lambda: sidecar(made(cluster, "early", "app")) == "weft-sidecar:0.2.0", within=30)
        # Whoever did not ask for it keeps the first.
        assert sidecar(made(cluster, "shop", "app")) == "weft-sidecar:0.1.0"
        assert sidecar(made(cluster, "shop", "app", revision="next")) == "weft-sidecar:0.2.0"
        assert not forbidden(beside) and not forbidden(main)
        helm("uninstall", "next", "-n", SYSTEM, cluster=cluster)
        eventually(lambda: sidecar(made(cluster, "early", "app")) is None, within=30)
        assert sidecar(made(cluster, "shop", "app")) == "weft-sidecar:0.1.0"
    finally:
        beside.process.stop()


def test_what_the_control_plane_made_at_run_time_is_found_by_one_label(main):
    cluster = main.cluster
    label = "app.kubernetes.io/managed-by=weft-control-plane"
    eventually(lambda: cluster.get("configmaps", "-A", "-l", label)["items"], within=20)
    kinds = {(it["kind"], it["metadata"]["name"]) for it in cluster.get("configmaps,secrets", "-A", "-l", label)["items"]}
    secrets = {("Secret", f"weft-{it}") for it in ("issuer", "root", "admin", "sessions")}
    assert kinds == {("ConfigMap", "weft-roots")} | secrets
