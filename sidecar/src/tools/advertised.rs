//! What a server advertises, as it was last read. It is read when that is first wanted, when the server says that a list
//! changed, when a call names a tool that is not in it, and now and then.
//!
//! Its tools are read where a policy needs them; and with them everything else, where a control plane is to be told. A
//! reading that fails changes nothing: what was known before stays known. Not here: what follows from a definition.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_proto::mcp::lists::Listed;
use weft_proto::name::Digest;
use weft_proto::policy::tools::Definition;
use weft_proto::policy::tools::definition::Hints;

use crate::limits::Limits;
use crate::metrics::ToolSeries;
use crate::reads::Reads;
use crate::refusal::Refusal;

use super::kinds::{Kinds, changed};
use super::offering::{Offering, Parts};
use super::read::{Lister, Most};
use super::schema::{self, Schema};

/// Time for one reading, all pages of it.
const READING_TIMEOUT: Duration = Duration::from_secs(20);
/// Between readings, whoever wants them.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after readings that failed.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The least share of a time after which it counts as over.
const SOON: f64 = 0.9;

/// What a server advertises. See the module.
#[derive(Debug)]
pub struct Advertised {
    shared: Arc<Shared>,
    reading: Mutex<Option<DropGuard>>,
}

#[derive(Debug)]
struct Shared {
    server: Arc<str>,
    state: watch::Sender<State>,
    again: Notify,
    lister: tokio::sync::Mutex<Lister>,
    most: Most,
    every: Duration,
    series: ToolSeries,
    /// Whether everything is read, for somebody to be told.
    told: bool,
    /// Whether a policy needs to know the tools.
    needed: AtomicBool,
    /// Told when something else is known than before.
    changes: watch::Sender<()>,
    reads: Arc<Reads>,
}

/// Who is told of what is learnt of a server.
#[derive(Debug)]
pub(super) struct Telling {
    /// Whether everything is read, for a control plane to be told.
    pub(super) told: bool,
    /// Told when something else is known than before.
    pub(super) changes: watch::Sender<()>,
    /// Told what the server says has changed.
    pub(super) reads: Arc<Reads>,
}

#[derive(Clone, Debug, Default)]
struct State {
    known: Option<Arc<Known>>,
    /// Everything, where it is read.
    offering: Option<Arc<Offering>>,
    /// How the last reading failed, if it did.
    failed: Option<Arc<str>>,
    /// When the last reading was over.
    at: Option<Instant>,
}

/// The tools of a server, as of one reading.
#[derive(Debug, Default)]
pub struct Known {
    tools: HashMap<String, Arc<Tool>>,
}

/// A tool.
#[derive(Debug)]
pub struct Tool {
    pub name: String,
    /// None of one that is advertised twice, so that nobody can say which is meant.
    pub digest: Option<Digest>,
    pub hints: Hints,
    /// The definition, as it was written.
    pub raw: Box<str>,
    input_schema: Option<Box<str>>,
    compiled: OnceLock<Result<Schema, schema::Unusable>>,
}

impl Known {
    /// Reads definitions. What is the same as before stays as it was, with everything that was made of it.
    fn new(raw: Vec<Box<str>>, before: Option<&Self>) -> Self {
        let (mut tools, mut unread) = (HashMap::<String, Arc<Tool>>::new(), None);
        for raw in raw {
            let definition = match Definition::read(&raw) {
                Ok(definition) => definition,
                Err(error) => {
                    // It is as if it were not there: nobody can say what it is.
                    unread = Some(error);
                    continue;
                }
            };
            let (name, digest) = (definition.name.clone(), definition.digest());
            let kept = before.and_then(|before| before.tools.get(&name));
            let is_same = |tool: &&Arc<Tool>| tool.digest.as_ref() == Some(&digest) && tool.raw == raw;
            let kept = kept.filter(is_same).filter(|tool| !tool.lacked_room()).cloned();
            let (hints, input_schema) =
                (definition.hints(), definition.input_schema.map(|it| it.get().into()));
            let tool = kept.unwrap_or_else(|| {
                let (name, digest, raw) = (name.clone(), Some(digest), raw.clone());
                Arc::new(Tool { name, digest, hints, raw, input_schema, compiled: OnceLock::new() })
            });
            if tools.contains_key(&name) {
                tools.insert(name.clone(), Arc::new(Tool::twice(name, raw)));
            } else {
                tools.insert(name, tool);
            }
        }
        if let Some(error) = unread {
            tracing::warn!(%error, "the definition of at least one tool cannot be read");
        }
        Self { tools }
    }

    pub fn tool(&self, name: &str) -> Option<&Arc<Tool>> {
        self.tools.get(name)
    }

    /// All of them, in the order of their names.
    pub fn tools(&self) -> Vec<&Arc<Tool>> {
        let mut tools: Vec<_> = self.tools.values().collect();
        tools.sort_by(|a, b| a.name.cmp(&b.name));
        tools
    }
}

