//! `weft tools list`, `search` and `show`: what servers offer, from the catalogue.

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};
use weft_proto::name::{Namespace, ServerName};

use super::changed_fields;
use crate::answers::{Offered, OfferedItem, OfferedShown};
use crate::app::Context;
use crate::client::{self, Client, Path};
use crate::columns::clip;
use crate::failure::{ExitCode, Failure};
use crate::moments::{ago, second};
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::{Tone, paint_diff, plain};

/// Items of one page.
const PAGE: usize = 500;
/// Items that are listed at most.
const ITEMS_MAX: usize = 100_000;
/// Characters of a description in a row.
const DESCRIPTION_CHARS: usize = 60;

pub(super) const LIST_EXAMPLES: &str = "\
Examples:
  weft tools list                            every tool of every server
  weft tools list research/files             those of one server
  weft tools list --kind all --label team=post
  weft tools list --hint destructive --era legacy -o json";

pub(super) const SEARCH_EXAMPLES: &str = "\
Examples:
  weft tools search send a mail
  weft tools search invoice --kind all --namespace billing";

pub(super) const SHOW_EXAMPLES: &str = "\
Examples:
  weft tools show research/files/read_file
  weft tools show research/files/read_file --versions
  weft tools show research/files/file:///log --kind resource";

/// What is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    #[default]
    Tool,
    Prompt,
    Resource,
    Template,
    All,
}

impl KindArg {
    const fn word(self) -> Option<&'static str> {
        match self {
            Self::Tool => Some("tool"),
            Self::Prompt => Some("prompt"),
            Self::Resource => Some("resource"),
            Self::Template => Some("template"),
            Self::All => None,
        }
    }
}

/// What a tool says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HintArg {
    ReadOnly,
    Destructive,
    Idempotent,
    OpenWorld,
}

/// Which era a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EraArg {
    Modern,
    Legacy,
}

/// Which items.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct WhichArgs {
    /// What is listed: tools, or something else that servers offer
    #[arg(long, value_enum, default_value_t)]
    pub(crate) kind: KindArg,
    /// Only of servers in one namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<Namespace>,
    /// Only of servers with these labels: k=v,k2=v2
    #[arg(long = "label", short = 'l', value_name = "LABELS")]
    pub(crate) labels: Option<String>,
    /// Only tools that say this of themselves
    #[arg(long, value_enum)]
    pub(crate) hint: Option<HintArg>,
    /// Only of servers that speak this era
    #[arg(long, value_enum)]
    pub(crate) era: Option<EraArg>,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Shows what servers offer: their tools, and whether each is as it was approved
///
/// What a server offers stays known while none of its sidecars is connected. SINCE is how long its definition has been the
/// same; INSTANCES how many sidecars found this definition, of those that read the server. What most of them found is what
/// is listed.
#[derive(Clone, Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {
    /// One server, as <namespace>/<name>
    #[arg(id = "of", value_name = "SERVER")]
    pub(crate) server: Option<ServerName>,
    #[command(flatten)]
    pub(crate) which: WhichArgs,
}

/// Finds tools by words in their names, descriptions and the names of their arguments, the best first
#[derive(Clone, Debug, Args)]
#[command(after_help = SEARCH_EXAMPLES)]
pub(crate) struct SearchArgs {
    /// The words
    #[arg(value_name = "WORD", required = true)]
    pub(crate) words: Vec<String>,
    /// Only of one server, as <namespace>/<name>
    #[arg(long = "of", value_name = "SERVER")]
    pub(crate) of: Option<ServerName>,
    /// How many are shown at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    #[command(flatten)]
    pub(crate) which: WhichArgs,
}

/// Shows one tool: its definition, since when it is that, what each sidecar found, and whether it is approved
#[derive(Clone, Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub(crate) struct ShowArgs {
    /// The tool, as <namespace>/<server>/<name>
    #[arg(value_name = "TOOL", value_parser = read_item)]
    pub(crate) item: (ServerName, String),
    /// What it is, if it is no tool
    #[arg(long, value_enum, default_value_t)]
    pub(crate) kind: KindArg,
    /// With what changed from each version to the next
    #[arg(long)]
    pub(crate) versions: bool,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// A server, and the name of something that it offers; that may have slashes of its own.
fn read_item(text: &str) -> Result<(ServerName, String), String> {
    let mut parts = text.splitn(3, '/');
    let (Some(namespace), Some(server), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("expected <namespace>/<server>/<name>".to_owned());
    };
    let server = format!("{namespace}/{server}").parse::<ServerName>().map_err(|error| error.to_string())?;
    Ok((server, name.to_owned()))
}

