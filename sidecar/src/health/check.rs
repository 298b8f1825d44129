//! Asks one server again and again how it is. One question at a time: the next comes after the last was answered, or its
//! time was over.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_proto::resource::kinds::HealthCheck;

use super::Health;
use super::score::Score;
use crate::exchange::BoxFuture;

/// Between checks, and for each, if nothing else is said.
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(2);
/// What is said is kept within these.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Longest reason that is kept, in characters.
const REASON_CHARS_MAX: usize = 200;

/// A server that can be asked how it is. Dropping the future gives the question up.
pub trait Probe: Send + 'static {
    /// Asks once. None if it cannot be asked at the moment, which says nothing.
    fn ask(&mut self) -> BoxFuture<'_, Option<Result<(), String>>>;
}

/// What the checks of one server have found. They end with this.
#[derive(Debug)]
pub struct Checked {
    health: watch::Receiver<Health>,
    _stop: DropGuard,
}

impl Checked {
    /// Begins to check, from what was known before. `changes` hears of each change.
    pub fn start(
        server: Arc<str>,
        check: &HealthCheck,
        before: Health,
        probe: impl Probe,
        changes: watch::Sender<()>,
    ) -> Self {
        let stop = CancellationToken::new();
        let score = Score::new(check, before.clone());
        let (found, health) = watch::channel(before);
        let checking = Checking {
            server,
            interval: interval_of(check),
            timeout: timeout_of(check),
            score,
            found,
            changes,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(checking.run(probe)));
        Self { health, _stop: stop.drop_guard() }
    }

    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }
}

/// Between checks.
pub(crate) fn interval_of(check: &HealthCheck) -> Duration {
    check.interval.map_or(INTERVAL, |it| it.duration()).clamp(INTERVAL_MIN, INTERVAL_MAX)
}

/// For each of them.
pub(crate) fn timeout_of(check: &HealthCheck) -> Duration {
    check.timeout.map_or(TIMEOUT, |it| it.duration()).clamp(TIMEOUT_MIN, TIMEOUT_MAX)
}

struct Checking {
    server: Arc<str>,
    interval: Duration,
    timeout: Duration,
    score: Score,
    found: watch::Sender<Health>,
    changes: watch::Sender<()>,
}

impl Checking {
    async fn run(mut self, mut probe: impl Probe) {
        loop {
            let began = Instant::now();
            match timeout(self.timeout, probe.ask()).await {
                Ok(Some(outcome)) => self.note(outcome),
                Ok(None) => {}
                Err(_) => self.note(Err(format!("no answer within {:?}", self.timeout))),
            }
            // A tenth more or less, so that the checks of many servers do not fall together.
            let pause = self.interval.mul_f64(rand::rng().random_range(0.9..=1.1));
            sleep_until(began + pause).await;
        }
    }

    fn note(&mut self, outcome: Result<(), String>) {
        let short = |why: String| why.chars().take(REASON_CHARS_MAX).collect::<String>().into();
        self.score.note(outcome.map_err(short));
        let health = self.score.health().clone();
        let before = self.found.borrow().clone();
        if before == health {
            return;
        }
        if before.word() != health.word() {
            let (server, why) = (&self.server, health.detail());
            match health {
                Health::Degraded(_) => tracing::warn!(%server, why, "the server fails its health checks"),
                _ => tracing::info!(%server, "the server passes its health checks"),
            }
        }
        self.found.send_replace(health);
        self.changes.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    /// Answers as it is told, one answer for each question; otherwise never.
    struct Told {
        answers: mpsc::Receiver<Option<Result<(), String>>>,
        asked: Arc<AtomicUsize>,
        open: Arc<AtomicUsize>,
    }

    struct Open(Arc<AtomicUsize>);

    impl Drop for Open {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Probe for Told {
        fn ask(&mut self) -> BoxFuture<'_, Option<Result<(), String>>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.open.fetch_add(1, Ordering::Relaxed);
            let open = Open(Arc::clone(&self.open));
            Box::pin(async move {
                let _open = open;
                match self.answers.recv().await {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            })
        }
    }

    struct Story {
        checked: Checked,
        answers: mpsc::Sender<Option<Result<(), String>>>,
        asked: Arc<AtomicUsize>,
        open: Arc<AtomicUsize>,
        changes: watch::Receiver<()>,
    }

    fn story(check: &str) -> Story {
        let (answers, receiver) = mpsc::channel(8);
        let (asked, open): (Arc<AtomicUsize>, Arc<AtomicUsize>) = (Arc::default(), Arc::default());
        let probe = Told { answers: receiver, asked: Arc::clone(&asked), open: Arc::clone(&open) };
        let (sender, changes) = watch::channel(());
        let check = serde_json::from_str(check).unwrap();
        let checked = Checked::start("research/files".into(), &check, Health::Starting, probe, sender);
        Story { checked, answers, asked, open, changes }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_asked_at_once_and_then_in_its_interval_and_each_change_is_told() {
        let mut story = story(r#"{"interval":"10s","unhealthyThreshold":2}"#);
        let began = Instant::now();
        story.answers.send(Some(Ok(()))).await.unwrap();
        story.changes.changed().await.unwrap();
        assert_eq!((story.checked.health(), began.elapsed().as_secs()), (Health::Serving, 0));
        for _ in 0..2 {
            story.answers.send(Some(Err("it is ill".to_owned()))).await.unwrap();
        }
        story.changes.changed().await.unwrap();
        assert_eq!(story.checked.health(), Health::Degraded("it is ill".into()));
        assert!((18..=22).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        story.answers.send(None).await.unwrap();
        story.answers.send(Some(Ok(()))).await.unwrap();
        story.changes.changed().await.unwrap();
        assert_eq!((story.checked.health(), story.asked.load(Ordering::Relaxed)), (Health::Serving, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_has_one_question_at_a_time_however_short_the_interval() {
        let mut story = story(r#"{"interval":"1ms","timeout":"5s"}"#);
        let began = Instant::now();
        story.changes.changed().await.unwrap();
        assert_eq!(story.checked.health(), Health::Degraded("no answer within 5s".into()));
        assert_eq!(began.elapsed().as_secs(), 15, "three questions of five seconds, one after the other");
        assert!(story.open.load(Ordering::Relaxed) <= 1);
    }

    #[tokio::test(start_paused = true)]
    async fn checks_end_with_who_wants_to_know() {
        let story = story(r#"{"interval":"1s"}"#);
        story.answers.send(Some(Ok(()))).await.unwrap();
        let Story { checked, answers, .. } = story;
        drop(checked);
        answers.closed().await;
    }
}
