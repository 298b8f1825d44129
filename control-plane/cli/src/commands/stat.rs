//! `weft stat` and `weft top`: the golden signals, once, or again and again.

use clap::{Args, ValueEnum};
use serde_json::Value;
use weft_proto::name::{Namespace, NodeId};
use weft_proto::resource::units::Span;

use super::tap::short;
use crate::answers::{CallCount, CallCounts};
use crate::app::Context;
use crate::client::{Error, Events, Path};
use crate::failure::{ExitCode, Failure};
use crate::output::{Form, FormArgs};
use crate::screen::Screen;
use crate::table::{Cell, Table};
use crate::terminal::Tone;

const STAT_EXAMPLES: &str = "\
Examples:
  weft stat                                 every server, over ten seconds
  weft stat --by tool --of research/files --window 1m
                                            the tools of one server, over a minute
  weft stat --by caller                     who calls what; takes the scope operator
  weft stat -o json                         for programs

Nothing is sampled: for the time of the window, the sidecars count every call that ends. A call counts once, where its
server's sidecar saw it, or its caller's where it came no further. Lengths of time are exact to a sixteenth.";

const TOP_EXAMPLES: &str = "\
Examples:
  weft top                                  every server, drawn over every two seconds, until Ctrl-C
  weft top --by tool --every 5s
  weft top --once                           one table, as weft stat shows it
  weft top | tee load.txt                   without a terminal: a line for each window";

/// Below which part of good answers a row is worth a warning, and worse.
const SUCCESS_WARN: f64 = 0.99;
const SUCCESS_BAD: f64 = 0.9;

/// What calls are counted apart by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    #[default]
    Server,
    /// The tools of each server
    Tool,
    /// The callers of each server
    Caller,
    Sidecar,
}

impl By {
    const fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Tool => "tool",
            Self::Caller => "caller",
            Self::Sidecar => "sidecar",
        }
    }
}

/// Which calls.
#[derive(Clone, Debug, Args)]
pub(crate) struct WhichArgs {
    /// What calls are counted apart by
    #[arg(long, value_name = "WHAT", default_value = "server")]
    pub(crate) by: By,
    /// Only what sidecars of this namespace see
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<Namespace>,
    /// Only what one sidecar sees, as <namespace>/<instance>
    #[arg(long, value_name = "SIDECAR")]
    pub(crate) sidecar: Option<NodeId>,
    /// Only calls of these servers, as <namespace>/<name>; * stands for any text
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    pub(crate) of: Vec<String>,
}

/// Shows how many calls there are, what becomes of them and how long they take
#[derive(Clone, Debug, Args)]
#[command(after_help = STAT_EXAMPLES)]
pub(crate) struct StatArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// For how long calls are counted; at most a minute
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) window: Span,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Shows the same again and again, the busiest first
#[derive(Clone, Debug, Args)]
#[command(after_help = TOP_EXAMPLES)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// How long each window is; at most a minute
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(crate) every: Span,
    /// Show one window, and end
    #[arg(long)]
    pub(crate) once: bool,
}

pub(crate) async fn run(args: StatArgs, context: &Context) -> Result<ExitCode, Failure> {
    once(&args.which, args.window, args.form.form, context).await
}

pub(crate) async fn top(args: TopArgs, context: &Context) -> Result<ExitCode, Failure> {
    if args.once {
        return once(&args.which, args.every, Form::Table, context).await;
    }
    let mut events = open(&args.which, args.every, context).await?;
    let screen = Screen::new(std::sync::Arc::clone(&context.terminal));
    let colour = context.terminal.color();
    loop {
        let (_, counts) = next(&mut events).await?;
        match context.terminal.drawable() {
            true => screen.draw(&(line(&counts) + "\n" + &block(&counts, args.which.by, colour)))?,
            false => context.terminal.print(&line(&counts))?,
        }
    }
}

async fn once(which: &WhichArgs, window: Span, form: Form, context: &Context) -> Result<ExitCode, Failure> {
    let mut events = open(which, window, context).await?;
    let (answer, counts) = next(&mut events).await?;
    let text = match form.machine(&answer) {
        Some(text) => text?,
        None => block(&counts, which.by, context.terminal.color()),
    };
    context.terminal.print(&text)?;
    if form == Form::Table {
        remarks(&counts, context);
    }
    Ok(ExitCode::Done)
}

async fn open(which: &WhichArgs, window: Span, context: &Context) -> Result<Events, Failure> {
    let path = Path::v1(&["calls"])
        .with("by", Some(which.by.word()))
        .with("namespace", which.namespace.as_ref())
        .with("sidecar", which.sidecar.as_ref())
        .with("server", (!which.of.is_empty()).then(|| which.of.join(",")))
        .with("windowMillis", Some(window.duration().as_millis()));
    Ok(context.client()?.events(&path).await?)
}

