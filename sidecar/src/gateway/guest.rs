//! Somebody from outside the mesh for whom a gateway calls: how a gateway tells the sidecars beside servers of it, and
//! how these read that. Not here: whether the one is known, and whether the other believes it.
//!
//! A guest is known by who vouches for it, and by what that one calls it: `<issuer>#<subject>`. An issuer has no `#`, so
//! that no two guests have the same name.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_proto::name::Workload;
use weft_proto::policy;

/// Longest name that an issuer has for somebody, in bytes; what OpenID Connect allows.
pub const SUBJECT_BYTES_MAX: usize = 255;
/// Longest name of an issuer, in bytes: with a subject it is no longer than what quotas are counted by.
const ISSUER_BYTES_MAX: usize = 1024;
/// Longest name of a tenant, in bytes.
const TENANT_BYTES_MAX: usize = 128;

/// What a gateway says of a guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    pub iss: String,
    pub sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
}

/// A guest, taken apart once for many requests.
pub struct Guest {
    /// As policies know it: the gateway, with the claims and the tenant of whom it calls for.
    pub caller: policy::Caller,
    /// The name, as everything that records it needs it.
    pub name: Arc<str>,
    /// The same, as a header.
    pub header: HeaderValue,
    /// What is said of it, as a header.
    pub said: HeaderValue,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guest").field(&self.name).finish()
    }
}

/// Why somebody is no guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("what is said of the caller is no base64url of JSON as it should be")]
    Form,
    #[error("the issuer has no name of 1 to {ISSUER_BYTES_MAX} visible characters without a '#'")]
    Issuer,
    #[error("the subject has no name of 1 to {SUBJECT_BYTES_MAX} bytes without control characters")]
    Subject,
    #[error("the tenant has no name of 1 to {TENANT_BYTES_MAX} bytes without control characters")]
    Tenant,
    #[error("the claims could be understood in two ways")]
    Claims,
    #[error("what there is to say of the caller takes more than {max} bytes")]
    TooLarge { max: usize },
}

impl Guest {
    /// The guest that a gateway speaks of, for policies: `via` is the gateway.
    pub fn new(said: &Said, via: Workload, bytes_max: usize) -> Result<Self, Error> {
        let Said { iss, sub, tenant, claims } = said;
        let is_issuer = (1..=ISSUER_BYTES_MAX).contains(&iss.len())
            && iss.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !is_issuer {
            return Err(Error::Issuer);
        }
        if !is_name(sub, SUBJECT_BYTES_MAX) {
            return Err(Error::Subject);
        }
        let mut caller = policy::Caller::new(via);
        if let Some(tenant) = tenant {
            if !is_name(tenant, TENANT_BYTES_MAX) {
                return Err(Error::Tenant);
            }
            caller = caller.of_tenant(tenant);
        }
        let mut all = claims.clone();
        all.insert("iss".to_owned(), iss.clone().into());
        all.insert("sub".to_owned(), sub.clone().into());
        caller = caller.with_claims(&Value::from(all).to_string()).map_err(|_| Error::Claims)?;
        let name: Arc<str> = format!("{iss}#{}", visible(sub)).into();
        let header = HeaderValue::from_str(&name).map_err(|_| Error::Subject)?;
        Ok(Self { caller, name, header, said: told(said, bytes_max)? })
    }

    /// Reads what a gateway says.
    pub fn read(header: &HeaderValue, via: Workload, bytes_max: usize) -> Result<Self, Error> {
        // Four characters for three bytes.
        if header.len() / 4 * 3 > bytes_max {
            return Err(Error::TooLarge { max: bytes_max });
        }
        let json = URL_SAFE_NO_PAD.decode(header).map_err(|_| Error::Form)?;
        let said: Said = serde_json::from_slice(&json).map_err(|_| Error::Form)?;
        Self::new(&said, via, bytes_max)
    }
}

/// Whether somebody came with a token: an issuer of tokens is called by its address, which nobody else is who vouches for
/// a guest.
pub fn is_of_token(caller: &policy::Caller) -> bool {
    let is_address = |iss: &str| iss.starts_with("https://") || iss.starts_with("http://");
    caller.claim("iss").is_some_and(|iss| is_address(&iss))
}

