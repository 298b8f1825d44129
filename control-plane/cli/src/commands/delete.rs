//! `weft delete`: takes objects away.

use std::path::PathBuf;

use clap::Args;
use hyper::{Method, StatusCode};
use weft_proto::name::Namespace;

use super::outcome::{self, ChangeArgs, OutcomeForm};
use crate::app::Context;
use crate::client::{Body, Client, Error, Path};
use crate::failure::{ExitCode, Failure};
use crate::names::{Named, display};

const EXAMPLES: &str = "\
Examples:
  weft delete mcpserver files -n research   one object
  weft delete mcpserver/research/files      the same, as other commands print it
  weft delete route a b -n research         several objects, one after the other
  weft delete -f mesh/                      every object that the folder names: all of them, or none";

/// Deletes resources
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DeleteArgs {
    /// The kind, or <kind>/<name>, or <kind>/<namespace>/<name>
    #[arg(value_name = "KIND", required_unless_present = "files", conflicts_with = "files")]
    pub(crate) kind: Option<String>,
    /// The names, or <namespace>/<name>
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// A file, a folder or - for stdin with the objects to delete; repeatable
    #[arg(long = "file", short = 'f', value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The namespace; `default` if not given
    #[arg(long, short, value_name = "NAMESPACE", conflicts_with = "files")]
    pub(crate) namespace: Option<Namespace>,
    /// An object that is not there is no failure
    #[arg(long, conflicts_with = "files")]
    pub(crate) ignore_missing: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

pub(crate) async fn run(args: DeleteArgs, context: &Context) -> Result<ExitCode, Failure> {
    match &args.kind {
        Some(kind) => one_by_one(&args, kind, context).await,
        None => together(&args, context).await,
    }
}

async fn together(args: &DeleteArgs, context: &Context) -> Result<ExitCode, Failure> {
    let input = outcome::gather(&args.files, context)?;
    let path = args.change.on(Path::v1(&["delete"]));
    let answer = outcome::send(&context.client()?, &path, &input).await?;
    let applied = outcome::show(context, answer, args.change.form)?;
    outcome::summarize(context, &applied);
    Ok(ExitCode::Done)
}

async fn one_by_one(args: &DeleteArgs, kind: &str, context: &Context) -> Result<ExitCode, Failure> {
    let named = match &*args.names {
        [] => vec![Named::parse(kind, None)?],
        names => names.iter().map(|name| Named::parse(kind, Some(name))).collect::<Result<_, _>>()?,
    };
    let mut objects = Vec::new();
    for named in named {
        let (Some(kind), Some(name)) = (named.kind, &named.name) else {
            return Err(Failure::usage("it is not said which object to delete")
                .then("name it: `weft delete <kind> <name>`; `weft get <kind>` shows the names"));
        };
        objects.push((kind, named.namespace_or(args.namespace.as_ref())?, name.clone()));
    }
    let client = context.client()?;
    for (kind, namespace, name) in objects {
        let path = Path::v1(&["namespaces", namespace.as_str(), kind.plural(), name.as_str()]);
        let missing = || display(kind.name(), namespace.as_str(), name.as_str());
        delete(&client, &args.change.on(path), args, missing, context).await?;
    }
    Ok(ExitCode::Done)
}

async fn delete(
    client: &Client,
    path: &Path,
    args: &DeleteArgs,
    name: impl FnOnce() -> String,
    context: &Context,
) -> Result<(), Failure> {
    match client.send(Method::DELETE, path, Body::None).await {
        Ok(answer) => {
            let applied = outcome::show(context, answer, args.change.form)?;
            if args.change.form == OutcomeForm::Text {
                outcome::summarize(context, &applied);
            }
            Ok(())
        }
        Err(Error::Refused(problem)) if args.ignore_missing && problem.status == StatusCode::NOT_FOUND => {
            context.terminal.say(&format!("{} is not there", name()));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
