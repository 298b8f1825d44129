//! What the authority's folder holds: the one file that says which of the others count.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::x509::Serial;

pub(super) const FILE: &str = "manifest.json";
pub(super) const BYTES_MAX: usize = 16 * 1024 * 1024;
const VERSION: u32 = 1;

/// Why a manifest is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it cannot be read")]
    Json(#[from] serde_json::Error),
    #[error("it has version {0}, which is newer than this program")]
    Version(u32),
    #[error("it contradicts itself: {0}")]
    Contradiction(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    version: u32,
    pub(super) trust_domain: String,
    /// Of the trust bundle.
    pub(super) sequence: u64,
    /// Never used before, so that a dropped root's number does not come back.
    pub(super) next_generation: u32,
    /// Generations of the roots that are trusted.
    pub(super) roots: BTreeSet<u32>,
    pub(super) issuer: Option<Signing>,
    /// Serial number → end of the certificate, in seconds since 1970. After its end it need not be revoked any more.
    revoked: BTreeMap<String, u64>,
}

/// Which intermediate signs, and which root signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signing {
    pub(super) generation: u32,
    pub(super) number: u32,
}

impl Manifest {
    pub(super) fn new(trust_domain: String) -> Self {
        Self {
            version: VERSION,
            trust_domain,
            sequence: 0,
            next_generation: 1,
            roots: BTreeSet::new(),
            issuer: None,
            revoked: BTreeMap::new(),
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        /// Read first, so that a newer form is called newer rather than malformed.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        if manifest.issuer.is_some_and(|issuer| !manifest.roots.contains(&issuer.generation)) {
            return Err(Error::Contradiction("its issuer's root is not among its roots"));
        }
        if manifest.roots.last().is_some_and(|last| *last >= manifest.next_generation) {
            return Err(Error::Contradiction("its next generation is taken"));
        }
        if manifest.revoked.keys().any(|serial| Serial::parse(serial).is_err()) {
            return Err(Error::Contradiction("a revoked serial is not one"));
        }
        Ok(manifest)
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    pub(super) fn revoked(&self) -> BTreeSet<Serial> {
        self.revoked.keys().filter_map(|serial| Serial::parse(serial).ok()).collect()
    }

    /// Says whether that is new.
    pub(super) fn revoke(&mut self, serial: &Serial, not_after: SystemTime) -> bool {
        self.revoked.insert(serial.to_string(), secs(not_after)).is_none()
    }

    /// Forgets what has ended anyway, with an hour for clocks that lag. Says whether there was any.
    pub(super) fn forget_ended(&mut self, now: SystemTime) -> bool {
        let before = self.revoked.len();
        self.revoked.retain(|_, end| *end + 3600 >= secs(now));
        self.revoked.len() != before
    }
}

fn secs(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
