//! `weft rollback`: brings back what was, as a new revision.

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::outcome::{self, ChangeArgs};
use crate::answers::{Applied, Version};
use crate::app::Context;
use crate::client::{self, Body, Client, Path};
use crate::failure::{ExitCode, Failure};

const EXAMPLES: &str = "\
Examples:
  weft history                              which revision was good?
  weft rollback 41 --dry-run                what would going back change?
  weft rollback 41 --reason 'broke files'   go back; asked first on a terminal
  weft rollback 41 --yes                    … without being asked";

/// Brings every resource back to what it was at a revision; that becomes a new revision itself
///
/// On a terminal, what would change is shown and asked about first, and nothing is changed if somebody else changed
/// something in between. Without a terminal nobody is asked.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RollbackArgs {
    /// The revision to go back to
    #[arg(value_name = "REVISION")]
    pub(crate) to: u64,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Only if the mesh is still at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) expect_revision: Option<u64>,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

pub(crate) async fn run(args: RollbackArgs, context: &Context) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let mut expect = args.expect_revision;
    if context.terminal.interactive() && !args.yes && !args.change.dry_run {
        let version: Version = client::read(client.get(&Path::v1(&["version"])).await?)?;
        expect = expect.or(version.store_revision);
        let preview: Applied = client::read(ask(&client, &args, true, expect).await?)?;
        if outcome::show_diffs(context, &preview)? == 0 {
            outcome::summarize(context, &Applied { dry_run: true, ..preview });
            return Ok(ExitCode::Done);
        }
        if !context.terminal.ask(&format!("go back to revision {}?", args.to))? {
            context.terminal.say("nothing was changed");
            return Ok(ExitCode::Failed);
        }
    }
    let answer = ask(&client, &args, args.change.dry_run, expect).await?;
    let applied = outcome::show(context, answer, args.change.form)?;
    outcome::summarize(context, &applied);
    Ok(ExitCode::Done)
}

async fn ask(
    client: &Client,
    args: &RollbackArgs,
    dry_run: bool,
    expect: Option<u64>,
) -> Result<Value, client::Error> {
    let mut body = json!({ "to": args.to, "dryRun": dry_run });
    if let Some(reason) = &args.change.reason {
        body["reason"] = json!(reason);
    }
    if let Some(revision) = expect {
        body["expectRevision"] = json!(revision);
    }
    client.send(Method::POST, &Path::v1(&["rollback"]), Body::Json(body)).await
}
