//! All checks by group: those that only a client can make, and those of the control plane.

use clap::ValueEnum;
use serde_json::{Value, json};
use weft_control_plane::check::{self, CHECKS};

/// What checks are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// What this command is told to go by
    Configuration,
    /// The way to the control plane
    Connection,
    /// The control plane itself
    ControlPlane,
    /// Roots, certificates and tokens
    Trust,
    /// Sidecars, and the servers beside them
    Sidecars,
    /// Who may call what
    Policy,
    /// Limits that sidecars share
    Quota,
    /// Audit trails and traces
    Telemetry,
}

impl Group {
    pub(crate) const ALL: [Self; 8] = [
        Self::Configuration,
        Self::Connection,
        Self::ControlPlane,
        Self::Trust,
        Self::Sidecars,
        Self::Policy,
        Self::Quota,
        Self::Telemetry,
    ];
    /// Those that the control plane judges.
    pub(super) const JUDGED: [Self; 6] =
        [Self::ControlPlane, Self::Trust, Self::Sidecars, Self::Policy, Self::Quota, Self::Telemetry];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Connection => "connection",
            Self::ControlPlane => check::Group::ControlPlane.word(),
            Self::Trust => check::Group::Trust.word(),
            Self::Sidecars => check::Group::Sidecars.word(),
            Self::Policy => check::Group::Policy.word(),
            Self::Quota => check::Group::Quota.word(),
            Self::Telemetry => check::Group::Telemetry.word(),
        }
    }

    /// Its checks: what each is called, and what holds if it passes.
    pub(crate) fn checks(self) -> Vec<(&'static str, &'static str)> {
        let judged = CHECKS.iter().filter(|it| it.group.word() == self.word());
        match self {
            Self::Configuration => CONFIGURATION.to_vec(),
            Self::Connection => CONNECTION.to_vec(),
            _ => judged.map(|it| (it.name, it.passes)).collect(),
        }
    }
}

pub(super) const OPERATOR_FILE: &str = "operator.json";
pub(super) const CREDENTIALS: &str = "credentials";
pub(super) const REACHABLE: &str = "reachable";
pub(super) const VERIFIED: &str = "verified";
pub(super) const AUTHENTICATED: &str = "authenticated";
pub(super) const READY: &str = "ready";
pub(super) const METRICS: &str = "metrics";
pub(super) const SKEW: &str = "version skew";
pub(super) const CLOCK: &str = "clock";

const CONFIGURATION: &[(&str, &str)] = &[
    (OPERATOR_FILE, "it can be read, and by its owner only; or it is not needed"),
    (CREDENTIALS, "server, roots and token are there"),
];

const CONNECTION: &[(&str, &str)] = &[
    (REACHABLE, "something listens at the server's address"),
    (VERIFIED, "it proves to be the control plane"),
    (AUTHENTICATED, "it accepts the token"),
    (READY, "it says that it is ready to publish"),
    (METRICS, "its metrics can be read"),
    (SKEW, "this command is at most one minor version apart from it"),
    (CLOCK, "this machine's clock is within 10 s of its own"),
];

pub(super) fn text(wanted: impl Fn(Group) -> bool) -> String {
    let group = |group: Group| {
        let rows = group.checks().into_iter().map(|(name, passes)| format!("  {name}: {passes}\n"));
        format!("{}\n{}", group.word(), rows.collect::<String>())
    };
    Group::ALL.into_iter().filter(|it| wanted(*it)).map(group).collect::<Vec<_>>().join("\n")
}

pub(super) fn to_json(wanted: impl Fn(Group) -> bool) -> Value {
    let group = |group: Group| {
        let checks = group.checks();
        let checks = checks.iter().map(|(name, passes)| json!({ "name": name, "passes": passes }));
        json!({ "name": group.word(), "checks": checks.collect::<Vec<_>>() })
    };
    let groups = Group::ALL.into_iter().filter(|it| wanted(*it)).map(group);
    json!({ "groups": groups.collect::<Vec<_>>() })
}
