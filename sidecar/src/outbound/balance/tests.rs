use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use weft_proto::resource::kinds::Balancer as Policy;

use super::*;

const POLICIES: [Policy; 5] =
    [Policy::LeastRequest, Policy::PeakEwma, Policy::RoundRobin, Policy::Random, Policy::ConsistentHash];
const SECOND: Duration = Duration::from_secs(1);

fn members(weights: &[u32], now: Instant) -> Vec<Member> {
    let member = |(at, weight): (usize, &u32)| Member {
        load: Load::new(now),
        weight: *weight,
        hash: stable_hash(&format!("research/files-{at}")),
        local: false,
    };
    weights.iter().enumerate().map(member).collect()
}

fn balancer(policy: Policy, weights: &[u32], now: Instant) -> Balancer {
    Balancer::new(policy, Ejection::default(), members(weights, now), now)
}

fn eject(balancer: &Balancer, at: usize, now: Instant) -> bool {
    (0..balancer.ejection.failures).any(|_| balancer.failed(&balancer.members[at].load, now))
}

/// How often each is picked in so many picks, one after the other.
fn picks(balancer: &Balancer, times: usize, now: Instant) -> Vec<usize> {
    let mut random = StdRng::seed_from_u64(7);
    let mut counts = vec![0; balancer.members.len()];
    for _ in 0..times {
        counts[balancer.pick(None, &[], now, &mut random).unwrap()] += 1;
    }
    counts
}

#[test]
fn nothing_is_picked_from_nothing() {
    let now = Instant::now();
    for policy in POLICIES {
        let balancer = balancer(policy, &[], now);
        let mut random = StdRng::seed_from_u64(7);
        assert_eq!(balancer.pick(None, &[], now, &mut random), None);
        assert_eq!(balancer.pick(Some(1), &[], now, &mut random), None);
    }
}

#[test]
fn weights_are_respected() {
    let now = Instant::now();
    let weights = [1, 2, 5, 12];
    for policy in POLICIES {
        let counts = picks(&balancer(policy, &weights, now), 20_000, now);
        for (count, weight) in counts.iter().zip(weights) {
            let expected = f64::from(weight) * 1000.0;
            let off = (*count as f64 - expected).abs() / expected;
            assert!(off < 0.1, "{policy:?}: {counts:?}");
        }
    }
}

#[test]
fn weights_are_respected_among_keys() {
    let now = Instant::now();
    let balancer = balancer(Policy::LeastRequest, &[1, 3], now);
    let mut random = StdRng::seed_from_u64(7);
    let key = |at: u32| Some(stable_hash(&at.to_string()));
    let first = (0..4000).filter(|at| balancer.pick(key(*at), &[], now, &mut random) == Some(0)).count();
    assert!((900..1100).contains(&first), "{first}");
}

#[test]
fn taking_turns_takes_exact_turns() {
    let now = Instant::now();
    assert_eq!(picks(&balancer(Policy::RoundRobin, &[1; 7], now), 70, now), [10; 7]);
    assert_eq!(picks(&balancer(Policy::RoundRobin, &[3, 1], now), 40, now), [30, 10]);
}

#[test]
fn the_less_loaded_of_two_is_picked() {
    let now = Instant::now();
    let balancer = balancer(Policy::LeastRequest, &[1, 1], now);
    let busy = balancer.members[0].load.begin();
    assert_eq!(picks(&balancer, 100, now), [0, 100]);
    drop(busy);
    assert_eq!(balancer.members[0].load.in_flight(), 0);
    assert!(picks(&balancer, 100, now)[0] > 25);
}

#[test]
fn load_is_measured_by_weight() {
    let now = Instant::now();
    let balancer = balancer(Policy::LeastRequest, &[10, 1], now);
    let _nine: Vec<_> = (0..9).map(|_| balancer.members[0].load.begin()).collect();
    let _one = balancer.members[1].load.begin();
    assert_eq!(picks(&balancer, 100, now), [100, 0]);
}

