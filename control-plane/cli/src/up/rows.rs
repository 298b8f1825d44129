//! What is shown of each server, as values and as texts. Nothing is printed here.

use std::collections::BTreeMap;
use std::time::SystemTime;

use weft_proto::name::NodeId;
use weft_proto::resource::kinds::{Location, McpServer, Protocol};
use weft_sidecar::backend;
use weft_sidecar::onlook::Outcome;

use super::board::{Seen, Standing, Up};
use super::sidecar::counted;
use super::tally::{Counts, Last, Tally};
use crate::columns::clip;
use crate::moments;
use crate::table::{Cell, Table};
use crate::terminal::{Tone, plain};

/// What an agent's sidecar is, where a server's says what it speaks.
const ENDPOINT: &str = "endpoint";
/// Characters of a reason in the table; the whole of it is in the log.
const REASON_CHARS: usize = 44;

/// How a server stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Ready,
    Failing(String),
    Stopping,
    /// No sidecar stands beside it here, and why.
    LeftOut(String),
}

impl State {
    const fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Failing(_) => "failing",
            Self::Stopping => "stopping",
            Self::LeftOut(_) => "not here",
        }
    }

    const fn tone(&self) -> Tone {
        match self {
            Self::Starting | Self::Stopping => Tone::Warn,
            Self::Ready => Tone::Good,
            Self::Failing(_) => Tone::Bad,
            Self::LeftOut(_) => Tone::Dim,
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failing(why) | Self::LeftOut(why) => write!(f, "{}: {}", self.word(), one_line(why)),
            Self::Starting | Self::Ready | Self::Stopping => f.write_str(self.word()),
        }
    }
}

/// What there is to say of one server, or of an agent's sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// How it is reached and what it speaks, as far as that is known.
    pub(crate) speaks: String,
    pub(crate) state: State,
    pub(crate) counts: Counts,
    pub(crate) in_flight: Option<i64>,
}

/// A row for each server, and one for each agent's sidecar that there is something to say of. Whoever fails is failing
/// until it is ready, however often it is started in between.
pub(crate) fn rows(seen: &Seen, tally: &Tally, before: &[Row]) -> Vec<Row> {
    let failed_before = |name: &str| {
        let before = before.iter().find(|row| row.name == name).map(|row| &row.state);
        before.filter(|state| matches!(state, State::Failing(_))).cloned()
    };
    let servers = seen.servers.iter().map(|(name, standing)| {
        let name = name.to_string();
        let (state, speaks, in_flight) = look(standing);
        let state = if state == State::Starting { failed_before(&name).unwrap_or(state) } else { state };
        Row { counts: tally.of(&name), name, speaks, state, in_flight }
    });
    let left_out = seen.left_out.iter().filter(|(name, _)| !seen.servers.contains_key(name));
    let left_out = left_out.map(|(name, why)| Row {
        name: name.to_string(),
        speaks: String::new(),
        state: State::LeftOut(why.clone()),
        counts: tally.of(&name.to_string()),
        in_flight: None,
    });
    let mut rows: Vec<_> = servers.chain(left_out).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows.extend(
        seen.agents.iter().map(|(node, standing)| agent(node, standing, tally)).filter(is_worth_telling),
    );
    rows
}

/// Calls about no server that is known are counted by whoever made them.
fn agent(node: &NodeId, standing: &Standing, tally: &Tally) -> Row {
    Row {
        name: node.to_string(),
        speaks: ENDPOINT.to_owned(),
        state: standing_of_agent(standing),
        counts: tally.of(&counted(node)),
        in_flight: None,
    }
}

fn is_worth_telling(agent: &Row) -> bool {
    agent.state != State::Ready || agent.counts.calls > 0
}

fn standing_of_agent(standing: &Standing) -> State {
    match standing {
        Standing::Running(up) if up.shown.ready().is_ok() => State::Ready,
        Standing::Running(_) | Standing::Starting => State::Starting,
        Standing::Failed(why) => State::Failing(why.clone()),
        Standing::Stopping => State::Stopping,
    }
}

fn look(standing: &Standing) -> (State, String, Option<i64>) {
    match standing {
        Standing::Starting => (State::Starting, String::new(), None),
        Standing::Failed(why) => (State::Failing(why.clone()), String::new(), None),
        Standing::Stopping => (State::Stopping, String::new(), None),
        Standing::Running(up) => look_beside(up),
    }
}

/// The server beside a running sidecar: it has one.
fn look_beside(up: &Up) -> (State, String, Option<i64>) {
    let servers = up.servers.all();
    let Some(local) = servers.first().filter(|_| up.shown.ready().is_ok()) else {
        return (State::Starting, String::new(), None);
    };
    let transport = transport(&local.spec);
    let (state, speaks) = match local.backend.standing() {
        backend::Standing::Starting => (State::Starting, transport.to_owned()),
        backend::Standing::Failing(why) => (State::Failing(why), transport.to_owned()),
        backend::Standing::Ready(speaks) => (State::Ready, format!("{transport}, {speaks}")),
    };
    (state, speaks, Some(local.in_flight.get()))
}

fn transport(spec: &McpServer) -> &'static str {
    match (&spec.location, spec.protocol) {
        (Location::Stdio(_), _) => "stdio",
        (_, Protocol::HttpSse) => "sse",
        _ => "http",
    }
}

