//! One limit that twenty sidecars share, each in a process of its own: no more passes than of one bucket, nearly all of
//! it is used however unevenly it is asked for, and that stays so when the control plane is killed and comes back, and
//! when the limit is lowered.
//!
//! A call was decided after it was asked and before it was answered. So those that were both asked and answered within a
//! span were decided within it, and of them there may be no more than the limit says, in any span whatever: this needs
//! no tolerance for how long anything takes. All clocks here are the one of this machine.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::fleet::{Fleet, Made};
use crate::plane::{self, Plane};
use crate::process::at_last;

const TEST: &str =
    "shared_limit::a_limit_that_twenty_sidecars_share_holds_over_kills_and_changes_and_is_used";
const SIDECARS: usize = 20;
/// Shorter than where nobody is in a hurry, where it is 15 s. Everything here is told in leases.
const LEASE: Duration = Duration::from_secs(3);
/// Sidecars report what is asked for each second, and what they say follows it within a few reports.
const SETTLE: Duration = Duration::from_secs(5);
/// So long do calls go on for each measure.
const SPAN: Duration = Duration::from_secs(4);
const SECOND: u128 = 1_000_000_000;
/// What a sidecar lets pass without a lease, in a second; of this, and of what then passes at once, twenty together have
/// less than the limit.
const FLOOR: u32 = 3;
const BEFORE: Bound = Bound { per_sec: 100, burst: 30 };
const AFTER: Bound = Bound { per_sec: 50, burst: 25 };
/// Of each sidecar, its floor, and one call at once: the floor's part of the burst is less.
const FLOORS: Bound = Bound { per_sec: FLOOR * SIDECARS as u32, burst: SIDECARS as u32 };

/// No more than this in any span: what flows in it, and the burst.
#[derive(Clone, Copy, Debug)]
struct Bound {
    per_sec: u32,
    burst: u32,
}

#[allow(clippy::print_stdout, reason = "by these figures a reader sees how near it was")]
impl Bound {
    fn and(self, other: Self) -> Self {
        Self { per_sec: self.per_sec + other.per_sec, burst: self.burst + other.burst }
    }

    /// Sees that in no span within these moments more passed.
    fn holds(self, what: &str, made: &[Made], (from, to): (Duration, Duration)) {
        let within = |call: &&Made| call.passed && call.asked >= from && call.answered <= to;
        let mut calls: Vec<&Made> = made.iter().filter(within).collect();
        calls.sort_by_key(|call| call.answered);
        let mut fullest = 0;
        for begins in calls.iter().map(|call| call.asked) {
            let after = calls.iter().filter(|call| call.asked >= begins);
            for (count, last) in (1..).zip(after) {
                let span = last.answered.checked_sub(begins).unwrap().as_nanos();
                let most = (u128::from(self.per_sec) * span + u128::from(self.burst) * SECOND) / SECOND;
                assert!(
                    count <= most,
                    "{what}: {count} calls passed within {span} ns, which is more than {most}"
                );
                fullest = fullest.max(count * 100 / most);
            }
        }
        println!(
            "{what}: {} passed from {from:?} to {to:?}; no span had more than {fullest} % of what may",
            calls.len()
        );
    }

    /// Sees that nearly all of it was used in a span in which more than enough was asked for.
    fn is_used(self, what: &str, fleet: &Fleet, (from, to): (Duration, Duration)) {
        let (passed, asked) = fleet.within((from, to));
        let (span, limit) = ((to - from).as_secs_f64(), f64::from(self.per_sec));
        let (passed_per_sec, asked_per_sec) = (passed as f64 / span, asked as f64 / span);
        println!(
            "{what}: {passed_per_sec:.1} calls a second passed of {limit} that may and {asked_per_sec:.1} asked for"
        );
        assert!(
            asked_per_sec > limit * 1.5,
            "{what}: this machine asks for {asked_per_sec:.1} calls a second only"
        );
        assert!(passed_per_sec >= limit * 0.95, "{what}: {passed_per_sec:.1} calls a second passed");
    }
}

fn policy(Bound { per_sec, burst }: Bound) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: QuotaPolicy\nmetadata: {{ namespace: research, name: fair }}\n\
         spec: {{ servers: {{ names: [files] }}, limits: [{{ name: all, rate: {per_sec}/s, burst: {burst}, \
         scope: mesh, whenUnavailable: floor, floor: {FLOOR} }}] }}\n"
    )
}

/// How the limit stands at the control plane.
async fn standing(plane: &Plane) -> Value {
    plane.ask(http::Request::get("/v1/quotas"), String::new()).await["items"][0].clone()
}

