//! `weft history`: shows what was changed, by whom and why.

use clap::Args;
use serde_json::Value;
use weft_proto::name::Namespace;

use super::outcome;
use crate::answers::{Applied, Change, History, Outcome};
use crate::app::Context;
use crate::client::{self, Path};
use crate::columns::some_of;
use crate::failure::{ExitCode, Failure};
use crate::moments;
use crate::names::{Named, display};
use crate::output::FormArgs;
use crate::table::{Cell, Table};

const EXAMPLES: &str = "\
Examples:
  weft history                              the latest changes
  weft history 42                           what revision 42 changed
  weft history --kind accesspolicy -n research
  weft history --kind mcpserver/research/files --limit 5
  weft history --before 42                  earlier changes";

/// Shows what was changed, when, by whom and why
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HistoryArgs {
    /// Show what this revision changed
    #[arg(value_name = "REVISION", conflicts_with_all = ["kind", "namespace", "before", "limit"])]
    pub(crate) revision: Option<u64>,
    /// Only changes of this kind, or of the object <kind>/<namespace>/<name>
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// Only changes in this namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<Namespace>,
    /// Only changes before this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) before: Option<u64>,
    /// Most changes to show
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

pub(crate) async fn run(args: HistoryArgs, context: &Context) -> Result<ExitCode, Failure> {
    match args.revision {
        Some(revision) => one(revision, &args, context).await,
        None => many(&args, context).await,
    }
}

async fn many(args: &HistoryArgs, context: &Context) -> Result<ExitCode, Failure> {
    let named = args.kind.as_deref().map(|kind| Named::parse(kind, None)).transpose()?;
    let mut path = Path::v1(&["history"]).with("limit", Some(args.limit)).with("before", args.before);
    if let Some(named) = &named {
        let namespace = match named.name {
            Some(_) => Some(named.namespace_or(args.namespace.as_ref())?),
            None => args.namespace.clone(),
        };
        path = path
            .with("kind", named.kind.map(|kind| kind.plural()))
            .with("namespace", namespace)
            .with("name", named.name.as_ref());
    } else {
        path = path.with("namespace", args.namespace.as_ref());
    }
    let answer = context.client()?.get(&path).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let history: History = client::read(answer)?;
    if history.items.is_empty() {
        context.terminal.say("no change matches");
        return Ok(ExitCode::Done);
    }
    context.terminal.print(&table(&history).render(context.terminal.color()))?;
    if let Some(next) = &history.next {
        context.terminal.say(&format!("there may be earlier changes: weft history --before {next}"));
    }
    Ok(ExitCode::Done)
}

fn table(history: &History) -> Table {
    let mut table = Table::new(vec!["REVISION", "AT", "AUTHOR", "CHANGES", "REASON"]);
    for change in &history.items {
        let changes = change.changes.iter().map(summary).collect();
        table.push(vec![
            Cell::new(change.revision.to_string()),
            Cell::new(moments::second(&change.at)),
            Cell::new(&change.author),
            Cell::new(some_of(changes)),
            Cell::new(change.reason.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

fn summary(change: &Outcome) -> String {
    format!("{} {}", display(&change.kind, &change.namespace, &change.name), change.action)
}

async fn one(revision: u64, args: &HistoryArgs, context: &Context) -> Result<ExitCode, Failure> {
    let path = Path::v1(&["history", &revision.to_string()]);
    let answer: Value = context.client()?.get(&path).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let change: Change = client::read(answer)?;
    let (at, author) = (moments::second(&change.at), &change.author);
    let head = format!("revision {}  {at}  by {author}", change.revision);
    let reason = change.reason.filter(|reason| !reason.is_empty()).map(|reason| format!("\n{reason}"));
    let text = format!("{head}{}\n\n", reason.unwrap_or_default());
    context.terminal.print(&crate::terminal::plain(&text))?;
    outcome::show_diffs(context, &Applied { results: change.changes, ..Applied::default() })?;
    Ok(ExitCode::Done)
}
