"""The chart as it is installed, with the control plane that it describes: its arguments, its settings, and the rights of its
account and no others. Only its node is missing, so that it runs on this machine."""

import json

import pytest

from charts import CHART, helm
from cluster import Cluster, Refused
from installed import SYSTEM, Installed
from processes import eventually

def forbidden(installed: Installed) -> list[str]:
    """What the control plane was not allowed, as it complained."""
    # An answer of the API server says both: its status, and the reason.
    return [line for line in installed.log().splitlines() if "forbidden" in line.lower()]


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    cluster = Cluster(folder / "cluster")
    installed = None
    try:
        cluster.start()
        helm("install", "weft", CHART, "-n", SYSTEM, "--create-namespace", cluster=cluster)
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


def test_pods_without_a_sidecar_are_told_of_with_the_rights_of_the_release(main):
    cluster = main.cluster
    cluster.namespace("late")
    cluster.kubectl("run", "old", "--image=app", "-n", "late")
    cluster.kubectl("label", "namespace", "late", "weft.dev/inject=enabled")

    def told() -> set[str]:
        events = cluster.get("events.events.k8s.io", "-n", "late")["items"]
        return {it["reason"] for it in events if it["reportingController"] == "weft"}

    eventually(lambda: "SidecarMissing" in told(), within=40)
    eventually(lambda: sidecar(made(cluster, "late", "new")), within=20)
    cluster.kubectl("run", "new", "--image=app", "-n", "late")
    eventually(lambda: "Injected" in told(), within=20)
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
    helm("install", "next", CHART, "-n", SYSTEM, *values, cluster=cluster)
    beside = Installed(cluster, tmp_path / "next", "next")
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
