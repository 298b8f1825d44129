//! Whether somebody who comes to a gateway is known: by a token of an issuer that is trusted, or by a key.
//!
//! Of several `Authentication`s that are for a gateway the first in the order of conflicts holds, and it alone. Not here:
//! what whoever is known may do, which is decided beside each server.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use weft_certs::tls::LiveIdentity;
use weft_proto::name::{Namespace, Workload};
use weft_proto::resource::kinds::{ApiKey, Authentication, JwtIssuer, Labels};
use weft_proto::resource::moment::Moment;
use weft_proto::wire::Object;

use super::fetch::Fetcher;
use super::guest::{self, Guest, Said};
use super::keys::{Away, Issuer, KeySet, Keys, Patience};
use super::known::{Digest, Known, digest};
use super::settings::{KeyFetching, PublicUrl};
use super::token::{self, Token};
use crate::clock;
use crate::headers::API_KEY;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::state::Live;

/// What callers are known with.
#[derive(Debug)]
pub struct Parts {
    pub live: Live,
    pub identity: LiveIdentity,
    /// The namespace of this gateway, whose objects are for it.
    pub namespace: Option<Namespace>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub public_url: PublicUrl,
    pub fetching: KeyFetching,
    pub limits: Arc<Limits>,
    pub metrics: Arc<Metrics>,
}

/// Knows callers. Clones are the same.
#[derive(Clone, Debug)]
pub struct Authenticator(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: Parts,
    keys: Keys,
    trusted: ArcSwapOption<Trusted>,
    known: Known<Arc<Verified>>,
}

/// Who is trusted, by one object.
#[derive(Debug)]
pub(super) struct Trusted {
    pub(super) object: Arc<Object<Authentication>>,
    /// In the order of the object's.
    issuers: Vec<Issuer>,
}

/// Somebody who is known.
#[derive(Debug)]
pub struct Verified {
    pub guest: Arc<Guest>,
    /// Until when; for ever, where nothing but the configuration says so.
    pub until: Option<SystemTime>,
    trusted: Arc<Trusted>,
    /// What the token says besides; none for keys.
    token: Option<Told>,
}

#[derive(Debug)]
struct Told {
    issuer: usize,
    keys: Arc<KeySet>,
    audiences: Vec<String>,
    scopes: Vec<String>,
}

