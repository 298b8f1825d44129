//! Keys in the store: `auth/keys/<id>`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use weft_proto::name::ObjectName;

use super::{ADMIN_NAME, ATTEMPTS_MAX, Actor, Denied, Error, Principal, Scope, Secret, Throttle, timestamp};
use crate::store::{self, Entry, Expect, Prefix, Revision, Store, Txn, list_all};

/// Most keys at a time.
pub const KEYS_MAX: usize = 1000;
/// How long expired keys are still listed.
const EXPIRED_SHOWN: Duration = Duration::from_secs(7 * 86_400);

const PREFIX: &str = "auth/keys/";
/// Names the admin token, so that there is one first start.
const ADMIN_AT: &str = "auth/admin";

/// A key, less its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: String,
    pub name: String,
    pub scope: Scope,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Option<Timestamp>,
    /// When it was last used with this replica, since it started.
    pub last_used_at: Option<Timestamp>,
}

/// A key that is to be made.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: ObjectName,
    pub scope: Scope,
    pub expires_in: Option<Duration>,
}

/// A key as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    name: String,
    scope: Scope,
    /// SHA-256 of the secret.
    hash: String,
    created_at: Timestamp,
    created_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

impl Stored {
    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// All keys, and who failed to show one.
#[derive(Debug)]
pub struct Keys {
    store: Arc<dyn Store>,
    throttle: Throttle,
    /// Not persisted: that would be a write with every request.
    last_used: Mutex<HashMap<String, Timestamp>>,
}

impl Keys {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, throttle: Throttle::default(), last_used: Mutex::default() }
    }

    /// Who holds the key that was given, if anybody.
    pub async fn authenticate(
        &self,
        given: Option<&str>,
        from: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Principal, Denied> {
        let denied = match self.recognise(given, timestamp(now)).await {
            Err(denied @ (Denied::Missing | Denied::Unknown | Denied::Expired)) => denied,
            other => return other,
        };
        match self.throttle.failed(from, Instant::now()) {
            Ok(()) => Err(denied),
            Err(retry_after) => Err(Denied::Throttled { retry_after }),
        }
    }

    async fn recognise(&self, given: Option<&str>, now: Timestamp) -> Result<Principal, Denied> {
        let given = given.ok_or(Denied::Missing)?;
        let secret = Secret::parse(given).ok_or(Denied::Unknown)?;
        let entry = self.store.get(&store_key(secret.id())).await?;
        let stored = entry.and_then(|entry| read(&entry)).ok_or(Denied::Unknown)?;
        if !secret.matches(&stored.hash) {
            return Err(Denied::Unknown);
        }
        if stored.is_expired(now) {
            return Err(Denied::Expired);
        }
        let mut last_used = self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        if last_used.len() > 2 * KEYS_MAX {
            last_used.clear();
        }
        last_used.insert(secret.id().to_owned(), now);
        Ok(Principal { id: secret.id().to_owned(), name: stored.name, scope: stored.scope })
    }

    /// Whether a caller that was let in would be let in still.
    pub async fn still_holds(&self, principal: &Principal, now: SystemTime) -> Result<bool, store::Error> {
        let Ok(key) = store::Key::new(format!("{PREFIX}{}", principal.id)) else { return Ok(false) };
        let stored = self.store.get(&key).await?.and_then(|entry| read(&entry));
        Ok(stored.is_some_and(|stored| stored.scope >= principal.scope && !stored.is_expired(timestamp(now))))
    }

    /// Every key, those that expired lately too, by name.
    pub async fn list(&self) -> Result<Vec<Key>, store::Error> {
        let (_, keys) = read_all(&*self.store).await?;
        let last_used = self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys: Vec<_> = keys
            .into_iter()
            .map(|(id, stored)| Key { last_used_at: last_used.get(&id).copied(), ..shown(id, stored) })
            .collect();
        keys.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
        Ok(keys)
    }

    /// Makes a key. The answer is the only time that its secret is shown.
    pub async fn create(&self, wanted: &Wanted, by: &Actor, now: SystemTime) -> Result<(Secret, Key), Error> {
        let now = timestamp(now);
        let secret = Secret::mint().ok_or(Error::Random)?;
        let stored = Stored {
            name: wanted.name.to_string(),
            scope: wanted.scope,
            hash: secret.hash(),
            created_at: now,
            created_by: by.name.clone(),
            expires_at: wanted.expires_in.map(|time| now.saturating_add(time).unwrap_or(Timestamp::MAX)),
        };
        for _ in 0..ATTEMPTS_MAX {
            let (seen, keys) = read_all(&*self.store).await?;
            if keys.iter().any(|(_, key)| key.name == stored.name && !key.is_expired(now)) {
                return Err(Error::NameTaken { name: stored.name });
            }
            let old = |key: &Stored| {
                key.expires_at.is_some_and(|at| at.saturating_add(EXPIRED_SHOWN).is_ok_and(|at| at < now))
            };
            let (old, kept): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(_, key)| old(key));
            if kept.len() >= KEYS_MAX {
                return Err(Error::TooMany);
            }
            let reason = format!("create the {} key {}", stored.scope.word(), stored.name);
            let mut txn = Txn::new(&*by.name, &*reason).unchanged_since(prefix(), seen);
            txn = old.iter().fold(txn, |txn, (id, _)| txn.delete(store_key(id)));
            txn = txn.put(store_key(secret.id()), written(&stored));
            let txn = txn.audited(by.did("key.create", format!("keys/{}", secret.id()), reason));
            if commit(&*self.store, txn).await? {
                let key = shown(secret.id().to_owned(), stored);
                return Ok((secret, key));
            }
        }
        Err(Error::Contended)
    }

    /// Takes a key away; whoever holds it is refused from now on.
    pub async fn revoke(&self, id: &str, by: &Actor, now: SystemTime) -> Result<(), Error> {
        let now = timestamp(now);
        for _ in 0..ATTEMPTS_MAX {
            let (seen, keys) = read_all(&*self.store).await?;
            let Some((_, key)) = keys.iter().find(|(found, _)| found == id) else {
                return Err(Error::NoSuchKey { id: id.chars().take(64).collect() });
            };
            let lasting = |key: &Stored| key.scope == Scope::Admin && key.expires_at.is_none();
            if lasting(key) && !keys.iter().any(|(other, key)| other != id && lasting(key)) {
                return Err(Error::LastAdmin);
            }
            let state = if key.is_expired(now) { "expired " } else { "" };
            let reason = format!("revoke the {state}{} key {}", key.scope.word(), key.name);
            let txn = Txn::new(&*by.name, &*reason).unchanged_since(prefix(), seen).delete(store_key(id));
            if commit(&*self.store, txn.audited(by.did("key.revoke", format!("keys/{id}"), reason))).await? {
                self.last_used.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                return Ok(());
            }
        }
        Err(Error::Contended)
    }
}

