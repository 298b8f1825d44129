//! The tables: medians for each load, memory, what only the sidecar has, and the product's goals beside what was seen.

use std::io::{self, Write};

use super::Args;
use super::book::Book;
use super::rounds::Load;
use crate::drive::Outcome;
use crate::process;
use crate::systems::{Site, System};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn print(book: &Book, args: &Args, site: &Site) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    preamble(&mut out, args, site)?;
    for load in Load::ALL.into_iter().filter(|load| book.has(*load)) {
        load_table(&mut out, book, load)?;
    }
    memory_table(&mut out, book)?;
    stdio_table(&mut out, book)?;
    goals(&mut out, book)?;
    let (most, usual) = book.disturbance();
    writeln!(
        out,
        "\nOther processes and the host took {usual:.2} cores (median), {most:.2} at most, of measured spans."
    )?;
    for note in &book.notes {
        writeln!(out, "- {note}")?;
    }
    Ok(())
}

fn preamble(out: &mut impl Write, args: &Args, site: &Site) -> anyhow::Result<()> {
    writeln!(out, "# Load\n")?;
    writeln!(
        out,
        "{}. {} rounds, interleaved, {} s each after a warm-up; medians. Each proxy has one core, the generator and the \
         server share another. TLS 1.3, HTTP/1.1, one cipher suite for all.\n",
        process::describe(),
        args.rounds,
        args.seconds
    )?;
    writeln!(out, "| system | version | does |\n|---|---|---|")?;
    for system in args.systems() {
        let version = system.version(site).unwrap_or_default();
        writeln!(out, "| {} | {version} | {} |", system.name(), system.does())?;
    }
    Ok(())
}

/// A figure with as many digits as it is worth.
fn show(figure: Option<f64>) -> String {
    match figure {
        None => "—".to_owned(),
        Some(figure) if figure.abs() >= 100.0 => format!("{figure:.0}"),
        Some(figure) if figure.abs() >= 10.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.2}"),
    }
}

fn load_table(out: &mut impl Write, book: &Book, load: Load) -> anyhow::Result<()> {
    writeln!(out, "\n## {}\n", load.name())?;
    writeln!(
        out,
        "| system | requests/s | ÷ nginx | p50 µs | p90 | p99 | max | CPU µs/request | ÷ relay | core busy | other core |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|")?;
    for system in System::ALL {
        let median = |figure: fn(&Outcome) -> f64| book.median(load, system, figure);
        if median(|it| it.rate).is_none() {
            continue;
        }
        let cells = [
            show(median(|it| it.rate)),
            show(book.ratio(load, (system, System::Nginx), |it| it.rate)),
            show(median(|it| it.p50)),
            show(median(|it| it.p90)),
            show(median(|it| it.p99)),
            show(median(|it| it.max)),
            show(median(|it| it.cpu).filter(|cpu| *cpu > 0.0)),
            show(book.ratio(load, (system, System::Relay), |it| it.cpu).filter(|ratio| *ratio > 0.0)),
            percent(median(|it| it.busy)),
            percent(median(|it| it.load_busy)),
        ];
        writeln!(out, "| {} | {} |", system.name(), cells.join(" | "))?;
    }
    Ok(())
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "—".to_owned(), |share| format!("{:.0} %", share * 100.0))
}

fn memory_table(out: &mut impl Write, book: &Book) -> anyhow::Result<()> {
    writeln!(out, "\n## Memory\n")?;
    writeln!(out, "| system | idle MiB | peak | after | KiB per idle event stream |\n|---|---|---|---|---|")?;
    for system in System::ALL.into_iter().filter(|system| *system != System::Direct) {
        let mib = |figure: Option<f64>| show(figure.map(|bytes| bytes / MIB));
        let stream = book.get(&format!("stream bytes, {}", system.name())).map(|bytes| bytes / KIB);
        let [idle, peak, after] = [
            book.memory(system, |it| it.idle),
            book.memory(system, |it| it.peak),
            book.memory(system, |it| it.after),
        ];
        if idle.or(stream).is_some() {
            let name = system.name();
            writeln!(out, "| {name} | {} | {} | {} | {} |", mib(idle), mib(peak), mib(after), show(stream))?;
        }
    }
    let (early, end, slope) = (book.get("soak early"), book.get("soak end"), book.get("soak slope"));
    if let (Some(early), Some(end), Some(slope)) = (early, end, slope) {
        let calls = show(book.get("soak calls"));
        let errors = show(book.get("soak errors"));
        writeln!(
            out,
            "\nSoak with churn: {calls} calls, {errors} errors, {:.1} MiB after a fifth of it, {:.1} MiB at its end, \
             slope {:.1} KiB a minute.",
            early / MIB,
            end / MIB,
            slope * 60.0 / KIB
        )?;
    }
    Ok(())
}

