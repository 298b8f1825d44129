//! Join tokens: kept in the store as hashes under `tokens/`, each bound to one identity, a number of uses and a time.
//!
//! Redeeming takes one use by compare-and-swap, so that no use is given twice, on whichever replica. Not here: the
//! token's text form, and the certificates that are asked for with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use weft_certs::bundle::Fingerprint;
use weft_certs::join::{JoinToken, SecretHash};
use weft_proto::name::{Namespace, ServiceAccount, TrustDomain, Workload};

use crate::auth::{Actor, timestamp};
use crate::store::{self, Entry, Expect, Prefix, Revision, Store, Txn, list_all};

/// Most tokens that are kept, used up and expired ones among them.
pub const TOKENS_MAX: usize = 4096;
/// Most uses of one token.
pub const USES_MAX: u32 = 10_000;
/// Shortest and longest life of a token.
pub const LIFE_MIN: Duration = Duration::from_secs(60);
pub const LIFE_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Longest description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 256;
/// How long tokens are still listed once they have expired.
const EXPIRED_SHOWN: Duration = Duration::from_secs(86_400);
/// How often a change is tried again when somebody else was faster. Somebody wins each time, so that this is also how
/// many may redeem one token at the same moment.
const ATTEMPTS_MAX: usize = 256;

const PREFIX: &str = "tokens/";

/// A token, less its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    pub namespace: Namespace,
    pub account: ServiceAccount,
    pub uses: u32,
    pub uses_left: u32,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Timestamp,
    pub description: Option<String>,
    pub state: State,
}

/// Whether a token can be redeemed, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Active,
    Expired,
    Used,
    Revoked,
}

/// A token that is to be made.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub namespace: Namespace,
    pub account: ServiceAccount,
    /// 1 to [`USES_MAX`].
    pub uses: u32,
    /// [`LIFE_MIN`] to [`LIFE_MAX`].
    pub expires_in: Duration,
    /// At most [`DESCRIPTION_BYTES_MAX`] bytes.
    pub description: Option<String>,
}

/// Why a token was not made, taken away or redeemed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} must be between {min} and {max}")]
    OutOfRange { what: &'static str, min: String, max: String },
    #[error("{TOKENS_MAX} tokens exist; no more are allowed until some expire")]
    TooMany,
    #[error("there is no token {id:?}")]
    NoSuchToken { id: String },
    /// Not a token of this mesh, or one with another secret: which of these is not told.
    #[error("the join token is not known")]
    Unknown,
    #[error("the join token has expired")]
    Expired,
    #[error("the join token is used up")]
    Used,
    #[error("the join token was revoked")]
    Revoked,
    #[error("others kept changing the join token; try again")]
    Contended,
    #[error("no randomness is to be had")]
    Random,
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A token as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    namespace: Namespace,
    account: ServiceAccount,
    /// SHA-256 of the secret, in hexadecimal.
    hash: String,
    uses: u32,
    uses_left: u32,
    created_at: Timestamp,
    created_by: String,
    expires_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    revoked: bool,
}

impl Stored {
    fn state(&self, now: Timestamp) -> State {
        match () {
            () if self.revoked => State::Revoked,
            () if self.uses_left == 0 => State::Used,
            () if self.expires_at <= now => State::Expired,
            () => State::Active,
        }
    }

    fn is_old(&self, now: Timestamp) -> bool {
        self.expires_at.saturating_add(EXPIRED_SHOWN).is_ok_and(|at| at < now)
    }

    fn shown(self, id: String, now: Timestamp) -> Token {
        let state = self.state(now);
        let Self {
            namespace, account, uses, uses_left, created_at, created_by, expires_at, description, ..
        } = self;
        Token {
            id,
            namespace,
            account,
            uses,
            uses_left,
            created_at,
            created_by,
            expires_at,
            description,
            state,
        }
    }
}

/// All join tokens of a mesh.
#[derive(Debug)]
pub struct Tokens {
    store: Arc<dyn Store>,
    trust_domain: TrustDomain,
}