/// What is said of a guest, as a header. A policy may speak of any claim, so none is left out for want of room.
fn told(said: &Said, bytes_max: usize) -> Result<HeaderValue, Error> {
    let json = serde_json::to_vec(said).map_err(|_| Error::Form)?;
    if json.len() > bytes_max {
        return Err(Error::TooLarge { max: bytes_max });
    }
    HeaderValue::try_from(URL_SAFE_NO_PAD.encode(json)).map_err(|_| Error::Form)
}

fn is_name(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// A name in visible ASCII. Two names never become the same.
fn visible(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_graphic() && byte != b'%' {
            true => written.push(char::from(byte)),
            false => written.push_str(&format!("%{byte:02X}")),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_proto::name::SpiffeId;

    use super::*;

    fn via() -> Workload {
        SpiffeId::parse("spiffe://mesh.test/ns/edge/sa/gateway").unwrap().workload().unwrap()
    }

    fn said(sub: &str) -> Said {
        let claims = json!({ "groups": ["dev"] }).as_object().unwrap().clone();
        Said { iss: "https://idp.test/a".to_owned(), sub: sub.to_owned(), tenant: None, claims }
    }

    #[test]
    fn what_a_gateway_says_is_read_as_it_was_meant() {
        let said = Said { tenant: Some("acme".to_owned()), ..said("ann") };
        let told = Guest::new(&said, via(), 4096).unwrap();
        let read = Guest::read(&told.said, via(), 4096).unwrap();
        assert_eq!((&*read.name, read.caller.tenant()), ("https://idp.test/a#ann", Some("acme")));
        assert_eq!(read.caller, told.caller);
        let claims: Value = serde_json::from_str(read.caller.claims().unwrap().get()).unwrap();
        assert_eq!(claims, json!({ "groups": ["dev"], "iss": "https://idp.test/a", "sub": "ann" }));
        assert_eq!(read.caller.id().as_str(), "spiffe://mesh.test/ns/edge/sa/gateway");
    }

    #[test]
    fn claims_cannot_speak_of_another_issuer_or_subject() {
        let mut said = said("ann");
        said.claims.insert("sub".to_owned(), "root".into());
        let guest = Guest::new(&said, via(), 4096).unwrap();
        let claims: Value = serde_json::from_str(guest.caller.claims().unwrap().get()).unwrap();
        assert_eq!(claims["sub"], "ann");
    }

    #[test]
    fn no_two_guests_have_the_same_name_and_each_fits_a_header() {
        let name = |sub: &str| Guest::new(&said(sub), via(), 4096).unwrap().name;
        assert_eq!(&*name("a b"), "https://idp.test/a#a%20b");
        let names = ["a b", "a%20b", "a#b", "a", "ä", "auth0|7"].map(name);
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
        for bad in ["", "a\nb", "a\u{0}", &"x".repeat(256)] {
            assert_eq!(Guest::new(&said(bad), via(), 4096).unwrap_err(), Error::Subject, "{bad:?}");
        }
        let other = Said { iss: "https://idp.test/a#b".to_owned(), ..said("c") };
        assert_eq!(Guest::new(&other, via(), 4096).unwrap_err(), Error::Issuer);
    }

    #[test]
    fn what_does_not_fit_or_cannot_be_read_is_refused() {
        assert_eq!(Guest::new(&said("ann"), via(), 20).unwrap_err(), Error::TooLarge { max: 20 });
        let read = |text: &str| Guest::read(&HeaderValue::from_str(text).unwrap(), via(), 4096).unwrap_err();
        let encoded = |json: &str| URL_SAFE_NO_PAD.encode(json);
        for bad in ["", "%%%", &encoded("{}"), &encoded("[]"), &encoded(r#"{"iss":"a","sub":"b","admin":1}"#)]
        {
            assert_eq!(read(bad), Error::Form, "{bad}");
        }
        let twice = encoded(r#"{"iss":"a","sub":"b","sub":"c"}"#);
        assert_eq!(read(&twice), Error::Form);
        assert_eq!(read(&"A".repeat(8192)), Error::TooLarge { max: 4096 });
    }
}
