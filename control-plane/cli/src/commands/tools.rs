//! `weft tools`: what servers offer, and what of it was approved.

mod catalogue;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Map, Value, json};
use weft_proto::name::{ServerName, ServerName as PolicyName};
use weft_proto::policy::tools::definition::HASHED;
use weft_proto::resource::Kind;

use super::outcome::{self, ChangeArgs, OutcomeForm};
use crate::answers::{AdvertisedTool, ServerTools, Tools};
use crate::app::Context;
use crate::client::{self, Body, Client, Path};
use crate::failure::{ExitCode, Failure};
use crate::output::FormArgs;
use crate::terminal::{Tone, paint_diff, plain};
use catalogue::{ListArgs, SearchArgs, ShowArgs};

const EXAMPLES: &str = "\
Examples:
  weft tools list                           every tool of every server
  weft tools search send a mail             those that words find
  weft tools show research/files/read_file  one of them
  weft tools diff research/files            what is new or changed since it was approved
  weft tools approve research/files --all   approve all of it";

const DIFF_EXAMPLES: &str = "\
Examples:
  weft tools diff research/files
  weft tools diff research/files --check    exit with 1 if something waits for approval";

const APPROVE_EXAMPLES: &str = "\
Examples:
  weft tools approve research/files read_file search
  weft tools approve research/files --all --reason 'reviewed for the release'
  weft tools approve research/files read_file --policy research/pins
  weft tools approve research/files --all --dry-run";

/// Shows what servers offer, and approves it where policies pin definitions of tools
///
/// Every sidecar reads what its server offers, and tells the control plane; with `--kind` prompts, resources and templates
/// are shown as well.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct ToolsArgs {
    #[command(subcommand)]
    pub(crate) command: ToolsCommand,
}

/// What to do with tools.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ToolsCommand {
    List(ListArgs),
    Search(SearchArgs),
    Show(ShowArgs),
    Diff(DiffArgs),
    Approve(ApproveArgs),
}

