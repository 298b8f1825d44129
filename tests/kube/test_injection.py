"""Sidecars in pods: the chart's webhooks answered by a real control plane, and pods read back from a real API server."""

import json
import os
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml

from charts import ROOT, named
from cluster import Cluster, Refused
from control_plane import NAMESPACE, TRUST_DOMAIN, ControlPlane, eventually

SIDECAR = "weft-sidecar"
STATUS = "weft.dev/status"


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A cluster in which one control plane injects, as the manifests have it."""
    folder = tmp_path_factory.mktemp("injection")
    cluster = Cluster(folder / "cluster")
    control_plane = None
    try:
        cluster.start()
        cluster.defines()
        cluster.namespace(NAMESPACE)
        # The kinds that the control plane follows.
        cluster.kubectl("apply", "-f", ROOT / "deploy/crds")
        # A node, for which there are pods of DaemonSets.
        cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here"}})
        settings = yaml.safe_load(named("ConfigMap", "weft-injector")["data"]["settings.yaml"])
        settings["trustDomain"] = TRUST_DOMAIN
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        control_plane = ControlPlane(
            cluster, folder / "plane", f"--injector-settings={folder / 'settings.yaml'}"
        )
        cluster.apply(named("Service", "weft-webhooks"), named("MutatingWebhookConfiguration", "weft-injector"))
        cluster.answers("weft-webhooks", NAMESPACE, webhooks=control_plane.webhooks_port)
        control_plane.cluster = cluster
        cluster.namespace("ready", weft_dev__inject="enabled")
        # Registered, with the certificates of the control plane, and known to the API server.
        eventually(lambda: SIDECAR in containers(tried(cluster, pod("trial", "ready"))), within=40)
        yield control_plane
    finally:
        if control_plane:
            control_plane.stop()
        cluster.stop()


@pytest.fixture
def cluster(plane):
    return plane.cluster


@pytest.fixture
def mesh(cluster, request):
    """A namespace of the test's own that asks for sidecars."""
    name = re.sub("[^a-z]+", "-", request.node.name)[:50].strip("-")
    return cluster.namespace(name, weft_dev__inject="enabled")


def pod(name: str, namespace: str, annotations: dict | None = None, **spec) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}, "annotations": annotations or {}},
        "spec": {"containers": [{"name": "server", "image": "server", "ports": [{"containerPort": 9000}]}], **spec},
    }


def template(**spec) -> dict:
    containers = [{"name": "server", "image": "server"}]
    return {"metadata": {"labels": {"app": "it"}}, "spec": {"containers": containers, **spec}}


def tried(cluster, made: dict) -> dict:
    """What the API server would make of an object."""
    return json.loads(cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(made)))


