//! `weft key`: who may use the control plane's API.

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use serde_json::json;
use weft_proto::name::ObjectName;
use weft_proto::resource::units::Span;

use crate::answers::{Key, Keys};
use crate::app::Context;
use crate::client::{self, Body, Path};
use crate::failure::{ExitCode, Failure};
use crate::moments;
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::{Tone, plain};

const EXAMPLES: &str = "\
Examples:
  weft key create ci --scope operator --expires-in 90d
  weft key list
  weft key revoke 7b21";

const CREATE_EXAMPLES: &str = "\
Examples:
  weft key create dashboard                 may look, and change nothing
  weft key create ci --scope operator --expires-in 90d
  WEFT_TOKEN=$(weft key create me --scope admin) weft get servers -A";

const LIST_EXAMPLES: &str = "\
Examples:
  weft key list
  weft key list -o json";

const REVOKE_EXAMPLES: &str = "\
Examples:
  weft key revoke 7b21";

/// Decides who may use the control plane's API
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

/// What to do with API keys.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum KeyCommand {
    Create(CreateArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// What a key is good for; each scope holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scope {
    /// Look at everything but keys
    Readonly,
    /// … and change resources
    Operator,
    /// … and make tokens and keys, and exchange the root
    Admin,
}

impl Scope {
    const fn word(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Makes a key; it is shown this once
///
/// The key alone goes to stdout. It is used as WEFT_TOKEN or as the token in an operator.json.
#[derive(Clone, Debug, Args)]
#[command(after_help = CREATE_EXAMPLES)]
pub(crate) struct CreateArgs {
    /// The name under which its acts appear in history and audit trail
    #[arg(value_name = "NAME")]
    pub(crate) name: ObjectName,
    /// What it is good for
    #[arg(long, value_name = "SCOPE", default_value = "readonly")]
    pub(crate) scope: Scope,
    /// For how long it can be used; until it is revoked if not given
    #[arg(long, value_name = "DURATION")]
    pub(crate) expires_in: Option<Span>,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Shows which keys there are, without the keys themselves
#[derive(Clone, Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Makes a key useless, at once
#[derive(Clone, Debug, Args)]
#[command(after_help = REVOKE_EXAMPLES)]
pub(crate) struct RevokeArgs {
    /// The key's id, as `weft key list` shows it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

pub(crate) async fn run(args: KeyArgs, context: &Context) -> Result<ExitCode, Failure> {
    match args.command {
        KeyCommand::Create(args) => create(args, context).await,
        KeyCommand::List(args) => list(args, context).await,
        KeyCommand::Revoke(RevokeArgs { id }) => {
            context.client()?.send(Method::DELETE, &Path::v1(&["keys", &id]), Body::None).await?;
            context.terminal.say(&format!("key {id} is revoked"));
            Ok(ExitCode::Done)
        }
    }
}

async fn create(args: CreateArgs, context: &Context) -> Result<ExitCode, Failure> {
    let mut body = json!({ "name": args.name, "scope": args.scope.word() });
    if let Some(span) = args.expires_in {
        body["expiresIn"] = json!(span.to_string());
    }
    let answer = context.client()?.send(Method::POST, &Path::v1(&["keys"]), Body::Json(body)).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let made: Key = client::read(answer)?;
    context.terminal.print(&format!("{}\n", plain(made.key.as_deref().unwrap_or_default())))?;
    let until =
        args.expires_in.map_or_else(|| "until it is revoked".to_owned(), |span| format!("for {span}"));
    let scope = args.scope.word();
    context.terminal.say(&format!("key {} ({scope}) is good {until}; it is not shown again", made.id));
    Ok(ExitCode::Done)
}

async fn list(args: ListArgs, context: &Context) -> Result<ExitCode, Failure> {
    let answer = context.client()?.get(&Path::v1(&["keys"])).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let keys: Keys = client::read(answer)?;
    let now = context.now();
    let mut table = Table::new(vec!["ID", "NAME", "SCOPE", "EXPIRES", "LAST USED", "CREATED", "BY"]);
    for key in &keys.items {
        let ago = |at: &Option<String>| at.as_deref().map(|at| moments::ago(at, now)).unwrap_or_default();
        let expires =
            key.expires_at.as_deref().map_or_else(|| "never".to_owned(), |at| moments::expiry(at, now));
        table.push(vec![
            Cell::new(&key.id),
            Cell::new(&key.name),
            Cell::new(&key.scope),
            Cell::new(expires).toned(if key.expired { Tone::Dim } else { Tone::Plain }),
            Cell::new(ago(&key.last_used_at)),
            Cell::new(ago(&key.created_at)),
            Cell::new(key.created_by.as_deref().unwrap_or_default()),
        ]);
    }
    context.terminal.print(&table.render(context.terminal.color()))?;
    Ok(ExitCode::Done)
}
