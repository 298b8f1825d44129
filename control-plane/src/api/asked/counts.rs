//! The golden signals: how many calls end, what becomes of them and how long they take, over one window after another.
//!
//! Each window is counted by the sidecars themselves, every call of it, and answered with how long they counted: nothing
//! is sampled. A sidecar that does not answer is named, and its calls are not in the sums.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use weft_proto::name::{Namespace, NodeId};
use weft_proto::pb::weft::ask::v1::answer::Says;
use weft_proto::pb::weft::ask::v1::question::Asks;
use weft_proto::pb::weft::ask::v1::{Row, Tallied, Tally};
use weft_proto::spread::Spread;

use super::{SIDECARS_MAX, patterns, until_last, whom};
use crate::api::call::Call;
use crate::api::dto::DateTime;
use crate::api::{Api, Error};
use crate::ask::{self, Whom};
use crate::auth::{Principal, Scope, timestamp};

/// Window that is counted, in milliseconds, if none is asked for; and the shortest and longest.
const WINDOW_MILLIS: u32 = 10_000;
const WINDOW_MILLIS_MIN: u32 = 100;
const WINDOW_MILLIS_MAX: u32 = 60_000;
/// Rows of one answer; the busiest are told.
const ROWS_MAX: usize = 500;

/// What calls are counted apart by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CountedBy {
    #[default]
    Server,
    /// The tool, or whatever else a call names, of each server.
    Tool,
    /// Who calls each server; takes the scope `operator`.
    Caller,
    Sidecar,
}

/// Which calls are counted.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct CountsQuery {
    #[serde(default)]
    by: CountedBy,
    /// Only sidecars of this namespace.
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
    /// Only this sidecar, `<namespace>/<instance>`.
    #[schemars(with = "Option<String>")]
    sidecar: Option<NodeId>,
    /// Servers, `<namespace>/<name>`: patterns with commas between them.
    server: Option<String>,
    /// How long is counted for each answer, in milliseconds.
    window_millis: Option<u32>,
}

/// The calls of one window.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallCounts {
    #[schemars(with = "DateTime")]
    pub at: Timestamp,
    pub by: CountedBy,
    pub window_millis: u32,
    /// Sidecars that counted.
    pub sidecars: usize,
    /// Sidecars that did not, whose calls are not in here.
    pub silent: Vec<SilentSidecar>,
    /// All calls.
    pub total: CallCount,
    /// The busiest first.
    pub items: Vec<CallCount>,
    /// Rows beyond those.
    pub left_out: usize,
    /// Calls that are only in the row of their server, because a sidecar had too many others.
    pub crowded: u64,
}

/// A sidecar that did not count.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SilentSidecar {
    pub node: String,
    pub why: String,
}

/// What became of calls, and how long they took.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CallCount {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tool: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub caller: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sidecar: String,
    pub calls: u64,
    pub calls_per_second: f64,
    pub refused: u64,
    pub failed: u64,
    /// Whose caller did not wait for the answer.
    pub left: u64,
    /// Of the calls whose caller waited, how many were answered properly: 0 to 1. Left out if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<f64>,
    /// Half of the calls took no longer; exact to a sixteenth, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_micros: Option<u64>,
}

/// What is counted in one row of the answer.
#[derive(Debug, Default)]
struct Sum {
    calls: u64,
    per_second: f64,
    refused: u64,
    failed: u64,
    left: u64,
    took: Spread,
}

/// By what a row is known: two parts, of which the second may be empty.
type RowKey = (String, String);

/// One operator who watches.
struct Watcher {
    api: Arc<Api>,
    principal: Option<Principal>,
    query: CountsQuery,
    tally: Tally,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

pub(in crate::api) async fn count(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: CountsQuery = call.query()?;
    let held = call.principal.as_ref().map_or(Scope::Readonly, |it| it.scope);
    // Who calls what is what the audit trail says, too.
    if query.by == CountedBy::Caller && held < Scope::Operator {
        return Err(Error::Forbidden { needed: Scope::Operator, held });
    }
    let millis = query.window_millis.unwrap_or(WINDOW_MILLIS);
    if !(WINDOW_MILLIS_MIN..=WINDOW_MILLIS_MAX).contains(&millis) {
        let problem = format!("{WINDOW_MILLIS_MIN} to {WINDOW_MILLIS_MAX} are taken");
        return Err(Error::BadParameter { name: "windowMillis", problem });
    }
    let tally = Tally {
        millis,
        by_target: query.by == CountedBy::Tool,
        by_caller: query.by == CountedBy::Caller,
        servers: patterns("server", query.server.as_deref())?,
    };
    let watchers_max = api.deps.limits.watchers_max;
    let place = Arc::clone(&api.watchers).try_acquire_owned();
    let place = place.map_err(|_| Error::TooManyWatchers { watchers_max })?;
    let watcher = Watcher { principal: call.principal, query, tally, ended: false, _place: place, api };
    Ok(Sse::new(events(watcher)).into_response())
}

/// An event at the end of each window.
fn events(watcher: Watcher) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(watcher, |mut watcher| async move {
        if watcher.ended || !watcher.may_watch().await {
            return None;
        }
        let counts = tokio::select! {
            () = watcher.api.deps.shutdown.cancelled() => return None,
            counts = watcher.round() => counts,
        };
        let event = Event::default().event("counts").json_data(&counts);
        watcher.ended = event.is_err();
        Some((Ok(event.unwrap_or_default()), watcher))
    })
}

