use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const TIMING: Timing = Timing { lease_nanos: 10 * SECOND, refresh_nanos: SECOND, drift_per_million: 0 };
const EPOCH: u64 = 7;

/// A lender of so many calls at once, or so many a second, that knows of nothing before.
fn slots(calls: u32) -> Allocator {
    Allocator::new(Terms::slots(calls), TIMING, EPOCH, false, 0)
}

fn wants(sequence: u64, calls: u64) -> Report {
    Report { sequence, epoch: EPOCH, wants: calls * MILLI, ..Report::default() }
}

fn runs(sequence: u64, calls: u64) -> Report {
    Report { in_use: calls * MILLI, ..wants(sequence, 10) }
}

/// Reports each second until a time, without a word about what was granted, while another reports and is honest.
fn press(lender: &mut Allocator, liar: Report, until: u64) -> u64 {
    let mut acknowledged = 0;
    let mut has = 0;
    for second in 1..=until {
        let now = second * SECOND;
        lender.report(1, Report { sequence: second, ..liar }, now);
        let grants = lender.report(2, Report { acknowledged, ..wants(second, 10) }, now);
        for (_, grant) in grants.into_iter().filter(|(to, _)| *to == 2) {
            (acknowledged, has) = (grant.number, grant.part.capacity / MILLI);
        }
    }
    has
}

#[test]
fn what_was_granted_ends_by_its_own_time_whatever_is_reported_meanwhile() {
    for terms in [Terms::slots(10), Terms::rate(10 * MILLI, 10 * MILLI, SECOND)] {
        let check = |seconds, expected| {
            let mut lender = Allocator::new(terms, TIMING, EPOCH, false, 0);
            lender.report(1, wants(0, 10), 0);
            lender.report(1, wants(1, 10), 0);
            let liar =
                Report { has: Part { capacity: u64::MAX, burst: u64::MAX }, ..wants(0, u64::MAX / MILLI) };
            assert_eq!(press(&mut lender, liar, seconds), expected, "{terms:?} after {seconds} s");
        };
        // Everything was lent, once more with the report of the first second.
        check(9, 0);
        check(12, 5);
        check(60, 5);
    }
}

#[test]
fn one_that_flaps_holds_no_more_than_what_it_was_granted_last_in_each_span() {
    let mut lender = slots(1000);
    lender.report(1, wants(1, 1000), 0);
    // More grants, each smaller than the one before, than are remembered one by one.
    let mut most = Vec::new();
    for sequence in 2..500 {
        let now = sequence * SECOND / 20;
        lender.report(1, wants(sequence, 1000), now);
        lender.change(Terms::slots(1000 - u32::try_from(sequence).unwrap()), now);
        most.push((now, lender.lent().capacity / MILLI));
    }
    for (now, lent) in most {
        // The report of a lease ago, and of a sixteenth more.
        let ago = now.saturating_sub(TIMING.counted_nanos() + TIMING.lease_nanos / 16);
        let before = 1000 - (ago * 20 / SECOND).saturating_sub(1);
        assert!(lent <= before, "at {now} ns {lent} of {before} are lent");
        assert!(lender.holders[&1].remembered() <= 64);
    }
}

#[test]
fn a_place_where_a_call_runs_is_lent_to_nobody_else_though_the_lease_is_over() {
    let mut lender = slots(10);
    let (_, grant) = lender.report(1, wants(1, 10), 0)[0];
    assert_eq!(grant.part.capacity, 10 * MILLI);
    // It is there, and lost its lease: answers do not reach it.
    for second in 1..60 {
        lender.report(1, runs(second + 1, 7), second * SECOND);
        lender.report(2, wants(second, 10), second * SECOND);
        assert!(lender.granted(2).unwrap().capacity <= 3 * MILLI, "after {second} s");
    }
    // Two ended.
    lender.report(1, runs(100, 5), 60 * SECOND);
    lender.report(2, wants(100, 10), 60 * SECOND);
    assert_eq!(lender.granted(2).unwrap().capacity, 5 * MILLI);
}

#[test]
fn calls_of_one_that_was_silent_and_comes_back_are_counted_up_to_what_it_was_lent() {
    let check = |said: u64, counted: u64| {
        let mut lender = slots(10);
        lender.report(2, wants(1, 6), 0);
        lender.report(1, wants(1, 4), 0);
        lender.report(2, Report { acknowledged: u64::MAX, ..wants(2, 6) }, SECOND);
        lender.report(1, wants(2, 4), SECOND);
        let lent = lender.granted(1).unwrap().capacity / MILLI;
        assert_eq!(lent, 4);
        for second in 3..20 {
            let report = Report { acknowledged: u64::MAX, ..wants(second, 10) };
            lender.report(2, report, second * SECOND);
        }
        assert_eq!(lender.granted(2).unwrap().capacity, 10 * MILLI);
        let report = Report { wants: 0, ..runs(30, said) };
        lender.report(1, report, 20 * SECOND);
        assert_eq!(lender.lent().capacity / MILLI, 10 + counted, "{said} are said to run");
    };
    check(0, 0);
    check(3, 3);
    check(9, 4);
    check(u64::MAX / MILLI, 4);
}

#[test]
fn nobody_is_believed_to_run_calls_in_places_that_others_have() {
    let mut lender = slots(10);
    lender.report(1, wants(1, 6), 0);
    lender.report(1, Report { acknowledged: 1, ..wants(2, 6) }, SECOND);
    let others = lender.granted(1).unwrap().capacity;
    lender.report(2, Report { in_use: u64::MAX, ..wants(1, 0) }, SECOND);
    assert!(lender.lent().capacity <= 10 * MILLI, "{:?}", lender.lent());
    assert_eq!(lender.granted(1).unwrap().capacity.max(others), others);
}

