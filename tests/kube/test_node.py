"""Injected pods on a node, with the chart's control plane beside them: a real kubelet starts them, asks their probes, gives
them their tokens and ends them.

The programs are those that were just built, with the libraries that they are linked with, as in `test_podman.py`; with
WEFT_IMAGES they are those that `deploy/images` left in that folder, in the images that are shipped.
"""

import base64
import itertools
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from calls import call, is_busy, text
from mesh import DOMAIN, SYSTEM, WEFT, Mesh, agent, server, serving
from processes import eventually

SIDECAR = "weft-sidecar"
ROLLED = ("rolled", "rolled-plain", "rolled-command")
SERVERS = ("catalogue", "leaving", "sick", "captured", "plain", "notes", "worded", "late", *ROLLED)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    assert os.geteuid() == 0, "a node has namespaces and groups of processes of its own: this needs root"
    mesh = Mesh(tmp_path_factory.mktemp("node"))
    try:
        mesh.start()
        mesh.cluster.apply(serving(*SERVERS))
        yield mesh
    finally:
        mesh.stop()


@pytest.fixture(scope="module")
def catalogue(mesh):
    """A server that nobody ends."""
    return mesh.runs(server("catalogue"))


def container_id(pod, container: str) -> str:
    return pod.status(container)["containerID"].removeprefix("containerd://")


def is_running(pod, container: str) -> bool:
    return "running" in pod.status(container).get("state", {})


def test_the_control_plane_of_the_chart_runs_on_the_node_on_a_disk_that_is_its_own(mesh):
    said = mesh.control_plane.said()
    assert mesh.control_plane.is_ready() and said["spec"]["nodeName"] == "node"
    claim = mesh.cluster.get("persistentvolumeclaim", "data-weft-control-plane-0", "-n", SYSTEM)
    assert claim["status"]["phase"] == "Bound"
    written = list((mesh.folder / "volume").iterdir())
    assert written and {(it.stat().st_uid, it.stat().st_gid) for it in written} == {(7500, 7500)}
    assert "forbidden" not in mesh.control_plane.log("control-plane").lower()


def test_the_sidecar_starts_before_the_application_whose_agent_calls_it_as_who_it_is(mesh, catalogue):
    first = catalogue.said()["spec"]["initContainers"][0]
    assert (first["name"], first["restartPolicy"]) == (SIDECAR, "Always")
    sidecar, application = (mesh.node.event("start", container_id(catalogue, it)) for it in (SIDECAR, "server"))
    assert sidecar.at < application.at
    assert text(mesh.answered("catalogue", "greet", name="node")) == "Hello, node!"
    caller = f"spiffe://{DOMAIN}/ns/agents/sa/assistant"
    eventually(lambda: caller in catalogue.log(SIDECAR), within=10)
    assert call(mesh.agent, "catalogue", "destroy", {})["error"]["data"]["reason"] == "denied"


def test_the_application_waits_until_its_sidecar_is_ready(mesh):
    waiting = server("waiting")
    waiting["spec"]["schedulingGates"] = [{"name": "weft.dev/test"}]
    pod = mesh.makes(waiting)
    with mesh.frozen():
        # Its sidecar was put in already; now it starts, and has no certificate.
        ungated = json.dumps([{"op": "remove", "path": "/spec/schedulingGates"}])
        mesh.cluster.kubectl("patch", "pod", "waiting", "-n", "library", "--type=json", "-p", ungated)
        eventually(lambda: is_running(pod, SIDECAR), within=30)
        events = ("events", "-n", "library", "--field-selector=involvedObject.name=waiting,reason=Unhealthy")
        unready = eventually(lambda: mesh.cluster.get(*events)["items"], within=30)
        assert unready[0]["involvedObject"]["fieldPath"] == f"spec.initContainers{{{SIDECAR}}}"
        assert not pod.status(SIDECAR)["started"]
        assert pod.status("server")["state"]["waiting"]["reason"] == "PodInitializing"
    mesh.awaits(pod)
    assert pod.status("server")["restartCount"] == pod.status(SIDECAR)["restartCount"] == 0