fn stdio_table(out: &mut impl Write, book: &Book) -> anyhow::Result<()> {
    if book.get("stdio through weft, 1: p50").is_none() {
        return Ok(());
    }
    writeln!(out, "\n## A server on standard input and output\n")?;
    writeln!(out, "| how | callers | calls/s | p50 µs | p99 |\n|---|---|---|---|---|")?;
    for callers in [1, 64] {
        for how in ["directly", "through weft"] {
            let figure = |what: &str| show(book.get(&format!("stdio {how}, {callers}: {what}")));
            let [rate, p50, p99] = ["rate", "p50", "p99"].map(figure);
            writeln!(out, "| {how} | {callers} | {rate} | {p50} | {p99} |")?;
        }
    }
    Ok(())
}

/// The product's goals: what, what was seen, and what is wanted of it.
fn goals(out: &mut impl Write, book: &Book) -> anyhow::Result<()> {
    use System::{Envoy, Nginx, Relay, Weft, WeftPolicies};
    let (one, busy) = (Load::Small(1), Load::Small(64));
    let stdio = |what: &str| book.get(&format!("stdio {what}"));
    let added =
        stdio("through weft, 1: p50").zip(stdio("directly, 1: p50")).map(|(through, bare)| through - bare);
    let rows: [(&str, Option<f64>, &str); 15] = [
        ("requests/s, 64 connections, ÷ nginx", book.ratio(busy, (Weft, Nginx), |it| it.rate), "≥ 1.1"),
        (
            "calls per second of CPU, 64 connections, ÷ nginx",
            book.ratio(busy, (Nginx, Weft), |it| it.cpu),
            "≥ 1.1",
        ),
        ("requests/s, 64 connections, ÷ Envoy", book.ratio(busy, (Weft, Envoy), |it| it.rate), "≥ 4"),
        (
            "calls per second of CPU, 64 connections, ÷ Envoy",
            book.ratio(busy, (Envoy, Weft), |it| it.cpu),
            "≥ 4",
        ),
        (
            "requests/s, 64 connections, every policy, ÷ nginx",
            book.ratio(busy, (WeftPolicies, Nginx), |it| it.rate),
            "≥ 1.1",
        ),
        (
            "requests/s, 64 connections, every policy, ÷ Envoy",
            book.ratio(busy, (WeftPolicies, Envoy), |it| it.rate),
            "≥ 4",
        ),
        (
            "requests/s, 64 connections, every policy ÷ one",
            book.ratio(busy, (WeftPolicies, Weft), |it| it.rate),
            "-",
        ),
        ("CPU per call, 64 connections, ÷ relay", book.ratio(busy, (Weft, Relay), |it| it.cpu), "≤ 1.3"),
        ("added p50, one connection, ÷ Envoy's", book.added_ratio(one, (Weft, Envoy), |it| it.p50), "≤ 0.5"),
        ("p99 at half load, ÷ Envoy's", book.ratio(Load::HalfOwn, (Weft, Envoy), |it| it.p99), "≤ 0.5"),
        (
            "p99 at one rate for all, ÷ Envoy's",
            book.ratio(Load::HalfSlowest, (Weft, Envoy), |it| it.p99),
            "≤ 0.5",
        ),
        ("stdio: µs added to a call", added, "≤ 100"),
        ("stdio: calls/s of 64 callers", stdio("through weft, 64: rate"), "≥ 20,000"),
        ("idle MiB", book.memory(Weft, |it| it.idle).map(|bytes| bytes / MIB), "≤ 10"),
        ("ms from start to ready", book.get("start ms"), "≤ 100"),
    ];
    let stream = book.get("stream bytes, weft").map(|bytes| bytes / KIB);
    writeln!(out, "\n## Goals\n\n| what | weft | goal |\n|---|---|---|")?;
    let streams = [("KiB per idle event stream", stream, "≤ 20")];
    for (what, figure, goal) in rows.into_iter().chain(streams).chain(records(book)).chain(assembled(book)) {
        writeln!(out, "| {what} | {} | {goal} |", show(figure))?;
    }
    Ok(())
}

