//! One count of one limit, and what a call takes from several at once.

use std::fmt;
use std::time::Duration;

use super::MILLI;
use super::bucket::{Bucket, Flow};
use super::calendar::{Calendar, UnknownZone};
use super::lease::Loan;
use crate::resource::kinds::Amount;
use crate::resource::units::{Budget, Rate, Span};

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Of a clock that never goes back.
    pub nanos: u64,
    /// Of the calendar, since 1970.
    pub unix_secs: i64,
}

/// How much a limit allows.
#[derive(Clone, Debug)]
pub enum Gauge {
    Rate(Flow),
    Budget {
        amount_milli: u64,
        calendar: Calendar,
    },
    /// What is lent of a budget.
    Lent {
        amount_milli: u64,
        loan: Option<Loan>,
    },
    /// Calls at once.
    Slots(u32),
}

/// How much of it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meter {
    Bucket(Bucket),
    /// In the calendar window that ends so.
    Spent {
        ends: i64,
        milli: u64,
    },
    Held(u32),
}

/// When a refused call may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Again {
    /// As soon as another call ends.
    WhenOneEnds,
    /// As soon as more of a budget is lent, which is asked for.
    WhenLent,
    After(Duration),
    /// It weighs more than the limit ever allows.
    Never,
}

/// What became of one limit of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// Allowed, with four fifths of the limit or more taken.
    Near,
    Denied(Again),
}

/// What one call takes from one count, and what became of it.
#[derive(Debug)]
pub struct Taking<'m> {
    pub gauge: &'m Gauge,
    pub meter: &'m mut Meter,
    pub cost: Cost,
    /// Counted and never refused by.
    pub shadow: bool,
    pub verdict: Verdict,
}

/// What is taken: so many calls that together weigh so much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub milli: u64,
    /// Concurrency counts calls, whatever they weigh.
    pub calls: u32,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took from every limit.
    Taken,
    /// It took from none; of the limits that refuse, this one keeps it waiting longest.
    Denied { by: usize, again: Again },
}

/// Takes from every count or from none. A count in shadow that has no room is left as it is and holds nothing up.
pub fn take_all(takings: &mut [Taking<'_>], now: Now) -> Outcome {
    let mut denied: Option<(usize, Again)> = None;
    for (at, taking) in takings.iter_mut().enumerate() {
        taking.verdict = match taking.gauge.room(taking.meter, taking.cost, now) {
            Ok(()) => Verdict::Allowed,
            Err(again) => Verdict::Denied(again),
        };
        if let Verdict::Denied(again) = taking.verdict
            && !taking.shadow
            && denied.is_none_or(|(_, longest)| again > longest)
        {
            denied = Some((at, again));
        }
    }
    if let Some((by, again)) = denied {
        return Outcome::Denied { by, again };
    }
    for taking in takings.iter_mut().filter(|taking| taking.verdict == Verdict::Allowed) {
        taking.gauge.take(taking.meter, taking.cost, now);
        if taking.gauge.is_near(taking.meter, now) {
            taking.verdict = Verdict::Near;
        }
    }
    Outcome::Taken
}

impl Cost {
    pub const fn one(milli: u64) -> Self {
        Self { milli, calls: 1 }
    }
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { milli: self.milli.saturating_add(other.milli), calls: self.calls.saturating_add(other.calls) }
    }
}

impl Gauge {
    pub fn new(amount: &Amount) -> Result<Self, UnknownZone> {
        Ok(match amount {
            Amount::Rate { rate, burst } => {
                Self::Rate(Flow::new(*rate, burst.as_ref().map(|burst| burst.get().into())))
            }
            Amount::Budget { budget: Budget { amount, window }, zone } => Self::Budget {
                amount_milli: amount.saturating_mul(MILLI),
                calendar: Calendar::new(*window, zone.as_ref().map(|zone| zone.as_str()))?,
            },
            Amount::Concurrency(calls) => Self::Slots(calls.get()),
        })
    }

