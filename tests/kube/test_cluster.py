"""That the cluster of this tier is one: whatever is proved here is proved against Kubernetes' own programs."""

import json

from processes import eventually


def test_a_deployment_becomes_pods_whose_tokens_the_api_server_believes(cluster, namespace):
    cluster.kubectl("create", "deployment", "app", "--image=app", "-n", namespace)
    pods = eventually(lambda: cluster.get("pods", "-n", namespace)["items"], within=20)
    pod = pods[0]["metadata"]["name"]
    token = cluster.kubectl(
        "create", "token", "default", "-n", namespace, "--audience=weft.test",
        "--bound-object-kind=Pod", f"--bound-object-name={pod}",
    ).strip()
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["weft.test"]},
    }
    said = json.loads(cluster.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(review)))["status"]
    assert said["authenticated"] and said["user"]["username"] == f"system:serviceaccount:{namespace}:default"
    assert said["user"]["extra"]["authentication.kubernetes.io/pod-name"] == [pod]


def test_the_version_is_one_that_has_sidecars_of_its_own(cluster):
    version = json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]
    assert (int(version["major"]), int(version["minor"])) >= (1, 33)