/// It goes by what holds without a lease meanwhile, which a lease of nothing would take away.
#[test]
fn a_lender_that_learns_leaves_whoever_holds_nothing_without_a_lease() {
    let terms = Terms::rate(100 * MILLI, 10 * MILLI, SECOND);
    let mut allocator = Allocator::new(terms, TIMING, 2, true, 0);
    let has = Part { capacity: 40 * MILLI, burst: 4 * MILLI };
    let told = |sequence, has| Report {
        sequence,
        epoch: 1,
        acknowledged: 7,
        has,
        wants: 50 * MILLI,
        ..Report::default()
    };
    assert_eq!(allocator.report(1, told(1, Part::NOTHING), SECOND), []);
    let goes_on = allocator.report(2, told(1, has), SECOND);
    assert_eq!(goes_on.iter().map(|(to, grant)| (*to, grant.part)).collect::<Vec<_>>(), [(2, has)]);
    let learned = TIMING.counted_nanos();
    let lent = allocator.report(1, told(2, Part::NOTHING), learned);
    assert!(lent.iter().any(|(to, grant)| *to == 1 && grant.part.capacity > 0), "{lent:?}");
}

/// Reports what each holder wants until nothing changes, and tells what each was lent.
fn settled(terms: Terms, wants: &[u64]) -> Vec<u64> {
    let mut allocator = Allocator::new(terms, TIMING, 1, false, 0);
    let mut granted = vec![0; wants.len()];
    for sequence in 1..10 {
        for (holder, wants) in (0..).zip(wants) {
            let report = Report {
                sequence,
                epoch: 1,
                acknowledged: granted[holder],
                has: Part::NOTHING,
                wants: wants * MILLI,
                ..Report::default()
            };
            for (to, grant) in allocator.report(holder as u64, report, sequence * SECOND) {
                granted[to as usize] = grant.number;
            }
        }
    }
    let lent = |holder| allocator.granted(holder).unwrap().capacity / MILLI;
    (0..wants.len() as u64).map(lent).collect()
}

#[test]
fn of_calls_at_once_none_is_left_over_where_more_are_wanted() {
    let check = |calls, wants: &[u64], expected: &[u64]| {
        assert_eq!(settled(Terms::slots(calls), wants), expected, "{calls} among {wants:?}");
    };
    check(6, &[9, 9], &[3, 3]);
    check(7, &[9, 9], &[4, 3]);
    check(8, &[9, 9, 9], &[3, 3, 2]);
    check(8, &[1, 9, 9], &[1, 4, 3]);
    check(3, &[9, 9, 9, 9], &[1, 1, 1, 0]);
}

proptest! {
    /// What is counted is what each holder may use by itself, of which nothing outlives its time: for holders are looked
    /// at only when something of theirs ends.
    #[test]
    fn nothing_is_counted_longer_than_it_lasts(
        steps in prop::collection::vec((0..40u64, 0..3_000_000_000u64, 0..20u64, 0..10u8), 1..200), slots: bool,
    ) {
        let terms = if slots { Terms::slots(50) } else { Terms::rate(50 * MILLI, 20 * MILLI, SECOND) };
        let mut lender = Allocator::new(terms, TIMING, EPOCH, slots, 0);
        let mut now = 0;
        for (sequence, (holder, gap, calls, what)) in (1..).zip(steps) {
            now += gap;
            let told = match what {
                0 => Report { release: true, ..wants(sequence, 0) },
                1 => Report { epoch: 0, has: Part { capacity: calls * MILLI, burst: MILLI }, ..runs(sequence, calls) },
                2..5 => Report { acknowledged: u64::MAX, ..wants(sequence, calls) },
                _ => wants(sequence, calls),
            };
            lender.report(holder, told, now);
            lender.advance(now);
            let mut sum = Part::NOTHING;
            for holding in lender.holders.values() {
                prop_assert!(now < holding.next_end());
                prop_assert_eq!(holding.may_use, holding.reckoned());
                sum = sum.and(holding.may_use);
            }
            prop_assert_eq!(sum, lender.lent());
            prop_assert_eq!(lender.ends.len(), lender.holders.len());
        }
    }
}

#[test]
fn with_many_holders_shares_are_reckoned_only_so_often_and_soon_are_fair() {
    const HOLDERS: u64 = 200;
    let mut lender = Allocator::new(Terms::rate(1000 * MILLI, 1000 * MILLI, SECOND), TIMING, EPOCH, false, 0);
    let mut reckoned = BTreeSet::new();
    let mut acknowledged = vec![0; HOLDERS as usize];
    for step in 0..4 * HOLDERS {
        let (holder, sequence, now) = (step % HOLDERS, 1 + step / HOLDERS, step * SECOND / HOLDERS);
        // Everyone wants twice what there is for each.
        let report = Report { acknowledged: acknowledged[holder as usize], ..wants(sequence, 10) };
        for (to, grant) in lender.report(holder, report, now) {
            acknowledged[to as usize] = grant.number;
        }
        reckoned.extend(lender.reckoned_at);
    }
    let seconds = 4;
    assert!(reckoned.len() as u64 <= HOLDERS_FEW as u64 + seconds * RECKONINGS + 1, "{}", reckoned.len());
    let lent: Vec<_> = (0..HOLDERS).map(|holder| lender.granted(holder).unwrap().capacity).collect();
    assert!(lent.iter().all(|lent| *lent == 5 * MILLI), "{lent:?}");
}
