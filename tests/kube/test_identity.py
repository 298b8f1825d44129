"""Whom a control plane believes: real sidecars with tokens of real service accounts, bound to real pods."""

import json
import os
import subprocess

import pytest

from control_plane import NAMESPACE, TRUST_DOMAIN, ControlPlane, eventually, pod, sidecar_file, token
from processes import Process


@pytest.fixture(scope="module")
def plane(cluster, tmp_path_factory):
    cluster.namespace(NAMESPACE)
    plane = ControlPlane(cluster, tmp_path_factory.mktemp("plane"))
    try:
        eventually(plane.leads, within=20)
        yield plane
    finally:
        plane.stop()


def refused(plane, file: str, expected: str):
    """A sidecar with this file gets no certificate, for the reason that the control plane's log has."""
    before = plane.log().count(expected)
    with open(os.devnull, "wb") as nowhere:
        command = [os.environ["WEFT_SIDECAR_BIN"], "run", "--config", file]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=nowhere, stderr=nowhere)
    try:
        eventually(lambda: plane.log().count(expected) > before, within=15)
    finally:
        process.kill()
        process.wait()


def test_a_sidecar_joins_with_the_token_of_its_pod(plane, cluster, namespace, tmp_path):
    cluster.kubectl("create", "serviceaccount", "files", "-n", namespace)
    pod(cluster, namespace, "files-1", account="files")
    proof = token(cluster, namespace, "files-1", account="files")
    file = sidecar_file(cluster, plane, tmp_path, namespace, "files-1", proof)
    sidecar = Process(tmp_path / "log", os.environ["WEFT_SIDECAR_BIN"], "run", "--config", file)
    try:
        eventually(lambda: f"{namespace}/files-1" in json.dumps(plane.api("/sidecars")), within=15)
        assert f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/files" in json.dumps(plane.api("/sidecars"))
    finally:
        sidecar.stop()


def test_a_token_for_somebody_else_is_not_even_shown_to_the_api_server(plane, cluster, namespace, tmp_path):
    pod(cluster, namespace, "app")
    for number, audience in enumerate(["https://kubernetes.default.svc", "weft.other.test"]):
        proof = token(cluster, namespace, "app", audience=audience)
        file = sidecar_file(cluster, plane, tmp_path / str(number), namespace, "app", proof)
        refused(plane, file, "it is for another audience")


def test_a_token_that_is_bound_to_no_pod_proves_nothing(plane, cluster, namespace, tmp_path):
    file = sidecar_file(cluster, plane, tmp_path, namespace, "app", token(cluster, namespace, None))
    refused(plane, file, "the token is bound to no pod")


def test_a_token_outlives_its_pod_and_proves_nothing_then_even_if_another_has_the_name(plane, cluster, namespace, tmp_path):
    pod(cluster, namespace, "app")
    proof = token(cluster, namespace, "app")
    file = sidecar_file(cluster, plane, tmp_path, namespace, "app", proof)
    cluster.kubectl("delete", "pod", "app", "-n", namespace, "--force", "--grace-period=0")
    refused(plane, file, "the token is not valid")
    pod(cluster, namespace, "app")
    refused(plane, file, "the token is not valid")


def test_a_pod_that_ended_proves_nothing(plane, cluster, namespace, tmp_path):
    pod(cluster, namespace, "job")
    proof = token(cluster, namespace, "job")
    cluster.kubectl(
        "patch", "pod", "job", "-n", namespace, "--subresource=status", "--type=merge",
        "-p", json.dumps({"status": {"phase": "Succeeded"}}),
    )
    file = sidecar_file(cluster, plane, tmp_path, namespace, "job", proof)
    refused(plane, file, f"the pod {namespace}/job that the token is bound to is gone")


def test_what_is_no_token_is_refused(plane, cluster, namespace, tmp_path):
    for number, proof in enumerate(["nonsense", "a.b.c", "x" * 20_000]):
        file = sidecar_file(cluster, plane, tmp_path / str(number), namespace, "app", proof)
        refused(plane, file, "the token is")
