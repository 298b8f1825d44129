//! Roots as they are streamed, made into what verifiers believe; and whether the own certificate must be renewed
//! because its root is about to go.

use std::collections::BTreeSet;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use weft_certs::bundle::{Bundle, Bundles, Error, Fingerprint};
use weft_certs::svid::Serial;
use weft_certs::tls::Identity;
use weft_certs::verifier::{self, Role};
use weft_proto::wire::TrustBundle;

/// Reads the roots strictly.
pub(super) fn bundle(told: &TrustBundle) -> Result<Bundle, Error> {
    let mut revoked = BTreeSet::new();
    for (index, serial) in told.revoked_serials.iter().enumerate() {
        let serial = Serial::parse(serial)
            .map_err(|_| Error::Serial { trust_domain: told.trust_domain.clone(), index })?;
        revoked.insert(serial);
    }
    let roots = told.roots.iter().map(|root| CertificateDer::from(root.clone())).collect();
    Bundle::new(told.trust_domain.clone(), roots, told.sequence, revoked)
}

/// Whether a certificate leads to none of the roots that certificates are to be under by now.
pub(super) fn is_due(identity: &Identity, told: &TrustBundle, now: SystemTime) -> bool {
    if told.renew_unless_root.is_empty() || identity.leaf().spiffe_id.trust_domain() != &told.trust_domain {
        return false;
    }
    let wanted = |root: &&Vec<u8>| {
        let fingerprint = Fingerprint::of(&CertificateDer::from(root.as_slice())).to_string();
        told.renew_unless_root.contains(&fingerprint)
    };
    let roots = told.roots.iter().filter(wanted).map(|root| CertificateDer::from(root.clone())).collect();
    let bundles = Bundle::new(told.trust_domain.clone(), roots, told.sequence, BTreeSet::new())
        .and_then(|bundle| Bundles::new([bundle]));
    let (Ok(bundles), [leaf, above @ ..]) = (bundles, identity.chain()) else { return false };
    verifier::verify(leaf, above, &bundles, Role::Client, now).is_err()
}
