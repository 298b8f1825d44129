"""How a workload obtains and renews its identity, and what the certificates are."""

import datetime
import itertools
import subprocess
import threading
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ads import sidecar
from control_plane import eventually
from identity import NOBODY, certify, identity_of, join, new_key, pem, refused, signing_request
from objects import server

INVALID = grpc.StatusCode.INVALID_ARGUMENT
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
REVIEWER = "spiffe://mesh.test/ns/agents/sa/reviewer"

BACKDATED_MAX = timedelta(minutes=5)
# Certificates count in whole seconds, and the two ends of a call read the clock at different times.
SLACK = timedelta(seconds=5)


def _now():
    return datetime.datetime.now(datetime.UTC)


def _token(plane, **wishes) -> str:
    return plane.operator.make_token("agents", "reviewer", **wishes)["token"]


def _certify(plane, token: str | None = None, *, csr: bytes | None = None, identity=None, **more):
    proof = {"join_token": token} if token else {}
    csr = signing_request(new_key()) if csr is None else csr
    return certify(plane.channel(identity), csr, **proof, **more)


@pytest.fixture(scope="module")
def reviewer(shared_plane):
    return join(shared_plane, "agents", "reviewer")


# The certificate


def _openssl(*arguments) -> str:
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def on_disk(reviewer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    (folder / "leaf.pem").write_bytes(pem(reviewer.leaf))
    (folder / "intermediates.pem").write_bytes(b"".join(pem(it) for it in reviewer.chain[1:]))
    return folder


@pytest.mark.parametrize("purpose", ["sslclient", "sslserver"])
def test_openssl_verifies_the_chain(shared_plane, reviewer, on_disk, purpose):
    intermediates = ["-untrusted", on_disk / "intermediates.pem"] if reviewer.chain[1:] else []
    strict = ["-x509_strict", "-purpose", purpose, "-CAfile", shared_plane.ca_file]
    assert "OK" in _openssl("verify", *strict, *intermediates, on_disk / "leaf.pem")


def test_openssl_reads_what_the_certificate_says(on_disk):
    text = _openssl("x509", "-in", on_disk / "leaf.pem", "-noout", "-text")
    lines = [line.strip() for line in text.splitlines()]
    after = {line: lines[at + 1] for at, line in enumerate(lines[:-1])}
    assert after["X509v3 Key Usage: critical"] == "Digital Signature"
    usages = next(value for key, value in after.items() if key.startswith("X509v3 Extended Key Usage"))
    assert set(usages.split(", ")) == {"TLS Web Server Authentication", "TLS Web Client Authentication"}
    names = next(value for key, value in after.items() if key.startswith("X509v3 Subject Alternative Name"))
    assert [it for it in names.split(", ") if it.startswith("URI:")] == [f"URI:{REVIEWER}"]
    assert "CA:TRUE" not in text
    assert "Public-Key: (256 bit)" in text


def test_the_leaf_is_what_spiffe_demands(reviewer):
    extensions = reviewer.leaf.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert (
        names.value.get_values_for_type(x509.UniformResourceIdentifier) == [REVIEWER] == [reviewer.spiffe_id]
    )
    assert names.critical == (not list(reviewer.leaf.subject))
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.value.ca, constraints.value.path_length) == (False, None)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not (usage.value.key_cert_sign or usage.value.crl_sign)
    extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert set(extended.value) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert reviewer.leaf.public_key() == reviewer.key.public_key()


def test_the_chain_leads_to_a_root_that_is_not_in_it(shared_plane, reviewer):
    roots = x509.load_pem_x509_certificates(shared_plane.roots_pem())
    assert not set(roots) & set(reviewer.chain)
    for certificate, issuer in itertools.pairwise(reviewer.chain):
        certificate.verify_directly_issued_by(issuer)
    [root] = [it for it in roots if it.subject == reviewer.chain[-1].issuer]
    reviewer.chain[-1].verify_directly_issued_by(root)
    for issuer in (*reviewer.chain[1:], root):
        assert issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical and usage.value.key_cert_sign
        names = [it for it in issuer.extensions if isinstance(it.value, x509.SubjectAlternativeName)]
        for uri in (
            uri for it in names for uri in it.value.get_values_for_type(x509.UniformResourceIdentifier)
        ):
            assert uri == "spiffe://mesh.test", "a signing certificate is no workload"


def test_the_leaf_outlives_none_of_its_issuers(shared_plane):
    identity = join(shared_plane, "agents", "reviewer", lifetime_secs=100 * 365 * 86_400)
    roots = x509.load_pem_x509_certificates(shared_plane.roots_pem())
    for issuer in (*identity.chain[1:], *roots):
        assert identity.leaf.not_valid_after_utc <= issuer.not_valid_after_utc


