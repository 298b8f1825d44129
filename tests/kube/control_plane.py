"""A control plane of the cluster, as a pod would run it, but on this machine."""

import base64
import json
import os
import signal
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from cluster import Cluster, Refused
from processes import Process, eventually

TRUST_DOMAIN = "mesh.test"
NAMESPACE = "weft-system"


class ControlPlane:
    """One control plane, in a folder of its own."""

    def __init__(self, cluster: Cluster, directory: Path, *flags: str, namespace: str = NAMESPACE, **environment: str):
        self.cluster, self.directory, self.namespace = cluster, directory, namespace
        directory.mkdir(parents=True, exist_ok=True)
        listen = [f"--listen-{door}=127.0.0.1:0" for door in ("sidecars", "operators", "health")]
        self.process = Process(
            directory / "control-plane.log",
            os.environ["WEFT_BIN"], "control-plane", "--kubernetes", f"--kubeconfig={cluster.kubeconfig}",
            f"--namespace={namespace}", f"--data-dir={directory / 'data'}", f"--trust-domain={TRUST_DOMAIN}",
            *listen, "--listen-webhooks=0.0.0.0:0", "--log-level=info,weft_kubernetes=debug", *flags,
            **environment,
        )
        self.ready = self.process.ready

    @property
    def webhooks_port(self) -> int:
        return int(self.ready["webhooks"].rsplit(":", 1)[1])

    def secret(self, name: str, key: str) -> bytes:
        return base64.b64decode(self.cluster.get("secret", name, "-n", self.namespace)["data"][key])

    def health(self, path: str = "/healthz/ready") -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.ready['health']}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def leads(self) -> bool:
        return self.health() == (200, "ready\n")

    def api(self, path: str, body: dict | None = None, key: str | None = None):
        """What an operator is told who has a key, or else the admin token of the cluster. With a body something is made."""
        context = ssl.create_default_context(cafile=self.ready["caFile"])
        key = key or self.secret("weft-admin", "token").decode()
        request = urllib.request.Request(
            f"https://{self.ready['operators']}/v1{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return json.load(answer)

    def log(self) -> str:
        return self.process.log()

    def freeze(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGCONT)

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        eventually(lambda: not self.process.is_alive(), within=10)

    def stop(self):
        self.process.stop()


def pod(cluster: Cluster, namespace: str, name: str, account: str = "default", **labels: str) -> str:
    """Makes a pod, and says its UID."""
    cluster.apply({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"serviceAccountName": account, "containers": [{"name": "app", "image": "app"}]},
    })
    return cluster.get("pod", name, "-n", namespace)["metadata"]["uid"]


def token(cluster: Cluster, namespace: str, bound_to: str | None, audience: str = f"weft.{TRUST_DOMAIN}", account="default"):
    """A token of an account, bound to a pod as a kubelet projects it."""
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={bound_to}"] if bound_to else []
    return cluster.kubectl("create", "token", account, "-n", namespace, f"--audience={audience}", *bound).strip()


def sidecar_file(cluster, plane, directory, namespace: str, name: str, proof: str) -> str:
    """The file of a sidecar that proves itself by a token, as one in a pod has it. The roots are the ConfigMap's."""
    directory.mkdir(parents=True, exist_ok=True)
    roots = eventually(lambda: cluster.finds("configmap", "weft-roots", "-n", namespace), within=10)
    (directory / "ca.crt").write_text(roots["data"]["ca.crt"])
    (directory / "token").write_text(proof)
    config = {
        "node": {"id": f"{namespace}/{name}"},
        "source": {"controlPlane": {
            "address": plane.ready["sidecars"],
            "proof": {"tokenFile": str(directory / "token")},
            "caFile": str(directory / "ca.crt"),
        }},
        "listen": {"inbound": "127.0.0.1:0", "outbound": None, "health": "127.0.0.1:0", "admin": "127.0.0.1:0"},
    }
    file = directory / "sidecar.yaml"
    file.write_text(json.dumps(config))
    return str(file)


__all__ = ["ControlPlane", "NAMESPACE", "Refused", "TRUST_DOMAIN", "eventually", "pod", "sidecar_file", "token"]
