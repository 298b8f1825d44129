//! `weft tap`: calls as they end.

use clap::{Args, ValueEnum};
use serde_json::Value;
use weft_proto::name::{Namespace, NodeId};
use weft_proto::resource::units::Span;

use super::stat::time;
use crate::answers::Tapped;
use crate::app::Context;
use crate::client::{Error, Event, Path};
use crate::failure::{ExitCode, Failure};
use crate::table::{Cell, Table};
use crate::terminal::Tone;

const EXAMPLES: &str = "\
Examples:
  weft tap                                  every call in the mesh, until Ctrl-C
  weft tap --of research/files --tool 'delete_*'
                                            what is deleted there
  weft tap --outcome refused --caller agents/bot
                                            what a caller may not do
  weft tap --outcome limited --max 1        wait for the next call that is refused by a rate
  weft tap --for 1m -o json | jq .micros    for programs: an event on each line

A call is shown once, as the sidecar of its server saw it; as its caller's did where it came no further. Arguments and
results are never shown. What comes faster than it is read is lost, counted, and said. It takes the scope operator, and
who taps what is in the audit trail.";

/// Shows calls live as they end: when, who, which tool, what became of it and how long it took
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TapArgs {
    /// Only what sidecars of this namespace see
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<Namespace>,
    /// Only what one sidecar sees, as <namespace>/<instance>
    #[arg(long, value_name = "SIDECAR")]
    pub(crate) sidecar: Option<NodeId>,
    /// Only calls of these servers, as <namespace>/<name>; * stands for any text
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    pub(crate) of: Vec<String>,
    /// Only calls of these tools, prompts or resources; * stands for any text
    #[arg(long, value_name = "TOOL", value_delimiter = ',')]
    pub(crate) tool: Vec<String>,
    /// Only calls of these identities, as <namespace>/<account> or a pattern
    #[arg(long, value_name = "CALLER", value_delimiter = ',')]
    pub(crate) caller: Vec<String>,
    /// Only calls of which this became: ok, refused, failed, left, or a reason such as denied
    #[arg(long, value_name = "OUTCOME", value_delimiter = ',')]
    pub(crate) outcome: Vec<String>,
    /// End after so many calls
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max: Option<u64>,
    /// End after so long
    #[arg(long = "for", value_name = "DURATION")]
    pub(crate) time: Option<Span>,
    /// How calls are shown
    #[arg(long = "output", short = 'o', value_name = "FORM", default_value = "table")]
    pub(crate) form: TapForm,
}

/// How calls are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TapForm {
    /// A row for each call
    #[default]
    Table,
    /// A line of JSON for each call
    Json,
}

pub(crate) async fn run(args: TapArgs, context: &Context) -> Result<ExitCode, Failure> {
    let joined = |texts: &[String]| (!texts.is_empty()).then(|| texts.join(","));
    let path = Path::v1(&["tap"])
        .with("namespace", args.namespace.as_ref())
        .with("sidecar", args.sidecar.as_ref())
        .with("server", joined(&args.of))
        .with("tool", joined(&args.tool))
        .with("caller", joined(&args.caller))
        .with("outcome", joined(&args.outcome))
        .with("max", args.max)
        .with("forSeconds", args.time.map(|time| time.duration().as_secs().max(1)));
    let mut events = context.client()?.events(&path).await?;
    let mut tap = Tap { context, form: args.form, table: table(), lost: 0 };
    while let Some(event) = events.next().await? {
        if tap.take(&event)? {
            return Ok(ExitCode::Done);
        }
    }
    Err(Failure::unreachable("the control plane ended the tap").then("start it again"))
}

struct Tap<'a> {
    context: &'a Context,
    form: TapForm,
    table: Table,
    lost: u64,
}

fn table() -> Table {
    let mut table = Table::new(vec![
        "AT",
        "SERVER",
        "CALL",
        "CALLER",
        "OUTCOME",
        "REASON",
        "TOOK",
        "BYTES IN/OUT",
        "SEEN BY",
    ]);
    // Rows come one by one.
    table.push(
        [
            "00:00:00.000",
            "namespace/server",
            "tools/call some_tool",
            "namespace/account",
            "refused",
            "denied",
            "999.9ms",
            "1000/10000",
            "",
        ]
        .map(Cell::new)
        .into(),
    );
    table
}