    /// A count of which nothing is taken.
    pub const fn fresh(&self) -> Meter {
        match self {
            Self::Rate(_) => Meter::Bucket(Bucket::fresh()),
            Self::Budget { .. } | Self::Lent { .. } => Meter::Spent { ends: i64::MIN, milli: 0 },
            Self::Slots(_) => Meter::Held(0),
        }
    }

    /// Whether so much may be taken now.
    pub fn room(&self, meter: &Meter, cost: Cost, now: Now) -> Result<(), Again> {
        match (self, meter) {
            (Self::Rate(flow), Meter::Bucket(bucket)) => bucket
                .room(*flow, cost.milli, now.nanos)
                .map_err(|wait| wait.map_or(Again::Never, Again::After)),
            (Self::Budget { amount_milli, calendar }, Meter::Spent { .. }) => {
                if cost.milli > *amount_milli {
                    return Err(Again::Never);
                }
                match self.used_milli(meter, now).saturating_add(cost.milli) <= *amount_milli {
                    true => Ok(()),
                    false => Err(Again::After(until_end(calendar, meter, now))),
                }
            }
            (Self::Lent { amount_milli, loan }, Meter::Spent { .. }) => {
                lent_room(*amount_milli, *loan, self.used_milli(meter, now), cost, now)
            }
            (Self::Slots(max), Meter::Held(held)) => match held.saturating_add(cost.calls) <= *max {
                true => Ok(()),
                false if cost.calls > *max => Err(Again::Never),
                false => Err(Again::WhenOneEnds),
            },
            // A count is of the kind that its limit is; were it not, nothing would be known, and nothing is allowed.
            (Self::Rate(_) | Self::Budget { .. } | Self::Lent { .. } | Self::Slots(_), _) => {
                Err(Again::Never)
            }
        }
    }

    fn take(&self, meter: &mut Meter, cost: Cost, now: Now) {
        match (self, meter) {
            (Self::Rate(flow), Meter::Bucket(bucket)) => bucket.take(*flow, cost.milli, now.nanos),
            (Self::Budget { calendar, .. }, Meter::Spent { ends, milli }) => {
                if now.unix_secs >= *ends {
                    (*ends, *milli) = (calendar.at(now.unix_secs).ends, 0);
                }
                *milli = milli.saturating_add(cost.milli);
            }
            (Self::Lent { loan, .. }, Meter::Spent { ends, milli }) => {
                let of = loan.map_or(i64::MIN, |loan| loan.ends);
                if *ends != of {
                    (*ends, *milli) = (of, 0);
                }
                *milli = milli.saturating_add(cost.milli);
            }
            (Self::Slots(_), Meter::Held(held)) => *held = held.saturating_add(cost.calls),
            (Self::Rate(_) | Self::Budget { .. } | Self::Lent { .. } | Self::Slots(_), _) => {}
        }
    }

    /// What drained until now is gone, whatever the limit says from now on.
    pub fn settle(&self, meter: &mut Meter, now: Now) {
        if let (Self::Rate(flow), Meter::Bucket(bucket)) = (self, meter) {
            bucket.settle(*flow, now.nanos);
        }
    }

    /// Undoes a taking, of a call that was not made after all. `window` is what [`Meter::window`] said when it took: what
    /// was spent of a window that is over is not given back to the next.
    pub fn give_back(&self, meter: &mut Meter, cost: Cost, window: Option<i64>, now: Now) {
        match (self, meter) {
            (Self::Rate(flow), Meter::Bucket(bucket)) => bucket.give_back(*flow, cost.milli, now.nanos),
            (_, Meter::Spent { ends, milli }) if window == Some(*ends) => {
                *milli = milli.saturating_sub(cost.milli);
            }
            (_, Meter::Held(held)) => *held = held.saturating_sub(cost.calls),
            (_, Meter::Spent { .. } | Meter::Bucket(_)) => {}
        }
    }

