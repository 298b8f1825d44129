//! The keys of issuers: given with the configuration, or fetched, kept, and fetched again when a token names one that is
//! not known. One fetch goes on at a time, no more often than allowed, whoever asks; and keys stay good for a while when
//! their issuer is away.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use weft_proto::name::WebUrl;
use weft_proto::resource::kinds::Jwks;

use super::fetch::Fetcher;
use super::token::{self, ALGORITHMS, Token};
use crate::metrics::{Metrics, ReasonLabel};

/// Keys of one issuer that are taken.
const KEYS_MAX: usize = 64;
/// Keys that are tried for a token that names none.
const TRIES_MAX: usize = 4;

/// How keys are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Least time between two fetches.
    pub(super) fetch_every: Duration,
    /// Age after which keys are fetched again.
    pub(super) age: Duration,
    /// Age after which keys of an issuer that is away are good no longer.
    pub(super) age_max: Duration,
}

/// The keys of one issuer as of one moment.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl KeySet {
    /// Keys that are no use here, and those that cannot be read, are left out; none at all is an error.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(json).ok()?;
        let keys: Vec<_> = set.keys.into_iter().filter_map(Key::read).take(KEYS_MAX).collect();
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// Whether one of the keys signed the token.
    pub(super) fn verify(&self, token: &Token<'_>) -> Result<(), token::Error> {
        let mut found = false;
        for key in self.of(token).take(TRIES_MAX) {
            found = true;
            let signed = token.signed.as_bytes();
            let verified = jsonwebtoken::crypto::verify(token.signature, signed, &key.key, token.algorithm);
            if verified.unwrap_or(false) {
                return Ok(());
            }
        }
        Err(if found { token::Error::Signature } else { token::Error::Key })
    }

    /// A key is for its own algorithms, whatever the token would like.
    fn of(&self, token: &Token<'_>) -> impl Iterator<Item = &Key> {
        let is_named = |key: &&Key| token.key_id.is_none() || token.key_id == key.id;
        self.0.iter().filter(is_named).filter(|key| key.algorithms.contains(&token.algorithm))
    }
}

impl Key {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let is_for_signatures =
            jwk.common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
        let verifies = |all: &Vec<KeyOperations>| all.contains(&KeyOperations::Verify);
        if !is_for_signatures || !jwk.common.key_operations.as_ref().is_none_or(verifies) {
            return None;
        }
        let fitting: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &ALGORITHMS[..6],
            AlgorithmParameters::EllipticCurve(it) => match it.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(it) if it.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            _ => return None,
        };
        let named = jwk.common.key_algorithm.map(|it| it.to_string());
        let is_meant = |it: &&Algorithm| named.as_ref().is_none_or(|named| *named == format!("{it:?}"));
        let algorithms: Vec<_> = fitting.iter().filter(is_meant).copied().collect();
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some(Self { id: jwk.common.key_id, algorithms, key })
    }
}

/// Where the keys of issuers are.
#[derive(Debug)]
pub(super) struct Keys {
    fetcher: Fetcher,
    patience: Patience,
    metrics: Arc<Metrics>,
    /// Those that are fetched, for as long as somebody trusts them.
    fetched: Lock<HashMap<WebUrl, Arc<Source>>>,
}

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub(super) enum Issuer {
    /// None if what was given are no keys.
    Given(Option<Arc<KeySet>>),
    Fetched(Arc<Source>),
}

/// Keys that are fetched from one place.
#[derive(Debug)]
pub(super) struct Source {
    url: WebUrl,
    fetcher: Fetcher,
    patience: Patience,
    metrics: Arc<Metrics>,
    state: Lock<State>,
    /// Whoever fetches.
    fetching: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    keys: Option<(Arc<KeySet>, Instant)>,
    tried: Option<Instant>,
    problem: Option<String>,
}

/// There are no keys. The text says why, for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Away(pub(super) String);

impl Keys {
    pub(super) fn new(fetcher: Fetcher, patience: Patience, metrics: Arc<Metrics>) -> Self {
        Self { fetcher, patience, metrics, fetched: Lock::default() }
    }

