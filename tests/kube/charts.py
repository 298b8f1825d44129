"""Helm, what it makes of the chart, and the plain manifests."""

import json
import os
import subprocess
from pathlib import Path

import yaml

from cluster import Cluster, Refused

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/weft"
HA = CHART / "values-ha.yaml"


def helm(*args, cluster: Cluster | None = None) -> str:
    """What Helm prints; raises what it says when it fails."""
    command = [os.environ["WEFT_HELM"], *map(str, args)]
    where = {"KUBECONFIG": str(cluster.kubeconfig)} if cluster else {"KUBECONFIG": "/dev/null"}
    done = subprocess.run(command, env=os.environ | where, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise Refused(done.stderr.strip())
    return done.stdout


def rendered(*args, namespace: str = "weft-system") -> list[dict]:
    """The objects that the chart says."""
    return [it for it in yaml.safe_load_all(helm("template", "weft", CHART, "-n", namespace, *args)) if it]


def manifests() -> list[dict]:
    """The objects of the plain manifests."""
    return [it for it in yaml.safe_load_all((ROOT / "deploy/kubernetes/weft.yaml").read_text()) if it]


def named(kind: str, name: str) -> dict:
    return next(it for it in manifests() if it["kind"] == kind and it["metadata"]["name"] == name)


def identity(it: dict) -> tuple[str, str, str]:
    metadata = it["metadata"]
    return it["kind"], metadata.get("namespace", ""), metadata["name"]


def everything(cluster: Cluster) -> set[tuple[str, str, str]]:
    """Every object of the cluster that somebody made, but for what the cluster says of itself."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    chatter = {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "endpoints", "componentstatuses"}
    kinds = [it for it in kinds if it not in chatter and not it.startswith("apiservices")]
    try:
        listed = cluster.kubectl("get", ",".join(kinds), "-A", "-o", "json", "--ignore-not-found")
    except Refused as refused:
        # A kind that went in between is a change as well.
        assert "the server doesn't have a resource type" in str(refused), refused
        return {("changing", "", "")}
    return {identity(it) for it in json.loads(listed or '{"items": []}')["items"]}
