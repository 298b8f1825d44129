//! Callers from outside the mesh: through a gateway, and the sidecar beside the server, which decides.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use weft_sidecar::app::Running;

use super::issuer::{self, Signer};
use super::pair::{self, Answer, Pair, legacy, modern};
use super::upstream::{self, Upstream};
use crate::mesh::eventually;

const BASE: &str = "https://mcp.test";
pub(super) const TRUST: &str = "apiVersion: weft.dev/v1alpha1\nkind: Trust\nmetadata: { namespace: weft-system, name: mesh }\n\
                     spec: { trustDomain: flow.test, gateways: ['spiffe://flow.test/ns/edge/sa/gateway'] }\n";

/// A pair with a gateway before it.
pub(super) struct Story {
    pub(super) pair: Pair,
    pub(super) gateway: Running,
    signer: Signer,
}

impl Story {
    async fn start() -> Self {
        Self::with(Upstream::echo().await, json!({}), json!({})).await
    }

    pub(super) async fn with(upstream: Upstream, more: Value, limits: Value) -> Self {
        let pair = Pair::start(upstream).await;
        let signer = Signer::new("key-1");
        let told = Self::told(&format!("jwks: '{}'", signer.set()), "");
        pair.mesh.apply(TRUST).await;
        pair.mesh.apply(&told).await;
        let gateway = gateway(&pair, more, limits).await;
        let story = Self { pair, gateway, signer };
        story.knows().await;
        let is_named = || {
            let current = story.pair.inbound.live.load();
            current.snapshot.mesh.as_ref().is_some_and(|mesh| !mesh.gateways.is_empty())
        };
        eventually("the server's sidecar knows the gateway", is_named).await;
        story
    }

    /// How callers are known, by keys from somewhere.
    pub(super) fn told(keys: &str, more: &str) -> String {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Authentication\nmetadata: {{ namespace: edge, name: public }}\n\
             spec:\n  jwt: [{{ issuer: '{}', {keys}, audiences: [api], tenantClaim: org }}]\n  oauth: {{ resource: \
             '{BASE}', authorizationServers: ['{}'], scopes: [read] }}\n  {more}\n",
            issuer::NAME,
            issuer::NAME
        )
    }

    /// The gateway has what it is to know.
    async fn knows(&self) {
        let live = &self.gateway.live;
        let files = "research/files".parse().unwrap();
        let knows = || {
            let current = live.load();
            !current.snapshot.authentication.is_empty()
                && current.snapshot.server(&files).is_some_and(|it| !it.endpoints.is_empty())
        };
        eventually("the gateway has been told", knows).await;
    }

    /// Lets the gateway trust others than before. It is told of other things as well: of what servers offer, and where.
    async fn trusts(&self, keys: &str, more: &str) {
        let trusted = || self.gateway.live.load().snapshot.authentication.first().map(|it| it.spec.clone());
        let before = trusted();
        self.pair.mesh.apply(&Self::told(keys, more)).await;
        eventually("the gateway trusts others", || trusted() != before).await;
    }

    pub(super) async fn apply(&self, yaml: &str) {
        self.pair.apply(yaml).await;
    }

    pub(super) fn token(&self, claims: Value) -> String {
        format!("Bearer {}", self.signer.token(&claims))
    }

    pub(super) fn ann(&self) -> String {
        self.token(json!({ "sub": "ann", "groups": ["dev"] }))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = TcpStream::connect(self.gateway.gateway.unwrap()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(at_gateway(request)).await.unwrap()
    }

    pub(super) async fn answer(&self, request: Request<Full<Bytes>>) -> Answer {
        Answer::read(self.send(request).await).await
    }

    async fn call(&self, authorization: &str) -> Answer {
        self.answer(by(call("echo"), authorization)).await
    }

    pub(super) async fn stop(self) {
        self.gateway.stop().await;
        self.pair.stop().await;
    }
}

async fn gateway(pair: &Pair, more: Value, limits: Value) -> Running {
    let mut gateway = json!({ "address": "127.0.0.1:0", "publicUrl": BASE });
    for (name, value) in more.as_object().unwrap() {
        gateway[name] = value.clone();
    }
    let listen = json!({ "inbound": null, "outbound": null, "gateway": gateway });
    pair::sidecar(&pair.mesh, "edge", "gateway", listen, limits).await
}

