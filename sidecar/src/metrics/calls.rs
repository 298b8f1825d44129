//! Calls by server, method, tool or prompt and class of caller, in the histograms of OpenTelemetry's conventions for MCP.
//!
//! What callers and servers choose makes no series of its own for long: a tool or a prompt is told apart only if its
//! server has advertised it, callers by their namespace, and of a family there are so many series at most. When there is
//! no room, those that were idle longest are folded into what their server has under `other`, with all that they counted;
//! where none was idle, a new one is counted there at once. A call that has a series finds it without a lock.

mod key;

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hashbrown::HashTable;
use memchr::memmem::Finder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use weft_proto::mcp::method::PROMPTS_GET;
use weft_proto::mcp::{Bounds, lists};
use weft_proto::trace::{SpanId, TraceId};

use super::METHODS;
use super::names::Names;
use super::timings::{Counted, Exemplar, Exemplars, Timings};
use super::verdict::Verdict;
use super::written;
pub use key::Also;
use key::{Key, Owned};

/// Series of a family that are kept apart.
pub const SERIES_MAX: usize = 1000;
/// A series may be folded after so long without a call.
const IDLE_SECS: u64 = 300;
/// The part of the series that is folded at once, so that not every newcomer has to look for room.
const FOLDED_PART: usize = 8;
/// What is not told apart.
pub const OTHER: &str = "other";

/// What lists of tools and of prompts are called.
static TOOLS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"tools\""));
static PROMPTS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"prompts\""));

/// Which side of calls is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// By the sidecar of the server.
    Server,
    /// By that of the caller.
    Client,
}

/// All calls of one side.
#[derive(Debug)]
pub struct Calls {
    side: Side,
    series_max: usize,
    tables: Mutex<Tables>,
    hasher: RandomState,
    told: Told,
}

/// What is said of the series themselves.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub kept: Gauge,
    pub folded: Counter,
    pub without: Counter,
}

#[derive(Debug, Default)]
struct Tables {
    by_server: BTreeMap<Arc<str>, Arc<Table>>,
    kept: usize,
    /// The second in which room was last looked for in vain.
    in_vain: u64,
}

/// The calls of one server.
#[derive(Debug)]
pub struct Table {
    tools: Names,
    prompts: Names,
    series: ArcSwap<HashTable<Arc<Series>>>,
    /// Folded, and perhaps still counted in by whoever found them before.
    leaving: Mutex<Vec<Arc<Series>>>,
    /// What is not told apart, by method and by whether it failed.
    others: Box<[OnceLock<Box<Timings>>]>,
}

#[derive(Debug)]
struct Series {
    key: Owned,
    timings: Timings,
    /// The second of the last call.
    last: AtomicU64,
}

/// A call that ended, as far as it is counted here.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Index in [`METHODS`].
    pub method: usize,
    /// What it is about, as the caller named it.
    pub target: Option<&'a str>,
    /// A SPIFFE ID, or how one without is called.
    pub caller: &'a str,
    pub verdict: Verdict,
    pub reason: &'static str,
    /// What telemetry wants to have told apart besides.
    pub also: Also<'a>,
    pub at: SystemTime,
    pub took: Duration,
    /// Of a call that is recorded in a trace.
    pub span: Option<(TraceId, SpanId)>,
}

impl Calls {
    pub fn new(side: Side, told: Told) -> Self {
        Self { side, series_max: SERIES_MAX, tables: Mutex::default(), hasher: RandomState::new(), told }
    }

    pub fn side(&self) -> Side {
        self.side
    }

    /// The calls of a server: the same for as long as the program runs, for what was counted is not forgotten.
    pub fn of(&self, server: &Arc<str>) -> Arc<Table> {
        let mut tables = self.lock();
        Arc::clone(tables.by_server.entry(Arc::clone(server)).or_default())
    }

