use std::time::Duration;

use serde_json::{Value, json};
use weft_proto::compile::compile;
use weft_proto::name::SpiffeId;
use weft_proto::resource::{Spec, parse};
use weft_proto::wire::{Meta, Part};

use super::super::guest::is_of_token;
use super::super::known::digest as digest_of;
use super::super::testing::{Signer, set};
use super::*;
use crate::state::{Current, Origin};
use crate::upstream::testing::Authority;

const ISSUER: &str = "https://idp.example/realm";
const BASE: &str = "https://mcp.example.com";

/// A gateway that knows callers by what `spec` says.
struct Door {
    authenticator: Authenticator,
    live: Live,
    signer: Signer,
}

impl Door {
    fn new(more: &str) -> Self {
        Self::with(more, Limits::default())
    }

    fn with(more: &str, limits: Limits) -> Self {
        let gateway = SpiffeId::parse("spiffe://mesh.example/ns/edge/sa/gateway").unwrap();
        let live = Live::empty();
        let signer = Signer::new("key-1");
        let authenticator = Authenticator::new(Parts {
            live: live.clone(),
            identity: Authority::new().identity(&gateway),
            namespace: Some("edge".parse().unwrap()),
            labels: [("app".to_owned(), "gateway".to_owned())].into(),
            public_url: BASE.to_owned().try_into().unwrap(),
            fetching: KeyFetching::default(),
            limits: Arc::new(limits),
            metrics: Arc::new(Metrics::new()),
        });
        let door = Self { authenticator, live, signer };
        door.trusts("edge", &door.jwt(more));
        door
    }

    /// An issuer with our key, and more fields.
    fn jwt(&self, more: &str) -> String {
        let keys = set(&[&self.signer]);
        format!("jwt: [{{ issuer: '{ISSUER}', jwks: '{keys}', audiences: ['api'] }}]\n{more}")
    }

    fn trusts(&self, namespace: &str, spec: &str) {
        let spec = spec.replace('\n', "\n  ");
        let yaml = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Authentication\nmetadata: {{ namespace: {namespace}, name: public }}\n\
             spec:\n  {spec}\n"
        );
        let parsed = parse("a.yaml", &yaml).unwrap_or_else(|error| panic!("{error:?}\n{yaml}"));
        let parts = parsed.into_iter().map(|(it, _)| match it.spec {
            Spec::Authentication(spec) => {
                Part::Authentication(Arc::new(Object { meta: Meta::new(&it.metadata, 1), spec }))
            }
            _ => unreachable!(),
        });
        let snapshot = compile(&parts.collect());
        self.live.swap(Current { snapshot, origin: Origin::File, version: "1".into(), since: clock::now() });
    }

    async fn knows(&self, headers: &[(&str, &str)], endpoint: &str) -> Result<Arc<Verified>, Refusal> {
        let headers = headers.iter().map(|(name, value)| {
            (name.parse::<http::HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        });
        self.authenticator.authenticate(&headers.collect(), None, endpoint).await
    }

    async fn bearer(&self, token: &str) -> Result<Arc<Verified>, Refusal> {
        self.knows(&[("authorization", &format!("Bearer {token}"))], "/mcp").await
    }

    async fn claims(&self, claims: Value) -> Result<Arc<Verified>, Refusal> {
        self.bearer(&self.signer.token(&claims)).await
    }
}

