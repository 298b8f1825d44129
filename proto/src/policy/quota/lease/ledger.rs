//! A budget that is shared: what is lent of it counts as spent, and stays so until it is given back. So nothing that was
//! spent is ever forgotten; what a sidecar was lent and had not spent when it was killed is lost to the window.
//!
//! What is lent to a holder is told as a sum since its beginning, as is what it spent: a message that comes twice, late
//! or not at all changes nothing.

use std::collections::BTreeMap;

use super::super::MILLI;

/// A part of what is left that one holder is lent at once, among all holders.
const PARTS: u64 = 8;

/// One budget in one calendar window.
#[derive(Clone, Debug)]
pub struct Ledger {
    amount: u64,
    /// What counts as spent. This is what is to be kept before anybody is told of a loan.
    committed: u64,
    holders: BTreeMap<u64, Account>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    lent: u64,
    spent: u64,
}

impl Ledger {
    /// Goes on from what was kept.
    pub const fn new(amount: u64, committed: u64) -> Self {
        Self { amount, committed, holders: BTreeMap::new() }
    }

    pub const fn committed(&self) -> u64 {
        self.committed
    }

    /// What is known to be spent, or lost.
    pub fn spent(&self) -> u64 {
        let unspent =
            self.holders.values().map(|it| it.lent.saturating_sub(it.spent)).fold(0, u64::saturating_add);
        self.committed.saturating_sub(unspent)
    }

    pub fn change(&mut self, amount: u64) {
        self.amount = amount;
    }

    /// A holder spent so much since its beginning, and wants more. Answers how much it may spend since its beginning.
    pub fn report(&mut self, holder: u64, spent: u64, wants: bool) -> u64 {
        let sharers = (self.holders.len() as u64).max(1);
        let account = self.holders.entry(holder).or_default();
        // More than was lent here was lent by an earlier run, and is committed.
        account.spent = account.spent.max(spent);
        account.lent = account.lent.max(account.spent);
        let left = self.amount.saturating_sub(self.committed);
        let chunk = (left / PARTS / sharers / MILLI * MILLI).max(MILLI).min(left);
        if wants && account.lent - account.spent < chunk.div_ceil(2) {
            account.lent += chunk;
            self.committed += chunk;
        }
        account.lent
    }

    /// A holder ends, and says how much it spent in all. What it did not spend is free again.
    pub fn release(&mut self, holder: u64, spent: u64) {
        if let Some(account) = self.holders.remove(&holder) {
            self.committed -= account.lent.saturating_sub(account.spent.max(spent)).min(self.committed);
        }
    }

    /// A holder is gone without a word: all that it was lent stays spent.
    pub fn forget(&mut self, holder: u64) {
        self.holders.remove(&holder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_counts_as_spent_until_it_is_given_back() {
        let mut ledger = Ledger::new(100 * MILLI, 0);
        let lent = ledger.report(1, 0, true);
        assert_eq!((lent, ledger.committed(), ledger.spent()), (12 * MILLI, 12 * MILLI, 0));
        // The same report once more lends no more.
        assert_eq!(ledger.report(1, 0, true), lent);
        ledger.release(1, 5 * MILLI);
        assert_eq!((ledger.committed(), ledger.spent()), (5 * MILLI, 5 * MILLI));
        let lent = ledger.report(2, 0, true);
        ledger.forget(2);
        assert_eq!(ledger.committed(), 5 * MILLI + lent);
    }

    #[test]
    fn holders_together_spend_the_whole_budget_and_no_more() {
        let mut ledger = Ledger::new(100 * MILLI, 0);
        let mut spent = [0; 7];
        for round in 0..1000 {
            let at = round % spent.len();
            let may = ledger.report(at as u64, spent[at], true);
            if spent[at] < may {
                spent[at] += MILLI;
            }
        }
        assert_eq!(spent.iter().sum::<u64>(), 100 * MILLI);
        assert_eq!(ledger.committed(), 100 * MILLI);
    }

    #[test]
    fn a_ledger_that_begins_anew_goes_on_from_what_was_kept() {
        let mut ledger = Ledger::new(10 * MILLI, 10 * MILLI);
        assert_eq!(ledger.report(1, 4 * MILLI, true), 4 * MILLI);
        assert_eq!(ledger.committed(), 10 * MILLI);
    }
}
