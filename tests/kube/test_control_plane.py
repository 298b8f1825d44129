"""A control plane with a real API server: what replicas share, who leads, whom it believes, and what it keeps right."""

import base64
import json

import pytest
import yaml

from control_plane import NAMESPACE, TRUST_DOMAIN, ControlPlane, eventually, pod, token

LEASE_SECS = 15


@pytest.fixture(scope="module")
def one(cluster, tmp_path_factory):
    """A control plane that leads."""
    cluster.namespace(NAMESPACE)
    plane = ControlPlane(cluster, tmp_path_factory.mktemp("one"))
    try:
        eventually(plane.leads, within=20)
        yield plane
    finally:
        plane.stop()


def roots(cluster, namespace):
    found = cluster.finds("configmap", "weft-roots", "-n", namespace)
    return found and found["data"].get("ca.crt")


def registration(kind: str, name: str, namespace: str, *webhooks: str) -> dict:
    """An object that registers webhooks that no request comes to."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": webhook,
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Ignore",
                "clientConfig": {"service": {"namespace": namespace, "name": "weft-webhooks", "path": "/"}},
                "rules": [{"apiGroups": ["none.example"], "apiVersions": ["v1"], "resources": ["nones"], "operations": ["CREATE"]}],
            }
            for webhook in webhooks
        ],
    }


def bundles(cluster, kind: str, name: str) -> dict:
    said = cluster.get(kind, name)["webhooks"]
    return {it["name"]: base64.b64decode(it["clientConfig"].get("caBundle", "")).decode() for it in said}


def test_what_is_shared_is_in_secrets_and_the_admin_token_opens_the_api(one):
    assert one.secret("weft-issuer", "ca.crt") == one.secret("weft-root", "tls.crt")
    assert one.secret("weft-issuer", "ca.crt").decode() == open(one.ready["caFile"]).read()
    assert len(one.secret("weft-sessions", "secret")) == 32
    assert one.api("/trust")["issuer"]["kind"] == "external"
    assert "adminToken" not in one.ready, "it would be in the log of the pod"


def test_every_namespace_has_the_roots_and_gets_them_back(one, cluster, namespace):
    expected = one.secret("weft-issuer", "ca.crt").decode()
    eventually(lambda: roots(cluster, namespace) == expected, within=10)
    cluster.kubectl("delete", "configmap", "weft-roots", "-n", namespace)
    eventually(lambda: roots(cluster, namespace) == expected, within=10)
    cluster.kubectl("patch", "configmap", "weft-roots", "-n", namespace, "-p", json.dumps({"data": {"ca.crt": "others", "more": "x"}}))
    eventually(lambda: roots(cluster, namespace) == expected, within=10)
    for other in ("kube-system", "kube-public", NAMESPACE):
        assert roots(cluster, other) is None


def test_our_webhooks_have_our_certificates_and_others_keep_theirs(one, cluster):
    expected = one.secret("weft-issuer", "ca.crt").decode()
    objects = [
        ("MutatingWebhookConfiguration", "weft-injector", ["pod.injector.weft.dev", "of.others.example"]),
        ("ValidatingWebhookConfiguration", "weft-validator", ["validator.weft.dev"]),
    ]
    try:
        for kind, name, webhooks in objects:
            cluster.apply(registration(kind, name, NAMESPACE, *webhooks))
            eventually(lambda: bundles(cluster, kind, name)[webhooks[0]] == expected, within=10)
            cluster.kubectl("patch", kind, name, "--type=json", "-p", json.dumps(
                [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
            ))
            eventually(lambda: bundles(cluster, kind, name)[webhooks[0]] == expected, within=10)
        assert bundles(cluster, "MutatingWebhookConfiguration", "weft-injector")["of.others.example"] == ""
    finally:
        for kind, name, _ in objects:
            cluster.kubectl("delete", kind, name)


def test_a_revision_leaves_what_is_the_main_control_planes_alone(one, cluster, tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({
        "image": "weft-sidecar:test", "trustDomain": TRUST_DOMAIN, "controlPlane": "weft:7500", "revision": "canary",
    }))
    other = ControlPlane(cluster, tmp_path, f"--injector-settings={settings}")
    try:
        eventually(other.leads, within=20)
        assert one.leads(), "each has a leader of its own"
        assert other.secret("weft-issuer", "tls.crt") == one.secret("weft-issuer", "tls.crt")
    finally:
        other.stop()


def test_of_two_control_planes_one_leads_and_the_other_takes_over_with_the_same_authority(cluster, tmp_path_factory):
    namespace = cluster.namespace("weft-twins")
    first = ControlPlane(cluster, tmp_path_factory.mktemp("first"), namespace=namespace)
    second = ControlPlane(cluster, tmp_path_factory.mktemp("second"), namespace=namespace)
    twins = [first, second]
    try:
        eventually(lambda: sorted(it.health()[1] for it in twins) == ["ready\n", "standing by for another that leads\n"], within=20)
        assert open(first.ready["caFile"]).read() == open(second.ready["caFile"]).read()
        leader, other = twins if first.leads() else twins[::-1]
        assert leader.api("/trust")["issuer"]["kind"] == "external"
        with pytest.raises(OSError, match="refused"):
            other.api("/trust")
        # It gives the lease back, so that nobody waits for its end.
        leader.stop()
        eventually(other.leads, within=LEASE_SECS / 2)
        assert other.api("/trust")["roots"]
        assert "another control plane leads" not in other.log()
    finally:
        for twin in twins:
            twin.stop()


def test_a_control_plane_that_dies_is_replaced_when_its_lease_is_over(cluster, tmp_path_factory):
    namespace = cluster.namespace("weft-heirs")
    first = ControlPlane(cluster, tmp_path_factory.mktemp("dies"), namespace=namespace)
    second = None
    try:
        eventually(first.leads, within=20)
        second = ControlPlane(cluster, tmp_path_factory.mktemp("heir"), namespace=namespace)
        first.freeze()
        eventually(second.leads, within=LEASE_SECS + 10)
        # Woken up, it sees who took its place, and ends.
        first.thaw()
        eventually(lambda: not first.process.is_alive(), within=20)
        assert "another control plane leads in the place of this one" in first.log()
    finally:
        first.thaw()
        for it in filter(None, [first, second]):
            it.stop()


def test_another_leader_goes_on_from_the_store_of_one_that_was_killed(cluster, tmp_path):
    namespace = cluster.namespace("weft-copies")
    first = ControlPlane(cluster, tmp_path / "first", namespace=namespace, WEFT_POD_NAME="first")
    others = []

    def follows(plane) -> bool:
        return "\nweft_replica_follows 1\n" in plane.health("/metrics")[1]

    def history(plane) -> list:
        return plane.api("/history?limit=500")["items"]

    try:
        eventually(first.leads, within=20)
        second = ControlPlane(cluster, tmp_path / "second", namespace=namespace, WEFT_POD_NAME="second")
        others.append(second)
        eventually(lambda: follows(second), within=20)
        eventually(lambda: 'weft_replica_behind_seconds{replica="second"} 0.0' in first.health("/metrics")[1], within=20)
        spec = {"stdio": {"command": "x"}}
        cluster.apply({
            "apiVersion": "weft.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"namespace": namespace, "name": "files"}, "spec": spec,
        })
        eventually(lambda: f"mcpservers/{namespace}/files" in json.dumps(history(first)), within=10)
        # Answered, so that it is not lost.
        made = first.api("/keys", {"name": "by-hand", "scope": "readonly"})
        before = history(first)
        first.kill()

        eventually(second.leads, within=LEASE_SECS + 15)
        assert second.api(f"/namespaces/{namespace}/mcpservers/files", key=made["key"])["spec"] == spec
        assert history(second) == before, "what the cluster said before is not written again"
        # What the one before has is what the present one has, too: it goes on as a copy.
        again = ControlPlane(cluster, tmp_path / "first", namespace=namespace, WEFT_POD_NAME="first")
        others.append(again)
        eventually(lambda: follows(again), within=20)
        assert "begins anew" not in again.log()
    finally:
        for it in [first, *others]:
            it.stop()
