//! What one holder may use of a limit, as its lender counts it.

use super::Part;

/// Grants that are remembered one by one; of more, those that end at nearly the same time are counted together.
const GRANTS_MAX: usize = 32;
/// Into so many spans a lease is divided for that: by so much a grant that is counted with a later one may last longer.
const SPANS: u64 = 16;

#[derive(Clone, Debug)]
pub(super) struct Holding {
    pub(super) wants: u64,
    pub(super) sequence: u64,
    /// Grants that may be in force, the oldest first.
    perhaps: Vec<Perhaps>,
    /// Until when the last grant lasts that answered something.
    answered_until: u64,
    /// Calls that run, whatever is lent.
    in_use: u64,
    /// The most of them that it was ever lent: so many may run.
    most: u64,
    pub(super) may_use: Part,
    /// When it is forgotten, if it says nothing more.
    pub(super) expires: u64,
    /// When its lender looks at it without being told to.
    pub(super) watched: Option<u64>,
    /// Whether it has a share now, where there are more holders than whole calls.
    pub(super) chosen: bool,
    /// Whether it has one call above the level.
    pub(super) has_more: bool,
}

#[derive(Clone, Copy, Debug)]
struct Perhaps {
    number: u64,
    part: Part,
    /// From then on it is over, whatever its holder says.
    until: u64,
}

impl Holding {
    /// `most` calls may run of those that it was lent before it was forgotten.
    pub(super) const fn new(chosen: bool, most: u64) -> Self {
        Self {
            wants: 0,
            sequence: 0,
            perhaps: Vec::new(),
            answered_until: 0,
            in_use: 0,
            most,
            may_use: Part::NOTHING,
            expires: 0,
            watched: None,
            chosen,
            has_more: false,
        }
    }

    /// The last grant.
    pub(super) fn granted(&self) -> Part {
        self.perhaps.last().map_or(Part::NOTHING, |last| last.part)
    }

    pub(super) const fn answered_until(&self) -> u64 {
        self.answered_until
    }

    /// The most calls that may run by what it was lent.
    pub(super) const fn most(&self) -> u64 {
        self.most
    }

    pub(super) fn reckoned(&self) -> Part {
        let running = Part { capacity: self.in_use, burst: 0 };
        self.perhaps.iter().fold(running, |most, perhaps| most.most(perhaps.part))
    }

    /// Is granted a part: as an answer, for a lease from now on; else for as long as it has one.
    pub(super) fn grant(&mut self, number: u64, part: Part, lasts_until: Option<u64>, lease_nanos: u64) {
        self.answered_until = lasts_until.unwrap_or(self.answered_until);
        self.push(Perhaps { number, part, until: self.answered_until }, lease_nanos);
    }

    /// Says what an earlier run lent it, which is over by then; and that calls run.
    pub(super) fn claim(&mut self, has: Part, running: u64, until: u64, lease_nanos: u64) {
        let number = self.perhaps.last().map_or(0, |last| last.number);
        self.most = self.most.max(running);
        self.push(Perhaps { number, part: has, until }, lease_nanos);
    }

    /// Says how many calls run: by what it was lent, or in places that nobody else has.
    pub(super) fn run(&mut self, said: u64, free: u64) {
        self.in_use = said.min(self.most.max(free));
        self.most = self.most.max(self.in_use);
    }

    /// Grants before the one in force are so no more.
    pub(super) fn acknowledge(&mut self, number: u64) {
        let last = self.perhaps.len().saturating_sub(1);
        let older = self.perhaps.iter().take(last).take_while(|perhaps| perhaps.number < number).count();
        self.perhaps.drain(..older);
    }

    /// Grants whose time is over are in force no more.
    pub(super) fn lapse(&mut self, now: u64) {
        self.perhaps.retain(|perhaps| now < perhaps.until);
    }

    /// When the next of its grants is over, or it is forgotten, if it says nothing more.
    pub(super) fn next_end(&self) -> u64 {
        self.perhaps.iter().map(|perhaps| perhaps.until).fold(self.expires, u64::min)
    }

    fn push(&mut self, last: Perhaps, lease_nanos: u64) {
        self.most = self.most.max(last.part.capacity);
        // Of what lasts no longer than this and is no more, nothing needs to be remembered.
        self.perhaps.retain(|it| it.until > last.until || it.part.most(last.part) != last.part);
        if self.perhaps.len() >= GRANTS_MAX {
            let span = (lease_nanos / SPANS).max(1);
            self.perhaps.dedup_by(|later, it| {
                let together = later.until / span == it.until / span;
                if together {
                    let (number, until) = (later.number.max(it.number), later.until.max(it.until));
                    *it = Perhaps { number, part: it.part.most(later.part), until };
                }
                together
            });
        }
        self.perhaps.push(last);
    }
}

#[cfg(test)]
impl Holding {
    pub(super) fn remembered(&self) -> usize {
        self.perhaps.len()
    }
}
