//! `weft get`: shows what is.

mod watch;

use clap::{Args, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};
use weft_proto::name::{Namespace, ObjectName};
use weft_proto::resource::Kind;

use crate::answers::Page;
use crate::app::Context;
use crate::client::{self, Body, Client, Path};
use crate::columns;
use crate::failure::{ExitCode, Failure};
use crate::names::{Named, display, parse_namespace};
use crate::output::{self, object_yaml};
use crate::table::Table;

const EXAMPLES: &str = "\
Examples:
  weft get mcpservers -A                    every server of the mesh
  weft get accesspolicy readers -n research
  weft get server/research/files -o yaml    one object, as it would be written
  weft get servers -n research -l team=papers
  weft get all -n research                  objects of every kind
  weft get routes -A -w                     … and whatever happens to them from now on

Kinds, with their short forms:
  mcpserver (server, mcp)     accesspolicy (ap, access)   authentication (auth)
  virtualserver (vs)          quotapolicy (qp, quota)     telemetry (tel)
  route (rt)                  toolpolicy (tp)             trust";

/// Most objects on one page of the control plane's answer.
const PAGE_OBJECTS: u32 = 500;
/// Most objects that one listing gathers.
const OBJECTS_MAX: usize = 1_000_000;

/// How objects are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GetForm {
    /// What matters of each kind, for people
    #[default]
    Table,
    /// … with versions and labels
    Wide,
    /// Names that every other command understands
    Name,
    /// Documents that `weft apply` understands
    Yaml,
    /// The object, or {revision, items}; with --watch an event per line
    Json,
}

/// Shows resources
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GetArgs {
    /// The kind, or all; or <kind>/<name>, or <kind>/<namespace>/<name>
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// The name, or <namespace>/<name>; every object if not given
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The namespace; `default` if not given
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<Namespace>,
    /// Every namespace
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// Only objects with these labels, as key=value,…
    #[arg(long = "selector", short = 'l', value_name = "LABELS", value_parser = labels)]
    pub(crate) labels: Option<Labels>,
    /// How the objects are shown
    #[arg(long = "output", short = 'o', value_name = "FORM", default_value = "table")]
    pub(crate) form: GetForm,
    /// Go on with whatever happens to them, until interrupted
    #[arg(long, short)]
    pub(crate) watch: bool,
}

/// Labels that an object must carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labels(Vec<(String, String)>);

fn labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').map(|pair| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{pair:?} is not key=value")),
    });
    pairs.collect::<Result<_, _>>().map(Labels)
}

