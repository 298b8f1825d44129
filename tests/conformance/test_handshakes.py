"""Who gets through the door for sidecars, and who does not. Whatever is tried, the server stays well."""

import datetime
import socket
import ssl
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from ads import PREFIX, Ended, Stream, sidecar
from conftest import running
from identity import NOBODY, Identity, certify, join, new_key, pem, pem_of_key, refused, signing_request
from objects import server

ID = "spiffe://mesh.test/ns/a/sa/default"
ANSWER_SECS_MAX = 5
USUAL = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


# Authorities, good and bad


def _sign(subject, key, issuer, issuer_key, *, uris=(), ca=False, days=(-1, 1), usage=True, purposes=USUAL):
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if usage:
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        facts = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **facts), critical=True
        )
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


class Authority:
    """A root and an intermediate. Two of them differ in nothing but their keys."""

    def __init__(self):
        root, self.name = _name("root of the mesh"), _name("issuer of the mesh")
        root_key, self.key = new_key(), new_key()
        self.root = _sign(root, root_key, root, root_key, ca=True, days=(-10, 100))
        self.intermediate = _sign(self.name, self.key, root, root_key, ca=True, days=(-10, 100))

    def write_to(self, folder):
        folder.mkdir()
        (folder / "ca.crt").write_bytes(pem(self.root))
        (folder / "tls.crt").write_bytes(pem(self.intermediate))
        (folder / "tls.key").write_bytes(pem_of_key(self.key))
        (folder / "tls.key").chmod(0o600)

    def issue(self, *uris, key=None, subject=NOBODY, **how) -> Identity:
        key = key or new_key()
        leaf = _sign(subject, key, self.name, self.key, uris=uris, **how)
        return Identity(ID, key, (leaf, self.intermediate))

    def issue_through(self, count: int) -> Identity:
        """With so many more intermediates."""
        chain, name, key = [self.intermediate], self.name, self.key
        for number in range(count):
            next_name, next_key = _name(f"issuer {number}"), new_key()
            chain.insert(0, _sign(next_name, next_key, name, key, ca=True))
            name, key = next_name, next_key
        leaf_key = new_key()
        return Identity(ID, leaf_key, (_sign(NOBODY, leaf_key, name, key, uris=[ID]), *chain))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def shared_plane(authority, tmp_path_factory):
    """A control plane that signs with an intermediate of ours, so that the mesh's own authority can be made to sign
    what it never would."""
    directory = tmp_path_factory.mktemp("plane")
    authority.write_to(directory / "issuer")
    yield from running(directory, "--issuer-dir", str(directory / "issuer"))


@pytest.fixture(scope="module")
def member(shared_plane):
    shared_plane.operator.apply(server("a", "one"))
    return sidecar(shared_plane, "a", servers=["a/one"])


@pytest.fixture(autouse=True)
def _the_server_stays_well(shared_plane, member):
    yield
    assert shared_plane.is_ready()
    member.open().subscribe("Server", {"a/one"})


def _signed_by_a_leaf(plane, mesh) -> Identity:
    """The one true chain, with one certificate too many at its end."""
    holder, key = join(plane, "a"), new_key()
    leaf = _sign(NOBODY, key, holder.leaf.subject, holder.key, uris=[ID])
    return Identity(ID, key, (leaf, *holder.chain))


def _issued(*uris, **how):
    return lambda plane, mesh: mesh.issue(*uris, **how)


