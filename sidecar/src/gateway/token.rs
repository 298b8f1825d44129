//! JSON Web Tokens: their parts, and what they say. Signatures are `jsonwebtoken`'s business; what must hold of a token
//! besides is written here, so that no default of a library decides it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Longest header of a token, in bytes.
const HEADER_BYTES_MAX: usize = 4 << 10;
/// Longest name of a key.
const KEY_ID_BYTES_MAX: usize = 512;
/// Algorithms with a public key. Others are never taken: a key that everybody knows must not be one that signs.
pub(super) const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// What tokens for calls say they are, besides nothing. Others are issued for something else.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// Why a token is not taken. The texts are for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("it is no token of three parts")]
    Form,
    #[error("its algorithm is none of those with a public key")]
    Algorithm,
    #[error("it says that it is a {0:?}, which is not for calls")]
    Type(String),
    #[error("its header says that it must not be taken without understanding more")]
    Critical,
    #[error("its issuer is not one of those that are trusted")]
    Issuer,
    #[error("its key is not one of the issuer's")]
    Key,
    #[error("its signature does not hold")]
    Signature,
    #[error("it says no {0}, or not as it should")]
    Claim(&'static str),
    #[error("it has expired")]
    Expired,
    #[error("it is not yet valid")]
    Early,
    #[error("it is for somebody else")]
    Audience,
    #[error("it is bound to a key that whoever brings it must prove to have")]
    Bound,
}

/// A token, taken apart and not yet believed.
#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// What is signed.
    pub(super) signed: &'a str,
    pub(super) signature: &'a str,
    payload: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: Algorithm,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claims {
    pub(super) issuer: String,
    pub(super) all: Map<String, Value>,
}

/// Whether it looks like a token. What does not may be a key.
pub(super) fn is_token(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl<'a> Token<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Error> {
        let (signed, signature) = text.rsplit_once('.').ok_or(Error::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(Error::Form)?;
        if payload.contains('.') || header.len() > HEADER_BYTES_MAX {
            return Err(Error::Form);
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| Error::Form)?;
        let shown: Map<String, Value> = serde_json::from_slice(&header).map_err(|_| Error::Form)?;
        let Header { alg, kid, typ, crit } =
            serde_json::from_value(Value::from(shown)).map_err(|_| Error::Algorithm)?;
        if !ALGORITHMS.contains(&alg) {
            return Err(Error::Algorithm);
        }
        if let Some(typ) = typ.filter(|typ| !TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known))) {
            return Err(Error::Type(typ.chars().take(64).collect()));
        }
        if crit.is_some() {
            return Err(Error::Critical);
        }
        if kid.as_ref().is_some_and(|kid| kid.len() > KEY_ID_BYTES_MAX) {
            return Err(Error::Key);
        }
        Ok(Self { algorithm: alg, key_id: kid, signed, signature, payload })
    }

    /// What it says, whether or not that is true.
    pub(super) fn claims(&self) -> Result<Claims, Error> {
        let payload = URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| Error::Form)?;
        let all: Map<String, Value> = serde_json::from_slice(&payload).map_err(|_| Error::Form)?;
        let issuer = all.get("iss").and_then(Value::as_str).ok_or(Error::Claim("iss"))?;
        Ok(Claims { issuer: issuer.to_owned(), all })
    }
}

impl Claims {
    pub(super) fn subject(&self) -> Result<&str, Error> {
        self.all.get("sub").and_then(Value::as_str).filter(|it| !it.is_empty()).ok_or(Error::Claim("sub"))
    }

    /// Until when it holds, if it holds now; clocks may differ by `leeway`.
    pub(super) fn until(&self, now: SystemTime, leeway: Duration) -> Result<SystemTime, Error> {
        let at = |name: &'static str| match self.all.get(name) {
            None => Ok(None),
            Some(value) => instant(value).map(Some).ok_or(Error::Claim(name)),
        };
        let until = at("exp")?.ok_or(Error::Claim("exp"))?.checked_add(leeway).ok_or(Error::Claim("exp"))?;
        if until <= now {
            return Err(Error::Expired);
        }
        let early = now.checked_add(leeway).ok_or(Error::Early)?;
        if [at("nbf")?, at("iat")?].into_iter().flatten().any(|from| from > early) {
            return Err(Error::Early);
        }
        Ok(until)
    }

    /// For whom it is.
    pub(super) fn audiences(&self) -> Result<Vec<String>, Error> {
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned).ok_or(Error::Claim("aud"));
        match self.all.get("aud") {
            Some(Value::Array(all)) => all.iter().map(text).collect(),
            Some(one) => Ok(vec![text(one)?]),
            None => Err(Error::Claim("aud")),
        }
    }

    /// A token that only whoever has a key may bring proves nothing without that.
    pub(super) fn is_bound(&self) -> bool {
        self.all.contains_key("cnf")
    }

    /// What its bearer was allowed, by either name that issuers have for it.
    pub(super) fn scopes(&self) -> Vec<String> {
        ["scope", "scp"].iter().filter_map(|name| self.all.get(*name)).flat_map(words).collect()
    }

    /// The named claims, as policies see them.
    pub(super) fn chosen<'n>(&self, names: impl Iterator<Item = &'n str>) -> Map<String, Value> {
        let chosen = names.filter_map(|name| {
            let value = self.all.get(name)?;
            let value = match name {
                "scope" | "scp" => words(value).into_iter().map(Value::from).collect::<Vec<_>>().into(),
                _ => value.clone(),
            };
            Some((name.to_owned(), value))
        });
        chosen.collect()
    }
}