def created(cluster, made: dict) -> tuple[dict, str]:
    """An object as it was kept, and what whoever made it was warned of."""
    command = [str(Path(os.environ["WEFT_KUBE"]) / "kubectl"), f"--kubeconfig={cluster.kubeconfig}"]
    command += ["create", "-o", "json", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(made), capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise Refused(done.stderr.strip())
    return json.loads(done.stdout), done.stderr


def weft(*args, stdin: str) -> str:
    command = [os.environ["WEFT_BIN"], *args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=True).stdout


def containers(made: dict) -> list[str]:
    spec = made["spec"]
    return [it["name"] for it in spec.get("initContainers", []) + spec["containers"]]


def pods_of(cluster, namespace: str) -> list[dict]:
    return cluster.get("pods", "-n", namespace)["items"]


def test_pods_of_every_workload_have_their_sidecars_first(cluster, mesh):
    selector = {"matchLabels": {"app": "it"}}
    workloads = [
        ("apps/v1", "Deployment", {"replicas": 2, "selector": selector, "template": template()}, 2),
        ("apps/v1", "StatefulSet", {"serviceName": "it", "selector": selector, "template": template()}, 1),
        ("apps/v1", "DaemonSet", {"selector": selector, "template": template()}, 1),
        ("batch/v1", "Job", {"template": template(restartPolicy="Never")}, 1),
    ]
    for version, kind, spec, count in workloads:
        name = kind.lower()
        spec = json.loads(json.dumps(spec).replace('"it"', f'"{name}"'))
        metadata = {"name": name, "namespace": mesh}
        cluster.apply({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})

        def made():
            return [it for it in pods_of(cluster, mesh) if it["metadata"]["labels"]["app"] == name]

        eventually(lambda: len(made()) == count, within=30)
        for it in made():
            assert containers(it) == [SIDECAR, "server"], kind
            sidecar = it["spec"]["initContainers"][0]
            # What the API server does not know it would have dropped.
            folders = {it["mountPath"]: it["name"] for it in sidecar["volumeMounts"]}
            # Whoever has nothing there is given the account's token for the API server.
            token = folders.pop("/var/run/secrets/kubernetes.io/serviceaccount")
            assert (token, set(folders)) == ("weft-nothing", {"/var/run/weft", "/var/lib/weft"})
            assert (sidecar["restartPolicy"], sidecar["startupProbe"]["httpGet"]["port"]) == ("Always", 7401)
            assert it["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "server"
            assert json.loads(it["metadata"]["annotations"][STATUS])["revision"] == "default"


def test_a_cron_job_makes_pods_with_sidecars(cluster, mesh):
    spec = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template(restartPolicy="OnFailure")}}}
    cluster.apply({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "it", "namespace": mesh}, "spec": spec})
    cluster.kubectl("create", "job", "now", "--from=cronjob/it", "-n", mesh)
    made = eventually(lambda: pods_of(cluster, mesh), within=30)
    assert containers(made[0]) == [SIDECAR, "server"]


def test_a_pod_without_a_name_of_its_own_belongs_to_the_namespace_that_it_is_made_in(cluster, mesh):
    nameless = pod("x", mesh)
    nameless["metadata"] = {"generateName": "files-"}
    text = cluster.kubectl("create", "-n", mesh, "-o", "json", "-f", "-", stdin=json.dumps(nameless))
    assert containers(json.loads(text)) == [SIDECAR, "server"]


def test_a_pod_may_ask_for_itself_and_refuse_for_itself(cluster, mesh, namespace_of_others):
    asks = pod("asks", namespace_of_others)
    asks["metadata"]["labels"]["weft.dev/inject"] = "enabled"
    refuses = pod("refuses", mesh)
    refuses["metadata"]["labels"]["weft.dev/inject"] = "disabled"
    assert containers(tried(cluster, asks)) == [SIDECAR, "server"]
    assert containers(tried(cluster, refuses)) == ["server"]
    assert containers(tried(cluster, pod("neither", namespace_of_others))) == ["server"]


@pytest.fixture
def namespace_of_others(cluster, request):
    """A namespace that asks for nothing."""
    return cluster.namespace("others-" + re.sub("[^a-z]+", "-", request.node.name)[:30].strip("-"))


def test_probes_are_the_sidecars_and_what_else_a_pod_says_is_kept(cluster, mesh):
    made = pod("probed", mesh, terminationGracePeriodSeconds=45)
    server = made["spec"]["containers"][0]
    server["ports"] = [{"name": "mcp", "containerPort": 9000}]
    server["livenessProbe"] = {"httpGet": {"path": "/live", "port": "mcp"}, "timeoutSeconds": 4}
    server["readinessProbe"] = {"grpc": {"port": 9001}}
    server["lifecycle"] = {"preStop": {"sleep": {"seconds": 3}}}
    kept, warned = created(cluster, made)
    server = kept["spec"]["containers"][0]
    assert server["livenessProbe"]["httpGet"] == {"path": "/app-probes/server/liveness", "port": 7401, "scheme": "HTTP"}
    assert server["livenessProbe"]["timeoutSeconds"] == 4
    assert "grpc" not in server["readinessProbe"]
    assert server["lifecycle"] == {"preStop": {"sleep": {"seconds": 3}}}
    assert not warned
    file = next(it["value"] for it in kept["spec"]["initContainers"][0]["env"] if it["name"] == "WEFT_SIDECAR_YAML")
    probes = json.loads(file)["probes"]
    assert probes["server/liveness"] == {"httpGet": {"path": "/live", "port": 9000, "scheme": "HTTP"}, "timeoutSeconds": 4}
    assert probes["server/readiness"]["grpc"] == {"port": 9001, "service": ""}


