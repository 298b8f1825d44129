use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::settings::KeyFetching;
use super::super::testing::{Signer, set};
use super::*;
use crate::upstream::testing::until;

/// An issuer whose answers a test gives: none is an issuer that is away.
struct Idp {
    url: WebUrl,
    answer: Arc<Lock<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Idp {
    async fn start(answer: Option<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = WebUrl::parse(&format!("http://{}/keys", listener.local_addr().unwrap())).unwrap();
        let answer = Arc::new(Lock::new(answer.map(|it| written(200, &it.to_string()))));
        let asked = Arc::new(AtomicUsize::new(0));
        let (answers, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
                let answer = answers.lock().unwrap().clone();
                let _ = stream.write_all(answer.unwrap_or_default().as_bytes()).await;
            }
        });
        Self { url, answer, asked }
    }

    fn answers(&self, answer: Option<String>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn written(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn keys(patience: Patience) -> Keys {
    let settings = KeyFetching { loopback: true, ..KeyFetching::default() };
    let fetcher = Fetcher { settings, bytes_max: 64 << 10, timeout: Duration::from_secs(5) };
    Keys::new(fetcher, patience, Arc::new(Metrics::new()))
}

const EAGER: Patience = Patience {
    fetch_every: Duration::ZERO,
    age: Duration::from_secs(600),
    age_max: Duration::from_secs(6000),
};
const SLOW: Patience = Patience { fetch_every: Duration::from_secs(600), ..EAGER };

fn issuer(keys: &Keys, url: &WebUrl) -> Issuer {
    keys.of([Jwks::Url(url.clone())].iter()).remove(0)
}

async fn verify(issuer: &Issuer, text: &str) -> Result<Result<(), token::Error>, Away> {
    let token = Token::parse(text).unwrap();
    issuer.verify(&token).await.map(|verified| verified.map(drop))
}

#[test]
fn keys_that_are_no_use_are_left_out_and_none_at_all_are_no_set() {
    let signer = Signer::new("a");
    let with = |field: &str, value: Value| {
        let mut jwk = signer.jwk();
        jwk[field] = value;
        KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).is_some()
    };
    assert!(with("use", "sig".into()) && with("alg", "ES256".into()) && with("key_ops", json!(["verify"])));
    assert!(!with("use", "enc".into()) && !with("key_ops", json!(["sign"])));
    assert!(!with("alg", "ES384".into()) && !with("alg", "RS256".into()) && !with("crv", "P-384x".into()));
    let secret = json!({ "kty": "oct", "k": "AAAA", "kid": "a" });
    assert!(KeySet::parse(json!({ "keys": [secret] }).to_string().as_bytes()).is_none());
    for bad in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":{}}"#, r#"{"keys":[7]}"#] {
        assert!(KeySet::parse(bad.as_bytes()).is_none(), "{bad}");
    }
    let mixed = json!({ "keys": [{ "kty": "new" }, secret, signer.jwk()] });
    assert_eq!(KeySet::parse(mixed.to_string().as_bytes()).unwrap().0.len(), 1);
}

#[test]
fn only_the_key_that_is_named_verifies_and_only_what_it_signed() {
    let (one, other) = (Signer::new("a"), Signer::new("b"));
    let keys = KeySet::parse(set(&[&one, &other]).to_string().as_bytes()).unwrap();
    let check =
        |text: &str, expected| assert_eq!(keys.verify(&Token::parse(text).unwrap()), expected, "{text}");
    let token = one.token(&json!({ "sub": "x" }));
    check(&token, Ok(()));
    check(&other.token(&json!({})), Ok(()));
    let (head, signature) = token.rsplit_once('.').unwrap();
    check(&format!("{head}."), Err(token::Error::Signature));
    check(&format!("{head}.{}", "A".repeat(signature.len())), Err(token::Error::Signature));
    let other_words = one.token(&json!({ "sub": "y" }));
    let (other_head, _) = other_words.rsplit_once('.').unwrap();
    check(&format!("{other_head}.{signature}"), Err(token::Error::Signature));
    // Named as the other's.
    check(&one.token_with(&json!({ "alg": "ES256", "kid": "b" }), &json!({})), Err(token::Error::Signature));
    check(&one.token_with(&json!({ "alg": "ES256", "kid": "c" }), &json!({})), Err(token::Error::Key));
    check(&one.token_with(&json!({ "alg": "RS256", "kid": "a" }), &json!({})), Err(token::Error::Key));
    // Without a name, all are tried.
    check(&other.token_with(&json!({ "alg": "ES256" }), &json!({})), Ok(()));
}

