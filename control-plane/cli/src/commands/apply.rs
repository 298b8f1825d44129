//! `weft apply`: says what should be.

use std::path::PathBuf;

use clap::Args;

use super::outcome::{self, ChangeArgs};
use crate::app::Context;
use crate::client::Path;
use crate::failure::{ExitCode, Failure};

const EXAMPLES: &str = "\
Examples:
  weft apply -f servers.yaml                one file
  weft apply -f mesh/ -f extra.json         a folder with everything below it, and a file
  generate | weft apply -f -                from stdin
  weft apply -f mesh/ --dry-run             only check
  weft apply -f mesh/ --reason 'add a canary'
                                            with a note in the history";

/// Creates and changes resources: all of them, or none
///
/// Everything is read and checked here first, then by the control plane, and becomes one revision of the history.
/// Objects that are as they should be are left alone. An object with a resourceVersion is only changed if it is still
/// at that version.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ApplyArgs {
    /// A file, a folder (every *.yaml, *.yml and *.json below it, in order) or - for stdin; repeatable
    #[arg(long = "file", short = 'f', value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

pub(crate) async fn run(args: ApplyArgs, context: &Context) -> Result<ExitCode, Failure> {
    let input = outcome::gather(&args.files, context)?;
    let path = args.change.on(Path::v1(&["apply"])).with("file", Some(input.label()));
    let answer = outcome::send(&context.client()?, &path, &input).await?;
    let applied = outcome::show(context, answer, args.change.form)?;
    outcome::summarize(context, &applied);
    Ok(ExitCode::Done)
}
