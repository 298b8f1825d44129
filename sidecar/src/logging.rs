//! What is logged: what it is by itself, and what somebody set it to, for good or for a while.
//!
//! Not here: where lines go, and what a filter means; whoever starts the sidecar knows that.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use weft_telemetry::recent::Recent;

/// Longest filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 1024;
/// Longest that a filter is set for a while.
pub const WHILE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Puts a filter into force, or says why not.
pub type SetLogging = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Why a filter is not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a filter has 1 to {FILTER_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    #[error("a filter is set for at most {} h at a time", WHILE_MAX.as_secs() / 3600)]
    TooLong,
    #[error("{0}")]
    Filter(String),
}

/// What is logged now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    pub filter: Arc<str>,
    /// What it was until now, if it was set just now.
    pub before: Option<Arc<str>>,
    /// What is logged again after so long.
    pub returns: Option<(Arc<str>, Duration)>,
}

/// A handle; clones set the same.
#[derive(Clone)]
pub struct Logging(Arc<Inner>, Recent);

struct Inner {
    set: SetLogging,
    state: Mutex<State>,
}

struct State {
    usual: Arc<str>,
    now: Arc<str>,
    until: Option<Instant>,
    /// Counts how often something was set, so that what was set later is not taken back.
    changes: u64,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl Logging {
    /// What the sidecar was started with, and how it is changed.
    pub fn new(usual: &str, set: SetLogging) -> Self {
        let usual: Arc<str> = usual.into();
        let state = State { now: Arc::clone(&usual), usual, until: None, changes: 0 };
        Self(Arc::new(Inner { set, state: Mutex::new(state) }), Recent::default())
    }

    /// With the newest lines.
    #[must_use]
    pub fn keeping(self, recent: Recent) -> Self {
        Self(self.0, recent)
    }

    /// The newest lines, where they are kept.
    pub const fn recent(&self) -> &Recent {
        &self.1
    }

    /// Where somebody else decides.
    pub fn fixed(why: &'static str) -> Self {
        Self::new("", Arc::new(move |_| Err(why.to_owned())))
    }

    pub fn now(&self) -> Now {
        self.0.lock().told(None)
    }

    /// Sets what is logged from now on.
    pub fn set(&self, filter: &str) -> Result<Now, Error> {
        self.change(filter, None).map(|(now, _)| now)
    }

    /// Sets what is logged for a while; a task takes it back.
    pub fn set_for(&self, filter: &str, time: Duration) -> Result<Now, Error> {
        if time > WHILE_MAX {
            return Err(Error::TooLong);
        }
        let (now, change) = self.change(filter, Some(time))?;
        let logging = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            logging.take_back(change);
        });
        Ok(now)
    }

    fn change(&self, filter: &str, time: Option<Duration>) -> Result<(Now, u64), Error> {
        if !(1..=FILTER_BYTES_MAX).contains(&filter.len()) {
            return Err(Error::Length(filter.len()));
        }
        let mut state = self.0.lock();
        (self.0.set)(filter).map_err(Error::Filter)?;
        let filter: Arc<str> = filter.into();
        let before = std::mem::replace(&mut state.now, Arc::clone(&filter));
        state.changes += 1;
        state.until = time.map(|time| Instant::now() + time);
        if time.is_none() {
            state.usual = filter;
        }
        Ok((state.told(Some(before)), state.changes))
    }

    fn take_back(&self, change: u64) {
        let mut state = self.0.lock();
        if state.changes != change {
            return;
        }
        let usual = Arc::clone(&state.usual);
        match (self.0.set)(&usual) {
            Ok(()) => {
                (state.now, state.until) = (usual, None);
                tracing::info!(filter = &*state.now, "what is logged is as before again");
            }
            Err(why) => tracing::error!(why, "what is logged could not be set back"),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn told(&self, before: Option<Arc<str>>) -> Now {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        Now {
            filter: Arc::clone(&self.now),
            before,
            returns: left.map(|left| (Arc::clone(&self.usual), left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was set, in order.
    fn logging() -> (Logging, Arc<Mutex<Vec<String>>>) {
        let set: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = Arc::clone(&set);
        let put = move |filter: &str| match filter {
            "nonsense" => Err("it is none".to_owned()),
            filter => {
                told.lock().unwrap().push(filter.to_owned());
                Ok(())
            }
        };
        (Logging::new("info", Arc::new(put)), set)
    }

    /// Lets time pass for all who wait for it.
    async fn pass(secs: u64) {
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(secs)).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_set_for_a_while_goes_by_itself() {
        let (logging, set) = logging();
        let now = logging.set_for("debug", Duration::from_secs(60)).unwrap();
        assert_eq!((&*now.filter, now.before.as_deref()), ("debug", Some("info")));
        pass(59).await;
        assert_eq!(logging.now().returns, Some(("info".into(), Duration::from_secs(1))));
        pass(2).await;
        assert_eq!(logging.now(), Now { filter: "info".into(), before: None, returns: None });
        assert_eq!(*set.lock().unwrap(), ["debug", "info"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_set_later_is_not_taken_back() {
        let (logging, set) = logging();
        logging.set_for("debug", Duration::from_secs(10)).unwrap();
        logging.set_for("trace", Duration::from_secs(100)).unwrap();
        pass(50).await;
        assert_eq!(&*logging.now().filter, "trace");
        logging.set("warn").unwrap();
        pass(100).await;
        assert_eq!(logging.now(), Now { filter: "warn".into(), before: None, returns: None });
        assert_eq!(*set.lock().unwrap(), ["debug", "trace", "warn"]);
    }

    #[tokio::test]
    async fn what_cannot_be_set_leaves_all_as_it_is() {
        let (logging, set) = logging();
        assert_eq!(logging.set("nonsense"), Err(Error::Filter("it is none".to_owned())));
        assert_eq!(logging.set(""), Err(Error::Length(0)));
        assert_eq!(logging.set(&"x".repeat(FILTER_BYTES_MAX + 1)), Err(Error::Length(FILTER_BYTES_MAX + 1)));
        assert_eq!(logging.set_for("debug", WHILE_MAX + Duration::from_secs(1)), Err(Error::TooLong));
        assert_eq!(&*logging.now().filter, "info");
        assert!(set.lock().unwrap().is_empty());
        assert!(Logging::fixed("not here").set("info").unwrap_err().to_string().contains("not here"));
    }
}
