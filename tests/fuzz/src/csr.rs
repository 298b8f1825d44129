//! What a workload that nobody knows yet sends to get its certificate.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use weft_certs::ca::{Ca, Kek, Limits};
use weft_certs::join::JoinToken;
use weft_certs::svid::Leaf;
use weft_proto::name::{SpiffeId, TrustDomain};

const ID: &str = "spiffe://mesh.test/ns/tools/sa/files";
const DAY: Duration = Duration::from_secs(86_400);

/// The bytes are tried as a signing request, as a certificate and as a join token. Whatever is signed must be for the
/// identity that was granted and read as what was signed.
pub fn csr(data: &[u8]) {
    let (ca, id) = authority();
    if let Ok(issued) = ca.issue(data, id, &[], DAY, now()) {
        assert_eq!(issued.leaf.spiffe_id, *id, "a request chose its own name");
        assert_eq!(Leaf::inspect(&issued.chain[0]).as_ref(), Ok(&issued.leaf));
        assert!(issued.leaf.is_valid_at(now()));
    }
    if let Ok(leaf) = Leaf::inspect(&CertificateDer::from(data)) {
        let text = leaf.spiffe_id.as_str();
        assert_eq!(
            SpiffeId::parse(text).as_ref(),
            Ok(&leaf.spiffe_id),
            "an identity that is not one: {text}"
        );
    }
    if let Ok(text) = std::str::from_utf8(data) {
        match JoinToken::parse(text) {
            Ok(token) => assert_eq!(token.to_string(), text, "a token was rewritten"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// In the year 2027.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// One authority for all inputs.
fn authority() -> &'static (Ca, SpiffeId) {
    static AUTHORITY: OnceLock<(Ca, SpiffeId)> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let kek = Kek::open_or_create(&folder.path().join("kek")).expect("a key can be made");
        let trust_domain = TrustDomain::parse("mesh.test").expect("a trust domain");
        let ca = Ca::open_or_create(&folder.path().join("ca"), kek, trust_domain, Limits::default(), now());
        (ca.expect("an authority can be founded"), SpiffeId::parse(ID).expect("an identity"))
    })
}
