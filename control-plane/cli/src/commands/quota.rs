//! `weft quota`: how the limits stand that the whole mesh shares.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::sleep;
use weft_proto::name::{ServerName, ServerName as PolicyName};
use weft_proto::resource::units::Span;

use crate::answers::{QuotaCount, QuotaPart, Quotas};
use crate::app::Context;
use crate::client::{self, Client, Path};
use crate::failure::{ExitCode, Failure};
use crate::output::{Form, FormArgs};
use crate::screen::Screen;
use crate::table::{Cell, Table};
use crate::terminal::Tone;

const EXAMPLES: &str = "\
Examples:
  weft quota status                         every mesh-wide limit that is used
  weft quota top                            the same live, the most used first

Limits of each instance (without `scope: mesh`) are counted in the sidecars. See their metrics
weft_sidecar_quota_used and weft_sidecar_quota_limit.";

const STATUS_EXAMPLES: &str = "\
Examples:
  weft quota status
  weft quota status --policy research/fair --watch
  weft quota status --of research/files -o json

Limits of each instance (without `scope: mesh`) are counted in the sidecars. See their metrics
weft_sidecar_quota_used and weft_sidecar_quota_limit.";

const TOP_EXAMPLES: &str = "\
Examples:
  weft quota top                            until Ctrl-C
  weft quota top --of research/files --every 5s

Limits of each instance (without `scope: mesh`) are counted in the sidecars. See their metrics
weft_sidecar_quota_used and weft_sidecar_quota_limit.";

/// Shortest time between two looks.
const EVERY_MIN: Duration = Duration::from_millis(100);
/// From which part of a limit its use is worth a warning.
const MUCH: f64 = 0.8;

/// Shows how mesh-wide limits stand: what of each is used, lent to sidecars, and refused
///
/// A limit is shown once for each caller, tool, or whatever else splits it, as long as a sidecar counts by it. Only rates
/// and calls at once with `scope: mesh` are lent by the control plane and shown.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct QuotaArgs {
    #[command(subcommand)]
    pub(crate) command: QuotaCommand,
}

/// What to show of quotas.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    Status(StatusArgs),
    Top(TopArgs),
}

/// Shows how mesh-wide limits stand, by policy and limit
///
/// Of a rate, USED is what passed within its last window, or within the last seconds where the window is shorter; a burst
/// may be more than the limit. Of calls at once, it is the most that ran lately. LENT is what sidecars hold; one that is
/// learning lends nothing new, for the control plane began lately, and what was lent before may still be in use.
#[derive(Clone, Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Show it again and again, until Ctrl-C
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// With --watch: how often
    #[arg(long, value_name = "DURATION", default_value = "1s", requires = "watch")]
    pub(crate) every: Span,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Shows live of which mesh-wide limits most is used
#[derive(Clone, Debug, Args)]
#[command(after_help = TOP_EXAMPLES)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// How often it is looked again
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub(crate) every: Span,
}

/// Which limits.
#[derive(Clone, Debug, Args)]
pub(crate) struct WhichArgs {
    /// Only those of one QuotaPolicy, as <namespace>/<name>
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<PolicyName>,
    /// Only those that a server is under, as <namespace>/<name>
    #[arg(long = "of", value_name = "SERVER")]
    pub(crate) of: Option<ServerName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Name,
    Use,
}

pub(crate) async fn run(args: QuotaArgs, context: &Context) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    match args.command {
        QuotaCommand::Status(args) if args.watch => {
            watch(&client, &args.which, args.form.form, Order::Name, args.every, context).await
        }
        QuotaCommand::Status(args) => status(&client, &args, context).await,
        QuotaCommand::Top(args) => {
            watch(&client, &args.which, Form::Table, Order::Use, args.every, context).await
        }
    }
}

impl WhichArgs {
    fn path(&self) -> Path {
        Path::v1(&["quotas"]).with("policy", self.policy.as_ref()).with("server", self.of.as_ref())
    }
}

