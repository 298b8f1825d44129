//! Whom to trust: for each trust domain the roots that its certificates must lead to, and the serial numbers that are
//! no longer honoured.
//!
//! Bundles of different domains are never merged: a peer is measured only against the bundle of the domain that its
//! own identity names. A [`TrustStore`] is shared with the verifiers and swapped while they work.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use tokio::sync::watch;
use weft_proto::name::{self, TrustDomain};
use weft_proto::pb::weft::identity::v1::TrustBundle;

use crate::x509::{self, Serial};

/// Why trust was not taken on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("trust domain of the bundle: {0}")]
    TrustDomain(#[source] name::Error),
    #[error("root {index} of trust domain {trust_domain} {source}")]
    Root { trust_domain: TrustDomain, index: usize, source: x509::Error },
    #[error("root {index} of trust domain {trust_domain} is there twice")]
    DuplicateRoot { trust_domain: TrustDomain, index: usize },
    #[error("trust domain {trust_domain} has {count} roots; at most {max} are allowed", max = Bundle::ROOTS_MAX)]
    TooManyRoots { trust_domain: TrustDomain, count: usize },
    #[error(
        "revoked serial {index} of trust domain {trust_domain} is not lower-case hex without leading zeros"
    )]
    Serial { trust_domain: TrustDomain, index: usize },
    #[error("trust domain {trust_domain} revokes {count} serials; at most {max} are allowed", max = Bundle::REVOKED_MAX)]
    TooManyRevoked { trust_domain: TrustDomain, count: usize },
    #[error("trust domain {0} is there twice")]
    DuplicateDomain(TrustDomain),
    #[error("{count} trust domains; at most {max} are allowed", max = Bundles::DOMAINS_MAX)]
    TooManyDomains { count: usize },
    #[error("bundle {offered} of trust domain {trust_domain} is older than bundle {held}")]
    SequenceBackwards { trust_domain: TrustDomain, held: u64, offered: u64 },
    #[error("bundle {sequence} of trust domain {trust_domain} is already held with another content")]
    SequenceReused { trust_domain: TrustDomain, sequence: u64 },
}

/// What a trust domain's certificates are measured against.
#[derive(Clone)]
pub struct Bundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    sequence: u64,
    revoked: BTreeSet<Serial>,
}

impl Bundle {
    /// Most roots that one trust domain can have at a time.
    pub const ROOTS_MAX: usize = 16;
    /// Most serial numbers that can be revoked at a time.
    pub const REVOKED_MAX: usize = 100_000;

    /// Reads the roots strictly. A bundle without roots is valid and says that nothing of the domain is trusted.
    pub fn new(
        trust_domain: TrustDomain,
        roots: Vec<CertificateDer<'static>>,
        sequence: u64,
        revoked: BTreeSet<Serial>,
    ) -> Result<Self, Error> {
        if roots.len() > Self::ROOTS_MAX {
            return Err(Error::TooManyRoots { trust_domain, count: roots.len() });
        }
        if revoked.len() > Self::REVOKED_MAX {
            return Err(Error::TooManyRevoked { trust_domain, count: revoked.len() });
        }
        let mut anchors = Vec::with_capacity(roots.len());
        for (index, root) in roots.iter().enumerate() {
            if roots[..index].contains(root) {
                return Err(Error::DuplicateRoot { trust_domain, index });
            }
            match anchor(root) {
                Ok(anchor) => anchors.push(anchor),
                Err(source) => return Err(Error::Root { trust_domain, index, source }),
            }
        }
        Ok(Self { trust_domain, roots, anchors, sequence, revoked })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    pub fn revoked(&self) -> &BTreeSet<Serial> {
        &self.revoked
    }

    pub fn fingerprints(&self) -> impl Iterator<Item = Fingerprint> + '_ {
        self.roots.iter().map(Fingerprint::of)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.roots == other.roots && self.revoked == other.revoked
    }
}

/// A root as the start of paths, once it is known to be a CA certificate that may sign.
pub(crate) fn anchor(root: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, x509::Error> {
    x509::check_issuer(root)?;
    webpki::anchor_from_trusted_cert(root)
        .map(|anchor| anchor.to_owned())
        .map_err(|_| x509::Error::Malformed("it cannot be a trust anchor"))
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence && self.says_the_same(other)
    }
}

impl Eq for Bundle {}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("trust_domain", &self.trust_domain)
            .field("sequence", &self.sequence)
            .field("roots", &self.fingerprints().collect::<Vec<_>>())
            .field("revoked", &self.revoked.len())
            .finish()
    }
}

impl TryFrom<TrustBundle> for Bundle {
    type Error = Error;

    fn try_from(wire: TrustBundle) -> Result<Self, Error> {
        let trust_domain = TrustDomain::parse(&wire.trust_domain).map_err(Error::TrustDomain)?;
        let count = wire.revoked_serials.len();
        if count > Self::REVOKED_MAX {
            return Err(Error::TooManyRevoked { trust_domain, count });
        }
        let mut revoked = BTreeSet::new();
        for (index, serial) in wire.revoked_serials.iter().enumerate() {
            match Serial::parse(serial) {
                Ok(serial) => revoked.insert(serial),
                Err(_) => return Err(Error::Serial { trust_domain, index }),
            };
        }
        let roots = wire.roots.into_iter().map(CertificateDer::from).collect();
        Self::new(trust_domain, roots, wire.sequence, revoked)
    }
}

impl From<&Bundle> for TrustBundle {
    fn from(bundle: &Bundle) -> Self {
        Self {
            trust_domain: bundle.trust_domain.to_string(),
            roots: bundle.roots.iter().map(|root| root.to_vec()).collect(),
            sequence: bundle.sequence,
            revoked_serials: bundle.revoked.iter().map(Serial::to_string).collect(),
        }
    }
}

