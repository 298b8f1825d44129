//! Changes of the configuration under open streams: a stream outlives whatever does not concern it, and what does
//! concern it counts from the next call.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;
use weft_tests::link::Workload;

use super::doors;
use super::pair::{self, Pair};
use super::streams::{call, legacy_listen, listen, rest, stream, until};
use super::upstream::Upstream;
use crate::mesh::eventually;

const POLICY: &str = "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\n\
    metadata: { namespace: research, name: readers }\n\
    spec: { servers: { names: [files] }, rules: [{ action: allow, from: [{ namespaces: [agents] }] }] }\n";

/// Another server beside the same workload.
fn other(label: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\n\
         metadata: {{ namespace: research, name: other, labels: {{ tier: {label} }} }}\n\
         spec: {{ workload: {{ labels: {{ app: files }}, port: 1 }} }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_outlive_every_change_that_is_not_theirs() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let (mut calling, mut listening) =
        (pair.caller("agents", "calling").await, pair.caller("agents", "listening").await);
    let (mut called, said) = stream(&mut calling, call(), &mut asked).await;
    let (mut listened, told) = stream(&mut listening, listen(), &mut asked).await;
    let address = pair.upstream.address;
    let timeouts = pair::server(address, "timeouts: { call: 7s, idle: 9s }");
    let in_flight = pair::server(address, "inFlight: { max: 3 }");
    let narrower = POLICY.replace("agents", "'a*'");
    let changes = [POLICY, &other("one"), &other("two"), &timeouts, &in_flight, &narrower];
    for (n, change) in changes.into_iter().enumerate() {
        pair.apply(change).await;
        // The same again changes nothing, and must not look as if it did.
        pair.mesh.apply(change).await;
        for (response, sender) in [(&mut called, &said), (&mut listened, &told)] {
            let event = format!("data: {n}\n\n");
            sender.send(event.clone().into()).await.unwrap_or_else(|_| panic!("cut by {change}"));
            assert_eq!(until(response, |text| text.len() >= event.len()).await, event);
        }
    }
    drop((said, told));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_no_longer_allowed_ends_with_the_reason_and_others_go_on() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let (mut calling, mut listening) =
        (pair.caller("agents", "calling").await, pair.caller("agents", "listening").await);
    let (mut oldest, mut staying) =
        (pair.caller("agents", "oldest").await, pair.caller("staff", "staying").await);
    let (called, said) = stream(&mut calling, call(), &mut asked).await;
    let (listened, told) = stream(&mut listening, listen(), &mut asked).await;
    let (legacy, heard) = stream(&mut oldest, legacy_listen(), &mut asked).await;
    let (mut stays, still) = stream(&mut staying, call(), &mut asked).await;
    // Within an event nothing may come between.
    said.send("data: begun".into()).await.unwrap();
    pair.apply(&POLICY.replace("agents", "staff")).await;
    let refused = |text: &str| {
        let data = text.rsplit_once("data: ").unwrap().1.trim_end();
        let message: serde_json::Value = serde_json::from_str(data).unwrap();
        (message["id"].clone(), message["error"]["code"].clone(), message["error"]["data"]["reason"].clone())
    };
    let denied = (json!(7), json!(4030), json!("denied"));
    let (text, whole) = rest(listened).await;
    assert_eq!((refused(&text), whole), (denied.clone(), true));
    said.send(" and ended\n\n".into()).await.unwrap();
    let (text, whole) = rest(called).await;
    assert!(text.starts_with("data: begun and ended\n\n"), "{text}");
    assert_eq!((refused(&text), whole), (denied, true));
    assert_eq!(rest(legacy).await, (String::new(), true), "there is no request to answer");
    for ended in [said, told, heard] {
        timeout(Duration::from_secs(10), ended.closed()).await.expect("the server is told");
    }
    still.send("data: 1\n\n".into()).await.unwrap();
    assert_eq!(until(&mut stays, |text| text.len() >= 9).await, "data: 1\n\n");
    drop(still);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_of_either_side_ends_no_stream() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let mut caller = pair.caller("agents", "calling").await;
    let (mut called, said) = stream(&mut caller, call(), &mut asked).await;
    let channel = pair.mesh.connect(&caller.workload).await.unwrap();
    caller.workload.renew(channel).await.unwrap();
    let before = pair.inbound.identity.leaf().unwrap().serial;
    let sidecar = Workload { live: pair.inbound.identity.clone(), trust: caller.workload.trust.clone() };
    sidecar.renew(pair.mesh.connect(&sidecar).await.unwrap()).await.unwrap();
    assert_ne!(pair.inbound.identity.leaf().unwrap().serial, before);
    said.send("data: 1\n\n".into()).await.unwrap();
    assert_eq!(until(&mut called, |text| text.len() >= 9).await, "data: 1\n\n");
    let mut again = pair::Caller::connect(pair.inbound.inbound.unwrap(), caller.workload.clone()).await;
    let (_, said_again) = stream(&mut again, call(), &mut asked).await;
    drop((said, said_again));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_moves_gets_the_next_call_while_an_old_stream_goes_on() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let (mut calling, mut next) =
        (pair.caller("agents", "calling").await, pair.caller("agents", "next").await);
    let (mut called, said) = stream(&mut calling, call(), &mut asked).await;
    let moved = Upstream::echo().await;
    let label = |pair: &Pair| pair.inbound.servers.all()[0].spec.location.clone();
    let before = label(&pair);
    pair.apply(&pair::server(moved.address, "")).await;
    eventually("the sidecar follows", || label(&pair) != before).await;
    assert_eq!(next.call("echo", json!({})).await.status, 200);
    assert_eq!(moved.seen().len(), 1);
    said.send("data: 1\n\n".into()).await.unwrap();
    assert_eq!(until(&mut called, |text| text.len() >= 9).await, "data: 1\n\n");
    drop(said);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_ends_the_connection_that_it_opened() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let (mut revoked, mut other) =
        (pair.caller("agents", "revoked").await, pair.caller("agents", "other").await);
    let (called, _said) = stream(&mut revoked, call(), &mut asked).await;
    let (mut kept, said) = stream(&mut other, call(), &mut asked).await;
    let serial = revoked.workload.live.leaf().unwrap().serial;
    pair.mesh.running.trust.revoke(&serial).await.unwrap();
    assert_eq!(rest(called).await, (String::new(), false));
    let open = || doors::value(&pair.inbound, "connections{listener=\"inbound\"}");
    eventually("the connection is closed", || open() == 1).await;
    let again = pair::Caller::try_connect(pair.inbound.inbound.unwrap(), revoked.workload.clone()).await;
    // In TLS 1.3 a client hears of its certificate's refusal only with the first answer.
    if let Ok(mut again) = again {
        assert!(again.try_send(call()).await.is_err());
    }
    said.send("data: 1\n\n".into()).await.unwrap();
    assert_eq!(until(&mut kept, |text| text.len() >= 9).await, "data: 1\n\n");
    drop(said);
    pair.stop().await;
}
