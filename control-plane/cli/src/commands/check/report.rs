//! Findings, and how they are shown.

use serde_json::{Value, json};

use crate::answers::Check as Made;
use crate::terminal::{Tone, plain};

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    /// Something that will be wrong, or that could not be seen from here.
    Warning,
    Failed,
    /// It could not be made; what it rests on failed, or the detail says why.
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
    pub(super) name: String,
    pub(super) outcome: Outcome,
    /// What was found.
    pub(super) detail: String,
    /// Why it matters; empty if all is well.
    pub(super) why: String,
    /// What to do; empty if all is well.
    pub(super) remedy: String,
}

impl Finding {
    pub(super) fn ok(name: &str, detail: impl Into<String>) -> Self {
        let name = name.to_owned();
        Self { name, outcome: Outcome::Ok, detail: detail.into(), why: String::new(), remedy: String::new() }
    }

    pub(super) fn skipped(name: &str, why: impl Into<String>) -> Self {
        Self { outcome: Outcome::Skipped, ..Self::ok(name, why) }
    }

    pub(super) fn after_failure(name: &str) -> Self {
        Self::skipped(name, "a check before it failed")
    }

    pub(super) fn warning(
        name: &str,
        detail: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let finding = Self::ok(name, detail);
        Self { outcome: Outcome::Warning, why: why.into(), remedy: remedy.into(), ..finding }
    }

    fn render(&self, colour: bool) -> String {
        let (mark, tone) = self.outcome.look();
        let detail = plain(&self.detail).replace('\n', "\n      ");
        let mut text = format!("{} {}: {detail}\n", tone.paint(mark, colour), plain(&self.name));
        for (label, note) in [("why", &self.why), ("do", &self.remedy)] {
            if !note.is_empty() {
                text.push_str(&format!("      {label}: {}\n", plain(note).replace('\n', "\n        ")));
            }
        }
        text
    }

    pub(super) fn failed(
        name: &str,
        detail: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { outcome: Outcome::Failed, ..Self::warning(name, detail, why, remedy) }
    }
}

impl From<&Made> for Finding {
    fn from(made: &Made) -> Self {
        let Made { group: _, name, outcome, detail, why, remedy } = made;
        let outcome = match outcome.as_str() {
            "ok" => Outcome::Ok,
            "failed" => Outcome::Failed,
            "skipped" => Outcome::Skipped,
            // What a newer control plane calls otherwise is to be looked at.
            _ => Outcome::Warning,
        };
        let (name, detail) = (name.clone(), detail.clone());
        Self { name, outcome, detail, why: why.clone(), remedy: remedy.clone() }
    }
}

/// Checks that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) checks: Vec<Finding>,
}

impl Group {
    pub(super) fn has_failed(&self) -> bool {
        self.checks.iter().any(|check| check.outcome == Outcome::Failed)
    }
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(super) groups: Vec<Group>,
}

impl Report {
    pub(super) fn add(&mut self, name: &str, checks: Vec<Finding>) {
        self.groups.push(Group { name: name.to_owned(), checks });
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.groups.iter().flat_map(|group| &group.checks).filter(|check| check.outcome == outcome).count()
    }

    /// Nothing failed; where one is strict, there are no warnings either.
    pub(super) fn is_ok(&self, strict: bool) -> bool {
        self.count(Outcome::Failed) == 0 && !(strict && self.count(Outcome::Warning) > 0)
    }

    pub(super) fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for group in &self.groups {
            text.push_str(&format!("{}\n", Tone::Strong.paint(&group.name, colour)));
            for check in &group.checks {
                text.push_str(&format!("  {}", check.render(colour)));
            }
            text.push('\n');
        }
        let (failed, warnings) = (self.count(Outcome::Failed), self.count(Outcome::Warning));
        let skipped = match self.count(Outcome::Skipped) {
            0 => String::new(),
            some => format!("; skipped: {some}"),
        };
        let summary = match (failed, warnings) {
            (0, 0) if skipped.is_empty() => Tone::Good.paint("all is well", colour),
            (0, 0) => Tone::Warn.paint(&format!("nothing failed{skipped}"), colour),
            (0, _) => Tone::Warn.paint(&format!("nothing failed; warnings: {warnings}{skipped}"), colour),
            _ => Tone::Bad.paint(&format!("failed: {failed}; warnings: {warnings}{skipped}"), colour),
        };
        text.push_str(&summary);
        text.push('\n');
        text
    }

    /// The checks whose outcome is another than it was, and those that were not made before.
    pub(super) fn since(&self, before: &Self, at: &str, colour: bool) -> String {
        let outcome = |group: &str, check: &str| {
            let mut groups = before.groups.iter().filter(|it| it.name == group);
            groups.find_map(|it| it.checks.iter().find(|it| it.name == check)).map(|it| it.outcome)
        };
        let mut text = String::new();
        for group in &self.groups {
            let changed = |check: &&Finding| outcome(&group.name, &check.name) != Some(check.outcome);
            for check in group.checks.iter().filter(changed) {
                text.push_str(&format!("{at} {}: {}", plain(&group.name), check.render(colour)));
            }
        }
        text
    }

    pub(crate) fn to_json(&self) -> Value {
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
        json!({ "ok": self.is_ok(false), "groups": self.groups.iter().map(group).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_is_wrong_why_and_what_to_do() {
        let mut report = Report::default();
        let checks = vec![
            Finding::ok("a", "fine"),
            Finding::warning("b", "odd", "it may break", "look"),
            Finding::failed("c", "bad", "it breaks", "mend it"),
            Finding::skipped("d", "nobody knows"),
        ];
        report.add("state", checks);
        let expected = "state\n  \u{2713} a: fine\n  ! b: odd\n      why: it may break\n      do: look\n  \u{2717} c: bad\n      \
                        why: it breaks\n      do: mend it\n  - d: nobody knows\n\nfailed: 1; warnings: 1; skipped: 1\n";
        assert_eq!(report.render(false), expected);
        assert_eq!(report.to_json()["groups"][0]["checks"][2]["outcome"], "failed");
        assert_eq!((report.to_json()["ok"].clone(), report.is_ok(false)), (false.into(), false));
        report.groups[0].checks.remove(2);
        assert_eq!((report.is_ok(false), report.is_ok(true)), (true, false));
    }

    #[test]
    fn what_a_newer_control_plane_says_is_not_taken_for_well() {
        let of =
            |outcome: &str| Finding::from(&Made { outcome: outcome.to_owned(), ..Made::default() }).outcome;
        let all = ["ok", "warning", "failed", "skipped", "strange"].map(of);
        use Outcome::{Failed, Ok, Skipped, Warning};
        assert_eq!(all, [Ok, Warning, Failed, Skipped, Warning]);
    }
}
