//! `weft token`: lets workloads join the mesh.

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;
use weft_proto::name::ServerName as AccountName;
use weft_proto::resource::units::Span;

use crate::answers::{JoinToken, Tokens};
use crate::app::Context;
use crate::client::{self, Body, Path};
use crate::failure::{ExitCode, Failure};
use crate::moments;
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::{Tone, plain};

const EXAMPLES: &str = "\
Examples:
  weft token create research/files          one sidecar may join as ns/research/sa/files
  weft token list
  weft token revoke 3f9c";

const CREATE_EXAMPLES: &str = "\
Examples:
  weft token create research/files
  weft token create agents/planner --uses 20 --expires-in 24h --description 'batch hosts'
  weft token create research/files > join.token";

const LIST_EXAMPLES: &str = "\
Examples:
  weft token list
  weft token list -o json";

const REVOKE_EXAMPLES: &str = "\
Examples:
  weft token revoke 3f9c";

/// Lets workloads join the mesh: tokens that are exchanged for an identity
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// What to do with join tokens.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TokenCommand {
    Create(CreateArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Makes a token; it is shown this once
///
/// The token alone goes to stdout. Whoever holds it can take the identity it is for, so hand it over like a password.
#[derive(Clone, Debug, Args)]
#[command(after_help = CREATE_EXAMPLES)]
pub(crate) struct CreateArgs {
    /// The identity that it is for, as <namespace>/<service account>
    #[arg(value_name = "IDENTITY")]
    pub(crate) identity: AccountName,
    /// How often it can be used
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uses: u32,
    /// For how long it can be used
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub(crate) expires_in: Span,
    /// What it is for; kept with it
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Shows which tokens there are, without the tokens themselves
#[derive(Clone, Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Makes a token useless; who joined with it stays joined
#[derive(Clone, Debug, Args)]
#[command(after_help = REVOKE_EXAMPLES)]
pub(crate) struct RevokeArgs {
    /// The token's id, as `weft token list` shows it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

pub(crate) async fn run(args: TokenArgs, context: &Context) -> Result<ExitCode, Failure> {
    match args.command {
        TokenCommand::Create(args) => create(args, context).await,
        TokenCommand::List(args) => list(args, context).await,
        TokenCommand::Revoke(RevokeArgs { id }) => {
            let path = Path::v1(&["tokens", &id]);
            context.client()?.send(Method::DELETE, &path, Body::None).await?;
            context.terminal.say(&format!("token {id} is revoked"));
            Ok(ExitCode::Done)
        }
    }
}

async fn create(args: CreateArgs, context: &Context) -> Result<ExitCode, Failure> {
    let AccountName { namespace, name } = &args.identity;
    let mut body = json!({
        "identity": { "namespace": namespace, "serviceAccount": name },
        "uses": args.uses,
        "expiresIn": args.expires_in.to_string(),
    });
    if let Some(description) = &args.description {
        body["description"] = json!(description);
    }
    let answer = context.client()?.send(Method::POST, &Path::v1(&["tokens"]), Body::Json(body)).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let made: JoinToken = client::read(answer)?;
    context.terminal.print(&format!("{}\n", plain(made.token.as_deref().unwrap_or_default())))?;
    let times = if args.uses == 1 { "once".to_owned() } else { format!("{} times", args.uses) };
    context.terminal.say(&format!(
        "token {} lets {} join {times} within {}; it is not shown again",
        made.id, args.identity, args.expires_in
    ));
    Ok(ExitCode::Done)
}

async fn list(args: ListArgs, context: &Context) -> Result<ExitCode, Failure> {
    let answer = context.client()?.get(&Path::v1(&["tokens"])).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let tokens: Tokens = client::read(answer)?;
    if tokens.items.is_empty() {
        context.terminal.say("there are no tokens");
        return Ok(ExitCode::Done);
    }
    let now = context.now();
    let mut table =
        Table::new(vec!["ID", "IDENTITY", "STATE", "USES LEFT", "EXPIRES", "CREATED", "BY", "DESCRIPTION"]);
    for token in &tokens.items {
        let tone = if token.state == "active" { Tone::Good } else { Tone::Dim };
        let text = |text: &Option<String>| Cell::new(text.as_deref().unwrap_or_default());
        table.push(vec![
            Cell::new(&token.id),
            Cell::new(format!("{}/{}", token.identity.namespace, token.identity.service_account)),
            Cell::new(&token.state).toned(tone),
            Cell::new(token.uses_left.map(|left| left.to_string()).unwrap_or_default()),
            Cell::new(token.expires_at.as_deref().map(|at| moments::expiry(at, now)).unwrap_or_default()),
            Cell::new(token.created_at.as_deref().map(|at| moments::ago(at, now)).unwrap_or_default()),
            text(&token.created_by),
            text(&token.description),
        ]);
    }
    context.terminal.print(&table.render(context.terminal.color()))?;
    Ok(ExitCode::Done)
}
