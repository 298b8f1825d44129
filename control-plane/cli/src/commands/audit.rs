//! `weft audit`: who did what to the control plane; and the audit trails, found, verified and exported.

mod export;
mod otlp;
mod query;
mod syslog;
mod verify;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::answers::{Audit, Record};
use crate::app::Context;
use crate::client::{self, Path};
use crate::columns::clip;
use crate::failure::{ExitCode, Failure};
use crate::moments;
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::Tone;

const EXAMPLES: &str = "\
Examples:
  weft audit                                the latest records
  weft audit --who ci --limit 100           what the key `ci` did
  weft audit --action token. -o json         every act on tokens, for programs
  weft audit --before 500                   earlier records
  weft audit query --tool delete_file       calls that policy marks, from every sidecar
  weft audit verify                         whether all trails are as they were written
  weft audit export --to tcp://logs:601     records for a syslog daemon";

const DETAIL_CHARS_MAX: usize = 80;

/// Shows who asked the control plane for what, and what came of it
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) what: Option<What>,
    /// Only what this operator or key asked for
    #[arg(long, value_name = "NAME")]
    pub(crate) who: Option<String>,
    /// Only this action, such as apply; with a dot at its end all that begin so, such as token.
    #[arg(long, value_name = "ACTION")]
    pub(crate) action: Option<String>,
    /// Only records before this number
    #[arg(long, value_name = "SEQUENCE")]
    pub(crate) before: Option<u64>,
    /// Most records to show
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// What is done with the trails.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum What {
    Query(query::QueryArgs),
    Verify(verify::VerifyArgs),
    Export(export::ExportArgs),
}

pub(crate) async fn run(args: AuditArgs, context: &Context) -> Result<ExitCode, Failure> {
    match args.what {
        None => list(args, context).await,
        Some(What::Query(args)) => query::run(args, context).await,
        Some(What::Verify(args)) => verify::run(args, context).await,
        Some(What::Export(args)) => export::run(args, context).await,
    }
}

async fn list(args: AuditArgs, context: &Context) -> Result<ExitCode, Failure> {
    let path = Path::v1(&["audit"])
        .with("limit", Some(args.limit))
        .with("before", args.before)
        .with("who", args.who.as_ref())
        .with("action", args.action.as_ref());
    let answer = context.client()?.get(&path).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let audit: Audit = client::read(answer)?;
    if audit.items.is_empty() {
        context.terminal.say("no record matches");
        return Ok(ExitCode::Done);
    }
    context.terminal.print(&table(&audit.items).render(context.terminal.color()))?;
    if let Some(next) = &audit.next {
        context.terminal.say(&format!("there may be earlier records: weft audit --before {next}"));
    }
    Ok(ExitCode::Done)
}

fn table(records: &[Record]) -> Table {
    let mut table =
        Table::new(vec!["SEQUENCE", "AT", "WHO", "FROM", "ACTION", "OBJECT", "OUTCOME", "DETAIL"]);
    for record in records {
        let detail = match &record.detail {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let tone = match record.outcome.as_str() {
            "done" => Tone::Plain,
            _ => Tone::Warn,
        };
        table.push(vec![
            Cell::new(record.sequence.to_string()),
            Cell::new(moments::second(&record.at)),
            Cell::new(&record.who),
            Cell::new(record.from.as_deref().unwrap_or_default()),
            Cell::new(&record.action),
            Cell::new(record.object.as_deref().unwrap_or_default()),
            Cell::new(&record.outcome).toned(tone),
            Cell::new(clip(&detail, DETAIL_CHARS_MAX)),
        ]);
    }
    table
}
