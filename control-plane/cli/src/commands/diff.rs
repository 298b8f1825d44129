//! `weft diff`: shows what `weft apply` would change.

use std::path::PathBuf;

use clap::Args;

use super::outcome;
use crate::answers::Applied;
use crate::app::Context;
use crate::client::{self, Path};
use crate::failure::{ExitCode, Failure};

const EXAMPLES: &str = "\
Examples:
  weft diff -f mesh/                        what applying the folder would change
  weft diff -f mesh/ --exit-code            … and exit with 1 if that is anything, for scripts";

/// Shows what applying resources would change, and changes nothing
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DiffArgs {
    /// A file, a folder (every *.yaml, *.yml and *.json below it, in order) or - for stdin; repeatable
    #[arg(long = "file", short = 'f', value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Exit with 1 if something would change
    #[arg(long)]
    pub(crate) exit_code: bool,
}

pub(crate) async fn run(args: DiffArgs, context: &Context) -> Result<ExitCode, Failure> {
    let input = outcome::gather(&args.files, context)?;
    let path = Path::v1(&["apply"]).when("dryRun", true).with("file", Some(input.label()));
    let answer = outcome::send(&context.client()?, &path, &input).await?;
    let applied: Applied = client::read(answer)?;
    let changed = outcome::show_diffs(context, &applied)?;
    outcome::summarize(context, &applied);
    Ok(if args.exit_code && changed > 0 { ExitCode::Failed } else { ExitCode::Done })
}