/// The rows as a table, and the last calls below it.
pub(crate) fn table(rows: &[Row], last: &[Last], now: SystemTime, colour: bool) -> String {
    let headers =
        vec!["SERVER", "SPEAKS", "STATE", "CALLS", "REFUSED", "ERRORS", "IN FLIGHT", "LAST REFUSAL"];
    let mut table = Table::new(headers);
    for row in rows {
        table.push(cells(row, now));
    }
    let mut text = table.render(colour);
    if rows.is_empty() {
        text += "no servers yet; try weft apply -f <file>\n";
    }
    if !last.is_empty() {
        let mut calls = Table::new(vec!["LAST CALLS", "SERVER", "OUTCOME", "CALL", "WHY"]);
        last.iter().for_each(|call| calls.push(call_cells(call, now)));
        text += &format!("\n{}", calls.render(colour));
    }
    text
}

fn cells(row: &Row, now: SystemTime) -> Vec<Cell> {
    let counts = &row.counts;
    let counted =
        |count: u64, tone| Cell::new(count.to_string()).toned(if count > 0 { tone } else { Tone::Plain });
    let refusal = counts.last_refused.as_ref();
    let refusal = refusal.map(|last| format!("{}: {}, {}", ago(last, now), last.reason, last.what));
    vec![
        Cell::new(&row.name),
        Cell::new(&row.speaks),
        Cell::new(clip(&row.state.to_string(), REASON_CHARS)).toned(row.state.tone()),
        Cell::new(counts.calls.to_string()),
        counted(counts.refused, Tone::Warn),
        counted(counts.failed, Tone::Bad),
        Cell::new(row.in_flight.map(|calls| calls.to_string()).unwrap_or_default()),
        Cell::new(refusal.unwrap_or_default()),
    ]
}

fn call_cells(call: &Last, now: SystemTime) -> Vec<Cell> {
    let tone = match call.outcome {
        Outcome::Answered => Tone::Good,
        Outcome::Refused => Tone::Warn,
        Outcome::Failed => Tone::Bad,
        Outcome::Left => Tone::Dim,
    };
    vec![
        Cell::new(ago(call, now)),
        Cell::new(call.server.as_deref().unwrap_or_default()),
        Cell::new(call.outcome.word()).toned(tone),
        Cell::new(&call.what),
        Cell::new(why(call)),
    ]
}

fn why(call: &Last) -> String {
    match call.why.is_empty() {
        true => String::new(),
        false => format!("{}: {}", call.reason, call.why),
    }
}

fn ago(call: &Last, now: SystemTime) -> String {
    let age = now.duration_since(call.at).unwrap_or_default();
    format!("{} ago", moments::length(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)))
}

fn one_line(text: &str) -> String {
    plain(text).replace(['\n', '\t'], " ")
}

/// Tells changes line by line.
#[derive(Debug, Default)]
pub(crate) struct Teller {
    known: BTreeMap<String, Known>,
}

/// What was told of a server.
#[derive(Clone, Debug)]
struct Known {
    state: Option<State>,
    refused: u64,
    failed: u64,
}

impl Teller {
    /// What is new about these rows, a line each. What became of calls before a server was first seen is not told.
    pub(crate) fn news(&mut self, rows: &[Row], url: impl Fn(&str) -> String) -> Vec<String> {
        let mut lines = Vec::new();
        for row in rows {
            let Counts { refused, failed, .. } = row.counts;
            let before = self.known.entry(row.name.clone()).or_insert_with(|| row.first_known());
            if before.state.as_ref() != Some(&row.state) {
                lines.push(row.state_line(&url));
            }
            let not_served = [
                (refused.saturating_sub(before.refused), &row.counts.last_refused),
                (failed.saturating_sub(before.failed), &row.counts.last_failed),
            ];
            let not_served = not_served.into_iter().filter(|(count, _)| *count > 0);
            lines.extend(not_served.filter_map(|(count, last)| Some(row.call_line(count, last.as_ref()?))));
            *before = Known { state: Some(row.state.clone()), refused, failed };
        }
        let is_gone = |name: &String, _: &mut Known| !rows.iter().any(|row| row.name == *name);
        lines.extend(self.known.extract_if(.., is_gone).map(|(name, _)| format!("{name}: gone")));
        lines
    }
}

impl Row {
    /// What is taken as told of a row that is new. The agent's comes up only when there is something else to say.
    fn first_known(&self) -> Known {
        match self.is_agents() {
            true => Known { state: Some(State::Ready), refused: 0, failed: 0 },
            false => Known { state: None, refused: self.counts.refused, failed: self.counts.failed },
        }
    }

    fn is_agents(&self) -> bool {
        self.speaks == ENDPOINT
    }

    fn state_line(&self, url: impl Fn(&str) -> String) -> String {
        match &self.state {
            State::Ready if !self.is_agents() => {
                format!("{}: ready ({}) {}", self.name, self.speaks, url(&self.name))
            }
            state => format!("{}: {state}", self.name),
        }
    }

    /// So many calls that were not served since the last line, and the last of them.
    fn call_line(&self, count: u64, last: &Last) -> String {
        let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        let (what, why) = (one_line(&last.what), one_line(&why(last)));
        format!("{}: {} {what}: {why}{more}", self.name, last.outcome.word())
    }
}

#[cfg(test)]
mod tests;