/// The SHA-256 of a certificate's DER, written in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = digest::digest(&digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// From 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        crate::hex::decode(text).map(Self)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bundles of all trust domains that are known, one each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundles(BTreeMap<TrustDomain, Arc<Bundle>>);

impl Bundles {
    /// Most trust domains that can be known at a time.
    pub const DOMAINS_MAX: usize = 64;

    pub fn new(bundles: impl IntoIterator<Item = Bundle>) -> Result<Self, Error> {
        let mut all = BTreeMap::new();
        for bundle in bundles {
            if let Some(twice) = all.insert(bundle.trust_domain.clone(), Arc::new(bundle)) {
                return Err(Error::DuplicateDomain(twice.trust_domain.clone()));
            }
        }
        Self(all).within_limits()
    }

    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.0.get(trust_domain)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.0.values()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn to_wire(&self) -> Vec<TrustBundle> {
        self.iter().map(|bundle| TrustBundle::from(&**bundle)).collect()
    }

    pub fn from_wire(wire: impl IntoIterator<Item = TrustBundle>) -> Result<Self, Error> {
        Self::new(wire.into_iter().map(Bundle::try_from).collect::<Result<Vec<_>, _>>()?)
    }

    /// These bundles with one more, in place of the domain's former one. A bundle that says the same as the held one
    /// is never refused: another replica may count differently.
    pub fn with(&self, bundle: Bundle) -> Result<Self, Error> {
        let mut all = self.0.clone();
        if let Some(held) = all.get(&bundle.trust_domain) {
            let (trust_domain, offered) = (bundle.trust_domain.clone(), bundle.sequence);
            let same = held.says_the_same(&bundle);
            if same && offered <= held.sequence {
                return Ok(self.clone());
            }
            if offered < held.sequence {
                return Err(Error::SequenceBackwards { trust_domain, held: held.sequence, offered });
            }
            if offered == held.sequence {
                return Err(Error::SequenceReused { trust_domain, sequence: offered });
            }
        }
        all.insert(bundle.trust_domain.clone(), Arc::new(bundle));
        Self(all).within_limits()
    }

    /// These bundles with those of the given ones that are newer; older ones are passed over, for a stream of bundles
    /// may well be ahead of whoever sent these.
    pub fn with_newer(&self, bundles: impl IntoIterator<Item = Bundle>) -> Result<Self, Error> {
        bundles.into_iter().try_fold(self.clone(), |all, bundle| match all.with(bundle) {
            Err(error @ Error::SequenceBackwards { .. }) => {
                tracing::info!(error = %error, "older trust bundle passed over");
                Ok(all)
            }
            outcome => outcome,
        })
    }

    fn within_limits(self) -> Result<Self, Error> {
        if self.0.len() > Self::DOMAINS_MAX {
            return Err(Error::TooManyDomains { count: self.0.len() });
        }
        Ok(self)
    }
}

/// The bundles in force, shared with every verifier. Clones are the same store.
#[derive(Clone)]
pub struct TrustStore(Arc<Shared>);

struct Shared {
    bundles: ArcSwap<Bundles>,
    changes: watch::Sender<Arc<Bundles>>,
    /// Held while a change is computed, so that two changes cannot undo each other. Readers never wait for it.
    writing: Mutex<()>,
}

impl TrustStore {
    pub fn new(bundles: Bundles) -> Self {
        let bundles = Arc::new(bundles);
        Self(Arc::new(Shared {
            bundles: ArcSwap::new(Arc::clone(&bundles)),
            changes: watch::Sender::new(bundles),
            writing: Mutex::new(()),
        }))
    }

    pub fn load(&self) -> Arc<Bundles> {
        self.0.bundles.load_full()
    }

    /// Takes on a newer bundle of one domain; the others stay. Says whether anything changed. An older sequence is
    /// refused: otherwise whoever can replay messages could bring a dropped root back.
    pub fn update(&self, bundle: Bundle) -> Result<bool, Error> {
        self.change(|held| held.with(bundle))
    }

    /// Takes on newer bundles of several domains at once, or none of them.
    pub fn update_all(&self, bundles: impl IntoIterator<Item = Bundle>) -> Result<bool, Error> {
        self.change(|held| bundles.into_iter().try_fold(held.clone(), |all, bundle| all.with(bundle)))
    }

    /// Takes on those that are newer than what is held: see [`Bundles::with_newer`].
    pub fn update_newer(&self, bundles: impl IntoIterator<Item = Bundle>) -> Result<bool, Error> {
        self.change(|held| held.with_newer(bundles))
    }

    /// Forgets a domain: from now on nothing of it is trusted.
    pub fn remove(&self, trust_domain: &TrustDomain) -> bool {
        let removed = self.change(|held| {
            let mut all = held.0.clone();
            all.remove(trust_domain);
            Ok(Bundles(all))
        });
        removed.unwrap_or(false)
    }

    /// Tells of every change after this call; holds the bundles in force.
    pub fn watch(&self) -> watch::Receiver<Arc<Bundles>> {
        self.0.changes.subscribe()
    }

    fn change(&self, change: impl FnOnce(&Bundles) -> Result<Bundles, Error>) -> Result<bool, Error> {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.0.bundles.load_full();
        let next = change(&held)?;
        if next == *held {
            return Ok(false);
        }
        let next = Arc::new(next);
        self.0.bundles.store(Arc::clone(&next));
        self.0.changes.send_replace(next);
        Ok(true)
    }
}

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrustStore").field(&*self.load()).finish()
    }
}

#[cfg(test)]
mod tests;