def test_a_job_whose_only_call_is_its_first_completes_and_its_sidecar_ends_after_it(mesh, catalogue):
    mesh.answered("catalogue", "greet", name="before")
    template = agent("once", args=["call", "http://127.0.0.1:7400/servers/library/catalogue/mcp", "greet"])
    spec = template["spec"] | {"restartPolicy": "Never", "hostAliases": mesh.names}
    mesh.cluster.apply({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": "agents"},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"job": "once"}}, "spec": spec}},
    })
    found = eventually(lambda: mesh.cluster.get("pods", "-n", "agents", "-l", "job=once")["items"], within=20)
    pod = mesh.node.pod(found[0]["metadata"]["name"], "agents")

    def ended():
        status = mesh.cluster.get("job", "once", "-n", "agents")["status"]
        said = {it["type"] for it in status.get("conditions", []) if it["status"] == "True"}
        return said & {"Complete", "Failed"}

    assert eventually(ended, within=60) == {"Complete"}, pod.told()
    assert "Hello, job!" in pod.log("server")
    assert pod.said()["status"]["phase"] == "Succeeded"
    assert pod.status(SIDECAR)["state"]["terminated"]["exitCode"] == 0
    application, sidecar = (mesh.node.event("exit", container_id(pod, it)) for it in ("server", SIDECAR))
    assert application.at < sidecar.at


def test_probes_of_the_application_are_asked_by_way_of_its_sidecar(mesh, catalogue):
    assert catalogue.said()["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"] == 7401
    # The server listens on loopback, where no kubelet asks it.
    around = subprocess.run(
        ["curl", "-sS", "--max-time", "5", f"http://{catalogue.address}:8080/healthz"], capture_output=True, check=False
    )
    assert around.returncode == 7
    assert catalogue.status("server")["restartCount"] == 0


def test_an_application_that_fails_its_probe_is_started_again_and_its_sidecar_is_not(mesh):
    pod = mesh.runs(server("sick"))
    mesh.answered("sick", "sicken")
    eventually(lambda: pod.status("server")["restartCount"] == 1, within=40)
    mesh.awaits(pod)
    assert pod.status(SIDECAR)["restartCount"] == 0
    assert text(mesh.answered("sick", "greet", name="again")) == "Hello, again!"


def test_a_call_under_way_is_answered_when_the_pod_is_deleted_and_the_sidecar_ends_last(mesh):
    pod = mesh.runs(server("leaving"))
    mesh.answered("leaving", "greet", name="before")
    ids = [container_id(pod, it) for it in ("server", SIDECAR)]
    said = []
    late = {"name": "late", "milliseconds": 3000}
    caller = threading.Thread(target=lambda: said.append(call(mesh.agent, "leaving", "wait", late)))
    caller.start()
    eventually(lambda: is_busy(pod), within=10)
    mesh.cluster.kubectl("delete", "pod", "leaving", "-n", "library")
    caller.join(30)
    assert text(said[0]) == "Hello, late!"
    application, sidecar = (mesh.node.event("exit", it) for it in ids)
    assert application.at < sidecar.at
    assert (application.status, sidecar.status) == (0, 0)


