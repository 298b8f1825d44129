//! What one store tells another so that it becomes its copy, and stays it.
//!
//! A store that follows takes [`Piece`]s and nothing else; one that leads takes everything else and no pieces. Whenever a
//! store begins to lead, that is a new [`Epoch`] of it, and by its epochs a copy is known to be an earlier state of a
//! leader, from which it can go on, or to have diverged: then it is given up. Two stores are never merged.
//!
//! Not here: how pieces travel (`replica`).

use super::audit;
use super::types::{Count, Entry, Event, Head, Key, LeaseId, Revision};

/// Most epochs that are remembered. A copy from before them begins anew.
pub const EPOCHS_MAX: usize = 64;

/// A stretch of a store's life with one leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Drawn at random.
    pub name: u64,
    /// The last revision of the epochs before.
    pub after: Revision,
    /// The last audit record of the epochs before.
    pub audited: u64,
}

/// How far a store is, and how it came there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The oldest first. None of a store that never led in a cluster and is no copy.
    pub epochs: Vec<Epoch>,
    pub head: Head,
    /// The last audit record that was given a number.
    pub audited: u64,
    /// The last lease that was given a number.
    pub leased: u64,
}

/// How a copy is to be brought to where its leader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It has nothing yet.
    Whole,
    /// It is an earlier state of the leader.
    GoOn,
    /// It has what the leader has not, or lacks what the leader has forgotten: it is given up.
    BeginAnew,
}

impl Position {
    /// Whether nothing was ever written.
    pub fn is_new(&self) -> bool {
        self.epochs.is_empty()
            && self.head.revision == Revision::ZERO
            && self.head.oldest <= Revision(1)
            && self.audited == 0
            && self.leased == 0
    }

    /// How a copy that is at `copy` gets to where this leader is.
    pub fn course_of(&self, copy: &Self) -> Course {
        if copy.is_new() {
            return Course::Whole;
        }
        let found = copy.epochs.last().and_then(|last| self.epochs.iter().position(|it| it == last));
        let Some(at) = found else { return Course::BeginAnew };
        // What the leader's history has in common with one that stayed in that epoch.
        let (revision, audited) = match self.epochs.get(at + 1) {
            Some(next) => (next.after, next.audited),
            None => (self.head.revision, self.audited),
        };
        let is_earlier = copy.head.revision <= revision && copy.audited <= audited;
        match is_earlier && copy.head.revision.next() >= self.head.oldest {
            true => Course::GoOn,
            false => Course::BeginAnew,
        }
    }
}

/// What a copy takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Entries of the state just before the oldest revision that the leader still has, in any number of pieces. Only a
    /// copy without revisions takes them.
    Base(Vec<Entry>),
    /// The epochs of the leader. From then on the copy is a state that the leader once was in.
    Epochs(Vec<Epoch>),
    /// The revisions that come next.
    Events(Vec<Event>),
    /// Older revisions are forgotten, as by [`super::Store::compact`].
    Oldest(Revision),
    /// The sums that there are after one name and up to another, or the end; others in between are gone.
    AllCounts { after: Option<Key>, up_to: Option<Key>, counts: Vec<Count> },
    /// Sums as they are now.
    Counts(Vec<Count>),
    /// Audit records that come next. Those that are known already are passed over.
    Audit(Vec<audit::Entry>),
    /// All leases that run, with the milliseconds that they run for, and the last number that was given to one.
    AllLeases { running: Vec<(LeaseId, u64)>, last: u64 },
    /// Leases that began, and leases that ended.
    Leases { began: Vec<(LeaseId, u64)>, ended: Vec<LeaseId> },
}

/// What was written that is no revision. Revisions are watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// 1, 2, 3, … since the store was opened.
    pub number: u64,
    pub counts: Vec<Count>,
    pub began: Vec<(LeaseId, u64)>,
    pub ended: Vec<LeaseId>,
    /// The oldest revision that is left, if others were forgotten.
    pub oldest: Option<Revision>,
    /// Whether audit records were appended.
    pub audited: bool,
}

impl Beside {
    pub(super) fn is_nothing(&self) -> bool {
        self.counts.is_empty()
            && self.began.is_empty()
            && self.ended.is_empty()
            && self.oldest.is_none()
            && !self.audited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epochs: &[(u64, u64, u64)], oldest: u64, revision: u64, audited: u64) -> Position {
        let epochs =
            epochs.iter().map(|&(name, after, audited)| Epoch { name, after: Revision(after), audited });
        let head = Head { revision: Revision(revision), oldest: Revision(oldest) };
        Position { epochs: epochs.collect(), head, audited, leased: 0 }
    }

    #[test]
    fn a_copy_goes_on_only_from_a_state_that_the_leader_was_in() {
        let leader = at(&[(7, 0, 0), (8, 10, 3), (9, 20, 5)], 4, 30, 9);
        let check = |copy: &Position, expected| assert_eq!(leader.course_of(copy), expected, "{copy:?}");
        check(&at(&[], 1, 0, 0), Course::Whole);
        check(&at(&[(7, 0, 0)], 1, 10, 3), Course::GoOn);
        check(&at(&[(7, 0, 0), (8, 10, 3)], 1, 15, 4), Course::GoOn);
        check(&at(&[(7, 0, 0), (8, 10, 3), (9, 20, 5)], 4, 30, 9), Course::GoOn);
        check(&at(&[(7, 0, 0)], 1, 3, 0), Course::GoOn);
        // It was told what its successor never heard of.
        check(&at(&[(7, 0, 0)], 1, 11, 3), Course::BeginAnew);
        check(&at(&[(7, 0, 0)], 1, 10, 4), Course::BeginAnew);
        check(&at(&[(7, 0, 0), (8, 10, 3), (9, 20, 5)], 4, 31, 9), Course::BeginAnew);
        // It led beside the leader.
        check(&at(&[(7, 0, 0), (6, 10, 3)], 1, 12, 3), Course::BeginAnew);
        // What it lacks is forgotten.
        check(&at(&[(7, 0, 0)], 1, 2, 0), Course::BeginAnew);
        // It was cut off while its base was sent, or led before there were epochs.
        check(&at(&[], 1, 5, 0), Course::BeginAnew);
        check(&at(&[], 1, 0, 2), Course::BeginAnew);
    }
}