fn now() -> u64 {
    clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn good() -> Value {
    json!({ "iss": ISSUER, "sub": "ann", "aud": "api", "exp": now() + 600, "groups": ["dev"], "scope": "read write" })
}

fn but(field: &str, value: Value) -> Value {
    let mut claims = good();
    claims[field] = value;
    claims
}

#[track_caller]
fn refused(known: Result<Arc<Verified>, Refusal>, said: &str) {
    match known {
        Err(Refusal::Unauthenticated { brought: true, why }) => {
            assert!(why.contains(said), "{why:?}, not {said:?}")
        }
        other => panic!("{other:?}, not refused for {said:?}"),
    }
}

#[tokio::test]
async fn a_good_token_says_who_calls() {
    let door = Door::new("");
    let known = door.claims(good()).await.unwrap();
    assert_eq!(&*known.guest.name, "https://idp.example/realm#ann");
    assert_eq!(known.guest.caller.id().as_str(), "spiffe://mesh.example/ns/edge/sa/gateway");
    let claims: Value = serde_json::from_str(known.guest.caller.claims().unwrap().get()).unwrap();
    let expected = json!({ "iss": ISSUER, "sub": "ann", "groups": ["dev"], "scope": ["read", "write"] });
    assert_eq!(claims, expected);
}

#[tokio::test]
async fn a_token_is_verified_once() {
    let door = Door::new("");
    let token = door.signer.token(&good());
    let first = door.bearer(&token).await.unwrap();
    assert!(Arc::ptr_eq(&first, &door.bearer(&token).await.unwrap()));
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_found() {
    let door = Door::new("");
    refused(door.claims(but("aud", "other".into())).await, "for somebody else");
    refused(door.claims(but("aud", json!(["other", "apix"]))).await, "for somebody else");
    refused(door.claims(but("aud", json!(null))).await, "aud");
    refused(door.claims(but("iss", "https://idp.example/realm/".into())).await, "issuer");
    refused(door.claims(but("iss", "https://evil.example".into())).await, "issuer");
    refused(door.claims(but("exp", (now() - 31).into())).await, "expired");
    refused(door.claims(but("nbf", (now() + 60).into())).await, "not yet");
    refused(door.claims(but("sub", json!(null))).await, "sub");
    refused(door.claims(but("cnf", json!({ "jkt": "x" }))).await, "bound");
    refused(door.bearer(&Signer::new("key-1").token(&good())).await, "signature");
    refused(door.bearer(&Signer::new("key-2").token(&good())).await, "key is not one");
    refused(door.bearer("not-a-token").await, "neither a key nor a token");
    refused(door.bearer(&"x".repeat(20_000)).await, "longer");
    assert!(door.claims(but("exp", (now() - 10).into())).await.is_ok(), "clocks differ");
}

#[tokio::test]
async fn a_token_is_good_by_the_issuers_key_alone() {
    let door = Door::new("");
    let part = |value: &Value| base64_of(value.to_string().as_bytes());
    for alg in ["none", "None", "HS256"] {
        let header = json!({ "alg": alg, "kid": "key-1" });
        let signed = format!("{}.{}", part(&header), part(&good()));
        // The key that everybody knows, taken for a secret.
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, door.signer.public());
        let tag = base64_of(aws_lc_rs::hmac::sign(&key, signed.as_bytes()).as_ref());
        for signature in ["", &tag] {
            refused(door.bearer(&format!("{signed}.{signature}")).await, "algorithm");
        }
    }
    // A key that the token brings along itself.
    let other = Signer::new("key-1");
    let header = json!({ "alg": "ES256", "kid": "key-1", "jwk": other.jwk(), "jku": "https://evil.example" });
    refused(door.bearer(&other.token_with(&header, &good())).await, "signature");
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test]
async fn keys_are_known_by_their_digest_and_may_be_exchanged_for_one_caller() {
    let digest = |key: &str| hex(&digest_of(key));
    let keys = format!(
        "apiKeys: [{{ name: one, digest: 'sha256:{}', caller: robot, tenant: acme }}, {{ name: two, digest: 'sha256:{}', \
         caller: robot }}, {{ name: three, digest: 'sha256:{}' }}]",
        digest("k1"),
        digest("k2"),
        digest("k3")
    );
    let door = Door::new(&keys);
    let one = door.knows(&[("x-api-key", "k1")], "/mcp").await.unwrap();
    let two = door.bearer("k2").await.unwrap();
    assert_eq!(&*one.guest.name, "api-keys/edge/public#robot");
    assert_eq!((&one.guest.name, one.guest.caller.tenant()), (&two.guest.name, Some("acme")));
    assert_eq!(&*door.bearer("k3").await.unwrap().guest.name, "api-keys/edge/public#three");
    refused(door.knows(&[("x-api-key", "k4")], "/mcp").await, "no key");
    // A digest is no key.
    refused(door.knows(&[("x-api-key", &digest("k1"))], "/mcp").await, "no key");
    door.trusts(
        "edge",
        &door.jwt(&keys.replace("name: one", "name: uno").replace(&digest("k1"), &digest("k9"))),
    );
    refused(door.knows(&[("x-api-key", "k1")], "/mcp").await, "no key");
    assert!(door.knows(&[("x-api-key", "k9")], "/mcp").await.is_ok());
}

#[tokio::test]
async fn a_key_ends_at_its_time_also_for_whoever_was_known_by_it() {
    let digest = hex(&digest_of("k1"));
    let key = |end: &str| format!("apiKeys: [{{ name: one, digest: 'sha256:{digest}'{end} }}]");
    let door = Door::new(&key(", notAfter: '2027-01-31T13:00:00+01:00'"));
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_801_396_800);
    let (before, second) = (end - Duration::from_secs(1), Duration::from_secs(1));
    let expired = Refusal::KeyExpired { key: "one".to_owned() };
    let comes = async |at: SystemTime, header: &'static str, value: &'static str| {
        let headers = [(header.parse().unwrap(), HeaderValue::from_static(value))].into_iter().collect();
        door.authenticator.authenticate_at(at, &headers, None, "/mcp").await
    };
    let known = comes(before, "x-api-key", "k1").await.unwrap();
    assert_eq!(known.until, Some(end), "streams end then too");
    assert!(Arc::ptr_eq(&known, &comes(before, "authorization", "Bearer k1").await.unwrap()));
    for at in [end, end + second] {
        assert_eq!(comes(at, "x-api-key", "k1").await.unwrap_err(), expired);
        assert_eq!(comes(at, "authorization", "Bearer k1").await.unwrap_err(), expired);
    }
    let told = door.authenticator.challenge(&expired, "/mcp").unwrap();
    assert_eq!(told, "Bearer error=\"invalid_token\", error_description=\"the key has expired\"");
    // Another end counts at once, and none is none.
    door.trusts("edge", &door.jwt(&key(", notAfter: '2027-01-31T12:00:01Z'")));
    assert!(comes(end, "x-api-key", "k1").await.is_ok());
    door.trusts("edge", &door.jwt(&key("")));
    assert_eq!(comes(end + second, "x-api-key", "k1").await.unwrap().until, None);
}