@pytest.mark.parametrize(
    ("asked", "at_most"), [(None, 86_400), (60, 60), (3600, 3600), (10 * 365 * 86_400, 86_400)]
)
def test_the_lifetime_is_never_longer_than_asked_nor_than_the_mesh_allows(shared_plane, asked, at_most):
    before = _now()
    leaf = join(shared_plane, "agents", "reviewer", lifetime_secs=asked).leaf
    assert before < leaf.not_valid_after_utc <= _now() + timedelta(seconds=at_most) + SLACK


def test_the_certificate_is_valid_a_little_before_it_is_made(reviewer):
    answer_age_max = timedelta(minutes=2)
    assert _now() - BACKDATED_MAX - answer_age_max <= reviewer.leaf.not_valid_before_utc <= _now()


def test_the_answer_says_what_the_certificate_says_and_when_to_come_back(shared_plane):
    key = new_key()
    answer = _certify(shared_plane, _token(shared_plane), csr=signing_request(key), lifetime_secs=3600)
    leaf = identity_of(key, answer).leaf
    assert answer.spiffe_id == REVIEWER
    assert answer.not_before.ToDatetime(datetime.UTC) == leaf.not_valid_before_utc
    assert answer.not_after.ToDatetime(datetime.UTC) == leaf.not_valid_after_utc
    life_left = leaf.not_valid_after_utc - _now()
    assert 0.38 <= (answer.renew_at.ToDatetime(datetime.UTC) - _now()) / life_left <= 0.62


def test_the_time_to_come_back_is_spread(shared_plane):
    token = _token(shared_plane, uses=8)
    answers = [_certify(shared_plane, token, lifetime_secs=86_400) for _ in range(8)]
    assert len({it.renew_at.seconds - it.not_before.seconds for it in answers}) > 1


def test_the_answer_brings_the_roots(shared_plane):
    answer = _certify(shared_plane, _token(shared_plane))
    [bundle] = [it for it in answer.bundles if it.trust_domain == "mesh.test"]
    told = {x509.load_der_x509_certificate(it) for it in bundle.roots}
    assert told == set(x509.load_pem_x509_certificates(shared_plane.roots_pem()))
    assert bundle.sequence > 0


def test_serial_numbers_are_long_and_never_the_same(shared_plane):
    token = _token(shared_plane, uses=8)
    leaves = [x509.load_der_x509_certificate(_certify(shared_plane, token).chain[0]) for _ in range(8)]
    serials = {it.serial_number for it in leaves}
    assert len(serials) == 8
    assert max(serials).bit_length() > 64


# The request for it


EVIL = "spiffe://mesh.test/ns/kube-system/sa/admin"


@pytest.mark.parametrize(
    ("subject", "extensions"),
    [
        ([(NameOID.COMMON_NAME, EVIL)], []),
        (
            [(NameOID.COMMON_NAME, "admin.mesh.test")],
            [x509.SubjectAlternativeName([x509.DNSName("admin.mesh.test")])],
        ),
        ([], [x509.SubjectAlternativeName([x509.UniformResourceIdentifier(EVIL)])]),
        (
            [],
            [x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in (REVIEWER, EVIL)])],
        ),
        ([], [x509.BasicConstraints(ca=True, path_length=None)]),
        ([], [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])]),
    ],
)
def test_names_and_extensions_of_a_request_are_ignored(shared_plane, subject, extensions):
    key = new_key()
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    csr = signing_request(key, subject, *extensions)
    identity = identity_of(key, _certify(shared_plane, _token(shared_plane), csr=csr))
    assert identity.spiffe_id == REVIEWER
    names = identity.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [REVIEWER]
    assert "admin" not in str(identity.leaf.subject) + str(list(names))
    assert not identity.leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    extended = identity.leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.CODE_SIGNING not in extended


def _with_broken_signature() -> bytes:
    csr = bytearray(signing_request(new_key()))
    csr[-1] ^= 1
    return bytes(csr)


def _oversized() -> bytes:
    names = x509.SubjectAlternativeName([x509.DNSName(f"n{number}.test") for number in range(2_000)])
    return signing_request(new_key(), NOBODY, names)


def _pem() -> bytes:
    csr = x509.load_der_x509_csr(signing_request(new_key()))
    return csr.public_bytes(serialization.Encoding.PEM)