def test_the_kubelets_token_is_of_an_hour_for_the_mesh_and_the_api_server_knows_its_pod(mesh, catalogue):
    token = Path(f"/proc/{catalogue.pid(SIDECAR)}/root/var/run/weft/token").read_text()
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert (claims["aud"], claims["exp"] - claims["iat"]) == ([f"weft.{DOMAIN}"], 3607)
    uid = catalogue.said()["metadata"]["uid"]
    assert claims["kubernetes.io"]["pod"] == {"name": "catalogue", "uid": uid}
    assert claims["kubernetes.io"]["node"]["name"] == "node"
    review = {
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": [f"weft.{DOMAIN}"]},
    }
    said = json.loads(mesh.cluster.kubectl("create", "-o", "json", "-f", "-", stdin=yaml.safe_dump(review)))["status"]
    assert said["authenticated"] and said["user"]["username"] == "system:serviceaccount:library:servers"
    assert said["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [uid]


def test_a_captured_port_leads_to_the_sidecar_whoever_connects_to_it(mesh):
    pod = mesh.runs(server("captured", "0.0.0.0:8080", servers="captured", port="8080", capture="enabled"))
    assert pod.status("weft-capture")["state"]["terminated"]["exitCode"] == 0
    assert text(mesh.answered("captured", "greet", name="caught")) == "Hello, caught!"
    # The server is there, for whoever is in the pod, and behind its sidecar for all others.
    assert pod.inside("curl", "-sS", "--max-time", "5", "http://127.0.0.1:8080/healthz").returncode == 0
    at = f"{pod.address}:8080"
    around = subprocess.run(["curl", "-sS", "--max-time", "5", f"http://{at}/healthz"], capture_output=True, check=False)
    assert around.returncode not in (0, 7), around
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", at, "-showcerts"], input=b"", capture_output=True, timeout=20, check=False
    )
    named = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName"], input=shown.stdout, capture_output=True, check=False
    )
    assert f"URI:spiffe://{DOMAIN}/ns/library/sa/servers".encode() in named.stdout, shown


def test_a_plain_sidecar_runs_beside_the_application(mesh):
    pod = mesh.runs(server("plain", native="disabled"))
    assert [it["name"] for it in pod.said()["spec"]["containers"]] == [SIDECAR, "server"]
    assert text(mesh.answered("plain", "greet", name="both")) == "Hello, both!"


def test_a_plain_sidecar_lets_an_agent_that_is_told_to_end_make_its_last_calls(mesh, catalogue):
    mesh.answered("catalogue", "greet", name="before")
    url = "http://127.0.0.1:7400/servers/library/catalogue/mcp"
    last = agent("last", args=["farewell", url, "greet"])
    last["metadata"]["annotations"]["weft.dev/native"] = "disabled"
    pod = mesh.runs(last)
    ids = [container_id(pod, it) for it in ("server", SIDECAR)]
    mesh.cluster.kubectl("delete", "pod", "last", "-n", "agents")
    application, sidecar = (mesh.node.event("exit", it) for it in ids)
    assert (application.status, sidecar.status) == (0, 0)
    assert application.at < sidecar.at


def piped(name: str, *command: str, **of_container) -> dict:
    """A pod whose one container is a server over its pipes."""
    made = server(name, stdio="server", servers=name)
    container = {"name": "server", "image": "localhost/small:1", "imagePullPolicy": "Never", "command": list(command)}
    made["spec"]["containers"] = [container | of_container]
    return made


def test_a_command_of_a_pod_is_served_by_the_sidecar_that_was_copied_to_it(mesh):
    pod = mesh.runs(piped("notes", WEFT, "example-server", image="localhost/weft-control-plane:1"))
    assert [it["name"] for it in pod.said()["spec"]["containers"]] == ["server"]
    assert text(mesh.answered("notes", "greet", name="pipe")) == "Hello, pipe!"


def test_a_command_is_given_the_values_of_the_variables_that_its_words_refer_to(mesh):
    key = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "namespace": "library"}}
    mesh.cluster.apply(key | {"stringData": {"quoted": 'a "key", $(OTHER) and \\'}})
    env = [
        {"name": "MODE", "value": "pipe"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "key", "key": "quoted"}}},
    ]
    words = ["--key=$(KEY)", "--price=$$(MODE)", "$(NOBODY)"]
    pod = mesh.runs(piped("worded", "/opt/small", "$(MODE)", args=words, env=env))
    assert text(mesh.answered("worded", "words")) == 'Hello, --key=a "key", $(OTHER) and \\ --price=$(MODE) $(NOBODY)!'
    assert pod.status("server")["restartCount"] == 0


