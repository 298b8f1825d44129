use std::sync::LazyLock;
use std::time::Instant;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _,
};

use super::*;
use crate::bundle::Bundles;
use crate::csr::Request;
use crate::testing::{DAY, Mesh, id, issuer, now, openssl, uri};
use crate::tls::{CONTROL_PLANE_PATH, Identity};
use crate::verifier::{self, Role};
use crate::x509;

const ID: &str = "spiffe://mesh.test/ns/tools/sa/files";

struct Bench {
    mesh: Mesh,
    issuer: Issuer,
}

impl Bench {
    fn new() -> Self {
        let mesh = Mesh::new("mesh.test");
        let issuer = issuer(&mesh, Limits::default());
        Self { mesh, issuer }
    }

    fn sign(&self, csr: &[u8]) -> Result<Issued, issuer::Error> {
        self.issuer.issue(csr, &id(ID), &[], DAY, now())
    }
}

fn request(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn an_issued_leaf_is_believed_by_everyone_in_the_mesh() {
    let bench = Bench::new();
    let request = Request::generate().unwrap();
    let issued = bench.sign(request.der()).unwrap();
    let [leaf, above @ ..] = issued.chain.as_slice() else { panic!("empty chain") };
    for role in [Role::Server, Role::Client] {
        let verified = verifier::verify(leaf, above, &bench.mesh.bundles(), role, now()).unwrap();
        assert_eq!(verified, issued.leaf);
    }
    assert_eq!(issued.root, bench.mesh.root.der);
    assert_eq!(issued.leaf.not_before, now() - Duration::from_secs(120));
    assert_eq!(issued.leaf.not_after, now() + DAY);
    Identity::new(issued.chain, request.into_key()).unwrap();
}

#[test]
fn nothing_of_a_request_but_its_key_is_taken() {
    let bench = Bench::new();
    let key = KeyPair::generate().unwrap();
    let csr = request(&key, |params| {
        params.distinguished_name.push(DnType::CommonName, "admin");
        params.subject_alt_names = vec![uri("spiffe://mesh.test/ns/weft-system/sa/control-plane")];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let issued = bench.sign(&csr).unwrap();
    assert_eq!(issued.leaf.spiffe_id.as_str(), ID);
    let parsed = x509::parse(&issued.chain[0]).unwrap();
    assert_eq!(parsed.subject().iter().count(), 0);
    assert_eq!(parsed.public_key().raw, key.subject_public_key_info());
}

#[test]
fn serials_are_long_and_random() {
    let bench = Bench::new();
    let request = Request::generate().unwrap();
    let serial = || bench.sign(request.der()).unwrap().leaf.serial;
    let (one, other) = (serial(), serial());
    assert_ne!(one, other);
    assert!(one.as_str().len() > 24, "{one}");
}

#[test]
fn lifetimes_are_brought_within_the_limits_and_the_issuer_s_own_end() {
    let bench = Bench::new();
    let request = Request::generate().unwrap();
    let end = |lifetime, now| {
        let issued = bench.issuer.issue(request.der(), &id(ID), &[], lifetime, now);
        issued.map(|issued| issued.leaf.not_after)
    };
    let hour = Duration::from_secs(3600);
    assert_eq!(end(hour, now()).unwrap(), now() + hour);
    assert_eq!(end(Duration::ZERO, now()).unwrap(), now() + Duration::from_secs(300));
    assert_eq!(end(30 * DAY, now()).unwrap(), now() + DAY);
    let last = bench.issuer.not_after();
    assert_eq!(end(DAY, last - hour).unwrap(), last);
    let too_late = end(DAY, last - Duration::from_secs(299)).unwrap_err();
    assert_eq!(too_late, issuer::Error::IssuerExpires { not_after: last });
    let too_early = end(DAY, bench.issuer.not_before() - hour).unwrap_err();
    assert!(matches!(too_early, issuer::Error::IssuerNotYetValid { .. }));
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let secs = Duration::from_secs;
    for (min, max, backdate) in [
        (secs(0), secs(60), secs(60)),
        (secs(60), secs(59), secs(60)),
        (secs(60), 91 * DAY, secs(60)),
        (secs(60), DAY, secs(59)),
        (secs(60), DAY, secs(301)),
    ] {
        assert!(matches!(Limits::new(min, max, backdate), Err(issuer::Error::Limits(_))));
    }
    Limits::new(secs(30), secs(30), secs(60)).unwrap();
}

#[test]
fn only_the_control_plane_has_dns_names() {
    let bench = Bench::new();
    let request = Request::generate().unwrap();
    let control = id(&format!("spiffe://mesh.test{CONTROL_PLANE_PATH}"));
    let sign = |id: &SpiffeId, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        bench.issuer.issue(request.der(), id, &names, DAY, now())
    };
    let issued = sign(&control, &["weft.weft-system.svc", "localhost"]).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&issued.chain[0]).unwrap();
    assert_eq!(leaf.valid_dns_names().collect::<Vec<_>>(), ["weft.weft-system.svc", "localhost"]);
    assert_eq!(sign(&id(ID), &["localhost"]).unwrap_err(), issuer::Error::DnsNamesRefused);
    for bad in ["*.mesh.test", "", "a b", "é", "a\0b"] {
        assert_eq!(sign(&control, &[bad]).unwrap_err(), issuer::Error::DnsName { index: 0 }, "{bad}");
    }
    let many = sign(&control, &["a"; issuer::DNS_NAMES_MAX + 1]).unwrap_err();
    assert!(matches!(many, issuer::Error::TooManyDnsNames { .. }));
}

#[test]
fn identities_of_other_domains_are_not_signed() {
    let bench = Bench::new();
    let request = Request::generate().unwrap();
    let foreign = bench.issuer.issue(request.der(), &id("spiffe://other.test/a"), &[], DAY, now());
    assert!(matches!(foreign.unwrap_err(), issuer::Error::TrustDomain { .. }));
}

#[test]
fn keys_of_every_accepted_kind_are_certified() {
    let bench = Bench::new();
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let issued = bench.sign(&request(&key, |_| {})).unwrap();
        assert_eq!(x509::parse(&issued.chain[0]).unwrap().public_key().raw, key.subject_public_key_info());
    }
}

