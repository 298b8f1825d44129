//! `weft logs`: what a sidecar logs.

use clap::Args;
use hyper::Method;
use serde_json::json;
use weft_proto::name::NodeId;
use weft_proto::resource::units::Span;

use super::config::of_sidecar;
use crate::answers::{LogLines, SidecarLogging};
use crate::app::Context;
use crate::client::{self, Body};
use crate::failure::{ExitCode, Failure};
use crate::moments;
use crate::output::FormArgs;
use crate::terminal::plain;

const EXAMPLES: &str = "\
Examples:
  weft logs research/files-0                what it logs now
  weft logs research/files-0 --lines        the newest lines of its log; takes the scope operator
  weft logs research/files-0 --level debug --for 10m
                                            more for ten minutes, then what it was by itself
  weft logs research/files-0 --level info,weft_sidecar::quota=debug
                                            more of one part, until somebody sets it again or it restarts

All lines go where the sidecar's stderr goes; of the newest, 128 KiB are kept for --lines, without what servers beside
the sidecar say. Who set what is in the audit trail: weft audit query.";

/// Shows what a sidecar logs, or sets it, for good or for a while
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LogsArgs {
    /// The sidecar, as <namespace>/<instance>
    #[arg(value_name = "SIDECAR")]
    pub(crate) node: NodeId,
    /// Show the newest lines of its log
    #[arg(long, conflicts_with = "level")]
    pub(crate) lines: bool,
    /// What to log: error, warn, info, debug or trace, also per module as in info,weft_sidecar::control=debug
    #[arg(long, value_name = "FILTER")]
    pub(crate) level: Option<String>,
    /// After so long it logs again what it did before; at most a day
    #[arg(long = "for", value_name = "DURATION", requires = "level")]
    pub(crate) time: Option<Span>,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

pub(crate) async fn run(args: LogsArgs, context: &Context) -> Result<ExitCode, Failure> {
    if args.lines {
        return lines(&args, context).await;
    }
    let (client, path) = (context.client()?, of_sidecar(&args.node, "logging"));
    let answer = match &args.level {
        None => client.get(&path).await?,
        Some(filter) => {
            let secs = args.time.map_or(0, |time| time.duration().as_secs().max(1));
            let body = json!({ "filter": filter, "forSeconds": secs });
            client.send(Method::PUT, &path, Body::Json(body)).await?
        }
    };
    let text = match args.form.form.machine(&answer) {
        Some(text) => text?,
        None => told(&client::read(answer)?),
    };
    context.terminal.print(&text)?;
    Ok(ExitCode::Done)
}

async fn lines(args: &LogsArgs, context: &Context) -> Result<ExitCode, Failure> {
    let answer = context.client()?.get(&of_sidecar(&args.node, "log")).await?;
    let text = match args.form.form.machine(&answer) {
        Some(text) => text?,
        None => {
            let LogLines { lines, .. } = client::read(answer)?;
            lines.iter().map(|line| format!("{}\n", plain(line))).collect()
        }
    };
    context.terminal.print(&text)?;
    if text.is_empty() {
        context.terminal.say("it keeps no lines; those of a sidecar of `weft up` are in that one's log");
    }
    Ok(ExitCode::Done)
}

fn told(logging: &SidecarLogging) -> String {
    let SidecarLogging { node, filter, before, usual, returns_in_seconds } = logging;
    let mut text = match before {
        Some(before) => format!("{node} logs {filter}; before, it was {before}\n"),
        None => format!("{node} logs {filter}\n"),
    };
    if let (Some(usual), Some(secs)) = (usual, returns_in_seconds) {
        let left = moments::length(i64::try_from(*secs).unwrap_or(i64::MAX));
        text.push_str(&format!("in {left} it logs {usual} again\n"));
    }
    plain(&text).into_owned()
}
