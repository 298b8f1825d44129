//! What clients are told about where to get a token: the metadata of RFC 9728, and the challenge that leads there. Both
//! are made of the configuration alone: what a request says of where it came is no way to lead others astray.

use http::HeaderValue;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE};
use http::{Response, Uri};
use serde_json::json;

use super::authenticate::{Authenticator, Trusted};
use crate::answer::Answer;
use crate::body::Body;
use crate::receive;
use crate::refusal::Refusal;

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
            Refusal::InsufficientScope => vec!["error=\"insufficient_scope\"".to_owned()],
            _ => return None,
        };
        if !told.is_empty() {
            told.push(format!("error_description=\"{}\"", refusal.message()));
        }
        let trusted = self.trusted();
        let oauth = trusted.as_ref().and_then(|it| it.object.spec.oauth.as_ref().map(|oauth| (it, oauth)));
        if let Some((trusted, oauth)) = oauth {
            told.push(format!("resource_metadata=\"{}\"", self.address_of(trusted, endpoint)));
            let needed: Vec<_> = oauth.required_scopes.iter().map(|it| it.as_str()).collect();
            let needed: Vec<_> = needed.into_iter().filter(|it| is_scope(it)).collect();
            if !needed.is_empty() {
                told.push(format!("scope=\"{}\"", needed.join(" ")));
            }
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

/// What a scope may be written with, so that it cannot end the text that it stands in.
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}
