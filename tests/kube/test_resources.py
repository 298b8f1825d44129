"""Objects of a real cluster: defined, judged, followed to the sidecars, and told what became of them."""

import json
import os
import re
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from cluster import Refused
from control_plane import NAMESPACE, TRUST_DOMAIN, ControlPlane, eventually, pod, sidecar_file, token
from processes import Process

EXAMPLES = Path(__file__).parents[2] / "deploy/examples"
KINDS = [
    "mcpservers", "virtualservers", "routes", "accesspolicies", "quotapolicies", "toolpolicies", "authentications",
    "telemetries", "trusts",
]


def validator() -> dict:
    """The webhook, as the chart registers it."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "weft-validator"},
        "webhooks": [{
            "name": "validator.weft.dev",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "clientConfig": {"service": {"namespace": NAMESPACE, "name": "weft-webhooks", "path": "/validate"}},
            "rules": [{
                "apiGroups": ["weft.dev"], "apiVersions": ["*"], "resources": ["*"],
                "operations": ["CREATE", "UPDATE", "DELETE"],
            }],
        }],
    }


def document(kind: str, namespace: str, name: str, spec: dict, **metadata) -> dict:
    metadata = {"namespace": namespace, "name": name} | metadata
    return {"apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def plane(cluster, tmp_path_factory):
    """A control plane that leads, behind a webhook that judges."""
    cluster.namespace(NAMESPACE)
    directory = tmp_path_factory.mktemp("plane")
    plane = ControlPlane(cluster, directory)
    try:
        eventually(plane.leads, within=20)
        cluster.apply({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "weft-webhooks", "namespace": NAMESPACE},
            "spec": {"ports": [{"name": "webhooks", "port": 443, "targetPort": 7503}]},
        })
        cluster.answers("weft-webhooks", NAMESPACE, webhooks=plane.webhooks_port)
        judged(cluster)
        yield plane
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", "weft-validator", "--ignore-not-found")
        plane.stop()


def judged(cluster):
    """Registers the webhook, and waits until the API server asks it."""
    cluster.apply(validator())
    bad = document("QuotaPolicy", "default", "probe", {"limits": [{"rate": "10/fortnight"}]})
    eventually(lambda: "denied the request" in refusal(cluster, bad, "--dry-run=server"), within=20)


def refusal(cluster, thing: dict, *flags: str) -> str:
    """What kubectl says when it is refused; nothing if it is not."""
    try:
        cluster.apply(thing, flags=flags)
        return ""
    except Refused as why:
        return str(why)


def ask(plane, method: str, path: str, body: str = ""):
    """What an operator with the admin token is answered, whatever the status."""
    context = ssl.create_default_context(cafile=plane.ready["caFile"])
    request = urllib.request.Request(
        f"https://{plane.ready['operators']}/v1{path}", method=method, data=body.encode(),
        headers={
            "Authorization": f"Bearer {plane.secret('weft-admin', 'token').decode()}",
            "Content-Type": "application/yaml",
        },
    )
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def conditions(cluster, kind: str, namespace: str, name: str) -> dict:
    found = cluster.finds(kind, name, "-n", namespace) or {}
    status = found.get("status", {})
    if status.get("observedGeneration") != found.get("metadata", {}).get("generation"):
        return {}
    return {it["type"]: it for it in status["conditions"]}


def is_true(cluster, kind: str, namespace: str, name: str) -> bool:
    found = conditions(cluster, kind, namespace, name)
    return len(found) == 2 and all(it["status"] == "True" for it in found.values())


def stored(plane, namespace: str) -> list[str]:
    items = plane.api(f"/resources?namespace={namespace}")["items"]
    return sorted(f"{it['kind']}/{it['metadata']['name']}" for it in items)


def test_the_definitions_are_taken_as_they_are_and_known_by_their_names(cluster):
    for kind in KINDS:
        said = cluster.get("crd", f"{kind}.weft.dev")["status"]["conditions"]
        assert {(it["type"], it["status"]) for it in said} == {("NamesAccepted", "True"), ("Established", "True")}
    for name in ("mcp", "vs", "rt", "ap", "qp", "tp", "auth", "tel", "weft"):
        cluster.kubectl("get", name, "-A")
    # What is called so already goes on being called so.
    assert "ResourceQuota" in cluster.kubectl("explain", "quota")
    assert "One rule" in cluster.kubectl("explain", "accesspolicy.spec.rules")


def test_every_example_is_taken_shown_and_followed(plane, cluster):
    text = "".join(f"---\n{file.read_text()}" for file in sorted(EXAMPLES.glob("*.yaml")))
    text = text.replace("weft.local", TRUST_DOMAIN)
    objects = [it for it in yaml.safe_load_all(text) if it]
    for namespace in sorted({it["metadata"]["namespace"] for it in objects} - {NAMESPACE}):
        cluster.namespace(namespace)
    try:
        cluster.apply(text)
        for it in objects:
            kind, metadata = it["kind"], it["metadata"]
            eventually(lambda: is_true(cluster, kind, metadata["namespace"], metadata["name"]), within=20)
        _, told = ask(plane, "POST", "/apply?dryRun=true", text)
        assert {it["action"] for it in told["results"]} == {"unchanged"}
        header, row = cluster.kubectl("get", "accesspolicies", "-n", "research").splitlines()[:2]
        assert header.split() == ["NAME", "SHADOW", "ACCEPTED", "PROGRAMMED", "SIDECARS", "AGE"]
        assert row.split()[1:4] == ["True", "True", "0/0"]
        history = plane.api("/history")["items"][0]
        assert history["author"] == "kubernetes"
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=text)


BAD = {
    "a word that no expression has": ("AccessPolicy", {"rules": [{"action": "allow", "when": "nonsense > 1"}]}),
    "an expression that is no condition": ("AccessPolicy", {"rules": [{"action": "allow", "when": "1 + 1"}]}),
    "a rate per nothing": ("QuotaPolicy", {"limits": [{"rate": "10/fortnight"}]}),
    "a dimension twice": ("QuotaPolicy", {"limits": [{"rate": "10/min", "per": ["caller", "caller"]}]}),
    "a time zone that is none": ("QuotaPolicy", {"limits": [{"budget": "10/day", "zone": "Mars/Olympus"}]}),
    "others' servers": (
        "AccessPolicy", {"servers": {"namespaces": ["kube-system"]}, "rules": [{"action": "allow"}]},
    ),
    "others' members": ("VirtualServer", {"members": [{"server": "kube-system/x"}]}),
    "a name that another has": ("McpServer", {"stdio": {"command": "x"}, "aliases": ["taken"]}),
    "an era twice": ("McpServer", {"stdio": {"command": "x"}, "eras": ["modern", "modern"]}),
}


@pytest.mark.parametrize("what", BAD)
def test_what_apply_refuses_is_refused_in_the_same_words(plane, cluster, namespace, what):
    taken = document("McpServer", namespace, "taken", {"stdio": {"command": "x"}})
    cluster.apply(taken)
    eventually(lambda: stored(plane, namespace) == ["McpServer/taken"])
    kind, spec = BAD[what]
    bad = document(kind, namespace, "bad", spec)
    status, problem = ask(plane, "POST", "/apply?dryRun=true", json.dumps(bad))
    assert (status, problem["code"]) == (422, "invalid")
    said = refusal(cluster, bad)
    assert 'admission webhook "validator.weft.dev" denied the request' in said
    for mistake in problem["errors"]:
        assert mistake["message"] in said and mistake["field"] in said, (mistake, said)
    assert cluster.finds(kind, "bad", "-n", namespace) is None


def test_what_the_api_server_sees_for_itself_is_said_in_the_same_words(plane, cluster, namespace):
    spec = {"stdio": {"command": "x"}, "external": {"url": "https://x.example/"}}
    bad = document("McpServer", namespace, "bad", spec)
    _, problem = ask(plane, "POST", "/apply?dryRun=true", json.dumps(bad))
    assert problem["errors"][0]["message"] in refusal(cluster, bad)
    bad = document("Trust", namespace, "bad", {"trustDomain": TRUST_DOMAIN})
    _, problem = ask(plane, "POST", "/apply?dryRun=true", json.dumps(bad))
    assert problem["errors"][0]["message"] in refusal(cluster, bad)


def test_a_field_that_there_is_not_is_refused_by_kubectl_and_taken_away_where_nobody_asks(plane, cluster, namespace):
    slip = document("McpServer", namespace, "slip", {"stdio": {"command": "x", "argz": ["y"]}})
    assert 'unknown field "spec.stdio.argz"' in refusal(cluster, slip)
    cluster.apply(slip, flags=["--validate=false"])
    assert cluster.get("mcpserver", "slip", "-n", namespace)["spec"] == {"stdio": {"command": "x"}}
    eventually(lambda: is_true(cluster, "mcpserver", namespace, "slip"), within=20)


def test_another_trust_domain_is_refused(plane, cluster):
    bad = document("Trust", NAMESPACE, "mesh", {"trustDomain": "other.test"})
    assert f"spec.trustDomain: this mesh's trust domain is {TRUST_DOMAIN}" in refusal(cluster, bad)


def test_probable_mistakes_are_warnings_when_they_are_made_and_in_the_status(plane, cluster, namespace):
    lonely = document("AccessPolicy", namespace, "lonely", {
        "servers": {"names": ["nobody"]}, "rules": [{"action": "deny"}],
    })
    command = ["kubectl", f"--kubeconfig={cluster.kubeconfig}", "apply", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(lonely), capture_output=True, text=True, check=True, timeout=30)
    assert "Warning: it selects no server that exists" in done.stderr
    eventually(lambda: is_true(cluster, "ap", namespace, "lonely"), within=20)
    told = conditions(cluster, "ap", namespace, "lonely")["Accepted"]
    assert told["message"] == "it selects no server that exists"


def test_nothing_is_changed_through_the_operator_api_but_dry_runs_tell(plane, cluster, namespace):
    mine = json.dumps(document("McpServer", namespace, "mine", {"stdio": {"command": "x"}}))
    status, problem = ask(plane, "POST", "/apply", mine)
    assert (status, problem["code"]) == (409, "managed") and "kubectl apply" in problem["detail"]
    status, told = ask(plane, "POST", "/apply?dryRun=true", mine)
    assert (status, told["results"][0]["action"]) == (200, "created")
    assert stored(plane, namespace) == []


def test_a_policy_reaches_the_sidecars_that_it_concerns_and_goes_with_its_object(plane, cluster, namespace, tmp_path):
    pod(cluster, namespace, "files-1", app="files")
    file = sidecar_file(cluster, plane, tmp_path, namespace, "files-1", token(cluster, namespace, "files-1"))
    config = json.loads(Path(file).read_text())
    config["node"]["labels"] = {"app": "files"}
    Path(file).write_text(json.dumps(config))
    sidecar = Process(tmp_path / "log", os.environ["WEFT_SIDECAR_BIN"], "run", "--config", file)

    def held() -> dict:
        told = plane.api(f"/sidecars/{namespace}/files-1/config")
        return {it["name"]: it["version"] for it in told["resources"] if it["type"] == "AccessPolicy"}

    def policy(caller: str) -> dict:
        rule = {"action": "allow", "from": [{"namespaces": [caller]}]}
        return document("AccessPolicy", namespace, "readers", {"servers": {"names": ["files"]}, "rules": [rule]})

    def sidecars() -> str:
        return cluster.get("ap", "readers", "-n", namespace).get("status", {}).get("sidecars")

    try:
        workload = {"workload": {"labels": {"app": "files"}, "port": 1}}
        cluster.apply(document("McpServer", namespace, "files", workload), policy("agents"))
        eventually(lambda: f"{namespace}/readers" in held(), within=20)
        eventually(lambda: sidecars() == "1/1" and is_true(cluster, "ap", namespace, "readers"), within=20)
        first = held()[f"{namespace}/readers"]
        cluster.apply(policy("auditors"))
        # That the changed one is programmed is said after its sidecar has it, not before.
        eventually(lambda: is_true(cluster, "ap", namespace, "readers"), within=20)
        assert held()[f"{namespace}/readers"] != first
        cluster.kubectl("delete", "ap", "readers", "-n", namespace)
        eventually(lambda: not held(), within=10)
    finally:
        sidecar.stop()


def test_what_came_past_the_webhook_is_kept_out_and_what_it_said_before_holds(plane, cluster, namespace):
    def quota(rate: str) -> dict:
        return document("QuotaPolicy", namespace, "fair", {"limits": [{"rate": rate}]})

    cluster.apply(quota("10/min"))
    eventually(lambda: is_true(cluster, "qp", namespace, "fair"), within=20)
    cluster.kubectl("delete", "validatingwebhookconfiguration", "weft-validator")
    try:
        eventually(lambda: not refusal(cluster, quota("10/fortnight")), within=20)
        told = eventually(lambda: conditions(cluster, "qp", namespace, "fair"), within=20)
        assert {name: it["status"] for name, it in told.items()} == {"Accepted": "False", "Programmed": "False"}
        assert re.match(r"spec\.limits\[0\]\.rate: .*; what it said before goes on holding", told["Accepted"]["message"])
        checks = {it["name"]: it for it in plane.api("/checks?group=control-plane")["items"]}
        assert checks["objects kept out"]["outcome"] == "failed" and checks["objects kept out"]["remedy"]
        assert f"quotapolicies/{namespace}/fair (spec.limits[0].rate: " in checks["objects kept out"]["detail"]
        shown = plane.api(f"/namespaces/{namespace}/quotapolicies/fair")
        assert shown["spec"]["limits"][0]["rate"] == "10/min"
    finally:
        judged(cluster)
    # Notes on it are not judged anew, and it may go.
    cluster.kubectl("annotate", "qp", "fair", "-n", namespace, "note=later")
    cluster.kubectl("delete", "qp", "fair", "-n", namespace)
    eventually(lambda: stored(plane, namespace) == [], within=10)


def test_a_control_plane_that_was_away_catches_up(cluster, tmp_path):
    namespace = cluster.namespace("weft-away")

    def server(name: str, command: str = "x") -> dict:
        return document("McpServer", namespace, name, {"stdio": {"command": command}})

    # Nobody is there to judge; what is applied here would pass.
    cluster.kubectl("delete", "validatingwebhookconfiguration", "weft-validator", "--ignore-not-found")
    plane = ControlPlane(cluster, tmp_path, namespace=namespace)
    try:
        eventually(plane.leads, within=20)
        cluster.apply(server("stays"), server("goes"), server("changes"))
        eventually(lambda: len(stored(plane, namespace)) == 3, within=10)
        plane.stop()
        cluster.kubectl("delete", "mcpserver", "goes", "-n", namespace)
        cluster.apply(server("changes", "other"), server("comes"))
        plane = ControlPlane(cluster, tmp_path, namespace=namespace)
        eventually(plane.leads, within=30)
        # What sidecars are told once it leads is what the cluster says.
        assert stored(plane, namespace) == ["McpServer/changes", "McpServer/comes", "McpServer/stays"]
        shown = plane.api(f"/namespaces/{namespace}/mcpservers/changes")
        assert shown["spec"]["stdio"]["command"] == "other"
    finally:
        plane.stop()
