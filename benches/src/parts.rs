//! Each caller's part of a large catalogue: a control plane that knows what a thousand servers offer, and a gateway that lists
//! of it to each what that one may use, in one process.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use weft_proto::compile::ServerEntry;
use weft_sidecar::app::Running;

use crate::catalogue::{
    Client, PATIENCE, SERVERS, TOOLS, apply, connect, joining_as, millis, name, plane, request, start,
};
use crate::table::{Quantiles, Table};

const PAGE: usize = 1000;
/// Callers of each kind, whom the gateway has not seen before.
const CALLERS: usize = 100;
/// How often each asks once more.
const AGAIN: usize = 5;
const ISSUER: &str = "https://idp.bench.test";
const HOST_NAME: &str = "mcp.bench.test";
const GATEWAY: (&str, &str) = ("edge", "gateway");
const ALL: &str = "/mcp";
const SEARCHED: &str = "/virtual/weft-system/all/mcp";

/// Who calls: of a group, and how much of all it may use.
const KINDS: [(&str, &str, usize); 4] = [
    ("all", "policies that let it use all", SERVERS * TOOLS),
    ("tenth", "policies that let it use a tenth", SERVERS * TOOLS / 10),
    ("asks", "policies that let it use nine tenths with a scope that it lacks", SERVERS * TOOLS),
    ("nobody", "policies that let it use nothing", 0),
];

pub(crate) async fn run(table: &mut Table) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let plane = plane(folder.path(), SERVERS).await?;
    let issuer = Issuer::new()?;
    apply(&plane, [trust(), issuer.told(), searched()?].into_iter()).await?;
    let gateway = json!({ "address": "127.0.0.1:0", "publicUrl": format!("https://{HOST_NAME}") });
    let listen =
        json!({ "inbound": null, "outbound": null, "gateway": gateway, "health": null, "admin": null });
    let gateway = start(joining_as(&plane, GATEWAY, listen).await?).await?;
    let address = gateway.gateway.context("the gateway's listener")?;
    known(&gateway, |entry| entry.access.is_empty()).await?;
    let mut client = connect(address).await?;
    measure(table, (&mut client, &issuer), ("all", "no policies", SERVERS * TOOLS)).await?;
    apply(&plane, (0..SERVERS).map(policy)).await?;
    known(&gateway, |entry| !entry.access.is_empty()).await?;
    // Until all is drawn anew, it is shown all.
    until(&mut client, &issuer.token("nobody", "warm")?, 0).await?;
    for kind in KINDS {
        measure(table, (&mut client, &issuer), kind).await?;
    }
    gateway.stop().await;
    plane.stop().await;
    Ok(())
}

/// Waits until the gateway knows all tools, and the policies.
async fn known(gateway: &Running, has_policies: impl Fn(&ServerEntry) -> bool) -> anyhow::Result<()> {
    let mut live = gateway.live.watch();
    let is_whole = |entry: &ServerEntry| {
        has_policies(entry) && entry.offer.as_ref().is_some_and(|it| it.items().len() == TOOLS)
    };
    let all = live.wait_for(|it| {
        let snapshot = &it.snapshot;
        let whole = snapshot.servers.values().filter(|it| is_whole(it)).count();
        whole == SERVERS && !snapshot.authentication.is_empty() && !snapshot.virtual_servers.is_empty()
    });
    tokio::time::timeout(PATIENCE, all).await.context("the gateway is told all")??;
    Ok(())
}