/// What somebody brings to be known by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brought<'a> {
    Nothing,
    Key(&'a str),
    Bearer(&'a str),
}

impl Authenticator {
    pub fn new(parts: Parts) -> Self {
        let limits = &parts.limits;
        let fetcher = Fetcher {
            settings: parts.fetching.clone(),
            bytes_max: limits.issuer_keys_bytes_max,
            timeout: *limits.issuer_keys_timeout,
        };
        let patience = Patience {
            fetch_every: *limits.issuer_keys_fetch_every,
            age: *limits.issuer_keys_age,
            age_max: *limits.issuer_keys_age_max,
        };
        let keys = Keys::new(fetcher, patience, Arc::clone(&parts.metrics));
        let known = Known::new(limits.tokens_known_max);
        Self(Arc::new(Shared { parts, keys, trusted: ArcSwapOption::empty(), known }))
    }

    /// Who calls, by what a request for an endpoint brings; by the certificate of the connection where it brings nothing.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<&Workload>,
        endpoint: &str,
    ) -> Result<Arc<Verified>, Refusal> {
        self.authenticate_at(clock::now(), headers, peer, endpoint).await
    }

    async fn authenticate_at(
        &self,
        now: SystemTime,
        headers: &HeaderMap,
        peer: Option<&Workload>,
        endpoint: &str,
    ) -> Result<Arc<Verified>, Refusal> {
        let brought = brought(headers, self.0.parts.limits.token_bytes_max)?;
        if brought == Brought::Nothing && peer.is_none() {
            return Err(Refusal::Unauthenticated { brought: false, why: "nothing was brought".to_owned() });
        }
        let trusted = self.trusted().ok_or_else(|| unknown("no Authentication is for this gateway"))?;
        let verified = match brought {
            Brought::Nothing => self.by_certificate(&trusted, peer)?,
            Brought::Key(text) => {
                self.by_key(&trusted, text, now)?.ok_or_else(|| unknown("no key is like this"))?
            }
            Brought::Bearer(text) => match self.by_key(&trusted, text, now)? {
                Some(verified) => verified,
                None if token::is_token(text) => self.by_token(&trusted, text, now).await?,
                None => return Err(unknown("it is neither a key nor a token")),
            },
        };
        self.is_for(&verified, endpoint)?;
        Ok(verified)
    }

    /// Whom this gateway trusts, by the configuration in force.
    pub(super) fn trusted(&self) -> Option<Arc<Trusted>> {
        let current = self.0.parts.live.load();
        let object = current.snapshot.authentication.iter().find(|it| self.is_ours(it))?;
        if let Some(trusted) = &*self.0.trusted.load()
            && Arc::ptr_eq(&trusted.object, object)
        {
            return Some(Arc::clone(trusted));
        }
        let issuers = self.0.keys.of(object.spec.jwt.iter().map(|jwt| &jwt.keys));
        let trusted = Arc::new(Trusted { object: Arc::clone(object), issuers });
        self.0.trusted.store(Some(Arc::clone(&trusted)));
        Some(trusted)
    }

    /// A control plane sends no others; files may hold them.
    fn is_ours(&self, object: &Object<Authentication>) -> bool {
        let Parts { namespace, labels, .. } = &self.0.parts;
        namespace.as_ref() == Some(&object.meta.namespace) && selects(&object.spec.gateways, labels)
    }

    fn by_key(
        &self,
        trusted: &Arc<Trusted>,
        text: &str,
        now: SystemTime,
    ) -> Result<Option<Arc<Verified>>, Refusal> {
        let digest = digest(text);
        let Some(key) = trusted.key(&digest) else { return Ok(None) };
        if let Some(known) = self.known(trusted, &digest, now) {
            return Ok(Some(known));
        }
        let until = key.not_after.map(Moment::time);
        if until.is_some_and(|until| until <= now) {
            return Err(Refusal::KeyExpired { key: key.name.to_string() });
        }
        let said = Said {
            iss: format!("api-keys/{}", trusted.object.meta.full_name()),
            sub: key.caller.as_ref().unwrap_or(&key.name).to_string(),
            tenant: key.tenant.as_ref().map(ToString::to_string),
            claims: serde_json::Map::new(),
        };
        let guest = self.guest(&said)?;
        let verified = Verified { guest, until, trusted: Arc::clone(trusted), token: None };
        Ok(Some(self.keep(digest, verified)))
    }

    /// Whoever comes with a certificate of a trust domain that is named. Those of the mesh itself have a nearer way.
    fn by_certificate(
        &self,
        trusted: &Arc<Trusted>,
        peer: Option<&Workload>,
    ) -> Result<Arc<Verified>, Refusal> {
        let peer = peer.ok_or_else(|| unknown("nothing was brought"))?;
        if !trusted.object.spec.federated_domains.contains(&peer.trust_domain) {
            return Err(unknown("its certificate is of a trust domain that is not named"));
        }
        let id = peer.id();
        let said = Said {
            iss: format!("spiffe://{}", peer.trust_domain),
            sub: id.path().to_owned(),
            tenant: None,
            claims: serde_json::Map::new(),
        };
        let guest = self.guest(&said)?;
        Ok(Arc::new(Verified { guest, until: None, trusted: Arc::clone(trusted), token: None }))
    }

    /// Whether there is anybody who could be known by a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.trusted().is_some_and(|trusted| !trusted.object.spec.federated_domains.is_empty())
    }

    async fn by_token(
        &self,
        trusted: &Arc<Trusted>,
        text: &str,
        now: SystemTime,
    ) -> Result<Arc<Verified>, Refusal> {
        let digest = digest(text);
        if let Some(known) = self.known(trusted, &digest, now) {
            return Ok(known);
        }
        let token = Token::parse(text).map_err(bad)?;
        let claims = token.claims().map_err(bad)?;
        let jwt = &trusted.object.spec.jwt;
        let issuer = jwt.iter().position(|it| it.issuer.as_str() == claims.issuer);
        let issuer = issuer.ok_or_else(|| bad(token::Error::Issuer))?;
        let keys = match trusted.issuers[issuer].verify(&token).await {
            Ok(verified) => verified.map_err(bad)?,
            Err(Away(why)) => return Err(Refusal::IssuerAway(format!("{}: {why}", claims.issuer))),
        };
        let until = claims.until(now, *self.0.parts.limits.token_leeway).map_err(bad)?;
        if claims.is_bound() {
            return Err(bad(token::Error::Bound));
        }
        let audiences = claims.audiences().map_err(bad)?;
        let said = said(&jwt[issuer], &claims).map_err(bad)?;
        let guest = self.guest(&said)?;
        let token = Told { issuer, keys, audiences, scopes: claims.scopes() };
        let verified =
            Verified { guest, until: Some(until), trusted: Arc::clone(trusted), token: Some(token) };
        Ok(self.keep(digest, verified))
    }

    /// Somebody who was verified before, if that still holds.
    fn known(&self, trusted: &Arc<Trusted>, digest: &Digest, now: SystemTime) -> Option<Arc<Verified>> {
        let found = self.0.known.find(digest)?;
        let holds = Arc::ptr_eq(&found.trusted, trusted) && found.holds(now);
        if !holds {
            self.0.known.forget(digest);
        }
        holds.then_some(found)
    }

    fn keep(&self, digest: Digest, verified: Verified) -> Arc<Verified> {
        let verified = Arc::new(verified);
        self.0.known.keep(digest, Arc::clone(&verified));
        verified
    }

    fn guest(&self, said: &Said) -> Result<Arc<Guest>, Refusal> {
        let via = self.workload().ok_or(Refusal::NotReady)?;
        match Guest::new(said, via, self.0.parts.limits.guest_bytes_max) {
            Ok(guest) => Ok(Arc::new(guest)),
            Err(guest::Error::TooLarge { max }) => Err(Refusal::ClaimsTooLarge { max }),
            Err(error) => Err(unknown(&error.to_string())),
        }
    }

    /// Who this gateway calls as.
    fn workload(&self) -> Option<Workload> {
        self.0.parts.identity.leaf()?.spiffe_id.workload()
    }

    /// A token is for those whom it names, and needs the scopes that every one needs.
    fn is_for(&self, verified: &Verified, endpoint: &str) -> Result<(), Refusal> {
        let Some(token) = &verified.token else { return Ok(()) };
        let spec = &verified.trusted.object.spec;
        let named = &spec.jwt[token.issuer].audiences;
        let resource = verified.trusted.resource(&self.0.parts.public_url, Some(endpoint));
        let own = spec.oauth.as_ref().map(|oauth| oauth.resource.as_str());
        let mut accepted = named.iter().map(|it| it.as_str()).chain(resource.as_deref()).chain(own);
        if !accepted.any(|it| token.audiences.iter().any(|audience| is_same(audience, it))) {
            return Err(bad(token::Error::Audience));
        }
        let required = spec.oauth.iter().flat_map(|oauth| oauth.required_scopes.iter());
        let has = |scope: &str| token.scopes.iter().any(|it| it == scope);
        match required.into_iter().all(|scope| has(scope.as_str())) {
            true => Ok(()),
            false => Err(Refusal::InsufficientScope),
        }
    }

    /// Whether what a request brought is still good for its endpoint, by the configuration in force.
    pub(crate) async fn still(
        &self,
        verified: &Verified,
        headers: &HeaderMap,
        peer: Option<&Workload>,
        endpoint: &str,
    ) -> bool {
        let is_same = self.trusted().is_some_and(|trusted| Arc::ptr_eq(&trusted, &verified.trusted));
        match self.authenticate(headers, peer, endpoint).await {
            Ok(again) => again.guest.name == verified.guest.name,
            // Nothing was taken back; what was good stays so for as long as it said.
            Err(Refusal::IssuerAway(_) | Refusal::NotReady) => is_same,
            Err(_) => false,
        }
    }

    pub(crate) fn public_url(&self) -> &PublicUrl {
        &self.0.parts.public_url
    }
}