/// Shows what a server advertises that was not approved: new tools, changed ones with what changed, and those that are
/// gone
///
/// What changed can be shown as long as the control plane has the definition that was approved in its history.
#[derive(Clone, Debug, Args)]
#[command(after_help = DIFF_EXAMPLES)]
pub(crate) struct DiffArgs {
    /// The server, as <namespace>/<name>
    #[arg(id = "of", value_name = "SERVER")]
    pub(crate) server: ServerName,
    /// Exit with 1 if a tool is new or changed, or instances of the server disagree
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Approves definitions as they are advertised now, by writing their digests into a ToolPolicy
#[derive(Clone, Debug, Args)]
#[command(after_help = APPROVE_EXAMPLES)]
pub(crate) struct ApproveArgs {
    /// The server, as <namespace>/<name>
    #[arg(id = "of", value_name = "SERVER")]
    pub(crate) server: ServerName,
    /// The tools
    #[arg(value_name = "TOOL", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) tools: Vec<String>,
    /// Every tool that is new or changed
    #[arg(long)]
    pub(crate) all: bool,
    /// The ToolPolicy to write into, as <namespace>/<name>; the one that pins the tool if not given
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<PolicyName>,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

pub(crate) async fn run(args: ToolsArgs, context: &Context) -> Result<ExitCode, Failure> {
    match args.command {
        ToolsCommand::List(args) => catalogue::list(args, context).await,
        ToolsCommand::Search(args) => catalogue::search(args, context).await,
        ToolsCommand::Show(args) => catalogue::show(args, context).await,
        ToolsCommand::Diff(args) => diff(args, context).await,
        ToolsCommand::Approve(args) => approve(args, context).await,
    }
}

fn path(server: Option<&ServerName>, definitions: bool) -> Path {
    Path::v1(&["tools"]).with("server", server).when("definitions", definitions)
}

fn warn_of_disagreement(servers: &[ServerTools], context: &Context) {
    for server in servers.iter().filter(|server| !server.agreed) {
        let tools = server.tools.iter().filter(|tool| tool.disagrees);
        let tools: Vec<_> = tools.map(|tool| format!("{} at {}", tool.name, tool.nodes.join(", "))).collect();
        context.terminal.warn(&format!("instances of {} disagree: {}", server.server, tools.join("; ")));
    }
}

async fn diff(args: DiffArgs, context: &Context) -> Result<ExitCode, Failure> {
    let answer = context.client()?.get(&path(Some(&args.server), true)).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        context.terminal.print(&text?)?;
    }
    let tools: Tools = client::read(answer.clone())?;
    let server = only(tools, &args.server)?;
    let waiting: Vec<_> = server.tools.iter().filter(|tool| tool.waits()).collect();
    if args.form.form.machine(&answer).is_none() {
        let color = context.terminal.color();
        for tool in &waiting {
            let title = format!("# {} {} {}", tool.name, tool.state, tool.digest);
            let title = Tone::Strong.paint(&plain(&title), color);
            context.terminal.print(&format!("{title}\n{}", paint_diff(&changes(tool), color)))?;
        }
        for gone in &server.gone {
            let title = format!("# {} gone: approved by {}, and not advertised", gone.name, gone.policy);
            context.terminal.print(&format!("{}\n", Tone::Strong.paint(&plain(&title), color)))?;
        }
        if waiting.is_empty() && server.gone.is_empty() {
            context.terminal.say("everything that is advertised and pinned was approved");
        }
        warn_of_disagreement(std::slice::from_ref(&server), context);
    }
    let is_good = waiting.is_empty() && server.agreed;
    Ok(if args.check && !is_good { ExitCode::Failed } else { ExitCode::Done })
}

/// The one server that was asked for.
fn only(tools: Tools, server: &ServerName) -> Result<ServerTools, Failure> {
    tools.items.into_iter().next().ok_or_else(|| {
        Failure::failed(format!("what {server} advertises is not known"))
            .because("no sidecar beside it has reported it")
            .then("see `weft status` for whether one is connected, and `weft tools show` for what was known last")
    })
}

impl AdvertisedTool {
    fn waits(&self) -> bool {
        matches!(self.state.as_str(), "new" | "changed")
    }
}

/// What is another in a definition than in the one that was approved, field by field.
fn changes(tool: &AdvertisedTool) -> String {
    let Some(Value::Object(now)) = &tool.definition else {
        return "  its definition is too large to be shown\n".to_owned();
    };
    let (empty, mut text) = (Map::new(), String::new());
    let before = match &tool.approved_definition {
        Some(Value::Object(before)) => before,
        _ => &empty,
    };
    if tool.state == "changed" && before.is_empty() {
        text.push_str("  the definition that was approved is not remembered; this is all of the new one\n");
    }
    text.push_str(&changed_fields(before, now, HASHED));
    text
}

/// Each of these members that is another, line by line.
fn changed_fields<'m>(
    before: &Map<String, Value>,
    now: &Map<String, Value>,
    members: impl IntoIterator<Item = &'m str>,
) -> String {
    let mut text = String::new();
    for field in members {
        let (old, new) = (lines(before.get(field)), lines(now.get(field)));
        if old == new {
            continue;
        }
        let same_first = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
        let rest = (&old[same_first..], &new[same_first..]);
        let same_last = rest.0.iter().rev().zip(rest.1.iter().rev()).take_while(|(a, b)| a == b).count();
        let _ = writeln!(text, "  {field}:");
        for line in &rest.0[..rest.0.len() - same_last] {
            let _ = writeln!(text, "-   {line}");
        }
        for line in &rest.1[..rest.1.len() - same_last] {
            let _ = writeln!(text, "+   {line}");
        }
    }
    text
}

fn lines(value: Option<&Value>) -> Vec<String> {
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => text.lines().map(ToOwned::to_owned).collect(),
        Some(other) => format!("{other:#}").lines().map(ToOwned::to_owned).collect(),
    }
}

async fn approve(args: ApproveArgs, context: &Context) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let tools: Tools = client::read(client.get(&path(Some(&args.server), false)).await?)?;
    let server = only(tools, &args.server)?;
    let wanted = wanted(&args, &server)?;
    let mut by_policy = BTreeMap::<String, Vec<&AdvertisedTool>>::new();
    for tool in wanted {
        let policy = args.policy.as_ref().map(ToString::to_string).or_else(|| tool.policy.clone());
        let policy = policy.ok_or_else(|| {
            Failure::failed(format!("no policy pins the tool {}", tool.name))
                .then("name the one to write into: `--policy <namespace>/<name>`")
        })?;
        by_policy.entry(policy).or_default().push(tool);
    }
    if by_policy.is_empty() {
        context.terminal.say("nothing waits for approval");
    }
    for (policy, tools) in by_policy {
        write(&client, &policy, &tools, &args.change, context).await?;
    }
    Ok(ExitCode::Done)
}

