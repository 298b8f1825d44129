"""A mesh of two sidecars for each server: one beside the server, one beside the agent, with mTLS between them. Both
read files; there is no control plane."""

import json
import os
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from processes import Process

TRUST_DOMAIN = "mesh.test"
API_VERSION = "weft.dev/v1alpha1"
AGENT = ("agents", "agent")
NAMESPACE = "tests"

LEAF = """
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = critical, URI:{id}
"""


@dataclass(frozen=True)
class Identity:
    """Files in PEM."""

    certificate: Path
    key: Path
    roots: Path

    def as_files(self) -> dict:
        return {"certificate": str(self.certificate), "key": str(self.key), "roots": str(self.roots)}


class Authority:
    """Signs identities of the trust domain."""

    def __init__(self, directory: Path):
        self._directory = directory
        directory.mkdir(parents=True)
        self.roots = directory / "roots.pem"
        self._key = directory / "ca.key"
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", self._key, "-out", self.roots, "-days", "2", "-subj", "/O=weft tests"),
            *("-addext", "basicConstraints=critical,CA:TRUE"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-addext", f"subjectAltName=URI:spiffe://{TRUST_DOMAIN}"),
        )

    def identity(self, namespace: str, account: str) -> Identity:
        base = self._directory / f"{namespace}.{account}"
        certificate, key, request, extensions = (
            base.with_name(f"{base.name}.{end}") for end in ("pem", "key", "csr", "cnf")
        )
        if not certificate.exists():
            extensions.write_text(LEAF.format(id=f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}"))
            openssl(
                *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-keyout", key, "-out", request, "-subj", "/"),
            )
            openssl(
                *("x509", "-req", "-in", request, "-CA", self.roots, "-CAkey", self._key),
                *("-CAcreateserial", "-days", "1", "-extfile", extensions, "-extensions", "leaf"),
                *("-out", certificate),
            )
        return Identity(certificate, key, self.roots)

    def context(self, namespace: str, account: str) -> ssl.SSLContext:
        """TLS as this identity, towards whomever."""
        identity = self.identity(namespace, account)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(identity.certificate, identity.key)
        context.set_alpn_protocols(["http/1.1"])
        return context


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Reach:
    """How an agent reaches a server: through its own sidecar and the server's."""

    url: str
    inbound: Process
    outbound: Process


class Mesh:
    """Sidecars, and the identities that they have. `metrics` says where each sends its own, `gateways` whose word on whom
    they call for is believed, `environment` is what they find in theirs. `close` ends them."""

    def __init__(self, directory: Path, metrics: dict | None = None, gateways=(), **environment: str):
        self._directory = directory
        self._metrics = metrics
        self._trust = {"trustDomain": TRUST_DOMAIN, "gateways": list(gateways)}
        self._environment = environment
        self.authority = Authority(directory / "authority")
        self._processes = []

    def reach_http(self, name: str, port: int, **more) -> str:
        """The URL by which the agent reaches a server that listens on this port of loopback."""
        return self.reach(name, {"workload": {"labels": {"app": name}, "port": port}, **more}).url

    def reach_stdio(self, name: str, command: str, *args: str, **more) -> str:
        """The URL by which the agent reaches a server that its sidecar starts."""
        return self.reach(name, {"stdio": {"command": command, "args": list(args)}, **more}).url

    def reach(self, name: str, spec: dict, *others: dict, calls=()) -> Reach:
        """`calls` are further resources for the sidecar beside the agent."""
        inbound = self.inbound(name, spec, *others)
        outbound = self.outbound(name, inbound.ready["inbound"], *calls)
        url = f"http://{outbound.ready['outbound']}/servers/{NAMESPACE}/{name}/mcp"
        return Reach(url, inbound, outbound)

    def inbound(self, name: str, spec: dict, *others: dict, external: dict | None = None) -> Process:
        """The sidecar beside the server, or where calls leave to it, if it is outside."""
        server = document("McpServer", NAMESPACE, name, {"serviceAccount": name, **spec})
        node = {"id": f"{NAMESPACE}/{name}", "labels": {"app": name}, "servers": [f"{NAMESPACE}/{name}"]}
        if external:
            node["external"] = {f"{NAMESPACE}/{name}": external}
        listen = {"inbound": "127.0.0.1:0", "outbound": None, "health": "127.0.0.1:0", "admin": "127.0.0.1:0"}
        return self._sidecar(f"{name}-inbound", node, (NAMESPACE, name), listen, server, *others)

    def outbound(self, name: str, address: str, *others: dict, agent: tuple[str, str] = AGENT) -> Process:
        """The sidecar beside an agent, which finds the server's sidecar at the address."""
        spec = {"endpoints": [{"address": address}], "serviceAccount": name}
        server = document("McpServer", NAMESPACE, name, spec)
        listen = {"inbound": None, "outbound": "127.0.0.1:0", "health": "127.0.0.1:0", "admin": "127.0.0.1:0"}
        node = {"id": f"{agent[0]}/{name}-{agent[1]}"}
        return self._sidecar(f"{name}-{agent[1]}-outbound", node, agent, listen, server, *others)

    def gateway(self, identity: tuple[str, str], gateway: dict, servers: dict[str, str], *others: dict) -> Process:
        """A gateway before servers, each with the address of its sidecar. `gateway` is its section of the file."""
        found = (
            document("McpServer", NAMESPACE, name, {"endpoints": [{"address": address}], "serviceAccount": name})
            for name, address in servers.items()
        )
        listen = {"inbound": None, "outbound": None, "health": "127.0.0.1:0", "admin": "127.0.0.1:0", "gateway": gateway}
        return self._sidecar("gateway", {"id": f"{identity[0]}/gateway"}, identity, listen, *found, *others)

    def _sidecar(self, name: str, node: dict, identity, listen: dict, *documents: dict) -> Process:
        directory = self._directory / name
        directory.mkdir(parents=True)
        trust = document("Trust", "weft-system", "mesh", self._trust)
        resources = directory / "resources.yaml"
        resources.write_text("\n---\n".join(json.dumps(it) for it in (trust, *documents)))
        files = self.authority.identity(*identity).as_files()
        config = {
            "node": node,
            "source": {"file": {"resources": str(resources), "identity": files}},
            "listen": listen,
            "metrics": self._metrics,
        }
        config_file = directory / "sidecar.yaml"
        config_file.write_text(json.dumps(config))
        process = Process(
            *(directory / "log", os.environ["WEFT_SIDECAR_BIN"], "run", "--config", config_file),
            **self._environment,
        )
        self._processes.append(process)
        return process

    def close(self):
        """Ends the sidecars and sees that none had ended before."""
        fallen = [it for it in self._processes if not it.is_alive()]
        for process in reversed(self._processes):
            process.stop()
        for process in self._processes:
            print(f"──── {process.log_file.parent.name}\n{process.log()[-3000:]}")
        assert not fallen, f"ended by themselves: {[it.log_file.parent.name for it in fallen]}"


def document(kind: str, namespace: str, name: str, spec: dict) -> dict:
    metadata = {"namespace": namespace, "name": name}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