impl Labels {
    fn select(&self, object: &Value) -> bool {
        let label = |key: &str| object.get("metadata")?.get("labels")?.get(key)?.as_str();
        self.0.iter().all(|(key, value)| label(key) == Some(value))
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Which objects are wanted.
#[derive(Clone, Debug)]
struct Wanted {
    kind: Option<Kind>,
    /// None means every namespace.
    namespace: Option<Namespace>,
    name: Option<ObjectName>,
    labels: Option<Labels>,
    form: GetForm,
}

impl Wanted {
    fn read(args: &GetArgs) -> Result<Self, Failure> {
        let named = Named::parse(&args.kind, args.name.as_deref())?;
        let namespace = match args.all_namespaces {
            true if named.name.is_some() => {
                return Err(Failure::usage("one object is in one namespace, so -A says nothing here"));
            }
            true => None,
            false => Some(named.namespace_or(args.namespace.as_ref())?),
        };
        if named.name.is_some() && args.labels.is_some() {
            return Err(Failure::usage("an object is named, so --selector says nothing here"));
        }
        let Named { kind, name, .. } = named;
        Ok(Self { kind, namespace, name, labels: args.labels.clone(), form: args.form })
    }

    fn selects(&self, object: &Value) -> bool {
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        self.name.as_ref().is_none_or(|wanted| name == Some(wanted.as_str()))
            && self.labels.as_ref().is_none_or(|labels| labels.select(object))
    }

    fn is_wide(&self) -> bool {
        self.form == GetForm::Wide
    }
}

pub(crate) async fn run(args: GetArgs, context: &Context) -> Result<ExitCode, Failure> {
    let wanted = Wanted::read(&args)?;
    let client = context.client()?;
    if args.watch {
        return watch::run(&client, &wanted, context).await;
    }
    match (wanted.kind, &wanted.namespace, &wanted.name) {
        (Some(kind), Some(namespace), Some(name)) => {
            let path = Path::v1(&["namespaces", namespace.as_str(), kind.plural(), name.as_str()]);
            let object = client.send(Method::GET, &path, Body::None).await?;
            context.terminal.print(&one(&wanted, &object)?)?;
        }
        _ => {
            let page = list(&client, &wanted).await?;
            if page.items.is_empty() {
                say_none(&wanted, &args, context);
            }
            context.terminal.print(&many(&wanted, &page, context.terminal.color())?)?;
        }
    }
    Ok(ExitCode::Done)
}

/// Every page of a listing.
async fn list(client: &Client, wanted: &Wanted) -> Result<Page, Failure> {
    let mut whole = Page::default();
    loop {
        let path = Path::v1(&["resources"])
            .with("kind", wanted.kind.map(Kind::plural))
            .with("namespace", wanted.namespace.as_ref())
            .with("labels", wanted.labels.as_ref())
            .with("limit", Some(PAGE_OBJECTS))
            .with("continue", whole.r#continue.take());
        let page: Page = client::read(client.get(&path).await?)?;
        whole.revision = page.revision;
        whole.items.extend(page.items.into_iter().filter(|object| wanted.selects(object)));
        whole.r#continue = page.r#continue;
        if whole.r#continue.is_none() {
            return Ok(whole);
        }
        if whole.items.len() > OBJECTS_MAX {
            let what = format!("there are more than {OBJECTS_MAX} objects");
            return Err(Failure::failed(what).then("narrow it down with a kind, a namespace or labels"));
        }
    }
}

fn one(wanted: &Wanted, object: &Value) -> Result<String, Failure> {
    match wanted.form {
        GetForm::Yaml => object_yaml(object),
        GetForm::Json => Ok(output::json(object)),
        GetForm::Table | GetForm::Wide | GetForm::Name => {
            let page = Page { items: vec![object.clone()], ..Page::default() };
            many(wanted, &page, false)
        }
    }
}

fn many(wanted: &Wanted, page: &Page, colour: bool) -> Result<String, Failure> {
    match wanted.form {
        GetForm::Table | GetForm::Wide => {
            let mut table = Table::new(columns::headers(wanted.kind, wanted.is_wide()));
            for object in &page.items {
                table.push(columns::row(wanted.kind, wanted.is_wide(), object));
            }
            Ok(if table.is_empty() { String::new() } else { table.render(colour) })
        }
        GetForm::Name => Ok(page.items.iter().map(|object| name_of(object) + "\n").collect()),
        GetForm::Yaml => {
            let documents = page.items.iter().map(object_yaml).collect::<Result<Vec<_>, _>>()?;
            Ok(documents.join("---\n"))
        }
        GetForm::Json => Ok(output::json(&json!({ "revision": page.revision, "items": page.items }))),
    }
}

fn name_of(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    display(text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

fn say_none(wanted: &Wanted, args: &GetArgs, context: &Context) {
    let kind = wanted.kind.map_or("objects", Kind::plural);
    context.terminal.say(&match &wanted.namespace {
        None => format!("there are no {kind} that match"),
        Some(namespace) if args.namespace.is_none() && parse_namespace(namespace.as_str()).is_ok() => {
            format!("there are no {kind} in the namespace {namespace}; -n names another, -A means every one")
        }
        Some(namespace) => format!("there are no {kind} that match in the namespace {namespace}"),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_select_objects_that_carry_them_all() {
        let object = json!({ "metadata": { "labels": { "team": "papers", "tier": "" } } });
        for (text, expected) in
            [("team=papers", true), ("team=papers,tier=", true), ("team=x", false), ("no=", false)]
        {
            assert_eq!(labels(text).unwrap().select(&object), expected, "{text}");
        }
        for text in ["", "team", "=x", "a=b,"] {
            assert!(labels(text).is_err(), "{text:?}");
        }
        assert_eq!(labels("a=b,c=").unwrap().to_string(), "a=b,c=");
    }
}
