//! What only the sidecar has: servers on standard input and output, and how soon it is ready.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::book::Book;
use super::{Bench, SLACK, outcome, tell};
use crate::drive::Outcome;
use crate::systems::{Behind, System, free_port, pinned, program, weft_config};

/// How often the start is measured.
const STARTS: u32 = 10;
const CALLERS: [usize; 2] = [1, 64];

pub(super) async fn run(bench: &Bench, book: &mut Book) -> anyhow::Result<()> {
    if !bench.args.systems().contains(&System::Weft) {
        return Ok(());
    }
    for _ in 0..bench.args.rounds {
        if let Err(error) = stdio(bench, book).await {
            book.note(format!("stdio: {error:#}"));
            break;
        }
    }
    for _ in 0..STARTS {
        match start(bench).await {
            Ok(took) => book.figure("start ms", took.as_secs_f64() * 1000.0),
            Err(error) => {
                book.note(format!("start: {error:#}"));
                break;
            }
        }
    }
    Ok(())
}

/// The same child, spoken to directly and through the sidecar, in turn.
async fn stdio(bench: &Bench, book: &mut Book) -> anyhow::Result<()> {
    for callers in CALLERS {
        let mut command = pinned(bench.site.load_core, &std::env::current_exe()?);
        command.args(["stdio-drive", "--callers", &callers.to_string()]);
        command.args(["--seconds", &bench.args.seconds.to_string()]);
        let direct = outcome(command, SLACK + bench.args.span()).await?;
        keep(book, "directly", callers, &direct);
    }
    let running = bench.site.start_stdio().await?;
    for callers in CALLERS {
        let load = [
            format!("--connections={callers}"),
            format!("--seconds={}", bench.args.seconds),
            format!("--warm-up={}", bench.args.warm_up()),
        ];
        let through = bench.drive(&running, &load, bench.args.span()).await?;
        if through.errors > 0 {
            book.note(format!("stdio: {} calls of {callers} callers failed", through.errors));
        }
        keep(book, "through weft", callers, &through);
    }
    running.stop().await
}

fn keep(book: &mut Book, how: &str, callers: usize, outcome: &Outcome) {
    tell(&format!("stdio {how}, {callers} callers: {:.0}/s, p50 {:.0} µs", outcome.rate, outcome.p50));
    book.figure(format!("stdio {how}, {callers}: rate"), outcome.rate);
    book.figure(format!("stdio {how}, {callers}: p50"), outcome.p50);
    book.figure(format!("stdio {how}, {callers}: p99"), outcome.p99);
}

/// From the start of the process to its word that it is ready.
async fn start(bench: &Bench) -> anyhow::Result<Duration> {
    let config = weft_config(&bench.site, free_port()?, &Behind::Http(System::Weft))?;
    let mut command = pinned(bench.site.proxy_core, &program()?);
    command.arg("run").arg("--config").arg(config).stdout(Stdio::piped()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let output = child.stdout.take().context("it has an output")?;
    let mut lines = BufReader::new(output).lines();
    let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await;
    let took = begun.elapsed();
    line.context("it says nothing")??.context("it ended")?;
    child.kill().await?;
    Ok(took)
}
