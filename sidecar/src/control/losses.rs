//! What a report tells of this sidecar beside its servers: what it lost, what lags behind, and how much room there is.

use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use weft_proto::pb::weft::status::v1 as pb;

use crate::metrics::{Metrics, ReasonLabel};

/// For which reasons each of these is counted.
const SPANS_REASONS: &[&str] = &["queue_full", "not_taken", "rejected", "nowhere"];
const DROPPED_REASONS: &[&str] = &["queue_full", "disk_full", "disk_failed", "no_state_dir"];
const FAILURE_REASONS: &[&str] = &["write", "no_identity", "seal", "read", "ship", "ship_refused"];

/// Where that is found.
#[derive(Clone, Debug)]
pub struct Losses {
    pub metrics: Arc<Metrics>,
    pub state_dir: Option<PathBuf>,
}

impl Losses {
    pub(super) fn told(&self) -> pb::Losses {
        let Metrics { spans_dropped, audit_dropped, audit_failures, audit_unshipped, .. } = &*self.metrics;
        pb::Losses {
            spans_dropped: sum(spans_dropped, SPANS_REASONS),
            audit_dropped: sum(audit_dropped, DROPPED_REASONS),
            audit_failures: sum(audit_failures, FAILURE_REASONS),
            audit_unshipped: u64::try_from(audit_unshipped.get()).unwrap_or(0),
        }
    }

    /// None without a folder, or where the system does not say.
    pub(super) fn room(&self) -> Option<pb::Room> {
        let about = rustix::fs::statvfs(self.state_dir.as_deref()?).ok()?;
        Some(pb::Room {
            bytes_free: about.f_bavail.saturating_mul(about.f_frsize),
            bytes_total: about.f_blocks.saturating_mul(about.f_frsize),
        })
    }
}

/// Reasons that were never counted are left as they are, so that looking makes no series.
fn sum(family: &Family<ReasonLabel, Counter>, reasons: &[&'static str]) -> u64 {
    let of = |reason: &&'static str| family.get(&ReasonLabel { reason }).map(|it| it.get());
    reasons.iter().filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The help text of a metric names every reason for which it is counted.
    #[test]
    fn every_reason_that_is_counted_is_told() {
        let metrics = Arc::new(Metrics::new());
        for (family, reasons) in [
            (&metrics.spans_dropped, SPANS_REASONS),
            (&metrics.audit_dropped, DROPPED_REASONS),
            (&metrics.audit_failures, FAILURE_REASONS),
        ] {
            for reason in reasons {
                family.get_or_create(&ReasonLabel { reason }).inc();
            }
        }
        metrics.audit_unshipped.set(7);
        let losses = Losses { metrics: Arc::clone(&metrics), state_dir: None };
        let expected =
            pb::Losses { spans_dropped: 4, audit_dropped: 4, audit_failures: 6, audit_unshipped: 7 };
        assert_eq!(losses.told(), expected);
        let text = metrics.text();
        for (name, reasons) in [
            ("spans_dropped", SPANS_REASONS),
            ("audit_dropped", DROPPED_REASONS),
            ("audit_failures", FAILURE_REASONS),
        ] {
            let help =
                text.lines().find(|line| line.starts_with(&format!("# HELP weft_sidecar_{name} "))).unwrap();
            let named = reasons.iter().filter(|reason| help.contains(*reason)).count();
            assert_eq!(named, reasons.len(), "{help}");
        }
    }

    #[test]
    fn room_is_that_of_the_state_folder_and_nothing_without_one() {
        let folder = tempfile::tempdir().unwrap();
        let of = |state_dir| Losses { metrics: Arc::new(Metrics::new()), state_dir }.room();
        assert_eq!(of(None), None);
        assert_eq!(of(Some(folder.path().join("not-there"))), None);
        let room = of(Some(folder.path().to_owned())).unwrap();
        assert!(room.bytes_free <= room.bytes_total && room.bytes_total > 0, "{room:?}");
    }
}
