//! `weft policy`: trying policies out before they are applied.

mod suite;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::explain;
use crate::app::Context;
use crate::failure::{ExitCode, Failure};
use crate::output::FormArgs;
use crate::terminal::{Tone, plain};
use suite::Outcome;

const EXAMPLES: &str = "\
Examples:
  weft policy test access.test.yaml         run the decisions that the file expects";

const TEST_EXAMPLES: &str = "\
Examples:
  weft policy test access.test.yaml
  weft policy test tests/*.yaml -o json

A file of tests:
  resources: [servers.yaml, policies/]      # files and folders, from the folder of this file
  trustDomain: corp.example                 # if the resources have no Trust
  tests:
    - name: reviewers read what is public   # if left out, its place
      as: agents/reviewer                   # or a SPIFFE ID
      tool: research/files/read_file        # or prompt:, resource:, or of: and method:
      args: { path: /data/public/a }        # or argsJson: '{…}', as it would be sent
      claims: { groups: [dev] }
      tenant: acme
      expect: allow                         # or deny
      rule: research/readers#public         # if it matters which rule decides

Exit codes: 0 every decision is as expected, 1 some are not, 2 a file cannot be read or has mistakes";

/// Tries policies out before they are applied
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

/// What to do with policies.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    Test(TestArgs),
}

/// Checks that policies decide as files of tests expect, here and without a control plane
#[derive(Clone, Debug, Args)]
#[command(after_help = TEST_EXAMPLES)]
pub(crate) struct TestArgs {
    /// Files of tests
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

pub(crate) fn run(args: &PolicyArgs, context: &Context) -> Result<ExitCode, Failure> {
    match &args.command {
        PolicyCommand::Test(args) => test(args, context),
    }
}

fn test(args: &TestArgs, context: &Context) -> Result<ExitCode, Failure> {
    let mut outcomes = Vec::new();
    for file in &args.files {
        outcomes.extend(suite::run(file, &context.terminal)?);
    }
    let failed = outcomes.iter().filter(|outcome| outcome.problem.is_some()).count();
    let answer = json!({ "passed": outcomes.len() - failed, "failed": failed, "tests": outcomes });
    match args.form.form.machine(&answer) {
        Some(text) => context.terminal.print(&text?)?,
        None => {
            for outcome in outcomes.iter().filter(|outcome| outcome.problem.is_some()) {
                context.terminal.print(&render(outcome, context.terminal.color()))?;
            }
            context.terminal.say(&format!(
                "{} of {} decisions are as expected",
                outcomes.len() - failed,
                outcomes.len()
            ));
        }
    }
    Ok(if failed == 0 { ExitCode::Done } else { ExitCode::Failed })
}

fn render(outcome: &Outcome, colour: bool) -> String {
    let problem = outcome.problem.as_deref().unwrap_or_default();
    let mut text = format!(
        "{} {}: {}: {}\n",
        Tone::Bad.paint("FAILED", colour),
        plain(&outcome.file),
        plain(&outcome.name),
        plain(problem)
    );
    for line in explain::render(&outcome.explanation, colour).lines() {
        text.push_str(if line.is_empty() { "" } else { "  " });
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text
}