async fn measure(
    table: &mut Table,
    (client, issuer): (&mut Client, &Issuer),
    (group, what, of): (&str, &str, usize),
) -> anyhow::Result<()> {
    // Whoever is the first after a change waits until all is drawn.
    let warm = issuer.token(group, "warm")?;
    until(client, &warm, of).await?;
    let (mut first, mut again, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..CALLERS {
        let token = issuer.token(group, &format!("{what} {n}"))?;
        // Its token is verified, and it is shown nothing yet.
        send(client, (ALL, &token), request("server/discover", &json!({}))?).await?;
        let began = Instant::now();
        let shown = page(client, &token).await?;
        first.push(began.elapsed());
        ensure!(shown == of.min(PAGE), "{what}: {shown} of {of} are shown");
        for _ in 0..AGAIN {
            let began = Instant::now();
            page(client, &token).await?;
            again.push(began.elapsed());
        }
        let began = Instant::now();
        ensure!(find(client, &token).await? == of, "{what}: it is found among {of}");
        found.push(began.elapsed());
    }
    let figure = |times: Vec<Duration>| {
        let times = Quantiles::new(times);
        format!("p50 {}, p99 {}", millis(times.at(0.5)), millis(times.at(0.99)))
    };
    table.row(format!("{what}: the first page that a caller ever asks for"), figure(first), "≤ 5 ms");
    table.row("… once more", figure(again), "≤ 5 ms");
    table.row("… its first search", figure(found), "≤ 5 ms");
    Ok(())
}

/// Waits until what is drawn is what is known.
async fn until(client: &mut Client, token: &HeaderValue, of: usize) -> anyhow::Result<()> {
    let drawn = async {
        while page(client, token).await? != of.min(PAGE) || find(client, token).await? != of {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, drawn).await.context("all is drawn")?
}

/// How many tools are on the first page.
async fn page(client: &mut Client, token: &HeaderValue) -> anyhow::Result<usize> {
    let body = send(client, (ALL, token), request("tools/list", &json!({}))?).await?;
    Ok(body.windows(8).filter(|it| it == b"\"name\":\"").count())
}

/// Among how many tools a search looks.
async fn find(client: &mut Client, token: &HeaderValue) -> anyhow::Result<usize> {
    let asked = json!({ "name": "find_tools", "arguments": { "query": "reads a record by its key" } });
    let mut request = request("tools/call", &asked)?;
    request.headers_mut().insert("mcp-name", HeaderValue::from_static("find_tools"));
    let body = send(client, (SEARCHED, token), request).await?;
    let answer: Value = serde_json::from_slice(&body)?;
    let of = answer["result"]["structuredContent"]["of"].as_u64();
    Ok(usize::try_from(of.with_context(|| answer.to_string())?)?)
}

async fn send(
    client: &mut Client,
    (path, token): (&str, &HeaderValue),
    mut request: Request<Full<Bytes>>,
) -> anyhow::Result<Bytes> {
    *request.uri_mut() = path.parse()?;
    request.headers_mut().insert(HOST, HeaderValue::from_static(HOST_NAME));
    request.headers_mut().insert(AUTHORIZATION, token.clone());
    client.ready().await?;
    let response = client.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(status == 200, "{path}: {status} {}", String::from_utf8_lossy(&body));
    Ok(body)
}

fn trust() -> String {
    let (namespace, account) = GATEWAY;
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: Trust\nmetadata: {{ namespace: weft-system, name: mesh }}\n\
         spec: {{ trustDomain: bench.test, gateways: ['spiffe://bench.test/ns/{namespace}/sa/{account}'] }}\n"
    )
}

/// All servers as one that is searched.
fn searched() -> anyhow::Result<String> {
    let members: anyhow::Result<Vec<_>> =
        (0..SERVERS).map(|n| Ok(json!({ "server": name(n)?.to_string() }))).collect();
    let object = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "VirtualServer",
        "metadata": { "namespace": "weft-system", "name": "all" },
        "spec": { "mode": "search", "members": members? },
    });
    Ok(object.to_string())
}

/// Who may use what of a server.
fn policy(n: usize) -> String {
    let (most, few) = (names(2..TOOLS), names(0..2));
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: ns-{}, name: server-{n} }}\n\
         spec:\n  servers: {{ names: [server-{n}] }}\n  rules:\n\
         \x20   - {{ action: allow, from: [{{ claims: {{ groups: [all] }} }}] }}\n\
         \x20   - {{ action: allow, from: [{{ claims: {{ groups: [tenth, asks] }} }}], to: [{{ tools: [{few}] }}] }}\n\
         \x20   - {{ action: allow, from: [{{ claims: {{ groups: [asks], scope: ['bench:write'] }} }}], to: [{{ tools: [{most}] }}] }}\n",
        n / 100
    )
}

fn names(of: std::ops::Range<usize>) -> String {
    of.map(|at| format!("operation_{at}")).collect::<Vec<_>>().join(", ")
}

/// Whoever gives callers their tokens.
struct Issuer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    until_secs: u64,
}

impl Issuer {
    #[allow(clippy::disallowed_methods, reason = "a benchmark stands at the rim")]
    fn new() -> anyhow::Result<Self> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())?;
        let until_secs = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 86_400;
        Ok(Self { pair, random, until_secs })
    }

    /// How a gateway knows its callers.
    fn told(&self) -> String {
        let point = self.pair.public_key().as_ref();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        let set = json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "kid": "bench", "x": part(1..33), "y": part(33..65),
        }] });
        let object = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "Authentication",
            "metadata": { "namespace": GATEWAY.0, "name": "callers" },
            "spec": { "jwt": [{ "issuer": ISSUER, "jwks": set.to_string(), "audiences": ["bench"] }] },
        });
        object.to_string()
    }

    fn token(&self, group: &str, subject: &str) -> anyhow::Result<HeaderValue> {
        let claims = json!({
            "iss": ISSUER, "sub": subject, "aud": "bench", "exp": self.until_secs, "groups": ["staff", group],
            "scope": "openid profile",
        });
        let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": "bench" });
        let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", text(&header), text(&claims));
        let signature = self.pair.sign(&self.random, signed.as_bytes())?;
        let token = format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Ok(HeaderValue::try_from(token)?)
    }
}
