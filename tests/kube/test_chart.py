"""The chart: rendered by Helm itself, installed, brought up to date and uninstalled on a real API server."""

import base64
import json
import os
import subprocess

import pytest
import yaml

from charts import CHART, HA, ROOT, everything, helm, identity, rendered
from cluster import Cluster, Refused
from processes import eventually

ACCOUNT = "system:serviceaccount:weft-system:weft-control-plane"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A cluster of this file's own: what is installed here has names that there are once in a cluster."""
    cluster = Cluster(tmp_path_factory.mktemp("alone"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def installed(alone):
    """The chart, installed as the README says."""
    helm("install", "weft", CHART, "-n", "weft-system", "--create-namespace", cluster=alone)
    return alone


def weft(*args) -> list[dict]:
    command = [os.environ["WEFT_BIN"], *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return [it for it in yaml.safe_load_all(done.stdout) if it]


def test_the_plain_manifests_are_what_the_chart_says(tmp_path):
    subprocess.run([ROOT / "deploy/helm/render", os.environ["WEFT_HELM"], tmp_path], check=True, timeout=60)
    kept = ROOT / "deploy/kubernetes"
    assert {it.name for it in tmp_path.iterdir()} == {it.name for it in kept.glob("*.yaml")}
    for made in tmp_path.iterdir():
        assert made.read_text() == (kept / made.name).read_text(), f"{made.name}: run deploy/helm/render"


@pytest.mark.parametrize("ha", [False, True])
@pytest.mark.parametrize("revision", ["", "next"])
def test_weft_install_says_what_helm_says(ha, revision):
    words = ["--namespace", "123", "--trust-domain", "corp.example", "--hub", "r.example:5000/weft", "--tag", "7"]
    values = ["--set", "trustDomain=corp.example,image.hub=r.example:5000/weft,namespace.create=true"]
    values += ["--set-string", "image.tag=7", "--set", f"revision={revision}"]
    words += ["--ha"] if ha else []
    values += ["-f", HA] if ha else []
    words += ["--revision", revision] if revision else []
    values += ["--set", "namespace.create=false"] if revision else []
    ours = {identity(it): it for it in weft("install", "--render", *words)}
    theirs = {identity(it): it for it in rendered(*values, namespace="123")}
    for it in theirs.values():
        if it["kind"] == "CustomResourceDefinition":
            assert it["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert sorted(ours) == sorted(theirs)
    for name, it in ours.items():
        assert it == theirs[name]
    gone = {identity(it) for it in weft("uninstall", "--render", *words, *([] if revision else ["--resources"]))}
    assert gone == set(ours)


def test_what_weft_install_prints_is_taken_brought_up_to_date_and_taken_back(tmp_path):
    cluster = Cluster(tmp_path / "plain")

    def prints(*words) -> str:
        command = [os.environ["WEFT_BIN"], *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    try:
        cluster.start()
        before = everything(cluster)
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=prints("install", "--render"))
        pods = eventually(lambda: cluster.get("pods", "-n", "weft-system")["items"], within=20)
        assert len(pods) == 1 and pods[0]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=prints("upgrade", "--render", "--ha"))
        assert cluster.finds("hpa", "weft-control-plane", "-n", "weft-system")
        said = prints("uninstall", "--render", "--ha", "--resources")
        cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=said)
        eventually(lambda: everything(cluster) == before, within=30)
    finally:
        cluster.stop()


def test_pods_of_the_control_plane_are_let_into_a_restricted_namespace(installed):
    installed.kubectl("label", "namespace", "weft-system", "pod-security.kubernetes.io/enforce=restricted")
    installed.kubectl("delete", "pod", "-n", "weft-system", "--all", "--force", "--grace-period=0")
    pod = eventually(lambda: installed.get("pods", "-n", "weft-system")["items"], within=20)[0]
    assert pod["metadata"]["name"] == "weft-control-plane-0"


MAY = [
    "create tokenreviews.authentication.k8s.io",
    "get pods -A", "list pods -A", "watch pods -A", "watch namespaces",
    "create events.events.k8s.io -A", "patch events.events.k8s.io -A", "list pods -n weft-system",
    "watch mcpservers.weft.dev -A", "list trusts.weft.dev -A",
    "patch accesspolicies.weft.dev/status -A",
    "get configmaps/weft-roots -A", "patch configmaps/weft-roots -A",
    "patch mutatingwebhookconfigurations.admissionregistration.k8s.io/weft-injector",
    "patch validatingwebhookconfigurations.admissionregistration.k8s.io/weft-validator",
    "get secrets/weft-issuer -n weft-system", "create secrets -n weft-system",
    "patch pods -n weft-system", "update secrets/weft-admin -n weft-system",
    "update leases.coordination.k8s.io/weft-leader -n weft-system",
]
MUST_NOT = [
    "get secrets -A", "list secrets -n weft-system", "get secrets/other -n weft-system",
    "get secrets/weft-issuer -n kube-system", "create secrets -n kube-system", "delete secrets -n weft-system",
    "create events -A", "list events.events.k8s.io -A", "delete events.events.k8s.io -A", "update events.events.k8s.io -A",
    "create pods -A", "patch pods -A", "create pods -n weft-system", "delete pods -n weft-system", "delete pods -A", "create pods/exec -A", "get pods/log -A",
    "create serviceaccounts/token -A", "impersonate users", "impersonate serviceaccounts",
    "patch configmaps/other -A", "patch configmaps/weft-roots-2 -A", "list configmaps -n kube-system",
    "create mcpservers.weft.dev -A", "patch accesspolicies.weft.dev -A", "delete trusts.weft.dev -A",
    "create mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "patch mutatingwebhookconfigurations.admissionregistration.k8s.io/other",
    "delete mutatingwebhookconfigurations.admissionregistration.k8s.io/weft-injector",
    "create clusterrolebindings.rbac.authorization.k8s.io", "escalate clusterroles.rbac.authorization.k8s.io",
    "patch nodes", "get nodes", "create deployments.apps -A", "patch namespaces",
    "patch customresourcedefinitions.apiextensions.k8s.io", "* * -A",
]


def may(cluster, question: str, account: str = ACCOUNT, *flags) -> bool:
    verb, resource, *where = question.split()
    subresource = []
    if resource.endswith("/status") or resource in ("pods/exec", "pods/log", "serviceaccounts/token"):
        resource, name = resource.split("/")
        subresource = [f"--subresource={name}"]
    try:
        said = cluster.kubectl("auth", "can-i", verb, resource, *subresource, *where, "--as", account, *flags)
    except Refused as refused:
        assert "error" not in str(refused).lower(), refused
        return False
    return said.strip().startswith("yes")


@pytest.mark.parametrize(("questions", "expected"), [(MAY, True), (MUST_NOT, False)], ids=["may", "must-not"])
def test_the_control_plane_may_do_what_it_needs_and_nothing_else(installed, questions, expected):
    wrong = [it for it in questions if may(installed, it) is not expected]
    assert not wrong


def test_whoever_edits_a_namespace_edits_its_policies_and_never_their_status(installed):
    installed.namespace("tenant")
    for role, user in (("view", "viewer"), ("edit", "editor")):
        installed.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user={user}", "-n", "tenant")
    eventually(lambda: may(installed, "get routes.weft.dev -n tenant", "viewer"), within=10)
    eventually(lambda: may(installed, "patch routes.weft.dev -n tenant", "editor"), within=10)
    assert not may(installed, "patch routes.weft.dev -n tenant", "viewer")
    assert not may(installed, "patch routes.weft.dev/status -n tenant", "editor")
    assert not may(installed, "get routes.weft.dev -n weft-system", "editor")
    # Every kind that there is, lest one be forgotten.
    kinds = installed.kubectl("api-resources", "--api-group=weft.dev", "-o", "name").split()
    assert len(kinds) == 9 and all(may(installed, f"create {kind} -n tenant", "editor") for kind in kinds)


@pytest.mark.parametrize("name", ["staging", "production"])
def test_the_examples_of_a_cluster_are_taken_by_it_and_by_weft(installed, name, tmp_path):
    said = installed.kubectl("kustomize", ROOT / f"deploy/examples/kubernetes/clusters/{name}")
    objects = list(yaml.safe_load_all(said))
    ours = [it for it in objects if it["apiVersion"].startswith("weft.dev/")]
    assert {it["kind"] for it in ours} == {"McpServer", "AccessPolicy", "QuotaPolicy"}
    installed.kubectl("apply", "--server-side", "-f", "-", stdin=said)
    installed.kubectl("diff", "--server-side", "-f", "-", stdin=said)
    # Whether they say what they mean is told by the parser of `weft apply`, which finds nothing wrong and then no mesh.
    written = tmp_path / "ours.yaml"
    written.write_text(yaml.safe_dump_all(ours))
    command = [os.environ["WEFT_BIN"], f"--home={tmp_path / 'none'}", "apply", "--dry-run", "-f", written]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stderr
    assert told.startswith("error: no control plane is known"), told


def test_an_upgrade_to_several_replicas_closes_admission_and_keeps_what_was_patched(installed):
    def hooks():
        kinds = ("mutatingwebhookconfiguration/weft-injector", "validatingwebhookconfiguration/weft-validator")
        return [hook for kind in kinds for hook in installed.get(kind)["webhooks"]]

    assert {it["failurePolicy"] for it in hooks()} == {"Ignore"}
    bundle = base64.b64encode((installed.directory / "certs/apiserver.crt").read_bytes()).decode()
    for kind, count in (("mutating", 4), ("validating", 1)):
        name = {"mutating": "weft-injector", "validating": "weft-validator"}[kind]
        patch = [
            {"op": "add", "path": f"/webhooks/{at}/clientConfig/caBundle", "value": bundle} for at in range(count)
        ]
        flags = ("--type=json", "--field-manager=weft-control-plane", "-p", json.dumps(patch))
        installed.kubectl("patch", f"{kind}webhookconfiguration", name, *flags)
    helm("upgrade", "weft", CHART, "-n", "weft-system", "-f", HA, cluster=installed)
    assert {it["clientConfig"].get("caBundle") for it in hooks()} == {bundle}
    assert {it["failurePolicy"] for it in hooks()} == {"Fail"}
    scaler = installed.get("hpa", "weft-control-plane", "-n", "weft-system")["spec"]
    assert (scaler["minReplicas"], scaler["scaleTargetRef"]["kind"]) == (3, "StatefulSet")
    assert installed.get("pdb", "weft-control-plane", "-n", "weft-system")["spec"]["maxUnavailable"] == 1
    spec = installed.get("statefulset", "weft-control-plane", "-n", "weft-system")["spec"]["template"]["spec"]
    assert {it["topologyKey"] for it in spec["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname", "topology.kubernetes.io/zone",
    }
    assert installed.finds("networkpolicy", "weft-control-plane", "-n", "weft-system")


GOOD = ["injector.excludedNamespaces={ci,old}", "proxy.resources.limits.cpu=2", "podMonitor.enabled=true"]
BAD = [
    "replicas=3", "replicaCount=0", "replicaCount=many", "trustDomain=Not_A_Domain", "trustDomain=",
    "revision=default", "revision=Bad", "image.pullPolicy=Sometimes", "image.tag=a:b", "image.hub=http://registry",
    "injector.failurePolicy=Open", "injector.timeoutSeconds=31", "injector.timeoutSeconds=0",
    "injector.excludedNamespaces={Bad}", "proxy.resources.requests.cpu=plenty", "proxy.resources.requests.disk=1",
    "proxy.accessLog=yes", "logFormat=xml", "persistence.size=big", "antiAffinity=maybe", "autoscaling.minReplicas=1",
    "podMonitor.interval=often", "extraArgs={data-dir}", "nonsense=1", "proxy.image.digest=sha256:short",
]


def test_values_that_cannot_be_meant_are_refused_before_anything_is_made():
    for value in GOOD:
        rendered("--set", value)
    taken = []
    for value in BAD:
        try:
            rendered("--set", value)
            taken.append(value)
        except Refused as refused:
            assert "values don't meet the specifications of the schema" in str(refused), refused
    assert not taken


def test_rules_for_prometheus_are_those_that_its_own_test_holds():
    made = rendered("--set", "prometheusRule.enabled=true,podMonitor.enabled=true,podMonitor.labels.team=mesh")
    rule = next(it for it in made if it["kind"] == "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    monitors = [it for it in made if it["kind"] == "PodMonitor"]
    assert len(monitors) == 2 and all(it["metadata"]["labels"]["team"] == "mesh" for it in monitors)
    container = next(it for it in made if it["kind"] == "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    ports = {it["name"] for it in container["ports"]}
    assert {it["port"] for it in monitors[0]["spec"]["podMetricsEndpoints"]} <= ports


def test_uninstalling_leaves_what_was_applied_and_nothing_else(tmp_path):
    cluster = Cluster(tmp_path / "uninstalled")
    try:
        cluster.start()
        cluster.namespace("weft-system")
        before = everything(cluster)
        helm("install", "weft", CHART, "-n", "weft-system", "-f", HA, cluster=cluster)
        helm("install", "next", CHART, "-n", "weft-system", "--set", "revision=next", cluster=cluster)
        eventually(lambda: len(cluster.get("pods", "-n", "weft-system")["items"]) >= 2, within=20)
        helm("uninstall", "next", "-n", "weft-system", cluster=cluster)
        assert cluster.finds("crd", "mcpservers.weft.dev") and cluster.finds("clusterrole", "weft-control-plane")
        helm("uninstall", "weft", "-n", "weft-system", cluster=cluster)
        # The volumes stay, for the audit trail is in them; and the definitions, with whatever was applied.
        cluster.kubectl("delete", "pod", "-n", "weft-system", "--all", "--force", "--grace-period=0")
        expected = {"CustomResourceDefinition", "PersistentVolumeClaim"}
        eventually(lambda: {kind for kind, *_ in everything(cluster) - before} == expected, within=30)
        cluster.kubectl("delete", "pvc", "-n", "weft-system", "-l", "app.kubernetes.io/name=weft-control-plane")
        cluster.kubectl("delete", "crd", "-l", "app.kubernetes.io/component=crds,app.kubernetes.io/name=weft")
        eventually(lambda: everything(cluster) == before, within=30)
    finally:
        cluster.stop()
