//! One child: started, shaken hands with, watched, and started again when it ends.

use std::process::Stdio as Stream;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use weft_proto::mcp::method;
use weft_proto::name::ServerName;
use weft_proto::resource::kinds::{Era, Sharing, Stdio};

use super::command::Inherited;
use super::handshake;
use super::launch::Launcher;
use super::stderr::Stderr;
use super::wire::{End, Wire};
use crate::exchange::{Introduction, Reply, Said};
use crate::limits::Limits;
use crate::refusal::Refusal;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A child that served this long owes nothing for what was before.
const STABLE: Duration = Duration::from_secs(60);
/// Failures in a row after which callers do not wait for the next attempt.
const HOPELESS: u32 = 3;
/// Ends in a row over the first question, after which it is left out once. One alone may be an accident, after which a server
/// of both eras would be taken for one of the legacy era.
const UNANSWERED_MAX: u32 = 2;
/// Time for a child that ended its output to end itself.
const END_GRACE: Duration = Duration::from_secs(2);
/// Time for the launcher to end everyone, once told to.
const KILL_WAIT: Duration = Duration::from_secs(4);
/// Size of the pipes to and from a child, where the system allows it.
const PIPE_BYTES: usize = 256 << 10;

/// What a child is doing.
#[derive(Clone, Debug)]
pub enum Phase {
    Starting,
    Ready(Arc<Introduction>),
    /// It ended, or could not be started; the next attempt comes at `until`.
    Backoff {
        until: Instant,
        reason: Arc<str>,
        /// Attempts in a row that did not last.
        failures: u32,
    },
    Stopped,
}

/// What every child of a server is started from.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) stdio: Stdio,
    pub(super) inherited: Inherited,
    pub(super) name: ServerName,
    pub(super) limits: Limits,
    pub(super) launcher: Launcher,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) wire: Wire,
    stderr: Stderr,
    phase: watch::Sender<Phase>,
    /// How long to be patient, once it is to stop.
    stop: watch::Sender<Option<Duration>>,
    restarts: AtomicU64,
    pid: AtomicU32,
    /// What it said of itself last. It may have been stopped since.
    introduction: Mutex<Option<Arc<Introduction>>>,
    ready_timeout: Duration,
}

/// Why a process is no more.
struct Ended {
    reason: String,
    /// Since when it was ready, if it ever was.
    ready_since: Option<Instant>,
    /// It ended before it answered the first question.
    unanswered: bool,
}

impl Child {
    /// Starts a child and keeps it running until it is told to stop.
    pub(super) fn start(recipe: Arc<Recipe>) -> Arc<Self> {
        let child = Arc::new(Self {
            wire: Wire::new(&recipe.limits),
            stderr: Stderr::new(recipe.name.to_string(), &recipe.limits),
            phase: watch::Sender::new(Phase::Starting),
            stop: watch::Sender::new(None),
            restarts: AtomicU64::new(0),
            pid: AtomicU32::new(0),
            introduction: Mutex::default(),
            ready_timeout: *recipe.limits.child_ready_timeout,
        });
        let supervised = Arc::clone(&child);
        tokio::spawn(async move { supervised.supervise(&recipe).await });
        child
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    pub(super) fn stderr_suppressed(&self) -> u64 {
        self.stderr.suppressed()
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Stopped)
    }

    /// What it said of itself when it was last ready, or will say.
    pub(super) async fn introduction(&self) -> Result<Arc<Introduction>, Refusal> {
        let last = self.introduction.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match last {
            Some(last) => Ok(last),
            None => self.ready().await,
        }
    }

    /// Waits until it is ready, as long as there is hope.
    pub(super) async fn ready(&self) -> Result<Arc<Introduction>, Refusal> {
        if let Phase::Ready(introduction) = &*self.phase.borrow() {
            return Ok(Arc::clone(introduction));
        }
        let decided = |phase: &Phase| match phase {
            Phase::Ready(_) | Phase::Stopped => true,
            Phase::Backoff { failures, .. } => *failures >= HOPELESS,
            Phase::Starting => false,
        };
        let mut phases = self.phase.subscribe();
        let decided = timeout(self.ready_timeout, phases.wait_for(decided)).await;
        match decided.ok().and_then(Result::ok).as_deref() {
            Some(Phase::Ready(introduction)) => Ok(Arc::clone(introduction)),
            Some(Phase::Stopped) => Err(Refusal::Draining),
            Some(Phase::Backoff { reason, .. }) => Err(Refusal::ChildBusy(reason.to_string())),
            Some(Phase::Starting) | None => Err(Refusal::ChildBusy("it is starting".to_owned())),
        }
    }

    /// Asks it what costs nothing, if it is ready.
    pub(super) fn ask_how_it_is(&self) -> Option<Reply> {
        let Phase::Ready(introduction) = &*self.phase.borrow() else { return None };
        Some(match introduction.era {
            Era::Modern => self.wire.own(method::SERVER_DISCOVER, &handshake::discover()),
            Era::Legacy => self.wire.own(method::PING, "{}"),
        })
    }