impl WhichArgs {
    fn path(&self, server: Option<&ServerName>) -> Path {
        let word = |value: Option<String>| value;
        let possible = |value: clap::builder::PossibleValue| value.get_name().to_owned();
        Path::v1(&["catalogue", "items"])
            .with("kind", self.kind.word())
            .with("server", server)
            .with("namespace", self.namespace.as_ref())
            .with("labels", self.labels.as_ref())
            .with("hint", word(self.hint.and_then(|it| it.to_possible_value().map(possible))))
            .with("era", word(self.era.and_then(|it| it.to_possible_value().map(possible))))
    }
}

pub(super) async fn list(args: ListArgs, context: &Context) -> Result<ExitCode, Failure> {
    let path = args.which.path(args.server.as_ref()).with("limit", Some(PAGE));
    let items = every_page(&context.client()?, path).await?;
    let answer = json!({ "items": items });
    if let Some(text) = args.which.form.form.machine(&answer) {
        context.terminal.print(&text?)?;
        return Ok(ExitCode::Done);
    }
    let Offered { items } = client::read(answer)?;
    if items.is_empty() {
        context
            .terminal
            .say("nothing is known that servers offer; see `weft status` for whether sidecars report");
        return Ok(ExitCode::Done);
    }
    let with_kind = args.which.kind != KindArg::Tool;
    let mut headers = vec!["SERVER", "NAME", "STATE", "PIN", "HINTS", "SINCE", "INSTANCES"];
    if with_kind {
        headers.insert(1, "KIND");
    }
    let mut table = Table::new(headers);
    for item in &items {
        table.push(row(item, with_kind, context.now()));
    }
    context.terminal.print(&table.render(context.terminal.color()))?;
    for item in items.iter().filter(|item| item.agreeing < item.instances) {
        context.terminal.warn(&format!(
            "instances of {} disagree about {}; see `weft tools show {}/{}`",
            item.server, item.name, item.server, item.name
        ));
    }
    Ok(ExitCode::Done)
}

async fn every_page(client: &Client, path: Path) -> Result<Vec<Value>, Failure> {
    let (mut items, mut next) = (Vec::new(), None::<String>);
    loop {
        let mut answer = client.get(&path.clone().with("continue", next.as_ref())).await?;
        if let Value::Array(page) = answer["items"].take() {
            items.extend(page);
        }
        next = answer["continue"].as_str().map(str::to_owned);
        if next.is_none() || items.len() >= ITEMS_MAX {
            return Ok(items);
        }
    }
}

fn row(item: &OfferedItem, with_kind: bool, now: Timestamp) -> Vec<Cell> {
    let state = item.state.as_deref().unwrap_or_default();
    let tone = match state {
        "approved" => Tone::Good,
        "unpinned" | "" => Tone::Dim,
        _ => Tone::Bad,
    };
    let instances = match &item.away_since {
        Some(since) => Cell::new(format!("away since {}", second(since))).toned(Tone::Bad),
        None => Cell::new(format!("{}/{}", item.agreeing, item.instances))
            .toned(if item.agreeing < item.instances { Tone::Bad } else { Tone::Plain }),
    };
    let mut cells = vec![
        Cell::new(&item.server),
        Cell::new(&item.name),
        Cell::new(state).toned(tone),
        Cell::new(item.pin.as_deref().unwrap_or_default()),
        Cell::new(item.hints.join(",")),
        Cell::new(ago(&item.since, now)),
        instances,
    ];
    if with_kind {
        cells.insert(1, Cell::new(&item.kind));
    }
    cells
}

pub(super) async fn search(args: SearchArgs, context: &Context) -> Result<ExitCode, Failure> {
    let path = args.which.path(args.of.as_ref());
    let path = path.with("words", Some(args.words.join(" "))).with("limit", Some(args.limit));
    let answer = context.client()?.get(&path).await?;
    if let Some(text) = args.which.form.form.machine(&answer) {
        context.terminal.print(&text?)?;
        return Ok(ExitCode::Done);
    }
    let Offered { items } = client::read(answer)?;
    if items.is_empty() {
        context.terminal.say("nothing is found by these words");
        return Ok(ExitCode::Done);
    }
    let mut table = Table::new(vec!["SERVER", "KIND", "NAME", "SCORE", "DESCRIPTION"]);
    for item in &items {
        let told = item.description.as_deref().or(item.title.as_deref()).unwrap_or_default();
        let told = clip(told.lines().next().unwrap_or_default(), DESCRIPTION_CHARS);
        let score = format!("{:.2}", item.score.unwrap_or_default());
        table.push([&item.server, &item.kind, &item.name, &score, &told].map(Cell::new).into());
    }
    context.terminal.print(&table.render(context.terminal.color()))?;
    Ok(ExitCode::Done)
}