impl Trusted {
    /// All are looked at, so that how long it takes says nothing.
    fn key(&self, digest: &Digest) -> Option<&ApiKey> {
        let hex = hex(digest);
        let is_it =
            |key: &&ApiKey| verify_slices_are_equal(key.digest.hex().as_bytes(), hex.as_bytes()).is_ok();
        self.object.spec.api_keys.iter().filter(is_it).fold(None, |_, found| Some(found))
    }

    /// What an endpoint is called as a resource; the whole gateway, where none is named.
    pub(super) fn resource(&self, public_url: &PublicUrl, endpoint: Option<&str>) -> Option<String> {
        let oauth = self.object.spec.oauth.as_ref()?;
        let own = oauth.resource.as_str();
        Some(match endpoint.filter(|_| is_same(own, public_url.base())) {
            Some(endpoint) => format!("{}{endpoint}", public_url.base()),
            None => own.to_owned(),
        })
    }
}

impl Verified {
    /// A refusal for want of a scope, as a client is told that can ask for it: with the scopes that it has, because many
    /// ask for those alone that they are told.
    pub fn asking_for_scopes(&self, refusal: Refusal) -> Refusal {
        let (needed, token) = match (refusal, &self.token) {
            (Refusal::Denied { scope: Some(scope), .. }, Some(token)) => (vec![scope], token),
            (Refusal::ScopeNeeded { scopes }, Some(token)) => (scopes, token),
            (other, _) => return other,
        };
        Refusal::ScopeNeeded { scopes: needed.into_iter().chain(token.scopes.iter().cloned()).collect() }
    }

