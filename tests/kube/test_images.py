"""The images: what deploy/Containerfile makes of static programs, and what they are said to be made of.

A static build of the real programs takes a quarter of an hour, so that small ones stand in for them here; those that
`deploy/images` left in target/images are held to their promises too, where they are: `deploy/images --no-images`, then
`tests/kube/run -k images`, and `WEFT_IMAGES=$PWD/target/images tests/kube/run -k test_node` for what runs in them.
"""

import json
import socket
import struct
import subprocess
import threading
import tomllib

import pytest

from charts import ROOT
from pods import Node

BUILT = ROOT / "target/images"
IP_FREEBIND = 15


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("images") / "node", subnet=251, dns=False)
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    """A static program, linked as deploy/images links."""
    program = tmp_path_factory.mktemp("static") / "resolves"
    flags = [it for it in (ROOT / "deploy/images").read_text().splitlines() if it.startswith("export RUSTFLAGS=")]
    flags = flags[0].split('"')[1].split()
    target = next(
        line.split(": ")[1] for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines()
        if line.startswith("host: ")
    )
    command = ["rustc", "--edition=2024", f"--target={target}", *flags, "-o", program, ROOT / "tests/kube/resolves.rs"]
    subprocess.run(command, check=True, timeout=120)
    return program


@pytest.fixture(scope="module")
def images(node, static):
    """Both images, of programs that stand in."""
    context = node.folder / "context"
    context.mkdir()
    for name in ("weft", "weft-sidecar"):
        (context / name).write_bytes(static.read_bytes())
        (context / f"{name}.cdx.json").write_text("{}")
    (context / "ca-certificates.crt").write_text("certificates\n")
    for target in ("sidecar", "control-plane"):
        arguments = ("--build-arg=VERSION=7", "--build-arg=REVISION=abc")
        node.build_shipped(target, f"weft-{target}:7", context, *arguments)
    return node


@pytest.mark.parametrize(("target", "user", "program"), [("sidecar", 7443, "weft-sidecar"), ("control-plane", 7500, "weft")])
def test_an_image_holds_a_program_certificates_and_what_it_is_made_of(images, target, user, program):
    said = json.loads(images.podman("image", "inspect", f"localhost/weft-{target}:7"))[0]
    assert said["Config"]["User"] == f"{user}:{user}"
    assert said["Config"]["Entrypoint"] == [f"/usr/bin/{program}"]
    labels = said["Labels"]
    assert (labels["org.opencontainers.image.version"], labels["org.opencontainers.image.revision"]) == ("7", "abc")
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    mounted = images.podman("image", "mount", f"localhost/weft-{target}:7").strip()
    listed = subprocess.check_output(["find", mounted, "-type", "f", "-printf", "%P %m\n"], text=True)
    files = dict(line.split(" ") for line in listed.splitlines())
    assert set(files) == {"etc/ssl/certs/ca-certificates.crt", f"usr/share/sbom/{program}.cdx.json", f"usr/bin/{program}"}
    assert files[f"usr/bin/{program}"] == "755"


def test_names_are_found_where_there_is_nothing_but_a_static_program(images):
    """By the file of hosts, and by a name server: a static libc brings both along."""
    names = NameServer(images.gateway, {"by-dns.example": images.gateway})
    with bound(socket.SOCK_STREAM, images.gateway, 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        said = images.podman(
            "run", "--rm", f"--network={images.network}", "--read-only", "--cap-drop=ALL",
            f"--add-host=by-hosts.example:{images.gateway}", f"--dns={images.gateway}",
            "localhost/weft-sidecar:7", f"by-hosts.example:{port}", f"by-dns.example:{port}", "nowhere.example:1",
        )
    names.stop()
    first, second, third = said.splitlines()
    assert (first, second) == (f"by-hosts.example:{port} found", f"by-dns.example:{port} found")
    assert "lookup address" in third, third


def bound(kind: int, address: str, port: int) -> socket.socket:
    """A socket at an address that is there only while a container is."""
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
    made.bind((address, port))
    return made


class NameServer:
    """Knows a few names, and says of all others that they do not exist."""

    def __init__(self, address: str, known: dict[str, str]):
        self._known = known
        self._socket = bound(socket.SOCK_DGRAM, address, 53)
        self._socket.settimeout(0.2)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self):
        self._ends.set()
        self._thread.join(5)
        self._socket.close()

    def _serve(self):
        while not self._ends.is_set():
            try:
                asked, who = self._socket.recvfrom(512)
            except TimeoutError:
                continue
            self._socket.sendto(self._answer(asked), who)

    def _answer(self, asked: bytes) -> bytes:
        labels, at = [], 12
        while asked[at]:
            labels.append(asked[at + 1:at + 1 + asked[at]].decode())
            at += 1 + asked[at]
        question = asked[12:at + 5]
        kind = struct.unpack(">H", question[-4:-2])[0]
        address = self._known.get(".".join(labels))
        if address is None:
            return asked[:2] + struct.pack(">HHHHH", 0x8583, 1, 0, 0, 0) + question
        if kind != 1:
            return asked[:2] + struct.pack(">HHHHH", 0x8580, 1, 0, 0, 0) + question
        answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(address)
        return asked[:2] + struct.pack(">HHHHH", 0x8580, 1, 1, 0, 0) + question + answer


@pytest.mark.parametrize("program", ["weft-sidecar", "weft"])
def test_what_a_program_is_made_of_is_what_the_lock_file_says(program):
    command = [ROOT / "deploy/sbom", "--static", program, "x86_64-unknown-linux-gnu"]
    said = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout
    assert subprocess.run(command, check=True, capture_output=True, timeout=120).stdout == said
    bill = json.loads(said)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    locked = {
        (it["name"], it["version"]): it.get("checksum")
        for it in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    }
    parts = {it["bom-ref"]: it for it in [*bill["components"], bill["metadata"]["component"]]}
    assert len(parts) == len(bill["components"]) + 1
    for part in parts.values():
        if part["name"] == "glibc":
            continue
        checksum = locked[part["name"], part["version"]]
        assert part.get("hashes", [{"content": None}])[0]["content"] == checksum
        assert part["licenses"][0]["expression"]
    # Each is there because another is linked with it.
    reached = {it for one in bill["dependencies"] for it in one["dependsOn"]}
    assert {it["ref"] for it in bill["dependencies"]} == set(parts)
    assert reached == set(parts) - {bill["metadata"]["component"]["bom-ref"]}
    names = {it["name"] for it in parts.values()}
    assert {"rustls", "tokio", "aws-lc-sys", "weft-proto", "glibc"} <= names
    # What only builds or tests.
    assert not {"proptest", "protox", "tempfile", "serde_derive", "cc"} & names


@pytest.mark.parametrize(("target", "program", "bytes_max"), [
    ("sidecar", "weft-sidecar", 20_000_000),
    ("control-plane", "weft", 40_000_000),
])
def test_an_image_that_is_shipped_is_small_and_its_program_needs_nothing_else(node, target, program, bytes_max):
    if not (BUILT / program).exists():
        pytest.skip("deploy/images was not run")
    node.build_shipped(target, f"real-{target}:1", BUILT)
    size = json.loads(node.podman("image", "inspect", f"localhost/real-{target}:1"))[0]["Size"]
    assert size <= bytes_max, f"{size} bytes, of which the program has {(BUILT / program).stat().st_size}"
    bare = ("--rm", "--read-only", "--cap-drop=ALL", "--network=none")
    said = node.podman("run", *bare, f"localhost/real-{target}:1", "--version")
    assert said.startswith(f"{program} "), said