/// Two sidecars between agent and server, and one address for all servers.
fn assembled(book: &Book) -> [(&'static str, Option<f64>, &'static str); 12] {
    use System::{ContextForge, McpProxy, Weft, WeftGateway, WeftGatewayKey, WeftTwo, WeftVirtual};
    let (one, busy) = (Load::Small(1), Load::Small(64));
    let added = |over: System, under: System| book.added_ratio(one, (over, under), |it| it.p50);
    let rate = |over: System, under: System| book.ratio(busy, (over, under), |it| it.rate);
    let cpu = |over: System, under: System| book.ratio(busy, (under, over), |it| it.cpu);
    [
        ("two sidecars: added p50, one connection, ÷ one sidecar's", added(WeftTwo, Weft), "≤ 2.2"),
        ("… at the one address for all", added(WeftVirtual, Weft), "≤ 2.2"),
        (
            "one address for all: requests/s, 64 connections, ÷ the server's own address",
            rate(WeftVirtual, WeftTwo),
            "-",
        ),
        ("… ÷ mcp-proxy", rate(WeftVirtual, McpProxy), "-"),
        ("… calls per second of CPU ÷ mcp-proxy", cpu(WeftVirtual, McpProxy), "-"),
        ("… added p50, one connection, ÷ mcp-proxy", added(WeftVirtual, McpProxy), "-"),
        ("… requests/s, 64 connections, ÷ ContextForge", rate(WeftVirtual, ContextForge), "-"),
        ("… added p50, one connection, ÷ ContextForge", added(WeftVirtual, ContextForge), "-"),
        ("gateway, token: added p50, one connection, ÷ one sidecar's", added(WeftGateway, Weft), "-"),
        ("… requests/s, 64 connections, ÷ one sidecar", rate(WeftGateway, Weft), "-"),
        ("gateway, key: added p50, one connection, ÷ one sidecar's", added(WeftGatewayKey, Weft), "-"),
        ("… requests/s, 64 connections, ÷ one sidecar", rate(WeftGatewayKey, Weft), "-"),
    ]
}

/// What recording costs, against a sidecar that records nothing but metrics.
fn records(book: &Book) -> [(&'static str, Option<f64>, &'static str); 7] {
    use System::{WeftAudited, WeftQuiet, WeftSampled, WeftTraced};
    let (one, busy) = (Load::Small(1), Load::Small(64));
    let costs = |system: System| {
        [
            book.ratio(busy, (system, WeftQuiet), |it| it.rate),
            book.ratio(busy, (system, WeftQuiet), |it| it.cpu),
        ]
    };
    let [sampled, sampled_cpu] = costs(WeftSampled);
    let [traced, traced_cpu] = costs(WeftTraced);
    let [audited, audited_cpu] = costs(WeftAudited);
    let p50 = |system: System| book.median(one, system, |it| it.p50);
    [
        ("requests/s, access log and 1 % traced ÷ nothing recorded", sampled, "≥ 0.9"),
        ("… CPU per call", sampled_cpu, "≤ 1.1"),
        (
            "… µs added to p50, one connection",
            p50(WeftSampled).zip(p50(WeftQuiet)).map(|(on, off)| on - off),
            "≤ 2",
        ),
        ("requests/s, access log and every call traced ÷ nothing recorded", traced, "≥ 0.65"),
        ("… CPU per call", traced_cpu, "≤ 1.54"),
        ("requests/s, access log and every call audited ÷ nothing recorded", audited, "≥ 0.8"),
        ("… CPU per call", audited_cpu, "≤ 1.25"),
    ]
}
