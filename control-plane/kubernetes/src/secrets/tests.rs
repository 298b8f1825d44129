use std::sync::Mutex;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kube::Client;
use serde_json::{Value, json};
use weft_control_plane::clock;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

type Kept = Arc<Mutex<BTreeMap<String, Value>>>;

fn refused(code: u16, reason: &str) -> Response {
    let said =
        json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason });
    (StatusCode::from_u16(code).unwrap(), Json(said)).into_response()
}

async fn find(State(kept): State<Kept>, Path(name): Path<String>) -> Response {
    // Everyone looks before anyone makes.
    tokio::task::yield_now().await;
    let found = kept.lock().unwrap().get(&name).cloned();
    found.map_or_else(|| refused(404, "NotFound"), |secret| Json(secret).into_response())
}

async fn make(State(kept): State<Kept>, Json(mut secret): Json<Value>) -> Response {
    let name = secret["metadata"]["name"].as_str().unwrap().to_owned();
    secret["metadata"]["resourceVersion"] = json!("1");
    let mut kept = kept.lock().unwrap();
    if kept.contains_key(&name) {
        return refused(409, "AlreadyExists");
    }
    kept.insert(name, secret.clone());
    Json(secret).into_response()
}

async fn replace(
    State(kept): State<Kept>,
    Path(name): Path<String>,
    Json(mut secret): Json<Value>,
) -> Response {
    let mut kept = kept.lock().unwrap();
    if kept[&name]["metadata"]["resourceVersion"] != secret["metadata"]["resourceVersion"] {
        return refused(409, "Conflict");
    }
    secret["metadata"]["resourceVersion"] = json!("2");
    kept.insert(name, secret.clone());
    Json(secret).into_response()
}

/// An API server that has secrets and nothing else.
async fn server() -> (Kept, Client) {
    let kept = Kept::default();
    let secrets = "/api/v1/namespaces/weft-system/secrets";
    let router = axum::Router::new()
        .route(secrets, axum::routing::post(make))
        .route(&format!("{secrets}/{{name}}"), get(find).put(replace))
        .with_state(Arc::clone(&kept));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    (kept, Client::try_from(config).unwrap())
}

fn secrets(client: &Client, trust_domain: &str, given: bool) -> Secrets {
    let trust_domain = TrustDomain::parse(trust_domain).unwrap();
    Secrets::new(Api::namespaced(client.clone(), "weft-system"), trust_domain, given)
}

#[tokio::test]
async fn however_many_begin_at_once_they_share_one_authority() {
    let (kept, client) = server().await;
    let all = (0..8).map(|_| {
        let secrets = secrets(&client, "mesh.test", false);
        async move { secrets.settle(clock::now()).await.unwrap() }
    });
    let all = futures_util::future::join_all(all).await;
    for one in &all {
        assert!(one.issuer == all[0].issuer);
        assert_eq!(one.admin.to_string(), all[0].admin.to_string());
        let domain = TrustDomain::parse("mesh.test").unwrap();
        external::load(&one.issuer, &domain, ca::Limits::default(), clock::now()).unwrap();
    }
    let names: Vec<_> = kept.lock().unwrap().keys().cloned().collect();
    assert_eq!(names, [ADMIN, ISSUER, ROOT, SESSIONS]);
}

#[tokio::test]
async fn what_was_made_for_another_mesh_is_not_taken() {
    let (_, client) = server().await;
    secrets(&client, "mesh.test", false).settle(clock::now()).await.unwrap();
    let error = secrets(&client, "other.test", false).settle(clock::now()).await.unwrap_err();
    assert!(matches!(error, Error::OtherMesh { .. }), "{error}");
}

#[tokio::test]
async fn our_own_issuer_is_renewed_at_half_of_its_life_under_the_same_root() {
    let (_, client) = server().await;
    let (secrets, now) = (secrets(&client, "mesh.test", false), clock::now());
    let before = secrets.settle(now).await.unwrap().issuer;
    assert!(!secrets.renew(now + DAY * 100).await.unwrap());
    assert!(secrets.renew(now + DAY * 200).await.unwrap());
    let after = secrets.settle(now).await.unwrap().issuer;
    assert!(before.certificate != after.certificate && before.roots == after.roots);
}

#[tokio::test]
async fn an_issuer_that_somebody_else_keeps_is_never_written_to() {
    let (kept, client) = server().await;
    let now = clock::now();
    secrets(&client, "mesh.test", false).settle(now).await.unwrap();
    // As cert-manager would have made it.
    kept.lock().unwrap().get_mut(ISSUER).unwrap()["metadata"]["labels"] = json!({});
    assert!(!secrets(&client, "mesh.test", false).renew(now + DAY * 300).await.unwrap());
    assert!(!secrets(&client, "mesh.test", true).renew(now + DAY * 300).await.unwrap());
    assert_eq!(kept.lock().unwrap()[ISSUER]["metadata"]["resourceVersion"], "1");
}

#[tokio::test]
async fn a_root_that_was_exchanged_behind_our_back_signs_nothing() {
    let (kept, client) = server().await;
    let (secrets, now) = (secrets(&client, "mesh.test", false), clock::now());
    secrets.settle(now).await.unwrap();
    kept.lock().unwrap().remove(ROOT);
    let missing = secrets.renew(now + DAY * 200).await.unwrap_err();
    assert!(matches!(missing, Error::Missing { .. }), "{missing}");
    secrets.root(now).await.unwrap();
    let refused = secrets.renew(now + DAY * 200).await.unwrap_err();
    assert!(matches!(refused, Error::Renewed(_)), "{refused}");
}
