//! `weft check`: whether all is well, and what to do where it is not.
//!
//! Checks come in groups, in the order in which one thing rests on another; what rests on something that failed is
//! skipped rather than failed for a second time.

mod judge;
mod probes;
mod report;

use clap::{Args, ValueEnum};

use crate::app::Context;
use crate::failure::{ExitCode, Failure};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  weft check                                everything that this machine can see
  weft check -o json                        for programs
  weft check --health-url http://10.0.0.5:7502
                                            where health is not on the port beside the operators' one

Each check that fails says what is wrong, why it matters and what to do. Warnings do not fail the command.";

/// How the findings are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckForm {
    /// A line per check, for people
    #[default]
    Text,
    /// {ok, groups: [{name, checks: [{name, outcome, detail, why, remedy}]}]}
    Json,
}

/// Checks the way to the control plane, the control plane, its certificates and every sidecar
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckArgs {
    /// Where health is served; found from the server's address if that has the usual port
    #[arg(long, value_name = "URL")]
    pub(crate) health_url: Option<String>,
    /// How the findings are shown
    #[arg(long = "output", short = 'o', value_name = "FORM", default_value = "text")]
    pub(crate) form: CheckForm,
}

pub(crate) async fn run(args: CheckArgs, context: &Context) -> Result<ExitCode, Failure> {
    let report = Box::pin(probes::run(args.health_url.as_deref(), context)).await?;
    let text = match args.form {
        CheckForm::Text => report.render(context.terminal.color()),
        CheckForm::Json => output::json(&report.to_json()),
    };
    context.terminal.print(&text)?;
    Ok(if report.is_ok() { ExitCode::Done } else { ExitCode::Failed })
}