#[tokio::test]
async fn nothing_and_too_much_are_told_apart() {
    let door = Door::new("");
    let nothing = door.knows(&[], "/mcp").await.unwrap_err();
    assert!(matches!(nothing, Refusal::Unauthenticated { brought: false, .. }));
    let token = format!("Bearer {}", door.signer.token(&good()));
    for both in [
        &[("authorization", &*token), ("authorization", &token)][..],
        &[("authorization", &token), ("x-api-key", "k")],
        &[("x-api-key", "k"), ("x-api-key", "k")],
    ] {
        assert!(matches!(door.knows(both, "/mcp").await, Err(Refusal::Invalid(_))));
    }
    for other in ["Basic YTpi", "DPoP x", "Bearer", "Bearer ", ""] {
        refused(door.knows(&[("authorization", other)], "/mcp").await, "no bearer token");
    }
    assert!(door.knows(&[("authorization", &token.replace("Bearer", "bearer"))], "/mcp").await.is_ok());
}

#[tokio::test]
async fn another_configuration_counts_at_once() {
    let door = Door::new("");
    let token = door.signer.token(&good());
    assert!(door.bearer(&token).await.is_ok());
    door.trusts("edge", &door.jwt("").replace("'api'", "'other'"));
    refused(door.bearer(&token).await, "for somebody else");
    door.trusts("elsewhere", &door.jwt(""));
    refused(door.bearer(&token).await, "no Authentication");
    door.trusts("edge", &door.jwt("gateways: { app: other }"));
    refused(door.bearer(&token).await, "no Authentication");
    door.trusts("edge", &door.jwt("gateways: { app: gateway }"));
    assert!(door.bearer(&token).await.is_ok());
}