pub(super) fn at_gateway(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    request.headers_mut().insert("host", "mcp.test".parse().unwrap());
    request
}

pub(super) fn call(tool: &str) -> Request<Full<Bytes>> {
    modern("tools/call", tool, json!({ "name": tool, "arguments": { "x": 1 } }))
}

pub(super) fn by(mut request: Request<Full<Bytes>>, authorization: &str) -> Request<Full<Bytes>> {
    request.headers_mut().insert("authorization", authorization.parse().unwrap());
    request
}

pub(super) fn at(mut request: Request<Full<Bytes>>, path: &str) -> Request<Full<Bytes>> {
    *request.uri_mut() = path.parse().unwrap();
    request
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).unwrap()
}

pub(super) fn initialize() -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } })
}

/// A policy for `research/files`.
fn allows(from: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: research, name: readers }}\n\
         spec: {{ servers: {{ names: [files] }}, rules: [{{ action: allow, from: [{from}] }}] }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_known_is_told_where_to_get_a_token_and_reaches_nobody() {
    let story = Story::start().await;
    let metadata = format!("resource_metadata=\"{BASE}/.well-known/oauth-protected-resource{}\"", pair::PATH);
    let nobody = story.answer(call("echo")).await;
    assert_eq!((nobody.status, nobody.code(), nobody.reason()), (401, 4010, "unauthenticated"));
    assert_eq!(nobody.headers["www-authenticate"], format!("Bearer {metadata}").as_str());
    let forged = Signer::new("key-1").token(&json!({ "sub": "ann" }));
    for token in [
        format!("Bearer {forged}"),
        story.token(json!({ "sub": "ann", "aud": "other" })),
        story.token(json!({ "sub": "ann", "iss": "https://evil.test" })),
        story.token(json!({ "sub": "ann", "exp": issuer::now() - 60 })),
    ] {
        let refused = story.call(&token).await;
        assert_eq!((refused.status, refused.reason()), (401, "unauthenticated"), "{token}");
        let challenge = refused.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer error=\"invalid_token\"") && challenge.contains(&metadata));
    }
    let document = story.answer(get(&format!("/.well-known/oauth-protected-resource{}", pair::PATH))).await;
    let expected = json!({
        "resource": format!("{BASE}{}", pair::PATH), "authorization_servers": [issuer::NAME],
        "bearer_methods_supported": ["header"], "scopes_supported": ["read"],
    });
    assert_eq!((document.status, document.json()), (200, expected));
    assert_eq!(story.answer(get("/.well-known/oauth-protected-resource/other")).await.status, 404);
    let token = story.signer.token(&json!({ "sub": "ann" }));
    let in_address = at(by(call("echo"), &story.ann()), &format!("{}?access_token={token}", pair::PATH));
    assert_eq!(story.answer(in_address).await.status, 400);
    assert!(story.pair.upstream.seen().is_empty());
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_decide_beside_the_server_and_the_token_ends_at_the_gateway() {
    let story = Story::start().await;
    story.apply(&allows("{ claims: { groups: [dev] }, serviceAccounts: [edge/gateway] }")).await;
    let mut request = by(call("echo"), &story.ann());
    for (name, value) in [
        ("cookie", "session=secret"),
        ("weft-on-behalf-of", "eyJpc3MiOiJodHRwczovL2lkcC50ZXN0Iiwic3ViIjoicm9vdCJ9"),
        ("weft-caller", "spiffe://flow.test/ns/weft-system/sa/control-plane"),
        ("proxy-authorization", "Basic c2VjcmV0"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = story.answer(request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = story.pair.upstream.seen().pop().unwrap();
    assert_eq!(seen.headers["weft-caller"], format!("{}#ann", issuer::NAME).as_str());
    for name in ["authorization", "cookie", "x-api-key", "proxy-authorization", "weft-on-behalf-of", "origin"]
    {
        assert!(!seen.headers.contains_key(name), "{name} reached the server");
    }
    let shown = format!("{seen:?}");
    let token = story.ann();
    assert!(!shown.contains(token.split('.').nth(1).unwrap()) && !shown.contains("secret"), "{shown}");
    let bob = story.call(&story.token(json!({ "sub": "bob", "groups": ["ops"] }))).await;
    assert_eq!((bob.status, bob.reason()), (403, "denied"));
    let none = story.call(&story.token(json!({ "sub": "carol" }))).await;
    assert_eq!((none.status, none.reason()), (403, "denied"));
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_gateway_is_believed_when_it_calls_for_somebody_else() {
    let story = Story::start().await;
    // Where everybody may call, it is not for the one who calls for another that they may.
    let mut stranger = story.pair.caller("agents", "stranger").await;
    assert_eq!(Answer::read(stranger.send(call("echo")).await).await.status, 200);
    let mut forged = call("echo");
    forged.headers_mut().insert("weft-on-behalf-of", "e30".parse().unwrap());
    let refused = Answer::read(stranger.send(forged).await).await;
    assert_eq!((refused.status, refused.reason()), (403, "denied"));
    story.apply(&allows("{ claims: { groups: [dev] } }")).await;
    let said = json!({ "iss": issuer::NAME, "sub": "ann", "claims": { "groups": ["dev"] } }).to_string();
    let said = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, said);
    let forged = || {
        let mut request = call("echo");
        request.headers_mut().insert("weft-on-behalf-of", said.parse().unwrap());
        request
    };
    let mut other = story.pair.caller("agents", "gateway").await;
    let refused = Answer::read(other.send(forged()).await).await;
    assert_eq!((refused.status, refused.reason()), (403, "denied"));
    assert_eq!(story.pair.inbound.metrics.not_believed.get(), 2);
    // The same by one that is: it is a matter of who says it.
    let mut gateway = story.pair.caller("edge", "gateway").await;
    assert_eq!(Answer::read(gateway.send(forged()).await).await.status, 200);
    let mut twice = forged();
    twice.headers_mut().append("weft-on-behalf-of", said.parse().unwrap());
    assert_eq!(Answer::read(gateway.send(twice).await).await.status, 400);
    let mut broken = call("echo");
    broken.headers_mut().insert("weft-on-behalf-of", "e30".parse().unwrap());
    assert_eq!(Answer::read(gateway.send(broken).await).await.status, 400);
    // Once the mesh names it no more, it speaks for itself alone.
    story.apply(&TRUST.replace("sa/gateway", "sa/other")).await;
    let refused = Answer::read(gateway.send(forged()).await).await;
    assert_eq!((refused.status, refused.reason()), (403, "denied"));
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_one_gateway_and_their_tenants_have_quotas_of_their_own() {
    let story = Story::start().await;
    story
        .apply(
            "apiVersion: weft.dev/v1alpha1\nkind: QuotaPolicy\nmetadata: { namespace: research, name: fair }\n\
             spec: { servers: { names: [files] }, limits: [{ tools: [each], per: [caller], rate: 2/h }, { tools: \
             [together], per: [tenant], rate: 2/h }] }\n",
        )
        .await;
    let call_as = async |tool: &str, sub: &str, org: &str| {
        let token = story.token(json!({ "sub": sub, "org": org }));
        story.answer(by(call(tool), &token)).await.status
    };
    let ann = [call_as("each", "ann", "acme").await, call_as("each", "ann", "acme").await];
    assert_eq!((ann, call_as("each", "ann", "acme").await), ([200, 200], 429));
    assert_eq!(call_as("each", "bob", "acme").await, 200);
    let acme = [call_as("together", "ann", "acme").await, call_as("together", "bob", "acme").await];
    assert_eq!((acme, call_as("together", "carol", "acme").await), ([200, 200], 429));
    assert_eq!(call_as("together", "carol", "edge").await, 200);
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_callers_own_at_one_server_and_at_all() {
    let story = Story::start().await;
    let bob = story.token(json!({ "sub": "bob", "groups": ["dev"] }));
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    for path in [pair::PATH, "/mcp"] {
        let opened = story.answer(at(by(legacy(&initialize(), None), &story.ann()), path)).await;
        assert_eq!(opened.status, 200, "{path}: {opened:?}");
        let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
        let stolen = story.answer(at(by(legacy(&list, Some(&session)), &bob), path)).await;
        assert_eq!((stolen.status, stolen.reason()), (404, "session_unknown"), "{path}");
        // Another token of the same caller, as after a refresh.
        let again = story.token(json!({ "sub": "ann", "groups": ["dev", "ops"] }));
        let own = story.answer(at(by(legacy(&list, Some(&session)), &again), path)).await;
        assert_eq!(own.status, 200, "{path}: {own:?}");
    }
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_call_from_where_they_may_and_other_hosts_lead_nowhere() {
    let origins = json!({ "origins": ["https://app.test"] });
    let story = Story::with(Upstream::echo().await, origins, json!({})).await;
    let from = |mut request: Request<Full<Bytes>>, origin: &str| {
        request.headers_mut().insert("origin", origin.parse().unwrap());
        request
    };
    let preflight = || {
        let request = Request::options("/mcp").header("access-control-request-method", "POST");
        let asked = "authorization, mcp-protocol-version, mcp-param-region, weft-caller";
        request.header("access-control-request-headers", asked).body(Full::default()).unwrap()
    };
    let told = story.answer(from(preflight(), "https://app.test")).await;
    assert_eq!(
        (told.status, &told.headers["access-control-allow-origin"]),
        (204, &"https://app.test".parse().unwrap())
    );
    let allowed = &told.headers["access-control-allow-headers"];
    assert_eq!(allowed, "authorization, mcp-protocol-version, mcp-param-region");
    let refused = story.answer(from(preflight(), "https://evil.test")).await;
    assert_eq!((refused.status, refused.reason()), (403, "foreign_origin"));
    assert!(!refused.headers.contains_key("access-control-allow-origin"));
    let called = story.answer(from(by(call("echo"), &story.ann()), "https://app.test")).await;
    assert_eq!(
        (called.status, &called.headers["access-control-allow-origin"]),
        (200, &"https://app.test".parse().unwrap())
    );
    // A page reads why it was refused, or it could not get a token.
    let nobody = story.answer(from(call("echo"), "https://app.test")).await;
    assert!(nobody.headers["access-control-expose-headers"].to_str().unwrap().contains("www-authenticate"));
    let metadata = story.answer(get("/.well-known/oauth-protected-resource")).await;
    assert_eq!(metadata.headers["access-control-allow-origin"], "*");
    let mut rebound = at_gateway(by(call("echo"), &story.ann()));
    rebound.headers_mut().insert("host", "evil.test".parse().unwrap());
    let stream = TcpStream::connect(story.gateway.gateway.unwrap()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let refused = Answer::read(sender.send_request(rebound).await.unwrap()).await;
    assert_eq!((refused.status, refused.reason()), (403, "foreign_host"));
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_and_an_issuer_that_is_away_stops_nobody_who_was_known() {
    let limits = json!({ "issuerKeysFetchEvery": "1ms" });
    let story = Story::with(Upstream::echo().await, json!({ "keys": { "loopback": true } }), limits).await;
    let keys = issuer::Keys::start(story.signer.set()).await;
    let from_url = format!("jwksUrl: 'http://{}/keys'", keys.address());
    story.trusts(&from_url, "").await;
    keys.publish(None);
    let away = story.call(&story.ann()).await;
    assert_eq!((away.status, away.reason()), (502, "issuer_away"), "no keys were ever fetched");
    keys.publish(Some(story.signer.set()));
    assert_eq!(story.call(&story.ann()).await.status, 200);
    keys.publish(None);
    let other = story.token(json!({ "sub": "bob" }));
    assert_eq!(story.call(&other).await.status, 200, "its keys are still known");
    let next = Signer::new("key-2");
    keys.publish(Some(next.set()));
    let renewed = format!("Bearer {}", next.token(&json!({ "sub": "ann" })));
    assert_eq!(story.call(&renewed).await.status, 200, "a key that is not known is fetched");
    assert_eq!(story.call(&story.ann()).await.status, 401, "the old key was taken back");
    assert_eq!(story.call(&other).await.status, 401, "so was what it had signed before");
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lets_its_caller_in_until_it_is_taken_back() {
    let story = Story::start().await;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"robot-key");
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let jwks = format!("jwks: '{}'", story.signer.set());
    story.trusts(&jwks, &format!("apiKeys: [{{ name: robot, digest: 'sha256:{hex}', tenant: acme }}]")).await;
    let with_key = || {
        let mut request = call("echo");
        request.headers_mut().insert("x-api-key", "robot-key".parse().unwrap());
        request
    };
    assert_eq!(story.answer(with_key()).await.status, 200);
    assert_eq!(story.call("Bearer robot-key").await.status, 200);
    let seen = story.pair.upstream.seen().pop().unwrap();
    assert_eq!(seen.headers["weft-caller"], "api-keys/edge/public#robot");
    assert!(!format!("{seen:?}").contains("robot-key"));
    story.trusts(&jwks, "").await;
    assert_eq!(story.answer(with_key()).await.status, 401);
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_listens_ends_with_the_token_that_it_was_opened_with() {
    let (events, response) = upstream::events();
    let response = Arc::new(std::sync::Mutex::new(Some(response)));
    let upstream = Upstream::with(move |seen| {
        let response = (seen.method == http::Method::GET).then(|| response.lock().unwrap().take()).flatten();
        async move { response.unwrap_or_else(|| upstream::echo(&seen)) }
    });
    let story = Story::with(upstream.await, json!({}), json!({ "tokenLeeway": "0s" })).await;
    // Long enough to open a session and a stream.
    let token = story.token(json!({ "sub": "ann", "exp": issuer::now() + 4 }));
    let opened = story.answer(by(legacy(&initialize(), None), &token)).await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let listen =
        Request::get(pair::PATH).header("accept", "text/event-stream").header("mcp-session-id", session);
    let mut stream = story.send(by(listen.body(Full::default()).unwrap(), &token)).await;
    assert_eq!(stream.status(), 200);
    events.send("event: message\ndata: {}\n\n".into()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while let Some(Ok(_)) = stream.body_mut().frame().await {}
    });
    assert!(ended.await.is_ok(), "it ends");
    assert!(issuer::now() >= 4);
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_endpoint_for_all_servers_calls_each_in_the_callers_name() {
    let list = |seen: &upstream::Seen| {
        let mut answer = json!({ "jsonrpc": "2.0", "id": seen.json()["id"] });
        answer["result"] = json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools":
            [{ "name": "echo", "inputSchema": { "type": "object" } }] });
        upstream::document(&answer)
    };
    let upstream = Upstream::with(move |seen| async move {
        if seen.method_name() == "tools/list" { list(&seen) } else { upstream::echo(&seen) }
    });
    let story = Story::with(upstream.await, json!({}), json!({})).await;
    story.apply(&allows("{ claims: { groups: [dev] } }")).await;
    let files = "research/files".parse().unwrap();
    let offered = || {
        let current = story.gateway.live.load();
        current
            .snapshot
            .server(&files)
            .is_some_and(|it| it.offer.as_ref().is_some_and(|it| !it.items().is_empty()))
    };
    eventually("the gateway knows what it may be asked for", offered).await;
    let ann = at(by(call("files_echo"), &story.ann()), "/mcp");
    let answer = story.answer(ann).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = story.pair.upstream.seen().pop().unwrap();
    assert_eq!(seen.headers["weft-caller"], format!("{}#ann", issuer::NAME).as_str());
    let bob = story.token(json!({ "sub": "bob" }));
    let refused = story.answer(at(by(call("files_echo"), &bob), "/mcp")).await;
    assert_eq!((refused.status, refused.reason()), (403, "denied"));
    // By a session of the era before, where messages are exchanged one by one: by the claims of each request.
    let opened = story.answer(at(by(legacy(&initialize(), None), &story.ann()), "/mcp")).await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let called = json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call",
        "params": { "name": "files_echo", "arguments": {} } });
    let answer = story.answer(at(by(legacy(&called, Some(&session)), &story.ann()), "/mcp")).await;
    assert!(answer.status == 200 && answer.body.windows(7).any(|it| it == b"content"), "{answer:?}");
    let less = story.token(json!({ "sub": "ann", "groups": ["guests"] }));
    let refused = story.answer(at(by(legacy(&called, Some(&session)), &less), "/mcp")).await;
    assert!(refused.body.windows(6).any(|it| it == b"denied"), "{refused:?}");
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_no_more_under_way_than_its_share() {
    let (upstream, mut asked) = Upstream::asking().await;
    let story = Story::with(upstream, json!({}), json!({ "requestsPerCallerMax": 1 })).await;
    let (address, token) = (story.gateway.gateway.unwrap(), story.ann());
    let held = tokio::spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Answer::read(sender.send_request(at_gateway(by(call("slow"), &token))).await.unwrap()).await
    });
    let waiting = asked.recv().await.unwrap();
    let refused = story.call(&story.ann()).await;
    assert_eq!((refused.status, refused.code(), refused.reason()), (429, 4293, "caller_busy"));
    waiting.answer.send(upstream::document(&json!({ "jsonrpc": "2.0", "id": 7, "result": {} }))).unwrap();
    assert_eq!(held.await.unwrap().status, 200);
    story.stop().await;
}
