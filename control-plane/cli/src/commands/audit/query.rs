//! `weft audit query`: records of the audit trails.

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use weft_proto::audit::{Line, What};
use weft_proto::resource::units::Span;

use crate::app::Context;
use crate::client::{self, Client, Path};
use crate::columns::clip;
use crate::failure::{ExitCode, Failure};
use crate::moments;
use crate::output::FormArgs;
use crate::table::{Cell, Table};
use crate::terminal::Tone;

const EXAMPLES: &str = "\
Examples:
  weft audit query                                        the latest records
  weft audit query --of research/files --since 1h         the last hour of one server
  weft audit query --caller '*/sa/reviewer' --outcome refused
  weft audit query --of control-plane                     what operators did
  weft audit query --tool 'delete_*' -o json              for programs, with digests";

/// Records that one answer of the control plane holds.
const PAGE: usize = 1000;
const DETAIL_CHARS_MAX: usize = 60;

/// Shows records of the audit trails: calls that policy marks, and what operators did
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub(super) wanted: Wanted,
    /// Most records to show
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) limit: u32,
    #[command(flatten)]
    pub(super) form: FormArgs,
}

/// Which records are wanted.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Wanted {
    /// Only calls of this caller, or acts of this operator; `*` stands for anything
    #[arg(long, value_name = "IDENTITY")]
    caller: Option<String>,
    /// Only calls of this server, as research/files; control-plane for what operators did
    #[arg(long, value_name = "SERVER")]
    of: Option<String>,
    /// Only calls of this tool, or this action of operators
    #[arg(long, value_name = "TOOL")]
    tool: Option<String>,
    /// Only what came out so
    #[arg(long, value_name = "OUTCOME", value_parser = ["begun", "done", "refused", "failed"])]
    outcome: Option<String>,
    /// Only what this node wrote, as research/files-1
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Only from this time on: a moment, or so long ago, as 1h
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Only records before the one with this place
    #[arg(long, value_name = "PLACE")]
    before: Option<u64>,
}

/// A record, as the control plane answers it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) place: u64,
    pub(super) node: String,
    /// What is known of it here.
    pub(super) line: Line,
    /// All of it, as its node wrote it.
    pub(super) text: String,
}

impl Record {
    pub(super) fn read(answer: &RawValue) -> Result<Self, client::Error> {
        #[derive(Deserialize)]
        struct Raw {
            place: u64,
            node: String,
            line: Box<RawValue>,
        }
        let strange = |why: String| client::Error::Strange(why);
        let Raw { place, node, line: text } =
            serde_json::from_str(answer.get()).map_err(|error| strange(error.to_string()))?;
        let line = Line::parse(text.get().as_bytes()).map_err(|error| strange(error.to_string()))?;
        Ok(Self { place, node, line, text: text.get().to_owned() })
    }
}

/// Where a record stands.
pub(super) fn place(record: &RawValue) -> Option<u64> {
    #[derive(Deserialize)]
    struct Placed {
        place: u64,
    }
    serde_json::from_str(record.get()).ok().map(|it: Placed| it.place)
}

#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Box<RawValue>>,
}

impl Wanted {
    fn path(&self, limit: usize, before: Option<u64>, now: Timestamp) -> Result<Path, Failure> {
        Ok(Path::v1(&["audit", "records"])
            .with("limit", Some(limit))
            .with("before", before)
            .with("caller", self.caller.as_ref())
            .with("server", self.of.as_ref())
            .with("tool", self.tool.as_ref())
            .with("outcome", self.outcome.as_ref())
            .with("node", self.node.as_ref())
            .with("since", self.since.as_ref().map(|text| moment(text, now)).transpose()?)
            .with("until", self.until.as_ref().map(|text| moment(text, now)).transpose()?))
    }