def test_a_dry_run_shows_the_same_and_leaves_no_trace(plane, cluster, mesh):
    def count():
        with urllib.request.urlopen(f"http://{plane.ready['health']}/metrics", timeout=5) as answer:
            found = re.search(r'weft_admissions_total\{reason="injected"\} (\d+)', answer.read().decode())
        return int(found[1]) if found else 0

    before = count()
    assert containers(tried(cluster, pod("same", mesh))) == [SIDECAR, "server"]
    assert count() == before
    created(cluster, pod("same", mesh))
    assert count() == before + 1
    cluster.kubectl("delete", "pod", "same", "-n", mesh, "--grace-period=0", "--force")
    assert pods_of(cluster, mesh) == []
    assert count() == before + 1, "nobody asks about a pod that goes"


def told(cluster, namespace: str) -> list[tuple[str, str, str, str]]:
    """Events of ours in a namespace: why, about which kind and name, and what they say."""
    events = cluster.get("events.events.k8s.io", "-n", namespace)["items"]
    ours = [it for it in events if it["reportingController"] == "weft"]
    return sorted((it["reason"], it["regarding"]["kind"], it["regarding"]["name"], it["note"]) for it in ours)


def test_what_became_of_pods_is_told_of_whoever_made_them_and_dry_runs_of_nobody(plane, cluster, mesh):
    tried(cluster, pod("tried", mesh))
    selector = {"matchLabels": {"app": "it"}}
    spec = {"replicas": 3, "selector": selector, "template": template()}
    cluster.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "it", "namespace": mesh}, "spec": spec})
    owner = eventually(lambda: cluster.get("replicasets", "-n", mesh)["items"], within=20)[0]["metadata"]
    created(cluster, pod("host", mesh, hostNetwork=True))
    with pytest.raises(Refused):
        created(cluster, pod("wrong", mesh, {"weft.dev/port": "http"}))
    eventually(lambda: len(told(cluster, mesh)) >= 3, within=20)
    expected = [
        ("Injected", "ReplicaSet", owner["name"], "a pod of it got its sidecar"),
        ("InjectionRefused", "Namespace", mesh, "the pod wrong was refused, as it cannot have its sidecar: weft.dev/port"),
        ("InjectionSkipped", "Namespace", mesh, "the pod host is made without its sidecar: it uses the network of its node"),
    ]
    found = told(cluster, mesh)
    assert [it[:3] for it in found] == [it[:3] for it in expected]
    assert all(it[3].startswith(said[3]) for it, said in zip(found, expected, strict=True)), found

    # Three pods are one event, with the owner's UID, and a fourth counts.
    def injected():
        events = cluster.get("events.events.k8s.io", "-n", mesh)["items"]
        return [it for it in events if it["reason"] == "Injected"]

    assert injected()[0]["regarding"]["uid"] == owner["uid"]
    cluster.kubectl("scale", "deployment", "it", "-n", mesh, "--replicas=4")
    eventually(lambda: injected()[0].get("series", {}).get("count") == 4, within=30)
    assert len(injected()) == 1
    shown = cluster.kubectl("get", "events", "-n", mesh, "--field-selector", "reportingComponent=weft")
    assert "InjectionSkipped" in shown and "Injected" in shown


