//! The table of figures.

use std::io::Write as _;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Table(Vec<[String; 3]>);

impl Table {
    pub(crate) fn row(
        &mut self,
        what: impl Into<String>,
        figure: impl Into<String>,
        target: impl Into<String>,
    ) {
        let row = [what.into(), figure.into(), target.into()];
        let _ = writeln!(std::io::stderr(), "{}: {}", row[0], row[1]);
        self.0.push(row);
    }

    pub(crate) fn print(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "| what | measured | target |\n|---|---|---|")?;
        for [what, figure, target] in &self.0 {
            writeln!(out, "| {what} | {figure} | {target} |")?;
        }
        Ok(())
    }
}

/// Quantiles of a set of durations.
#[derive(Debug)]
pub(crate) struct Quantiles(Vec<Duration>);

impl Quantiles {
    pub(crate) fn new(mut all: Vec<Duration>) -> Self {
        all.sort();
        Self(all)
    }

    pub(crate) fn at(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index among a few million samples"
        )]
        let at = (last as f64 * share).round() as usize;
        self.0.get(at).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Quantiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |share| self.at(share).as_secs_f64() * 1000.0;
        write!(f, "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms (n={})", ms(0.5), ms(0.99), ms(1.0), self.0.len())
    }
}