    fn holds(&self, now: SystemTime) -> bool {
        let is_in_time = self.until.is_none_or(|until| now < until);
        let is_signed = |token: &Told| {
            let keys = self.trusted.issuers[token.issuer].known();
            keys.is_some_and(|keys| Arc::ptr_eq(&keys, &token.keys))
        };
        is_in_time && self.token.as_ref().is_none_or(is_signed)
    }
}

/// What is said of the bearer of a token.
fn said(jwt: &JwtIssuer, claims: &token::Claims) -> Result<Said, token::Error> {
    let tenant = jwt.tenant_claim.as_ref().and_then(|name| claims.all.get(name.as_str()));
    let text = |value: &serde_json::Value| value.as_str().map(ToOwned::to_owned);
    let tenant = tenant.map(|value| text(value).ok_or(token::Error::Claim("tenant"))).transpose()?;
    let chosen = match &jwt.claims {
        Some(names) => claims.chosen(names.iter().map(|it| it.as_str())),
        None => claims.chosen(JwtIssuer::CLAIMS_USUAL.into_iter()),
    };
    Ok(Said { iss: claims.issuer.clone(), sub: claims.subject()?.to_owned(), tenant, claims: chosen })
}

fn selects(wanted: &Labels, labels: &std::collections::BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key.as_str()).is_some_and(|it| it == value.as_str()))
}

/// Many write a slash at the end of an address without a path, and as many do not.
fn is_same(one: &str, other: &str) -> bool {
    one.strip_suffix('/').unwrap_or(one) == other.strip_suffix('/').unwrap_or(other)
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bad(error: token::Error) -> Refusal {
    unknown(&error.to_string())
}

/// Something was brought, and is not good.
fn unknown(why: &str) -> Refusal {
    Refusal::Unauthenticated { brought: true, why: why.to_owned() }
}

/// What headers bring. Two of anything could be understood differently by whoever stands before this.
fn brought<'a>(headers: &'a HeaderMap, bytes_max: usize) -> Result<Brought<'a>, Refusal> {
    let mut authorization = headers.get_all(AUTHORIZATION).iter();
    let mut keys = headers.get_all(API_KEY).iter();
    let (token, key) = (authorization.next(), keys.next());
    if authorization.next().is_some() || keys.next().is_some() || token.is_some() && key.is_some() {
        return Err(Refusal::Invalid("several tokens or keys were brought".to_owned()));
    }
    let text = |value: &'a HeaderValue| match value.to_str() {
        Ok(text) if text.len() <= bytes_max => Ok(text.trim()),
        Ok(_) => Err(unknown("it is longer than is allowed")),
        Err(_) => Err(unknown("it is no text")),
    };
    if let Some(key) = key {
        return Ok(Brought::Key(text(key)?));
    }
    let Some(token) = token else { return Ok(Brought::Nothing) };
    let token = text(token)?;
    match token.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(Brought::Bearer(token.trim()))
        }
        _ => Err(unknown("it is no bearer token")),
    }
}

#[cfg(test)]
mod tests;
