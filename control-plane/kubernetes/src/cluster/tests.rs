use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Json;
use axum::extract::State;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::*;

const AUDIENCE: &str = "weft.mesh.test";

fn token(claims: &Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// An API server that believes every token, and counts how often it is asked.
async fn believing(limits: Limits) -> (Accounts, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let review = async |State(asked): State<Arc<AtomicUsize>>| {
        asked.fetch_add(1, Ordering::SeqCst);
        Json(json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {},
            "spec": { "token": "" },
            "status": { "authenticated": true, "audiences": [AUDIENCE], "user": { "username": "somebody" } },
        }))
    };
    let pod = async || {
        Json(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "app", "uid": "u-1" },
            "status": { "phase": "Succeeded" },
        }))
    };
    let router = axum::Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
        .route("/api/v1/namespaces/research/pods/app", get(pod))
        .with_state(Arc::clone(&asked));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    (Accounts::new(Client::try_from(config).unwrap(), limits), asked)
}

#[test]
fn what_cannot_be_a_token_for_us_is_not_shown_to_the_api_server() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
    let check = |token: &str, expected: Result<(), &'static str>| {
        assert_eq!(could_be_ours(token, AUDIENCE, now), expected, "{token}");
    };
    check(&token(&json!({ "aud": [AUDIENCE, "other"], "exp": 10_000 })), Ok(()));
    check(&token(&json!({ "aud": AUDIENCE })), Ok(()));
    check(&token(&json!({ "aud": ["other"] })), Err("it is for another audience"));
    check(&token(&json!({ "aud": [] })), Err("it is for another audience"));
    check(&token(&json!({})), Err("it is for another audience"));
    check(&token(&json!({ "aud": [AUDIENCE], "exp": 9_000 })), Err("it has expired"));
    check(&token(&json!({ "aud": [AUDIENCE], "exp": u64::MAX })), Ok(()));
    for text in ["", "a.b", "a.b.c", "a.e30.c.d", "..", "a.!.c", "a.bnVsbA.c"] {
        check(text, Err("it is no service account token"));
    }
}

#[tokio::test]
async fn a_token_is_shown_once_and_what_was_said_of_it_is_remembered_for_its_audience_alone() {
    let (accounts, asked) = believing(Limits::default()).await;
    let both = token(&json!({ "aud": [AUDIENCE, "weft.other"] }));
    for _ in 0..3 {
        assert!(accounts.review(&both, AUDIENCE).await.unwrap().authenticated);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    accounts.review(&both, "weft.other").await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let elsewhere = token(&json!({ "aud": ["elsewhere"] }));
    assert!(!accounts.review(&elsewhere, AUDIENCE).await.unwrap().authenticated);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn beyond_what_is_remembered_at_most_the_api_server_is_asked_again() {
    let (accounts, asked) = believing(Limits { remembered_max: 1, ..Limits::default() }).await;
    let [one, other] = [1, 2].map(|number| token(&json!({ "aud": AUDIENCE, "jti": number })));
    for token in [&one, &other, &one, &other] {
        accounts.review(token, AUDIENCE).await.unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3, "the first stays, the second is asked about each time");
}

#[tokio::test]
async fn a_storm_is_turned_away_rather_than_passed_on() {
    let limits = Limits { per_second_max: 2, turn_timeout: Duration::ZERO, ..Limits::default() };
    let (accounts, asked) = believing(limits).await;
    let mut turned_away = 0;
    for number in 0..20 {
        let token = token(&json!({ "aud": AUDIENCE, "jti": number }));
        turned_away += usize::from(accounts.review(&token, AUDIENCE).await.is_err());
    }
    assert_eq!(asked.load(Ordering::SeqCst) + turned_away, 20);
    assert!(turned_away >= 10, "{turned_away}");
}

#[tokio::test]
async fn a_pod_that_ended_or_is_not_there_has_no_uid() {
    let (accounts, _) = believing(Limits::default()).await;
    assert_eq!(accounts.pod_uid("research", "app").await, Ok(None));
}

#[test]
fn who_is_turned_away_takes_nobodys_place() {
    let start = Instant::now();
    let mut pace = Pace { left: 1.0, at: start };
    assert_eq!(pace.take(1.0, start), Duration::ZERO);
    assert_eq!(pace.take(1.0, start), Duration::from_secs(1));
    assert_eq!(pace.take(1.0, start), Duration::from_secs(2));
    pace.give_back();
    assert_eq!(pace.take(1.0, start), Duration::from_secs(2));
    assert_eq!(pace.take(1.0, start + Duration::from_secs(60)), Duration::ZERO);
}
