//! A stdio server for the sidecar to share among its callers, and the same server spoken to directly, which is what a
//! call through the sidecar is compared with.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::calls::{self, Answer};
use crate::drive::Outcome;
use crate::histogram::Histogram;
use crate::message::{self, Shape};

/// Most callers: a pipe must hold what all of them have under way, or the two ends would wait for each other.
const CALLERS_MAX: usize = 128;

/// Answers lines until there are no more. Answers to lines that came together leave together.
pub(crate) fn echo() -> anyhow::Result<()> {
    let mut input = BufReader::with_capacity(64 << 10, io::stdin());
    let mut output = BufWriter::new(io::stdout().lock());
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        match calls::answer(&line) {
            Some(Answer::Json(json) | Answer::Unknown(json) | Answer::Open(json)) => {
                writeln!(output, "{json}")?;
            }
            Some(Answer::Stream { event, events, result }) => {
                (0..events).try_for_each(|_| writeln!(output, "{event}"))?;
                writeln!(output, "{result}")?;
            }
            Some(Answer::Nothing) | None => {}
        }
        line.clear();
        if !input.buffer().contains(&b'\n') {
            output.flush()?;
        }
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Callers at once.
    #[arg(long, default_value_t = 1)]
    callers: usize,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Id {
    id: usize,
}

/// A child and its pipes.
struct Direct {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Direct {
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("stdio-echo")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("the child has an input")?;
        let output = BufReader::new(child.stdout.take().context("the child has an output")?);
        Ok(Self { child, input, output })
    }

    fn answered(&mut self, line: &mut String) -> anyhow::Result<usize> {
        line.clear();
        ensure!(self.output.read_line(line)? > 0, "the child ended");
        Ok(serde_json::from_str::<Id>(line)?.id)
    }
}

/// Calls a child of its own, as many calls under way as there are callers.
pub(crate) fn drive(args: &Args) -> anyhow::Result<()> {
    ensure!((1..=CALLERS_MAX).contains(&args.callers), "from 1 to {CALLERS_MAX} callers");
    let mut direct = Direct::start()?;
    let requests: HashMap<usize, String> =
        (0..args.callers).map(|id| (id, message::body(Shape::Small, "", id) + "\n")).collect();
    let mut begun = vec![Instant::now(); args.callers];
    for request in requests.values() {
        direct.input.write_all(request.as_bytes())?;
    }
    let (mut latencies, mut line) = (Histogram::default(), String::new());
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    while Instant::now() < end {
        let id = direct.answered(&mut line)?;
        latencies.record(begun.get(id).context("an answer to nobody")?.elapsed());
        begun[id] = Instant::now();
        direct.input.write_all(requests[&id].as_bytes())?;
    }
    drop(direct.input);
    direct.child.wait()?;
    let outcome = Outcome::of(&latencies, args.seconds);
    writeln!(io::stdout(), "{}", serde_json::to_string(&outcome)?)?;
    Ok(())
}