    /// Begins to stop; takes about as long as `grace`.
    pub(super) fn begin_stop(&self, grace: Duration) {
        self.stop.send_if_modified(|stop| stop.is_none() && stop.replace(grace).is_none());
    }

    pub(super) async fn stopped(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| matches!(phase, Phase::Stopped)).await;
    }

    async fn asked_to_stop(&self) -> Duration {
        let mut stop = self.stop.subscribe();
        let grace = stop.wait_for(Option::is_some).await.ok().and_then(|grace| *grace);
        grace.unwrap_or_default()
    }

    async fn supervise(self: Arc<Self>, recipe: &Recipe) {
        let (mut failures, mut unanswered) = (0, 0);
        let mut probe = true;
        loop {
            self.phase.send_replace(Phase::Starting);
            let (ended, era) = self.once(recipe, probe).await;
            let lasted = ended.ready_since.map(|since| since.elapsed());
            // What was learned holds for the next process; what failed is learned anew. Whoever ends over the first
            // question again and again may be one of those that cannot bear it.
            unanswered = if probe && ended.unanswered { unanswered + 1 } else { 0 };
            probe = match era {
                Some(era) => era == Era::Modern,
                None => unanswered < UNANSWERED_MAX,
            };
            failures = if lasted.is_some_and(|lasted| lasted >= STABLE) { 1 } else { failures + 1 };
            if self.stop.borrow().is_some() {
                break;
            }
            let delay = backoff(failures, rand::rng().random_range(0.5..=1.0));
            let (server, reason) = (&recipe.name, &ended.reason);
            tracing::warn!(%server, reason, delay_ms = delay.as_millis(), "a stdio server ended");
            let until = Instant::now() + delay;
            self.phase.send_replace(Phase::Backoff { until, reason: ended.reason.into(), failures });
            tokio::select! {
                () = sleep_until(until) => {}
                _ = self.asked_to_stop() => break,
            }
            self.restarts.fetch_add(1, Ordering::Relaxed);
        }
        self.wire.lost(&Refusal::Draining);
        self.phase.send_replace(Phase::Stopped);
    }

    /// The life of one process.
    async fn once(self: &Arc<Self>, recipe: &Recipe, probe: bool) -> (Ended, Option<Era>) {
        let (mut process, stdin, stdout, stderr) = match start(recipe) {
            Ok(started) => started,
            Err(error) => {
                let reason = format!("it cannot be started: {error}");
                return (Ended { reason, ready_since: None, unanswered: false }, None);
            }
        };
        self.pid.store(process.0.id().unwrap_or_default(), Ordering::Relaxed);
        let mut streams = JoinSet::new();
        let (mine, writing) = (Arc::clone(self), Arc::clone(self));
        let writer = streams.spawn(async move { writing.wire.write(stdin).await });
        streams.spawn(async move { mine.wire.hear(stdout).await });
        let logging = Arc::clone(self);
        let log = tokio::spawn(async move { logging.stderr.log(stderr).await });
        let served = self.serve(recipe, probe, &mut streams).await;
        let grace = self.stop.borrow().unwrap_or(END_GRACE);
        let status = process.end(&writer, grace).await;
        // What it said last is heard before everyone else is told that there will be nothing.
        let _ = timeout(END_GRACE, async { while streams.join_next().await.is_some() {} }).await;
        let _ = timeout(END_GRACE, log).await;
        drop(streams);
        self.pid.store(0, Ordering::Relaxed);
        let reason = self.reason(served.problem, &status);
        self.wire.lost(&Refusal::ChildExited(reason.clone()));
        let unanswered = served.introduction.is_none() && served.ended;
        let era = served.introduction.map(|introduction| introduction.era);
        (Ended { reason, ready_since: served.ready_since, unanswered }, era)
    }

    /// Shakes hands and serves until something ends.
    async fn serve(&self, recipe: &Recipe, probe: bool, streams: &mut JoinSet<End>) -> Served {
        let capabilities = match recipe.stdio.sharing {
            Sharing::Shared => handshake::SHARED_CAPABILITIES,
            Sharing::PerSession => handshake::OWN_CAPABILITIES,
        };
        let mut served = Served::default();
        let shaken = tokio::select! {
            shaken = timeout(self.ready_timeout, handshake::shake(&self.wire, probe, capabilities)) => shaken,
            _ = streams.join_next() => {
                served.ended = true;
                return served;
            }
            _ = self.asked_to_stop() => return served,
        };
        let introduction = match shaken {
            Ok(Ok(introduction)) => Arc::new(introduction),
            Ok(Err(problem)) => {
                served.problem = Some(problem);
                return served;
            }
            Err(_) => {
                served.problem = Some("it did not answer the handshake in time".to_owned());
                return served;
            }
        };
        let (server, revision) = (&recipe.name, &introduction.revision);
        tracing::info!(%server, revision, pid = self.pid(), "a stdio server is ready");
        *self.introduction.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&introduction));
        self.wire.open(introduction.era);
        self.phase.send_replace(Phase::Ready(Arc::clone(&introduction)));
        let listening = self.listen(&introduction);
        served.introduction = Some(introduction);
        served.ready_since = Some(Instant::now());
        tokio::select! {
            () = self.hear_of_changes(listening) => {}
            _ = streams.join_next() => served.ended = true,
            grace = self.asked_to_stop() => {
                self.shut();
                // What is under way may still finish; who closes its input ends most servers at once.
                let _ = timeout(grace / 3, self.wire.drained()).await;
            }
        }
        self.shut();
        served
    }

    /// Asks a server of the modern era to tell when its lists change; one of the legacy era does so unasked.
    fn listen(&self, introduction: &Introduction) -> Option<Reply> {
        if introduction.era != Era::Modern {
            return None;
        }
        let wanted = handshake::lists_to_hear_of(&introduction.result)?;
        Some(self.wire.own(method::SUBSCRIPTIONS_LISTEN, &wanted))
    }

    /// Passes on which lists changed. Never ends: without changes there is just nothing to hear.
    async fn hear_of_changes(&self, listening: Option<Reply>) {
        if let Some(mut listening) = listening {
            while let Some(Ok(said)) = listening.0.recv().await {
                if let Said::Note(note) = said {
                    self.wire.list_changed(note);
                }
            }
        }
        std::future::pending().await
    }

    /// Takes no more calls; who comes now waits for what is next.
    fn shut(&self) {
        self.phase.send_replace(Phase::Starting);
        self.wire.close();
    }

    fn reason(&self, problem: Option<String>, status: &str) -> String {
        let last = self.stderr.take_last().map(|last| format!("; it said last: {last}")).unwrap_or_default();
        match problem {
            Some(problem) => format!("{problem}{last}"),
            None => format!("{status}{last}"),
        }
    }
}

