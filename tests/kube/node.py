"""A node of the cluster: Kubernetes' own kubelet over Debian's containerd, and kube-proxy, on this machine and apart from it.

They run in namespaces of their own, of mounts, processes and the network, as do the pods below them. Whatever they write
outside of the test's folder they write over folders of memory, and all that they started ends with the first process of
the namespaces. What is left then, a device and groups of processes, `Node.stop` takes away.
"""

import ipaddress
import json
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster import NODE, TOKEN_OF_NODE, TOKEN_OF_PROXY, Cluster
from processes import eventually

START_SECS_MAX = 60
# What a kubelet sets for the whole machine. It is shown the values that it wants, and told to change nothing.
TUNABLES = {
    "vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}
CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # Whoever runs this may not make a process safer from the kernel than it is itself.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/cni"
"""


@dataclass(frozen=True)
class Event:
    """What became of a container at a time, and with which status, where it ended."""

    at: str
    status: int


class Node:
    """A node that runs what the cluster's scheduler gives it."""

    def __init__(self, cluster: Cluster, folder: Path, number: int):
        self.cluster, self.folder = cluster, folder
        self.parts = Path(os.environ["WEFT_NODE"])
        self.device = f"weft-node-{number}"
        self.group = f"weft-kubelet-{os.getpid()}"
        link = ipaddress.ip_network(f"10.214.{number}.0/30")
        self.host, self.address = (str(it) for it in link.hosts())
        self.pods = f"10.215.{number}.0/24"
        self._first = self._pid = None
        self._running = []
        folder.mkdir(parents=True)

    def start(self, images: list[Path]):
        """Starts the node with images from archives, and waits until pods may be scheduled to it."""
        self._apart()
        self._connect()
        self._make_groups()
        (self.folder / "containerd.toml").write_text(
            CONTAINERD.format(folder=self.folder, plugins=self.parts / "usr/lib/cni")
        )
        self._write_network()
        containerd = self.parts / "usr/bin/containerd"
        self._spawn("containerd", containerd, f"--config={self.folder / 'containerd.toml'}")
        eventually(lambda: self._answers("version"), within=START_SECS_MAX)
        self._spawn("events", self.parts / "usr/bin/ctr", "--namespace=k8s.io", "events")
        for image in images:
            self.ctr("images", "import", image)
        self._spawn(
            "kubelet", self.cluster.program("cluster"), "kubelet", f"--config={self._write_kubelet()}",
            f"--kubeconfig={self._write_kubeconfig('kubelet', TOKEN_OF_NODE)}", f"--hostname-override={NODE}", f"--node-ip={self.address}",
            f"--root-dir={self.folder / 'kubelet'}", f"--cert-dir={self.folder / 'certs'}", "--v=2",
        )
        self._spawn("proxy", self.cluster.program("cluster"), "proxy", f"--config={self._write_proxy()}", "--v=2")
        eventually(self._is_ready, within=START_SECS_MAX)

    def stop(self):
        """Ends all that ran on the node, and takes away what does not go by itself."""
        if self._first:
            self._first.kill()
            for process in (self._first, *self._running):
                process.wait(30)
        subprocess.run(["ip", "link", "delete", self.device], check=False, capture_output=True)
        for top in _group_folders():
            eventually(lambda top=top: _removed(top / self.group), within=20)

    def ctr(self, *args) -> str:
        return self._run(self.parts / "usr/bin/ctr", "--namespace=k8s.io", *args)

    def pod(self, name: str, namespace: str) -> "Pod":
        return Pod(self, name, namespace)

    def processes_of(self, uid: str, container_id: str) -> list[int]:
        """The processes of a container, by the numbers that they have on this machine."""
        found = set()
        for top in _group_folders():
            # Not looked for in all of the tree, of which other pods are taken away meanwhile.
            for quality in ("", "burstable/", "besteffort/"):
                file = top / f"{self.group}/kubepods/{quality}pod{uid}/{container_id}/cgroup.procs"
                with suppress(OSError):
                    found |= {int(pid) for pid in file.read_text().split()}
        return sorted(found)

    def event(self, what: str, container_id: str) -> "Event":
        """When the first process of a container started or ended, as containerd saw it."""

        def look():
            for line in (self.folder / "events.log").read_text().splitlines():
                day, time, _, _, _, topic, said = line.split(" ", 6)
                if topic == f"/tasks/{what}" and json.loads(said)["container_id"] == container_id:
                    return Event(f"{day} {time}", json.loads(said).get("exit_status", 0))
            return None

        return eventually(look, within=10)

    def told(self) -> str:
        """What there is to read when something went wrong."""
        return "".join(
            f"--- {it.name}\n{it.read_text(errors='replace')[-6000:]}" for it in sorted(self.folder.glob("*.log"))
        )

    def _apart(self):
        """Makes the namespaces. They end with the process that is in them first, and that one with this program."""
        command = "setpriv --pdeathsig=KILL unshare --mount --pid --net --fork --kill-child --mount-proc catatonit -P"
        with open(self.folder / "first.log", "wb") as log:
            self._first = subprocess.Popen(
                command.split(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children")

        def child():
            assert self._first.poll() is None, f"no namespaces can be made: {self.told()}"
            found = children.read_text().split()
            return found and Path(f"/proc/{found[0]}/comm").read_text().strip() == "catatonit" and int(found[0])

        self._pid = eventually(child, within=10)
        values = self.folder / "tunables"
        lines = ["mount -t tmpfs none " + place for place in ("/run", "/var/lib", "/var/log")]
        for name, value in TUNABLES.items():
            (values / name).parent.mkdir(parents=True, exist_ok=True)
            (values / name).write_text(value + "\n")
            lines.append(f"mount --bind {values / name} /proc/sys/{name}")
        lines += ["ip link set lo up", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
        self._run("sh", "-ec", "\n".join(lines))

    def _connect(self):
        """Lets the node and this machine reach each other, and this machine the pods."""
        for command in (
            f"link add {self.device} type veth peer name eth0 netns {self._pid}",
            f"address add {self.host}/30 dev {self.device}",
            f"link set {self.device} up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        lines = [f"ip address add {self.address}/30 dev eth0", "ip link set eth0 up", f"ip route add default via {self.host}"]
        self._run("sh", "-ec", "\n".join(lines))
        subprocess.run(["ip", "route", "add", self.pods, "via", self.address], check=True)

    def _make_groups(self):
        for top in _group_folders():
            (top / self.group).mkdir()

    def _write_network(self):
        (self.folder / "cni").mkdir()
        (self.folder / "cni/10-weft.conflist").write_text(json.dumps({
            "cniVersion": "0.4.0", "name": "weft",
            "plugins": [{
                # Not a bridge, on which answers of one pod to another would not go by the proxy.
                "type": "ptp",
                "ipam": {
                    "type": "host-local", "dataDir": str(self.folder / "addresses"),
                    "ranges": [[{"subnet": self.pods}]], "routes": [{"dst": "0.0.0.0/0"}],
                },
            }],
        }))

    def _write_kubelet(self) -> Path:
        (self.folder / "resolv.conf").write_text("")
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{self.group}", "failCgroupV1": False, "failSwapOn": False,
            # Nothing is enforced upon this machine, and nobody is put out of it.
            "enforceNodeAllocatable": [], "protectKernelDefaults": True, "oomScoreAdj": 0,
            "localStorageCapacityIsolation": False, "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                it: "0%" for it in
                ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
            },
            "makeIPTablesUtilChains": False,
            "podLogsDir": str(self.folder / "pods"), "resolvConf": str(self.folder / "resolv.conf"),
            # Only this machine and the pods reach it.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "nodeStatusUpdateFrequency": "2s", "syncFrequency": "2s",
        }
        file = self.folder / "kubelet.yaml"
        file.write_text(yaml.safe_dump(config))
        return file

    def _write_proxy(self) -> Path:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables", "detectLocalMode": "ClusterCIDR", "clusterCIDR": self.pods, "hostnameOverride": NODE,
            "clientConnection": {"kubeconfig": str(self._write_kubeconfig("proxy", TOKEN_OF_PROXY))},
            # These are of the whole machine.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        file = self.folder / "proxy.yaml"
        file.write_text(yaml.safe_dump(config))
        return file

    def _write_kubeconfig(self, name: str, token: str) -> Path:
        """How a part of the node reaches the API server: as what it is."""
        config = yaml.safe_load(self.cluster.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://{self.cluster.address}:{self.cluster.port}"
        config["users"][0]["user"] = {"token": token}
        file = self.folder / f"{name}.kubeconfig"
        file.write_text(yaml.safe_dump(config))
        return file

    def _is_ready(self) -> bool:
        fallen = [it for it in self._running if it.poll() is not None]
        assert not fallen, self.told()
        node = self.cluster.finds("node", NODE) or {"status": {}, "spec": {}}
        ready = [it["status"] for it in node["status"].get("conditions", []) if it["type"] == "Ready"]
        return ready == ["True"] and not node["spec"].get("taints")

    def _inside(self, *command) -> list[str]:
        return ["nsenter", f"--target={self._pid}", "--mount", "--pid", "--net", "--", *map(str, command)]

    def _run(self, *command) -> str:
        done = subprocess.run(self._inside(*command), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def _answers(self, *args) -> bool:
        assert self._running[-1].poll() is None, self.told()
        command = self._inside(self.parts / "usr/bin/ctr", *args)
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0

    def _spawn(self, name: str, *command):
        # The shim is found beside containerd, as runc is where Debian puts it.
        path = f"{self.parts / 'usr/bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"
        with open(self.folder / f"{name}.log", "wb") as log:
            self._running.append(subprocess.Popen(
                self._inside(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env=os.environ | {"PATH": path},
            ))


@dataclass(frozen=True)
class Network:
    """The network of a pod, found once: for whoever calls often."""

    pid: int

    def inside(self, *command: str, within: float = 30) -> subprocess.CompletedProcess:
        """Runs a program of this machine there."""
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command],
            capture_output=True, text=True, timeout=within, check=False,
        )


class Pod:
    """A pod on the node."""

    def __init__(self, node: Node, name: str, namespace: str):
        self.node, self.name, self.namespace = node, name, namespace

    def said(self) -> dict:
        return self.node.cluster.get("pod", self.name, "-n", self.namespace)

    @property
    def address(self) -> str:
        return self.said()["status"]["podIP"]

    def status(self, container: str) -> dict:
        """What the kubelet says of a container; nothing as long as it says nothing."""
        status = self.said()["status"]
        every = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
        return next((it for it in every if it["name"] == container), {})

    def is_ready(self) -> bool:
        conditions = self.said()["status"].get("conditions", [])
        return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)

    def log(self, container: str) -> str:
        """What a container wrote, of all its lives."""
        folder = self.node.folder / "pods" / f"{self.namespace}_{self.name}_{self.said()['metadata']['uid']}" / container
        return "".join(it.read_text(errors="replace") for it in sorted(folder.glob("*.log")))

    def pid(self, container: str) -> int:
        uid = self.said()["metadata"]["uid"]
        return self.node.processes_of(uid, self.status(container)["containerID"].removeprefix("containerd://"))[0]

    def network(self) -> "Network":
        return Network(self.pid("weft-sidecar"))

    def inside(self, *command: str, within: float = 30) -> subprocess.CompletedProcess:
        """Runs a program of this machine in the pod's network."""
        return self.network().inside(*command, within=within)

    def told(self) -> str:
        """What there is to read when something went wrong."""
        said = self.said()
        parts = [json.dumps(said["status"], indent=1)]
        spec = said["spec"]
        for it in spec.get("initContainers", []) + spec["containers"]:
            parts.append(f"--- {it['name']}\n{self.log(it['name'])[-3000:]}")
        return "\n".join(parts)


def _group_folders() -> list[Path]:
    """Where the kernel's hierarchies of groups are."""
    lines = (line.split(" - ", 1) for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [Path(left.split()[4]) for left, right in lines if right.split()[0] in ("cgroup", "cgroup2")]


def _removed(group: Path) -> bool:
    """Removes groups from below; false while the last of their processes is still ending."""
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True