def test_pods_that_are_older_than_the_label_are_flagged_until_they_are_made_anew(plane, cluster, namespace_of_others):
    namespace = namespace_of_others

    def flagged() -> str:
        found = next(it for it in plane.api("/checks?group=sidecars")["items"] if it["name"] == "pods without a sidecar")
        return found["detail"] if found["outcome"] == "failed" else found["outcome"]

    def counted() -> int:
        found = re.search(rf'without_sidecar{{namespace="{namespace}"}} (\d+)', plane.health("/metrics")[1])
        return int(found[1]) if found else 0

    eventually(plane.leads, within=20)
    # Of these two only one could have a sidecar; and one has ended.
    created(cluster, pod("old", namespace))
    created(cluster, pod("host", namespace, hostNetwork=True))
    created(cluster, pod("ended", namespace))
    ended = json.dumps({"status": {"phase": "Succeeded"}})
    cluster.kubectl("patch", "pod", "ended", "-n", namespace, "--subresource=status", "--type=merge", "-p", ended)
    assert f"{namespace}/" not in flagged() and counted() == 0
    cluster.kubectl("label", "namespace", namespace, "weft.dev/inject=enabled")
    eventually(lambda: f"{namespace}/old" in flagged(), within=30)
    assert f"{namespace}/host" not in flagged() and f"{namespace}/ended" not in flagged()
    assert counted() == 1
    note = "the pod asks for a sidecar and has none"
    missing = eventually(lambda: [it for it in told(cluster, namespace) if it[0] == "SidecarMissing"], within=20)
    assert [it[:3] for it in missing] == [("SidecarMissing", "Pod", "old")] and missing[0][3].startswith(note)
    described = cluster.kubectl("describe", "pod", "old", "-n", namespace)
    assert "SidecarMissing" in described
    # Made anew, it has one.
    cluster.kubectl("delete", "pod", "old", "-n", namespace, "--grace-period=0", "--force")
    eventually(lambda: SIDECAR in containers(tried(cluster, pod("old", namespace))), within=20)
    created(cluster, pod("old", namespace))
    eventually(lambda: f"{namespace}/" not in flagged() and counted() == 0, within=30)


@pytest.mark.parametrize(("name", "value", "said"), [
    ("port", "http", "weft.dev/port: \"http\" holds no port between 1 and 65535"),
    ("servers", "../etc", "weft.dev/servers: \"../etc\" holds no name of a server"),
    ("image", "x\" && rm -rf /", "is no image"),
    ("log-level", "$(SECRET)", "is no level"),
    ("cpu-limit", "9" * 5000, "weft.dev/cpu-limit"),
    ("stdio-command", "[" * 10000, "weft.dev/stdio-command"),
    ("capture", "\u202eelbasid", "weft.dev/capture"),
    ("memory-limit", "1Mi", "is more than its limit"),
])
def test_a_mistake_in_an_annotation_is_told_to_whoever_makes_the_pod(cluster, name, value, said):
    with pytest.raises(Refused) as refused:
        tried(cluster, pod("wrong", "ready", {f"weft.dev/{name}": value}))
    assert "denied the request: no sidecar: " in str(refused.value) and said in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_what_cannot_have_a_sidecar_is_made_without_one_and_with_a_warning(cluster, mesh):
    for name, changed, said in [
        ("host", {"hostNetwork": True}, "Warning: weft: no sidecar: it uses the network of its node"),
        ("windows", {"os": {"name": "windows"}}, "Warning: weft: no sidecar: it is a pod for Windows"),
        ("taken", {"containers": [{"name": SIDECAR, "image": "mine"}]}, "Warning: weft: no sidecar: it has a container"),
        ("user", {"securityContext": {"runAsUser": 7443}}, "Warning: weft: no sidecar: its container server runs as"),
    ]:
        kept, warned = created(cluster, pod(name, mesh, **changed))
        assert said in warned
        assert STATUS not in kept["metadata"].get("annotations", {})
        assert len(containers(kept)) == 1
    # Annotations that nobody knows are no mistake: they may be of another version.
    kept, warned = created(cluster, pod("newer", mesh, {"weft.dev/novelty": "x"}))
    assert "Warning: weft: annotation weft.dev/novelty is unknown" in warned
    assert SIDECAR in containers(kept)