#[test]
fn bad_requests_are_refused_with_their_own_errors() {
    #[track_caller]
    fn refused(bench: &Bench, csr: &[u8], expected: request::Error) {
        assert_eq!(bench.sign(csr).unwrap_err(), issuer::Error::Request(expected));
    }
    let bench = Bench::new();
    let good = Request::generate().unwrap().der().to_vec();
    refused(&bench, b"", request::Error::Malformed);
    refused(&bench, b"-----BEGIN CERTIFICATE REQUEST-----", request::Error::Malformed);
    refused(&bench, &good[..good.len() - 1], request::Error::Malformed);
    refused(&bench, &[&good[..], &[0]].concat(), request::Error::TrailingBytes);
    refused(&bench, &vec![0x30; 4097], request::Error::TooLong { len: 4097 });
    // The last byte belongs to the signature.
    let mut forged = good;
    *forged.last_mut().unwrap() ^= 1;
    refused(&bench, &forged, request::Error::BadSignature);
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    refused(&bench, &request(&p521, |_| {}), request::Error::Key(x509::Error::UnsupportedKey));
}

#[test]
fn requests_with_weak_keys_or_hashes_are_refused() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let by_openssl = |arguments: &[&str]| {
        let common =
            ["req", "-new", "-nodes", "-subj", "/", "-outform", "DER", "-out", "csr", "-keyout", "key"];
        openssl(folder.path(), &[&common[..], arguments].concat());
        bench.sign(&std::fs::read(folder.path().join("csr")).unwrap())
    };
    by_openssl(&["-newkey", "rsa:2048"]).unwrap();
    let short = by_openssl(&["-newkey", "rsa:1024"]).unwrap_err();
    let expected = request::Error::Key(x509::Error::RsaKeySize { bits: 1024 });
    assert_eq!(short, issuer::Error::Request(expected));
    let sha1 = by_openssl(&["-newkey", "rsa:2048", "-sha1"]).unwrap_err();
    let expected = request::Error::Key(x509::Error::WeakSignature("RSA with SHA-1"));
    assert_eq!(sha1, issuer::Error::Request(expected));
}

