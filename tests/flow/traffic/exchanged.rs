//! A server outside of the mesh that knows in whose name it is called, by tokens that an authorization server gives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use weft_sidecar::app::Running;

use super::agent::Agent;
use super::external::{Outside, declared, knows_instances, leaving};
use super::pair::modern;
use super::upstream::{self, Seen, Upstream};
use crate::mesh::Mesh;

/// What was asked of an authorization server, and what it gave.
#[derive(Debug, Default)]
struct Given {
    /// Each request: grant, subject, client.
    asked: Vec<(String, Option<String>, String)>,
    /// Callers to whom it gives none.
    refused: Vec<String>,
    /// Tokens that the server outside takes no more.
    over: Vec<String>,
    /// Those that came to the server outside, but for discovery, by tool.
    came: Vec<(String, String)>,
    lasts_secs: u64,
}

type Shared = Arc<Mutex<Given>>;

fn form(body: &[u8]) -> BTreeMap<String, String> {
    let text = std::str::from_utf8(body).unwrap();
    let decoded = |text: &str| {
        let bytes = text.replace('+', " ");
        let mut parts = bytes.split('%');
        let mut all = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            all.push(u8::from_str_radix(&part[..2], 16).unwrap());
            all.extend_from_slice(&part.as_bytes()[2..]);
        }
        String::from_utf8(all).unwrap()
    };
    text.split('&').map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (decoded(k), decoded(v))).collect()
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// Gives tokens that say for whom they are, numbered.
fn give(seen: &Seen, given: &Shared) -> http::Response<upstream::Body> {
    let form = form(&seen.body);
    let basic = seen.headers["authorization"].to_str().unwrap().strip_prefix("Basic ").unwrap();
    let client = String::from_utf8(STANDARD.decode(basic).unwrap()).unwrap();
    let subject = form.get("subject_token").map(|token| {
        assert_eq!(form["subject_token_type"], "urn:ietf:params:oauth:token-type:jwt");
        let claims = claims(token);
        assert_eq!(claims["iss"], "https://weft.example");
        claims["sub"].as_str().unwrap().to_owned()
    });
    assert_eq!(form["audience"], "outside");
    let mut given = given.lock().unwrap();
    given.asked.push((form["grant_type"].clone(), subject.clone(), client));
    let subject = subject.unwrap_or_else(|| "itself".to_owned());
    if given.refused.iter().any(|it| subject.ends_with(it)) {
        let mut response =
            upstream::document(&json!({ "error": "invalid_target", "error_description": "s3cret" }));
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
        return response;
    }
    let token = format!("{}-{}", subject.rsplit('/').next().unwrap(), given.asked.len());
    upstream::document(
        &json!({ "access_token": token, "token_type": "Bearer", "expires_in": given.lasts_secs,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" }),
    )
}

fn serve(seen: &Seen, given: &Shared) -> http::Response<upstream::Body> {
    let token = seen.headers.get("authorization").map_or("nothing", |it| it.to_str().unwrap());
    let mut given = given.lock().unwrap();
    if given.over.iter().any(|it| token == format!("Bearer {it}")) || token == "nothing" {
        return upstream::status(401);
    }
    if seen.method_name() == "tools/call" {
        given.came.push((seen.json()["params"]["name"].as_str().unwrap().to_owned(), token.to_owned()));
    }
    upstream::echo(seen)
}

struct Story {
    given: Shared,
    mesh: Mesh,
    sidecar: Running,
    _parts: (Outside, Upstream, tempfile::NamedTempFile, tempfile::NamedTempFile),
}

impl Story {
    async fn start(lasts_secs: u64) -> Self {
        let given: Shared = Arc::new(Mutex::new(Given { lasts_secs, ..Given::default() }));
        let (to_server, to_issuer) = (Arc::clone(&given), Arc::clone(&given));
        let outside = Outside::with(move |seen| std::future::ready(serve(&seen, &to_server))).await;
        let issuer = Upstream::with(move |seen| std::future::ready(give(&seen, &to_issuer))).await;
        let mesh = Mesh::start().await;
        declared(&mesh, &outside.url()).await;
        let (secret, key) =
            (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(&secret, "of the client\n").unwrap();
        std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let external = json!({
            "origin": outside.url(), "caFile": outside.roots.path(), "privateAddresses": true,
            "exchange": {
                "tokenUrl": format!("http://localhost:{}/token", issuer.address.port()),
                "clientId": "weft", "clientSecret": { "file": secret.path() },
                "assertion": { "issuer": "https://weft.example", "keyFile": key.path() },
                "audience": "outside", "privateAddresses": true,
            },
        });
        let sidecar = leaving(&mesh, external).await;
        Self { given, mesh, sidecar, _parts: (outside, issuer, secret, key) }
    }

    async fn agent(&self, account: &str) -> Agent {
        let agent = Agent::join_mesh(&self.mesh, account).await;
        knows_instances(&agent, 1).await;
        agent
    }

    fn came(&self) -> Vec<(String, String)> {
        self.given.lock().unwrap().came.clone()
    }

    /// How often a token was asked for somebody.
    fn asked(&self, account: &str) -> usize {
        let given = self.given.lock().unwrap();
        given
            .asked
            .iter()
            .filter(|(_, subject, _)| subject.as_ref().is_some_and(|it| it.ends_with(account)))
            .count()
    }
}

async fn call(agent: &Agent, tool: &str) -> (u16, String) {
    let call = modern("tools/call", tool, json!({ "name": tool, "arguments": {} }));
    let answer = agent.answer(call).await;
    (answer.status, answer.reason().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_comes_with_a_token_of_its_own_that_is_asked_for_once() {
    let story = Story::start(600).await;
    let (ann, ben) = (story.agent("ann").await, story.agent("ben").await);
    let all = tokio::join!(call(&ann, "a"), call(&ann, "b"), call(&ben, "c"), call(&ann, "d"));
    assert_eq!([all.0.0, all.1.0, all.2.0, all.3.0], [200; 4]);
    let came: BTreeMap<_, _> = story.came().into_iter().collect();
    assert!(["a", "b", "d"].iter().all(|tool| came[*tool].starts_with("Bearer ann-")), "{came:?}");
    assert!(came["c"].starts_with("Bearer ben-"), "{came:?}");
    assert_eq!((story.asked("/ann"), story.asked("/ben")), (1, 1));
    let asked = story.given.lock().unwrap().asked.clone();
    let of_ann = asked.iter().find(|(_, subject, _)| subject.is_some()).unwrap().clone();
    assert_eq!(of_ann.0, "urn:ietf:params:oauth:grant-type:token-exchange");
    assert!(of_ann.1.unwrap().starts_with("spiffe://"), "the caller, as it was proved");
    assert_eq!(of_ann.2, "weft:of+the+client");
    // What nobody asked comes with a token of the sidecar's.
    assert!(asked.iter().any(|(grant, subject, _)| grant == "client_credentials" && subject.is_none()));
    story.sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gets_no_token_is_told_so_and_others_go_on() {
    let story = Story::start(600).await;
    story.given.lock().unwrap().refused.push("/ann".to_owned());
    let (ann, ben) = (story.agent("ann").await, story.agent("ben").await);
    assert_eq!(call(&ann, "a").await, (502, "not_exchanged".to_owned()));
    assert_eq!(call(&ben, "b").await.0, 200);
    assert_eq!(story.came().len(), 1, "nothing is sent without a token");
    // It is asked for again before long.
    story.given.lock().unwrap().refused.clear();
    let again = async { while call(&ann, "a").await.0 != 200 {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), again)
        .await
        .expect("a token is asked for again");
    story.sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_no_more_or_is_over_is_exchanged_for_another() {
    let story = Story::start(600).await;
    let ann = story.agent("ann").await;
    assert_eq!(call(&ann, "a").await.0, 200);
    let first = story.came()[0].1["Bearer ".len()..].to_owned();
    story.given.lock().unwrap().over.push(first.clone());
    assert_eq!(call(&ann, "b").await.0, 502, "it is not known whether the call can be made again");
    assert_eq!(call(&ann, "c").await.0, 200);
    assert_ne!(story.came().last().unwrap().1, format!("Bearer {first}"));
    story.sidecar.stop().await;
    let short = Story::start(0).await;
    let ann = short.agent("ann").await;
    assert_eq!([call(&ann, "a").await.0, call(&ann, "b").await.0], [200; 2]);
    assert_eq!(short.asked("/ann"), 2);
    short.sidecar.stop().await;
}
