//! Who holds the lease, as one candidate sees it. Pure: moments are since this process began.

use std::time::Duration;

use super::Timing;

/// Longest that is waited beyond a wish, in hundredths of it, so that candidates do not all come at once.
const JITTER_PERCENT: u32 = 20;

/// What a lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Another with every write.
    pub(super) version: String,
    pub(super) holder: Option<String>,
    pub(super) transitions: i32,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Wait,
    /// There is no lease.
    Make,
    /// Write it with oneself as the holder: for the first time, or again.
    Take {
        transitions: i32,
    },
}

/// How one candidate stands.
#[derive(Debug)]
pub(super) struct Seat {
    me: String,
    timing: Timing,
    /// What was seen last, and when it first was.
    seen: Option<(Record, Duration)>,
    /// When the lease of another was first seen as it was when it was deleted.
    gone: Option<Duration>,
    /// Until when this one leads: counted from before its last write was asked for.
    until: Option<Duration>,
    replaced: bool,
    /// How much longer it waits before it takes the place of another: what it has may be less than others have.
    hesitates: Duration,
}

impl Seat {
    pub(super) fn new(me: String, timing: Timing) -> Self {
        Self { me, timing, seen: None, gone: None, until: None, replaced: false, hesitates: Duration::ZERO }
    }

    pub(super) fn me(&self) -> &str {
        &self.me
    }

    /// Waits so much longer than others before it takes a place.
    pub(super) const fn hesitate(&mut self, hesitates: Duration) {
        self.hesitates = hesitates;
    }

