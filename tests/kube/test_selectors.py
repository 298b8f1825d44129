"""Which pods the API server asks about, and whom: the chart's webhooks, answered by a server that lets everything pass and
writes down what it was asked."""

import base64
import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from charts import CHART, HA, helm
from cluster import Cluster, Refused
from processes import eventually

# What namespaces and pods say; `next` is a second control plane, `away` one that is not there.
INJECT = (None, "enabled", "disabled")
REVISIONS = (None, "default", "next", "away")


def expected(namespace: tuple, pod: tuple) -> list[str]:
    """Whom a pod concerns, by what its namespace and it say of injection and revision; the pod goes before."""
    revision = pod[1] or namespace[1]
    inject = pod[0] or namespace[0]
    if inject == "disabled" or (inject is None and revision is None):
        return []
    return {None: ["default"], "default": ["default"], "next": ["next"], "away": []}[revision]


class Asked:
    """A server for webhooks of one control plane."""

    def __init__(self, directory, *names: str):
        directory.mkdir()
        self.certificate = directory / "tls.crt"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=webhooks",
             "-keyout", directory / "tls.key", "-out", self.certificate,
             "-addext", "subjectAltName=" + ",".join(f"DNS:{it}" for it in names)],
            check=True, capture_output=True,
        )
        self.pods = []
        asked = self.pods

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
                asked.append((self.path.split("?")[0], request["namespace"], request["object"]["metadata"]["name"]))
                said = {
                    "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                    "response": {"uid": request["uid"], "allowed": True},
                }
                text = json.dumps(said).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.certificate, directory / "tls.key")
        self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return self.server.server_address[1]


def pod(name: str, namespace: str, labels: dict) -> dict:
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app", "image": "app",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }


def labels(said: tuple) -> dict:
    return {key: it for key, it in zip(("weft.dev/inject", "weft.dev/revision"), said) if it}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A cluster with two control planes' webhooks, and who answers for each."""
    folder = tmp_path_factory.mktemp("selectors")
    cluster = Cluster(folder / "cluster")
    servers = {}
    try:
        cluster.start()
        closed = ("-n", "weft-system", "-f", HA)
        helm("install", "weft", CHART, *closed, "--create-namespace", cluster=cluster)
        helm("install", "next", CHART, *closed, "--set", "revision=next", cluster=cluster)
        for revision, suffix in (("default", ""), ("next", "-next")):
            service = f"weft-webhooks{suffix}"
            servers[revision] = Asked(folder / revision, f"{service}.weft-system.svc")
            cluster.answers(service, "weft-system", webhooks=servers[revision].port)
            hooks = cluster.get("mutatingwebhookconfiguration", f"weft-injector{suffix}")["webhooks"]
            bundle = base64.b64encode(servers[revision].certificate.read_bytes()).decode()
            patch = [
                {"op": "add", "path": f"/webhooks/{at}/clientConfig/caBundle", "value": bundle}
                for at in range(len(hooks))
            ]
            name = ("mutatingwebhookconfiguration", f"weft-injector{suffix}")
            cluster.kubectl("patch", *name, "--type=json", "-p", json.dumps(patch))
        cluster.namespace("watched", weft_dev__inject="enabled")
        cluster.kubectl("label", "namespace", "watched", "weft.dev/revision=next")
        # What was registered is known to the API server a moment later.
        eventually(lambda: all(_is_asked(cluster, server, revision) for revision, server in servers.items()), within=30)
        cluster.kubectl("delete", "namespace", "watched", "--wait=false")
        yield cluster, servers
    finally:
        cluster.stop()
        for server in servers.values():
            server.server.shutdown()


def _is_asked(cluster: Cluster, server: Asked, revision: str) -> bool:
    trial = pod(f"trial-{revision}", "watched", {"weft.dev/revision": revision})
    try:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(trial))
    except Refused:
        return False
    return bool(server.pods)


def test_each_pod_that_asks_for_a_sidecar_is_asked_about_once_and_of_the_control_plane_that_it_means(asked):
    cluster, servers = asked
    says = [(inject, revision) for inject in INJECT for revision in REVISIONS]
    names = {said: "ns" + "".join(f"-{it or 'unsaid'}" for it in said) for said in says}
    cluster.apply(*(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels(said)}}
        for said, name in names.items()
    ))
    eventually(lambda: all(cluster.finds("serviceaccount", "default", "-n", it) for it in names.values()), within=30)
    for server in servers.values():
        server.pods.clear()
    pods = [
        pod(f"pod-{at}", names[namespace], labels(said))
        for namespace in says for at, said in enumerate(says)
    ]
    cluster.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
    wrong = []
    for namespace in says:
        for at, said in enumerate(says):
            found = [
                revision for revision, server in servers.items()
                for path, where, name in server.pods if (where, name) == (names[namespace], f"pod-{at}")
            ]
            wanted = expected(namespace, said)
            # The selectors may ask about a pod that forbids it by its namespace; never of another than is meant.
            forbidden = (said[0] or namespace[0]) == "disabled"
            asked_wrongly = bool(set(found) - {said[1] or namespace[1] or "default"}) or len(found) > 1
            if asked_wrongly or (found != wanted and not forbidden):
                wrong.append((namespace, said, found, wanted))
    assert not wrong
    assert all(path == "/inject" for server in servers.values() for path, *_ in server.pods)


def test_the_mesh_and_the_cluster_itself_never_wait_for_a_webhook(asked):
    cluster, servers = asked
    for name in ("weft-system", "kube-system", "kube-public", "kube-node-lease"):
        cluster.kubectl("label", "namespace", name, "weft.dev/inject=enabled", "--overwrite")
        eventually(lambda: cluster.finds("serviceaccount", "default", "-n", name), within=20)
    for server in servers.values():
        server.pods.clear()
    for name in ("weft-system", "kube-system", "kube-public", "kube-node-lease"):
        for said in ({}, {"weft.dev/inject": "enabled"}, {"weft.dev/revision": "next"}):
            made = pod(f"healer-{len(said)}-{'-'.join(said.values())}".rstrip("-"), name, said)
            cluster.kubectl("create", "-f", "-", stdin=json.dumps(made))
    assert [server.pods for server in servers.values()] == [[], []]


def test_while_the_control_plane_is_away_no_pod_is_made_without_a_sidecar_where_admission_is_closed(asked):
    cluster, _ = asked
    cluster.namespace("closed", weft_dev__inject="enabled")
    cluster.kubectl("label", "namespace", "closed", "weft.dev/revision=next")
    cluster.kubectl("delete", "endpointslice", "weft-webhooks-next-here", "-n", "weft-system")
    made = json.dumps(pod("app", "closed", {}))

    def is_refused():
        try:
            cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=made)
        except Refused as refused:
            return "weft-webhooks-next" in str(refused) and "failed calling webhook" in str(refused)
        return False

    eventually(is_refused, within=20)
    # Who forbids it by a label is let through.
    out = json.dumps(pod("out", "closed", {"weft.dev/inject": "disabled"}))
    cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=out)
