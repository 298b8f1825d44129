//! What this sidecar says of who calls: a JSON Web Token that it signs, good for a minute and for one authorization server.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::{Assertion, Failure};
use crate::clock;

/// How long an assertion is good.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// Largest file of a key, in bytes.
const KEY_BYTES_MAX: u64 = 16 << 10;

/// Signs assertions. The key is read anew for each: they are few, and it may be exchanged.
#[derive(Debug)]
pub(super) struct Signer {
    settings: Assertion,
    audience: String,
}

impl Signer {
    pub(super) fn new(settings: &Assertion, token_url: &str) -> Self {
        let audience = settings.audience.clone().unwrap_or_else(|| token_url.to_owned());
        Self { settings: settings.clone(), audience }
    }

    /// Says that somebody calls.
    pub(super) async fn assert(&self, caller: &str) -> Result<String, Failure> {
        let path = self.settings.key_file.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let pair = read.map_err(|error| Failure::Own(error.to_string()))??;
        let now = clock::seconds();
        let claims = json!({
            "iss": self.settings.issuer,
            "sub": caller,
            "aud": self.audience,
            "iat": now,
            "exp": now + GOOD_FOR.as_secs(),
            "jti": format!("{:032x}", rand::random::<u128>()),
        });
        sign(&pair, self.settings.key_id.as_deref(), &claims)
    }
}

fn sign(pair: &EcdsaKeyPair, key_id: Option<&str>, claims: &Value) -> Result<String, Failure> {
    let key_id = key_id.map_or_else(|| thumbprint(pair), ToOwned::to_owned);
    let header = json!({ "alg": "ES256", "typ": "JWT", "kid": key_id });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes());
    let signature = signature.map_err(|_| Failure::Own("the key does not sign".to_owned()))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
}

/// Never tells what is in the file.
fn read(path: &Path) -> Result<EcdsaKeyPair, Failure> {
    let own = |why: String| Failure::Own(format!("{}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| own(error.to_string()))?.len();
    if size > KEY_BYTES_MAX {
        return Err(own(format!("it is larger than {KEY_BYTES_MAX} bytes")));
    }
    let text = std::fs::read(path).map_err(|error| own(error.to_string()))?;
    let key =
        PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| own("it is no PKCS #8 in PEM".to_owned()))?;
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der())
        .map_err(|_| own("it is no key of the curve P-256".to_owned()))
}

/// What a key is called by whoever knows nothing but the key (RFC 7638).
fn thumbprint(pair: &EcdsaKeyPair) -> String {
    // A point as it is written out: 4, and two numbers of 32 bytes.
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()))
}
