use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use weft_proto::mcp::Target;
use weft_proto::policy::quota::{Now, Plan};
use weft_proto::resource::{Spec, parse_one};
use weft_proto::wire::{Meta, Object};

use super::key::Seed;
use super::plan::Counters;
use super::*;

const SECOND: u64 = 1_000_000_000;

fn ready(table: &Table, limits: &str) -> Vec<Arc<Ready>> {
    let text = format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: QuotaPolicy, metadata: {{namespace: a, name: p}}, spec: {{limits: [{limits}]}}}}"
    );
    let resource = parse_one("f", &text).unwrap();
    let Spec::QuotaPolicy(spec) = resource.spec else { panic!("{text} is a quota policy") };
    let plan = Plan::new(&[Arc::new(Object { meta: Meta::new(&resource.metadata, 1), spec })]);
    let counter = crate::metrics::Tally::default;
    let ready = |limit: &weft_proto::policy::quota::Limit| {
        let counted =
            Counters { allowed: counter(), near: counter(), denied: counter(), shadow_denied: counter() };
        let label = format!("{}#{}", limit.policy, limit.name).into();
        Arc::new(Ready { label, seed: Seed::new(limit), by: table.by(limit), counted, limit: limit.clone() })
    };
    plan.limits().iter().map(ready).collect()
}

fn at(nanos: u64) -> Now {
    Now { nanos, unix_secs: 1_795_737_600 + i64::try_from(nanos / SECOND).unwrap() }
}

fn facts<'a>(caller: &'a str, tool: &'a str) -> Facts<'a> {
    let call = Asked { method: "tools/call", target: Some(Target::Tool(tool)), arguments: None };
    Facts { caller, tenant: None, server: "research/files", call, over: None }
}

fn claims<'a>(limits: &'a [Arc<Ready>], owner: Owner, facts: &'a Facts<'a>) -> Claims<'a> {
    limits.iter().map(|limit| Table::claim(limit, owner, facts)).collect()
}

/// One call of a tool, against all limits.
fn call(table: &Table, limits: &[Arc<Ready>], caller: &str, tool: &str, now: Now) -> bool {
    let (facts, owner) = (facts(caller, tool), Owner::new(caller, None));
    table.take(&mut claims(limits, owner, &facts), owner, now) == Outcome::Taken
}

#[test]
fn callers_and_tools_are_counted_apart_and_exactly() {
    let table = Table::new(1000, 1000, false);
    let limits = ready(&table, "{per: [caller, tool], rate: 2/min}, {per: [caller], rate: 3/min}");
    let mut passed: HashMap<(&str, &str), usize> = HashMap::new();
    for _ in 0..5 {
        for (caller, tool) in [("a", "x"), ("a", "y"), ("b", "x")] {
            if call(&table, &limits, caller, tool, at(0)) {
                *passed.entry((caller, tool)).or_default() += 1;
            }
        }
    }
    assert_eq!(passed, HashMap::from([(("a", "x"), 2), (("a", "y"), 1), (("b", "x"), 2)]));
}

