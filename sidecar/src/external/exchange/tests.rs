use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value as Json, json};

use super::*;

fn key_file() -> (tempfile::NamedTempFile, rcgen::KeyPair) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, pair.serialize_pem()).unwrap();
    (file, pair)
}

fn settings(more: &Json) -> Json {
    let mut all = json!({
        "tokenUrl": "https://as.example/token",
        "clientId": "weft",
        "clientSecret": { "file": "/run/secrets/weft" },
        "assertion": { "issuer": "https://weft.example", "keyFile": "/run/secrets/key.pem" },
    });
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn read(more: &Json) -> Result<Settings, serde_json::Error> {
    serde_json::from_value(settings(more))
}

#[tokio::test]
async fn an_assertion_says_who_calls_to_one_authorization_server_and_only_for_a_minute() {
    let (file, pair) = key_file();
    let assertion = json!({ "issuer": "https://weft.example", "keyFile": file.path() });
    let assertion = serde_json::from_value(assertion).unwrap();
    let signer = Signer::new(&assertion, "https://as.example/token");
    let token = signer.assert("https://idp.test#ann").await.unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key_raw());
    key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    let part = |text: &str| serde_json::from_slice::<Json>(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let (header, claims) = (part(header), part(claims));
    assert_eq!((&header["alg"], &header["typ"]), (&json!("ES256"), &json!("JWT")));
    assert_eq!(header["kid"].as_str().unwrap().len(), 43, "a thumbprint");
    let told = ["iss", "sub", "aud"].map(|name| claims[name].as_str().unwrap());
    assert_eq!(told, ["https://weft.example", "https://idp.test#ann", "https://as.example/token"]);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 60);
    let other = signer.assert("https://idp.test#ann").await.unwrap();
    assert_ne!(token, other, "each has an id of its own");
}

#[tokio::test]
async fn a_key_that_cannot_sign_is_said_to_be_none_and_not_shown() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (content, why) in [
        ("s3cret", "no PKCS #8"),
        ("-----BEGIN PRIVATE KEY-----\nczNjcmV0\n-----END PRIVATE KEY-----\n", "P-256"),
    ] {
        std::fs::write(&file, content).unwrap();
        let assertion = json!({ "issuer": "x", "keyFile": file.path(), "audience": "y", "keyId": "z" });
        let failure =
            Signer::new(&serde_json::from_value(assertion).unwrap(), "u").assert("a").await.unwrap_err();
        assert!(failure.to_string().contains(why) && !failure.to_string().contains("s3cret"), "{failure}");
    }
}

#[test]
fn a_token_is_asked_for_as_the_standards_have_it() {
    let more = json!({ "audience": "urn:api", "resource": "https://mcp.example/mcp", "scope": "read write" });
    let settings = read(&more).unwrap();
    let body = form::body(&settings, &Grant::Exchange("a.b.c".to_owned()));
    assert_eq!(
        body,
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=a.b.c\
         &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt\
         &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
         &audience=urn%3Aapi&resource=https%3A%2F%2Fmcp.example%2Fmcp&scope=read+write"
    );
    let own = form::body(&read(&json!({})).unwrap(), &Grant::Client);
    assert_eq!(own, "grant_type=client_credentials");
}

#[test]
fn secrets_leave_this_machine_encrypted_and_settings_say_one_thing() {
    let secret = json!({ "env": "PATH" });
    let check = |url: &str, private: bool, expected: bool| {
        let more = json!({ "tokenUrl": url, "privateAddresses": private, "clientSecret": secret });
        assert_eq!(Exchange::new(&read(&more).unwrap()).is_ok(), expected, "{url}");
    };
    check("http://localhost:9/token", true, true);
    check("http://127.0.0.1:9/token", true, true);
    check("http://localhost:9/token", false, false);
    for elsewhere in ["http://10.0.0.1/token", "http://as.example/token"] {
        assert!(read(&json!({ "tokenUrl": elsewhere, "privateAddresses": true })).is_err(), "{elsewhere}");
    }
    assert!(read(&json!({ "subject": "x" })).is_err());
    let both = json!({ "origin": "https://a.example", "exchange": settings(&json!({})),
        "headers": { "Authorization": { "env": "A" } } });
    assert!(serde_json::from_value::<super::super::Settings>(both).is_err());
}

#[test]
fn a_token_is_used_a_little_shorter_than_it_is_good() {
    let check = |age: Option<u64>, secs: u64| {
        assert_eq!(kept_for(age.map(Duration::from_secs)), Duration::from_secs(secs), "{age:?}");
    };
    check(None, 54);
    check(Some(0), 0);
    check(Some(100), 90);
    check(Some(600), 570);
    check(Some(1_000_000), 3570);
}