BAD_REQUESTS = {
    "nothing": lambda: b"",
    "garbage": lambda: b"\x30\x03garbage",
    "a text": _pem,
    "a cut request": lambda: signing_request(new_key())[:-10],
    "a request with more after it": lambda: signing_request(new_key()) + b"\x00",
    "a broken signature": _with_broken_signature,
    "a weak key": lambda: signing_request(rsa.generate_private_key(65537, 1024)),
    "an uncommon curve": lambda: signing_request(ec.generate_private_key(ec.SECP256K1())),
    "too much": _oversized,
}


@pytest.mark.parametrize("kind", BAD_REQUESTS)
def test_a_bad_request_is_refused(shared_plane, kind):
    refused(INVALID, _certify, shared_plane, _token(shared_plane), csr=BAD_REQUESTS[kind]())
    assert shared_plane.is_ready()


def test_each_way_to_be_a_bad_request_is_told_apart(shared_plane):
    kinds = ("garbage", "a broken signature", "a weak key", "too much")
    said = {
        refused(INVALID, _certify, shared_plane, _token(shared_plane), csr=BAD_REQUESTS[it]()) for it in kinds
    }
    assert len(said) == len(kinds), said


def test_a_bad_request_does_not_use_up_the_token(shared_plane):
    token = _token(shared_plane)
    refused(INVALID, _certify, shared_plane, token, csr=BAD_REQUESTS["garbage"]())
    assert _certify(shared_plane, token).spiffe_id == REVIEWER


def test_a_message_that_is_far_too_large_is_refused_before_it_is_read(shared_plane):
    refused(
        grpc.StatusCode.RESOURCE_EXHAUSTED, _certify, shared_plane, _token(shared_plane), csr=bytes(5 << 20)
    )
    assert shared_plane.is_ready()


# The proof: join tokens


def _parts(token: str) -> list[str]:
    parts = token.split(".")
    assert parts[0] == "weft1" and len(parts) == 4
    return parts


def test_a_token_names_the_root_to_trust(shared_plane):
    fingerprint = _parts(_token(shared_plane))[3].lower().replace(":", "")
    roots = x509.load_pem_x509_certificates(shared_plane.roots_pem())
    prints = [it.fingerprint(hashes.SHA256()).hex() for it in roots]
    assert len(fingerprint) >= 32
    assert any(it.startswith(fingerprint) for it in prints), prints


def test_a_token_works_as_often_as_it_was_made_for_and_no_more(shared_plane):
    token = _token(shared_plane, uses=2)
    for _ in range(2):
        assert _certify(shared_plane, token).spiffe_id == REVIEWER
    assert "use" in refused({UNAUTHENTICATED, DENIED}, _certify, shared_plane, token)


def test_many_at_once_cannot_use_a_token_more_often(shared_plane):
    token = _token(shared_plane)
    outcomes = []

    def attempt():
        try:
            outcomes.append(_certify(shared_plane, token).spiffe_id)
        except grpc.RpcError as error:
            outcomes.append(error.code())

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(REVIEWER) == 1
    assert len(outcomes) == 8
    assert set(outcomes) <= {REVIEWER, UNAUTHENTICATED, DENIED}


def test_a_token_of_which_any_part_is_wrong_is_refused(shared_plane):
    version, number, secret, fingerprint = _parts(_token(shared_plane))
    _, other_number, other_secret, _ = _parts(_token(shared_plane))
    for wrong in (
        f"{version}.{number}.{other_secret}.{fingerprint}",
        f"{version}.{other_number}.{secret}.{fingerprint}",
        f"{version}.{number}.{'A' if secret[0] != 'A' else 'B'}{secret[1:]}.{fingerprint}",
        f"{version}.{number[::-1]}.{secret}.{fingerprint}",
    ):
        said = refused({UNAUTHENTICATED, DENIED}, _certify, shared_plane, wrong)
        assert secret not in said and other_secret not in said
    assert _certify(shared_plane, f"{version}.{number}.{secret}.{fingerprint}").spiffe_id == REVIEWER


@pytest.mark.parametrize(
    "token", [".", "weft1", "weft1...", "weft1.a.b", "weft9.a.b.c", "x" * 20_000, "weft1.\0.b.c"]
)
def test_a_malformed_token_is_refused(shared_plane, token):
    assert refused({INVALID, UNAUTHENTICATED}, _certify, shared_plane, token)


@pytest.mark.timeout(90)
def test_an_expired_token_is_refused(aging):
    plane, made = aging
    eventually(lambda: plane.operator.token_state(made["id"]) == "expired", within=70)
    assert "expired" in refused({UNAUTHENTICATED, DENIED}, _certify, plane, made["token"])