/// Whether this is the admin token.
pub(super) async fn is_admin(store: &dyn Store, secret: &Secret) -> Result<bool, Error> {
    let marker = store.get(&store::Key::new(ADMIN_AT).expect("a short plain text")).await?;
    let stored = store.get(&store_key(secret.id())).await?.and_then(|entry| read(&entry));
    Ok(marker.is_some_and(|entry| *entry.value == *secret.id().as_bytes())
        && stored.is_some_and(|stored| secret.matches(&stored.hash)))
}

/// Makes the admin token, if there is none or if it is to be replaced. False if there is another.
pub(super) async fn make_admin(
    store: &dyn Store,
    secret: &Secret,
    now: Timestamp,
    replace: bool,
) -> Result<bool, Error> {
    let marker = store::Key::new(ADMIN_AT).expect("a short plain text");
    let present = store.get(&marker).await?;
    if present.is_some() && !replace {
        return Ok(false);
    }
    let system = Actor::system();
    let stored = Stored {
        name: ADMIN_NAME.to_owned(),
        scope: Scope::Admin,
        hash: secret.hash(),
        created_at: now,
        created_by: system.name.clone(),
        expires_at: None,
    };
    let reason = if present.is_some() { "replace the admin token" } else { "make the admin token" };
    let expect = present.as_ref().map_or(Expect::Absent, |entry| Expect::Revision(entry.modified));
    let mut txn = Txn::new(&*system.name, reason).expect(marker.clone(), expect);
    if let Some(old) = present.as_ref().and_then(|entry| std::str::from_utf8(&entry.value).ok()) {
        txn = txn.delete(store_key(old));
    }
    let txn = txn.put(marker, secret.id().to_owned()).put(store_key(secret.id()), written(&stored));
    let made = commit(store, txn.audited(system.did("key.create", format!("keys/{}", secret.id()), reason)));
    // If another replica was faster, its token is the one.
    Ok(made.await?)
}

/// Commits; false if somebody else was faster.
async fn commit(store: &dyn Store, txn: Txn) -> Result<bool, store::Error> {
    match store.commit(txn).await {
        Ok(_) => Ok(true),
        Err(store::Error::Conflict { .. } | store::Error::Moved { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn read_all(store: &dyn Store) -> Result<(Revision, Vec<(String, Stored)>), store::Error> {
    let (revision, entries) = list_all(store, &prefix(), None).await?;
    let keys = entries.iter().filter_map(|entry| {
        let id = entry.key.as_str().strip_prefix(PREFIX)?.to_owned();
        Some((id, read(entry)?))
    });
    Ok((revision, keys.collect()))
}

fn read(entry: &Entry) -> Option<Stored> {
    serde_json::from_slice(&entry.value).ok()
}

fn written(stored: &Stored) -> Vec<u8> {
    serde_json::to_vec(stored).expect("only texts and times")
}

fn shown(id: String, stored: Stored) -> Key {
    let Stored { name, scope, hash: _, created_at, created_by, expires_at } = stored;
    Key { id, name, scope, created_at, created_by, expires_at, last_used_at: None }
}

fn prefix() -> Prefix {
    Prefix::new(PREFIX).expect("a short plain text")
}

fn store_key(id: &str) -> store::Key {
    store::Key::new(format!("{PREFIX}{id}")).expect("ids are short and plain")
}
