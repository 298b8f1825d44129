"""A Kubernetes cluster without nodes: etcd, a real API server and its controllers, each in a folder of the test's own."""

import json
import os
import re
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from processes import eventually

DEFINITIONS = Path(__file__).parents[2] / "deploy/crds"
START_SECS_MAX = 60
TOKEN = "the-admin-of-a-test"
NODE = "node"
TOKEN_OF_NODE = "the-node-of-a-test"
TOKEN_OF_PROXY = "the-proxy-of-a-test"
SERVICES = "10.96.0.0/16"
ISSUER = "https://kubernetes.default.svc"


def held_port() -> socket.socket:
    """A port for a program that cannot be told to choose one itself, but shares one: as long as this socket is open nobody
    else is given the port, and as it does not listen, nobody reaches it there."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("0.0.0.0", 0))
    return held


def host_address() -> str:
    """An address of this machine that is not loopback: what may stand in an EndpointSlice."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))
        return probe.getsockname()[0]


class Refused(Exception):
    """What kubectl said when it failed."""


class Cluster:
    """A cluster, and the `kubectl` of its administrator."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        self.address = host_address()
        self._running = []
        self._held = held_port()
        self.port = self._held.getsockname()[1]

    def start(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_secrets()
        # It chooses its ports itself; what it advertises only other members would use, of which there are none.
        self._spawn(
            "etcd", os.environ["WEFT_ETCD"], f"--data-dir={self.directory / 'etcd'}", "--unsafe-no-fsync",
            "--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:0",
            "--listen-peer-urls=http://127.0.0.2:0", "--initial-advertise-peer-urls=http://127.0.0.2:0",
            "--initial-cluster=default=http://127.0.0.2:0", "--enable-grpc-gateway=false",
        )
        etcd = eventually(self._etcd, within=START_SECS_MAX)
        self._spawn(
            "apiserver", self.program("cluster"), "apiserver", f"--etcd-servers=http://{etcd}",
            "--bind-address=0.0.0.0", f"--secure-port={self.port}", "--permit-port-sharing",
            f"--advertise-address={self.address}", f"--cert-dir={self.directory / 'certs'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}", "--authorization-mode=Node,RBAC",
            f"--service-account-issuer={ISSUER}", f"--service-account-key-file={self.directory / 'accounts.key'}",
            f"--service-account-signing-key-file={self.directory / 'accounts.key'}",
            f"--service-cluster-ip-range={SERVICES}", "--allow-privileged=true", "--profiling=false",
            # Webhooks that are named by their Service are found at its endpoints: nothing here forwards cluster IPs.
            "--enable-aggregator-routing=true", "--event-ttl=10m", "--v=1",
        )
        eventually(self._is_ready, within=START_SECS_MAX)
        self._write_kubeconfig()
        self._spawn(
            "controllers", self.program("cluster"), "controller-manager", f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={self.directory / 'accounts.key'}", "--leader-elect=false",
            f"--root-ca-file={self.directory / 'certs/apiserver.crt'}", "--secure-port=0", "--v=1",
            "--use-service-account-credentials=false", "--concurrent-deployment-syncs=2",
        )
        # Without these, no pod can be made in the namespace.
        eventually(lambda: self.finds("serviceaccount", "default", "-n", "default"), within=START_SECS_MAX)

    def schedules(self):
        """Gives pods to nodes, where there are some."""
        self._spawn(
            "scheduler", self.program("cluster"), "scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
            "--secure-port=0", "--v=1",
        )

    def stop(self):
        for process in reversed(self._running):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._held.close()

    def kubectl(self, *args, stdin: str | None = None, as_token: str | None = None) -> str:
        """What kubectl prints; raises what it says when it fails."""
        command = [self.program("kubectl"), f"--kubeconfig={self.kubeconfig}", *map(str, args)]
        if as_token:
            command.append(f"--token={as_token}")
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise Refused(done.stderr.strip())
        return done.stdout

    def apply(self, *objects, flags=()) -> str:
        """Applies objects that are given as values, or as YAML."""
        text = "---\n".join(it if isinstance(it, str) else yaml.safe_dump(it) for it in objects)
        return self.kubectl("apply", "-f", "-", *flags, stdin=text)

    def get(self, *args):
        """An object, or a list of objects, as a value."""
        return json.loads(self.kubectl("get", "-o", "json", *args))

    def finds(self, *args):
        """The object, or nothing where there is none."""
        try:
            return self.get(*args)
        except Refused:
            return None

    def defines(self):
        """Makes our kinds known."""
        self.kubectl("apply", "--server-side", "-f", DEFINITIONS)
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")

    def namespace(self, name: str, **labels: str) -> str:
        """Makes a namespace and waits until pods can be made in it."""
        labels = {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        eventually(lambda: self.finds("serviceaccount", "default", "-n", name), within=20)
        return name

    def answers(self, service: str, namespace: str, **ports: int):
        """Puts this machine behind a Service, as a kubelet would put pods there."""
        self.apply({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service}-here",
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [self.address], "conditions": {"ready": True}}],
            "ports": [{"name": name, "port": port, "protocol": "TCP"} for name, port in ports.items()],
        })

    def runs(self, pod: str, namespace: str):
        """Says of a pod what the kubelet says of one that runs and is ready, with this machine's address."""
        spec = self.get("pod", pod, "-n", namespace)["spec"]
        ready = [{"type": it, "status": "True"} for it in ("Initialized", "ContainersReady", "Ready", "PodScheduled")]
        status = {
            "phase": "Running",
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "conditions": ready,
            "containerStatuses": [
                {"name": it["name"], "ready": True, "started": True, "image": it["image"], "imageID": "", "restartCount": 0}
                for it in spec["containers"]
            ],
        }
        self.kubectl(
            "patch", "pod", pod, "-n", namespace, "--subresource=status", "--type=merge",
            "-p", json.dumps({"status": status}),
        )

    def log(self, part: str) -> str:
        return (self.directory / f"{part}.log").read_text(errors="replace")

    def program(self, name: str) -> str:
        return str(Path(os.environ["WEFT_KUBE"]) / name)

    def _spawn(self, name: str, *command):
        with open(self.directory / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [str(it) for it in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )
        self._running.append(process)

    def _write_secrets(self):
        (self.directory / "tokens.csv").write_text(
            f'{TOKEN},admin,admin,"system:masters"\n'
            f'{TOKEN_OF_NODE},system:node:{NODE},node,"system:nodes"\n'
            f"{TOKEN_OF_PROXY},system:kube-proxy,proxy\n"
        )
        key = self.directory / "accounts.key"
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key],
            check=True, capture_output=True,
        )

    def _write_kubeconfig(self):
        self.kubeconfig.write_text(yaml.safe_dump({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": f"https://localhost:{self.port}",
                "certificate-authority": str(self.directory / "certs/apiserver.crt"),
            }}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }))
        self.kubeconfig.chmod(0o600)

    def _all_run(self):
        fallen = [it for it in self._running if it.poll() is not None]
        assert not fallen, f"{fallen[0].args[:2]} ended:\n" + "".join(
            it.read_text(errors="replace")[-3000:] for it in sorted(self.directory.glob("*.log"))
        )

    def _etcd(self) -> str | None:
        """Where etcd serves, once it says so: nowhere else does it have a port of this address."""
        self._all_run()
        told = re.search(r"127\.0\.0\.1:[1-9][0-9]*", self.log("etcd"))
        return told and told[0]

    def _is_ready(self) -> bool:
        self._all_run()
        try:
            context = ssl.create_default_context(cafile=str(self.directory / "certs/apiserver.crt"))
            with urllib.request.urlopen(f"https://localhost:{self.port}/readyz", context=context, timeout=5) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False
