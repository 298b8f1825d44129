//! A budget that is shared: what is lent of it counts as spent, and stays so until it is given back. So nothing that was
//! spent is ever forgotten; what a sidecar was lent and had not spent when it was killed is lost to the window.
//!
//! What may be spent is told as a sum since the window began, as is what was spent: a message that comes twice, late or
//! not at all changes nothing. A sidecar that keeps a budget for itself lends it to itself in the same way, from what it
//! has written down.

use std::collections::BTreeMap;

use super::super::MILLI;

/// What is left of a window is lent to its holders in so many parts each, but for what a call needs that waits.
const PARTS: u64 = 8;

/// One budget in one calendar window.
#[derive(Clone, Debug)]
pub struct Ledger {
    ends: i64,
    amount: u64,
    /// What counts as spent. This is what is to be kept before anybody is told of a loan.
    committed: u64,
    holders: BTreeMap<u64, Account>,
    /// Holders that want any.
    sharers: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Of the last report that was taken.
    sequence: u64,
    lent: u64,
    /// What of it was lent here. The rest was by an earlier run, and is not given back.
    own: u64,
    spent: u64,
    /// Of the last loan.
    number: u64,
    /// Whether it wants any.
    shares: bool,
}

/// What a holder says of a budget, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Grows with each report of a holder.
    pub sequence: u64,
    /// The end of the window of which it holds a loan.
    pub ends: i64,
    /// Of the loan that it holds.
    pub number: u64,
    /// What it may spend by this loan. Less than it was lent is given back.
    pub has: u64,
    pub spent: u64,
    /// How much it would like to have before it.
    pub wants: u64,
    /// How much of that calls wait for.
    pub needs: u64,
}

/// What a holder may spend of a budget since its window began, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// The end of the window, since 1970.
    pub ends: i64,
    pub may: u64,
    /// Grows with each loan of a window.
    pub number: u64,
    /// Nothing is left for anybody.
    pub is_last: bool,
}

impl Ledger {
    /// Goes on from what was kept.
    pub const fn new(ends: i64, amount: u64, committed: u64) -> Self {
        Self { ends, amount, committed, holders: BTreeMap::new(), sharers: 0 }
    }

    pub const fn ends(&self) -> i64 {
        self.ends
    }

    pub const fn amount(&self) -> u64 {
        self.amount
    }

    /// What is lent, spent or lost.
    pub const fn committed(&self) -> u64 {
        self.committed
    }

    /// What is known to be spent, or lost.
    pub fn spent(&self) -> u64 {
        let unspent =
            self.holders.values().map(|it| it.lent.saturating_sub(it.spent)).fold(0, u64::saturating_add);
        self.committed.saturating_sub(unspent)
    }

    pub fn holders(&self) -> usize {
        self.holders.len()
    }

    pub const fn change(&mut self, amount: u64) {
        self.amount = amount;
    }

    /// Takes what a holder says, and answers what it may spend. None to a report that another one overtook.
    pub fn report(&mut self, holder: u64, told: Told) -> Option<Loan> {
        let mut account = self.holders.get(&holder).copied().unwrap_or_default();
        if told.sequence <= account.sequence {
            return None;
        }
        account.sequence = told.sequence;
        if told.ends == self.ends {
            self.settle(holder, &mut account, told);
        }
        let shares = told.wants > 0 || told.needs > 0;
        self.sharers = self.sharers - u64::from(account.shares) + u64::from(shares);
        account.shares = shares;
        let left = self.amount.saturating_sub(self.committed);
        // Of whole calls, so that no part of one is set aside and then lost.
        let fair = left / PARTS / self.sharers.max(1) / MILLI * MILLI;
        let unspent = account.lent - account.spent;
        let more = told.needs.max(told.wants.min(fair)).saturating_sub(unspent).min(left);
        if more > 0 {
            account.lent = account.lent.saturating_add(more);
            account.own = account.own.saturating_add(more);
            account.number = account.number.saturating_add(1);
            self.committed = self.committed.saturating_add(more);
        }
        self.holders.insert(holder, account);
        let is_last = self.committed >= self.amount;
        Some(Loan { ends: self.ends, may: account.lent, number: account.number, is_last })
    }

    /// Takes over what a holder has and spent, of this window.
    fn settle(&mut self, holder: u64, account: &mut Account, told: Told) {
        account.spent = told.spent;
        if !self.holders.contains_key(&holder) {
            // It was lent by an earlier run, which counted it. No word that answers an earlier loan gives it back here.
            account.lent = told.has.max(told.spent);
            account.number = told.number.saturating_add(1);
            return;
        }
        if told.number == account.number && told.has < account.lent {
            let back = account.lent - told.has.max(told.spent).min(account.lent);
            let counted = back.min(account.own);
            account.own -= counted;
            account.lent -= back;
            self.committed = self.committed.saturating_sub(counted);
        }
        if told.spent > account.lent {
            // More than was ever lent: whoever did it, it is spent. Of one who lies, no more is believed than there is.
            let beyond = self.committed.saturating_add(told.spent - account.lent);
            self.committed = beyond.min(self.amount.max(self.committed));
            account.lent = told.spent;
        }
    }