    pub fn count(&self, table: &Table, call: &Call<'_>) {
        if !is_operation(METHODS[call.method]) {
            return;
        }
        let key = Key::of(call);
        if table.count(&self.hasher, key, call) {
            return;
        }
        let key = match key.target {
            Some(target) if !table.names(key.method).has(target) => Key { target: Some(OTHER), ..key },
            Some(_) | None => key,
        };
        if key.target == Some(OTHER) && table.count(&self.hasher, key, call) {
            return;
        }
        match self.make(table, key, second(call)) {
            // Counted in what was made, wherever it is by now.
            Some(series) => series.count(call),
            None => {
                self.told.without.inc();
                table.other(key.method, key.failed()).observe(call.took);
            }
        }
    }

    /// Makes a series, if there is room or can be made.
    fn make(&self, table: &Table, key: Key<'_>, now: u64) -> Option<Arc<Series>> {
        let mut tables = self.lock();
        let hash = key.hash(&self.hasher);
        let before = table.series.load_full();
        if let Some(series) = before.find(hash, |it| it.key.borrowed() == key) {
            return Some(Arc::clone(series));
        }
        drop(before);
        if tables.kept >= self.series_max && !self.fold_idle(&mut tables, now) {
            return None;
        }
        let mut series = copied(&table.series.load(), &self.hasher);
        let made =
            Arc::new(Series { key: key.own(), timings: Timings::default(), last: AtomicU64::new(now) });
        series.insert_unique(hash, Arc::clone(&made), |it| it.key.borrowed().hash(&self.hasher));
        table.series.store(Arc::new(series));
        tables.kept += 1;
        self.told.kept.set(i64::try_from(tables.kept).unwrap_or(i64::MAX));
        Some(made)
    }

    /// Folds those that were idle longest. False if none was idle for long.
    fn fold_idle(&self, tables: &mut Tables, now: u64) -> bool {
        if tables.in_vain == now {
            return false;
        }
        let mut idle = Vec::new();
        for (server, table) in &tables.by_server {
            let series = table.series.load();
            let of_table = series.iter().map(|it| (it.last.load(Ordering::Relaxed), server, Arc::clone(it)));
            idle.extend(of_table.filter(|(last, ..)| last + IDLE_SECS <= now));
        }
        idle.sort_by_key(|(last, ..)| *last);
        idle.truncate((self.series_max / FOLDED_PART).max(1));
        if idle.is_empty() {
            tables.in_vain = now;
            return false;
        }
        for (server, table) in &tables.by_server {
            let folded =
                idle.iter().filter(|(_, of, _)| *of == server).map(|(.., series)| Arc::clone(series));
            let folded: Vec<_> = folded.collect();
            if !folded.is_empty() {
                table.fold(folded, &self.hasher);
            }
        }
        tables.kept -= idle.len();
        self.told.folded.inc_by(idle.len() as u64);
        true
    }

    /// Writes the family as OpenMetrics has it.
    pub fn write(&self, out: &mut String) {
        let (name, help) = match self.side {
            Side::Server => (
                "mcp_server_operation_duration_seconds",
                "Calls that came, from a request's head to the end of its answer",
            ),
            Side::Client => (
                "mcp_client_operation_duration_seconds",
                "Calls of the workload beside this sidecar, from a request's head to the end of its answer",
            ),
        };
        // Writing to a text cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} histogram\n# UNIT {name} seconds");
        let tables: Vec<_> = {
            let tables = self.lock();
            tables.by_server.iter().map(|(server, table)| (Arc::clone(server), Arc::clone(table))).collect()
        };
        for (server, table) in tables {
            for (labels, (counted, exemplars)) in table.shown(&server) {
                written::histogram(out, name, &labels, &counted, &exemplars);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            tools: Names::default(),
            prompts: Names::default(),
            series: ArcSwap::default(),
            leaving: Mutex::default(),
            others: (0..2 * METHODS.len()).map(|_| OnceLock::new()).collect(),
        }
    }
}

impl Table {
    /// Takes the names of tools and prompts from a message, if it lists any.
    pub fn learn(&self, message: &[u8], bounds: Bounds) {
        if TOOLS.find(message).is_none() && PROMPTS.find(message).is_none() {
            return;
        }
        let (mut tools, mut prompts) = (Vec::new(), Vec::new());
        // What cannot be read teaches nothing.
        let _ = lists::cut(message, bounds, false, |item| {
            match item.listed {
                lists::Listed::Tool => tools.push(item.name.to_string()),
                lists::Listed::Prompt => prompts.push(item.name.to_string()),
                lists::Listed::Resource | lists::Listed::ResourceTemplate => {}
            }
            true
        });
        self.tools.learn(tools.iter().map(String::as_str));
        self.prompts.learn(prompts.iter().map(String::as_str));
    }