#[tokio::test]
async fn a_key_that_is_not_known_is_fetched_and_one_that_was_taken_back_is_good_no_longer() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let idp = Idp::start(Some(set(&[&old]))).await;
    let issuer = issuer(&keys(EAGER), &idp.url);
    assert_eq!(verify(&issuer, &old.token(&json!({}))).await, Ok(Ok(())));
    assert_eq!((verify(&issuer, &old.token(&json!({}))).await, idp.asked()), (Ok(Ok(())), 1));
    idp.answers(Some(written(200, &set(&[&new]).to_string())));
    assert_eq!((verify(&issuer, &new.token(&json!({}))).await, idp.asked()), (Ok(Ok(())), 2));
    assert_eq!(verify(&issuer, &old.token(&json!({}))).await, Ok(Err(token::Error::Key)));
}

#[tokio::test]
async fn whoever_makes_up_names_of_keys_makes_nobody_fetch_more_often_than_allowed() {
    let signer = Signer::new("a");
    let idp = Idp::start(Some(set(&[&signer]))).await;
    let issuer = issuer(&keys(SLOW), &idp.url);
    let good = signer.token(&json!({}));
    let all = (0..50).map(|n| {
        let token = Signer::new(&format!("made-up-{n}")).token(&json!({}));
        let (issuer, good) = (issuer.clone(), good.clone());
        async move { (verify(&issuer, &token).await, verify(&issuer, &good).await) }
    });
    for (made_up, good) in futures_util::future::join_all(all).await {
        assert_eq!((made_up, good), (Ok(Err(token::Error::Key)), Ok(Ok(()))));
    }
    assert_eq!(idp.asked(), 1);
}

#[tokio::test]
async fn keys_stay_good_while_their_issuer_is_away_but_not_for_ever() {
    let signer = Signer::new("a");
    let token = signer.token(&json!({}));
    let idp = Idp::start(None).await;
    let patience = Patience { age: Duration::ZERO, age_max: Duration::from_millis(400), ..EAGER };
    let issuer = issuer(&keys(patience), &idp.url);
    assert!(verify(&issuer, &token).await.is_err(), "there were never any");
    idp.answers(Some(written(200, &set(&[&signer]).to_string())));
    assert_eq!(verify(&issuer, &token).await, Ok(Ok(())));
    idp.answers(None);
    assert_eq!(verify(&issuer, &token).await, Ok(Ok(())));
    until(|| issuer.known().is_none()).await;
    assert!(verify(&issuer, &token).await.is_err());
}

#[tokio::test]
async fn nobody_is_followed_elsewhere_and_nothing_without_end_is_read() {
    let signer = Signer::new("a");
    let idp = Idp::start(None).await;
    let issuer = issuer(&keys(EAGER), &idp.url);
    let token = signer.token(&json!({}));
    for (answer, said) in [
        (written(302, ""), "status 302"),
        (written(200, &" ".repeat(65 << 10)), "longer than 65536 bytes"),
        (written(200, "{}"), "no set of keys"),
        (written(404, &set(&[&signer]).to_string()), "status 404"),
    ] {
        idp.answers(Some(answer));
        let away = verify(&issuer, &token).await.unwrap_err();
        assert!(away.0.contains(said), "{away:?} should say {said}");
    }
}

#[tokio::test]
async fn what_was_fetched_outlives_another_configuration() {
    let signer = Signer::new("a");
    let idp = Idp::start(Some(set(&[&signer]))).await;
    let keys = keys(SLOW);
    let first = issuer(&keys, &idp.url);
    assert_eq!(verify(&first, &signer.token(&json!({}))).await, Ok(Ok(())));
    let second = issuer(&keys, &idp.url);
    assert_eq!(verify(&second, &signer.token(&json!({}))).await, Ok(Ok(())));
    assert_eq!(idp.asked(), 1);
    assert!(keys.of([].iter()).is_empty() && keys.fetched.lock().unwrap().is_empty());
}
