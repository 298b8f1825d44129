//! The loads, and the rounds in which every system gets each of them.

use std::collections::HashSet;
use std::time::Duration;

use super::book::{Book, Footprint};
use super::{Bench, tell};
use crate::message::Shape;
use crate::systems::{Running, System};

/// Connections of the loads that are not about their number.
const CONNECTIONS: usize = 16;
/// Connections over which calls at a fixed rate are spread.
const CONNECTIONS_OPEN: usize = 64;
/// How long a system is left alone before its memory is read.
const REST: Duration = Duration::from_millis(1500);

/// One load that every system gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Load {
    /// Small calls as fast as answers come, on so many connections.
    Small(usize),
    /// Small calls at half of what this system reached in this round.
    HalfOwn,
    /// Small calls at half of what the slowest with mTLS reached in this round: the same rate for all.
    HalfSlowest,
    Medium,
    Large,
    Sse,
}

impl Load {
    pub(super) const ALL: [Self; 9] = [
        Self::Small(1),
        Self::Small(16),
        Self::Small(64),
        Self::Small(256),
        Self::HalfOwn,
        Self::HalfSlowest,
        Self::Medium,
        Self::Large,
        Self::Sse,
    ];
    /// Those among which the best rate is found.
    pub(super) const PEAK: [Self; 3] = [Self::Small(16), Self::Small(64), Self::Small(256)];

    pub(super) fn name(self) -> String {
        match self {
            Self::Small(connections) => format!("closed loop, 300 B, {connections} connections"),
            Self::HalfOwn => {
                format!("open loop, 300 B, half of its own peak, {CONNECTIONS_OPEN} connections")
            }
            Self::HalfSlowest => {
                format!(
                    "open loop, 300 B, half of the slowest mTLS proxy's peak, {CONNECTIONS_OPEN} connections"
                )
            }
            Self::Medium => format!("closed loop, 10 KiB there and back, {CONNECTIONS} connections"),
            Self::Large => format!("closed loop, 256 KiB there and back, {CONNECTIONS} connections"),
            Self::Sse => format!(
                "closed loop, SSE answers of {} events, {CONNECTIONS} connections",
                crate::message::EVENTS + 1
            ),
        }
    }

    fn shape(self) -> Shape {
        match self {
            Self::Small(_) | Self::HalfOwn | Self::HalfSlowest => Shape::Small,
            Self::Medium => Shape::Medium,
            Self::Large => Shape::Large,
            Self::Sse => Shape::Sse,
        }
    }

    fn connections(self) -> usize {
        match self {
            Self::Small(connections) => connections,
            Self::HalfOwn | Self::HalfSlowest => CONNECTIONS_OPEN,
            Self::Medium | Self::Large | Self::Sse => CONNECTIONS,
        }
    }

    /// The fixed rate, if it has one; an error if it needs what was not measured.
    fn rate(self, book: &Book, system: System, all: &[Running]) -> Result<Option<f64>, &'static str> {
        let peak = match self {
            Self::HalfOwn => book.peak(system),
            Self::HalfSlowest => {
                let mutual = all.iter().map(|it| it.system).filter(|system| system.mutual());
                mutual.filter_map(|system| book.peak(system)).min_by(f64::total_cmp)
            }
            Self::Small(_) | Self::Medium | Self::Large | Self::Sse => return Ok(None),
        };
        // Whoever answered nothing in time has none.
        peak.filter(|peak| *peak > 0.0).map(|peak| Some(peak / 2.0)).ok_or("no peak was measured")
    }
}

pub(super) async fn run(bench: &Bench, book: &mut Book) -> anyhow::Result<()> {
    let mut systems = bench.args.systems();
    let wanted = |load: &Load| {
        let name = load.name();
        bench.args.loads.is_empty() || bench.args.loads.iter().any(|part| name.contains(part.as_str()))
    };
    let loads: Vec<Load> = Load::ALL.into_iter().filter(wanted).collect();
    for round in 1..=bench.args.rounds {
        let all = start(bench, book, &systems).await;
        tokio::time::sleep(REST).await;
        let idle: Vec<u64> = all.iter().map(|it| it.memory().resident).collect();
        let mut broken = HashSet::new();
        for load in &loads {
            tell(&format!("round {round}: {}", load.name()));
            for running in &all {
                if !broken.contains(&(running.system, load.shape()))
                    && !take(bench, book, *load, running, &all).await
                {
                    broken.insert((running.system, load.shape()));
                }
            }
        }
        tokio::time::sleep(REST).await;
        for (running, idle) in all.into_iter().zip(idle) {
            let memory = running.memory();
            let footprint = Footprint { idle, peak: memory.peak, after: memory.resident };
            book.footprint(running.system, footprint);
            running.stop().await?;
        }
        bench.site.forget_access_logs();
        systems.rotate_left(1);
    }
    Ok(())
}

/// Starts all that can be started.
async fn start(bench: &Bench, book: &mut Book, systems: &[System]) -> Vec<Running> {
    let mut all = Vec::new();
    for system in systems {
        match bench.site.start(*system).await {
            Ok(running) => all.push(running),
            Err(error) => book.note(format!("{}: {error:#}", system.name())),
        }
    }
    all
}

/// Takes a load to a system; `false` if that did not work.
async fn take(bench: &Bench, book: &mut Book, load: Load, running: &Running, all: &[Running]) -> bool {
    let system = running.system;
    let outcome = match load.rate(book, system, all) {
        Ok(rate) => bench.drive(running, &options(bench, load, rate), bench.args.span()).await,
        Err(reason) => Err(anyhow::anyhow!(reason)),
    };
    match outcome {
        Ok(outcome) => {
            tell(&format!(
                "  {:9} {:9.0}/s  p50 {:7.0} µs  p99 {:8.0} µs  {:6.1} µs CPU  busy {:3.0} %",
                system.name(),
                outcome.rate,
                outcome.p50,
                outcome.p99,
                outcome.cpu,
                outcome.busy * 100.0
            ));
            if outcome.errors > 0 {
                book.note(format!(
                    "{}: {} calls failed under {}",
                    system.name(),
                    outcome.errors,
                    load.name()
                ));
            }
            book.outcome(load, system, Some(outcome));
            true
        }
        Err(error) => {
            book.note(format!("{}: {}: {error:#}", system.name(), load.name()));
            book.outcome(load, system, None);
            false
        }
    }
}

fn options(bench: &Bench, load: Load, rate: Option<f64>) -> Vec<String> {
    use clap::ValueEnum as _;
    let shape = load.shape().to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned());
    let mut options = vec![
        format!("--shape={shape}"),
        format!("--connections={}", load.connections()),
        format!("--seconds={}", bench.args.seconds),
        format!("--warm-up={}", bench.args.warm_up()),
    ];
    options.extend(rate.map(|rate| format!("--rate={rate}")));
    options
}