#[test]
fn requests_that_stay_are_spread_evenly() {
    let now = Instant::now();
    let balancer = balancer(Policy::LeastRequest, &[1; 16], now);
    let mut random = StdRng::seed_from_u64(7);
    let held: Vec<_> = (0..1600)
        .map(|_| balancer.members[balancer.pick(None, &[], now, &mut random).unwrap()].load.begin())
        .collect();
    let loads: Vec<_> = balancer.members.iter().map(|member| member.load.in_flight()).collect();
    assert!(loads.iter().all(|load| (96..=104).contains(load)), "{loads:?}");
    drop(held);
}

#[test]
fn a_slow_instance_is_avoided_and_not_starved() {
    let now = Instant::now();
    let balancer = balancer(Policy::LeastRequest, &[1, 1], now);
    balancer.members[0].load.answered(SECOND, now);
    balancer.members[1].load.answered(SECOND / 100, now);
    let counts = picks(&balancer, 1000, now);
    assert!((20..150).contains(&counts[0]), "{counts:?}");
    // What is long ago no longer counts.
    let later = now + 60 * SECOND;
    balancer.members[1].load.answered(SECOND / 100, later);
    assert!(picks(&balancer, 1000, later)[0] > 300);
}

#[test]
fn the_one_that_answers_sooner_is_picked_until_it_has_more_to_do() {
    let now = Instant::now();
    let balancer = balancer(Policy::PeakEwma, &[1, 1], now);
    balancer.members[0].load.answered(SECOND / 10, now);
    balancer.members[1].load.answered(SECOND / 100, now);
    assert_eq!(picks(&balancer, 100, now), [0, 100]);
    let busy: Vec<_> = (0..12).map(|_| balancer.members[1].load.begin()).collect();
    assert_eq!(picks(&balancer, 100, now), [100, 0]);
    drop(busy);
    // One peak counts at once, and is forgotten when nothing is heard for a while.
    balancer.members[1].load.answered(SECOND, now);
    assert_eq!(picks(&balancer, 100, now), [100, 0]);
    balancer.members[0].load.answered(SECOND / 10, now + 60 * SECOND);
    assert_eq!(picks(&balancer, 100, now + 60 * SECOND), [0, 100]);
}

#[test]
fn one_that_fails_at_once_does_not_look_fast() {
    let now = Instant::now();
    let balancer = balancer(Policy::PeakEwma, &[1, 1], now);
    balancer.members[0].load.answered(SECOND / 10, now);
    balancer.members[1].load.answered(SECOND / 1000, now);
    balancer.failed(&balancer.members[1].load, now);
    assert_eq!(picks(&balancer, 100, now), [100, 0]);
}

#[test]
fn a_new_instance_comes_to_its_share_by_and_by() {
    let now = Instant::now();
    for policy in [Policy::Random, Policy::RoundRobin, Policy::LeastRequest] {
        let mut members = members(&[1; 4], now);
        members[3].load = Load::new(now + 100 * SECOND);
        let balancer = Balancer::new(policy, Ejection::default(), members, now);
        let balancer = balancer.starting_slowly(Some(40 * SECOND));
        let share = |secs: u32| picks(&balancer, 4000, now + secs * SECOND)[3];
        for (secs, expected) in [(100, 100..180), (104, 100..180), (120, 480..680), (140, 900..1100)] {
            let picked = share(secs);
            assert!(expected.contains(&picked), "{policy:?}, {secs}: {picked}");
        }
    }
}

#[test]
fn where_all_are_new_all_get_their_share() {
    let now = Instant::now();
    let balancer = balancer(Policy::Random, &[1, 3], now).starting_slowly(Some(40 * SECOND));
    let counts = picks(&balancer, 4000, now);
    assert!((850..1150).contains(&counts[0]), "{counts:?}");
}