#[test]
fn calls_at_once_from_many_threads_pass_exactly_as_often_as_the_limit_says() {
    let table = Table::new(1000, 1000, false);
    let limits = ready(&table, "{rate: 1000/h}, {per: [caller], rate: 400/h}, {per: [tool], rate: 10000/h}");
    let passed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for caller in ["a", "b", "c", "d"] {
            let (table, limits, passed) = (&table, &limits, &passed);
            scope.spawn(move || {
                for n in 0..500 {
                    let tool = ["x", "y", "z"][n % 3];
                    if call(table, limits, caller, tool, at(0)) {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(passed.into_inner(), 1000);
}

#[test]
fn a_flood_of_names_resets_no_limit() {
    let table = Table::new(256, 128, false);
    let limits = ready(&table, "{per: [caller, tool], rate: 1/h}");
    assert!(call(&table, &limits, "victim", "pay", at(0)));
    for n in 0..10_000 {
        call(&table, &limits, ["m", "n", "o", "p"][n % 4], &format!("t{n}"), at(n as u64 * SECOND / 10));
        call(&table, &limits, "victim", &format!("t{n}"), at(n as u64 * SECOND / 10));
    }
    assert!(!call(&table, &limits, "victim", "pay", at(1000 * SECOND)));
    assert!(call(&table, &limits, "victim", "pay", at(3600 * SECOND)));
    // And the one that all share.
    assert!(table.len() <= 257, "{}", table.len());
}

/// It would fill up what it has in common with others, were that bounded by itself.
#[test]
fn a_caller_who_made_as_many_counts_as_one_may_leaves_all_others_a_count_of_their_own() {
    let table = Table::new(2000, 500, false);
    let limits = ready(&table, "{per: [caller, tool], rate: 1/h}");
    for n in 0..1000 {
        call(&table, &limits, "m", &format!("t{n}"), at(0));
    }
    assert_eq!(table.len(), 501);
    let passed = (0..1000).filter(|n| call(&table, &limits, &format!("c{n}"), "x", at(0))).count();
    assert_eq!(passed, 1000);
}

#[test]
fn a_caller_who_made_as_many_counts_as_one_may_shares_one_and_takes_nothing_from_others() {
    let table = Table::new(100_000, 10, false);
    let limits = ready(&table, "{per: [caller, tool], rate: 2/h}");
    let passed = (0..1000).filter(|n| call(&table, &limits, "a", &format!("t{n}"), at(0))).count();
    // The eleventh count is the one that all further names share.
    assert_eq!((passed, table.len()), (12, 11));
    assert!(call(&table, &limits, "b", "t999", at(0)));
    // Counts that drained are forgotten, and may be made again.
    table.sweep(at(3600 * SECOND));
    assert_eq!(table.len(), 0);
    assert!(call(&table, &limits, "a", "t999", at(3600 * SECOND)));
}

#[test]
fn where_no_count_can_be_forgotten_further_callers_share_one() {
    let table = Table::new(64, 1000, false);
    let limits = ready(&table, "{per: [caller], budget: 3/month}");
    let passed = (0..2000).filter(|n| call(&table, &limits, &format!("c{n}"), "x", at(0))).count();
    // A count of its own for the first, and one for all others, which passes three times.
    assert_eq!((passed, table.len()), (64 + 3, 64 + 1));
}

#[test]
fn the_age_of_leases_is_that_of_the_one_that_was_confirmed_longest_ago() {
    const TIMING: Timing =
        Timing { lease_nanos: 15 * SECOND, refresh_nanos: 5 * SECOND, drift_per_million: 10_000 };
    let table = Table::new(64, 64, false);
    let limits = ready(&table, "{per: [caller], rate: 100/min, scope: mesh}");
    let metrics = Arc::new(Metrics::new());
    let series = Series::new(&metrics);
    let shown = |at_secs: u64| {
        series.show(&table.sweep(at(at_secs * SECOND)));
        let text = metrics.text();
        let lines =
            text.lines().filter_map(|line| line.strip_prefix("weft_sidecar_quota_lease_age_seconds{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(call(&table, &limits, "a", "x", at(0)) && call(&table, &limits, "b", "x", at(0)));
    assert!(shown(1).is_empty(), "nothing is lent yet");
    let handles: Vec<_> =
        table.borrowed(By::ControlPlane).told(true).into_iter().map(|key| key.handle()).collect();
    let grant = |handle, number, asked_secs: u64| {
        let part = Part { capacity: 50_000, burst: 50_000 };
        let grant = Grant { epoch: 1, number, answers: None, part, tokens: 0, safe: 1000 };
        table.granted(handle, grant, Some(asked_secs * SECOND), TIMING, at(asked_secs * SECOND));
    };
    grant(handles[0], 1, 2);
    grant(handles[1], 1, 3);
    assert_eq!(shown(4), ["2.0"]);
    grant(handles[0], 2, 5);
    assert_eq!(shown(6), ["3.0"]);
    // It ended, and nobody confirms it.
    assert_eq!(shown(30), ["27.0"]);
}

#[test]
fn a_limit_that_is_edited_goes_on_from_what_was_taken() {
    let table = Table::new(1000, 1000, false);
    let before = ready(&table, "{name: fair, per: [caller], rate: 4/min}");
    for _ in 0..4 {
        assert!(call(&table, &before, "a", "x", at(0)));
    }
    let same = ready(&table, "{rate: 1000/s}, {name: fair, per: [caller], rate: 4/min}");
    assert!(!call(&table, &same, "a", "x", at(0)));
    // 4 were taken; at 4 a minute one of them drains until the edit, of what is left 2 at once are free.
    let more = ready(&table, "{name: fair, per: [caller], rate: 5/min}");
    let passed = (0..10).filter(|_| call(&table, &more, "a", "x", at(15 * SECOND))).count();
    assert_eq!(passed, 2);
}

#[test]
fn what_is_given_back_is_free_for_others() {
    let table = Table::new(1000, 1000, false);
    let limits = ready(&table, "{concurrency: 1}");
    let (facts, owner) = (facts("a", "x"), Owner::new("a", None));
    let mut claims = claims(&limits, owner, &facts);
    assert_eq!(table.take(&mut claims, owner, at(0)), Outcome::Taken);
    assert!(!call(&table, &limits, "b", "x", at(0)));
    table.give_back(claims[0].key, claims[0].cost, claims[0].window, at(0));
    assert!(call(&table, &limits, "b", "x", at(0)));
}

/// Who is served in which order.
#[tokio::test]
async fn callers_that_wait_take_turns() {
    let table = Table::new(1000, 1000, false);
    let limits = ready(&table, "{concurrency: 1}");
    let facts = facts("a", "x");
    let claims = claims(&limits, Owner::new("a", None), &facts);
    let key = claims[0].key;
    let line = Arc::new(Line::new(100, 10));
    let mut waiting = Vec::new();
    for owner in [1, 1, 1, 1, 2, 3, 3] {
        waiting.push((owner, line.join(&claims, 0, owner, 0, None).unwrap()));
    }
    assert_eq!(line.is_before(&claims), Some(0));
    let mut order = Vec::new();
    // From then on, whoever finds a place calls the next.
    line.one_ended(key);
    while !waiting.is_empty() {
        let called = waiting
            .iter_mut()
            .position(|(_, waits)| futures_util::FutureExt::now_or_never(waits.turn()).is_some());
        let (owner, mut waits) = waiting.remove(called.expect("somebody is called"));
        waits.took();
        order.push(owner);
    }
    assert_eq!(order, [1, 2, 3, 1, 3, 1, 1]);
    assert_eq!(line.is_before(&claims), None);
}

#[tokio::test]
async fn whoever_leaves_the_line_passes_its_turn_on() {
    let table = Table::new(1000, 1000, false);
    let limits = ready(&table, "{concurrency: 1}");
    let facts = facts("a", "x");
    let claims = claims(&limits, Owner::new("a", None), &facts);
    let line = Arc::new(Line::new(100, 10));
    let first = line.join(&claims, 0, 1, 0, None).unwrap();
    let mut second = line.join(&claims, 0, 2, 0, None).unwrap();
    line.one_ended(claims[0].key);
    drop(first);
    second.turn().await;
}

#[tokio::test]
async fn a_call_that_ended_before_somebody_stood_in_line_is_not_missed() {
    let table = Table::new(1000, 1000, false);
    let limits = ready(&table, "{concurrency: 1}");
    let facts = facts("a", "x");
    let claims = claims(&limits, Owner::new("a", None), &facts);
    let line = Arc::new(Line::new(100, 10));
    let seen = line.ended(&claims);
    line.one_ended(claims[0].key);
    line.join(&claims, 0, 1, seen, None).unwrap().turn().await;
}

/// A limit that grew has more places than calls end.
#[tokio::test]
async fn whoever_finds_a_place_calls_the_next_and_whoever_finds_none_does_not() {
    let table = Table::new(1000, 1000, false);
    let limits = ready(&table, "{concurrency: 1}");
    let facts = facts("a", "x");
    let claims = claims(&limits, Owner::new("a", None), &facts);
    let line = Arc::new(Line::new(100, 10));
    let is_called = |waits: &mut line::Waits| futures_util::FutureExt::now_or_never(waits.turn()).is_some();
    let [mut first, mut second, mut third] = [0; 3].map(|_| line.join(&claims, 0, 1, 0, None).unwrap());
    line.one_ended(claims[0].key);
    assert!(is_called(&mut first) && !is_called(&mut second));
    first.took();
    drop(first);
    assert!(is_called(&mut second) && !is_called(&mut third));
    let seen = line.ended(&claims);
    let mut second = line.join(&claims, 0, 1, seen, Some(second)).unwrap();
    assert!(!is_called(&mut second) && !is_called(&mut third));
    line.one_ended(claims[0].key);
    assert!(is_called(&mut second) && !is_called(&mut third), "it stood in front");
}

#[test]
fn lines_are_bounded_in_all_and_for_each_caller() {
    let table = Table::new(1000, 1000, false);
    let limits = ready(&table, "{concurrency: 1}");
    let facts = facts("a", "x");
    let claims = claims(&limits, Owner::new("a", None), &facts);
    let line = Arc::new(Line::new(5, 2));
    let found: Vec<_> = [1, 1, 1, 2, 2, 3, 4].map(|owner| line.join(&claims, 0, owner, 0, None)).into();
    let stand: Vec<_> = found.iter().map(Option::is_some).collect();
    assert_eq!(stand, [true, true, false, true, true, true, false]);
    drop(found);
    assert_eq!(line.is_before(&claims), None);
}

proptest! {
    /// However calls fall and counts are forgotten meanwhile, each caller and tool passes as often as a bucket of its
    /// own would let it.
    #[test]
    fn forgetting_idle_counts_changes_no_decision(
        calls in prop::collection::vec((0..6u8, 0..4u8, 0..20_000_000_000u64, any::<bool>()), 1..200),
    ) {
        let (small, large) = (Table::new(1_000_000, 1_000_000, false), Table::new(1_000_000, 1_000_000, false));
        let spec = "{per: [caller, tool], rate: 3/min, burst: 2}, {per: [caller], rate: 6/min}";
        let (a, b) = (ready(&small, spec), ready(&large, spec));
        let mut now = 0;
        for (caller, tool, gap, sweep) in calls {
            now += gap;
            if sweep {
                small.sweep(at(now));
            }
            let (caller, tool) = (caller.to_string(), tool.to_string());
            prop_assert_eq!(call(&small, &a, &caller, &tool, at(now)), call(&large, &b, &caller, &tool, at(now)));
        }
    }
}

/// One run of a sidecar that keeps its budgets in a folder.
struct Run {
    quotas: Quotas,
    stop: CancellationToken,
    keeper: tokio::task::JoinHandle<()>,
}

impl Run {
    fn begin(folder: &Path) -> Self {
        let quotas = Quotas::new(&Limits::default(), &Arc::new(Metrics::new()), Some(folder)).unwrap();
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(quotas.clone().keep(stop.clone()));
        Self { quotas, stop, keeper }
    }

    async fn call(&self, limits: &[Arc<Ready>], caller: &str) -> Outcome {
        let table = &self.quotas.0.table;
        let (facts, owner, lendings) = (facts(caller, "x"), Owner::new(caller, None), table.lendings());
        let mut claims = claims(limits, owner, &facts);
        let outcome = table.take(&mut claims, owner, table.now());
        match outcome {
            Outcome::Denied { again: Again::WhenLent, .. } => {
                self.quotas.take_later(claims, owner, outcome, (0, lendings)).await.0
            }
            Outcome::Denied { .. } | Outcome::Taken => outcome,
        }
    }

    async fn pass(&self, limits: &[Arc<Ready>], caller: &str, most: usize) -> usize {
        let mut passed = 0;
        while passed < most && self.call(limits, caller).await == Outcome::Taken {
            passed += 1;
        }
        passed
    }

    /// Ends as a process does that is killed: nothing is said and nothing written any more.
    async fn kill(self) {
        self.keeper.abort();
        let _ = self.keeper.await;
    }
}

#[tokio::test]
async fn a_budget_goes_on_where_a_killed_run_left_it() {
    let folder = tempfile::tempdir().unwrap();
    let limit = "{per: [caller], budget: 5/month}";
    let run = Run::begin(folder.path());
    let limits = ready(&run.quotas.0.table, limit);
    assert_eq!(run.pass(&limits, "a", 2).await, 2);
    assert_eq!(run.pass(&limits, "b", 5).await, 5);
    run.kill().await;
    let run = Run::begin(folder.path());
    let limits = ready(&run.quotas.0.table, limit);
    // Of so few, nothing was set aside that nobody asked for.
    assert_eq!(run.pass(&limits, "a", 9).await, 3);
    assert_eq!(run.pass(&limits, "b", 9).await, 0);
    assert_eq!(run.pass(&limits, "c", 9).await, 5);
}

#[tokio::test]
async fn a_run_that_ends_in_peace_loses_nothing_of_a_budget() {
    let folder = tempfile::tempdir().unwrap();
    let mut passed = 0;
    for _ in 0..4 {
        let run = Run::begin(folder.path());
        let limits = ready(&run.quotas.0.table, "{name: n, budget: 100/month}");
        passed += run.pass(&limits, "a", 30).await;
        run.stop.cancel();
        run.keeper.await.unwrap();
    }
    assert_eq!(passed, 100);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_down_is_not_spent() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path(), 0).unwrap();
    let quotas = Quotas::new(&Limits::default(), &Arc::new(Metrics::new()), Some(folder.path())).unwrap();
    journal.lose_file();
    drop(folder);
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(Keeper::new(quotas.clone(), journal).run(stop.clone()));
    let run = Run { quotas, stop, keeper };
    let limits = ready(&run.quotas.0.table, "{name: n, budget: 100/month}");
    let outcome = run.call(&limits, "a").await;
    assert_eq!(outcome, Outcome::Denied { by: 0, again: Again::WhenLent });
    assert!(run.quotas.0.metrics.quota_unkept.get() > 0);
}

#[test]
fn every_count_of_a_mesh_wide_limit_is_told_of_once_when_it_is_its_turn() {
    const COUNTS: usize = 40_000;
    let limits: Limits = Limits { quota_keys_max: 2 * COUNTS, ..Limits::default() };
    let quotas = Quotas::new(&limits, &Arc::new(Metrics::new()), None).unwrap();
    let table = &quotas.0.table;
    let limit = ready(table, "{per: [caller], concurrency: 3, scope: mesh}");
    for caller in 0..COUNTS {
        call(table, &limit, &caller.to_string(), "x", table.now());
    }
    let timing = Timing { lease_nanos: 15 * SECOND, refresh_nanos: SECOND, drift_per_million: 0 };
    let (mut handles, mut last) = (std::collections::HashSet::new(), 0);
    for (report, made) in quotas.lease_reports(true, 512, timing) {
        assert!(report.sequence > last && (1..=512).contains(&report.demands.len()));
        last = report.sequence;
        // It says what is so now, not what was when the first of them was made.
        assert!(table.now().nanos >= made);
        handles.extend(report.demands.iter().map(|demand| demand.handle));
        assert!(report.demands.iter().all(|demand| demand.in_use_milli == Some(1000)), "{report:?}");
    }
    assert_eq!((handles.len(), last), (COUNTS, COUNTS.div_ceil(512) as u64));
    // With nothing to tell, it is told that the stream is there; and nothing where only what is urgent is.
    let idle = Quotas::new(&limits, &Arc::new(Metrics::new()), None).unwrap();
    let many = |all| idle.lease_reports(all, 512, timing).count();
    assert_eq!((many(true), many(false)), (1, 0));
}
