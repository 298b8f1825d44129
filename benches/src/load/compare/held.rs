//! What holding costs: idle event streams, and memory over a soak in which everything comes and goes.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::book::Book;
use super::{Bench, tell};
use crate::systems::{Running, System};

/// How long streams are held before memory is read.
const HOLD: Duration = Duration::from_secs(2);
/// Streams that are opened and closed again and again during the soak.
const SOAK_STREAMS: usize = 100;
/// Calls after which a connection of the soak is closed and another opened.
const SOAK_CHURN: u32 = 50;

pub(super) async fn run(bench: &Bench, book: &mut Book) -> anyhow::Result<()> {
    for system in bench.args.systems().into_iter().filter(|system| system.streams()) {
        if let Err(error) = streams(bench, book, system).await {
            book.note(format!("{}: idle streams: {error:#}", system.name()));
        }
    }
    for system in bench.args.systems() {
        let wanted = matches!(system, System::Weft) && bench.args.soak > 0;
        if wanted && let Err(error) = soak(bench, book, system).await {
            book.note(format!("{}: soak: {error:#}", system.name()));
        }
    }
    Ok(())
}

fn listen(streams: usize) -> Vec<String> {
    vec![
        "--shape=listen".to_owned(),
        format!("--connections={streams}"),
        format!("--seconds={}", HOLD.as_secs()),
    ]
}

async fn streams(bench: &Bench, book: &mut Book, system: System) -> anyhow::Result<()> {
    let running = bench.site.start(system).await?;
    // The first calls make what every proxy makes once.
    let warm_up = ["--seconds=0.5", "--warm-up=0.1", "--connections=16"].map(str::to_owned);
    bench.drive(&running, &warm_up, HOLD).await?;
    let outcome = bench.drive(&running, &listen(bench.args.streams), HOLD).await?;
    tell(&format!("{} streams at {}: {} bytes each", bench.args.streams, system.name(), outcome.resident));
    book.figure(format!("stream bytes, {}", system.name()), outcome.resident as f64);
    running.stop().await
}

/// Calls, connections and streams come and go while the memory is watched.
async fn soak(bench: &Bench, book: &mut Book, system: System) -> anyhow::Result<()> {
    let running = bench.site.start(system).await?;
    let length = Duration::from_secs(bench.args.soak);
    tell(&format!("soak of {} s at {}", length.as_secs(), system.name()));
    let calls = [
        format!("--seconds={}", length.as_secs()),
        format!("--churn={SOAK_CHURN}"),
        "--connections=64".to_owned(),
    ];
    let (samples, outcome, streams) = tokio::join!(
        watch(&running, length),
        bench.drive(&running, &calls, length),
        come_and_go(bench, &running, length)
    );
    let outcome = outcome?;
    streams?;
    let early = samples.len() / 5;
    let (first, last) = samples.get(early).zip(samples.last()).context("the soak was too short")?;
    book.figure("soak early", first.1);
    book.figure("soak end", last.1);
    book.figure("soak slope", slope(&samples[early..]));
    book.figure("soak calls", outcome.requests as f64);
    book.figure("soak errors", outcome.errors as f64);
    running.stop().await
}

async fn come_and_go(bench: &Bench, running: &Running, length: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + length;
    while Instant::now() < end {
        bench.drive(running, &listen(SOAK_STREAMS), HOLD).await?;
    }
    Ok(())
}

/// Seconds since the beginning and resident bytes, once a second.
async fn watch(running: &Running, length: Duration) -> Vec<(f64, f64)> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    while begun.elapsed() < length {
        samples.push((begun.elapsed().as_secs_f64(), running.memory().resident as f64));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    samples
}

/// The slope of the line that fits best, in bytes per second.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len() as f64;
    let mean = |part: fn(&(f64, f64)) -> f64| samples.iter().map(part).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|it| it.0), mean(|it| it.1));
    let over: f64 = samples.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let under: f64 = samples.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_line() {
        let line: Vec<(f64, f64)> = (0..10).map(|x| (f64::from(x), 5.0 + 3.0 * f64::from(x))).collect();
        assert!((slope(&line) - 3.0).abs() < 1e-9);
        assert!(slope(&line[..1]).abs() < f64::EPSILON);
    }
}
