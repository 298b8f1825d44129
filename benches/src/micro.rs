//! What needs no connections: signing on one core, and what planning a change costs in meshes of different size.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderName, HeaderValue};
use http_body_util::Full;
use weft_certs::ca::{Ca, Kek, Limits};
use weft_certs::csr;
use weft_control_plane::plan::{Change, Update, World};
use weft_proto::name::{SpiffeId, TrustDomain};
use weft_proto::policy::tools::Redaction;
use weft_proto::resource;
use weft_sidecar::tools::schema::{self, Schema};
use weft_sidecar::upstream::Outgoing;

use crate::table::Table;

const SIGNATURES: u32 = 20_000;
const CHANGES: u32 = 200;
const VALIDATIONS: u32 = 500_000;
const KEPT: u32 = 1_000_000;

pub(crate) fn run(table: &mut Table) -> anyhow::Result<()> {
    signing(table)?;
    validating(table)?;
    keeping(table)?;
    planning(table)
}

/// A request that is kept, should it have to go to another instance: copied, as it once was, and as it is kept.
fn keeping(table: &mut Table) -> anyhow::Result<()> {
    // As a request comes by HTTP: all of its values are parts of what was read.
    let read =
        bytes::Bytes::from("value of some header, as long as those of MCP and tracing are; ".repeat(14));
    let mut request = http::Request::post("/servers/research/files/mcp").body(Full::new(read.clone()))?;
    for at in 0..14 {
        let value = HeaderValue::from_maybe_shared(read.slice(at * 60..at * 60 + 24))?;
        request.headers_mut().insert(HeaderName::try_from(format!("x-header-{at}"))?, value);
    }
    let request: Outgoing = Arc::new(request);
    let each = |keep: &dyn Fn()| {
        let started = Instant::now();
        (0..KEPT).for_each(|_| keep());
        (started.elapsed() / KEPT).as_nanos()
    };
    let copied = each(&|| drop(std::hint::black_box(http::Request::clone(&request))));
    let kept = each(&|| drop(std::hint::black_box(Arc::clone(&request))));
    let figure = format!("{kept} ns ({copied} ns if it is copied)");
    table.row("a request of 14 headers, kept for another instance", figure, "");
    Ok(())
}

/// Arguments of a typical tool, from their bytes to the verdict.
fn validating(table: &mut Table) -> anyhow::Result<()> {
    const SCHEMA: &str = r#"{"type":"object","required":["path"],"additionalProperties":false,"properties":{
        "path":{"type":"string","minLength":1,"maxLength":4096},
        "mode":{"type":"string","enum":["text","binary"]},
        "offset":{"type":"integer","minimum":0},
        "limit":{"type":"integer","minimum":1,"maximum":10000}}}"#;
    const ARGUMENTS: &str = r#"{"path":"/data/reports/2026/q3.md","mode":"text","offset":0,"limit":200}"#;
    let limits = weft_sidecar::limits::Limits::default();
    let schema = Schema::compile(SCHEMA, &schema::Limits::of(&limits))?;
    let redaction = Redaction::default();
    let started = Instant::now();
    for _ in 0..VALIDATIONS {
        let verdict = schema.check(std::hint::black_box(ARGUMENTS), &redaction);
        std::hint::black_box(&verdict)
            .as_ref()
            .map_err(|_| anyhow::anyhow!("the arguments are as they should be"))?;
    }
    let each = started.elapsed() / VALIDATIONS;
    table.row(
        "arguments of a typical tool against its schema, parsed",
        format!("{} ns", each.as_nanos()),
        "≤ 2 µs",
    );
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a benchmark stands at the rim")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn signing(table: &mut Table) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let kek = Kek::open_or_create(&folder.path().join("key"))?;
    let domain = TrustDomain::parse("bench.test")?;
    let authority = Ca::open_or_create(&folder.path().join("ca"), kek, domain, Limits::default(), now())?;
    let id = SpiffeId::parse("spiffe://bench.test/ns/research/sa/files")?;
    let requests = (0..64).map(|_| csr::Request::generate()).collect::<Result<Vec<_>, _>>()?;
    let started = Instant::now();
    for n in 0..SIGNATURES {
        let request = &requests[n as usize % requests.len()];
        let issued = authority.issue(request.der(), &id, &[], Duration::from_secs(86_400), now())?;
        std::hint::black_box(issued);
    }
    let rate = f64::from(SIGNATURES) / started.elapsed().as_secs_f64();
    table.row("CSR → SVID on one core, request checked", format!("{rate:.0}/s"), "≥ 3,000/s");
    Ok(())
}

/// One policy is edited over and over, in meshes that differ only in how much else there is.
fn planning(table: &mut Table) -> anyhow::Result<()> {
    for size in [1_000u32, 10_000, 100_000] {
        let mut world = World::new(TrustDomain::parse("bench.test")?);
        let mut changes = Vec::new();
        for n in 0..size / 2 {
            changes.push(put(&server(n))?);
            changes.push(put(&policy(n, 0))?);
        }
        let started = Instant::now();
        world.apply(Update { revision: 1, changes });
        let all = started.elapsed();
        let edits = (0..CHANGES).map(|n| put(&policy(n, n + 1))).collect::<anyhow::Result<Vec<_>>>()?;
        let started = Instant::now();
        for (revision, change) in (2..).zip(edits) {
            std::hint::black_box(world.apply(Update { revision, changes: vec![change] }));
        }
        let each = started.elapsed() / CHANGES;
        table.row(
            format!("planning one change among {size} resources"),
            format!(
                "{:.1} µs (all of them at once: {:.0} ms)",
                each.as_secs_f64() * 1e6,
                all.as_secs_f64() * 1e3
            ),
            "grows with the change, not with the mesh",
        );
    }
    Ok(())
}

fn put(yaml: &str) -> anyhow::Result<Change> {
    let resource = resource::parse_one("bench", yaml).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    Ok(Change::Put { resource: Box::new(resource), created_revision: 1 })
}

fn server(n: u32) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: ns-{}, name: s-{n} }}\n\
         spec: {{ workload: {{ labels: {{ app: s-{n} }} }} }}\n",
        n / 20
    )
}

fn policy(n: u32, version: u32) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: ns-{}, name: p-{n} }}\n\
         spec: {{ servers: {{ names: [s-{n}] }}, rules: [{{ action: allow, to: [{{ tools: [t{version}] }}] }}] }}\n",
        n / 20
    )
}