/// Waits until the control plane lends to every sidecar.
async fn all_have_leases(plane: &Plane) {
    at_last("every sidecar is lent a share", async || {
        let standing = standing(plane).await;
        standing["holders"] == SIDECARS && standing["learning"] == false
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_twenty_sidecars_share_holds_over_kills_and_changes_and_is_used() {
    if plane::play().await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("plane");
    std::fs::create_dir(&home).unwrap();
    let mut plane = Plane::start(TEST, &home, LEASE).await;
    plane.apply(&policy(BEFORE)).await;
    let mut fleet = Fleet::start(&plane, folder.path(), SIDECARS).await;
    let story = Story::tell(&mut plane, &fleet).await;
    let made = fleet.end().await;
    story.is_as_it_should_be(&fleet, &made);
    and_both_sides_agree(&fleet, &made);
    and_the_control_plane_knows(&plane, &made).await;
}

/// When what was.
struct Story {
    steady: (Duration, Duration),
    killed: Duration,
    alone: (Duration, Duration),
    learning: (Duration, Duration),
    back: Duration,
    steady_again: (Duration, Duration),
    lowered: Duration,
    steady_low: (Duration, Duration),
}

impl Story {
    async fn tell(plane: &mut Plane, fleet: &Fleet) -> Self {
        all_have_leases(plane).await;
        fleet.go_on(SETTLE).await;
        let steady = fleet.go_on(SPAN).await;

        let killed = fleet.now();
        plane.kill().await;
        fleet.go_on(LEASE).await;
        let alone = fleet.go_on(Duration::from_secs(3)).await;
        plane.restart().await;
        let restarted = fleet.now();
        at_last("it has learned", async || standing(plane).await["learning"] == false).await;
        let learning = (restarted, fleet.now());
        all_have_leases(plane).await;
        // Each sidecar hears of its share before it reports again.
        fleet.go_on(SETTLE).await;
        let back = fleet.now();
        let steady_again = fleet.go_on(SPAN).await;

        plane.apply(&policy(AFTER)).await;
        let lowered = fleet.go_on(LEASE).await.1;
        let steady_low = fleet.go_on(SPAN).await;
        Self { steady, killed, alone, learning, back, steady_again, lowered, steady_low }
    }

    #[allow(clippy::print_stdout, reason = "by these figures a reader sees how near it was")]
    fn is_as_it_should_be(&self, fleet: &Fleet, made: &[Made]) {
        BEFORE.holds("with the first control plane", made, (Duration::ZERO, self.killed));
        BEFORE.is_used("with the first control plane", fleet, self.steady);

        BEFORE.and(FLOORS).holds("around the kill", made, (Duration::ZERO, self.back));
        FLOORS.holds("without a control plane, once every lease is over", made, self.alone);
        for (what, span) in [("without a control plane", self.alone), ("while it learns", self.learning)] {
            // The floor of the sidecar that is asked for much, and whatever is asked of the others.
            let enough = f64::from(FLOOR + SIDECARS as u32 - 1) * (span.1 - span.0).as_secs_f64() * 0.9;
            let (passed, _) = fleet.within(span);
            println!("{what}: {passed} passed of {enough:.0} at least in {span:?}");
            assert!(passed as f64 >= enough, "{what} only {passed} calls passed in {span:?}");
        }

        BEFORE.holds("with the second control plane", made, (self.back, self.lowered));
        BEFORE.is_used("with the second control plane", fleet, self.steady_again);

        AFTER.holds("a lease after the limit was lowered", made, (self.lowered, fleet.now()));
        AFTER.is_used("with the lower limit", fleet, self.steady_low);
    }
}

/// What callers were told passed is what the server saw, each once.
fn and_both_sides_agree(fleet: &Fleet, made: &[Made]) {
    let passed: BTreeSet<u64> = made.iter().filter(|call| call.passed).map(|call| call.number).collect();
    let seen = fleet.seen();
    assert!(seen.values().all(|times| *times == 1), "the server saw a call twice");
    assert_eq!(seen.into_keys().collect::<BTreeSet<_>>(), passed);
}

/// Sidecars tell sums, so that one that began anew knows them all.
async fn and_the_control_plane_knows(plane: &Plane, made: &[Made]) {
    let passed = made.iter().filter(|call| call.passed).count();
    at_last("the control plane hears of all calls", async || {
        let standing = standing(plane).await;
        standing["allowed"] == passed && standing["denied"] == made.len() - passed
    })
    .await;
}
