//! Quotas, from outside: a limit is hit and recovers, for each caller and tool apart; what is refused says by what and
//! until when.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::timeout;
use weft_control_plane::app::Config;
use weft_sidecar::app::Running;

use super::pair::{self, Answer, Caller, Pair, legacy, modern};
use super::streams::{call, rest, stream};
use super::upstream::Upstream;
use crate::mesh::{Mesh, eventually};

pub(super) fn policy(more: &str, limits: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: QuotaPolicy\nmetadata: {{ namespace: research, name: fair }}\n\
         spec: {{ servers: {{ names: [files] }}, {more} limits: [{limits}] }}\n"
    )
}

async fn tool(caller: &mut Caller, tool: &str) -> Answer {
    caller.call(tool, json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_each_caller_and_tool_is_hit_and_recovers_when_it_was_told_to() {
    let pair = Pair::start(Upstream::echo().await).await;
    pair.apply(&policy("", "{ name: calls, tools: ['*'], per: [caller, tool], rate: 2/2s }")).await;
    let (mut one, mut other) = (pair.caller("agents", "one").await, pair.caller("agents", "other").await);
    let began = Instant::now();
    let refused = loop {
        let told = tool(&mut one, "echo").await;
        if told.status != 200 {
            break told;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "the limit is never hit");
    };
    assert_eq!((refused.status, refused.code(), refused.reason()), (429, 4290, "limited"));
    assert_eq!(refused.headers["retry-after"], "1");
    let expected =
        json!({ "reason": "limited", "limit": "research/fair#calls", "window": "2/2s", "retryAfterSecs": 1 });
    assert_eq!(refused.json()["error"]["data"], expected);
    assert_eq!(refused.json()["id"], 7);
    assert_eq!(tool(&mut one, "other").await.status, 200, "another tool of the caller");
    assert_eq!(tool(&mut other, "echo").await.status, 200, "another caller of the tool");
    // What is told is true: after that time the same call passes.
    let until = Instant::now() + Duration::from_secs(1);
    eventually("the limit recovers", || Instant::now() >= until).await;
    assert_eq!(tool(&mut one, "echo").await.status, 200);
    let metrics = pair.inbound.metrics.text();
    let denied =
        "weft_sidecar_quota_decisions_total{policy=\"research/fair\",limit=\"calls\",outcome=\"denied\"} 1";
    assert!(metrics.contains(denied), "{metrics}");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_and_probes_pass_where_nothing_else_does() {
    let pair = Pair::start(Upstream::echo().await).await;
    pair.apply(&policy("", "{ budget: 1/month }")).await;
    let mut caller = pair.caller("agents", "one").await;
    assert_eq!(tool(&mut caller, "echo").await.status, 200);
    let refused = tool(&mut caller, "echo").await;
    assert_eq!((refused.status, refused.code(), refused.reason()), (429, 4291, "budget_spent"));
    let data = &refused.json()["error"]["data"];
    assert_eq!((&data["limit"], &data["window"]), (&json!("research/fair#0"), &json!("1/month")));
    assert!(data["retryAfterSecs"].as_u64().is_some_and(|secs| secs > 0 && secs <= 31 * 86_400));
    let listed = Answer::read(caller.send(modern("tools/list", "", json!({}))).await).await;
    assert_eq!(listed.status, 429, "a list is a call like any other");
    for _ in 0..5 {
        let told = Answer::read(caller.send(modern("server/discover", "", json!({}))).await).await;
        assert_eq!(told.status, 200);
        let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
        assert!(
            Answer::read(caller.send(legacy(&initialize, None)).await).await.json()["result"].is_object()
        );
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn saying_that_a_call_is_a_retry_makes_it_no_less_a_call() {
    let pair = Pair::start(Upstream::echo().await).await;
    pair.apply(&policy("", "{ budget: 2/month }")).await;
    let mut caller = pair.caller("agents", "one").await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let params = json!({ "name": "echo", "arguments": {}, "requestState": "x", "inputResponses": {} });
        statuses.push(Answer::read(caller.send(modern("tools/call", "echo", params)).await).await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_once_are_bounded_until_their_answers_end_and_whoever_waits_goes_next() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::with(upstream, json!({ "quotaWaitTimeout": "200ms" })).await;
    pair.apply(&policy("", "{ name: few, per: [server], concurrency: 1 }")).await;
    let (mut first, mut second) = (pair.caller("agents", "a").await, pair.caller("agents", "b").await);
    let (called, saying) = stream(&mut first, call(), &mut asked).await;
    let refused = Answer::read(second.send(call()).await).await;
    assert_eq!((refused.status, refused.code(), refused.reason()), (429, 4290, "limited"));
    assert_eq!(refused.json()["error"]["data"]["window"], "1 at once");
    // The answer has begun and not ended.
    drop(saying);
    assert!(rest(called).await.1);
    let (called, saying) = stream(&mut second, call(), &mut asked).await;
    drop(saying);
    assert!(rest(called).await.1, "the place is free again");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_gets_the_place_of_the_one_that_ends() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::with(upstream, json!({ "quotaWaitTimeout": "20s" })).await;
    pair.apply(&policy("", "{ concurrency: 1 }")).await;
    let (mut first, mut second) = (pair.caller("agents", "a").await, pair.caller("agents", "b").await);
    let (called, saying) = stream(&mut first, call(), &mut asked).await;
    {
        let waiting = second.send(call());
        tokio::pin!(waiting);
        assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "there is no place");
        drop(saying);
        assert!(rest(called).await.1);
        let (sender, response) = super::upstream::events();
        let given = async {
            asked.recv().await.unwrap().answer.send(response).unwrap();
            drop(sender);
        };
        let (response, ()) = tokio::join!(&mut waiting, given);
        assert_eq!(response.status(), 200);
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_in_shadow_refuses_nothing_and_is_seen_to_count() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let pair = Pair::logging(Upstream::echo().await, &log).await;
    pair.apply(&policy("shadow: true,", "{ name: calls, budget: 1/month }")).await;
    let mut caller = pair.caller("agents", "one").await;
    for _ in 0..3 {
        assert_eq!(tool(&mut caller, "echo").await.status, 200);
    }
    let metrics = pair.inbound.metrics.text();
    for (outcome, count) in [("near", 1), ("shadow_denied", 2), ("denied", 0)] {
        let line = format!("limit=\"calls\",outcome=\"{outcome}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    // Enforced, it goes on from what it counted.
    pair.apply(&policy("", "{ name: calls, budget: 1/month }")).await;
    assert_eq!(tool(&mut caller, "echo").await.code(), 4291);
    pair.stop().await;
    let lines = std::fs::read_to_string(&log).unwrap();
    let of = |name: &str| {
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line[name] == "research/fair#calls").count()
    };
    assert_eq!((of("shadowLimit"), of("limit")), (2, 1), "{lines}");
}

/// Two sidecars beside one server, and what each let pass when.
pub(super) struct Two {
    pub(super) mesh: Mesh,
    pub(super) sidecars: [Running; 2],
    pub(super) callers: [Caller; 2],
    began: Instant,
    passed: Vec<Duration>,
}

impl Two {
    /// How long a lease of theirs lasts.
    pub(super) const LEASE: Duration = Duration::from_secs(2);

    /// How their control plane is set, and one that comes after it.
    pub(super) fn quick(config: &mut Config) {
        config.quota.lease = Self::LEASE;
        config.quota.refresh = Duration::from_millis(200);
    }

    pub(super) async fn start(limits: &str, upstream: &Upstream) -> Self {
        let mesh = Mesh::with(Self::quick).await;
        let address = mesh.sidecars();
        Self::of(mesh, address, limits, upstream).await
    }

    /// The same with a control plane that is there, which sidecars find at an address.
    pub(super) async fn of(mesh: Mesh, address: SocketAddr, limits: &str, upstream: &Upstream) -> Self {
        mesh.apply(&pair::server(upstream.address, "")).await;
        mesh.apply(&policy("", limits)).await;
        let mut sidecars = Vec::new();
        for n in ["1", "2"] {
            let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
            let mut bootstrap = pair::joining(&mesh, "research", "files", listen, json!({})).await;
            bootstrap["node"]["id"] = json!(format!("research/files-{n}"));
            bootstrap["source"]["controlPlane"]["address"] = json!(address.to_string());
            sidecars.push(pair::start(bootstrap).await);
        }
        let Ok(sidecars) = <[Running; 2]>::try_from(sidecars) else { panic!("there are two") };
        let mut callers = Vec::new();
        for sidecar in &sidecars {
            let workload = mesh.workload("agents", "one").await;
            callers.push(Caller::connect(sidecar.inbound.unwrap(), workload).await);
        }
        let Ok(callers) = <[Caller; 2]>::try_from(callers) else { panic!("there are two") };
        Self { mesh, sidecars, callers, began: Instant::now(), passed: Vec::new() }
    }

    /// Calls as fast as answers come, one in ten of the second sidecar, for a time.
    async fn press(&mut self, time: Duration) -> usize {
        let (until, before) = (Instant::now() + time, self.passed.len());
        let mut n = 0;
        while Instant::now() < until {
            n += 1;
            let at = usize::from(n % 10 == 0);
            if tool(&mut self.callers[at], "echo").await.status == 200 {
                self.passed.push(self.began.elapsed());
            }
        }
        self.passed.len() - before
    }

    /// The most that passed in any time of this length.
    fn most_within(&self, window: Duration) -> usize {
        let within =
            |from: &Duration| self.passed.iter().filter(|at| **at >= *from && **at - *from < window).count();
        self.passed.iter().map(within).max().unwrap_or(0)
    }

    pub(super) async fn stop(self) {
        for sidecar in self.sidecars {
            sidecar.stop().await;
        }
        self.mesh.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_share_a_mesh_wide_limit_and_a_lowered_one_at_once() {
    let upstream = Upstream::echo().await;
    let limit = |amount: u32| {
        format!("{{ name: all, rate: {amount}/s, burst: {amount}, scope: mesh, whenUnavailable: deny }}")
    };
    let mut two = Two::start(&limit(40), &upstream).await;
    // Until every lease that an earlier control plane might have given is over, nothing is lent.
    let began = Instant::now();
    while two.press(Duration::from_millis(100)).await == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing is ever lent");
    }
    two.press(Duration::from_secs(1)).await;
    let passed = two.press(Duration::from_secs(4)).await;
    assert!(passed >= 152, "of 160 calls that the limit allows in 4 s, {passed} passed");
    // As of one bucket: the burst, and what flows meanwhile; and one more for the clocks.
    let most = two.most_within(Duration::from_secs(1));
    assert!(most <= 81, "{most} passed within a second");
    two.mesh.apply(&policy("", &limit(10))).await;
    two.press(Duration::from_secs(1)).await;
    let passed = two.press(Duration::from_secs(4)).await;
    assert!((38..=52).contains(&passed), "of 40 calls that the lowered limit allows in 4 s, {passed} passed");
    let standing = two.mesh.running.lender.standing();
    assert_eq!(standing.len(), 1);
    assert!(standing[0].lent.capacity <= 10_000 && standing[0].totals.allowed > 200, "{standing:?}");
    two.stop().await;
}