#[test]
fn latency_rises_at_once_and_falls_slowly() {
    let now = Instant::now();
    let load = Load::new(now);
    load.answered(SECOND / 100, now);
    load.answered(SECOND, now);
    assert_eq!(load.latency(now), 1.0);
    load.answered(SECOND / 100, now + SECOND);
    let known = load.latency(now + SECOND);
    assert!((0.7..1.0).contains(&known), "{known}");
}

#[test]
fn a_key_leads_to_the_same_instance_while_that_is_there() {
    let now = Instant::now();
    let all = members(&[1; 10], now);
    let of = |members: &[Member]| {
        Balancer::new(Policy::ConsistentHash, Ejection::default(), members.to_vec(), now)
    };
    let (before, after) = (of(&all), of(&all[1..]));
    let mut random = StdRng::seed_from_u64(7);
    let mut moved = 0;
    for key in (0..1000).map(|at| stable_hash(&format!("task-{at}"))) {
        let first = before.pick(Some(key), &[], now, &mut random).unwrap();
        assert_eq!(before.pick(Some(key), &[], now, &mut random), Some(first));
        let then = after.pick(Some(key), &[], now, &mut random).unwrap() + 1;
        assert!(first == 0 || first == then, "a key moved between instances that stayed");
        moved += usize::from(first == 0);
    }
    assert!((60..150).contains(&moved), "{moved}");
}

#[test]
fn hashes_are_the_same_in_every_process() {
    assert_eq!(stable_hash(""), 0xf52a_15e9_a9b5_e89b);
    assert_eq!(stable_hash("research/files-1"), stable_hash("research/files-1"));
    assert_ne!(stable_hash("research/files-1"), stable_hash("research/files-2"));
}

#[test]
fn the_own_zone_is_preferred_while_it_is_healthy() {
    let now = Instant::now();
    for policy in POLICIES {
        let mut members = members(&[1; 4], now);
        members[2].local = true;
        let ejection = Ejection { percent_max: 100, ..Ejection::default() };
        let balancer = Balancer::new(policy, ejection, members, now);
        assert_eq!(picks(&balancer, 50, now), [0, 0, 50, 0]);
        assert!(eject(&balancer, 2, now));
        assert_eq!(picks(&balancer, 50, now)[2], 0);
        let mut random = StdRng::seed_from_u64(7);
        let other = balancer.pick(None, &[2], now, &mut random).unwrap();
        assert_ne!(other, 2);
    }
}

#[test]
fn failures_in_a_row_eject_and_a_success_breaks_the_row() {
    let now = Instant::now();
    let balancer = balancer(Policy::Random, &[1; 4], now);
    let load = &balancer.members[0].load;
    for _ in 0..4 {
        assert!(!balancer.failed(load, now));
    }
    load.answered(SECOND, now);
    for _ in 0..4 {
        assert!(!balancer.failed(load, now));
    }
    assert!(balancer.failed(load, now));
    assert_eq!(picks(&balancer, 100, now)[0], 0);
    let back = now + Ejection::default().time;
    assert!(picks(&balancer, 400, back)[0] > 50);
}

#[test]
fn each_ejection_lasts_longer_until_health_makes_up_for_it() {
    let now = Instant::now();
    let balancer = balancer(Policy::Random, &[1; 4], now);
    let load = &balancer.members[0].load;
    let lasts = |from: Instant| {
        assert!(eject(&balancer, 0, from));
        (0..1000).find(|secs| !load.is_ejected(from + *secs * SECOND)).unwrap()
    };
    assert_eq!(lasts(now), 30);
    assert_eq!(lasts(now + 30 * SECOND), 60);
    assert_eq!(lasts(now + 90 * SECOND), 90);
    // Three ejections, two times ten seconds of health: one is left.
    assert_eq!(lasts(now + 200 * SECOND), 60);
    assert_eq!(lasts(now + 10_000 * SECOND), 30);
}

