//! Findings, and how they are shown.

use serde_json::{Value, json};

use crate::terminal::{Tone, plain};

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    /// Something that will be wrong, or that could not be seen from here.
    Warning,
    Failed,
    /// What it rests on failed.
    Skipped,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    const fn look(self) -> (&'static str, Tone) {
        match self {
            Self::Ok => ("✓", Tone::Good),
            Self::Warning => ("!", Tone::Warn),
            Self::Failed => ("✗", Tone::Bad),
            Self::Skipped => ("-", Tone::Dim),
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) name: &'static str,
    pub(super) outcome: Outcome,
    /// What was found.
    pub(super) detail: String,
    /// Why it matters; empty if all is well.
    pub(super) why: String,
    /// What to do; empty if all is well.
    pub(super) remedy: String,
}

impl Finding {
    pub(super) fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, detail: detail.into(), why: String::new(), remedy: String::new() }
    }

    pub(super) fn skipped(name: &'static str) -> Self {
        Self { outcome: Outcome::Skipped, ..Self::ok(name, "a check before it failed") }
    }

    pub(super) fn warning(
        name: &'static str,
        detail: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let finding = Self::ok(name, detail);
        Self { outcome: Outcome::Warning, why: why.into(), remedy: remedy.into(), ..finding }
    }

    pub(super) fn failed(
        name: &'static str,
        detail: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { outcome: Outcome::Failed, ..Self::warning(name, detail, why, remedy) }
    }
}

/// Checks that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) checks: Vec<Finding>,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) groups: Vec<Group>,
}

impl Report {
    pub(super) fn add(&mut self, name: &'static str, checks: Vec<Finding>) {
        self.groups.push(Group { name, checks });
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.groups.iter().flat_map(|group| &group.checks).filter(|check| check.outcome == outcome).count()
    }

    pub(super) fn is_ok(&self) -> bool {
        self.count(Outcome::Failed) == 0
    }

    pub(super) fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for group in &self.groups {
            text.push_str(&format!("{}\n", Tone::Strong.paint(group.name, colour)));
            for check in &group.checks {
                let (mark, tone) = check.outcome.look();
                let detail = plain(&check.detail).replace('\n', "\n      ");
                text.push_str(&format!("  {} {}: {detail}\n", tone.paint(mark, colour), check.name));
                for (label, note) in [("why", &check.why), ("do", &check.remedy)] {
                    if !note.is_empty() {
                        text.push_str(&format!(
                            "      {label}: {}\n",
                            plain(note).replace('\n', "\n        ")
                        ));
                    }
                }
            }
            text.push('\n');
        }
        let (failed, warnings) = (self.count(Outcome::Failed), self.count(Outcome::Warning));
        let summary = match (failed, warnings) {
            (0, 0) => Tone::Good.paint("all is well", colour),
            (0, _) => Tone::Warn.paint(&format!("nothing failed; warnings: {warnings}"), colour),
            _ => Tone::Bad.paint(&format!("failed: {failed}; warnings: {warnings}"), colour),
        };
        text.push_str(&summary);
        text.push('\n');
        text
    }

    pub(super) fn to_json(&self) -> Value {
        let check = |check: &Finding| {
            json!({
                "name": check.name,
                "outcome": check.outcome.word(),
                "detail": check.detail,
                "why": check.why,
                "remedy": check.remedy,
            })
        };
        let group = |group: &Group| json!({ "name": group.name, "checks": group.checks.iter().map(check).collect::<Vec<_>>() });
        json!({ "ok": self.is_ok(), "groups": self.groups.iter().map(group).collect::<Vec<_>>() })
    }
}
