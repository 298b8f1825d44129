//! Who operators are: API keys, of which the admin token is the first, kept in the store as hashes.
//!
//! A key is `weft_<id>_<secret>`; its secret has 256 random bits, so that a plain hash cannot be searched. Keys are read
//! from the store with every request, so that a revoked one is refused at once, on every replica. Not here: what a scope
//! may do; that is said by the table of operations.

mod keys;
mod secret;
mod throttle;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store;
use crate::store::audit::{Outcome, Record};
pub use keys::{KEYS_MAX, Key, Keys, Wanted};
pub use secret::Secret;
pub use throttle::Throttle;

/// The name of the key that is made at first start.
pub const ADMIN_NAME: &str = "admin";
/// How often a change is tried again when somebody else was faster.
const ATTEMPTS_MAX: usize = 64;

/// What a key may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look at objects, their history, sidecars and trust.
    Readonly,
    /// Change objects besides, and read the audit trail.
    Operator,
    /// Hand out tokens and keys besides, and exchange roots.
    Admin,
}

impl Scope {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A caller whose key was seen to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The key's id.
    pub id: String,
    /// The key's name, as authors and records are written.
    pub name: String,
    pub scope: Scope,
}

/// Who does something, as the audit trail remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub name: String,
    pub from: Option<SocketAddr>,
}

impl Actor {
    /// The control plane itself.
    pub fn system() -> Self {
        Self { name: "control-plane".to_owned(), from: None }
    }

    /// A record of something that this actor did.
    pub fn did(&self, action: &str, object: impl Into<String>, reason: impl Into<String>) -> Record {
        let from = self.from;
        Record { from, reason: reason.into(), ..Record::new(&*self.name, action, object, Outcome::Done) }
    }
}

/// Why a caller is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("no key was given")]
    Missing,
    /// Not a key, an unknown one, or one with another secret: which of these is not told.
    #[error("the key is not known")]
    Unknown,
    #[error("the key has expired")]
    Expired,
    #[error("too many attempts failed")]
    Throttled { retry_after: Duration },
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Why a key was not made or not taken away.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a key named {name:?} exists already")]
    NameTaken { name: String },
    #[error("{KEYS_MAX} keys exist; no more are allowed")]
    TooMany,
    #[error("there is no key {id:?}")]
    NoSuchKey { id: String },
    #[error("this is the last admin key; without it nobody could make another")]
    LastAdmin,
    #[error("others kept changing the keys; try again")]
    Contended,
    #[error("no randomness is to be had")]
    Random,
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Makes the admin token at first start. The answer is the only time that it is shown; later starts give none.
pub async fn bootstrap(store: &dyn store::Store, now: SystemTime) -> Result<Option<Secret>, Error> {
    let secret = Secret::mint().ok_or(Error::Random)?;
    Ok(keys::make_admin(store, &secret, timestamp(now), false).await?.then_some(secret))
}

/// Makes this the admin token, which is kept elsewhere; an earlier one holds no longer.
pub async fn settle(store: &dyn store::Store, secret: &Secret, now: SystemTime) -> Result<(), Error> {
    match keys::is_admin(store, secret).await?
        || keys::make_admin(store, secret, timestamp(now), true).await?
    {
        true => Ok(()),
        false => Err(Error::Contended),
    }
}

/// Replaces the admin token, for operators who lost it and can reach the store itself.
pub async fn reset(store: &dyn store::Store, now: SystemTime) -> Result<Secret, Error> {
    let secret = Secret::mint().ok_or(Error::Random)?;
    keys::make_admin(store, &secret, timestamp(now), true).await?.then_some(secret).ok_or(Error::Contended)
}

/// The wall clock's time as it is written down.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