async fn status(client: &Client, args: &StatusArgs, context: &Context) -> Result<ExitCode, Failure> {
    let answer = client.get(&args.which.path()).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let quotas: Quotas = client::read(answer)?;
    let left_out = quotas.left_out;
    if quotas.items.is_empty() {
        context.terminal.say("no mesh-wide limit is in use: none has `scope: mesh`, or no call came lately");
        context
            .terminal
            .say("limits of each instance are told by the sidecars' metrics weft_sidecar_quota_used");
    } else {
        context.terminal.print(&render(quotas.items, Order::Name, context.terminal.color()))?;
    }
    if left_out > 0 {
        context.terminal.warn(&format!("{left_out} more are used less and not shown; --policy narrows it"));
    }
    Ok(ExitCode::Done)
}

/// Shows it until there is no answer. On a terminal it is drawn over in place.
async fn watch(
    client: &Client,
    which: &WhichArgs,
    form: Form,
    order: Order,
    every: Span,
    context: &Context,
) -> Result<ExitCode, Failure> {
    let terminal = &context.terminal;
    let draws = form == Form::Table && terminal.drawable();
    let screen = draws.then(|| Screen::new(Arc::clone(terminal)));
    loop {
        let answer = client.get(&which.path()).await?;
        let text = match form.machine(&answer) {
            Some(text) => text?,
            None => block(client::read(answer)?, order, terminal.color()),
        };
        match &screen {
            Some(screen) => screen.draw(&text)?,
            None if form == Form::Table => terminal.print(&format!("{text}\n"))?,
            None => terminal.print(&text)?,
        }
        sleep(every.duration().max(EVERY_MIN)).await;
    }
}

/// The table with what is to be said of it.
fn block(quotas: Quotas, order: Order, colour: bool) -> String {
    let left_out = quotas.left_out;
    if quotas.items.is_empty() {
        return "no mesh-wide limit is in use\n".to_owned();
    }
    let mut text = render(quotas.items, order, colour);
    if left_out > 0 {
        text.push_str(&format!("… {left_out} more are used less\n"));
    }
    text
}

fn render(mut counts: Vec<QuotaCount>, order: Order, colour: bool) -> String {
    // They come by use.
    if order == Order::Name {
        counts.sort_by_cached_key(|count| (count.policy.clone(), count.limit.clone(), per(count)));
    }
    let mut table =
        Table::new(vec!["POLICY", "LIMIT", "PER", "AMOUNT", "USED", "LENT", "HOLDERS", "DENIED", "STATE"]);
    for count in &counts {
        table.push(row(count));
    }
    table.render(colour)
}

fn row(count: &QuotaCount) -> Vec<Cell> {
    let part = if count.capacity > 0.0 { count.used / count.capacity } else { 0.0 };
    let tone = match part {
        part if part >= 1.0 => Tone::Bad,
        part if part >= MUCH => Tone::Warn,
        _ => Tone::Plain,
    };
    let state = if count.learning { ("learning", Tone::Warn) } else { ("lending", Tone::Good) };
    vec![
        Cell::new(&count.policy),
        Cell::new(&count.limit),
        Cell::new(per(count)),
        Cell::new(&count.amount),
        Cell::new(format!("{} ({:.0}%)", number(count.used), part * 100.0)).toned(tone),
        Cell::new(number(count.lent)),
        Cell::new(count.holders.to_string()),
        Cell::new(count.denied.to_string()),
        Cell::new(state.0).toned(state.1),
    ]
}

/// `caller=a/b, tool=read`; what a call lacks is a dash.
fn per(count: &QuotaCount) -> String {
    let part = |part: &QuotaPart| format!("{}={}", part.dimension, part.value.as_deref().unwrap_or("-"));
    count.per.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// With a tenth where there is one.
fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), ToOwned::to_owned)
}
