use std::time::Duration;

use weft_proto::resource::parse_one;

use super::*;

const POLICY: &str = "\
apiVersion: weft.dev/v1alpha1
kind: QuotaPolicy
metadata: { namespace: research, name: fair }
spec:
  limits:
    - { name: calls, per: [caller], rate: 10/min, burst: 10, scope: mesh }
    - { name: few, concurrency: 8, scope: mesh }
    - { name: each, per: [server], rate: 10/min, scope: mesh }
";

struct Bench {
    lender: Lender,
    policy: Arc<Resource>,
    holder: u64,
    sequence: u64,
    grants: mpsc::Receiver<pb::LeaseGrant>,
}

fn names() -> (SpiffeId, NodeId) {
    let identity = SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap();
    (identity, NodeId::parse("research/files-0").unwrap())
}

impl Bench {
    /// A lender that may lend already, with one sidecar.
    fn new() -> Self {
        Self::with(Settings::default(), Duration::from_mins(10))
    }

    fn with(settings: Settings, age: Duration) -> Self {
        let mut lender = Lender::new(settings, Arc::new(Metrics::new()));
        lender.began = Instant::now().checked_sub(age).unwrap();
        let (identity, node) = names();
        let (holder, grants) = lender.open(&identity, &node, 1).unwrap();
        let policy = Arc::new(parse_one("fair.yaml", POLICY).unwrap());
        Self { lender, policy, holder, sequence: 0, grants }
    }

    /// Another stream.
    fn open(&mut self, session: u64) -> Result<(), Refused> {
        let (identity, node) = names();
        (self.holder, self.grants) = self.lender.open(&identity, &node, session)?;
        Ok(())
    }

    fn pass(&mut self, time: Duration) {
        self.lender.began = self.lender.began.checked_sub(time).unwrap();
    }

    /// How many keys the sidecar named.
    fn keys(&self) -> usize {
        let inner = self.lender.lock();
        inner.nodes.keys(inner.nodes.of(self.holder).unwrap())
    }

    /// Why demands were refused, with how many.
    fn refused(&self, reason: &'static str) -> u64 {
        self.lender.metrics.lease_demands_refused.get_or_create(&ReasonLabel { reason }).get()
    }

    fn key(&self, index: usize, value: &str) -> pb::LimitKey {
        let made = self.lender.limits.of("research/fair", &self.policy);
        let limit = made.values().find(|limit| &*limit.name == ["calls", "few", "each"][index]).unwrap();
        let part = |it: &_| pb::KeyPart { dimension: ToString::to_string(it), value: Some(value.to_owned()) };
        pb::LimitKey {
            policy: "research/fair".to_owned(),
            limit: limit.identity.to_string(),
            parts: limit.per.iter().map(part).collect(),
        }
    }

    /// Reports calls that passed so far, and whether that is the end of it.
    fn report(&mut self, key: pb::LimitKey, allowed: u64, wants: u64, release: bool) -> Option<pb::Lease> {
        self.sequence += 1;
        let demand = pb::LeaseDemand {
            handle: 1,
            key: Some(key),
            wants_milli: wants * 1000,
            allowed_total: allowed,
            cost_milli_total: allowed * 1000,
            release,
            ..pb::LeaseDemand::default()
        };
        let report = pb::LeaseReport {
            session: 1,
            sequence: self.sequence,
            demands: vec![demand],
            node: "research/files-0".to_owned(),
        };
        self.lender.report(self.holder, &report, |_, _| Some(Arc::clone(&self.policy))).leases.pop()
    }
}

const LEASE_IS_OVER: Duration = Duration::from_secs(16);

#[test]
fn what_most_is_used_of_comes_first_and_the_rest_is_counted() {
    let mut bench = Bench::new();
    for (caller, calls) in [("a", 1), ("b", 3), ("c", 2)] {
        let key = bench.key(0, caller);
        bench.report(key.clone(), 0, 1, false);
        bench.report(key, calls, 1, false);
    }
    let (found, left_out) = bench.lender.busiest(2, |_, _| true);
    let seen: Vec<_> = found.iter().map(|it| (it.parts[0].1.as_deref().unwrap(), it.used_milli)).collect();
    assert_eq!((seen, left_out), (vec![("b", 3000), ("c", 2000)], 1));
    let (found, left_out) = bench.lender.busiest(2, |_, parts| parts[0].1.as_deref() == Some("a"));
    assert_eq!((found[0].used_milli, found[0].holders, left_out), (1000, 1, 0));
    assert!(!found[0].learns && found[0].lent.capacity > 0, "{found:?}");
}

