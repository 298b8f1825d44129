//! What a sidecar holds of one budget: how much it may spend, until when, and how much more it asks for.
//!
//! How much is spent is counted where every call is; see [`Gauge::Lent`].

use super::super::meter::{Gauge, Meter};
use super::ledger::{Loan, Told};

/// Reports without a call after which what is not spent is given back.
const IDLE_REPORTS: u32 = 3;

/// The borrower of one budget.
#[derive(Clone, Debug)]
pub struct Purse {
    amount: u64,
    loan: Option<Loan>,
    /// Of the lender that lent it.
    epoch: u64,
    /// Spent since the last report.
    passed: u64,
    /// What calls found missing since the last report.
    needs: u64,
    /// What passed between two reports of late.
    flow: u64,
    idle: u32,
}

impl Purse {
    pub const fn new(amount: u64) -> Self {
        Self { amount, loan: None, epoch: 0, passed: 0, needs: 0, flow: 0, idle: 0 }
    }

    /// The budget is another from now on. What is lent stays, and never exceeds it.
    pub const fn change(&mut self, amount: u64) {
        self.amount = amount;
    }

    pub const fn gauge(&self) -> Gauge {
        Gauge::Lent { amount_milli: self.amount, loan: self.loan }
    }

    pub const fn loan(&self) -> Option<Loan> {
        self.loan
    }

    /// A call was counted.
    pub const fn note_spent(&mut self, milli: u64) {
        self.idle = 0;
        self.passed = self.passed.saturating_add(milli);
    }

    /// A call found too little. True if it is the first since the last report.
    pub const fn note_missing(&mut self, milli: u64) -> bool {
        self.idle = 0;
        let first = self.needs == 0;
        self.needs = self.needs.saturating_add(milli);
        first
    }

    /// Whether there is nothing to say: nothing is held, and nothing is asked for.
    pub fn is_idle(&self, meter: &Meter) -> bool {
        self.idle > IDLE_REPORTS && self.needs == 0 && self.unspent(meter) == 0
    }

    /// With the next report, all that is not spent is given back.
    pub const fn give_up(&mut self) {
        self.idle = IDLE_REPORTS;
    }

    fn spent(&self, meter: &Meter) -> u64 {
        match (self.loan, meter) {
            (Some(loan), Meter::Spent { ends, milli }) if *ends == loan.ends => *milli,
            (Some(_) | None, _) => 0,
        }
    }

    fn unspent(&self, meter: &Meter) -> u64 {
        self.loan.map_or(0, |loan| loan.may.saturating_sub(self.spent(meter)))
    }

    /// What there is to report. Where nobody called in a while, what is not spent is given back with it.
    pub fn report(&mut self, sequence: u64, meter: &Meter) -> Told {
        self.idle = self.idle.saturating_add(1);
        self.flow = self.passed.max(self.flow / 2);
        let spent = self.spent(meter);
        if self.idle > IDLE_REPORTS {
            self.flow = 0;
            if let Some(loan) = &mut self.loan {
                loan.may = loan.may.min(spent);
            }
        }
        let needs = self.needs.min(self.amount);
        let wants = self.flow.saturating_mul(2).max(needs);
        (self.passed, self.needs) = (0, 0);
        let (ends, number, has) =
            self.loan.map_or((i64::MIN, 0, 0), |loan| (loan.ends, loan.number, loan.may));
        Told { sequence, ends, number, has, spent, wants, needs }
    }

    /// Takes a loan of a lender. Old ones change nothing.
    pub const fn grant(&mut self, epoch: u64, loan: Loan) {
        let is_news = match self.loan {
            None => true,
            Some(held) if loan.ends == held.ends => epoch != self.epoch || loan.number >= held.number,
            Some(held) => loan.ends > held.ends,
        };
        if !is_news {
            return;
        }
        match &mut self.loan {
            // Only whether there is more to be had is new.
            Some(held) if loan.ends == held.ends && epoch == self.epoch && loan.number == held.number => {
                held.is_last = loan.is_last;
            }
            _ => self.loan = Some(loan),
        }
        self.epoch = epoch;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::MILLI;
    use super::*;

    const LOAN: Loan = Loan { ends: 86_400, may: 10 * MILLI, number: 1, is_last: false };

    const fn spent(milli: u64) -> Meter {
        Meter::Spent { ends: LOAN.ends, milli }
    }

    #[test]
    fn what_is_not_spent_is_given_back_when_nobody_calls() {
        let mut purse = Purse::new(100 * MILLI);
        purse.grant(1, LOAN);
        purse.note_spent(MILLI);
        let meter = spent(MILLI);
        let told: Vec<_> = (1..=5).map(|n| purse.report(n, &meter)).collect();
        let has: Vec<_> = told.iter().map(|told| told.has / MILLI).collect();
        assert_eq!(has, [10, 10, 10, 1, 1]);
        let wants: Vec<_> = told.iter().map(|told| told.wants).collect();
        assert_eq!(wants, [2000, 1000, 500, 0, 0]);
        assert!(purse.is_idle(&meter));
        // What it gave back is not had again by an answer to what it said before.
        purse.grant(1, LOAN);
        assert_eq!(purse.loan().unwrap().may, MILLI);
    }

    #[test]
    fn the_first_call_that_finds_too_little_is_told_at_once() {
        let mut purse = Purse::new(100 * MILLI);
        assert!(purse.note_missing(3 * MILLI));
        assert!(!purse.note_missing(4 * MILLI));
        assert_eq!(purse.report(1, &spent(0)).needs, 7 * MILLI);
        assert!(purse.note_missing(MILLI));
    }

    #[test]
    fn loans_of_earlier_windows_and_earlier_numbers_are_old() {
        let mut purse = Purse::new(100 * MILLI);
        purse.grant(1, LOAN);
        let check = |purse: &mut Purse, epoch, loan: Loan, taken| {
            purse.grant(epoch, loan);
            assert_eq!(purse.loan() == Some(loan), taken, "{loan:?}");
        };
        check(&mut purse, 1, Loan { number: 3, may: 20 * MILLI, ..LOAN }, true);
        check(&mut purse, 1, Loan { number: 2, may: 15 * MILLI, ..LOAN }, false);
        check(&mut purse, 2, Loan { number: 1, may: 12 * MILLI, ..LOAN }, true);
        check(&mut purse, 2, Loan { ends: LOAN.ends + 1, number: 1, may: 0, is_last: false }, true);
        check(&mut purse, 2, Loan { number: 9, ..LOAN }, false);
    }
}
