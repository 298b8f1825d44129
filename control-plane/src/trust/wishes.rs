//! What operators wish of trust, read from the one `Trust` object.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_certs::bundle::{self, Bundle};
use weft_certs::pem;
use weft_proto::name::TrustDomain;
use weft_proto::resource::kinds;

/// Roots of a federated domain that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the roots of {trust_domain} cannot be read: {source}")]
pub struct Unreadable {
    pub trust_domain: TrustDomain,
    source: UnreadableRoots,
}

#[derive(Debug, thiserror::Error)]
enum UnreadableRoots {
    #[error(transparent)]
    Pem(pem::Error),
    #[error(transparent)]
    Bundle(bundle::Error),
}

/// What operators set, and what they may change while the mesh runs.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    pub svid_lifetime: Option<Duration>,
    pub federated: Vec<Bundle>,
}

impl Wishes {
    /// Reads the `Trust` object as of a revision, which numbers the federated bundles.
    pub fn read(trust: &kinds::Trust, revision: u64) -> Result<Self, Unreadable> {
        let federated = trust.federated.iter().map(|domain| {
            let trust_domain = domain.trust_domain.clone();
            let unreadable = |source| Unreadable { trust_domain: trust_domain.clone(), source };
            let roots = pem::certificates(domain.roots.as_str());
            let roots = roots.map_err(|error| unreadable(UnreadableRoots::Pem(error)))?;
            let bundle = Bundle::new(trust_domain.clone(), roots, revision, BTreeSet::new());
            bundle.map_err(|error| unreadable(UnreadableRoots::Bundle(error)))
        });
        Ok(Self {
            svid_lifetime: trust.svid_lifetime.map(|span| span.duration()),
            federated: federated.collect::<Result<_, _>>()?,
        })
    }
}
