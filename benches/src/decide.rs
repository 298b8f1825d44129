//! What a decision costs in meshes of different size, of which as many policies select the server: by identity and tool
//! alone, and with one expression over arguments.

use std::time::Instant;

use anyhow::Context as _;
use weft_proto::compile::{Snapshot, compile_resources};
use weft_proto::mcp::{Raw, Target};
use weft_proto::name::{ServerName, SpiffeId, TrustDomain};
use weft_proto::policy::Caller;
use weft_proto::policy::access::{Call, View};
use weft_proto::resource::{self, Resource};

use crate::table::Table;

const DECISIONS: u32 = 1_000_000;
const VIEWS: u32 = 2_000;
/// Policies that select the server, however many there are.
const SELECTING: u32 = 20;
const CONDITION: &str = r#"args.path.startsWith("/data/public/") && args.size < 100"#;

pub(crate) fn run(table: &mut Table) -> anyhow::Result<()> {
    for size in [10, 1_000, 10_000] {
        let plain = view(size, "")?;
        let target = Some(Target::Tool("read_7"));
        let call = Call { method: "tools/call", target, arguments: None };
        table.row(
            format!("decision by identity and tool, {size} policies"),
            nanos(&plain, call)?,
            "≤ 1 µs with 20 that select the server",
        );
        let conditional = view(size, &format!(", when: '{CONDITION}'"))?;
        let arguments = r#"{"path": "/data/public/report.txt", "encoding": "utf-8", "size": 42}"#;
        let arguments = Some(Raw::scan(arguments, 64)?);
        table.row(
            format!("the same with one expression over arguments, {size} policies"),
            nanos(&conditional, Call { arguments, ..call })?,
            "≤ 3 µs",
        );
        table.row(
            format!("a caller's view, {size} policies"),
            making(size)?,
            "once for a connection and snapshot",
        );
    }
    Ok(())
}

fn nanos(view: &View, call: Call<'_>) -> anyhow::Result<String> {
    anyhow::ensure!(view.decide(call).allowed, "the call is allowed");
    let started = Instant::now();
    for _ in 0..DECISIONS {
        std::hint::black_box(view.decide(std::hint::black_box(call)));
    }
    Ok(format!("{:.0} ns", started.elapsed().as_secs_f64() * 1e9 / f64::from(DECISIONS)))
}

fn making(size: u32) -> anyhow::Result<String> {
    let (snapshot, server, caller) = (mesh(size, "")?, server()?, caller()?);
    let entry = snapshot.server(&server).context("the server is there")?;
    let make = || View::new(&entry.access, snapshot.default_action(), caller.clone(), server.clone());
    // The first finds no table of the server's rules.
    std::hint::black_box(make());
    let started = Instant::now();
    for _ in 0..VIEWS {
        std::hint::black_box(make());
    }
    Ok(format!("{:.1} µs", started.elapsed().as_secs_f64() * 1e6 / f64::from(VIEWS)))
}

fn view(size: u32, when: &str) -> anyhow::Result<View> {
    let (snapshot, server) = (mesh(size, when)?, server()?);
    let entry = snapshot.server(&server).context("the server is there")?;
    Ok(View::new(&entry.access, snapshot.default_action(), caller()?, server))
}

fn server() -> anyhow::Result<ServerName> {
    Ok(ServerName::parse("ns-0/s-0")?)
}

fn caller() -> anyhow::Result<Caller> {
    let id = SpiffeId::parse("spiffe://bench.test/ns/agents/sa/reviewer")?;
    Ok(Caller::new(id.workload().context("a workload")?))
}

/// The first policies select the server, the others one that does not exist.
fn mesh(size: u32, when: &str) -> anyhow::Result<Snapshot> {
    let mut resources = vec![read(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: { namespace: ns-0, name: s-0 }\nspec: { workload: { labels: { app: a } } }\n",
    )?];
    for n in 0..size {
        let selected = if n < SELECTING { 0 } else { n };
        // Only the first has the condition: of one expression the cost is asked.
        let when = if n == 0 { when } else { "" };
        resources.push(read(&format!(
            "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: ns-0, name: p-{n} }}\nspec:\n  \
             servers: {{ names: [s-{selected}] }}\n  rules:\n    \
             - {{ action: allow, from: [{{ namespaces: [agents] }}], to: [{{ tools: [read_{m}, 'list_{n}_*'] }}]{when} }}\n    \
             - {{ action: deny, from: [{{ serviceAccounts: ['tmp-*'] }}], to: [{{ tools: [rm_{n}] }}] }}\n",
            m = 7 + n
        ))?);
    }
    let aged = resources.iter().map(|resource| (resource, 1));
    Ok(compile_resources(&TrustDomain::parse("bench.test")?, aged)?)
}

fn read(yaml: &str) -> anyhow::Result<Resource> {
    resource::parse_one("bench", yaml).map_err(|errors| anyhow::anyhow!("{errors:?}"))
}