def test_a_pod_of_a_megabyte_gets_its_sidecar(cluster, mesh):
    made = pod("large", mesh)
    made["spec"]["containers"][0]["env"] = [{"name": f"V{at}", "value": "x" * 980} for at in range(1000)]
    kept, _ = created(cluster, made)
    assert containers(kept) == [SIDECAR, "server"]
    assert len(kept["spec"]["containers"][0]["env"]) == 1000


def test_restricted_pods_stay_so_and_capture_is_for_others(cluster):
    restricted = cluster.namespace("restricted", weft_dev__inject="enabled")
    cluster.kubectl("label", "namespace", restricted, "pod-security.kubernetes.io/enforce=restricted")
    made = pod("careful", restricted, {"weft.dev/servers": "files", "weft.dev/port": "9000"})
    made["spec"]["containers"][0]["securityContext"] = {
        "allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert containers(tried(cluster, made)) == [SIDECAR, "server"]
    made["metadata"]["annotations"]["weft.dev/capture"] = "enabled"
    with pytest.raises(Refused, match="violates PodSecurity"):
        tried(cluster, made)
    made["metadata"]["namespace"] = "ready"
    assert containers(tried(cluster, made)) == ["weft-capture", SIDECAR, "server"]


def test_a_command_becomes_a_server(cluster, mesh):
    made = pod("notes", mesh, {"weft.dev/stdio": "server", "weft.dev/servers": "notes"})
    made["spec"]["containers"][0] |= {"command": ["npx"], "args": ["-y", "$(NOTES)"]}
    kept, _ = created(cluster, made)
    assert containers(kept) == ["weft-copy", "server"]
    server = kept["spec"]["containers"][0]
    assert server["command"] == ["/weft/bin/weft-sidecar", "run", "--", "npx"]
    assert server["args"] == ["-y", "$(NOTES)"]
    with pytest.raises(Refused, match="leaves its command to the image"):
        tried(cluster, pod("unsaid", mesh, {"weft.dev/stdio": "server", "weft.dev/servers": "notes"}))


def test_what_the_command_line_puts_in_is_not_put_in_again_and_comes_out_whole(cluster, mesh):
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "it", "namespace": mesh},
        "spec": {"selector": {"matchLabels": {"app": "it"}}, "template": template()},
    }
    cluster.apply(deployment, flags=["--dry-run=server"])
    plain = tried(cluster, deployment)["spec"]["template"]
    cluster.kubectl("apply", "-f", "-", stdin=weft("inject", "-f", "-", stdin=yaml.safe_dump(deployment)))
    made = eventually(lambda: pods_of(cluster, mesh), within=30)
    assert containers(made[0]) == [SIDECAR, "server"]
    live = cluster.kubectl("get", "deployment", "it", "-n", mesh, "-o", "yaml")
    taken_out = yaml.safe_load(weft("uninject", "-f", "-", stdin=live))
    assert taken_out["spec"]["template"] == plain
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(taken_out))
    # A pod that runs comes out as it was made, too.
    live = json.loads(cluster.kubectl("get", "pod", made[0]["metadata"]["name"], "-n", mesh, "-o", "json"))
    assert containers(json.loads(weft("uninject", "-f", "-", stdin=json.dumps(live)))) == ["server"]


def test_pods_are_made_and_go_while_nobody_answers(plane, cluster, mesh):
    """With one replica the webhook lets pods pass; it is never what keeps a cluster from healing."""
    created(cluster, pod("before", mesh))
    plane.freeze()
    try:
        kept, _ = created(cluster, pod("alone", mesh))
        assert containers(kept) == ["server"]
        cluster.kubectl("delete", "pod", "before", "-n", mesh, "--grace-period=0", "--force")
    finally:
        plane.thaw()
    eventually(lambda: SIDECAR in containers(tried(cluster, pod("again", mesh))), within=20)
