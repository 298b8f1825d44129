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
";

struct Bench {
    lender: Lender,
    policy: Arc<Resource>,
    holder: u64,
    sequence: u64,
    _grants: mpsc::Receiver<pb::LeaseGrant>,
}

impl Bench {
    /// A lender that may lend already, with one sidecar.
    fn new() -> Self {
        let mut lender = Lender::new(Settings::default());
        lender.began = Instant::now().checked_sub(Duration::from_mins(10)).unwrap();
        let identity = SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap();
        let (holder, grants) = lender.open(&identity, 1).unwrap();
        let policy = Arc::new(parse_one("fair.yaml", POLICY).unwrap());
        Self { lender, policy, holder, sequence: 0, _grants: grants }
    }

    fn key(&self, index: usize, value: &str) -> pb::LimitKey {
        let Spec::QuotaPolicy(spec) = &self.policy.spec else { panic!("it is a policy") };
        let object = Object { meta: Meta::new(&self.policy.metadata, 0), spec: spec.clone() };
        let limit = Plan::new(&[Arc::new(object)]).limits()[index].clone();
        let part = |it: &_| pb::KeyPart { dimension: ToString::to_string(it), value: Some(value.to_owned()) };
        pb::LimitKey {
            policy: "research/fair".to_owned(),
            limit: limit.identity.to_string(),
            parts: limit.per.iter().map(part).collect(),
        }
    }

    /// Reports calls that passed so far, and whether that is the end of it.
    fn report(&mut self, key: pb::LimitKey, allowed: u64, wants: u64, release: bool) {
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
        self.lender.report(self.holder, &report, |_| Some(Arc::clone(&self.policy)));
    }
}

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
    assert_eq!(bench.lender.lock().streams[&bench.holder].keys, 1);
}
