//! Server cards: what is told of a server before anybody connects, where, and to whom.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use super::agent::Agent;
use super::gateway::{Story, by};
use super::pair::{Answer, PATH, Pair};
use super::upstream::{self, Seen, Upstream};
use crate::mesh::eventually;

const MEDIA_TYPE: &str = "application/mcp-server-card+json";

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "files.research").body(Full::default()).unwrap()
}

/// A server that has a card of its own, as large as a story wants.
async fn carded(bytes: usize) -> Upstream {
    Upstream::with(move |seen: Seen| async move {
        if seen.path != "/mcp/server-card" {
            return upstream::echo(&seen);
        }
        let mut response =
            upstream::document(&json!({ "name": "own/card", "description": "x".repeat(bytes) }));
        response.headers_mut().insert("content-type", http::HeaderValue::from_static(MEDIA_TYPE));
        response.headers_mut().insert("set-cookie", http::HeaderValue::from_static("a=b"));
        response
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_own_card_is_passed_on_to_those_who_may_ask_what_it_is() {
    let pair = Pair::start(carded(10).await).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let mut request = get(&format!("{PATH}/server-card"));
    request.headers_mut().insert("cookie", "secret=1".parse().unwrap());
    let card = Answer::read(caller.send(request).await).await;
    assert_eq!((card.status, &card.json()["name"]), (200, &json!("own/card")), "{card:?}");
    assert_eq!(card.headers["content-type"], MEDIA_TYPE);
    assert!(!card.headers.contains_key("set-cookie"), "nothing comes along but the card");
    let seen = pair.upstream.seen().into_iter().find(|seen| seen.path == "/mcp/server-card").unwrap();
    assert_eq!((seen.method.as_str(), &seen.headers["accept"]), ("GET", &MEDIA_TYPE.parse().unwrap()));
    assert_eq!(seen.headers["weft-caller"], "spiffe://flow.test/ns/agents/sa/reviewer");
    assert!(!seen.headers.contains_key("cookie"), "{seen:?}");
    let mut posted = get(&format!("{PATH}/server-card"));
    *posted.method_mut() = http::Method::POST;
    let posted = Answer::read(caller.send(posted).await).await;
    assert_eq!((posted.status, &posted.headers["allow"]), (405, &"GET".parse().unwrap()));
    pair.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: research, name: readers }\n\
         spec: { servers: { names: [files] }, rules: [{ action: allow, from: [{ serviceAccounts: [agents/other] }] }] }\n",
    )
    .await;
    let denied = Answer::read(caller.send(get(&format!("{PATH}/server-card"))).await).await;
    assert_eq!((denied.status, denied.reason()), (403, "denied"));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_card_or_too_large_a_one_is_not_passed_on() {
    for (upstream, expected) in
        [(Upstream::echo().await, (404, "no_such_path")), (carded(80 << 10).await, (502, "upstream_broke"))]
    {
        let pair = Pair::start(upstream).await;
        let mut caller = pair.caller("agents", "reviewer").await;
        let answer = Answer::read(caller.send(get(&format!("{PATH}/server-card"))).await).await;
        assert_eq!((answer.status, answer.reason()), expected, "{answer:?}");
        pair.stop().await;
    }
}

/// Waits until a sidecar knows what the server offers.
async fn knows_offer(sidecar: &weft_sidecar::app::Running) {
    let files = "research/files".parse().unwrap();
    eventually("it is known what the server offers", || {
        sidecar.live.load().snapshot.server(&files).is_some_and(|it| it.offer.is_some())
    })
    .await;
}

fn versions(card: &Value) -> Vec<&str> {
    let versions = card["remotes"][0]["supportedProtocolVersions"].as_array().unwrap();
    versions.iter().map(|it| it.as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reads_the_cards_of_what_it_may_call_beside_itself() {
    let pair = Pair::serving(Upstream::echo().await, "eras: [modern]", json!({})).await;
    let agent = Agent::join(&pair, "reviewer").await;
    knows_offer(&agent.sidecar).await;
    let port = agent.sidecar.outbound.unwrap().port();
    let answer = agent.answer(get(&format!("{PATH}/server-card"))).await;
    assert_eq!((answer.status, &answer.headers["content-type"]), (200, &MEDIA_TYPE.parse().unwrap()));
    assert_eq!(answer.headers["cache-control"], "public, max-age=3600");
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    let card = answer.json();
    assert_eq!(card["$schema"], "https://static.modelcontextprotocol.io/schemas/v2/server-card.schema.json");
    assert_eq!(card["name"], "research/files");
    assert_eq!(card["remotes"][0]["url"], format!("http://localhost:{port}{PATH}"));
    assert_eq!(versions(&card), ["2026-07-28"], "it is offered in one era only");
    assert!(card.get("tools").is_none() && card.get("capabilities").is_none(), "{card}");
    let whole = agent.answer(get("/mcp/server-card")).await.json();
    assert_eq!(whole["name"], "agents/everything");
    assert_eq!(whole["remotes"][0]["url"], format!("http://localhost:{port}/mcp"));
    assert_eq!(versions(&whole).len(), 5);
    let unknown = agent.answer(get("/servers/research/other/mcp/server-card")).await;
    assert_eq!((unknown.status, unknown.reason()), (404, "unknown_server"));
    let mut foreign = get("/mcp/server-card");
    foreign.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    let foreign = agent.answer(foreign).await;
    assert_eq!((foreign.status, foreign.reason()), (403, "foreign_origin"));
    let asked = pair.upstream.seen();
    assert!(asked.iter().all(|seen| !seen.path.contains("server-card")), "the server is not asked");
    agent.sidecar.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_shows_cards_to_those_whom_it_knows_with_its_public_address() {
    let story = Story::with(Upstream::echo().await, json!({}), json!({})).await;
    knows_offer(&story.gateway).await;
    for path in ["/mcp", PATH] {
        let at = format!("{path}/server-card");
        let nobody = story.answer(get(&at)).await;
        assert_eq!((nobody.status, nobody.reason()), (401, "unauthenticated"), "{at}");
        let challenge = nobody.headers["www-authenticate"].to_str().unwrap();
        let resource = format!("/.well-known/oauth-protected-resource{path}\"");
        assert!(challenge.contains(&resource), "the challenge is that of the endpoint: {challenge}");
        let known = story.answer(by(get(&at), &story.ann())).await;
        assert_eq!(
            (known.status, &known.headers["cache-control"]),
            (200, &"private, max-age=3600".parse().unwrap())
        );
        assert!(
            !known.headers.contains_key("access-control-allow-origin"),
            "that is for pages of its own to hear"
        );
        assert_eq!(known.json()["remotes"][0]["url"], format!("https://mcp.test{path}"));
    }
    let page = |origin: &str| {
        let mut request = by(get("/mcp/server-card"), &story.ann());
        request.headers_mut().insert("origin", origin.parse().unwrap());
        story.answer(request)
    };
    assert_eq!(page("https://mcp.test").await.headers["access-control-allow-origin"], "https://mcp.test");
    assert_eq!(page("https://evil.example").await.reason(), "foreign_origin");
    story.stop().await;
}