    /// So many records, the newest first, as the control plane answers them.
    pub(super) async fn fetch(
        &self,
        client: &Client,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Box<RawValue>>, Failure> {
        let (mut found, mut before) = (Vec::new(), self.before);
        while found.len() < limit {
            let asked = PAGE.min(limit - found.len());
            let bytes = client.bytes(&self.path(asked, before, now)?).await?;
            let page: Page =
                serde_json::from_slice(&bytes).map_err(|error| client::Error::Strange(error.to_string()))?;
            let Some(last) = page.items.last() else { break };
            before = place(last);
            found.extend(page.items);
        }
        Ok(found)
    }
}

/// A moment, or one so long ago.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let ago: Span = text.parse().map_err(|_| {
        Failure::usage(format!(
            "{text:?} is neither a moment, as 2026-11-27T09:00:00Z, nor a time ago, as 1h"
        ))
    })?;
    Ok(now.checked_sub(ago.duration()).unwrap_or(Timestamp::UNIX_EPOCH))
}

pub(super) async fn run(args: QueryArgs, context: &Context) -> Result<ExitCode, Failure> {
    let found = args.wanted.fetch(&context.client()?, args.limit as usize, context.now()).await?;
    let answer = serde_json::to_value(&found).expect("what was read as JSON can be written as such");
    if let Some(text) = args.form.form.machine(&answer) {
        return context.terminal.print(&text?).map(|()| ExitCode::Done);
    }
    let records: Vec<Record> = found.iter().map(|it| Record::read(it)).collect::<Result<_, _>>()?;
    let Some(last) = records.last().map(|it| it.place) else {
        context.terminal.say("no record matches");
        return Ok(ExitCode::Done);
    };
    context.terminal.print(&table(&records).render(context.terminal.color()))?;
    if records.len() == args.limit as usize {
        context.terminal.say(&format!("there may be earlier records: weft audit query --before {last}"));
    }
    Ok(ExitCode::Done)
}

fn table(records: &[Record]) -> Table {
    let mut table =
        Table::new(vec!["PLACE", "AT", "WHO", "WHAT", "ON", "OUTCOME", "REASON", "RULE", "NODE", "LINE"]);
    for Record { place, node, line, .. } in records {
        let [who, what, on, outcome, reason, rule] = told(&line.is);
        let tone = match outcome.as_str() {
            "done" | "begun" => Tone::Plain,
            _ => Tone::Warn,
        };
        table.push(vec![
            Cell::new(place.to_string()),
            Cell::new(moments::second(&line.at.to_string())),
            Cell::new(who),
            Cell::new(what),
            Cell::new(clip(&on, DETAIL_CHARS_MAX)),
            Cell::new(outcome).toned(tone),
            Cell::new(clip(&reason, DETAIL_CHARS_MAX)),
            Cell::new(rule),
            Cell::new(node),
            Cell::new(line.n.to_string()),
        ]);
    }
    table
}

/// Who did what on what, with what outcome, why, and by which rule.
fn told(is: &What) -> [String; 6] {
    match is {
        What::Begun(call) | What::Call(call) => {
            let what = call.asked.tool.as_ref().or(call.asked.target.as_ref()).unwrap_or(&call.asked.method);
            let (who, on) = (call.caller.clone(), call.server.clone());
            let rule = call.rule.clone().unwrap_or_default();
            [who, what.clone(), on, call.outcome.word().to_owned(), call.reason.clone(), rule]
        }
        What::Operator(act) => {
            let outcome = act.outcome.word().to_owned();
            [
                act.who.clone(),
                act.action.clone(),
                act.object.clone(),
                outcome,
                act.reason.clone(),
                String::new(),
            ]
        }
        What::Dropped(dropped) => {
            let what = format!("{} not recorded", dropped.count);
            [String::new(), what, String::new(), "dropped".to_owned(), dropped.reason.clone(), String::new()]
        }
        What::Resumed(cut) => {
            let reason = match cut.damaged {
                true => "what came before is damaged".to_owned(),
                false => format!("ended without notice, {} bytes cut off", cut.torn_bytes),
            };
            [String::new(), "resumed".to_owned(), String::new(), "resumed".to_owned(), reason, String::new()]
        }
        What::Later(said) => {
            let (what, reason) = (said.keys().next().cloned(), "written by a later version".to_owned());
            [String::new(), what.unwrap_or_default(), String::new(), String::new(), reason, String::new()]
        }
        What::Segment(_) | What::Certificate(_) | What::Seal(_) => Default::default(),
    }
}
