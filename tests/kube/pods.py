"""Podman in the place of a kubelet: images that are built here, and pods of the cluster that run in them.

Podman 4.3, as Debian has it, knows neither sidecars of their own kind nor projected volumes, takes from a pod only its name,
and expands no variables. What a kubelet would put in the place of these, `Node.play` puts there; all else of the pod stays
as it is in the cluster.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import yaml

from charts import ROOT
from cluster import Cluster

CONF = """
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
"""


SIDECAR_USER = 7443


class Failed(Exception):
    """What podman said when it failed."""


class Node:
    """A node: its images, a network of its own, and the pods that it runs."""

    def __init__(self, folder: Path, subnet: int, dns: bool = True):
        self.folder = folder
        self.network = f"weft-{os.getpid()}-{subnet}"
        self._addresses = (f"10.213.{subnet}.{last}" for last in range(10, 250))
        self.gateway = f"10.213.{subnet}.1"
        folder.mkdir(parents=True)
        (folder / "containers.conf").write_text(CONF)
        # Nothing of whatever else podman runs on this machine.
        places = {"root": "root", "runroot": "run", "tmpdir": "tmp", "network-config-dir": "networks"}
        self._command = ["podman", *(f"--{flag}={folder / name}" for flag, name in places.items())]
        (folder / "networks").mkdir()
        flags = [] if dns else ["--disable-dns"]
        self.podman("network", "create", *flags, f"--subnet=10.213.{subnet}.0/24", self.network)

    def podman(self, *args, within: float = 120, both: bool = False) -> str:
        """What podman prints, with `both` also on stderr; raises what it says when it fails."""
        done = subprocess.run(
            [*self._command, *map(str, args)], capture_output=True, text=True, timeout=within, check=False, cwd=self.folder,
            env=os.environ | {"CONTAINERS_CONF": str(self.folder / "containers.conf"), "TMPDIR": str(self.folder)},
        )
        if done.returncode != 0:
            raise Failed(done.stderr.strip())
        return done.stdout + (done.stderr if both else "")

    def stop(self):
        self.podman("pod", "rm", "--all", "--force", "--time=1")
        self.podman("network", "rm", "--force", self.network)
        self.podman("image", "unmount", "--all")
        subprocess.run(["umount", self.folder / "root/overlay"], check=False, capture_output=True)

    def build(self, image: str, program: Path, *args: str, user: int = 1000, also: Path | None = None):
        """An image FROM scratch that holds one program, and the libraries that it, or another program, is linked with."""
        context = self.folder / image.replace("/", "-").replace(":", "-")
        context.mkdir()
        shutil.copy(program, context / "program")
        # What a debugger would need is nine tenths of it.
        subprocess.run(["strip", "--strip-all", context / "program"], check=False, capture_output=True)
        lines = ["FROM scratch", f"COPY --chmod=0755 program /opt/{Path(program).name}"]
        for library in _libraries(also or program):
            shutil.copy(library, context / library.name)
            lines.append(f"COPY --chmod=0755 {library.name} {library}")
        entry = json.dumps([f"/opt/{Path(program).name}", *args])
        lines += [f"USER {user}:{user}", f"ENTRYPOINT {entry}"]
        (context / "Containerfile").write_text("\n".join(lines) + "\n")
        self.podman("build", "--quiet", "-t", f"localhost/{image}", context)

    def build_shipped(self, target: str, image: str, built: Path, *args: str):
        """An image as `deploy/images` makes it, of the programs in a folder."""
        self.podman(
            "build", "--quiet", "-f", ROOT / "deploy/Containerfile", "--target", target, *args, "-t", f"localhost/{image}", built
        )

    def play(self, cluster: Cluster, pod: str, namespace: str, audience: str) -> "Pod":
        """Runs a pod of the cluster, and says so to the cluster."""
        address = next(self._addresses)
        running = Pod(self, pod, namespace, address)
        said = cluster.get("pod", pod, "-n", namespace)
        account = said["spec"]["serviceAccountName"]
        token = cluster.kubectl(
            "create", "token", account, "-n", namespace, f"--audience={audience}", "--duration=3607s",
            "--bound-object-kind=Pod", f"--bound-object-name={pod}", f"--bound-object-uid={said['metadata']['uid']}",
        ).strip()
        roots = cluster.get("configmap", "weft-roots", "-n", namespace)["data"]["ca.crt"]
        folder = self.folder / running.name
        for name, text in (("token", token), ("ca.crt", roots)):
            (folder / "identity").mkdir(parents=True, exist_ok=True)
            (folder / "identity" / name).write_text(text)
        written = folder / "pod.yaml"
        written.write_text(yaml.safe_dump(self._as_podman_knows_it(said, running, folder)))
        self.podman("kube", "play", "--network", self.network, "--ip", address, written)
        cluster.runs(pod, namespace)
        status = {"podIP": address, "podIPs": [{"ip": address}]}
        patch = json.dumps({"status": status})
        cluster.kubectl("patch", "pod", pod, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
        return running

    def _as_podman_knows_it(self, said: dict, running: "Pod", folder: Path) -> dict:
        spec = said["spec"]
        volumes = [_volume(it, folder) for it in spec.get("volumes", []) if not it["name"].startswith("kube-api-access")]
        of_pod = {
            "metadata.name": running.pod, "metadata.namespace": running.namespace, "status.podIP": running.address,
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": running.name, "labels": said["metadata"].get("labels", {})},
            "spec": {
                "restartPolicy": "Never",
                "hostAliases": [{"ip": self.gateway, "hostnames": ["weft-control-plane.weft-system.svc"]}],
                "initContainers": [_container(it, of_pod) for it in spec.get("initContainers", [])],
                "containers": [_container(it, of_pod) for it in spec["containers"]],
                "volumes": volumes,
            },
        }


class Pod:
    """A pod that runs."""

    def __init__(self, node: Node, pod: str, namespace: str, address: str):
        self.node = node
        self.pod, self.namespace, self.address = pod, namespace, address
        self.name = f"{namespace}-{pod}"

    def log(self, container: str) -> str:
        return self.node.podman("logs", f"{self.name}-{container}", both=True)

    def inside(self, *command: str, within: float = 30) -> subprocess.CompletedProcess:
        """Runs a program of this machine in the pod's network."""
        container = self.node.podman("pod", "inspect", self.name, "--format", "{{.InfraContainerID}}").strip()
        pid = self.node.podman("inspect", container, "--format", "{{.State.Pid}}").strip()
        return subprocess.run(
            ["nsenter", f"--net=/proc/{pid}/ns/net", *command], capture_output=True, text=True, timeout=within, check=False
        )

    def stop(self, grace_secs: int):
        """Asks the pod to end, as a kubelet does that deletes it: all containers at once, and the network after them."""
        names = self.node.podman("pod", "inspect", self.name, "--format", "{{range .Containers}}{{.Name}} {{end}}").split()
        own = [name for name in names if name.startswith(f"{self.name}-")]
        self.node.podman("stop", f"--time={grace_secs}", *own, within=grace_secs + 30)
        self.node.podman("pod", "stop", "--time=1", self.name)

    def state(self, container: str) -> dict:
        return json.loads(self.node.podman("inspect", f"{self.name}-{container}", "--format", "{{json .State}}"))