pub(super) async fn show(args: ShowArgs, context: &Context) -> Result<ExitCode, Failure> {
    let (server, name) = &args.item;
    let path = Path::v1(&["catalogue", "item"])
        .with("server", Some(server))
        .with("kind", args.kind.word())
        .with("name", Some(name));
    let answer = context.client()?.get(&path).await?;
    if let Some(text) = args.form.form.machine(&answer) {
        context.terminal.print(&text?)?;
        return Ok(ExitCode::Done);
    }
    let shown: OfferedShown = client::read(answer)?;
    context.terminal.print(&told(&shown, args.versions, context.now(), context.terminal.color()))?;
    Ok(ExitCode::Done)
}

fn told(shown: &OfferedShown, with_versions: bool, now: Timestamp, color: bool) -> String {
    let OfferedShown { item, definition, approval, replicas, versions } = shown;
    let mut lines =
        vec![Tone::Strong.paint(&plain(&format!("{}/{} ({})", item.server, item.name, item.kind)), color)];
    let mut say =
        |what: &str, text: String| lines.push(format!("{:<12}{}", format!("{what}:"), plain(&text)));
    say("since", format!("{} ({})", second(&item.since), ago(&item.since, now)));
    say("digest", item.digest.clone());
    if let (Some(approval), Some(state), Some(pin)) = (approval, &item.state, &item.pin) {
        let by = item.policy.as_deref().map(|policy| format!(" by {policy}")).unwrap_or_default();
        say("approval", format!("{approval} is {state}; pin {pin}{by}"));
    }
    if let Some(since) = &item.away_since {
        say("away", format!("no sidecar tells of the server since {}", second(since)));
    }
    for replica in replicas {
        let found = match (&replica.digest, replica.agrees) {
            (_, true) => "found this".to_owned(),
            (Some(digest), false) => format!("found another definition, {digest}"),
            (None, false) => "found nothing of this name".to_owned(),
        };
        say("instance", format!("{} {found}, at {}", replica.node, second(&replica.at)));
    }
    say("versions", versions.len().to_string());
    lines.push(plain(&format!("{definition:#}")).into_owned());
    if with_versions {
        for pair in versions.windows(2) {
            let [newer, older] = pair else { continue };
            let title =
                format!("# from {} to {}: {}", second(&older.from), second(&newer.from), newer.digest);
            lines.push(Tone::Strong.paint(&plain(&title), color));
            lines.push(paint_diff(&versions_apart(&older.definition, &newer.definition), color));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What is another in one version than in the one before, member by member.
fn versions_apart(older: &Value, newer: &Value) -> String {
    let (Some(older), Some(newer)) = (older.as_object(), newer.as_object()) else { return String::new() };
    let members: std::collections::BTreeSet<&str> =
        older.keys().chain(newer.keys()).map(String::as_str).collect();
    changed_fields(older, newer, members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::{OfferedReplica, OfferedVersion};

    #[test]
    fn what_is_shown_is_named_with_its_server_and_may_have_slashes() {
        let (server, name) = read_item("research/files/file:///a/b").unwrap();
        assert_eq!((server.to_string(), name), ("research/files".to_owned(), "file:///a/b".to_owned()));
        for wrong in ["read", "files/read", "Research/files/read"] {
            assert!(read_item(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_tool_is_shown_with_who_found_what_and_what_changed() {
        let version = |text: &str, from: &str| OfferedVersion {
            digest: format!("sha256:{text}"),
            from: from.to_owned(),
            definition: json!({ "name": "t", "description": text }),
            ..OfferedVersion::default()
        };
        let replica = |node: &str, digest: Option<&str>, agrees| OfferedReplica {
            node: node.to_owned(),
            at: "2026-01-02T00:00:00Z".to_owned(),
            digest: digest.map(str::to_owned),
            agrees,
        };
        let shown = OfferedShown {
            item: OfferedItem {
                server: "a/b".to_owned(),
                name: "t".to_owned(),
                kind: "tool".to_owned(),
                since: "2026-01-02T00:00:00Z".to_owned(),
                ..OfferedItem::default()
            },
            definition: json!({ "name": "t" }),
            replicas: vec![replica("a/b-1", Some("x"), true), replica("a/b-2", None, false)],
            versions: vec![version("two", "2026-01-02T00:00:00Z"), version("one", "2026-01-01T00:00:00Z")],
            ..OfferedShown::default()
        };
        let text = told(&shown, true, "2026-01-03T00:00:00Z".parse().unwrap(), false);
        for part in [
            "a/b/t (tool)\nsince:      2026-01-02T00:00:00Z (24h ago)\n",
            "instance:   a/b-2 found nothing of this name, at",
            "# from 2026-01-01T00:00:00Z to 2026-01-02T00:00:00Z: sha256:two\n  description:\n-   one\n+   two\n",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