impl Tokens {
    pub const fn new(store: Arc<dyn Store>, trust_domain: TrustDomain) -> Self {
        Self { store, trust_domain }
    }

    /// Makes a token that names `root` as what the control plane's certificate leads to. The answer is the only time
    /// that it is shown.
    pub async fn create(
        &self,
        wanted: &Wanted,
        root: Fingerprint,
        by: &Actor,
        now: SystemTime,
    ) -> Result<(JoinToken, Token), Error> {
        check(wanted)?;
        let now = timestamp(now);
        let token = JoinToken::mint(root).map_err(|_| Error::Random)?;
        let stored = Stored {
            namespace: wanted.namespace.clone(),
            account: wanted.account.clone(),
            hash: token.secret_hash().to_string(),
            uses: wanted.uses,
            uses_left: wanted.uses,
            created_at: now,
            created_by: by.name.clone(),
            expires_at: now.saturating_add(wanted.expires_in).unwrap_or(Timestamp::MAX),
            description: wanted.description.clone(),
            revoked: false,
        };
        for _ in 0..ATTEMPTS_MAX {
            let (seen, tokens) = self.read_all().await?;
            let (old, kept): (Vec<_>, Vec<_>) = tokens.into_iter().partition(|(_, token)| token.is_old(now));
            if kept.len() >= TOKENS_MAX {
                return Err(Error::TooMany);
            }
            let reason = format!("create a join token for {}/{}", stored.namespace, stored.account);
            let mut txn = Txn::new(&*by.name, &*reason).unchanged_since(prefix(), seen);
            txn = old.iter().fold(txn, |txn, (id, _)| txn.delete(store_key(id)));
            txn = txn.put(store_key(token.id()), written(&stored));
            let txn = txn.audited(by.did("token.create", format!("tokens/{}", token.id()), reason));
            if self.commit(txn).await? {
                let shown = stored.shown(token.id().to_owned(), now);
                return Ok((token, shown));
            }
        }
        Err(Error::Contended)
    }

    /// Every token, those that ended lately too, the newest first.
    pub async fn list(&self, now: SystemTime) -> Result<Vec<Token>, store::Error> {
        let now = timestamp(now);
        let (_, tokens) = self.read_all().await?;
        let mut tokens: Vec<_> = tokens.into_iter().map(|(id, stored)| stored.shown(id, now)).collect();
        tokens.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(tokens)
    }

    /// Takes what is left of a token away.
    pub async fn revoke(&self, id: &str, by: &Actor) -> Result<(), Error> {
        let missing = || Error::NoSuchToken { id: id.chars().take(64).collect() };
        let key = store::Key::new(format!("{PREFIX}{id}")).map_err(|_| missing())?;
        for _ in 0..ATTEMPTS_MAX {
            let (entry, mut stored) = self.read(&key).await?.ok_or_else(missing)?;
            stored.revoked = true;
            let reason = format!("revoke the join token for {}/{}", stored.namespace, stored.account);
            let txn = Txn::new(&*by.name, &*reason)
                .expect(key.clone(), Expect::Revision(entry.modified))
                .put(key.clone(), written(&stored))
                .audited(by.did("token.revoke", format!("tokens/{id}"), reason));
            if self.commit(txn).await? {
                return Ok(());
            }
        }
        Err(Error::Contended)
    }

