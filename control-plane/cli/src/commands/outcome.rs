//! What a change came to, as the commands that change something tell it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::answers::Applied;
use crate::app::Context;
use crate::client::{self, Body, Client, Error, Path};
use crate::failure::Failure;
use crate::files::{self, Joined};
use crate::names::display;
use crate::output::{json, yaml};
use crate::terminal::{Tone, paint_diff};

/// How the outcome of a change is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutcomeForm {
    /// A line per object, for people
    #[default]
    Text,
    /// The control plane's answer as JSON
    Json,
    /// The control plane's answer as YAML
    Yaml,
    /// The names of the objects that changed
    Name,
}

/// Flags of the commands that change something.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ChangeArgs {
    /// Only show what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why; kept in the history
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// How the outcome is shown
    #[arg(long = "output", short = 'o', value_name = "FORM", default_value = "text")]
    pub(crate) form: OutcomeForm,
}

impl ChangeArgs {
    /// The path with these flags in its query.
    pub(crate) fn on(&self, path: Path) -> Path {
        path.when("dryRun", self.dry_run).with("reason", self.reason.as_ref())
    }
}

/// Gathers what `-f` names and reads it as the control plane would.
pub(crate) fn gather(paths: &[PathBuf], context: &Context) -> Result<Joined, Failure> {
    let files = files::gather(paths, &context.terminal)?;
    files::check(&files)?;
    Ok(Joined::new(files))
}

/// Sends documents; mistakes that the control plane finds are told with the files they are in.
pub(crate) async fn send(client: &Client, path: &Path, input: &Joined) -> Result<Value, Failure> {
    let sent = client.send(hyper::Method::POST, path, Body::Documents(input.text.clone())).await;
    sent.map_err(|error| match error {
        Error::Refused(mut problem) => {
            problem.errors.iter_mut().for_each(|mistake| input.translate(mistake));
            Error::Refused(problem).into()
        }
        error => error.into(),
    })
}

/// Shows what became of each object.
pub(crate) fn show(context: &Context, answer: Value, form: OutcomeForm) -> Result<Applied, Failure> {
    match form {
        OutcomeForm::Json => context.terminal.print(&json(&answer))?,
        OutcomeForm::Yaml => context.terminal.print(&yaml(&answer)?)?,
        OutcomeForm::Text | OutcomeForm::Name => {}
    }
    let applied: Applied = client::read(answer)?;
    let color = context.terminal.color();
    for outcome in &applied.results {
        let name = display(&outcome.kind, &outcome.namespace, &outcome.name);
        for warning in &outcome.warnings {
            context.terminal.warn(&format!("{name}: {warning}"));
        }
        let line = match form {
            OutcomeForm::Text => {
                let action = tone(&outcome.action).paint(&outcome.action, color);
                format!("{name} {action}{}\n", if applied.dry_run { " (dry run)" } else { "" })
            }
            OutcomeForm::Name if outcome.action != UNCHANGED => format!("{name}\n"),
            OutcomeForm::Name | OutcomeForm::Json | OutcomeForm::Yaml => continue,
        };
        context.terminal.print(&line)?;
    }
    for warning in &applied.warnings {
        context.terminal.warn(warning);
    }
    Ok(applied)
}

/// Says how much changed, beside the data.
pub(crate) fn summarize(context: &Context, applied: &Applied) {
    let changed = applied.results.iter().filter(|outcome| outcome.action != UNCHANGED).count();
    let objects = if changed == 1 { "1 object".to_owned() } else { format!("{changed} objects") };
    let revision = applied.revision;
    context.terminal.say(&match (changed, applied.dry_run) {
        (0, _) => format!("nothing to change; the mesh is at revision {revision}"),
        (_, true) => format!("{objects} would change; nothing was changed"),
        (_, false) => format!("{objects} changed; the mesh is at revision {revision}"),
    });
}

/// Shows the diff of each object that changes. Answers how many those are.
pub(crate) fn show_diffs(context: &Context, applied: &Applied) -> Result<usize, Failure> {
    let changed: Vec<_> = applied.results.iter().filter(|outcome| outcome.action != UNCHANGED).collect();
    for outcome in &changed {
        let color = context.terminal.color();
        let name = display(&outcome.kind, &outcome.namespace, &outcome.name);
        let title = Tone::Strong.paint(&format!("# {name} {}", outcome.action), color);
        context.terminal.print(&format!("{title}\n{}", paint_diff(&outcome.diff, color)))?;
    }
    Ok(changed.len())
}

const UNCHANGED: &str = "unchanged";

fn tone(action: &str) -> Tone {
    match action {
        "created" => Tone::Good,
        "changed" => Tone::Warn,
        "deleted" => Tone::Bad,
        _ => Tone::Dim,
    }
}
