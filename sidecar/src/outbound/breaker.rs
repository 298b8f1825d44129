//! Tools that fail again and again: calls of them are refused for a while, so that nobody waits for what will not come,
//! and the rest of the server is left in peace by them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_proto::resource::kinds::CircuitBreaker;

/// Tools of one server that are told apart. Callers choose the names; those beyond are always let through.
const TOOLS_MAX: usize = 1024;

/// Longest name of a tool that is told apart, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// How long calls are refused, if nothing is said.
const PAUSE: Duration = Duration::from_secs(30);

/// When calls of a tool are refused, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    failures: u32,
    pause: Duration,
}

impl Settings {
    /// None where tools are never refused.
    pub(super) fn of(breaker: Option<&CircuitBreaker>) -> Option<Self> {
        let breaker = breaker?;
        let pause = breaker.tool_pause.map_or(PAUSE, |span| span.duration());
        Some(Self { failures: breaker.tool_failures?.get(), pause })
    }
}

/// The tools of a server that failed lately.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<HashMap<Box<str>, Failing>>);

#[derive(Clone, Copy, Debug, Default)]
struct Failing {
    in_a_row: u32,
    /// Calls are refused; one is let through when this is over.
    until: Option<Instant>,
}

impl Breaker {
    /// Lets a call through, or says how long none is. When the time is over one call is, and the others wait once more for
    /// what comes of it.
    pub(super) fn admit(&self, tool: &str, by: Settings, now: Instant) -> Result<(), Duration> {
        let mut tools = self.lock();
        let Some(Failing { until: Some(until), .. }) = tools.get_mut(tool) else { return Ok(()) };
        match until.checked_duration_since(now).filter(|left| !left.is_zero()) {
            Some(left) => Err(left),
            None => {
                *until = now + by.pause;
                Ok(())
            }
        }
    }

    /// A call came to something, or to nothing. Says whether calls are refused from now on.
    pub(super) fn note(&self, tool: &str, failed: bool, by: Settings, now: Instant) -> bool {
        let mut tools = self.lock();
        if !failed {
            tools.remove(tool);
            return false;
        }
        if tools.len() >= TOOLS_MAX && !tools.contains_key(tool) || tool.len() > NAME_BYTES_MAX {
            return false;
        }
        let failing = tools.entry(tool.into()).or_default();
        failing.in_a_row = failing.in_a_row.saturating_add(1);
        if failing.in_a_row < by.failures {
            return false;
        }
        failing.until.replace(now + by.pause).is_none()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BY: Settings = Settings { failures: 3, pause: Duration::from_secs(10) };

    #[test]
    fn a_tool_that_fails_in_a_row_is_refused_until_one_call_shows_that_it_works() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let fail = |tool: &str, now| breaker.note(tool, true, BY, now);
        assert!(!fail("a", now) && !fail("a", now));
        assert_eq!(breaker.admit("a", BY, now), Ok(()));
        assert!(fail("a", now));
        assert_eq!(breaker.admit("a", BY, now + 4 * SECOND), Err(6 * SECOND));
        assert_eq!(breaker.admit("b", BY, now), Ok(()), "other tools are not concerned");
        // One is let through, and nobody else before it is known what came of it.
        let then = now + 10 * SECOND;
        assert_eq!(breaker.admit("a", BY, then), Ok(()));
        assert_eq!(breaker.admit("a", BY, then), Err(10 * SECOND));
        assert!(!fail("a", then + SECOND), "it was refused already");
        assert_eq!(breaker.admit("a", BY, then + 5 * SECOND), Err(6 * SECOND));
        // Whoever was let through may never come back.
        assert_eq!(breaker.admit("a", BY, then + 11 * SECOND), Ok(()));
        assert_eq!(breaker.admit("a", BY, then + 21 * SECOND), Ok(()));
        assert!(!breaker.note("a", false, BY, then + 22 * SECOND));
        assert_eq!(breaker.admit("a", BY, then + 22 * SECOND), Ok(()));
        assert!(!fail("a", then + 22 * SECOND), "the row begins anew");
    }

    #[test]
    fn a_success_breaks_the_row() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..5 {
            assert!(!breaker.note("a", true, BY, now));
            assert!(!breaker.note("a", true, BY, now));
            assert!(!breaker.note("a", false, BY, now));
        }
    }

    #[test]
    fn no_more_tools_are_told_apart_than_fit() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for tool in (0..2 * TOOLS_MAX).map(|at| at.to_string()) {
            breaker.note(&tool, true, BY, now);
        }
        breaker.note(&"x".repeat(NAME_BYTES_MAX + 1), true, BY, now);
        assert_eq!(breaker.lock().len(), TOOLS_MAX);
    }

    #[test]
    fn only_who_says_after_how_many_failures_is_heard() {
        let of = |json: &str| Settings::of(Some(&serde_json::from_str(json).unwrap()));
        assert_eq!(Settings::of(None), None);
        assert_eq!(of("{\"toolPause\":\"5s\"}"), None);
        let expected = Settings { failures: 3, pause: PAUSE };
        assert_eq!(of("{\"toolFailures\":3}"), Some(expected));
    }
}