BAD = {
    "from a foreign authority": lambda plane, mesh: Authority().issue(ID),
    "signed by a workload": _signed_by_a_leaf,
    "expired": _issued(ID, days=(-3, -2)),
    "not yet valid": _issued(ID, days=(2, 3)),
    "of another trust domain": _issued("spiffe://other.test/ns/a/sa/default"),
    "with two identities": _issued(ID, "spiffe://mesh.test/ns/b/sa/default"),
    "with two identities of which one is none": _issued(ID, "https://elsewhere.test/"),
    "without an identity": _issued(),
    "with a common name only": _issued(subject=_name(ID)),
    "that may sign others": _issued(ID, ca=True),
    "without key usage": _issued(ID, usage=False),
    "for servers only": _issued(ID, purposes=[ExtendedKeyUsageOID.SERVER_AUTH]),
    "with a weak key": lambda plane, mesh: mesh.issue(ID, key=rsa.generate_private_key(65537, 1024)),
    "with a chain too long": lambda plane, mesh: mesh.issue_through(12),
    "of the trust domain itself": _issued("spiffe://mesh.test"),
    "of a root path": _issued("spiffe://mesh.test/"),
    "with a pattern for a name": _issued("spiffe://mesh.test/ns/*/sa/*"),
    "with an end in its name": _issued(ID + "\0.elsewhere"),
    "with a port": _issued("spiffe://mesh.test:443/ns/a/sa/default"),
    "with a user": _issued("spiffe://me@mesh.test/ns/a/sa/default"),
    "with a query": _issued(ID + "?x=1"),
    "with a fragment": _issued(ID + "#x"),
    "with an escape": _issued("spiffe://mesh.test/ns/a/sa/%64efault"),
    "with a step upwards": _issued("spiffe://mesh.test/ns/b/../ns/a/sa/default"),
    "with an empty step": _issued("spiffe://mesh.test/ns//a/sa/default"),
    "with a slash at its end": _issued(ID + "/"),
    "with another scheme": _issued("https://mesh.test/ns/a/sa/default"),
    "with an endless name": _issued("spiffe://mesh.test/ns/a/sa/" + "d" * 3000),
}


def _client_context(plane, tmp_path, identity: Identity | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=plane.ca_file)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    if identity:
        (tmp_path / "chain.pem").write_bytes(identity.chain_pem)
        (tmp_path / "key.pem").write_bytes(pem_of_key(identity.key))
        context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    return context


def _connect(plane) -> socket.socket:
    host, port = plane.sidecars.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=ANSWER_SECS_MAX)


def _first_bytes(plane, context) -> bytes:
    """What the server says once both sides believe that the handshake is done."""
    with context.wrap_socket(_connect(plane), server_hostname="localhost") as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        return connection.recv(100)


def test_a_member_gets_through(shared_plane, member, tmp_path):
    assert _first_bytes(shared_plane, _client_context(shared_plane, tmp_path, member.identity))
    assert _first_bytes(shared_plane, _client_context(shared_plane, tmp_path))


def test_a_good_certificate_is_believed_however_it_was_made(shared_plane, authority, tmp_path):
    """What is refused below is refused for what is wrong with it."""
    for good in (authority.issue(ID), authority.issue_through(1)):
        assert _first_bytes(shared_plane, _client_context(shared_plane, tmp_path, good))
        client = sidecar(shared_plane, "a", servers=["a/one"], identity=good)
        client.open().subscribe("Server", {"a/one"})


@pytest.mark.parametrize("uri", ["spiffe://mesh.test/elsewhere", "spiffe://mesh.test/ns/a/sa/default/more"])
def test_an_identity_that_is_no_workload_is_told_nothing(shared_plane, authority, uri):
    stream = sidecar(shared_plane, "a", identity=authority.issue(uri)).open()
    stream.send("Mesh", subscribe=["*"])
    codes = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
    ended = stream.hear_or_end()
    assert isinstance(ended, Ended) and ended.code in codes, ended


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_certificate_ends_the_handshake(shared_plane, authority, tmp_path, kind):
    context = _client_context(shared_plane, tmp_path, BAD[kind](shared_plane, authority))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert _first_bytes(shared_plane, context) == b"", "the connection stands"
        raise ConnectionError("ended without a word")