impl Tap<'_> {
    /// Shows an event; true if it was the last.
    fn take(&mut self, event: &Event) -> Result<bool, Failure> {
        let strange = |error: serde_json::Error| Failure::from(Error::Strange(error.to_string()));
        let value: Value = serde_json::from_str(&event.data).map_err(strange)?;
        let tapped: Tapped = serde_json::from_value(value.clone()).map_err(strange)?;
        let terminal = &self.context.terminal;
        match event.name.as_str() {
            "begun" => self.begin(&tapped)?,
            "call" => {
                let text = match self.form {
                    TapForm::Json => format!("{value}\n"),
                    TapForm::Table => self.table.line(&row(&tapped), terminal.color()),
                };
                terminal.print(&text)?;
            }
            "joined" => terminal.detail(&format!("{} tells its calls", tapped.sidecar)),
            "left" => terminal.warn(&format!("{} tells no more: {}", tapped.sidecar, tapped.why)),
            "lost" => {
                let count = tapped.count.unwrap_or_default();
                self.lost += count;
                terminal
                    .warn(&format!("{count} calls came faster than they were taken; {} so far", self.lost));
            }
            "end" => {
                terminal.detail(&tapped.why);
                return Ok(true);
            }
            // Later versions may say more.
            _ => {}
        }
        Ok(false)
    }

    fn begin(&self, tapped: &Tapped) -> Result<(), Failure> {
        let terminal = &self.context.terminal;
        match tapped.count {
            None | Some(0) => {
                terminal.warn("no sidecar that is connected is meant; one that comes will be asked")
            }
            Some(1) => terminal.detail("one sidecar is asked"),
            Some(count) => terminal.detail(&format!("{count} sidecars are asked")),
        }
        match self.form {
            TapForm::Json => Ok(()),
            TapForm::Table => {
                let headers = self.table.render(terminal.color());
                terminal.print(headers.split_inclusive('\n').next().unwrap_or_default())
            }
        }
    }
}

fn row(call: &Tapped) -> Vec<Cell> {
    let tone = match call.outcome.as_str() {
        "ok" => Tone::Good,
        "refused" | "left" => Tone::Warn,
        _ => Tone::Bad,
    };
    let what = [call.method.as_str(), call.target.as_str()].join(" ");
    let bytes =
        format!("{}/{}", call.request_bytes.unwrap_or_default(), call.response_bytes.unwrap_or_default());
    let reason = match (call.limit.as_str(), call.refused_in_shadow) {
        ("", false) => call.reason.clone(),
        ("", true) => format!("{} (a shadow would refuse)", call.reason),
        (limit, _) => format!("{} by {limit}", call.reason),
    };
    vec![
        Cell::new(clock(call.at.as_deref().unwrap_or_default())),
        Cell::new(&call.server),
        Cell::new(what.trim()),
        Cell::new(short(&call.caller)),
        Cell::new(&call.outcome).toned(tone),
        Cell::new(if call.reason == "ok" && !call.refused_in_shadow { String::new() } else { reason }),
        Cell::new(call.micros.map(time).unwrap_or_default()),
        Cell::new(bytes),
        Cell::new(format!("{} {}", call.sidecar, call.listener)),
    ]
}

/// The time of day of a moment, in UTC, to the millisecond.
fn clock(at: &str) -> String {
    let at: Result<jiff::Timestamp, _> = at.parse();
    at.map(|at| at.strftime("%H:%M:%S%.3f").to_string()).unwrap_or_default()
}

/// An identity without what all identities have in common. Somebody for whom a gateway calls, whose name has a `#`, is not
/// taken for one of the mesh.
pub(super) fn short(identity: &str) -> String {
    let of_mesh = Some(identity).filter(|it| !it.contains('#'));
    let parts = of_mesh
        .and_then(|identity| identity.strip_prefix("spiffe://"))
        .and_then(|rest| rest.split_once("/ns/"));
    parts
        .and_then(|(_, path)| path.split_once("/sa/"))
        .map_or_else(|| identity.to_owned(), |(namespace, account)| format!("{namespace}/{account}"))
}