    /// Takes one use of a token and answers with the identity that it grants.
    pub async fn redeem(&self, token: &JoinToken, now: SystemTime) -> Result<Workload, Error> {
        let key = store::Key::new(format!("{PREFIX}{}", token.id())).map_err(|_| Error::Unknown)?;
        for _ in 0..ATTEMPTS_MAX {
            let (entry, mut stored) = self.read(&key).await?.ok_or(Error::Unknown)?;
            if !SecretHash::parse(&stored.hash).is_some_and(|hash| hash.matches(token)) {
                return Err(Error::Unknown);
            }
            match stored.state(timestamp(now)) {
                State::Active => {}
                State::Expired => return Err(Error::Expired),
                State::Used => return Err(Error::Used),
                State::Revoked => return Err(Error::Revoked),
            }
            stored.uses_left -= 1;
            let workload = Workload {
                trust_domain: self.trust_domain.clone(),
                namespace: stored.namespace.clone(),
                account: stored.account.clone(),
            };
            let actor = Actor { name: format!("join-token/{}", token.id()), from: None };
            let reason = format!("join as {}/{}", stored.namespace, stored.account);
            let txn = Txn::new(&*actor.name, &*reason)
                .expect(key.clone(), Expect::Revision(entry.modified))
                .put(key.clone(), written(&stored))
                .audited(actor.did("token.redeem", format!("tokens/{}", token.id()), reason));
            if self.commit(txn).await? {
                return Ok(workload);
            }
        }
        Err(Error::Contended)
    }

    /// Forgets tokens that expired a while ago; to be called now and then. Answers with how many.
    pub async fn sweep(&self, now: SystemTime) -> Result<usize, Error> {
        let now = timestamp(now);
        let (seen, tokens) = self.read_all().await?;
        let old: Vec<_> = tokens.into_iter().filter(|(_, token)| token.is_old(now)).collect();
        if old.is_empty() {
            return Ok(0);
        }
        let txn =
            Txn::new(Actor::system().name, "forget expired join tokens").unchanged_since(prefix(), seen);
        let txn = old.iter().fold(txn, |txn, (id, _)| txn.delete(store_key(id)));
        match self.commit(txn).await? {
            true => Ok(old.len()),
            // Somebody changed a token; the next sweep will do.
            false => Ok(0),
        }
    }

    async fn read(&self, key: &store::Key) -> Result<Option<(Entry, Stored)>, store::Error> {
        let entry = self.store.get(key).await?;
        Ok(entry.and_then(|entry| read(&entry).map(|stored| (entry, stored))))
    }

    async fn read_all(&self) -> Result<(Revision, Vec<(String, Stored)>), store::Error> {
        let (revision, entries) = list_all(&*self.store, &prefix(), None).await?;
        let tokens = entries.iter().filter_map(|entry| {
            let id = entry.key.as_str().strip_prefix(PREFIX)?.to_owned();
            Some((id, read(entry)?))
        });
        Ok((revision, tokens.collect()))
    }

    /// Commits; false if somebody else was faster.
    async fn commit(&self, txn: Txn) -> Result<bool, store::Error> {
        match self.store.commit(txn).await {
            Ok(_) => Ok(true),
            Err(store::Error::Conflict { .. } | store::Error::Moved { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn check(wanted: &Wanted) -> Result<(), Error> {
    let range = |what, min: String, max: String| Err(Error::OutOfRange { what, min, max });
    if !(1..=USES_MAX).contains(&wanted.uses) {
        return range("uses", "1".to_owned(), USES_MAX.to_string());
    }
    if !(LIFE_MIN..=LIFE_MAX).contains(&wanted.expires_in) {
        return range("expiresIn", "1m".to_owned(), "30d".to_owned());
    }
    match wanted.description.as_ref().map_or(0, String::len) {
        bytes if bytes > DESCRIPTION_BYTES_MAX => {
            range("the description's length in bytes", "0".to_owned(), DESCRIPTION_BYTES_MAX.to_string())
        }
        _ => Ok(()),
    }
}

fn read(entry: &Entry) -> Option<Stored> {
    serde_json::from_slice(&entry.value).ok()
}

fn written(stored: &Stored) -> Vec<u8> {
    serde_json::to_vec(stored).expect("only texts, numbers and times")
}

fn prefix() -> Prefix {
    Prefix::new(PREFIX).expect("a short plain text")
}

fn store_key(id: &str) -> store::Key {
    store::Key::new(format!("{PREFIX}{id}")).expect("ids are short and plain")
}

#[cfg(test)]
mod tests;