/// The next window.
async fn next(events: &mut Events) -> Result<(Value, CallCounts), Failure> {
    while let Some(event) = events.next().await? {
        if event.name == "counts" {
            let strange = |error: serde_json::Error| Failure::from(Error::Strange(error.to_string()));
            let value: Value = serde_json::from_str(&event.data).map_err(strange)?;
            let counts = serde_json::from_value(value.clone()).map_err(strange)?;
            return Ok((value, counts));
        }
    }
    Err(Failure::unreachable("the control plane ended the stream of counts").then("start it again"))
}

/// What is to be said beside the table.
fn remarks(counts: &CallCounts, context: &Context) {
    let terminal = &context.terminal;
    for silent in &counts.silent {
        terminal.warn(&format!("{} is not counted: {}", silent.node, silent.why));
    }
    if counts.crowded > 0 {
        terminal.warn(&format!(
            "{} calls are only counted with their server: there were too many others",
            counts.crowded
        ));
    }
    if counts.left_out > 0 {
        terminal.say(&format!("{} more rows have fewer calls and are not shown", counts.left_out));
    }
    if counts.sidecars == 0 {
        terminal.warn("no sidecar counted");
    }
}

/// The table, with the sum of all rows below.
fn block(counts: &CallCounts, by: By, colour: bool) -> String {
    let mut headers = match by {
        By::Server => vec!["SERVER"],
        By::Tool => vec!["SERVER", "TOOL"],
        By::Caller => vec!["SERVER", "CALLER"],
        By::Sidecar => vec!["SIDECAR"],
    };
    headers.extend(["CALLS/S", "SUCCESS", "CALLS", "REFUSED", "FAILED", "LEFT", "P50", "P95", "P99"]);
    let mut table = Table::new(headers);
    for count in &counts.items {
        table.push(row(count, by));
    }
    if counts.items.len() != 1 {
        let mut sum = row(&counts.total, by);
        sum[0] = Cell::new("all").toned(Tone::Strong);
        table.push(sum);
    }
    table.render(colour)
}

fn row(count: &CallCount, by: By) -> Vec<Cell> {
    let mut row = match by {
        By::Server => vec![Cell::new(&count.server)],
        By::Tool => vec![Cell::new(&count.server), Cell::new(&count.tool)],
        By::Caller => vec![Cell::new(&count.server), Cell::new(short(&count.caller))],
        By::Sidecar => vec![Cell::new(&count.sidecar)],
    };
    let tone = match count.success {
        Some(part) if part < SUCCESS_BAD => Tone::Bad,
        Some(part) if part < SUCCESS_WARN => Tone::Warn,
        Some(_) | None => Tone::Plain,
    };
    let length = |micros: Option<u64>| Cell::new(micros.map(time).unwrap_or_default());
    let some = |count: u64, tone: Tone| {
        Cell::new(count.to_string()).toned(if count > 0 { tone } else { Tone::Plain })
    };
    row.extend([
        Cell::new(rate(count.calls_per_second)),
        Cell::new(count.success.map(percent).unwrap_or_default()).toned(tone),
        Cell::new(count.calls.to_string()),
        some(count.refused, Tone::Warn),
        some(count.failed, Tone::Bad),
        some(count.left, Tone::Plain),
        length(count.p50_micros),
        length(count.p95_micros),
        length(count.p99_micros),
    ]);
    row
}

/// One window in one line.
fn line(counts: &CallCounts) -> String {
    let total = &counts.total;
    let length = |micros: Option<u64>| micros.map_or_else(|| "-".to_owned(), time);
    let silent = match counts.silent.len() {
        0 => String::new(),
        silent => format!("  {silent} sidecars silent"),
    };
    format!(
        "{}  {} calls/s  {} ok  {} refused  {} failed  p50 {}  p95 {}  p99 {}  {} sidecars{silent}\n",
        crate::moments::second(&counts.at),
        rate(total.calls_per_second),
        total.success.map_or_else(|| "-".to_owned(), percent),
        total.refused,
        total.failed,
        length(total.p50_micros),
        length(total.p95_micros),
        length(total.p99_micros),
        counts.sidecars,
    )
}

fn rate(per_second: f64) -> String {
    if per_second < 100.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// Never `100.00%` of what is not all.
fn percent(part: f64) -> String {
    // What numbers cannot hold exactly is no reason to say less.
    let hundredths = (part * 10_000.0 + 1e-6).floor() / 100.0;
    format!("{hundredths:.2}%")
}

/// A length of time in its fitting unit, with one digit behind the point.
pub(super) fn time(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros}µs"),
        1000..1_000_000 => format!("{:.1}ms", micros as f64 / 1e3),
        _ => format!("{:.1}s", micros as f64 / 1e6),
    }
}