/// How far serving came.
#[derive(Default)]
struct Served {
    introduction: Option<Arc<Introduction>>,
    ready_since: Option<Instant>,
    problem: Option<String>,
    /// The child ended the conversation.
    ended: bool,
}

/// How long to wait before another attempt; `share` is a random part of the whole.
fn backoff(failures: u32, share: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    (BACKOFF_MIN * doubled).min(BACKOFF_MAX).mul_f64(share)
}

/// The launcher of a child. When it is dropped, so is everyone below it.
struct Process(tokio::process::Child);

fn start(recipe: &Recipe) -> std::io::Result<(Process, ChildStdin, ChildStdout, ChildStderr)> {
    let passed_on = recipe.inherited.variables();
    let passed_on = passed_on.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    let own = recipe.stdio.env.iter().map(|(name, value)| (name.as_str().as_ref(), value.as_str().as_ref()));
    let mut command = Command::from(recipe.launcher.command(&recipe.stdio, passed_on.chain(own)));
    command.stdin(Stream::piped()).stdout(Stream::piped()).stderr(Stream::piped());
    let mut child = command.spawn()?;
    let missing = || std::io::Error::other("a stream is missing");
    let stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    // Larger pipes mean fewer turns; without them it works as well.
    let _ = rustix::pipe::fcntl_setpipe_size(&stdin, PIPE_BYTES);
    let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES);
    Ok((Process(child), stdin, stdout, stderr))
}

impl Process {
    /// Ends it, with less and less patience: closes its input, asks it, kills it. Returns how it ended.
    async fn end(&mut self, writer: &AbortHandle, grace: Duration) -> String {
        writer.abort();
        for signal in [None, Some(Signal::TERM)] {
            if let Some(signal) = signal {
                self.signal(signal);
            }
            if let Ok(status) = timeout(grace / 3, self.0.wait()).await {
                return status.map_or_else(|error| error.to_string(), told);
            }
        }
        self.signal(Signal::INT);
        if timeout(KILL_WAIT, self.0.wait()).await.is_err() {
            let _ = self.0.kill().await;
        }
        "it had to be killed".to_owned()
    }

    fn signal(&self, signal: Signal) {
        // There is an id only as long as nobody has waited for it, so it is nobody else's.
        let pid = self.0.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::INT);
    }
}

/// The launcher passes on the command's own code, or 128 and the signal.
fn told(status: std::process::ExitStatus) -> String {
    match status.code() {
        Some(code @ 129..=192) => format!("it was ended by signal {}", code - 128),
        Some(code) => format!("it exited with code {code}"),
        None => "its launcher was killed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rarer_up_to_a_limit() {
        let whole = |failures| backoff(failures, 1.0);
        assert_eq!([0, 1, 2, 3].map(whole), [100, 100, 200, 400].map(Duration::from_millis));
        assert_eq!(
            [9, 10, 1000, u32::MAX].map(whole),
            [25_600, 30_000, 30_000, 30_000].map(Duration::from_millis)
        );
        assert_eq!(backoff(1, 0.5), BACKOFF_MIN / 2);
    }
}
