//! An issuer of tokens, whose keys are where it says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::upstream::{self, Upstream};

/// What the issuer is called in tokens. Nobody ever asks there.
pub(crate) const NAME: &str = "https://idp.test";

pub(crate) struct Signer {
    pair: EcdsaKeyPair,
    id: String,
}

impl Signer {
    pub(crate) fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        Self { pair, id: id.to_owned() }
    }

    /// The keys that verify, as the issuer publishes them.
    pub(crate) fn set(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": self.id, "x": part(1..33), "y": part(33..65) }] })
    }

    /// A token with these claims. Without others it is for `api`, and good for ten minutes.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let mut all = json!({ "iss": NAME, "aud": "api", "exp": now() + 600 });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": self.id });
        let signed = format!("{}.{}", part(&header), part(&all));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    weft_sidecar::clock::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Where keys are fetched: what is there now, or an error where there is nothing.
pub(crate) struct Keys {
    pub(crate) server: Upstream,
    set: Arc<Mutex<Option<Value>>>,
}

impl Keys {
    pub(crate) async fn start(set: Value) -> Self {
        let set = Arc::new(Mutex::new(Some(set)));
        let shown = Arc::clone(&set);
        let server = Upstream::with(move |_| {
            let shown = shown.lock().unwrap().clone();
            async move { shown.map_or_else(|| upstream::status(503), |set| upstream::document(&set)) }
        });
        Self { server: server.await, set }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub(crate) fn publish(&self, set: Option<Value>) {
        *self.set.lock().unwrap() = set;
    }
}
