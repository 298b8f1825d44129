//! `weft config`: what a sidecar holds, what it is to hold, and the difference.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::Value;
use weft_proto::name::NodeId;

use crate::answers::{Difference, SidecarConfig};
use crate::app::Context;
use crate::client::{self, Path};
use crate::columns::clip;
use crate::failure::{ExitCode, Failure};
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::{Tone, plain};

const EXAMPLES: &str = "\
Examples:
  weft config research/files-0              what it holds, and whether that is what it should
  weft config research/files-0 --resources  each resource with its version and digest
  weft config research/files-0 --snapshot   the configuration in force, as it is read
  weft config research/files-0 -o json      for programs; exit code 1 where it differs";

/// Digits of a digest that people are shown.
const DIGEST_CHARS: usize = 16;

/// Asks a sidecar what it holds, and shows how that differs from what it should: missing, stale, surplus, refused and why
///
/// The sidecar answers for itself, now; `weft status` says what the control plane knows without asking. What differs for a
/// moment because a change is on its way is looked at again. Nothing that is secret is in the answer.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConfigArgs {
    /// The sidecar, as <namespace>/<instance>
    #[arg(value_name = "SIDECAR")]
    pub(crate) node: NodeId,
    /// List every resource that it holds
    #[arg(long)]
    pub(crate) resources: bool,
    /// Show the configuration in force, as people read it
    #[arg(long)]
    pub(crate) snapshot: bool,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

pub(crate) async fn run(args: ConfigArgs, context: &Context) -> Result<ExitCode, Failure> {
    let path = of_sidecar(&args.node, "config").with("snapshot", args.snapshot.then_some(true));
    let answer = context.client()?.get(&path).await?;
    let config: SidecarConfig = client::read(answer.clone())?;
    let text = match args.form.form.machine(&answer) {
        Some(text) => text?,
        None => render(&config, &args, context.terminal.color()),
    };
    context.terminal.print(&text)?;
    Ok(if config.differs { ExitCode::Failed } else { ExitCode::Done })
}

/// Where something about one sidecar is.
pub(super) fn of_sidecar(node: &NodeId, what: &str) -> Path {
    let (namespace, instance) = node.as_str().split_once('/').unwrap_or(("", node.as_str()));
    Path::v1(&["sidecars", namespace, instance, what])
}

fn render(config: &SidecarConfig, args: &ConfigArgs, colour: bool) -> String {
    let mut text = facts(config).render_bare(colour);
    if !config.differences.is_empty() {
        let mut table = Table::new(vec!["TYPE", "NAME", "IS", "HELD", "INTENDED", "WHY"]);
        config.differences.iter().for_each(|it| table.push(row(it)));
        text.push('\n');
        text.push_str(&table.render(colour));
    }
    if args.resources {
        let mut table = Table::new(vec!["TYPE", "NAME", "VERSION", "SHA-256"]);
        for it in &config.resources {
            let digest = clip(&it.digest, DIGEST_CHARS);
            table.push(vec![
                Cell::new(&it.r#type),
                Cell::new(&it.name),
                Cell::new(&it.version),
                Cell::new(digest),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render(colour));
    }
    if let Some(snapshot) = &config.snapshot {
        text.push('\n');
        text.push_str(&plain(snapshot));
    }
    text
}

fn facts(config: &SidecarConfig) -> Table {
    let standing = |pointer: &str| match config.standing.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        Some(other) => other.to_string(),
    };
    let mut by_type: BTreeMap<&str, usize> = BTreeMap::new();
    config.resources.iter().for_each(|it| *by_type.entry(&it.r#type).or_default() += 1);
    let held: Vec<_> = by_type.iter().map(|(ty, count)| format!("{count} {ty}")).collect();
    let verdict = match config.differences.len() {
        0 => Cell::new("it holds what it should").toned(Tone::Good),
        1 => Cell::new("1 resource is not as it should be").toned(Tone::Bad),
        more => Cell::new(format!("{more} resources are not as they should be")).toned(Tone::Bad),
    };
    let mut table = Table::new(vec!["", ""]);
    let mut fact = |name: &str, cell: Cell| table.push(vec![Cell::new(name).toned(Tone::Strong), cell]);
    fact("node", Cell::new(&config.node));
    fact("identity", Cell::new(&config.identity));
    fact("version", Cell::new(&config.version));
    fact("in force", Cell::new(standing("/version")));
    fact("from", Cell::new(standing("/origin")));
    fact("since", Cell::new(standing("/since")));
    fact("serving", Cell::new(standing("/serving")));
    fact("warnings", Cell::new(standing("/warnings")));
    fact("holds", Cell::new(held.join(", ")));
    fact("published", Cell::new(format!("revision {}", config.published_revision)));
    fact("compared", verdict);
    table
}

fn row(it: &Difference) -> Vec<Cell> {
    let tone = if matches!(it.what.as_str(), "stale" | "surplus") { Tone::Warn } else { Tone::Bad };
    let text = |text: &Option<String>| Cell::new(text.as_deref().unwrap_or_default());
    vec![
        Cell::new(&it.r#type),
        Cell::new(&it.name),
        Cell::new(&it.what).toned(tone),
        text(&it.held),
        text(&it.intended),
        text(&it.why),
    ]
}