@pytest.mark.parametrize("kind", BAD)
def test_nobody_with_a_bad_certificate_is_heard(shared_plane, authority, kind):
    bad = BAD[kind](shared_plane, authority)
    csr, token = signing_request(new_key()), shared_plane.operator.make_token("a", "default")["token"]
    refused(grpc.StatusCode.UNAVAILABLE, certify, shared_plane.channel(bad), csr, join_token=token)
    refused(grpc.StatusCode.UNAVAILABLE, certify, shared_plane.channel(bad), csr)
    stream = sidecar(shared_plane, "a", identity=bad).open()
    stream.send("Server", subscribe=["*"])
    assert stream.ended().code == grpc.StatusCode.UNAVAILABLE


# Without a certificate


def test_a_stream_without_a_certificate_is_refused(shared_plane, member):
    stream = Stream(shared_plane.channel(), member.node)
    stream.send("Server", subscribe=["*"])
    stream.expect_refused(grpc.StatusCode.UNAUTHENTICATED)


def test_without_a_certificate_nothing_answers_but_the_request_for_one(shared_plane, member):
    channel = shared_plane.channel()
    stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
    request = discovery_pb2.DiscoveryRequest(node=member.node, type_url=PREFIX + "Server")
    with pytest.raises(grpc.RpcError) as refusal:
        list(stub.StreamAggregatedResources(iter([request]), timeout=ANSWER_SECS_MAX))
    assert refusal.value.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}
    for method in (
        "/weft.quota.v1.Quota/Lease",
        "/weft.catalog.v1.Catalog/Query",
        "/weft.status.v1.Status/Report",
    ):
        codes = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}
        call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.RpcError) as refusal:
            call(b"", timeout=ANSWER_SECS_MAX)
        assert refusal.value.code() in codes, method


# Other ways to knock


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_only_the_newest_tls_is_spoken(shared_plane, member, tmp_path, version):
    context = _client_context(shared_plane, tmp_path, member.identity)
    context.minimum_version = context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(_connect(shared_plane), server_hostname="localhost")


def test_plaintext_is_not_answered(shared_plane):
    with _connect(shared_plane) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        try:
            heard = connection.recv(100)
        except ConnectionError:
            heard = b""
        assert not heard or heard[0] == 21, "nothing but an alert"
    with grpc.insecure_channel(shared_plane.sidecars) as channel:
        refused(
            grpc.StatusCode.UNAVAILABLE,
            certify,
            channel,
            signing_request(new_key()),
            join_token="weft1.a.b.c",
        )


def test_another_protocol_within_tls_is_not_answered(shared_plane, member, tmp_path):
    context = _client_context(shared_plane, tmp_path, member.identity)
    context.set_alpn_protocols(["http/1.1"])
    try:
        with context.wrap_socket(_connect(shared_plane), server_hostname="localhost") as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert not connection.recv(100).startswith(b"HTTP/1.1 2")
    except (ssl.SSLError, ConnectionError):
        pass


def test_a_client_that_names_no_protocol_and_no_server_harms_nothing(shared_plane, member, tmp_path):
    context = _client_context(shared_plane, tmp_path, member.identity)
    context.check_hostname = False
    context.set_alpn_protocols(["nonsense"])
    for name in (None, "elsewhere.test"):
        try:
            with context.wrap_socket(_connect(shared_plane), server_hostname=name) as connection:
                connection.sendall(b"\x00" * 100)
                connection.recv(100)
        except (ssl.SSLError, ConnectionError):
            pass


def test_many_who_knock_and_say_nothing_keep_nobody_out(shared_plane, member):
    silent = [_connect(shared_plane) for _ in range(200)]
    try:
        member.open().subscribe("Server", {"a/one"})
        certify(
            shared_plane.channel(),
            signing_request(new_key()),
            join_token=shared_plane.operator.make_token("a", "default")["token"],
        )
    finally:
        for connection in silent:
            connection.close()


def test_the_server_proves_to_be_of_the_mesh(shared_plane, tmp_path):
    context = _client_context(shared_plane, tmp_path)
    with context.wrap_socket(_connect(shared_plane), server_hostname="localhost") as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == "h2"
        certificate = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(names.get_values_for_type(x509.UniformResourceIdentifier)) == 1
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