impl Watcher {
    async fn may_watch(&self) -> bool {
        let Some(principal) = &self.principal else { return true };
        // A store that does not answer now is no reason to send anybody away.
        self.api.deps.keys.still_holds(principal, self.api.now()).await.unwrap_or(true)
    }

    /// One window on every sidecar at once.
    async fn round(&self) -> CallCounts {
        let sidecars = &self.api.deps.sidecars;
        let CountsQuery { namespace, sidecar, .. } = &self.query;
        let wanted = sidecars.status().into_iter().filter(|it| {
            it.connected
                && namespace.as_ref().is_none_or(|wanted| it.node.namespace() == wanted.as_str())
                && sidecar.as_ref().is_none_or(|wanted| *wanted == it.node)
        });
        let window = Duration::from_millis(self.tally.millis.into());
        let (began, patience) = (Instant::now(), self.api.deps.limits.sidecar_timeout);
        let asked: Vec<_> = wanted
            .take(SIDECARS_MAX)
            .map(|it| {
                let whom = whom(&it);
                let asked = sidecars.ask(&whom, Asks::Tally(self.tally.clone()));
                (whom, asked)
            })
            .collect();
        let mut rounds = Round::new(self.query.by);
        let all = stream::iter(asked.into_iter().map(|(whom, asked)| async move {
            let counted = match asked {
                Ok(mut answers) => until_last(&mut answers, began + window + patience).await,
                Err(error) => Err(error),
            };
            (whom, counted)
        }));
        let mut all = Box::pin(all.buffer_unordered(SIDECARS_MAX));
        while let Some((whom, counted)) = all.next().await {
            rounds.take(&whom, counted);
        }
        // Without sidecars to wait for, nobody is to ask in a loop.
        tokio::time::sleep_until(began + window).await;
        rounds.counts(timestamp(self.api.now()), self.tally.millis)
    }
}

/// What sidecars counted in one window.
#[derive(Debug)]
struct Round {
    by: CountedBy,
    sidecars: usize,
    silent: Vec<SilentSidecar>,
    total: Sum,
    rows: BTreeMap<RowKey, Sum>,
    crowded: u64,
}

impl Round {
    fn new(by: CountedBy) -> Self {
        Self { by, sidecars: 0, silent: Vec::new(), total: Sum::default(), rows: BTreeMap::new(), crowded: 0 }
    }

    fn take(&mut self, (_, node): &Whom, counted: Result<Vec<Says>, ask::Error>) {
        let counted = match counted {
            Ok(counted) => counted,
            Err(why) => {
                return self.silent.push(SilentSidecar { node: node.to_string(), why: why.to_string() });
            }
        };
        self.sidecars += 1;
        for says in counted {
            let Says::Tallied(Tallied { micros, rows, crowded }) = says else { continue };
            self.crowded += crowded;
            let seconds = Duration::from_micros(micros.max(1)).as_secs_f64();
            for row in rows {
                self.add(node, row, seconds);
            }
        }
    }

    fn add(&mut self, node: &NodeId, row: Row, seconds: f64) {
        // A sidecar that counts otherwise than it should only spoils its lengths.
        let took = Spread::read(&row.places, &row.counts).unwrap_or_default();
        self.total.add(&row, &took, seconds);
        let key = match self.by {
            CountedBy::Server => (row.server.clone(), String::new()),
            CountedBy::Tool => (row.server.clone(), row.target.clone()),
            CountedBy::Caller => (row.server.clone(), row.caller.clone()),
            CountedBy::Sidecar => (node.to_string(), String::new()),
        };
        self.rows.entry(key).or_default().add(&row, &took, seconds);
    }

