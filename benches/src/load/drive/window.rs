//! The measured span: what happened in it, and what it cost.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::{Args, Outcome};
use crate::histogram::Histogram;
use crate::process::{self, Machine};

/// Shared by all connections of a run.
pub(super) struct Window {
    pub(super) opens: Instant,
    pub(super) closes: Instant,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    latencies: Histogram,
    errors: u64,
}

/// Processor time at one moment.
struct Spent {
    at: Instant,
    proxy: Duration,
    load: Duration,
    machine: Machine,
}

impl Window {
    /// Opens after the warm-up, from now.
    pub(super) fn new(args: &Args) -> Self {
        let opens = Instant::now() + args.warm_up();
        Self { opens, closes: opens + args.span(), seen: RefCell::default() }
    }

    /// Notes an answer to a call that was due at `due`, if both lie in the span.
    pub(super) fn note(&self, due: Instant, now: Instant) {
        if self.opens <= due && now < self.closes {
            self.seen.borrow_mut().latencies.record(now - due);
        }
    }

    pub(super) fn error(&self) {
        self.seen.borrow_mut().errors += 1;
    }

    /// Waits until the span is over and says what it showed.
    pub(super) async fn measure(&self, args: &Args) -> anyhow::Result<Outcome> {
        tokio::time::sleep_until(self.opens.into()).await;
        let before = Spent::now(args)?;
        tokio::time::sleep_until(self.closes.into()).await;
        let after = Spent::now(args)?;
        Ok(self.outcome(args, &before, &after))
    }

    fn outcome(&self, args: &Args, before: &Spent, after: &Spent) -> Outcome {
        let seen = self.seen.borrow();
        let (latencies, span) = (&seen.latencies, after.at - before.at);
        let share = |part: Duration| part.as_secs_f64() / span.as_secs_f64();
        let (proxy, load) = (after.proxy - before.proxy, after.load - before.load);
        let busy = after.machine.busy.saturating_sub(before.machine.busy).saturating_sub(proxy + load);
        let stolen = after.machine.stolen.saturating_sub(before.machine.stolen);
        let memory = process::memory(&args.watched()).unwrap_or_default();
        let outcome = Outcome::of(latencies, args.seconds);
        Outcome {
            errors: seen.errors,
            cpu: if outcome.requests == 0 { 0.0 } else { share(proxy) / outcome.rate * 1e6 },
            busy: share(proxy),
            load_busy: share(load),
            others: share(busy + stolen),
            resident: memory.resident,
            peak: memory.peak,
            ..outcome
        }
    }
}

impl Outcome {
    /// What latencies alone tell.
    pub(crate) fn of(latencies: &Histogram, seconds: f64) -> Self {
        let quantile = |thousandths| micros(latencies.quantile(thousandths));
        Self {
            requests: latencies.count(),
            seconds,
            rate: latencies.count() as f64 / seconds,
            mean: micros(latencies.mean()),
            p50: quantile(500),
            p90: quantile(900),
            p99: quantile(990),
            p999: quantile(999),
            max: micros(latencies.max()),
            ..Self::default()
        }
    }
}

impl Spent {
    fn now(args: &Args) -> anyhow::Result<Self> {
        let load = [Some(std::process::id()), args.behind].into_iter().flatten().collect::<Vec<_>>();
        Ok(Self {
            at: Instant::now(),
            proxy: process::cpu(&args.watched())?,
            load: process::cpu(&load)?,
            machine: process::machine()?,
        })
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