    /// The lease was read.
    pub(super) fn saw(&mut self, record: Option<Record>, now: Duration) {
        let Some(record) = record else {
            // Whose lease was deleted still leads until its time is over.
            let counts = |(seen, since): &(Record, Duration)| {
                seen.holder.as_deref().is_some_and(|it| it != self.me) && now < *since + self.timing.lease
            };
            let gone = self.seen.take().filter(counts).map(|(_, since)| since);
            self.gone = gone.or(self.gone);
            return;
        };
        let other = record.holder.as_deref().is_some_and(|holder| holder != self.me);
        // Whoever led once has a store that says so. A free lease is no other's.
        if self.until.is_some() && other {
            self.replaced = true;
        }
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.seen = Some((record, now));
        }
    }

    /// What is to be done, after a look.
    pub(super) fn next(&self, now: Duration) -> Move {
        if self.replaced {
            return Move::Wait;
        }
        match &self.seen {
            None if self.gone.is_some_and(|since| now < since + self.timing.lease) => Move::Wait,
            None => Move::Make,
            Some((record, since)) => match record.holder.as_deref() {
                Some(holder) if holder == self.me => Move::Take { transitions: record.transitions },
                // Its holder gave no sign of life for a whole lease, as counted here.
                Some(_) if now < *since + self.timing.lease + self.hesitates => Move::Wait,
                None if now < *since + self.hesitates => Move::Wait,
                Some(_) | None => Move::Take { transitions: record.transitions.saturating_add(1) },
            },
        }
    }

    /// A write was done that was asked for at `asked`: until then others may have counted from before.
    pub(super) fn wrote(&mut self, record: Record, asked: Duration) {
        self.seen = Some((record, asked));
        self.until = Some(asked + self.timing.renew_within);
    }

    pub(super) fn leads(&self, now: Duration) -> bool {
        !self.replaced && self.until.is_some_and(|until| now < until)
    }

    /// When this one leads no more unless it renews; none if it does not lead.
    pub(super) fn lapses_at(&self) -> Option<Duration> {
        self.until.filter(|_| !self.replaced)
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.replaced
    }

    pub(super) fn holder(&self) -> &str {
        self.seen.as_ref().and_then(|(record, _)| record.holder.as_deref()).unwrap_or_default()
    }

    /// The transitions of the lease, if this one holds it.
    pub(super) fn held(&self, now: Duration) -> Option<i32> {
        self.seen.as_ref().filter(|_| self.leads(now)).map(|(record, _)| record.transitions)
    }

    /// When to look next: soon, spread a little, and right at the end of another's lease.
    pub(super) fn look_at(&self, now: Duration) -> Duration {
        let spread = u32::from(self.me.bytes().fold(0_u8, u8::wrapping_add)) % (JITTER_PERCENT + 1);
        let regular = now + self.timing.every + self.timing.every * spread / 100;
        let ends = self.seen.as_ref().map(|(_, since)| *since + self.timing.lease);
        match ends {
            Some(ends) if !self.leads(now) && ends > now => regular.min(ends),
            _ => regular,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        lease: Duration::from_secs(15),
        renew_within: Duration::from_secs(10),
        every: Duration::from_secs(2),
    };

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn record(version: u32, holder: &str) -> Record {
        let holder = Some(holder.to_owned()).filter(|holder| !holder.is_empty());
        Record { version: version.to_string(), holder, transitions: 3 }
    }

    fn seat() -> Seat {
        Seat::new("a".to_owned(), TIMING)
    }

    fn leading() -> Seat {
        let mut seat = seat();
        seat.saw(None, at(1));
        assert_eq!(seat.next(at(1)), Move::Make);
        seat.wrote(record(1, "a"), at(1));
        seat
    }

    #[test]
    fn a_lease_that_nobody_holds_is_taken_at_once() {
        let seat = leading();
        assert!(seat.leads(at(1)));
        let mut next = self::seat();
        next.saw(Some(record(5, "")), at(1));
        assert_eq!(next.next(at(1)), Move::Take { transitions: 4 });
        assert!(!next.leads(at(1)), "to be allowed to write is not to have written");
    }

    #[test]
    fn another_is_left_alone_so_long_as_it_gives_signs_of_life() {
        let mut seat = seat();
        for second in (0..100).step_by(14) {
            seat.saw(Some(record(second, "b")), at(u64::from(second)));
            assert_eq!(seat.next(at(u64::from(second) + 14)), Move::Wait);
        }
    }

    #[test]
    fn a_lease_is_over_a_whole_lease_after_it_was_first_seen_as_it_is() {
        let mut seat = seat();
        seat.saw(Some(record(1, "b")), at(20));
        seat.saw(Some(record(1, "b")), at(34));
        assert_eq!(seat.next(at(34)), Move::Wait);
        assert_eq!(seat.look_at(at(34)), at(35), "looks again right then");
        assert_eq!(seat.next(at(35)), Move::Take { transitions: 4 });
        seat.saw(Some(record(2, "b")), at(35));
        assert_eq!(seat.next(at(35)), Move::Wait, "it renewed in the last moment");
    }

    #[test]
    fn whoever_cannot_renew_leads_no_more_before_another_may() {
        let mut seat = leading();
        let mut other = Seat::new("b".to_owned(), TIMING);
        // Seen as early as could be: while it was being written.
        other.saw(Some(record(1, "a")), at(1));
        for second in 1..40 {
            let takes = other.next(at(second)) != Move::Wait;
            assert!(!(seat.leads(at(second)) && takes), "both at {second}");
        }
        assert_eq!((seat.leads(at(10)), seat.leads(at(11))), (true, false));
        assert_eq!(seat.lapses_at(), Some(at(11)));
        // Nobody took it: it goes on.
        seat.saw(Some(record(1, "a")), at(30));
        assert_eq!(seat.next(at(30)), Move::Take { transitions: 3 });
        seat.wrote(record(2, "a"), at(30));
        assert!(seat.leads(at(39)));
    }

    #[test]
    fn a_write_counts_from_when_it_was_asked_for() {
        let mut seat = leading();
        seat.saw(Some(record(1, "a")), at(5));
        // Answered much later.
        seat.wrote(record(2, "a"), at(5));
        assert_eq!((seat.leads(at(14)), seat.leads(at(15))), (true, false));
    }

    #[test]
    fn whoever_led_and_sees_another_never_leads_again() {
        let mut seat = leading();
        seat.saw(Some(record(7, "b")), at(5));
        assert!(seat.is_replaced() && !seat.leads(at(5)));
        assert_eq!(seat.lapses_at(), None);
        seat.saw(Some(record(8, "")), at(60));
        assert_eq!(seat.next(at(60)), Move::Wait);
    }

    #[test]
    fn who_never_led_may_see_many_others() {
        let mut seat = seat();
        seat.saw(Some(record(1, "b")), at(1));
        seat.saw(Some(record(2, "c")), at(2));
        assert!(!seat.is_replaced());
        seat.saw(Some(record(3, "")), at(3));
        assert_eq!(seat.next(at(3)), Move::Take { transitions: 4 });
    }

    #[test]
    fn a_lease_that_somebody_deleted_is_made_anew_by_its_holder() {
        let mut seat = leading();
        seat.saw(None, at(4));
        assert_eq!(seat.next(at(4)), Move::Make);
        assert!(seat.leads(at(4)), "until its time is over");
        assert_eq!(seat.held(at(4)), None);
    }

    #[test]
    fn a_lease_that_somebody_deleted_is_made_by_another_only_once_its_holder_leads_no_more() {
        let mut seat = seat();
        seat.saw(Some(record(1, "b")), at(4));
        seat.saw(None, at(5));
        seat.saw(None, at(18));
        assert_eq!(seat.next(at(18)), Move::Wait);
        assert_eq!(seat.next(at(19)), Move::Make);
    }
}
