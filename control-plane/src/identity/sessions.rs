//! The keys with which sidecars seal the ids of sessions: the same for all sidecars of one identity, so that each of them
//! can go on with a session that another opened, and others every day.
//!
//! They are told with certificates, by whatever proved the identity, and derived from one secret of the mesh: nothing is
//! kept for an identity.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use weft_proto::name::SpiffeId;
use weft_proto::pb::weft::identity::v1 as pb;

use crate::store::{self, Expect, Store, Txn};

/// Where the secret is kept.
const KEY: &str = "session_secret";

const SECRET_LEN: usize = 32;

/// For how long a key is the one that ids are sealed with. Certificates are renewed more often, so that everyone has the
/// next key before anyone uses it.
const EPOCH: Duration = Duration::from_secs(24 * 3600);

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the secret of sessions cannot be kept: {0}")]
    Store(#[from] store::Error),
    #[error("the secret of sessions that is kept is none")]
    Form,
}

/// The secret of the mesh.
#[derive(Debug)]
pub struct SessionSecret(hmac::Key);

impl SessionSecret {
    /// Reads it, or makes it.
    pub async fn open(store: &dyn Store) -> Result<Self, Error> {
        let key = key();
        if let Some(entry) = store.get(&key).await? {
            return Self::of(&entry.value);
        }
        // A mesh of before there were any.
        let made = store.commit(Self::with_one(Txn::new("weft", "a secret of sessions"))).await;
        match (store.get(&key).await?, made) {
            // If another was faster, it is that one's.
            (Some(entry), _) => Self::of(&entry.value),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(_)) => Err(Error::Form),
        }
    }

    /// A change with which there is a secret, if there was none.
    pub fn with_one(txn: Txn) -> Txn {
        let secret: [u8; SECRET_LEN] = rand::random();
        txn.expect(key(), Expect::Absent).put(key(), secret.to_vec())
    }

    /// Takes one that is kept elsewhere: 32 bytes.
    pub fn of(secret: &[u8]) -> Result<Self, Error> {
        match secret.len() {
            SECRET_LEN => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, secret))),
            _ => Err(Error::Form),
        }
    }

    /// The keys of an identity: the one of before, the present one, and the one that comes.
    pub fn of_identity(&self, id: &SpiffeId, now: SystemTime) -> pb::SessionKeys {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let current = since.as_secs() / EPOCH.as_secs();
        let epochs = current.saturating_sub(1)..=current + 1;
        let keys = epochs.map(|epoch| pb::SessionKey { epoch, key: self.key(id, epoch) });
        pb::SessionKeys { current, keys: keys.collect() }
    }

    fn key(&self, id: &SpiffeId, epoch: u64) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(b"weft session key\0");
        context.update(&epoch.to_be_bytes());
        context.update(id.to_string().as_bytes());
        context.sign().as_ref().to_vec()
    }
}

fn key() -> store::Key {
    store::Key::new(KEY).expect("the key is short and plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://mesh.test/ns/edge/sa/{name}")).unwrap()
    }

    #[test]
    fn an_identity_has_the_same_keys_everywhere_and_each_has_its_own() {
        let secret = SessionSecret::of(&[7; SECRET_LEN]).unwrap();
        let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + 5);
        let today = secret.of_identity(&id("gate"), at(100));
        assert_eq!(today, SessionSecret::of(&[7; SECRET_LEN]).unwrap().of_identity(&id("gate"), at(100)));
        assert_eq!((today.current, today.keys.len()), (100, 3));
        let tomorrow = secret.of_identity(&id("gate"), at(101));
        assert_eq!(today.keys[1..], tomorrow.keys[..2]);
        assert_ne!(today.keys, secret.of_identity(&id("other"), at(100)).keys);
        assert_ne!(
            today.keys,
            SessionSecret::of(&[8; SECRET_LEN]).unwrap().of_identity(&id("gate"), at(100)).keys
        );
        assert!(today.keys.iter().all(|it| it.key.len() == 32));
        assert!(SessionSecret::of(&[7; 31]).is_err());
    }
}