def test_a_revoked_token_is_refused(shared_plane):
    made = shared_plane.operator.make_token("agents", "reviewer")
    shared_plane.operator.call("DELETE", f"/v1/tokens/{made['id']}")
    refused({UNAUTHENTICATED, DENIED}, _certify, shared_plane, made["token"])


def test_tokens_and_their_uses_survive_a_restart(plane):
    token = _token(plane, uses=2)
    _certify(plane, token)
    plane.kill()
    plane.start()
    assert _certify(plane, token).spiffe_id == REVIEWER
    refused({UNAUTHENTICATED, DENIED}, _certify, plane, token)


def test_the_roots_survive_a_restart_and_so_does_what_they_signed(plane):
    before = plane.roots_pem()
    identity = join(plane, "agents", "reviewer")
    plane.kill()
    plane.start()
    assert plane.roots_pem() == before
    assert _certify(plane, identity=identity).spiffe_id == REVIEWER


def test_a_request_without_a_proof_is_refused(shared_plane):
    refused(UNAUTHENTICATED, _certify, shared_plane)


def test_a_kubernetes_token_is_refused_where_no_kubernetes_could_vouch_for_it(shared_plane):
    codes = {UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED}
    refused(codes, _certify, shared_plane, kubernetes_token="a.b.c")


@pytest.mark.parametrize(
    "asked", [EVIL, "spiffe://other.test/ns/agents/sa/reviewer", "spiffe://mesh.test/ns/agents/sa/r"]
)
def test_a_token_vouches_for_no_other_identity(shared_plane, asked):
    refused(DENIED, _certify, shared_plane, _token(shared_plane), spiffe_id=asked)


@pytest.mark.parametrize(
    "asked", ["reviewer", "https://mesh.test/ns/agents/sa/reviewer", "spiffe://mesh.test/%2e%2e"]
)
def test_an_identity_that_is_none_is_refused(shared_plane, asked):
    refused({INVALID, DENIED}, _certify, shared_plane, _token(shared_plane), spiffe_id=asked)


def test_the_identity_that_the_token_names_may_be_asked_for(shared_plane):
    assert _certify(shared_plane, _token(shared_plane), spiffe_id=REVIEWER).spiffe_id == REVIEWER


# The proof: the certificate at hand


def test_renewal_keeps_the_identity_and_takes_the_new_key(shared_plane, reviewer):
    key = new_key()
    csr = signing_request(key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, EVIL)]))
    renewed = identity_of(key, _certify(shared_plane, csr=csr, identity=reviewer))
    assert renewed.spiffe_id == REVIEWER
    assert renewed.leaf.public_key() == key.public_key() != reviewer.key.public_key()
    assert renewed.leaf.serial_number != reviewer.leaf.serial_number
    again = _certify(shared_plane, identity=renewed)
    assert again.spiffe_id == REVIEWER


def test_renewal_gives_no_other_identity(shared_plane, reviewer):
    refused(DENIED, _certify, shared_plane, identity=reviewer, spiffe_id=EVIL)
    assert _certify(shared_plane, identity=reviewer, spiffe_id=REVIEWER).spiffe_id == REVIEWER


def test_a_bad_token_is_not_made_good_by_a_certificate(shared_plane, reviewer):
    wrong = ".".join([*_parts(_token(shared_plane))[:2], "A" * 43, _parts(_token(shared_plane))[3]])
    refused({UNAUTHENTICATED, DENIED, INVALID}, _certify, shared_plane, wrong, identity=reviewer)


def test_a_revoked_certificate_opens_no_stream_and_renews_nothing(plane):
    plane.operator.apply(server("agents", "one"))
    watcher = sidecar(plane, "agents").open()
    watcher.subscribe("TrustBundle", {"mesh.test"})
    client = sidecar(plane, "agents", account="reviewer", servers=["agents/one"])
    client.open().subscribe("Server", {"agents/one"})
    serial = f"{client.identity.leaf.serial_number:x}"
    plane.operator.call("POST", "/v1/trust/revocations", json={"serial": serial})

    bundle = watcher.expect("TrustBundle", {"mesh.test"}).body("mesh.test")
    assert list(bundle.revoked_serials) == [serial]
    with pytest.raises(grpc.RpcError):
        _certify(plane, identity=client.identity)
    stream = client.open()
    stream.send("Server", subscribe=["*"])
    assert stream.ended().code in {UNAUTHENTICATED, DENIED, grpc.StatusCode.UNAVAILABLE}
    watcher.expect_nothing()