/// The words of a text, or the texts of a list.
fn words(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => text.split(' ').filter(|it| !it.is_empty()).map(ToOwned::to_owned).collect(),
        Value::Array(all) => all.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Seconds since 1970, of which parts do not count.
fn instant(value: &Value) -> Option<SystemTime> {
    let seconds = value.as_f64().filter(|it| it.is_finite() && (0.0..=1e12).contains(it))?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds as u64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encoded(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(header), part(claims))
    }

    fn parse(header: Value) -> Result<(), Error> {
        Token::parse(&encoded(&header, &json!({}))).map(drop)
    }

    fn claims(claims: Value) -> Claims {
        let mut claims = claims;
        claims["iss"] = "https://idp.test".into();
        Token::parse(&encoded(&json!({ "alg": "ES256" }), &claims)).unwrap().claims().unwrap()
    }

    #[test]
    fn only_algorithms_with_a_public_key_are_taken() {
        for good in ["RS256", "PS512", "ES256", "ES384", "EdDSA"] {
            assert_eq!(parse(json!({ "alg": good, "typ": "JWT" })), Ok(()), "{good}");
        }
        for bad in ["none", "None", "NONE", "HS256", "HS384", "HS512", "", "rs256", "ES256K"] {
            assert_eq!(parse(json!({ "alg": bad })), Err(Error::Algorithm), "{bad}");
        }
        assert_eq!(parse(json!({})), Err(Error::Algorithm));
        assert_eq!(parse(json!({ "alg": ["ES256"] })), Err(Error::Algorithm));
    }

    #[test]
    fn tokens_for_something_else_and_those_that_want_more_are_refused() {
        for good in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
            assert_eq!(parse(json!({ "alg": "ES256", "typ": good })), Ok(()));
        }
        for bad in ["oauth-id-jag+jwt", "dpop+jwt", "logout+jwt", ""] {
            assert_eq!(parse(json!({ "alg": "ES256", "typ": bad })), Err(Error::Type(bad.to_owned())));
        }
        assert_eq!(parse(json!({ "alg": "ES256", "crit": ["b64"] })), Err(Error::Critical));
        assert_eq!(parse(json!({ "alg": "ES256", "kid": "k".repeat(513) })), Err(Error::Key));
    }

    #[test]
    fn what_has_not_three_parts_of_base64url_is_no_token() {
        let one = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
        for bad in ["", "a", "a.b", ".", "..", "a.b.c.d", &format!("{one}.e30.s.t"), &format!("{one}=.e30.s")]
        {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
        let bad = format!("{one}.!!.s");
        assert_eq!(Token::parse(&bad).unwrap().claims(), Err(Error::Form));
        assert!(is_token("a.b.c") && !is_token("a.b") && !is_token("weft-key"));
    }

    #[test]
    fn time_counts_with_a_leeway_and_whatever_is_no_time_is_refused() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let check = |value: Value, expected: Result<u64, Error>| {
            let until = claims(value.clone()).until(now, Duration::from_secs(60));
            let until = until.map(|it| it.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
            assert_eq!(until, expected, "{value}");
        };
        check(json!({ "exp": 1001 }), Ok(1061));
        check(json!({ "exp": 941 }), Ok(1001));
        check(json!({ "exp": 940 }), Err(Error::Expired));
        check(json!({ "exp": 1000.9 }), Ok(1060));
        check(json!({ "exp": 2000, "nbf": 1060, "iat": 1060 }), Ok(2060));
        check(json!({ "exp": 2000, "nbf": 1061 }), Err(Error::Early));
        check(json!({ "exp": 2000, "iat": 1061 }), Err(Error::Early));
        check(json!({}), Err(Error::Claim("exp")));
        for bad in [json!("2000"), json!(-1), json!(1e300), json!(null)] {
            check(json!({ "exp": bad }), Err(Error::Claim("exp")));
        }
        check(json!({ "exp": 2000, "nbf": "x" }), Err(Error::Claim("nbf")));
    }

    #[test]
    fn audiences_scopes_and_chosen_claims_are_read_in_every_form_they_have() {
        let audiences = |aud: Value| claims(json!({ "aud": aud })).audiences();
        assert_eq!(audiences(json!("a")), Ok(vec!["a".to_owned()]));
        assert_eq!(audiences(json!(["a", "b"])).unwrap().len(), 2);
        for bad in [json!(7), json!(["a", 7]), json!(null)] {
            assert_eq!(audiences(bad), Err(Error::Claim("aud")));
        }
        assert_eq!(claims(json!({})).audiences(), Err(Error::Claim("aud")));
        let it =
            claims(json!({ "scope": "read  write", "scp": ["admin"], "groups": ["dev"], "email": "a@b" }));
        assert_eq!(it.scopes(), ["read", "write", "admin"]);
        let chosen = it.chosen(["scope", "groups", "absent"].into_iter());
        assert_eq!(Value::from(chosen), json!({ "scope": ["read", "write"], "groups": ["dev"] }));
        assert!(claims(json!({ "cnf": { "jkt": "x" } })).is_bound() && !it.is_bound());
        assert_eq!(it.subject(), Err(Error::Claim("sub")));
    }
}
