//! `weft tools`: what servers advertise, and what of it was approved.

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
use crate::columns::clip;
use crate::failure::{ExitCode, Failure};
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::{Tone, paint_diff, plain};

const EXAMPLES: &str = "\
Examples:
  weft tools list                           what every server advertises that a policy asks about
  weft tools diff research/files            what is new or changed since it was approved
  weft tools approve research/files --all   approve all of it";

const LIST_EXAMPLES: &str = "\
Examples:
  weft tools list
  weft tools list research/files
  weft tools list research/files -o json";

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

/// Characters of a digest that are shown.
const DIGEST_CHARS: usize = 19;

/// Shows what servers advertise, and approves it where policies pin definitions of tools
///
/// A server's tools are known where a ToolPolicy that selects it validates arguments, pins definitions (`pin: warn` is
/// enough), or trusts its hints.
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
    Diff(DiffArgs),
    Approve(ApproveArgs),
}

/// Shows the tools of servers, and whether each is as it was approved
#[derive(Clone, Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {
    /// One server, as <namespace>/<name>
    #[arg(id = "of", value_name = "SERVER")]
    pub(crate) server: Option<ServerName>,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Shows what a server advertises that was not approved: new tools, changed ones with what changed, and those that are
/// gone
///
/// What changed can be shown as long as the control plane remembers the definition that was approved; after a restart it
/// may not, and the definition is shown as a whole.
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
        ToolsCommand::List(args) => list(args, context).await,
        ToolsCommand::Diff(args) => diff(args, context).await,
        ToolsCommand::Approve(args) => approve(args, context).await,
    }
}

async fn list(args: ListArgs, context: &Context) -> Result<ExitCode, Failure> {
    let answer = context.client()?.get(&path(args.server.as_ref(), false)).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        context.terminal.print(&text?)?;
        return Ok(ExitCode::Done);
    }
    let tools: Tools = client::read(answer)?;
    if tools.items.is_empty() {
        context
            .terminal
            .say("no tools are known; a ToolPolicy with `pin` or `validateArguments` asks for them");
        return Ok(ExitCode::Done);
    }
    let mut table = Table::new(vec!["SERVER", "TOOL", "STATE", "PIN", "POLICY", "DIGEST", "INSTANCES"]);
    for server in &tools.items {
        for tool in &server.tools {
            table.push(row(server, tool));
        }
        for gone in &server.gone {
            let cells =
                [&server.server, &gone.name, "gone", "", &gone.policy, &clip(&gone.digest, DIGEST_CHARS), ""];
            table.push(cells.map(Cell::new).into());
        }
    }
    context.terminal.print(&table.render(context.terminal.color()))?;
    warn_of_disagreement(&tools.items, context);
    Ok(ExitCode::Done)
}

fn path(server: Option<&ServerName>, definitions: bool) -> Path {
    Path::v1(&["tools"]).with("server", server).when("definitions", definitions)
}

fn row(server: &ServerTools, tool: &AdvertisedTool) -> Vec<Cell> {
    let tone = match tool.state.as_str() {
        "approved" => Tone::Good,
        "unpinned" => Tone::Dim,
        _ => Tone::Bad,
    };
    let instances = format!("{}/{}", tool.nodes.len(), server.instances.len());
    vec![
        Cell::new(&server.server),
        Cell::new(&tool.name),
        Cell::new(&tool.state).toned(tone),
        Cell::new(&tool.pin),
        Cell::new(tool.policy.as_deref().unwrap_or_default()),
        Cell::new(clip(&tool.digest, DIGEST_CHARS)),
        Cell::new(instances).toned(if tool.disagrees { Tone::Bad } else { Tone::Plain }),
    ]
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
            .then("see `weft status`, and whether a ToolPolicy with `pin` or `validateArguments` selects the server")
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
    for field in HASHED {
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