def small_server(folder: Path) -> Path:
    """Builds the server that containers of tests run."""
    program = folder / "small"
    build = ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "."]
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    subprocess.run(build, cwd=Path(__file__).parent / "server", env=environment, check=True, timeout=300)
    return program


def _libraries(program: Path) -> list[Path]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return [Path(it) for it in re.findall(r"(/\S+) \(0x", said)]


def _volume(volume: dict, folder: Path) -> dict:
    """A folder of this machine, as a kubelet makes one for each of these kinds."""
    known = {"projected", "emptyDir"} & set(volume)
    assert known, f"a volume of a kind that is not known here: {volume}"
    place = folder / "identity" if "projected" in volume else folder / volume["name"]
    place.mkdir(exist_ok=True)
    place.chmod(0o777)
    return {"name": volume["name"], "hostPath": {"path": str(place), "type": "Directory"}}


def _container(container: dict, of_pod: dict) -> dict:
    known = {
        key: it for key, it in container.items()
        # Who looks at probes is the test; and podman would publish ports on this machine.
        if key not in ("startupProbe", "readinessProbe", "livenessProbe", "ports")
    }
    assert "restartPolicy" not in container, "podman 4.3 has no native sidecars: the annotation weft.dev/native is for that"
    known["imagePullPolicy"] = "Never"
    known["volumeMounts"] = [
        it for it in container.get("volumeMounts", []) if not it["name"].startswith("kube-api-access")
    ]
    environment = []
    values = {}
    for it in container.get("env", []):
        value = it.get("value", "")
        if "valueFrom" in it:
            value = of_pod[it["valueFrom"]["fieldRef"]["fieldPath"]]
        values[it["name"]] = expanded(value, values)
        environment.append({"name": it["name"], "value": values[it["name"]]})
    known["env"] = environment
    return known


def expanded(text: str, values: dict) -> str:
    """What a kubelet makes of `$(NAME)`, and of `$$`."""
    return re.sub(
        r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)",
        lambda it: "$" if it[0] == "$$" else values.get(it[1], it[0]),
        text,
    )