impl Tool {
    fn twice(name: String, raw: Box<str>) -> Self {
        let compiled = OnceLock::from(Err(schema::Unusable::AdvertisedTwice));
        Self { name, digest: None, hints: Hints::default(), raw, input_schema: None, compiled }
    }

    /// Whether there was no room for its schema. There may be now.
    fn lacked_room(&self) -> bool {
        matches!(self.compiled.get(), Some(Err(schema::Unusable::NoRoom)))
    }

    /// What its arguments are held against; made when it is first asked for.
    pub fn schema(&self, limits: &schema::Limits) -> Result<&Schema, &schema::Unusable> {
        let make = || match &self.input_schema {
            Some(text) => Schema::compile(text, limits),
            None => Err(schema::Unusable::Missing),
        };
        self.compiled.get_or_init(make).as_ref()
    }
}

impl Advertised {
    pub(super) fn new(
        server: Arc<str>,
        lister: Lister,
        limits: &Limits,
        series: ToolSeries,
        telling: Telling,
    ) -> Self {
        let Telling { told, changes, reads } = telling;
        let shared = Shared {
            server,
            state: watch::Sender::default(),
            again: Notify::new(),
            lister: tokio::sync::Mutex::new(lister),
            most: Most::of(limits),
            every: *limits.tools_read_every,
            series,
            told,
            needed: AtomicBool::new(false),
            changes,
            reads,
        };
        Self { shared: Arc::new(shared), reading: Mutex::default() }
    }

    /// Begins to read, or stops and forgets, as a policy needs to know the tools or not.
    pub fn want(&self, needed: bool) {
        let before = self.shared.needed.swap(needed, Ordering::Relaxed);
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        match (needed || self.shared.told, reading.is_some()) {
            (true, false) => {
                let stop = CancellationToken::new();
                let shared = Arc::clone(&self.shared);
                tokio::spawn(
                    stop.clone().run_until_cancelled_owned(async move { shared.keep_reading().await }),
                );
                *reading = Some(stop.drop_guard());
            }
            (false, true) => {
                *reading = None;
                self.shared.state.send_replace(State::default());
                self.shared.changes.send_replace(());
            }
            // They may not have been asked for, for the server does not announce any.
            (true, true) if needed && !before => self.shared.again.notify_one(),
            (true, true) | (false, false) => {}
        }
    }

    /// Everything that is known, for who is to be told of it.
    pub fn offering(&self) -> Option<Arc<Offering>> {
        self.shared.state.borrow().offering.clone()
    }

    /// What is known now.
    pub fn now(&self) -> Option<Arc<Known>> {
        self.shared.state.borrow().known.clone()
    }

    /// What is known; waits for the first reading, if there was none.
    pub async fn known(&self, within: Duration) -> Result<Arc<Known>, Refusal> {
        if let Some(known) = self.now() {
            return Ok(known);
        }
        self.want(true);
        self.newer(within).await?;
        self.now().ok_or_else(|| self.unknown())
    }

    /// What is known after a look at whether there is more, for a call of a tool that nobody heard of.
    pub async fn renewed(&self, within: Duration) -> Result<Arc<Known>, Refusal> {
        self.newer(within).await?;
        self.now().ok_or_else(|| self.unknown())
    }

    /// Waits for a reading that ends after now. One that was just made is new enough: callers choose what they name.
    async fn newer(&self, within: Duration) -> Result<(), Refusal> {
        let came = Instant::now();
        let mut state = self.shared.state.subscribe();
        let is_new = |state: &State| state.at.is_some_and(|at| at + PAUSE > came);
        if is_new(&state.borrow()) {
            return Ok(());
        }
        self.shared.again.notify_one();
        match timeout(within, state.wait_for(is_new)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Draining),
            Err(_) => Err(Refusal::ToolsUnknown("it did not say them in time".to_owned())),
        }
    }

    fn unknown(&self) -> Refusal {
        let failed = self.shared.state.borrow().failed.clone();
        Refusal::ToolsUnknown(failed.map_or_else(|| "they were not read".to_owned(), |why| why.to_string()))
    }
}