/// The definitions to approve, each of which all instances advertise.
fn wanted<'t>(args: &ApproveArgs, server: &'t ServerTools) -> Result<Vec<&'t AdvertisedTool>, Failure> {
    let is_wanted = |tool: &AdvertisedTool| match args.all {
        true => tool.waits(),
        false => args.tools.contains(&tool.name),
    };
    let wanted: Vec<_> = server.tools.iter().filter(|tool| is_wanted(tool)).collect();
    if let Some(missing) = args.tools.iter().find(|name| !wanted.iter().any(|tool| tool.name == **name)) {
        return Err(Failure::failed(format!("{} does not advertise a tool {missing:?}", server.server))
            .then(format!("see `weft tools list {}`", server.server)));
    }
    if let Some(tool) = wanted.iter().find(|tool| tool.disagrees) {
        return Err(Failure::failed(format!(
            "instances of {} disagree about the tool {}",
            server.server, tool.name
        ))
        .because("one approval holds for all of them")
        .then("see `weft tools list`, and approve once all run the same"));
    }
    Ok(wanted)
}

/// Writes digests into a policy, based on the version of it that was read.
async fn write(
    client: &Client,
    policy: &str,
    tools: &[&AdvertisedTool],
    change: &ChangeArgs,
    context: &Context,
) -> Result<(), Failure> {
    let (namespace, name) = policy.split_once('/').unwrap_or_default();
    let path = Path::v1(&["namespaces", namespace, Kind::ToolPolicy.plural(), name]);
    let mut object = client.get(&path).await?;
    for tool in tools {
        object["spec"]["approved"][&tool.name] = json!(tool.digest);
    }
    let answer = client.send(Method::PUT, &change.on(path), Body::Documents(object.to_string())).await?;
    let applied = outcome::show(context, answer, change.form)?;
    if change.form == OutcomeForm::Text {
        for tool in tools {
            context.terminal.say(&format!("{} is approved as {}", plain(&tool.name), tool.digest));
        }
        outcome::summarize(context, &applied);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(before: Option<Value>, now: Value) -> AdvertisedTool {
        AdvertisedTool {
            name: "t".to_owned(),
            state: if before.is_some() { "changed" } else { "new" }.to_owned(),
            definition: Some(now),
            approved_definition: before,
            ..AdvertisedTool::default()
        }
    }

    #[test]
    fn what_changed_is_shown_field_by_field() {
        let before =
            json!({ "name": "t", "description": "one\ntwo\nthree", "inputSchema": { "type": "object" } });
        let now = json!({ "name": "t", "description": "one\nTWO\nthree", "inputSchema": { "type": "object" },
            "annotations": { "readOnlyHint": true }, "_meta": { "x": 1 } });
        let text = changes(&tool(Some(before), now));
        assert_eq!(
            text,
            "  annotations:\n+   {\n+     \"readOnlyHint\": true\n+   }\n  description:\n-   two\n+   TWO\n"
        );
    }

    #[test]
    fn a_new_tool_is_shown_as_a_whole() {
        let text = changes(&tool(None, json!({ "name": "t", "description": "one" })));
        assert_eq!(text, "  description:\n+   one\n  name:\n+   t\n");
    }

    #[test]
    fn nothing_is_approved_that_instances_disagree_about_or_that_is_not_there() {
        let args = |tools: &[&str], all| ApproveArgs {
            server: "research/files".parse().unwrap(),
            tools: tools.iter().map(|it| (*it).to_owned()).collect(),
            all,
            policy: None,
            change: ChangeArgs::default(),
        };
        let mut server = ServerTools { tools: vec![tool(None, json!({}))], ..ServerTools::default() };
        assert_eq!(wanted(&args(&["t"], false), &server).unwrap().len(), 1);
        assert!(wanted(&args(&["u"], false), &server).is_err());
        server.tools[0].disagrees = true;
        assert!(wanted(&args(&[], true), &server).is_err());
        server.tools[0].state = "approved".to_owned();
        assert!(wanted(&args(&[], true), &server).unwrap().is_empty());
    }
}
