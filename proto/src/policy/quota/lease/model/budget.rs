//! One budget over several windows: sidecars that are killed, a control plane that ends and begins anew with what it
//! kept, messages that are late, lost, doubled and out of order, an amount that changes.

use std::collections::BTreeMap;

use super::super::super::MILLI;
use super::super::super::meter::{Again, Cost, Gauge, Meter, Now, Outcome, Taking, Verdict, take_all};
use super::super::{Ledger, Loan, Purse, Told};
use super::chance::Chance;

const WINDOW_SECS: i64 = 60;
/// Steps of a second.
const STEPS: u64 = 20;
const WINDOWS: i64 = 3;

#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) holders: u64,
    pub(super) amount: u64,
    pub(super) trouble: bool,
    /// Calls of one holder in a thousand steps.
    pub(super) calls: u64,
}

#[derive(Debug)]
struct Holder {
    id: u64,
    purse: Purse,
    meter: Meter,
    sequence: u64,
}

#[derive(Debug)]
enum Message {
    Told(u64, Told),
    Lent { to: u64, epoch: u64, loan: Loan },
}

#[derive(Debug)]
pub(super) struct World {
    setup: Setup,
    chance: Chance,
    step: u64,
    amount: u64,
    /// The most that the budget ever was in a window, by its end.
    most: BTreeMap<i64, u64>,
    spent: BTreeMap<i64, u64>,
    holders: Vec<Holder>,
    ids: u64,
    ledger: Ledger,
    epoch: u64,
    /// What was written down: the window's end, and what counts as spent of it.
    kept: (i64, u64),
    flying: Vec<(u64, Message)>,
}

impl World {
    pub(super) fn new(setup: Setup, chance: Chance) -> Self {
        let amount = setup.amount * MILLI;
        let mut world = Self {
            setup,
            chance,
            step: 0,
            amount,
            most: BTreeMap::new(),
            spent: BTreeMap::new(),
            holders: Vec::new(),
            ids: 0,
            ledger: Ledger::new(WINDOW_SECS, amount, 0),
            epoch: 1,
            kept: (WINDOW_SECS, 0),
            flying: Vec::new(),
        };
        for _ in 0..setup.holders {
            let holder = world.born();
            world.holders.push(holder);
        }
        world
    }

    fn born(&mut self) -> Holder {
        self.ids += 1;
        let purse = Purse::new(self.amount);
        let meter = purse.gauge().fresh();
        Holder { id: self.ids, purse, meter, sequence: 0 }
    }

    fn now(&self) -> Now {
        Now { nanos: self.step * 1_000_000_000 / STEPS, unix_secs: (self.step / STEPS) as i64 }
    }

    /// What was spent of the first window, of how much.
    pub(super) fn run(mut self) -> (u64, u64) {
        while self.now().unix_secs < WINDOWS * WINDOW_SECS {
            self.step += 1;
            let ends = (self.now().unix_secs / WINDOW_SECS + 1) * WINDOW_SECS;
            let most = self.most.entry(ends).or_default();
            *most = self.amount.max(*most);
            if self.ledger.ends() < ends {
                self.ledger = Ledger::new(ends, self.amount, 0);
            }
            for at in 0..self.holders.len() {
                if self.chance.one_in(self.setup.calls) {
                    self.call(at);
                }
                if self.step.is_multiple_of(STEPS) {
                    self.report(at);
                }
            }
            self.deliver();
            if self.setup.trouble {
                self.trouble();
            }
            for (ends, spent) in &self.spent {
                assert!(*spent <= self.most[ends], "{spent} of {} was spent until {ends}", self.most[ends]);
            }
        }
        (self.spent.get(&WINDOW_SECS).copied().unwrap_or(0), self.most[&WINDOW_SECS])
    }

    fn call(&mut self, at: usize) {
        let milli = if self.setup.trouble { 1 + self.chance.up_to(5 * MILLI) } else { MILLI };
        let now = self.now();
        let holder = &mut self.holders[at];
        let gauge: Gauge = holder.purse.gauge();
        let cost = Cost::one(milli);
        let taking = Taking {
            gauge: &gauge,
            meter: &mut holder.meter,
            cost,
            shadow: false,
            verdict: Verdict::Allowed,
        };
        let outcome = take_all(&mut [taking], now);
        let urgent = match outcome {
            Outcome::Taken => {
                let ends = holder.meter.window().expect("a budget has windows");
                *self.spent.entry(ends).or_default() += milli;
                holder.purse.note_spent(milli);
                false
            }
            Outcome::Denied { again: Again::WhenLent | Again::After(_), .. } => {
                holder.purse.note_missing(milli)
            }
            Outcome::Denied { .. } => false,
        };
        if urgent {
            self.report(at);
        }
        // A call that was counted and then not made.
        if outcome == Outcome::Taken && self.chance.one_in(50) {
            let holder = &mut self.holders[at];
            let window = holder.meter.window();
            holder.purse.gauge().give_back(&mut holder.meter, cost, window, now);
            *self.spent.entry(window.expect("a budget has windows")).or_default() -= milli;
        }
    }

    fn report(&mut self, at: usize) {
        let holder = &mut self.holders[at];
        holder.sequence += 1;
        let (id, told) = (holder.id, holder.purse.report(holder.sequence, &holder.meter));
        self.send(Message::Told(id, told), || Message::Told(id, told));
    }

    fn send(&mut self, message: Message, again: impl Fn() -> Message) {
        let late = if self.setup.trouble { 3 * STEPS } else { 3 };
        if self.setup.trouble && self.chance.one_in(100) {
            return;
        }
        if self.setup.trouble && self.chance.one_in(100) {
            let at = self.step + 1 + self.chance.up_to(late);
            self.flying.push((at, again()));
        }
        let at = self.step + 1 + self.chance.up_to(late);
        self.flying.push((at, message));
    }

    fn deliver(&mut self) {
        let step = self.step;
        let (due, flying) = std::mem::take(&mut self.flying).into_iter().partition(|(at, _)| *at <= step);
        self.flying = flying;
        for (_, message) in due {
            match message {
                Message::Told(from, told) => {
                    let Some(loan) = self.ledger.report(from, told) else { continue };
                    // Before anybody is told.
                    self.kept = (self.ledger.ends(), self.ledger.committed());
                    let epoch = self.epoch;
                    let lent = move || Message::Lent { to: from, epoch, loan };
                    self.send(lent(), lent);
                }
                Message::Lent { to, epoch, loan } => {
                    if let Some(holder) = self.holders.iter_mut().find(|holder| holder.id == to) {
                        holder.purse.grant(epoch, loan);
                    }
                }
            }
        }
    }

    fn trouble(&mut self) {
        if self.chance.one_in(3) {
            let at = self.chance.up_to(self.setup.holders) as usize;
            self.holders[at] = self.born();
        }
        if self.chance.one_in(3) {
            // Its connections end with it, and what was on its way in them.
            self.epoch += 1;
            self.flying.clear();
            let (ends, committed) = self.kept;
            let committed = if ends == self.ledger.ends() { committed } else { 0 };
            self.ledger = Ledger::new(self.ledger.ends(), self.amount, committed);
        }
        if self.chance.one_in(2) {
            let holder = self.chance.up_to(self.ids + 1);
            self.ledger.forget(holder);
        }
        if self.chance.one_in(2) {
            self.amount = (self.setup.amount / 2 + self.chance.up_to(self.setup.amount)) * MILLI;
            self.ledger.change(self.amount);
            for holder in &mut self.holders {
                holder.purse.change(self.amount);
            }
        }
    }
}