    /// What is taken now, in thousandths.
    pub fn used_milli(&self, meter: &Meter, now: Now) -> u64 {
        match (self, meter) {
            (Self::Rate(flow), Meter::Bucket(bucket)) => bucket.used_milli(*flow, now.nanos),
            // Of a window that is over, or of which nothing is lent, nothing is spent.
            (Self::Lent { loan, .. }, Meter::Spent { ends, .. })
                if loan.is_none_or(|loan| loan.ends != *ends) =>
            {
                0
            }
            (_, Meter::Spent { ends, milli }) if now.unix_secs < *ends => *milli,
            (_, Meter::Held(held)) => u64::from(*held) * MILLI,
            (_, Meter::Spent { .. } | Meter::Bucket(_)) => 0,
        }
    }

    /// How much may be taken at once, in thousandths.
    pub fn limit_milli(&self) -> u64 {
        match self {
            Self::Rate(flow) => flow.burst_milli,
            Self::Budget { amount_milli, .. } | Self::Lent { amount_milli, .. } => *amount_milli,
            Self::Slots(max) => u64::from(*max) * MILLI,
        }
    }

    fn is_near(&self, meter: &Meter, now: Now) -> bool {
        self.used_milli(meter, now).saturating_mul(5) >= self.limit_milli().saturating_mul(4)
    }

    /// Whether a fresh count would be the same, so that this one may be forgotten.
    pub fn is_idle(&self, meter: &Meter, now: Now) -> bool {
        self.used_milli(meter, now) == 0
    }
}

impl Meter {
    /// The end of the window that was taken from, of a budget.
    pub const fn window(&self) -> Option<i64> {
        match self {
            Self::Spent { ends, .. } => Some(*ends),
            Self::Bucket(_) | Self::Held(_) => None,
        }
    }
}

/// Whether so much may be spent of what is lent.
fn lent_room(amount_milli: u64, loan: Option<Loan>, used: u64, cost: Cost, now: Now) -> Result<(), Again> {
    if cost.milli > amount_milli {
        return Err(Again::Never);
    }
    let Some(loan) = loan.filter(|loan| now.unix_secs < loan.ends) else { return Err(Again::WhenLent) };
    let wanted = used.saturating_add(cost.milli);
    if wanted <= loan.may.min(amount_milli) {
        return Ok(());
    }
    let wait = Duration::from_secs(u64::try_from(loan.ends.saturating_sub(now.unix_secs)).unwrap_or(0));
    match loan.is_last || wanted > amount_milli {
        true => Err(Again::After(wait)),
        false => Err(Again::WhenLent),
    }
}

/// A window that began ends at its time, whatever the clock says meanwhile.
fn until_end(calendar: &Calendar, meter: &Meter, now: Now) -> Duration {
    let ends = match meter {
        Meter::Spent { ends, .. } if now.unix_secs < *ends => *ends,
        Meter::Spent { .. } | Meter::Bucket(_) | Meter::Held(_) => calendar.at(now.unix_secs).ends,
    };
    Duration::from_secs(u64::try_from(ends.saturating_sub(now.unix_secs)).unwrap_or(0))
}

impl fmt::Display for Gauge {
    /// The limit with its window, as it was written: `10/min`, `500/day`, `64 at once`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(flow) => {
                let window = Span::from_millis(flow.window_nanos / 1_000_000);
                Rate { amount: flow.amount_milli / MILLI, window }.fmt(f)
            }
            Self::Budget { amount_milli, calendar } => {
                Budget { amount: amount_milli / MILLI, window: calendar.window }.fmt(f)
            }
            Self::Lent { amount_milli, .. } => write!(f, "{} in all", amount_milli / MILLI),
            Self::Slots(max) => write!(f, "{max} at once"),
        }
    }
}