#[tokio::test]
async fn claims_tenants_and_scopes_are_as_the_configuration_wants_them() {
    let door = Door::new("");
    let chosen = door.jwt("").replace("audiences", "tenantClaim: org, claims: [email], audiences");
    door.trusts("edge", &chosen);
    let known = door.claims(but("email", "a@b".into())).await.unwrap();
    let claims: Value = serde_json::from_str(known.guest.caller.claims().unwrap().get()).unwrap();
    assert_eq!(claims, json!({ "iss": ISSUER, "sub": "ann", "email": "a@b" }));
    assert_eq!(known.guest.caller.tenant(), None);
    let known = door.claims(but("org", "acme".into())).await.unwrap();
    assert_eq!(known.guest.caller.tenant(), Some("acme"));
    refused(door.claims(but("org", json!(["acme"]))).await, "tenant");
    let oauth = "oauth: { resource: 'https://other.example', authorizationServers: ['https://idp.example'], \
                 requiredScopes: [read, mcp] }";
    door.trusts("edge", &door.jwt(oauth));
    assert_eq!(door.claims(good()).await.unwrap_err(), Refusal::InsufficientScope);
    assert!(door.claims(but("scope", "mcp read".into())).await.is_ok());
    assert!(door.claims(but("scp", json!(["mcp"]))).await.is_ok());
    let small = Door::with("", Limits { guest_bytes_max: 100, ..Limits::default() });
    assert_eq!(small.claims(good()).await.unwrap_err(), Refusal::ClaimsTooLarge { max: 100 });
}

#[tokio::test]
async fn a_token_for_one_endpoint_is_for_no_other() {
    let door = Door::new("");
    let oauth =
        "oauth: { resource: 'https://mcp.example.com', authorizationServers: ['https://idp.example'] }";
    door.trusts("edge", &door.jwt(oauth));
    let check = async |audience: &str, endpoint: &str, expected: bool| {
        let token = format!("Bearer {}", door.signer.token(&but("aud", audience.into())));
        let known = door.knows(&[("authorization", &token)], endpoint).await;
        assert_eq!(known.is_ok(), expected, "{audience} at {endpoint}: {known:?}");
    };
    check("https://mcp.example.com", "/mcp", true).await;
    check("https://mcp.example.com/", "/servers/a/b/mcp", true).await;
    check("https://mcp.example.com/mcp", "/mcp", true).await;
    check("https://mcp.example.com/mcp", "/servers/a/b/mcp", false).await;
    check("https://mcp.example.com/servers/a/b/mcp", "/servers/a/b/mcp", true).await;
    check("https://mcp.example.com.evil.example", "/mcp", false).await;
    check("https://mcp.example.com//", "/mcp", false).await;
}

#[tokio::test]
async fn clients_are_told_where_to_get_a_token() {
    let door = Door::new("");
    let plain = door.knows(&[], "/mcp").await.unwrap_err();
    let told = |refusal: &Refusal, endpoint| door.authenticator.challenge(refusal, endpoint).unwrap();
    assert_eq!(told(&plain, "/mcp"), "Bearer");
    assert_eq!(door.authenticator.metadata(None).unwrap_err(), Refusal::NoSuchPath);
    let oauth = "oauth: { resource: 'https://mcp.example.com', authorizationServers: ['https://idp.example'], \
                 scopes: [read], requiredScopes: [mcp] }";
    door.trusts("edge", &door.jwt(oauth));
    let metadata = "resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource/mcp\"";
    assert_eq!(told(&plain, "/mcp"), format!("Bearer {metadata}, scope=\"mcp\"").as_str());
    let scopes = told(&Refusal::InsufficientScope, "/mcp");
    assert!(scopes.to_str().unwrap().starts_with("Bearer error=\"insufficient_scope\", error_description="));
    // The scope of one call, then what every token needs, then what this one has.
    let needed = Refusal::ScopeNeeded { scopes: ["write", "read", "mcp", "a\" b"].map(str::to_owned).into() };
    let expected = format!(
        "Bearer error=\"insufficient_scope\", error_description=\"the token lacks a scope that this needs\", \
         {metadata}, scope=\"write mcp read\""
    );
    assert_eq!(told(&needed, "/mcp"), expected.as_str());
    let many = (0..1000).map(|number| format!("scope-{number}"));
    let many = told(&Refusal::ScopeNeeded { scopes: many.collect() }, "/mcp");
    assert!(many.len() < 2500 && many.to_str().unwrap().contains("scope=\"scope-0 mcp scope-1 "), "{many:?}");
    assert!(door.authenticator.challenge(&Refusal::NoSuchPath, "/mcp").is_none());
    // What a path says never gets into the header.
    let odd = told(&plain, "/mcp\", x=\"");
    assert!(!odd.to_str().unwrap().contains("x="), "{odd:?}");
    let document = async |endpoint| {
        let response = door.authenticator.metadata(endpoint).unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        serde_json::from_slice::<Value>(&body).unwrap()
    };
    let expected = json!({
        "resource": "https://mcp.example.com/virtual/a/b/mcp", "authorization_servers": ["https://idp.example"],
        "bearer_methods_supported": ["header"], "scopes_supported": ["mcp", "read"],
    });
    assert_eq!(document(Some("/virtual/a/b/mcp")).await, expected);
    assert_eq!(document(None).await["resource"], "https://mcp.example.com");
    door.trusts("edge", &door.jwt(&oauth.replace("example.com'", "example.com/mcp'")));
    assert_eq!(document(Some("/mcp")).await["resource"], "https://mcp.example.com/mcp");
}