#[test]
fn calls_at_once_are_told_up_to_what_is_lent() {
    let mut bench = Bench::new();
    let key = bench.key(1, "");
    bench.report(key.clone(), 0, 3, false);
    assert_eq!(bench.lender.standing()[0].used_milli, 3000);
    bench.report(key, 0, 20, false);
    assert_eq!(bench.lender.standing()[0].used_milli, 8000);
}

#[test]
fn who_gave_a_limit_up_and_comes_back_is_counted_once() {
    let mut bench = Bench::new();
    let key = bench.key(0, "a");
    bench.report(key.clone(), 5, 1, false);
    bench.report(key.clone(), 5, 0, true);
    let standing = bench.lender.standing();
    assert_eq!((standing[0].holders, standing[0].lent, standing[0].totals.allowed), (0, Part::NOTHING, 5));
    bench.report(key.clone(), 6, 1, false);
    let standing = bench.lender.standing();
    assert_eq!((standing[0].holders, standing[0].totals.allowed, standing[0].used_milli), (1, 6, 1000));
    bench.report(key.clone(), 6, 0, true);
    // The sidecar began to count anew meanwhile.
    bench.report(key, 2, 1, false);
    let standing = bench.lender.standing();
    assert_eq!((standing[0].totals.allowed, standing[0].used_milli), (8, 3000));
    assert_eq!(bench.keys(), 1);
}

#[test]
fn sessions_of_one_node_share_what_the_newest_is_lent_and_a_killed_one_is_counted_until_it_is_over() {
    let mut bench = Bench::new();
    let key = bench.key(1, "");
    assert_eq!(bench.report(key.clone(), 0, 8, false).unwrap().capacity_milli, 8000);
    let killed = bench.holder;
    bench.open(2).unwrap();
    assert_eq!(bench.report(key.clone(), 0, 8, false).unwrap().capacity_milli, 0, "it is held twice");
    let newest = std::mem::replace(&mut bench.holder, killed);
    assert_eq!(bench.report(key.clone(), 0, 8, false), None, "the killed one goes on");
    bench.holder = newest;
    // However many sessions it opens.
    assert_eq!(bench.open(1), Err(Refused::Replaced));
    assert_eq!(bench.open(3), Err(Refused::Sessions));
    bench.pass(LEASE_IS_OVER);
    assert_eq!(bench.report(key, 0, 8, false).unwrap().capacity_milli, 8000);
    bench.open(3).unwrap();
    let standing = bench.lender.standing();
    assert_eq!((standing[0].holders, standing[0].lent.capacity), (1, 8000));
}

#[test]
fn a_node_names_so_many_keys_and_no_more_whatever_streams_and_sessions_it_opens() {
    let settings = Settings { keys_per_node_max: 2, ..Settings::default() };
    let mut bench = Bench::with(settings, Duration::from_mins(10));
    let keys = ["a", "b", "c"].map(|caller| bench.key(0, caller));
    for session in [1, 1, 2] {
        bench.open(session).unwrap();
        let named = keys.each_ref().map(|key| bench.report(key.clone(), 0, 1, false).is_some());
        assert_eq!((named, bench.keys()), ([true, true, false], 2), "session {session}");
    }
    assert_eq!(bench.refused("keys_of_node"), 3);
    // One that is released makes room, and so do those of which nothing is heard.
    bench.report(keys[0].clone(), 0, 0, true);
    assert!(bench.report(keys[2].clone(), 0, 1, false).is_some());
    bench.pass(LEASE_IS_OVER);
    bench.lender.sweep();
    assert_eq!((bench.keys(), bench.lender.standing().len()), (0, 3));
    // Nobody holds of them; once what was lent has flowed again, nothing needs to be remembered.
    bench.pass(Duration::from_mins(2));
    bench.lender.sweep();
    assert_eq!(bench.lender.standing().len(), 0);
    bench.open(2).unwrap();
    assert!(bench.report(keys[0].clone(), 0, 1, false).is_some());
}

#[test]
fn where_there_is_no_room_for_a_key_idle_ones_are_looked_for_now_and_then() {
    let settings = Settings { keys_max: 1, ..Settings::default() };
    let mut bench = Bench::with(settings, Duration::from_mins(10));
    let (first, second) = (bench.key(0, "a"), bench.key(0, "b"));
    assert!(bench.report(first.clone(), 0, 1, false).is_some());
    assert!(bench.report(second.clone(), 0, 1, false).is_none());
    bench.report(first, 0, 0, true);
    // It was searched just now: a flood of keys must not be one of searches.
    assert!(bench.report(second.clone(), 0, 1, false).is_none());
    assert_eq!(bench.refused("keys"), 2);
    bench.pass(Duration::from_mins(2));
    assert!(bench.report(second, 0, 1, false).is_some());
}

