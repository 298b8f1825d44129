//! Checks of what a Kubernetes cluster says, as far as the control plane in it hears of it.

use std::sync::Arc;

use weft_proto::resource::Key;

use super::said::{named, span};
use super::{Facts, Verdict};
use crate::replica::Standby;

/// What a Kubernetes cluster says at one moment.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub kept_out: Vec<KeptOut>,
    pub pods: Pods,
    /// The pods of other control planes that should stand by, by name; none where they are not read.
    pub control_planes: Option<Vec<String>>,
}

/// Asks what the cluster says. It is asked with every check and must not wait for anything.
#[derive(Clone)]
pub struct Observer(pub Arc<dyn Fn() -> Cluster + Send + Sync>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

/// An object of the cluster that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptOut {
    pub key: Key,
    pub why: String,
}

/// Pods that ask for a sidecar, could have one, and have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pods {
    /// This control plane puts no sidecars into pods.
    #[default]
    NotInjected,
    /// It is not known yet, or cannot be.
    Unread,
    /// These, as `namespace/name`. There may be more where pods are too many to look at them all.
    Without { pods: Vec<String>, beyond: bool },
}

const NO_CLUSTER: &str = "the mesh is in no Kubernetes cluster";

pub(super) fn kept_out(facts: &Facts) -> Verdict {
    let Some(cluster) = &facts.cluster else { return Verdict::skipped(NO_CLUSTER) };
    let words = cluster.kept_out.iter().map(|KeptOut { key, why }| format!("{key} ({why})"));
    named(words).map_or_else(|| Verdict::ok("none is kept out"), Verdict::failed)
}

pub(super) fn pods(facts: &Facts) -> Verdict {
    let Some(cluster) = &facts.cluster else { return Verdict::skipped(NO_CLUSTER) };
    match &cluster.pods {
        Pods::NotInjected => Verdict::skipped("this control plane puts no sidecars into pods"),
        Pods::Unread => {
            Verdict::skipped("the pods of the cluster are not read; the log says so if they cannot be")
        }
        Pods::Without { pods, beyond } => {
            let more = if *beyond { "; there are more pods than are looked at" } else { "" };
            match named(pods) {
                Some(names) => Verdict::failed(format!("{names}{more}")),
                None if *beyond => Verdict::warning(format!("none is known{more}")),
                None => Verdict::ok("none"),
            }
        }
    }
}

/// Those that stand by, and those that should.
pub(super) fn standbys(facts: &Facts) -> Verdict {
    let Some(cluster) = &facts.cluster else { return Verdict::skipped(NO_CLUSTER) };
    let follows = |name: &String| facts.standbys.iter().any(|it| it.name == *name);
    let wanted = cluster.control_planes.iter().flatten();
    let missing = wanted.filter(|name| !follows(name)).map(|name| format!("{name} (does not follow)"));
    let late = |it: &Standby| {
        let Standby { name, behind_revisions, behind_secs, .. } = it;
        format!("{name} ({behind_revisions} revisions behind, for {})", span(behind_secs.cast_signed()))
    };
    let behind = facts.standbys.iter().filter(|it| !it.keeps_up).map(late);
    let keep_up = facts.standbys.iter().filter(|it| it.keeps_up).count();
    match named(missing.chain(behind)) {
        Some(names) if keep_up == 0 => Verdict::failed(format!("none keeps up: {names}")),
        Some(names) => Verdict::warning(format!("{keep_up} keep up, but not {names}")),
        None if keep_up > 0 => Verdict::ok(format!("{keep_up} keep up")),
        None if cluster.control_planes.is_none() => {
            Verdict::skipped("none follows, and the pods of the control plane are not read")
        }
        None => Verdict::ok("there is no other control plane"),
    }
}
