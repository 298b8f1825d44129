//! `weft check`: whether all is well, and what to do where it is not.
//!
//! Checks come in groups, in the order in which one thing rests on another; what rests on something that failed is
//! skipped rather than failed for a second time. Whether this machine can reach the control plane is found out here; what
//! the control plane can see, it judges itself.

pub(crate) mod listed;
mod probes;
mod report;
pub(crate) mod watch;

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::{Instant, sleep};
use weft_proto::resource::units::Span;

use crate::app::Context;
use crate::failure::{ExitCode, Failure};
use crate::output;
pub(crate) use listed::Group;
pub(crate) use probes::health;
pub(crate) use report::Report;

const EXAMPLES: &str = "\
Examples:
  weft check                                everything that this machine and the control plane can see
  weft check --only policy --only quota     some groups
  weft check --wait 1m                      after a start: until nothing fails, or the minute is over
  weft check --watch                        all of it, and then what changes, until Ctrl-C
  weft check -o json --strict               for programs, where warnings fail too
  weft check --list                         what is checked
  weft check --health-url http://10.0.0.5:7502
                                            where health is not on the port beside the operators' one

Each check that does not pass says what is wrong, why it matters and what to do. Warnings do not fail the command. A
check that cannot be made is skipped, and says why.";

/// How often everything is looked at again while waiting.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How the findings are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckForm {
    /// A line per check, for people
    #[default]
    Text,
    /// {ok, groups: [{name, checks: [{name, outcome, detail, why, remedy}]}]}; with --watch one per line, each with `at`
    Json,
}

/// Checks the way to the control plane, the control plane, its certificates, every sidecar, policies, limits and records
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckArgs {
    /// Only checks of this group; repeatable. The way to the control plane is gone all the same
    #[arg(long, value_name = "GROUP")]
    pub(crate) only: Vec<Group>,
    /// How long what fails is given to become well
    #[arg(long, value_name = "DURATION")]
    pub(crate) wait: Option<Span>,
    /// Look again and again and show what changes, until Ctrl-C; the exit code is that of the last look
    #[arg(long, conflicts_with_all = ["wait", "list"])]
    pub(crate) watch: bool,
    /// With --watch: how often
    #[arg(long, value_name = "DURATION", default_value = "5s", requires = "watch")]
    pub(crate) every: Span,
    /// Exit with 1 for warnings too
    #[arg(long)]
    pub(crate) strict: bool,
    /// Only list the checks, by group, with what holds if each passes
    #[arg(long, conflicts_with_all = ["wait", "strict"])]
    pub(crate) list: bool,
    /// Where health is served; found from the server's address if that has the usual port
    #[arg(long, value_name = "URL")]
    pub(crate) health_url: Option<String>,
    /// How the findings are shown
    #[arg(long = "output", short = 'o', value_name = "FORM", default_value = "text")]
    pub(crate) form: CheckForm,
}

pub(crate) async fn run(args: CheckArgs, context: &Context) -> Result<ExitCode, Failure> {
    if args.list {
        let wanted = |group: Group| args.only.is_empty() || args.only.contains(&group);
        let text = match args.form {
            CheckForm::Text => listed::text(wanted),
            CheckForm::Json => output::json(&listed::to_json(wanted)),
        };
        context.terminal.print(&text)?;
        return Ok(ExitCode::Done);
    }
    if args.watch {
        let interrupted = async { _ = tokio::signal::ctrl_c().await };
        return Box::pin(watch::run(&args, context, interrupted)).await;
    }
    let deadline = args.wait.map(|wait| Instant::now() + wait.duration());
    let report = loop {
        let report = Box::pin(probes::run(args.health_url.as_deref(), &args.only, context)).await?;
        if report.is_ok(args.strict) || deadline.is_none_or(|deadline| Instant::now() >= deadline) {
            break report;
        }
        sleep(LOOK_AGAIN).await;
    };
    let text = match args.form {
        CheckForm::Text => report.render(context.terminal.color()),
        CheckForm::Json => output::json(&report.to_json()),
    };
    context.terminal.print(&text)?;
    Ok(if report.is_ok(args.strict) { ExitCode::Done } else { ExitCode::Failed })
}

/// What everything looks like from here, for whoever keeps that.
pub(crate) async fn report(health_url: Option<&str>, context: &Context) -> Result<Report, Failure> {
    Box::pin(probes::run(health_url, &[], context)).await
}
