"""What a control plane takes in a large cluster, and how soon a change of an object is with a sidecar.

The API server, etcd, the controllers, the control plane, one sidecar and this program share the machine.
"""

import argparse
import http.client
import json
import os
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

TESTS = Path(__file__).parents[2] / "tests"
sys.path += [str(TESTS / "kube"), str(TESTS / "real")]

from cluster import TOKEN, Cluster  # noqa: E402
from control_plane import NAMESPACE, TRUST_DOMAIN, ControlPlane, eventually, sidecar_file, token  # noqa: E402
from processes import Process  # noqa: E402

# Objects and pods are made by so many connections at once.
MAKERS = 8
NAMESPACES = 50


def main():
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--pods", type=int, default=5000)
    asked.add_argument("--resources", type=int, default=1000)
    asked.add_argument("--changes", type=int, default=200)
    asked = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder) / "cluster")
        try:
            cluster.start()
            measure(cluster, Path(folder), asked)
        finally:
            cluster.stop()


def measure(cluster: Cluster, folder: Path, asked):
    cluster.defines()
    cluster.namespace(NAMESPACE)
    for n in range(NAMESPACES):
        cluster.namespace(f"ns-{n}", weft_dev__inject="enabled")
    # Nobody asks about the pods, as while no webhook answers: each lacks its sidecar, and is to be found.
    plane = ControlPlane(cluster, folder / "plane", f"--injector-settings={settings(folder)}")
    sidecar = None
    try:
        eventually(plane.leads, within=60)
        row("memory of the control plane, as it starts", mib(plane.process.pid))
        began = time.monotonic()
        make(cluster, [pod(n) for n in range(asked.pods)])
        row(f"{asked.pods} pods made, none of which has the sidecar that it asks for", f"{time.monotonic() - began:.0f} s")
        eventually(lambda: value(plane, "weft_cluster_pods_without_sidecar") == asked.pods, within=600)
        row("all of them known to lack it, from the first", f"{time.monotonic() - began:.0f} s")
        began = time.monotonic()
        make(cluster, [thing for n in range(asked.resources // 2) for thing in (server(n), policy(n, "first"))])
        wanted = asked.resources // 2 * 2
        eventually(lambda: followed(plane) >= wanted, within=300)
        row(f"{wanted} objects made and followed", f"{time.monotonic() - began:.1f} s")
        row(f"memory of the control plane, with {asked.pods} pods and {wanted} objects", mib(plane.process.pid), "≤ 250 MiB")
        sidecar = joined(cluster, plane, folder / "sidecar")
        took = sorted(change(cluster, plane, n) for n in range(asked.changes))
        at = lambda share: f"{took[min(int(len(took) * share), len(took) - 1)] * 1000:.0f} ms"  # noqa: E731
        row(
            f"a changed policy, from the API server's answer to the sidecar's acknowledgement, {asked.changes} changes",
            f"p50 {at(0.5)}, p99 {at(0.99)}, max {at(1)}", "p99 ≤ 1 s",
        )
        row("memory of the control plane, at the end", mib(plane.process.pid))
    finally:
        if sidecar:
            sidecar.stop()
        plane.stop()


def row(what: str, measured: str, aim: str = ""):
    print(f"| {what} | {measured} | {aim} |", flush=True)


def mib(pid: int) -> str:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Rss:"))
    return f"{kib / 1024:.0f} MiB"


def pod(n: int) -> tuple[str, dict]:
    namespace = f"ns-{n % NAMESPACES}"
    return f"/api/v1/namespaces/{namespace}/pods", {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{n}", "labels": {"app": f"s-{n}", "team": "research"}},
        "spec": {"containers": [{
            "name": "server", "image": "registry.example/server:1.2.3", "ports": [{"containerPort": 9000}],
            "env": [{"name": f"SETTING_{it}", "value": "a value of some length"} for it in range(10)],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 9000}},
        }]},
    }


def thing(kind: str, plural: str, n: int, name: str, spec: dict) -> tuple[str, dict]:
    namespace = f"ns-{n % NAMESPACES}"
    body = {"apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}
    return f"/apis/weft.dev/v1alpha1/namespaces/{namespace}/{plural}", body


def server(n: int) -> tuple[str, dict]:
    return thing("McpServer", "mcpservers", n, f"s-{n}", {"workload": {"labels": {"app": f"s-{n}"}, "port": 9000}})


def policy(n: int, caller: str) -> tuple[str, dict]:
    rule = {"action": "allow", "from": [{"namespaces": [caller]}], "to": [{"tools": ["read_*", "list_*"]}]}
    return thing("AccessPolicy", "accesspolicies", n, f"p-{n}", {"servers": {"names": [f"s-{n}"]}, "rules": [rule]})


def connection(cluster: Cluster) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(cluster.directory / "certs/apiserver.crt"))
    return http.client.HTTPSConnection("localhost", cluster.port, context=context, timeout=60)


def send(to: http.client.HTTPSConnection, method: str, path: str, body: dict, kind: str = "application/json"):
    to.request(method, path, json.dumps(body), {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind})
    answer = to.getresponse()
    text = answer.read()
    assert answer.status < 300, text


def make(cluster: Cluster, things: list):
    failures = []

    def some(first: int):
        try:
            to = connection(cluster)
            for path, body in things[first::MAKERS]:
                send(to, "POST", path, body)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=some, args=[first]) for first in range(MAKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def settings(folder: Path) -> Path:
    """How sidecars are put into pods, as the manifests have it."""
    text = (TESTS.parent / "deploy/kubernetes/weft.yaml").read_text()
    named = {(it["kind"], it["metadata"]["name"]): it for it in yaml.safe_load_all(text) if it}
    said = yaml.safe_load(named["ConfigMap", "weft-injector"]["data"]["settings.yaml"])
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(said | {"trustDomain": TRUST_DOMAIN}))
    return file


def value(plane: ControlPlane, metric: str) -> int:
    _, text = plane.health("/metrics")
    return next((int(float(line.split()[1])) for line in text.splitlines() if line.startswith(f"{metric} ")), 0)


def followed(plane: ControlPlane) -> int:
    _, text = plane.health("/metrics")
    lines = (line for line in text.splitlines() if line.startswith("weft_resources{"))
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if 'AccessPolicy"' in line or 'Server"' in line)


def joined(cluster: Cluster, plane: ControlPlane, folder: Path) -> Process:
    """A sidecar beside the first server."""
    proof = token(cluster, "ns-0", "pod-0")
    file = Path(sidecar_file(cluster, plane, folder, "ns-0", "pod-0", proof))
    config = json.loads(file.read_text())
    config["node"]["labels"] = {"app": "s-0"}
    file.write_text(json.dumps(config))
    process = Process(folder / "log", os.environ["WEFT_SIDECAR_BIN"], "run", "--config", file)
    eventually(lambda: held(plane), within=30)
    return process


def held(plane: ControlPlane) -> str | None:
    told = plane.api("/sidecars/ns-0/pod-0/config")["resources"]
    return next((it["version"] for it in told if it["type"] == "AccessPolicy" and it["name"] == "ns-0/p-0"), None)


def change(cluster: Cluster, plane: ControlPlane, n: int) -> float:
    before = held(plane)
    path, body = policy(0, f"callers-{n}")
    to = connection(cluster)
    send(to, "PATCH", f"{path}/p-0", {"spec": body["spec"]}, "application/merge-patch+json")
    began = time.monotonic()
    eventually(lambda: held(plane) != before, within=30)
    return time.monotonic() - began


main()