#[test]
fn no_ejection_lasts_for_ever() {
    let now = Instant::now();
    let load = Load::new(now);
    for at in (0..50).map(|step| now + 5 * step * SECOND) {
        load.eject(at, 30 * SECOND, 10 * SECOND);
        assert!(!load.is_ejected(at + EJECTION_TIME_MAX));
    }
}

#[test]
fn whom_checks_find_unwell_is_left_out_as_long_as_that_are_not_too_many() {
    let now = Instant::now();
    for policy in POLICIES {
        let balancer = balancer(policy, &[1; 4], now);
        let load = |at: usize| &balancer.members[at].load;
        load(0).be_unwell(true);
        assert_eq!(picks(&balancer, 100, now)[0], 0, "{policy:?}");
        assert!(!balancer.is_fit(0, now) && balancer.is_fit(1, now));
        load(1).be_unwell(true);
        assert_eq!(picks(&balancer, 100, now)[..2], [0, 0], "{policy:?}");
        load(2).be_unwell(true);
        assert!(
            picks(&balancer, 400, now).iter().all(|picked| *picked > 0),
            "{policy:?}: three of four are too many"
        );
        load(3).be_unwell(true);
        assert!(!balancer.is_available(now));
        load(3).be_unwell(false);
        load(2).be_unwell(false);
        assert!(balancer.is_available(now) && picks(&balancer, 100, now)[0] == 0);
        load(0).be_unwell(false);
        assert!(picks(&balancer, 400, now)[0] > 0, "{policy:?}");
    }
}

#[test]
fn a_lone_instance_is_never_ejected() {
    let now = Instant::now();
    let balancer = balancer(Policy::LeastRequest, &[1], now);
    assert!(!eject(&balancer, 0, now));
    assert_eq!(picks(&balancer, 3, now), [3]);
}

#[test]
fn an_instance_that_is_gone_is_not_judged() {
    let now = Instant::now();
    let balancer = balancer(Policy::LeastRequest, &[1; 4], now);
    let gone = Load::new(now);
    assert!((0..10).all(|_| !balancer.failed(&gone, now)));
    assert!(!gone.is_ejected(now));
}

#[test]
fn ejected_instances_come_back_when_the_healthy_ones_leave() {
    let now = Instant::now();
    let all = members(&[1; 4], now);
    let before = Balancer::new(Policy::Random, Ejection::default(), all.clone(), now);
    assert!(eject(&before, 0, now));
    assert!(eject(&before, 1, now + SECOND));
    let then = now + 2 * SECOND;
    let after = Balancer::new(Policy::Random, Ejection::default(), all[..3].to_vec(), then);
    assert_eq!(after.ejected(then), 1);
    assert!(!all[0].load.is_ejected(then), "it would have come back first");
}

#[test]
fn what_is_not_given_is_as_the_reference_says() {
    let given = OutlierEjection { consecutive_failures: kinds_count(), ..OutlierEjection::default() };
    let ejection = Ejection::from(Some(&given));
    assert_eq!(ejection, Ejection { failures: 3, ..Ejection::default() });
    assert_eq!(Ejection::from(None), Ejection::default());
}

fn kinds_count() -> Option<weft_proto::resource::bounded::Count<1, 1000>> {
    weft_proto::resource::bounded::Count::new(3)
}

/// What happens to a set of instances.
#[derive(Clone, Debug)]
enum Event {
    Fail(prop::sample::Index),
    Answer(prop::sample::Index),
    Wait(u64),
    Pick(Option<u64>),
    Begin(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => index().prop_map(Event::Fail),
        1 => index().prop_map(Event::Answer),
        1 => (0..40_u64).prop_map(Event::Wait),
        4 => any::<Option<u64>>().prop_map(Event::Pick),
        1 => index().prop_map(Event::Begin),
    ]
}

