//! Tokens of an authorization server for each caller, by which a server outside of the mesh knows in whose name it is
//! called (RFC 8693).
//!
//! What a caller was known by ends where it was known, so there is no token of the caller's to exchange. This sidecar says
//! itself who calls, in an assertion that it signs, and the authorization server, which has the key to verify that, says
//! with which token. For what nobody asked, as lists and discovery, the sidecar gets a token of its own, as a client (RFC
//! 6749, 4.4). Tokens are kept for as long as they are good, in memory alone. Not here: who may call.

mod assertion;
mod form;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;
use tokio::time::Instant;
use weft_proto::name::WebUrl;

use super::credentials::{Error as CredentialsError, Source, Value};
use super::{Error, Place, place_of};
use crate::gateway::known::{Digest, Known, digest};
use crate::upstream::{Pool, Settings as PoolSettings};
use assertion::Signer;
use form::Grant;

/// Callers whose tokens are kept.
const TOKENS_MAX: usize = 4096;
/// Time for one exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of what an authorization server answers.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long it is believed that a caller gets no token.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// Longest that a token is kept, whatever is said of it.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(3600);
/// How long a token is good of which nothing is said.
const TOKEN_AGE_UNSAID: Duration = Duration::from_secs(60);
/// What is taken off the time of a token: most, and as a share of it.
const SLACK_MAX: Duration = Duration::from_secs(30);
const SLACK_SHARE: u32 = 10;

/// Where tokens are from, and what they are for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The token endpoint of the authorization server. In the clear such a URL leads nowhere but within this machine.
    pub token_url: WebUrl,
    /// What this sidecar is called there.
    pub client_id: String,
    pub client_secret: Source,
    pub assertion: Assertion,
    /// What the tokens are for, by any of the three.
    #[serde(default)]
    pub audience: Option<String>,
    #[serde(default)]
    pub resource: Option<WebUrl>,
    #[serde(default)]
    pub scope: Option<String>,
    /// Roots by which the authorization server is known, in PEM, instead of those of the system.
    #[serde(default)]
    pub ca_file: Option<std::path::PathBuf>,
    /// Whether it may be at an address that is not a public one, or on this machine.
    #[serde(default)]
    pub private_addresses: bool,
}

/// How the sidecar says who calls.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Assertion {
    /// Who says so.
    pub issuer: String,
    /// To whom; the token endpoint, if not given.
    #[serde(default)]
    pub audience: Option<String>,
    /// The key that signs: PKCS #8 in PEM, of the curve P-256.
    pub key_file: std::path::PathBuf,
    /// What the key is called; its thumbprint (RFC 7638), if not given.
    #[serde(default)]
    pub key_id: Option<String>,
}

/// Why there is no token. Never tells one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the authorization server cannot be asked: {0}")]
    Unreachable(String),
    #[error("the authorization server took longer than {} s", EXCHANGE_TIMEOUT.as_secs())]
    Timeout,
    #[error("the authorization server answered {status} {error}")]
    Refused { status: u16, error: String },
    #[error("the authorization server's answer is no token: {0}")]
    Answer(&'static str),
    #[error("the secret of the client, or the key that signs, cannot be had: {0}")]
    Own(String),
}

/// Gets tokens.
#[derive(Debug)]
pub(crate) struct Exchange {
    settings: Settings,
    place: Place,
    pool: Pool,
    secret: Value,
    signer: Signer,
    slots: Known<Arc<Slot>>,
}

/// The token of one caller. Whoever finds it taken waits for what comes of that.
#[derive(Debug, Default)]
struct Slot {
    asking: tokio::sync::Mutex<()>,
    found: Mutex<Option<Found>>,
}

#[derive(Clone, Debug)]
struct Found {
    token: Result<HeaderValue, Failure>,
    until: Instant,
}

impl Slot {
    fn found(&self) -> Option<Result<HeaderValue, Failure>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().filter(|found| Instant::now() < found.until).map(|found| found.token.clone())
    }

    fn put(&self, found: Option<Found>) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

impl Exchange {
    pub(crate) fn new(settings: &Settings) -> Result<Self, Error> {
        let place = place_of(&settings.token_url, settings.ca_file.as_ref(), settings.private_addresses)?;
        let secret = settings.client_secret.value(&AUTHORIZATION)?;
        let signer = Signer::new(&settings.assertion, settings.token_url.as_str());
        let pool = Pool::new(place.destination.clone(), PoolSettings::peer());
        Ok(Self { settings: settings.clone(), place, pool, secret, signer, slots: Known::new(TOKENS_MAX) })
    }

    /// The token in whose name a request leaves: the caller's, or that of the sidecar itself.
    pub(crate) async fn token(&self, caller: Option<&str>) -> Result<HeaderValue, Failure> {
        let slot = self.slots.find_or(of(caller), Arc::<Slot>::default);
        if let Some(found) = slot.found() {
            return found;
        }
        let _asking = slot.asking.lock().await;
        if let Some(found) = slot.found() {
            return found;
        }
        let found = match tokio::time::timeout(EXCHANGE_TIMEOUT, self.ask(caller)).await {
            Ok(Ok((token, age))) => Found { token: Ok(token), until: Instant::now() + kept_for(age) },
            Ok(Err(failure)) => Found { token: Err(failure), until: Instant::now() + REFUSED_FOR },
            Err(_) => Found { token: Err(Failure::Timeout), until: Instant::now() + REFUSED_FOR },
        };
        if let Err(failure) = &found.token {
            tracing::warn!(url = %self.settings.token_url, %failure, "a caller gets no token");
        }
        let token = found.token.clone();
        slot.put(Some(found));
        token
    }

    /// The server does not take a token any more.
    pub(crate) fn forget(&self, caller: Option<&str>) {
        self.slots.forget(&of(caller));
    }

    async fn ask(&self, caller: Option<&str>) -> Result<(HeaderValue, Option<Duration>), Failure> {
        let own = |error: CredentialsError| Failure::Own(error.to_string());
        let secret = self.secret.text(&AUTHORIZATION).await.map_err(own)?;
        let grant = match caller {
            Some(caller) => Grant::Exchange(self.signer.assert(caller).await?),
            None => Grant::Client,
        };
        let body = form::body(&self.settings, &grant);
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.place.path.clone().into();
        let headers = request.headers_mut();
        headers.insert(HOST, self.place.host.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(AUTHORIZATION, form::basic(&self.settings.client_id, &secret));
        let response = self.pool.send(Arc::new(request)).await;
        let (head, body) = response.map_err(|error| Failure::Unreachable(error.to_string()))?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|_| Failure::Answer("it broke off, or is too long"))?.to_bytes();
        match head.status {
            StatusCode::OK => form::token(&body),
            status => Err(Failure::Refused { status: status.as_u16(), error: form::error(&body) }),
        }
    }
}

/// No caller is called nothing.
fn of(caller: Option<&str>) -> Digest {
    digest(caller.unwrap_or_default())
}

/// A token is used for a little less than its time: it has to be good when it arrives.
fn kept_for(age: Option<Duration>) -> Duration {
    let age = age.unwrap_or(TOKEN_AGE_UNSAID).min(TOKEN_AGE_MAX);
    age - (age / SLACK_SHARE).min(SLACK_MAX)
}

#[cfg(test)]
mod tests;