    /// A holder is gone without a word: all that it was lent stays spent.
    pub fn forget(&mut self, holder: u64) {
        if self.holders.remove(&holder).is_some_and(|account| account.shares) {
            self.sharers -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: i64 = 86_400;

    fn asks(sequence: u64, loan: Option<Loan>, spent: u64, needs: u64) -> Told {
        let (number, has) = loan.map_or((0, 0), |loan| (loan.number, loan.may));
        let ends = loan.map_or(0, |loan| loan.ends);
        Told { sequence, ends, number, has, spent, wants: needs, needs }
    }

    #[test]
    fn what_is_lent_counts_as_spent_until_it_is_given_back() {
        let mut ledger = Ledger::new(ENDS, 100 * MILLI, 0);
        let loan = ledger.report(1, asks(1, None, 0, 12 * MILLI)).unwrap();
        assert_eq!((loan.may, ledger.committed(), ledger.spent()), (12 * MILLI, 12 * MILLI, 0));
        // The same report once more is no report, and another that wants no more gets no more.
        assert_eq!(ledger.report(1, asks(1, None, 0, 12 * MILLI)), None);
        assert_eq!(ledger.report(1, asks(2, None, 0, 12 * MILLI)), Some(loan));
        let less = Told { has: 5 * MILLI, ..asks(3, Some(loan), 5 * MILLI, 0) };
        assert_eq!(ledger.report(1, less).unwrap().may, 5 * MILLI);
        assert_eq!((ledger.committed(), ledger.spent()), (5 * MILLI, 5 * MILLI));
        ledger.report(2, asks(1, None, 0, MILLI));
        ledger.forget(2);
        assert_eq!((ledger.committed(), ledger.spent()), (6 * MILLI, 6 * MILLI));
    }

    #[test]
    fn what_is_given_back_while_a_loan_is_on_its_way_stays_lent() {
        let mut ledger = Ledger::new(ENDS, 100 * MILLI, 0);
        let first = ledger.report(1, asks(1, None, 0, MILLI)).unwrap();
        ledger.report(1, asks(2, Some(first), 0, 5 * MILLI)).unwrap();
        // Sent before the second loan arrived.
        let nothing = Told { has: 0, ..asks(3, Some(first), 0, 0) };
        assert_eq!(ledger.report(1, nothing).unwrap().may, 5 * MILLI);
        assert_eq!(ledger.committed(), 5 * MILLI);
    }

    #[test]
    fn a_call_gets_what_it_needs_while_it_is_there() {
        let mut ledger = Ledger::new(ENDS, 60 * MILLI, 0);
        let loan = ledger.report(1, asks(1, None, 0, 50 * MILLI)).unwrap();
        assert_eq!((loan.may, loan.is_last), (50 * MILLI, false));
        let loan = ledger.report(2, asks(1, None, 0, 50 * MILLI)).unwrap();
        assert_eq!((loan.may, loan.is_last), (10 * MILLI, true));
    }

    #[test]
    fn what_merely_would_be_nice_is_lent_in_parts_of_what_is_left() {
        let mut ledger = Ledger::new(ENDS, 80 * MILLI, 0);
        let wish = Told { needs: 0, ..asks(1, None, 0, 1000 * MILLI) };
        assert_eq!(ledger.report(1, wish).unwrap().may, 10 * MILLI);
        assert_eq!(ledger.report(2, wish).unwrap().may, 4 * MILLI);
    }

    #[test]
    fn a_ledger_that_begins_anew_goes_on_from_what_was_kept_and_gives_nothing_of_it_back() {
        let mut ledger = Ledger::new(ENDS, 10 * MILLI, 8 * MILLI);
        let held = Loan { ends: ENDS, may: 6 * MILLI, number: 4, is_last: false };
        let loan = ledger.report(1, asks(9, Some(held), 2 * MILLI, 0)).unwrap();
        assert_eq!((loan.may, loan.number), (6 * MILLI, 5));
        let nothing = Told { has: 2 * MILLI, ..asks(10, Some(loan), 2 * MILLI, 0) };
        ledger.report(1, nothing);
        assert_eq!(ledger.committed(), 8 * MILLI);
        // What a holder of another window says of that one is nothing here.
        let other = Told { ends: ENDS - 1, ..asks(1, Some(held), 6 * MILLI, 0) };
        assert_eq!(ledger.report(2, other).unwrap().may, 0);
        assert_eq!(ledger.committed(), 8 * MILLI);
    }

    #[test]
    fn no_number_that_a_holder_makes_up_is_too_large() {
        let mut ledger = Ledger::new(ENDS, 10 * MILLI, 0);
        let most = u64::MAX;
        let lies =
            Told { sequence: 1, ends: ENDS, number: most, has: most, spent: most, wants: most, needs: most };
        for sequence in [1, 2, most] {
            ledger.report(1, Told { sequence, ..lies }).unwrap();
            ledger.report(2, Told { sequence, has: 0, spent: 0, ..lies }).unwrap();
            assert_eq!(ledger.committed(), 10 * MILLI);
        }
    }

    #[test]
    fn what_was_spent_beyond_every_loan_is_spent() {
        let mut ledger = Ledger::new(ENDS, 10 * MILLI, 0);
        let loan = ledger.report(1, asks(1, None, 0, MILLI)).unwrap();
        ledger.report(1, asks(2, Some(loan), 7 * MILLI, 0));
        assert_eq!(ledger.committed(), 7 * MILLI);
        ledger.report(1, asks(3, Some(loan), u64::MAX, 0));
        assert_eq!(ledger.committed(), 10 * MILLI);
    }
}