impl Shared {
    async fn keep_reading(&self) {
        let (mut failures, mut asides) = (0_u32, None);
        let (mut due, mut parts, mut whole) = (Kinds::ALL, Parts::default(), Instant::now());
        loop {
            if due == Kinds::ALL {
                whole = Instant::now();
            }
            let failed = self.read(due, &mut parts).await;
            failures = if failed.is_empty() { 0 } else { failures.saturating_add(1) };
            let over = Instant::now();
            if asides.is_none() && !failed.has(Listed::Tool) {
                asides = self.lister.lock().await.asides().await;
            }
            let next =
                (over + self.pause(failures).mul_f64(jitter())).min(whole + self.every.mul_f64(jitter()));
            due = tokio::select! {
                () = sleep_until(next) => failed,
                () = self.again.notified() => failed.and(Kinds::TOOLS),
                kinds = changed(&mut asides, self.most.bounds, &self.reads) => failed.and(kinds),
            };
            // However often it is wanted. What was failing is not asked more often for it.
            sleep_until(over + PAUSE.min(self.pause(failures))).await;
            if due.is_empty() || whole.elapsed() >= self.every.mul_f64(SOON) {
                due = Kinds::ALL;
            }
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        match failures {
            0 => self.every,
            failures => {
                PAUSE.saturating_mul(2_u32.saturating_pow(failures - 1)).min(PAUSE_MAX).min(self.every)
            }
        }
    }

    /// Reads some of the lists. Returns those that could not be read.
    async fn read(&self, due: Kinds, parts: &mut Parts) -> Kinds {
        let mut lister = self.lister.lock().await;
        let mut failed = Kinds::NONE;
        if self.told && (due == Kinds::ALL || parts.introduced.is_none()) {
            match self.within(lister.introduction(self.most.bounds)).await {
                Ok(introduced) => parts.introduced = Some(introduced),
                Err(refusal) => tracing::debug!(
                    server = %self.server,
                    why = refusal.detail(),
                    "the server does not say what it is"
                ),
            }
        }
        for listed in Listed::ALL.into_iter().filter(|listed| due.has(*listed) && self.reads(*listed)) {
            let is_needed = listed == Listed::Tool && self.needed.load(Ordering::Relaxed);
            let is_announced = parts.introduced.as_ref().is_none_or(|it| it.announces(listed));
            let read = match is_needed || is_announced {
                true => self.within(lister.read(listed, self.most)).await,
                false => Ok(Vec::new()),
            };
            if listed == Listed::Tool {
                self.series.read(read.is_ok());
            }
            match read {
                Ok(raw) => {
                    if self.told {
                        parts.took(listed, &raw);
                    }
                    if listed == Listed::Tool {
                        self.took(raw);
                    }
                }
                Err(refusal) => {
                    failed = failed.and(Kinds::of(listed));
                    self.failed(listed, &refusal);
                    if listed == Listed::Tool {
                        // Nothing else is to be had from it either.
                        break;
                    }
                }
            }
        }
        if failed.has(Listed::Tool) {
            // Its session may be over, or it may be another than before.
            lister.forget();
            return due;
        }
        self.publish(parts);
        failed
    }

    /// Whether lists of a kind are read at all.
    fn reads(&self, listed: Listed) -> bool {
        self.told || listed == Listed::Tool
    }

    async fn within<T>(&self, reading: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let late = |_| Err(Refusal::TimedOut { after: READING_TIMEOUT });
        timeout(READING_TIMEOUT, reading).await.unwrap_or_else(late)
    }

    fn failed(&self, listed: Listed, refusal: &Refusal) {
        let (why, kind) = (refusal.detail(), listed.member());
        if listed != Listed::Tool {
            tracing::info!(server = %self.server, kind, why, "a list of the server cannot be read");
            return;
        }
        if self.state.borrow().failed.as_deref() != Some(&*why) {
            tracing::warn!(server = %self.server, why, "the server's tools cannot be read");
        }
        self.state.send_modify(|state| {
            state.failed = Some(why.into());
            state.at = Some(Instant::now());
        });
    }

    /// Shows everything that was read, if it is something else than before.
    fn publish(&self, parts: &Parts) {
        let before = self.state.borrow().offering.clone();
        if !self.told || before.as_ref().is_some_and(|before| before.is_of(parts)) {
            return;
        }
        let offering = Arc::new(Offering::new(parts));
        tracing::info!(
            server = %self.server,
            items = offering.items().len(),
            left_out = offering.left_out(),
            "what the server offers was read"
        );
        self.state.send_modify(|state| state.offering = Some(offering));
        self.changes.send_replace(());
    }

    fn took(&self, raw: Vec<Box<str>>) {
        let before = self.state.borrow().known.clone();
        let known = Known::new(raw, before.as_deref());
        self.series.know(known.tools.keys().map(String::as_str));
        let is_same = before.as_ref().is_some_and(|before| {
            before.tools.len() == known.tools.len()
                && known.tools.iter().all(|(name, tool)| {
                    before.tools.get(name).is_some_and(|it| it.digest == tool.digest && it.raw == tool.raw)
                })
        });
        if !is_same {
            tracing::info!(server = %self.server, tools = known.tools.len(), "the server's tools were read");
        }
        let known = before.filter(|_| is_same).unwrap_or_else(|| Arc::new(known));
        self.state.send_modify(|state| {
            (state.known, state.failed, state.at) = (Some(known), None, Some(Instant::now()));
        });
        if !is_same {
            self.changes.send_replace(());
        }
    }
}

fn jitter() -> f64 {
    rand::rng().random_range(SOON..=2.0 - SOON)
}

#[cfg(test)]
mod tests;