class Callers:
    """Agents that call servers again and again, and keep every call that had no result."""

    def __init__(self, agent, servers):
        self._network = agent.network()
        self._over = threading.Event()
        self.answered = dict.fromkeys(servers, 0)
        self.lost = []
        self._threads = [threading.Thread(target=self._call, args=[it]) for it in servers]

    def __enter__(self):
        for it in self._threads:
            it.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for it in self._threads:
            it.join(40)

    def _call(self, name: str):
        # Every other call takes long enough to be under way when its instance is told to end.
        for number in itertools.count():
            if self._over.is_set():
                return
            tool, arguments = (("greet", {}), ("wait", {"milliseconds": 700}))[number % 2]
            began = time.strftime("%H:%M:%S")
            try:
                said = call(self._network, name, tool, arguments | {"name": "on"})
            except AssertionError as error:
                said = {"curl": str(error)}
            if "result" in said:
                self.answered[name] += 1
            else:
                self.lost.append(f"{began} {name} {tool}: {json.dumps(said)}")


def test_no_call_is_lost_while_deployments_are_rolled_out_anew(mesh):
    templates = (server("rolled"), server("rolled-plain", native="disabled"), piped("rolled-command", "/opt/small", "pipe"))
    for name, template in zip(ROLLED, templates, strict=True):
        mesh.deploys(name, template, replicas=2)
        mesh.answered(name, "greet", name="before")

    def pods() -> set[str]:
        listed = mesh.cluster.get("pods", "-n", "library", "-l", f"app in ({','.join(ROLLED)})")["items"]
        return {it["metadata"]["uid"] for it in listed}

    with Callers(mesh.agent, ROLLED) as callers:
        counts = [dict(callers.answered)]
        for _ in range(2):
            before = pods()
            mesh.cluster.kubectl("rollout", "restart", "-n", "library", *(f"deployment/{it}" for it in ROLLED))
            for name in ROLLED:
                mesh.rolled_out(name)
            # The last of them still ends when the Deployment is as it is to be.
            eventually(lambda before=before: not pods() & before, within=40)
            counts.append(dict(callers.answered))
    lines = (it for it in mesh.agent.log(SIDECAR).splitlines() if "library/rolled" in it)
    refused = [it for it in lines if '"reason":"ok"' not in it]
    assert not callers.lost, "\n".join([f"answered: {counts}; lost:", *callers.lost, "its sidecar:", *refused[-10:]])
    for first, then in itertools.pairwise(counts):
        assert all(then[it] > first[it] + 5 for it in ROLLED), counts


def test_calls_go_on_while_the_control_planes_pod_is_replaced_and_new_pods_find_the_new_one(mesh, catalogue):
    mesh.answered("catalogue", "greet", name="before")
    first = mesh.control_plane.said()["metadata"]["uid"]
    mesh.cluster.kubectl("delete", "pod", mesh.control_plane.name, "-n", SYSTEM, "--wait=false")

    def is_replaced():
        assert text(call(mesh.agent, "catalogue", "greet", {"name": "still"})) == "Hello, still!"
        said = mesh.cluster.finds("pod", mesh.control_plane.name, "-n", SYSTEM)
        return said and said["metadata"]["uid"] != first and mesh.control_plane.is_ready()

    eventually(is_replaced, within=60)
    # Where the webhooks are, the API server is told a moment later; until then pods are made without sidecars.
    mesh.injects()
    mesh.runs(server("late"))
    began = time.monotonic()
    assert text(mesh.answered("late", "greet", name="new")) == "Hello, new!"
    # Not only when everybody has had the time to come back.
    assert time.monotonic() - began < 15