    /// The issuers with these keys; others' are forgotten. What was fetched before is kept.
    pub(super) fn of<'k>(&self, all: impl Iterator<Item = &'k Jwks>) -> Vec<Issuer> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = HashMap::new();
        let issuers = all.map(|keys| match keys {
            Jwks::Inline(set) => Issuer::Given(KeySet::parse(set.as_str().as_bytes()).map(Arc::new)),
            Jwks::Url(url) => {
                let source = fetched.remove(url).or_else(|| kept.get(url).map(Arc::clone));
                let source = source.unwrap_or_else(|| self.source(url));
                kept.insert(url.clone(), Arc::clone(&source));
                Issuer::Fetched(source)
            }
        });
        let issuers = issuers.collect();
        *fetched = kept;
        issuers
    }

    fn source(&self, url: &WebUrl) -> Arc<Source> {
        Arc::new(Source {
            url: url.clone(),
            fetcher: self.fetcher.clone(),
            patience: self.patience,
            metrics: Arc::clone(&self.metrics),
            state: Lock::default(),
            fetching: Mutex::default(),
        })
    }
}

impl Issuer {
    /// The keys that are known without asking anybody, if they are good.
    pub(super) fn known(&self) -> Option<Arc<KeySet>> {
        match self {
            Self::Given(keys) => keys.clone(),
            Self::Fetched(source) => source.known(),
        }
    }

    /// The keys with which the token was signed, if it was.
    pub(super) async fn verify(&self, token: &Token<'_>) -> Result<Result<Arc<KeySet>, token::Error>, Away> {
        match self {
            Self::Given(None) => {
                Err(Away("what is given as its keys is no set of keys for signatures".to_owned()))
            }
            Self::Given(Some(keys)) => Ok(keys.verify(token).map(|()| Arc::clone(keys))),
            Self::Fetched(source) => source.verify(token).await,
        }
    }
}

impl Source {
    async fn verify(self: &Arc<Self>, token: &Token<'_>) -> Result<Result<Arc<KeySet>, token::Error>, Away> {
        let keys = match self.known() {
            Some(keys) => keys,
            None => {
                self.fetch().await;
                self.known().ok_or_else(|| self.away())?
            }
        };
        match keys.verify(token) {
            // It may be newer than what is known.
            Err(token::Error::Key) => {
                self.fetch().await;
                let keys = self.known().ok_or_else(|| self.away())?;
                Ok(keys.verify(token).map(|()| keys))
            }
            verified => {
                if self.is_old() {
                    let source = Arc::clone(self);
                    tokio::spawn(async move { source.fetch().await });
                }
                Ok(verified.map(|()| keys))
            }
        }
    }

    fn known(&self) -> Option<Arc<KeySet>> {
        let state = self.state();
        let (keys, since) = state.keys.as_ref()?;
        (since.elapsed() < self.patience.age_max).then(|| Arc::clone(keys))
    }

    fn is_old(&self) -> bool {
        self.state().keys.as_ref().is_some_and(|(_, since)| since.elapsed() >= self.patience.age)
            && self.may_fetch()
    }

    fn may_fetch(&self) -> bool {
        self.state().tried.is_none_or(|tried| tried.elapsed() >= self.patience.fetch_every)
    }

    fn away(&self) -> Away {
        let problem = self.state().problem.clone();
        Away(problem.unwrap_or_else(|| "its keys were asked for a moment ago".to_owned()))
    }

    /// Fetches the keys, or waits for whoever does. Goes on when nobody waits any more.
    async fn fetch(self: &Arc<Self>) {
        let source = Arc::clone(self);
        let fetching = tokio::spawn(async move {
            let _fetching = source.fetching.lock().await;
            // It may have been done while this waited.
            if source.may_fetch() {
                source.state().tried = Some(Instant::now());
                source.take(source.fetcher.get(&source.url).await);
            }
        });
        // It ends early only when the program does.
        let _ = fetching.await;
    }

    fn take(&self, fetched: Result<bytes::Bytes, super::fetch::Error>) {
        let parsed = fetched.map(|json| KeySet::parse(&json));
        let (outcome, problem) = match parsed {
            Ok(Some(keys)) => {
                self.state().keys = Some((Arc::new(keys), Instant::now()));
                ("fetched", None)
            }
            Ok(None) => {
                ("no_keys", Some("what it has at its URL is no set of keys for signatures".to_owned()))
            }
            Err(error) => ("failed", Some(told(&error))),
        };
        self.metrics.issuer_keys.get_or_create(&ReasonLabel { reason: outcome }).inc();
        if let Some(problem) = &problem {
            tracing::warn!(url = %self.url, problem, "keys of an issuer could not be fetched");
        }
        self.state().problem = problem;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with everything that it stems from.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
