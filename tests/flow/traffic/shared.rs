//! Limits that two sidecars share: calls at once, wherever they come in; and what holds of each limit while nobody lends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::pair::Caller;
use super::quotas::Two;
use super::upstream::{self, Upstream};
use crate::mesh::{Mesh, eventually};

const PLACES: usize = 7;

/// Calls that a server has under way. It ends one before it answers it, so that whoever counts calls by their answers
/// has never fewer.
#[derive(Default)]
struct Busy {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Busy {
    fn begins(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn is_at(&self, calls: usize) -> bool {
        self.now.load(Ordering::SeqCst) == calls
    }
}

/// A server whose calls take a while.
async fn slow(busy: Arc<Busy>) -> Upstream {
    Upstream::with(move |seen| {
        let busy = Arc::clone(&busy);
        async move {
            if seen.method_name() == "tools/call" {
                busy.begins();
                let mut work = interval(Duration::from_millis(30));
                work.tick().await;
                work.tick().await;
                busy.now.fetch_sub(1, Ordering::SeqCst);
            }
            upstream::echo(&seen)
        }
    })
    .await
}

/// Callers of one sidecar, more than there are places, each of whom calls again once it has an answer.
struct Crowd {
    stop: CancellationToken,
    callers: JoinSet<usize>,
}

impl Crowd {
    async fn at(two: &Two, sidecar: usize) -> Self {
        let (stop, mut callers) = (CancellationToken::new(), JoinSet::new());
        for _ in 0..PLACES * 2 {
            let workload = two.callers[sidecar].workload.clone();
            let mut caller = Caller::connect(two.sidecars[sidecar].inbound.unwrap(), workload).await;
            let stop = stop.clone();
            callers.spawn(async move {
                let mut passed = 0;
                while !stop.is_cancelled() {
                    let answer = caller.call("work", json!({})).await;
                    assert!([200, 429].contains(&answer.status), "{answer:?}");
                    passed += usize::from(answer.status == 200);
                }
                passed
            });
        }
        Self { stop, callers }
    }

    /// How many of their calls passed.
    async fn leave(self) -> usize {
        self.stop.cancel();
        self.callers.join_all().await.into_iter().sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_once_over_two_sidecars_are_never_more_than_the_limit_and_all_places_go_where_calls_are() {
    let busy = Arc::new(Busy::default());
    let upstream = slow(Arc::clone(&busy)).await;
    let limit =
        format!("{{ name: few, concurrency: {PLACES}, tools: [work], scope: mesh, whenUnavailable: deny }}");
    let two = Two::start(&limit, &upstream).await;
    for sidecar in [0, 1, 0] {
        let crowd = Crowd::at(&two, sidecar).await;
        eventually("one sidecar alone has all places", || busy.is_at(PLACES)).await;
        assert!(crowd.leave().await > 0);
        eventually("the calls are over", || busy.is_at(0)).await;
    }
    let crowds = [Crowd::at(&two, 0).await, Crowd::at(&two, 1).await];
    let until = Instant::now() + Duration::from_secs(2);
    eventually("both go on for a while", || Instant::now() >= until).await;
    eventually("both together have all places", || busy.is_at(PLACES)).await;
    let mut passed = Vec::new();
    for crowd in crowds {
        passed.push(crowd.leave().await);
    }
    assert!(passed.iter().all(|calls| *calls > 20), "each has its share: {passed:?}");
    assert_eq!(busy.most.load(Ordering::SeqCst), PLACES, "at once");
    two.stop().await;
}

/// Of each sidecar, how many calls of each tool passed.
type Passed = [BTreeMap<&'static str, usize>; 2];

/// Calls each tool at each sidecar again and again for a while, more often than any limit here allows.
async fn press(callers: &mut [Caller; 2], time: Duration) -> (Passed, f64) {
    let (mut passed, began) = (Passed::default(), Instant::now());
    while began.elapsed() < time {
        for (caller, passed) in callers.iter_mut().zip(&mut passed) {
            for tool in ["deny", "floor", "reuse"] {
                let answer = caller.call(tool, json!({})).await;
                assert!([200, 429].contains(&answer.status), "{answer:?}");
                *passed.entry(tool).or_default() += usize::from(answer.status == 200);
            }
        }
    }
    (passed, began.elapsed().as_secs_f64())
}

/// Sees that of a limit of each sidecar as much passed as it says, nearly, and no more than that and one call.
fn is_about(what: &str, passed: usize, per_sec: f64, secs: f64) {
    let (most, least) = (per_sec * secs + 1.0, per_sec * secs * 0.8 - 1.0);
    assert!((least..=most).contains(&(passed as f64)), "{what}: {passed} calls passed in {secs:.2} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_lends_each_limit_does_what_it_says_of_that_and_recovers() {
    let limits = ["deny", "floor, floor: 4", "reuse, reuseFor: 5s"].map(|unavailable| {
        let tool = unavailable.split(',').next().unwrap();
        let limit = format!("name: {tool}, tools: [{tool}], rate: 20/s, burst: 4, scope: mesh");
        format!("{{ {limit}, whenUnavailable: {unavailable} }}")
    });
    let upstream = Upstream::echo().await;
    let two = Two::start(&limits.join(", "), &upstream).await;
    let Two { mesh, sidecars, mut callers, .. } = two;
    let began = Instant::now();
    while press(&mut callers, Duration::from_millis(100)).await.0[0]["deny"] == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing is ever lent");
    }
    press(&mut callers, Duration::from_secs(1)).await;
    let (passed, secs) = press(&mut callers, Duration::from_secs(1)).await;
    for tool in ["deny", "floor", "reuse"] {
        let of_both = passed[0][tool] + passed[1][tool];
        assert!(of_both as f64 >= 20.0 * secs * 0.9 - 1.0, "{tool} with a lease: {passed:?} in {secs} s");
    }

    let (address, folder) = (mesh.sidecars(), mesh.stop().await);
    let stopped = Instant::now();
    // The last lease may have begun just before.
    press(&mut callers, Two::LEASE).await;
    let (passed, secs) = press(&mut callers, Duration::from_secs(2)).await;
    for passed in &passed {
        assert_eq!(passed["deny"], 0, "nothing passes");
        is_about("the floor", passed["floor"], 4.0, secs);
        // Of two that want the same, each has half.
        is_about("the last lease", passed["reuse"], 10.0, secs);
    }
    press(&mut callers, (Two::LEASE + Duration::from_secs(5)).saturating_sub(stopped.elapsed())).await;
    let (passed, secs) = press(&mut callers, Duration::from_secs(1)).await;
    for passed in &passed {
        assert_eq!((passed["deny"], passed["reuse"]), (0, 0), "the last lease is over as well");
        is_about("the floor", passed["floor"], 4.0, secs);
    }

    let again = |config: &mut _| {
        Two::quick(config);
        config.sidecars = address;
    };
    let mesh = Mesh::again(folder, again).await;
    let began = Instant::now();
    loop {
        let (passed, secs) = press(&mut callers, Duration::from_millis(500)).await;
        if passed[0]["deny"] > 0 && passed[1]["deny"] > 0 {
            break;
        }
        // While it learns what is lent, nothing is lent, and what holds without a lease goes on.
        assert!(passed.iter().all(|passed| passed["floor"] as f64 >= 4.0 * secs * 0.8 - 1.0), "{passed:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "nothing is ever lent again");
    }
    for sidecar in sidecars {
        sidecar.stop().await;
    }
    mesh.stop().await;
}
