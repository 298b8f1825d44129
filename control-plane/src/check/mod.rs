//! Whether all is well with the mesh: every check that can be made from where the control plane stands, each with what
//! was found, why it matters and what to do.
//!
//! Pure: the facts are handed in, the present moment among them. [`CHECKS`] is the one list of checks; the documentation
//! is made from it. Not here: gathering the facts (that is the API's), and what only a client sees, such as whether it
//! can reach the control plane at all.

mod cluster;
mod control_plane;
mod facts;
mod policy;
mod quota;
mod said;
mod sidecars;
mod table;
mod telemetry;
mod trust;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cluster::{Cluster, KeptOut, Observer, Pods};
pub use facts::{Audit, Disk, Facts, Leases, Objects, Revisions};
pub use said::versions_fit;
pub use table::CHECKS;

/// What checks are about, in the order in which one thing rests on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    ControlPlane,
    Trust,
    Sidecars,
    Policy,
    Quota,
    Telemetry,
}

impl Group {
    pub const ALL: [Self; 6] =
        [Self::ControlPlane, Self::Trust, Self::Sidecars, Self::Policy, Self::Quota, Self::Telemetry];

    pub const fn word(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Trust => "trust",
            Self::Sidecars => "sidecars",
            Self::Policy => "policy",
            Self::Quota => "quota",
            Self::Telemetry => "telemetry",
        }
    }
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// Something that will be wrong, or is probably not meant.
    Warning,
    Failed,
    /// It could not be made; the detail says why.
    Skipped,
}

/// One check: what is looked at, why it matters if it does not pass, and what to do then.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    pub group: Group,
    pub name: &'static str,
    /// What holds if it passes.
    pub passes: &'static str,
    pub why: &'static str,
    pub remedy: &'static str,
    judge: fn(&Facts) -> Verdict,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    outcome: Outcome,
    detail: String,
}

impl Verdict {
    fn ok(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Ok, detail: detail.into() }
    }

    fn warning(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warning, detail: detail.into() }
    }

    fn failed(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, detail: detail.into() }
    }

    fn skipped(why: impl Into<String>) -> Self {
        Self { outcome: Outcome::Skipped, detail: why.into() }
    }
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    pub group: Group,
    pub name: String,
    pub outcome: Outcome,
    /// What was found; why it could not be made, where it was skipped.
    pub detail: String,
    /// Why it matters; left out if all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// What to do; left out if all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// Makes the checks of one group, or all.
pub fn run(facts: &Facts, group: Option<Group>) -> Vec<Finding> {
    let wanted = CHECKS.iter().filter(|check| group.is_none_or(|group| check.group == group));
    wanted.map(|check| check.made(facts)).collect()
}

impl Check {
    fn made(&self, facts: &Facts) -> Finding {
        let Verdict { outcome, detail } = (self.judge)(facts);
        let needs_words = matches!(outcome, Outcome::Warning | Outcome::Failed);
        let words = |text: &str| if needs_words { text.to_owned() } else { String::new() };
        let (why, remedy) = (words(self.why), words(self.remedy));
        Finding { group: self.group, name: self.name.to_owned(), outcome, detail, why, remedy }
    }
}

#[cfg(test)]
mod tests;
