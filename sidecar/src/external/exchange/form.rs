//! What is said to an authorization server, and how its answer is read.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderValue;
use serde::Deserialize;

use super::{Failure, Settings};

/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Longest word for an error, in bytes.
const ERROR_BYTES_MAX: usize = 64;

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// By what a token is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// By what this sidecar says of who calls.
    Exchange(String),
    /// By being a client.
    Client,
}

pub(super) fn body(settings: &Settings, grant: &Grant) -> String {
    let mut body = Form::default();
    match grant {
        Grant::Exchange(assertion) => {
            body.add("grant_type", EXCHANGE);
            body.add("subject_token", assertion);
            body.add("subject_token_type", JWT);
            body.add("requested_token_type", ACCESS_TOKEN);
        }
        Grant::Client => body.add("grant_type", "client_credentials"),
    }
    for (name, value) in [
        ("audience", settings.audience.as_deref()),
        ("resource", settings.resource.as_ref().map(|it| it.as_str())),
        ("scope", settings.scope.as_deref()),
    ] {
        if let Some(value) = value {
            body.add(name, value);
        }
    }
    body.0
}

/// Name and secret of a client, as RFC 6749 has them in a header: each is encoded by itself.
pub(super) fn basic(client: &str, secret: &str) -> HeaderValue {
    let pair = format!("{}:{}", encoded(client), encoded(secret));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)))
        .expect("base64 has only letters that a header can hold");
    value.set_sensitive(true);
    value
}

#[derive(Default)]
struct Form(String);

impl Form {
    fn add(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&encoded(value));
    }
}

fn encoded(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                written.push(char::from(byte));
            }
            b' ' => written.push('+'),
            _ => written.push_str(&format!("%{byte:02X}")),
        }
    }
    written
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// The token as a header, and how long it is good, if that is said.
pub(super) fn token(body: &[u8]) -> Result<(HeaderValue, Option<Duration>), Failure> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| Failure::Answer("it has not its form"))?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        return Err(Failure::Answer("it is of another kind than Bearer"));
    }
    let is_plain = |byte: u8| byte.is_ascii_graphic();
    let token = answer.access_token;
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !token.bytes().all(is_plain) {
        return Err(Failure::Answer("it is empty, too long, or has characters that no token has"));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Failure::Answer("no header can hold it"))?;
    value.set_sensitive(true);
    let age = answer.expires_in.map(|secs| Duration::try_from_secs_f64(secs).unwrap_or_default());
    Ok((value, age))
}

/// The word for what went wrong. What else is said of it may repeat what was sent.
pub(super) fn error(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    let word = serde_json::from_slice(body).map_or_else(|_| String::new(), |it: Refused| it.error);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    match !word.is_empty() && word.len() <= ERROR_BYTES_MAX && word.bytes().all(is_word) {
        true => word,
        false => "without a word".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_written_so_that_none_ends_another() {
        assert_eq!(encoded("a b&c=d%é+~"), "a+b%26c%3Dd%25%C3%A9%2B%7E");
        let pair = STANDARD.decode(&basic("a:b", "c d").as_bytes()["Basic ".len()..]).unwrap();
        assert_eq!(pair, b"a%3Ab:c+d");
        assert!(basic("a", "b").is_sensitive());
    }

    #[test]
    fn a_token_is_a_bearers_and_nothing_else_is_taken() {
        let (value, age) =
            token(br#"{"access_token":"t","token_type":"bearer","expires_in":60,"x":1}"#).unwrap();
        assert_eq!((value.to_str().unwrap(), age), ("Bearer t", Some(Duration::from_secs(60))));
        assert!(value.is_sensitive());
        for (body, why) in [
            (r#"{"token_type":"Bearer"}"#, "form"),
            ("[]", "form"),
            (r#"{"access_token":"t","token_type":"N_A"}"#, "another kind"),
            (r#"{"access_token":"t","token_type":"DPoP"}"#, "another kind"),
            (r#"{"access_token":"","token_type":"Bearer"}"#, "empty"),
            (r#"{"access_token":"a\r\nb","token_type":"Bearer"}"#, "characters"),
        ] {
            assert!(token(body.as_bytes()).unwrap_err().to_string().contains(why), "{body}");
        }
        let (_, age) = token(br#"{"access_token":"t","token_type":"Bearer","expires_in":-5}"#).unwrap();
        assert_eq!(age, Some(Duration::ZERO));
    }

    #[test]
    fn of_an_error_only_its_word_is_kept() {
        let check = |body: &str, expected: &str| assert_eq!(error(body.as_bytes()), expected, "{body}");
        check(r#"{"error":"invalid_target","error_description":"secret"}"#, "invalid_target");
        check(r#"{"error":"a b"}"#, "without a word");
        check("<html>", "without a word");
    }
}
