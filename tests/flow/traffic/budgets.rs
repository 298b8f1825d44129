//! Budgets, from outside: shared by two sidecars to the last call and no further, over a control plane that ends and
//! begins anew; and those of one sidecar over its restart.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use weft_tests::link::Workload;

use super::pair::{self, Answer, Caller};
use super::quotas::{Two, policy};
use super::upstream::Upstream;
use crate::mesh::Mesh;
use crate::replicas::{self, Shared};

/// Of a refusal its code, of an answer 200.
fn code(answer: &Answer) -> i64 {
    if answer.status == 200 { 200 } else { answer.code() }
}

/// Calls of each of the callers in turn, until so many passed or all were told that the budget is spent. How many passed.
async fn press(callers: &mut [Caller], most: usize) -> usize {
    let (mut passed, mut refused, began) = (0, 0, Instant::now());
    while passed < most && refused < 2 * callers.len() {
        for caller in callers.iter_mut() {
            if passed == most {
                break;
            }
            let answer = caller.call("echo", json!({})).await;
            match code(&answer) {
                200 => (passed, refused) = (passed + 1, 0),
                4291 => refused += 1,
                // Nobody can say yet what is left.
                5039 => assert!(began.elapsed() < Duration::from_secs(30), "{answer:?}"),
                _ => panic!("{answer:?}"),
            }
        }
    }
    passed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_of_two_sidecars_is_spent_to_the_last_call_and_no_further_over_a_restart_of_its_keeper() {
    let upstream = Upstream::echo().await;
    let two = Two::start("{ name: spend, budget: 60/month, scope: mesh }", &upstream).await;
    let Two { mesh, sidecars, mut callers, .. } = two;
    // Most of it at one of them.
    let mut passed = press(&mut callers[..1], 20).await;
    passed += press(&mut callers, 10).await;
    assert_eq!(passed, 30);
    let standing = mesh.running.lender.standing();
    assert_eq!((standing.len(), standing[0].holders), (1, 2), "{standing:?}");
    assert!(standing[0].used_milli + standing[0].lent.capacity >= 30_000, "{standing:?}");

    let (address, folder) = (mesh.sidecars(), mesh.stop().await);
    // What was lent may be spent meanwhile, and nothing else.
    let began = Instant::now();
    let mut away = 0;
    loop {
        let answer = callers[0].call("echo", json!({})).await;
        match code(&answer) {
            200 => away += 1,
            5039 => break,
            _ => panic!("{answer:?}"),
        }
        assert!(away <= 30 && began.elapsed() < Duration::from_secs(20), "{away} passed while nobody lends");
    }
    passed += away;

    let again = |config: &mut _| {
        Two::quick(config);
        config.sidecars = address;
    };
    let mesh = Mesh::again(folder, again).await;
    passed += press(&mut callers, 100).await;
    assert!(passed <= 60, "{passed} calls passed of 60");
    // What was lent before the end and not given back then may be lost, a part of what was left.
    assert!(passed >= 50, "{passed} calls passed of 60");
    for sidecar in sidecars {
        sidecar.stop().await;
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_never_lent_twice_where_the_leader_is_killed_and_another_takes_its_place() {
    let (upstream, shared) = (Upstream::echo().await, Shared::new());
    // On threads of its own, which end as those of a process that is killed: in the midst of whatever they do.
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
    let of_first = shared.clone();
    let start = async move {
        let first = of_first.start("first", Two::quick).await;
        first.lead().await;
        first
    };
    let first = threads.spawn(Box::pin(start)).await.unwrap();
    let second = shared.start("second", Two::quick).await;
    second.follow(&first).await;
    let leader = watch::Sender::new(first.mesh.sidecars());
    let service = replicas::service(leader.subscribe()).await;
    let limits = "{ name: spend, budget: 60/month, scope: mesh }";
    let two = Two::of(first.mesh, service, limits, &upstream).await;
    let Two { mesh, sidecars, mut callers, .. } = two;
    let token = mesh.token("research", "later", 1).await;
    let mut passed = press(&mut callers[..1], 20).await;
    passed += press(&mut callers, 10).await;
    assert_eq!(passed, 30);
    let written = mesh.running.store.counts(None).await.unwrap();

    threads.shutdown_background();
    let head = second.mesh.running.store.head().await.unwrap();
    second.lead().await;
    leader.send_replace(second.mesh.sidecars());
    let kept = second.mesh.running.store.counts(None).await.unwrap();
    assert!(kept.len() == 1 && kept[0].milli >= 30_000 && kept[0].milli >= written[0].milli, "{kept:?}");
    assert_eq!(second.mesh.running.store.head().await.unwrap(), head, "nothing is written anew");
    passed += press(&mut callers, 100).await;
    assert!(passed <= 60, "{passed} calls passed of 60");
    // What was lent before the end and not given back then may be lost, a part of what was left.
    assert!(passed >= 45, "{passed} calls passed of 60");
    // A token that the one before made lets its workload in.
    Workload::join(second.mesh.stranger().await, &token).await.unwrap();
    for sidecar in sidecars {
        sidecar.stop().await;
    }
    second.mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_of_one_sidecar_goes_on_after_its_restart() {
    let upstream = Upstream::echo().await;
    let mesh = Mesh::start().await;
    mesh.apply(&pair::server(upstream.address, "")).await;
    mesh.apply(&policy("", "{ name: spend, per: [caller], budget: 6/month }")).await;
    let state = tempfile::tempdir().unwrap();
    for expected in [(4, 0), (2, 2), (0, 2), (0, 2)] {
        let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
        let mut bootstrap = pair::joining(&mesh, "research", "files", listen, json!({})).await;
        bootstrap["stateDir"] = json!(state.path());
        let sidecar = pair::start(bootstrap).await;
        let workload = mesh.workload("agents", "one").await;
        let mut caller = [Caller::connect(sidecar.inbound.unwrap(), workload).await];
        let passed = press(&mut caller, 4).await;
        assert_eq!(passed, expected.0);
        if expected.1 > 0 {
            assert_eq!(caller[0].call("echo", json!({})).await.code(), 4291);
        }
        // Nobody is left whom its end would wait for.
        drop(caller);
        sidecar.stop().await;
    }
    mesh.stop().await;
}
