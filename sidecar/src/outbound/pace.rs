//! How long the answers of tools take, where that says when another instance is asked as well: of each tool the time
//! within which nineteen of twenty of its latest answers came.
//!
//! Times are counted in buckets whose bounds are a fifth apart, and halved now and then, so that what is long past counts
//! for little. Of a call that another instance answered nobody knows how long it would have taken: it counts with the delay,
//! by which the estimate stays where it is. That it can rise again is due to the calls that are asked once, of which there are
//! always some: how many may be asked twice is the budget's to say, and not decided here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Tools of one server that are told apart. Callers choose the names; those beyond are asked of one instance only.
const TOOLS_MAX: usize = 256;
/// Longest name of a tool that is told apart, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Answers before anything is said, and once more from when few are left of them.
const ANSWERS_MIN: u16 = 32;
/// Answers at which all counts are halved.
const ANSWERS_MAX: u16 = 1024;
/// One in so many answers is slower than what is said.
const SLOWER_ONE_IN: u16 = 20;
/// No delay is shorter: faster answers are not worth a second request.
const DELAY_MIN: Duration = Duration::from_millis(5);
/// Buckets for each doubling of the time.
const PER_DOUBLING: u32 = 4;
/// The first is of what takes a millisecond or less; what takes more than a minute is in the last.
const BUCKETS: usize = 64;

/// The tools of a server.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<HashMap<Box<str>, Estimate>>);

impl Pace {
    /// When another instance is to be asked; none as long as too little is known.
    pub(super) fn delay(&self, tool: &str) -> Option<Duration> {
        self.lock().get(tool)?.delay()
    }

    /// A call was answered.
    pub(super) fn answered(&self, tool: &str, took: Duration) {
        let mut tools = self.lock();
        // Only the first answer of a tool takes memory.
        if let Some(estimate) = tools.get_mut(tool) {
            estimate.add(took);
        } else if tools.len() < TOOLS_MAX && tool.len() <= NAME_BYTES_MAX {
            tools.entry(tool.into()).or_default().add(took);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Estimate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The times of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Estimate {
    counts: [u16; BUCKETS],
    answers: u16,
}

impl Default for Estimate {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], answers: 0 }
    }
}

impl Estimate {
    fn add(&mut self, took: Duration) {
        self.counts[bucket(took)] += 1;
        self.answers += 1;
        if self.answers >= ANSWERS_MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.answers = self.counts.iter().sum();
        }
    }

    fn delay(&self) -> Option<Duration> {
        if self.answers < ANSWERS_MIN {
            return None;
        }
        let mut slower = 0;
        let slowest_first = self.counts.iter().enumerate().rev();
        let found = slowest_first.map(|(at, count)| {
            slower += count;
            (at, slower)
        });
        let may_be_slower = self.answers / SLOWER_ONE_IN;
        let at = found.into_iter().find(|(_, slower)| *slower > may_be_slower).map_or(0, |(at, _)| at);
        Some(bound(at).max(DELAY_MIN))
    }
}

/// Where a time is counted.
fn bucket(took: Duration) -> usize {
    let millis = took.as_secs_f64() * 1000.0;
    (0..BUCKETS).find(|at| millis <= bound(*at).as_secs_f64() * 1000.0).unwrap_or(BUCKETS - 1)
}

/// The longest time of a bucket.
fn bound(at: usize) -> Duration {
    let doublings = f64::from(u32::try_from(at).unwrap_or(u32::MAX)) / f64::from(PER_DOUBLING);
    Duration::from_secs_f64(0.001 * doublings.exp2())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn after(times: impl IntoIterator<Item = u64>) -> Option<Duration> {
        let mut estimate = Estimate::default();
        times.into_iter().for_each(|time| estimate.add(millis(time)));
        estimate.delay()
    }

    /// Within the width of a bucket above.
    fn check(times: impl IntoIterator<Item = u64>, expected: u64) {
        let delay = after(times).unwrap();
        let range = millis(expected)..=millis(expected).mul_f64(1.2);
        assert!(range.contains(&delay), "{delay:?} is not in {range:?}");
    }

    #[test]
    fn the_delay_is_what_nineteen_of_twenty_answers_take() {
        check((0..500).map(|_| 40), 40);
        check((0..500).map(|at| if at % 20 == 0 { 2000 } else { 40 }), 40);
        check((0..500).map(|at| if at % 10 == 0 { 2000 } else { 40 }), 2000);
        check((0..1000).map(|at| at % 100), 94);
    }

    #[test]
    fn nothing_is_said_before_enough_answers_were_seen() {
        assert_eq!(after((0..31).map(|_| 40)), None);
        assert!(after((0..32).map(|_| 40)).is_some());
    }

    #[test]
    fn no_delay_is_shorter_than_is_worth_a_second_request_and_none_longer_than_the_last_bucket() {
        assert_eq!(after((0..100).map(|_| 0)), Some(DELAY_MIN));
        let longest = after((0..100).map(|_| 10_000_000)).unwrap();
        assert!((millis(50_000)..millis(60_000)).contains(&longest), "{longest:?}");
    }

    #[test]
    fn what_changed_is_learnt_and_what_is_long_past_forgotten() {
        let slow = (0..5000).map(|_| 800);
        check(slow.clone().chain((0..20_000).map(|_| 20)), 20);
        check((0..5000).map(|_| 20).chain(slow), 800);
    }

    #[test]
    fn answers_that_another_instance_gave_move_the_delay_neither_up_nor_down() {
        for one_in in [12, 25] {
            let mut estimate = Estimate::default();
            (0..500).for_each(|at| estimate.add(millis(if at % one_in == 0 { 3000 } else { 40 })));
            let before = estimate.delay().unwrap();
            for at in 0..20_000 {
                let delay = estimate.delay().unwrap();
                estimate.add(if at % one_in == 0 { delay } else { millis(40) });
            }
            assert_eq!(estimate.delay().unwrap(), before, "one in {one_in}");
        }
    }

    #[test]
    fn no_more_tools_are_told_apart_than_fit() {
        let pace = Pace::default();
        for tool in (0..2 * TOOLS_MAX).map(|at| at.to_string()) {
            pace.answered(&tool, millis(1));
        }
        pace.answered(&"x".repeat(NAME_BYTES_MAX + 1), millis(1));
        assert_eq!(pace.lock().len(), TOOLS_MAX);
        (0..ANSWERS_MIN).for_each(|_| pace.answered("1", millis(30)));
        assert!(pace.delay("1").is_some() && pace.delay("2").is_none() && pace.delay("999").is_none());
    }
}