    fn counts(self, at: Timestamp, window_millis: u32) -> CallCounts {
        let Self { by, sidecars, mut silent, total, rows, crowded } = self;
        silent.sort_by(|a, b| a.node.cmp(&b.node));
        let mut items: Vec<_> = rows
            .into_iter()
            .map(|((first, second), sum)| {
                let count = sum.count();
                match by {
                    CountedBy::Server => CallCount { server: first, ..count },
                    CountedBy::Tool => CallCount { server: first, tool: second, ..count },
                    CountedBy::Caller => CallCount { server: first, caller: second, ..count },
                    CountedBy::Sidecar => CallCount { sidecar: first, ..count },
                }
            })
            .collect();
        items.sort_by_key(|it| std::cmp::Reverse(it.calls));
        let left_out = items.len().saturating_sub(ROWS_MAX);
        items.truncate(ROWS_MAX);
        CallCounts { at, by, window_millis, sidecars, silent, total: total.count(), items, left_out, crowded }
    }
}

impl Sum {
    fn add(&mut self, row: &Row, took: &Spread, seconds: f64) {
        self.calls += row.calls;
        self.per_second += row.calls as f64 / seconds;
        self.refused += row.refused;
        self.failed += row.failed;
        self.left += row.left;
        self.took.merge(took);
    }

    fn count(&self) -> CallCount {
        let Self { calls, per_second, refused, failed, left, took } = self;
        let waited = calls.saturating_sub(*left);
        let answered = waited.saturating_sub(refused + failed);
        CallCount {
            calls: *calls,
            calls_per_second: *per_second,
            refused: *refused,
            failed: *failed,
            left: *left,
            success: (waited > 0).then(|| answered as f64 / waited as f64),
            p50_micros: took.percentile(50),
            p95_micros: took.percentile(95),
            p99_micros: took.percentile(99),
            ..CallCount::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::name::SpiffeId;

    use super::*;

    fn whom(instance: &str) -> Whom {
        let identity = SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap();
        (identity, NodeId::parse(&format!("research/{instance}")).unwrap())
    }

    fn row(server: &str, target: &str, calls: u64) -> Row {
        let (places, counts) = (vec![20], vec![calls]);
        let target = target.to_owned();
        Row {
            server: server.to_owned(),
            target,
            calls,
            refused: 1,
            left: 1,
            places,
            counts,
            ..Row::default()
        }
    }

    fn counted(seconds: u64, rows: Vec<Row>) -> Result<Vec<Says>, ask::Error> {
        Ok(vec![Says::Tallied(Tallied { micros: seconds * 1_000_000, rows, crowded: 0 })])
    }

    #[test]
    fn what_sidecars_counted_is_added_each_by_its_own_time_and_who_did_not_count_is_named() {
        let mut round = Round::new(CountedBy::Server);
        round.take(&whom("a"), counted(2, vec![row("research/files", "read", 10), row("x/y", "", 4)]));
        round.take(&whom("b"), counted(1, vec![row("research/files", "write", 10)]));
        round.take(&whom("c"), Err(ask::Error::Silent));
        let counts = round.counts(Timestamp::UNIX_EPOCH, 1000);
        assert_eq!((counts.sidecars, &*counts.silent[0].node), (2, "research/c"));
        let files = &counts.items[0];
        assert_eq!((&*files.server, files.calls, files.refused, files.left), ("research/files", 20, 2, 2));
        assert!((files.calls_per_second - 15.0).abs() < 1e-9);
        assert!((files.success.unwrap() - 16.0 / 18.0).abs() < 1e-9);
        assert_eq!(files.p99_micros, Some(20));
        assert_eq!(counts.total.calls, 24);
    }

    #[test]
    fn rows_are_told_by_what_they_are_counted_by() {
        let of = |by| {
            let mut round = Round::new(by);
            round.take(&whom("a"), counted(1, vec![row("r/s", "read", 2), row("r/s", "write", 3)]));
            let items = round.counts(Timestamp::UNIX_EPOCH, 1000).items;
            items
                .iter()
                .map(|it| format!("{}|{}|{}|{}", it.server, it.tool, it.sidecar, it.calls))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(CountedBy::Server), ["r/s|||5"]);
        assert_eq!(of(CountedBy::Tool), ["r/s|write||3", "r/s|read||2"]);
        assert_eq!(of(CountedBy::Sidecar), ["||research/a|5"]);
    }

    #[test]
    fn of_no_calls_nothing_is_said_to_have_succeeded() {
        let counts = Round::new(CountedBy::Server).counts(Timestamp::UNIX_EPOCH, 1000);
        assert_eq!((counts.total.success, counts.total.p50_micros), (None, None));
    }
}