#[tokio::test]
async fn only_whoever_came_with_a_token_is_asked_for_scopes() {
    let digest = hex(&digest_of("k1"));
    let door = Door::new(&format!("apiKeys: [{{ name: one, digest: 'sha256:{digest}' }}]"));
    let denied = || Refusal::Denied {
        target: "tool \"x\"".to_owned(),
        rule: "no-rule".to_owned(),
        explain: false,
        scope: Some("write".to_owned()),
    };
    let (token, key) = (door.claims(good()).await.unwrap(), door.bearer("k1").await.unwrap());
    assert!(is_of_token(&token.guest.caller) && !is_of_token(&key.guest.caller));
    let asking = Refusal::ScopeNeeded { scopes: ["write", "read", "write"].map(str::to_owned).into() };
    assert_eq!(token.asking_for_scopes(denied()), asking);
    assert_eq!(token.asking_for_scopes(Refusal::NotReady), Refusal::NotReady);
    assert_eq!(key.asking_for_scopes(denied()), denied());
}

#[tokio::test]
async fn what_was_brought_is_good_until_it_is_taken_back() {
    let door = Door::new("");
    let token = door.signer.token(&good());
    let headers: HeaderMap =
        [(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())].into_iter().collect();
    let known = door.bearer(&token).await.unwrap();
    assert!(known.until.unwrap() > clock::now() + Duration::from_secs(500));
    assert!(door.authenticator.still(&known, &headers, None, "/mcp").await);
    door.trusts("edge", &door.jwt("gateways: { app: gateway }"));
    assert!(door.authenticator.still(&known, &headers, None, "/mcp").await);
    door.trusts("edge", &door.jwt("").replace("'api'", "'other'"));
    assert!(!door.authenticator.still(&known, &headers, None, "/mcp").await);
}

#[tokio::test]
async fn a_certificate_of_a_named_trust_domain_is_as_good_as_a_token() {
    let door = Door::new("federatedDomains: [partner.example]");
    let comes = async |id: &str, headers: HeaderMap| {
        let peer = SpiffeId::parse(id).unwrap().workload().unwrap();
        door.authenticator.authenticate(&headers, Some(&peer), "/mcp").await
    };
    let partner = "spiffe://partner.example/ns/a/sa/b";
    let known = comes(partner, HeaderMap::new()).await.unwrap();
    assert_eq!(&*known.guest.name, "spiffe://partner.example#/ns/a/sa/b");
    let claims: Value = serde_json::from_str(known.guest.caller.claims().unwrap().get()).unwrap();
    assert_eq!(claims, json!({ "iss": "spiffe://partner.example", "sub": "/ns/a/sa/b" }));
    refused(comes("spiffe://other.example/ns/a/sa/b", HeaderMap::new()).await, "not named");
    refused(comes("spiffe://mesh.example/ns/edge/sa/gateway", HeaderMap::new()).await, "not named");
    // Whoever brings a token besides is who the token says, or nobody.
    let bad: HeaderMap = [(AUTHORIZATION, HeaderValue::from_static("Bearer x"))].into_iter().collect();
    refused(comes(partner, bad).await, "neither");
    assert!(door.authenticator.asks_for_certificates());
    door.trusts("edge", &door.jwt(""));
    assert!(!door.authenticator.asks_for_certificates());
}
