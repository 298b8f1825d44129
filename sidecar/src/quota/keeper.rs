//! Lends this sidecar its own budgets, each time after it wrote down what counts as spent: what a killed sidecar had set
//! aside and not spent is lost to the window, and nothing that was spent is ever forgotten.

use std::collections::HashMap;

use tokio_util::sync::CancellationToken;
use weft_proto::policy::quota::Gauge;
use weft_proto::policy::quota::lease::{Ledger, Loan};

use super::Quotas;
use super::journal::{Id, Journal, Kept};
use super::leased::By;
use super::table::Asks;

/// How often all budgets are looked at: what they will need is set aside before it is needed.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// The only holder of its ledgers.
const SELF: u64 = 0;
/// The only lender of its loans.
const EPOCH: u64 = 1;

pub(super) struct Keeper {
    quotas: Quotas,
    /// None only while it is written to.
    journal: Option<Journal>,
    ledgers: HashMap<Id, Ledger>,
    sequence: u64,
}

impl Keeper {
    pub(super) fn new(quotas: Quotas, journal: Journal) -> Self {
        Self { quotas, journal: Some(journal), ledgers: HashMap::new(), sequence: 0 }
    }

    /// Goes on until the stop, after which everything that is not spent is free again.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shared = std::sync::Arc::clone(&self.quotas.0);
        loop {
            let all = tokio::select! {
                () = stop.cancelled() => break,
                () = shared.table.borrowed(By::Journal).asked.notified() => false,
                _ = every.tick() => true,
            };
            self.round(all, false).await;
        }
        self.round(true, true).await;
    }

    /// Hears what budgets ask for, writes down what counts as spent of them, and lends.
    async fn round(&mut self, all: bool, is_end: bool) {
        let shared = std::sync::Arc::clone(&self.quotas.0);
        let now_secs = shared.table.now().unix_secs;
        if all {
            self.ledgers.retain(|_, ledger| now_secs < ledger.ends());
        }
        let keys = shared.table.borrowed(By::Journal).told(all);
        let (mut loans, mut writes) = (Vec::new(), Vec::new());
        for key in keys {
            self.sequence += 1;
            let Some(asks) = shared.table.asks(key, self.sequence, is_end) else { continue };
            if let Some((loan, kept)) = self.lend(&asks, now_secs) {
                loans.push((asks.handle, loan));
                let known = self.journal.as_ref().and_then(|journal| journal.get(&asks.id));
                if known != Some(kept) {
                    writes.push((asks.id, kept));
                }
            }
        }
        if !writes.is_empty() && !self.write(writes, now_secs).await {
            shared.metrics.quota_unkept.inc();
            return;
        }
        for (handle, loan) in &loans {
            shared.table.lent(By::Journal, *handle, EPOCH, *loan);
        }
        if !loans.is_empty() {
            shared.table.was_lent();
        }
    }

    fn lend(&mut self, asks: &Asks, now_secs: i64) -> Option<(Loan, Kept)> {
        let Gauge::Budget { amount_milli, calendar } = &asks.ready.limit.gauge else { return None };
        let journal = self.journal.as_ref()?;
        let begin = || {
            let window = calendar.at(now_secs);
            let (ends, committed) = match journal.get(&asks.id) {
                // A window that began ends at its time, whatever the clock says meanwhile.
                Some(kept) if now_secs < kept.ends => (kept.ends, kept.milli),
                Some(_) => (window.ends, 0),
                None => match journal.lost_at().is_some_and(|at| calendar.at(at) == window) {
                    true => (window.ends, *amount_milli),
                    false => (window.ends, 0),
                },
            };
            Ledger::new(ends, *amount_milli, committed)
        };
        let ledger = self.ledgers.entry(asks.id).or_insert_with(begin);
        if ledger.ends() <= now_secs {
            *ledger = Ledger::new(calendar.at(now_secs).ends, *amount_milli, 0);
        }
        ledger.change(*amount_milli);
        let loan = ledger.report(SELF, asks.told)?;
        Some((loan, Kept { ends: ledger.ends(), milli: ledger.committed() }))
    }

    async fn write(&mut self, counts: Vec<(Id, Kept)>, now_secs: i64) -> bool {
        let Some(mut journal) = self.journal.take() else { return false };
        let written = tokio::task::spawn_blocking(move || {
            let written = journal.append(&counts, now_secs);
            (journal, written)
        });
        match written.await {
            Ok((journal, written)) => {
                self.journal = Some(journal);
                if let Err(error) = &written {
                    tracing::error!(%error, "budgets cannot be written down, so that nothing more may be spent of them");
                }
                written.is_ok()
            }
            Err(error) => {
                tracing::error!(%error, "writing budgets down was given up");
                false
            }
        }
    }
}