    /// Takes names of tools that were read.
    pub fn know<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) {
        self.tools.learn(names);
    }

    /// Of what a method is about.
    fn names(&self, method: usize) -> &Names {
        if METHODS[method] == PROMPTS_GET { &self.prompts } else { &self.tools }
    }

    /// Counts a call in its series, if there is one.
    fn count(&self, hasher: &RandomState, key: Key<'_>, call: &Call<'_>) -> bool {
        let series = self.series.load();
        let Some(series) = series.find(key.hash(hasher), |it| it.key.borrowed() == key) else { return false };
        series.count(call);
        true
    }

    fn fold(&self, folded: Vec<Arc<Series>>, hasher: &RandomState) {
        let mut series = copied(&self.series.load(), hasher);
        series.retain(|it| !folded.iter().any(|folded| Arc::ptr_eq(folded, it)));
        // Whoever looks at the sums meanwhile finds neither less nor more.
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        self.series.store(Arc::new(series));
        leaving.extend(folded);
    }

    fn other(&self, method: usize, failed: bool) -> &Timings {
        self.others[2 * method + usize::from(failed)].get_or_init(Box::default)
    }

    /// What was counted, by labels.
    fn shown(&self, server: &str) -> BTreeMap<String, (Counted, Exemplars)> {
        let mut shown = BTreeMap::<String, (Counted, Exemplars)>::new();
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        for series in self.series.load().iter() {
            let entry = shown.entry(series.key.borrowed().labels(server)).or_default();
            entry.0.add(&series.timings.counted());
            entry.1 = series.timings.exemplars();
        }
        // One that nobody holds any more is counted in no more.
        for series in std::mem::take(&mut *leaving) {
            let (method, failed) = (series.key.borrowed().method, series.key.borrowed().failed());
            match Arc::try_unwrap(series) {
                Ok(series) => self.other(method, failed).add(&series.timings.counted()),
                Err(held) => {
                    let labels = Key::other(method, failed).labels(server);
                    shown.entry(labels).or_default().0.add(&held.timings.counted());
                    leaving.push(held);
                }
            }
        }
        for (place, timings) in self.others.iter().enumerate() {
            let Some(timings) = timings.get() else { continue };
            let labels = Key::other(place / 2, place % 2 == 1).labels(server);
            shown.entry(labels).or_default().0.add(&timings.counted());
        }
        shown
    }
}

impl Series {
    fn count(&self, call: &Call<'_>) {
        self.timings.observe(call.took);
        if let Some((trace, span)) = call.span {
            self.timings.exemplify(Exemplar { trace, span, took: call.took, at: call.at + call.took });
        }
        // Written once a second, so that all may read it meanwhile.
        let now = second(call);
        if self.last.load(Ordering::Relaxed) < now {
            self.last.store(now, Ordering::Relaxed);
        }
    }
}

/// A table that can be changed while others read the one that it was copied from.
fn copied(series: &HashTable<Arc<Series>>, hasher: &RandomState) -> HashTable<Arc<Series>> {
    let mut copy = HashTable::with_capacity(series.len() + 1);
    for it in series {
        copy.insert_unique(it.key.borrowed().hash(hasher), Arc::clone(it), |it| {
            it.key.borrowed().hash(hasher)
        });
    }
    copy
}

/// Whether the conventions know it as an operation: not what belongs to the transport, and not what was never read.
pub(crate) fn is_operation(method: &str) -> bool {
    !matches!(method, "none" | "response" | "batch" | "GET" | "DELETE")
}

fn second(call: &Call<'_>) -> u64 {
    (call.at + call.took).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
