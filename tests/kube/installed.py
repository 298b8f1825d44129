"""The control plane of a release of the chart: its arguments, its settings, and the rights of its account and no others. Only
its node is missing, so that it runs on this machine."""

import os

import yaml

from cluster import Cluster
from processes import Process, eventually

SYSTEM = "weft-system"


class Installed:
    """A release in a cluster of its own, and its control plane."""

    def __init__(self, cluster: Cluster, folder, release: str):
        self.cluster, self.release = cluster, release
        suffix = "" if release == "weft" else f"-{release}"
        self.name = f"weft-control-plane{suffix}"
        said = eventually(lambda: cluster.finds("pod", f"{self.name}-0", "-n", SYSTEM), within=20)
        folder.mkdir()
        args = said["spec"]["containers"][0]["args"]
        settings = cluster.get("configmap", f"weft-injector{suffix}", "-n", SYSTEM)["data"]["settings.yaml"]
        (folder / "settings.yaml").write_text(settings)
        moved = {"--data-dir=/var/lib/weft": f"--data-dir={folder / 'data'}"}
        moved["--injector-settings=/etc/weft/settings.yaml"] = f"--injector-settings={folder / 'settings.yaml'}"
        assert set(moved) <= set(args)
        doors = [f"--listen-{door}=127.0.0.1:0" for door in ("sidecars", "operators", "health")]
        self.process = Process(
            folder / "control-plane.log", os.environ["WEFT_BIN"], *(moved.get(it, it) for it in args), *doors,
            "--listen-webhooks=0.0.0.0:0", f"--kubeconfig={self._kubeconfig(folder)}",
            WEFT_POD_NAME=said["metadata"]["name"],
        )
        cluster.answers(f"weft-webhooks{suffix}", SYSTEM, webhooks=int(self.process.ready["webhooks"].rsplit(":", 1)[1]))

    def _kubeconfig(self, folder):
        """How the pod reaches the API server: by the token of its account."""
        config = yaml.safe_load(self.cluster.kubeconfig.read_text())
        token = self.cluster.kubectl("create", "token", self.name, "-n", SYSTEM).strip()
        config["users"][0]["user"] = {"token": token}
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        return folder / "kubeconfig"

    def log(self) -> str:
        return self.process.log()
