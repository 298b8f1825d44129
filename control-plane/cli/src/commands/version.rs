//! `weft version`: which version this command is, and which the control plane.

use clap::Args;
use serde_json::json;

use crate::answers::Version;
use crate::app::Context;
use crate::client::{self, Path};
use crate::failure::{ExitCode, Failure};
use crate::output::{Form, FormArgs};
use crate::terminal::plain;

pub(crate) const CLIENT: &str = env!("CARGO_PKG_VERSION");

const EXAMPLES: &str = "\
Examples:
  weft version                              both sides
  weft version --client                     only this command, without asking anyone";

/// Shows the version of this command and of the control plane
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VersionArgs {
    /// Only this command
    #[arg(long)]
    pub(crate) client: bool,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

pub(crate) async fn run(args: VersionArgs, context: &Context) -> Result<ExitCode, Failure> {
    let form = args.form.form;
    // A control plane that cannot be asked does not hide what is known without it.
    if form == Form::Table {
        context.terminal.print(&format!("client  {CLIENT}\n"))?;
    }
    if args.client {
        let answer = json!({ "client": { "version": CLIENT } });
        return form.machine(&answer).unwrap_or(Ok(String::new())).and_then(|text| done(context, &text));
    }
    let answer = context.client()?.get(&Path::v1(&["version"])).await?;
    if let Some(text) = form.machine(&json!({ "client": { "version": CLIENT }, "server": &answer })) {
        return done(context, &text?);
    }
    let version: Version = client::read(answer)?;
    let Version { version, api_version, trust_domain, .. } = version;
    done(context, &plain(&format!("server  {version}\napi     {api_version}\nmesh    {trust_domain}\n")))
}

fn done(context: &Context, text: &str) -> Result<ExitCode, Failure> {
    context.terminal.print(text).map(|()| ExitCode::Done)
}
