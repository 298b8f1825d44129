"""A workload's side of `weft.identity.v1`: keys, signing requests, certificates."""

from dataclasses import dataclass

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.duration_pb2 import Duration
from weft.identity.v1 import identity_pb2, identity_pb2_grpc

CALL_SECS_MAX = 10
NOBODY = x509.Name([])


@dataclass(frozen=True)
class Identity:
    """A key and the certificates for it, leaf first."""

    spiffe_id: str
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def key_pem(self) -> bytes:
        return pem_of_key(self.key)

    @property
    def chain_pem(self) -> bytes:
        return b"".join(pem(it) for it in self.chain)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def pem_of_key(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def signing_request(key, subject: x509.Name = NOBODY, *extensions: x509.ExtensionType) -> bytes:
    """PKCS#10 in DER."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def certify(channel: grpc.Channel, csr: bytes, *, lifetime_secs: int | None = None, **proof):
    """Calls `Certify`; `proof` is any of its other fields."""
    lifetime = None if lifetime_secs is None else Duration(seconds=lifetime_secs)
    request = identity_pb2.CertifyRequest(csr=csr, lifetime=lifetime, **proof)
    return identity_pb2_grpc.IdentityStub(channel).Certify(request, timeout=CALL_SECS_MAX)


def identity_of(key, answer) -> Identity:
    return Identity(answer.spiffe_id, key, tuple(x509.load_der_x509_certificate(it) for it in answer.chain))


def join(plane, namespace: str, account: str = "default", **wishes) -> Identity:
    """Gets an identity as a new workload does: with a token that an operator made for it."""
    token = plane.operator.make_token(namespace, account)["token"]
    key = new_key()
    return identity_of(key, certify(plane.channel(), signing_request(key), join_token=token, **wishes))


def refused(code, call, *args, **kwargs) -> str:
    """Sees that the call is refused with the code, or with one of several, and returns what it says."""
    with pytest.raises(grpc.RpcError) as refusal:
        call(*args, **kwargs)
    codes = code if isinstance(code, (set, tuple)) else {code}
    said = f"{refusal.value.code()}: {refusal.value.details()}"
    assert refusal.value.code() in codes, said
    assert refusal.value.details(), "a refusal says why"
    return refusal.value.details()