#[test]
fn what_is_asked_on_behalf_of_a_server_is_asked_of_that_server() {
    let mut bench = Bench::new();
    let report = |bench: &mut Bench, server| {
        let key = bench.key(2, server);
        let demand = pb::LeaseDemand { key: Some(key), wants_milli: 1000, ..pb::LeaseDemand::default() };
        bench.sequence += 1;
        let report = pb::LeaseReport {
            session: 1,
            sequence: bench.sequence,
            demands: vec![demand],
            node: "research/files-0".to_owned(),
        };
        let policy = |_: &str, server: Option<&str>| {
            (server == Some("research/files")).then(|| Arc::clone(&bench.policy))
        };
        bench.lender.report(bench.holder, &report, policy).leases.len()
    };
    assert_eq!(report(&mut bench, "research/files"), 1);
    assert_eq!(report(&mut bench, "research/other"), 0);
    assert_eq!((bench.refused("policy"), bench.lender.standing().len()), (1, 1));
}

#[test]
fn another_name_of_a_policy_is_no_limit_of_its_own() {
    let mut bench = Bench::new();
    let key = pb::LimitKey { policy: "research/alias".to_owned(), ..bench.key(1, "") };
    assert!(bench.report(key, 0, 8, false).is_none());
    assert_eq!(bench.refused("limit"), 1);
}

#[test]
fn of_a_policy_that_is_younger_than_this_run_is_lent_at_once() {
    for (before, learns) in [(None, true), (Some("research/fair"), true), (Some("research/other"), false)] {
        let mut bench = Bench::with(Settings::default(), Duration::ZERO);
        if let Some(before) = before {
            bench.lender.began_with(HashSet::from([before.to_owned()]));
        }
        let lent = bench.report(bench.key(0, "a"), 0, 1, false);
        // A lender that learns leaves whoever holds nothing to what holds without a lease.
        let expected = (!learns).then_some(10_000);
        let tokens = lent.map(|lent| lent.tokens_milli);
        assert_eq!((bench.lender.standing()[0].learns, tokens), (learns, expected), "{before:?}");
    }
}

#[test]
fn one_of_several_may_lend_only_while_it_leads() {
    let leads = watch::Sender::new(false);
    let lender = Lender::new(Settings::default(), Arc::new(Metrics::new()));
    assert!(lender.lends(), "alone, it always may");
    let lender = lender.lending_while(Some(leads.subscribe()));
    assert!(!lender.lends());
    leads.send_replace(true);
    assert!(lender.lends());
}

#[test]
fn what_is_lent_is_counted_for_those_who_watch() {
    let mut bench = Bench::new();
    bench.report(bench.key(0, "a"), 0, 1, false);
    let metrics = Arc::clone(&bench.lender.metrics);
    let seen = || (metrics.lease_streams.get(), metrics.lease_keys.get(), metrics.lease_grants.get());
    assert_eq!(seen(), (1, 1, 1));
    bench.lender.close(bench.holder, &bench.grants);
    for _ in 0..2 {
        bench.pass(Duration::from_mins(2));
        bench.lender.sweep();
    }
    assert_eq!(seen(), (0, 0, 1));
}

#[test]
fn calls_that_run_are_told_apart_from_what_is_held_or_else_are_the_same() {
    let demand = pb::LeaseDemand { has_milli: 5000, ..pb::LeaseDemand::default() };
    assert_eq!(read(1, &demand).in_use, 5000);
    assert_eq!(read(1, &pb::LeaseDemand { in_use_milli: Some(0), ..demand }).in_use, 0);
}

#[test]
fn a_limit_that_was_found_before_it_changed_does_not_go_back() {
    let mut bench = Bench::new();
    let key = bench.key(1, "");
    bench.report(key.clone(), 0, 8, false);
    let lowered =
        Arc::new(parse_one("fair.yaml", &POLICY.replace("concurrency: 8", "concurrency: 4")).unwrap());
    let old = Arc::clone(&bench.policy);
    bench.sequence += 1;
    let demand = pb::LeaseDemand { key: Some(key), wants_milli: 8000, ..pb::LeaseDemand::default() };
    let report = pb::LeaseReport {
        session: 1,
        sequence: bench.sequence,
        demands: vec![demand],
        node: "research/files-0".to_owned(),
    };
    let looked = std::cell::Cell::new(0);
    bench.lender.report(bench.holder, &report, |_, _| {
        looked.set(looked.get() + 1);
        if looked.get() > 1 {
            return Some(Arc::clone(&lowered));
        }
        // It is another just after it was found.
        bench.lender.limits_changed(|_| Some(Arc::clone(&lowered)));
        Some(Arc::clone(&old))
    });
    assert_eq!(bench.lender.standing()[0].whole.capacity, 4000);
}
