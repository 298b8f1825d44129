//! Everything that was measured in one run.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::rounds::Load;
use crate::drive::Outcome;
use crate::systems::System;

/// Memory of a system over one round, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint {
    pub(super) idle: u64,
    pub(super) peak: u64,
    pub(super) after: u64,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    /// For each load and system, an outcome of each round, if it could be measured.
    loads: BTreeMap<(Load, System), Vec<Option<Outcome>>>,
    footprints: BTreeMap<System, Vec<Footprint>>,
    /// What is measured once, or by itself: a name, and a figure for each time.
    figures: BTreeMap<String, Vec<f64>>,
    /// What went wrong.
    pub(super) notes: Vec<String>,
}

impl Book {
    pub(super) fn outcome(&mut self, load: Load, system: System, outcome: Option<Outcome>) {
        self.loads.entry((load, system)).or_default().push(outcome);
    }

    pub(super) fn footprint(&mut self, system: System, footprint: Footprint) {
        self.footprints.entry(system).or_default().push(footprint);
    }

    pub(super) fn figure(&mut self, name: impl Into<String>, figure: f64) {
        self.figures.entry(name.into()).or_default().push(figure);
    }

    /// Notes what went wrong, once.
    pub(super) fn note(&mut self, note: String) {
        super::tell(&note);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// One figure of each round that has it.
    fn each(&self, load: Load, system: System, figure: fn(&Outcome) -> f64) -> Vec<Option<f64>> {
        let rounds = self.loads.get(&(load, system)).into_iter().flatten();
        rounds.map(|outcome| outcome.as_ref().map(figure)).collect()
    }

    pub(super) fn median(&self, load: Load, system: System, figure: fn(&Outcome) -> f64) -> Option<f64> {
        median(self.each(load, system, figure).into_iter().flatten().collect())
    }

    /// The median of the ratios of the rounds in which both were measured.
    pub(super) fn ratio(
        &self,
        load: Load,
        (over, under): (System, System),
        figure: fn(&Outcome) -> f64,
    ) -> Option<f64> {
        let pairs = self.each(load, over, figure).into_iter().zip(self.each(load, under, figure));
        median(pairs.filter_map(|(over, under)| Some(over? / under?)).filter(|it| it.is_finite()).collect())
    }

    /// The same for what each adds to going without a proxy.
    pub(super) fn added_ratio(
        &self,
        load: Load,
        (over, under): (System, System),
        figure: fn(&Outcome) -> f64,
    ) -> Option<f64> {
        let direct = self.each(load, System::Direct, figure).into_iter();
        let rounds = direct.zip(self.each(load, over, figure)).zip(self.each(load, under, figure));
        let added = rounds.filter_map(|((direct, over), under)| Some((over? - direct?) / (under? - direct?)));
        median(added.filter(|it| it.is_finite()).collect())
    }

    /// The best rate of the last round.
    pub(super) fn peak(&self, system: System) -> Option<f64> {
        let last = |load: &Load| self.loads.get(&(*load, system))?.last()?.as_ref().map(|it| it.rate);
        Load::PEAK.iter().filter_map(last).max_by(f64::total_cmp)
    }

    pub(super) fn has(&self, load: Load) -> bool {
        self.loads.keys().any(|(known, _)| *known == load)
    }

    pub(super) fn memory(&self, system: System, part: fn(&Footprint) -> u64) -> Option<f64> {
        median(self.footprints.get(&system)?.iter().map(|it| part(it) as f64).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<f64> {
        median(self.figures.get(name)?.clone())
    }

    /// The most that other processes took during a measured span, in cores, and the median of it.
    pub(super) fn disturbance(&self) -> (f64, f64) {
        let all: Vec<f64> = self.loads.values().flatten().flatten().map(|it| it.others).collect();
        let most = all.iter().copied().max_by(f64::total_cmp).unwrap_or_default();
        (most, median(all).unwrap_or_default())
    }

    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let loads = self.loads.iter().map(|((load, system), rounds)| {
            json!({ "load": load.name(), "system": system.name(), "rounds": rounds })
        });
        let footprints = self.footprints.iter().flat_map(|(system, rounds)| {
            rounds.iter().map(
                |it| json!({ "system": system.name(), "idle": it.idle, "peak": it.peak, "after": it.after }),
            )
        });
        let all = json!({
            "loads": loads.collect::<Vec<Value>>(),
            "memory": footprints.collect::<Vec<Value>>(),
            "figures": self.figures,
            "notes": self.notes,
        });
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, serde_json::to_string_pretty(&all)?)?)
    }
}

pub(super) fn median(mut all: Vec<f64>) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    match all.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(all[middle]),
        _ => Some(f64::midpoint(all[middle - 1], all[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(rate: f64) -> Option<Outcome> {
        Some(Outcome { rate, ..Outcome::default() })
    }

    #[test]
    fn a_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_rounds_without_one_are_left_out() {
        let mut book = Book::default();
        let load = Load::PEAK[0];
        for (weft, nginx) in [(rate(20.0), rate(10.0)), (rate(5.0), None), (rate(300.0), rate(100.0))] {
            book.outcome(load, System::Weft, weft);
            book.outcome(load, System::Nginx, nginx);
        }
        assert_eq!(book.ratio(load, (System::Weft, System::Nginx), |it| it.rate), Some(2.5));
        assert_eq!(book.median(load, System::Weft, |it| it.rate), Some(20.0));
        assert_eq!(book.peak(System::Weft), Some(300.0));
    }
}