#[test]
fn openssl_accepts_the_chain_and_reads_the_extensions() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::open_or_create(
        &folder.path().join("ca"),
        Kek::open_or_create(&folder.path().join("kek")).unwrap(),
        crate::testing::domain("mesh.test"),
        Limits::default(),
        now(),
    )
    .unwrap();
    let request = Request::generate().unwrap();
    let issued = ca.issue(request.der(), &id(ID), &[], DAY, now()).unwrap();
    for (name, der) in [("leaf", &issued.chain[0]), ("issuer", &issued.chain[1]), ("root", &issued.root)] {
        std::fs::write(folder.path().join(name), own::pem(der)).unwrap();
    }
    let time = (now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 60).to_string();
    for purpose in ["sslserver", "sslclient"] {
        let arguments = ["verify", "-x509_strict", "-purpose", purpose, "-attime", &time];
        openssl(
            folder.path(),
            &[&arguments[..], &["-CAfile", "root", "-untrusted", "issuer", "leaf"]].concat(),
        );
    }
    let text = |name| {
        let text = openssl(folder.path(), &["x509", "-noout", "-text", "-in", name]);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (name, expected) in [
        (
            "leaf",
            &[
                "Subject: Subject",
                "X509v3 Subject Alternative Name: critical URI:spiffe://mesh.test/ns/tools/sa/files",
                "X509v3 Key Usage: critical Digital Signature X509v3",
                "X509v3 Extended Key Usage: TLS Web Server Authentication, TLS Web Client Authentication",
                "X509v3 Basic Constraints: critical CA:FALSE",
                "X509v3 Authority Key Identifier:",
                "ecdsa-with-SHA256",
            ][..],
        ),
        (
            "issuer",
            &[
                "X509v3 Key Usage: critical Certificate Sign, CRL Sign X509v3",
                "X509v3 Basic Constraints: critical CA:TRUE, pathlen:0",
                "X509v3 Subject Key Identifier:",
                "X509v3 Authority Key Identifier:",
            ],
        ),
        (
            "root",
            &[
                "X509v3 Key Usage: critical Certificate Sign, CRL Sign X509v3",
                "X509v3 Basic Constraints: critical CA:TRUE, pathlen:1",
                "X509v3 Subject Key Identifier:",
            ],
        ),
    ] {
        let text = text(name);
        for part in expected {
            assert!(text.contains(part), "{name} lacks {part:?}: {text}");
        }
        assert_eq!(text.contains("Extended Key Usage"), name == "leaf", "{name}");
    }
}

#[test]
fn many_threads_sign_at_once() {
    let bench = Bench::new();
    let serials = std::thread::scope(|scope| {
        let sign = || {
            let request = Request::generate().unwrap();
            (0..20).map(|_| bench.sign(request.der()).unwrap().leaf.serial).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(sign)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<std::collections::BTreeSet<_>>()
    });
    assert_eq!(serials.len(), 80);
}

/// A measurement rather than a test of speed: it prints, and fails only if signing has become absurdly slow.
#[test]
fn signing_is_fast_enough_for_a_storm_of_requests() {
    let bench = Bench::new();
    let request = Request::generate().unwrap();
    let begun = Instant::now();
    let count: u32 = 300;
    for _ in 0..count {
        bench.sign(request.der()).unwrap();
    }
    let each = begun.elapsed() / count;
    println!("one certificate: {each:?}, {:.0} each second on one core", 1.0 / each.as_secs_f64());
    assert!(each < Duration::from_millis(50), "{each:?}");
}

#[test]
fn a_bundle_of_the_authority_believes_what_it_signs() {
    let folder = tempfile::tempdir().unwrap();
    let kek = Kek::open_or_create(&folder.path().join("kek")).unwrap();
    let domain = crate::testing::domain("mesh.test");
    let ca = Ca::open_or_create(&folder.path().join("ca"), kek, domain, Limits::default(), now()).unwrap();
    let signer = Signer::Own(Arc::new(ca));
    let request = Request::generate().unwrap();
    let issued = signer.issue(request.der(), &id(ID), &[], DAY, now()).unwrap();
    assert_eq!(signer.root(), Fingerprint::of(&issued.root));
    let bundles = Bundles::new([signer.bundle()]).unwrap();
    let sent = with_root(&issued.chain, &issued.root);
    verifier::verify(&sent[0], &sent[1..], &bundles, Role::Server, now()).unwrap();
}

static BENCH: LazyLock<Bench> = LazyLock::new(Bench::new);
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| Request::generate().unwrap().der().to_vec());

proptest! {
    #[test]
    fn any_bytes_as_a_request_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = BENCH.sign(&bytes);
    }

    #[test]
    fn damaged_requests_never_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut csr = GOOD.clone();
        for (at, byte) in damage {
            let at = at.index(csr.len());
            csr[at] = byte;
        }
        let _ = BENCH.sign(&csr);
    }
}