proptest! {
    #[test]
    fn no_ejected_instance_is_picked_while_others_are_healthy_and_never_are_too_many_ejected(
        policy in prop::sample::select(&POLICIES[..]),
        weights in prop::collection::vec(1..1000_u32, 1..12),
        local in any::<u16>(),
        percent_max in 0..=100_u32,
        events in prop::collection::vec(event(), 0..120),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut members = members(&weights, now);
        for (at, member) in members.iter_mut().enumerate() {
            member.local = local >> at & 1 == 1;
        }
        let ejection = Ejection { percent_max, failures: 2, ..Ejection::default() };
        let balancer = Balancer::new(policy, ejection, members, now);
        let mut random = StdRng::seed_from_u64(7);
        let mut held = Vec::new();
        for event in events {
            let load = |index: prop::sample::Index| &balancer.members[index.index(weights.len())].load;
            match event {
                Event::Fail(index) => {
                    balancer.failed(load(index), now);
                }
                Event::Answer(index) => load(index).answered(SECOND, now),
                Event::Wait(secs) => now += Duration::from_secs(secs),
                Event::Begin(index) => held.push(load(index).begin()),
                Event::Pick(key) => {
                    let at = balancer.pick(key, &[], now, &mut random).unwrap();
                    let all_ejected = balancer.ejected(now) == weights.len();
                    prop_assert!(all_ejected || !balancer.members[at].load.is_ejected(now));
                }
            }
            prop_assert!(balancer.ejected(now) * 100 <= weights.len() * percent_max as usize);
        }
    }

    #[test]
    fn every_instance_is_tried_once_before_there_is_none(
        policy in prop::sample::select(&POLICIES[..]),
        weights in prop::collection::vec(1..1000_u32, 1..12),
        key in any::<Option<u64>>(),
        ejected in any::<u16>(),
    ) {
        let now = Instant::now();
        let balancer = balancer(policy, &weights, now);
        for at in (0..weights.len()).filter(|at| ejected >> at & 1 == 1) {
            eject(&balancer, at, now);
        }
        let mut random = StdRng::seed_from_u64(7);
        let mut tried = Vec::new();
        while let Some(at) = balancer.pick(key, &tried, now, &mut random) {
            prop_assert!(!tried.contains(&at));
            tried.push(at);
        }
        prop_assert_eq!(tried.len(), weights.len());
        // Those that are ejected come last.
        let order: Vec<_> = tried.iter().map(|at| balancer.members[*at].load.is_ejected(now)).collect();
        prop_assert!(order.is_sorted(), "{:?}", order);
    }

    #[test]
    fn none_starves(
        policy in prop::sample::select(&POLICIES[..]),
        count in 1..12_usize,
        latencies in prop::collection::vec(1..10_000_u64, 12),
    ) {
        // What its latency starves, time feeds again.
        prop_assume!(policy != Policy::PeakEwma);
        let now = Instant::now();
        let balancer = balancer(policy, &vec![1; count], now);
        for (member, millis) in balancer.members.iter().zip(latencies) {
            member.load.answered(Duration::from_millis(millis), now);
        }
        let counts = picks(&balancer, 200 * count, now);
        prop_assert!(counts.iter().all(|picked| *picked > 0), "{:?}", counts);
    }

    #[test]
    fn all_weights_are_stepped_through(total in 1..5000_u64) {
        let stride = stride(total);
        let seen: std::collections::BTreeSet<_> = (0..total).map(|at| at.wrapping_mul(stride) % total).collect();
        prop_assert_eq!(seen.len() as u64, total);
    }
}

#[test]
fn turns_spread_a_heavy_instance_over_time() {
    let now = Instant::now();
    let balancer = balancer(Policy::RoundRobin, &[2, 1, 1], now);
    let mut random = StdRng::seed_from_u64(7);
    let order: Vec<_> = (0..8).map(|_| balancer.pick(None, &[], now, &mut random).unwrap()).collect();
    let by_half: BTreeMap<_, _> =
        order.chunks(4).map(|half| (half.iter().filter(|at| **at == 0).count(), ())).collect();
    assert_eq!(by_half.into_keys().collect::<Vec<_>>(), [2], "{order:?}");
}
