//! What clients are told about where to get a token: the metadata of RFC 9728, and the challenge that leads there. Both
//! are made of the configuration alone: what a request says of where it came is no way to lead others astray.

use http::HeaderValue;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE};
use http::{Response, Uri};
use serde_json::json;
use weft_proto::policy::access::is_scope;

use super::authenticate::{Authenticator, Trusted};
use crate::answer::Answer;
use crate::body::Body;
use crate::receive;
use crate::refusal::Refusal;

/// Room for scopes in a challenge.
const SCOPES_BYTES_MAX: usize = 2048;
/// Where the metadata of an endpoint is, before its path.
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The endpoint whose metadata a path asks for: one of ours, or the whole gateway.
pub fn asked(uri: &Uri) -> Option<Result<Option<&str>, Refusal>> {
    let rest = uri.path().strip_prefix(WELL_KNOWN)?;
    match rest {
        "" | "/" => Some(Ok(None)),
        endpoint => Some(receive::is_endpoint(endpoint).then_some(Some(endpoint)).ok_or(Refusal::NoSuchPath)),
    }
}

impl Authenticator {
    /// The metadata of an endpoint, which is for everyone.
    pub fn metadata(&self, endpoint: Option<&str>) -> Result<Response<Answer>, Refusal> {
        let trusted = self.trusted().ok_or(Refusal::NoSuchPath)?;
        let oauth = trusted.object.spec.oauth.as_ref().ok_or(Refusal::NoSuchPath)?;
        let servers: Vec<_> = oauth.authorization_servers.iter().map(|it| it.as_str()).collect();
        let mut scopes: Vec<_> = oauth.scopes.iter().chain(oauth.required_scopes.iter()).collect();
        scopes.sort();
        scopes.dedup();
        let mut document = json!({
            "resource": trusted.resource(self.public_url(), endpoint),
            "authorization_servers": servers,
            "bearer_methods_supported": ["header"],
        });
        if !scopes.is_empty() {
            document["scopes_supported"] = scopes.iter().map(|it| it.as_str()).collect();
        }
        let mut response = Response::new(Answer::from(Body::full(document.to_string())));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
        Ok(response)
    }

    /// How whoever is refused can come to be let in, if that is why they are.
    pub fn challenge(&self, refusal: &Refusal, endpoint: &str) -> Option<HeaderValue> {
        let mut told = match refusal {
            Refusal::Unauthenticated { brought: false, .. } => Vec::new(),
            Refusal::Unauthenticated { brought: true, .. } | Refusal::KeyExpired { .. } => {
                vec!["error=\"invalid_token\"".to_owned()]
            }
            Refusal::InsufficientScope | Refusal::ScopeNeeded { .. } => {
                vec!["error=\"insufficient_scope\"".to_owned()]
            }
            _ => return None,
        };
        if !told.is_empty() {
            told.push(format!("error_description=\"{}\"", refusal.message()));
        }
        let trusted = self.trusted();
        let oauth = trusted.as_ref().and_then(|it| it.object.spec.oauth.as_ref().map(|oauth| (it, oauth)));
        if let Some((trusted, _)) = oauth {
            told.push(format!("resource_metadata=\"{}\"", self.address_of(trusted, endpoint)));
        }
        let required = oauth.iter().flat_map(|(_, oauth)| oauth.required_scopes.iter());
        let scopes = scopes_told(refusal, required.map(|it| it.as_str()));
        if !scopes.is_empty() {
            told.push(format!("scope=\"{scopes}\""));
        }
        let challenge = match told.is_empty() {
            true => "Bearer".to_owned(),
            false => format!("Bearer {}", told.join(", ")),
        };
        HeaderValue::from_str(&challenge).ok()
    }

    /// Where the metadata of an endpoint is.
    fn address_of(&self, trusted: &Trusted, endpoint: &str) -> String {
        let base = self.public_url().base();
        let whole = trusted.resource(self.public_url(), None);
        let each = trusted.resource(self.public_url(), Some(endpoint));
        match receive::is_endpoint(endpoint) && each != whole {
            true => format!("{base}{WELL_KNOWN}{endpoint}"),
            false => format!("{base}{WELL_KNOWN}"),
        }
    }
}

/// The scopes to ask for: the one that a call needs, then those that every token needs, then those that this one has, as
/// many as there is room for.
fn scopes_told<'s>(refusal: &'s Refusal, required: impl Iterator<Item = &'s str>) -> String {
    let asked: &[String] = match refusal {
        Refusal::ScopeNeeded { scopes } => scopes,
        _ => &[],
    };
    let mut asked = asked.iter().map(String::as_str);
    let all = asked.next().into_iter().chain(required).chain(asked);
    let mut told: Vec<&str> = Vec::new();
    let mut room = SCOPES_BYTES_MAX;
    for scope in all.filter(|it| is_scope(it)) {
        if scope.len() < room && !told.contains(&scope) {
            room -= scope.len() + 1;
            told.push(scope);
        }
    }
    told.join(" ")
}
