//! Quotas, as operators ask for them.

use std::sync::Arc;

use weft_proto::name::{NodeId, SpiffeId};
use weft_proto::pb::weft::quota::v1::{KeyPart, LeaseDemand, LeaseReport, LimitKey};
use weft_proto::policy::quota::Plan;
use weft_proto::resource::{Resource, Spec, parse_one};
use weft_proto::wire::{Meta, Object};

use super::*;

fn fair() -> String {
    let limit = "{ name: calls, per: [caller], rate: 10/min, scope: mesh }";
    let spec = format!("{{ servers: {{ names: [files] }}, limits: [{limit}] }}");
    document("QuotaPolicy", "research", "fair", &spec)
}

/// What a sidecar holds since before the control plane began, and what it counted.
fn report(resource: &Resource, sequence: u64, allowed: u64, denied: u64) -> LeaseReport {
    let Spec::QuotaPolicy(spec) = &resource.spec else { panic!("it is a policy") };
    let plan = Plan::new(&[Arc::new(Object { meta: Meta::new(&resource.metadata, 0), spec: spec.clone() })]);
    let key = LimitKey {
        policy: "research/fair".to_owned(),
        limit: plan.limits()[0].identity.to_string(),
        parts: vec![KeyPart { dimension: "caller".to_owned(), value: Some("a/b".to_owned()) }],
    };
    let demand = LeaseDemand {
        key: Some(key),
        has_milli: 4000,
        has_burst_milli: 4000,
        wants_milli: 3000,
        allowed_total: allowed,
        denied_total: denied,
        cost_milli_total: allowed * 1000,
        epoch: 1,
        ..LeaseDemand::default()
    };
    LeaseReport { session: 1, sequence, demands: vec![demand], node: "research/files-0".to_owned() }
}

#[tokio::test]
async fn mesh_wide_limits_are_told_as_they_are_lent_and_used() {
    let mesh = Mesh::start().await;
    let list = async |query: &str| mesh.admin("GET", &format!("/v1/quotas{query}"), "").await.ok();
    assert_eq!(list("").await, json!({ "items": [], "leftOut": 0 }));
    mesh.apply(&(server("files", "") + &server("other", "") + &fair())).await;
    let policy = Arc::new(parse_one("fair.yaml", &fair()).unwrap());
    let identity = SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap();
    let node = NodeId::parse("research/files-0").unwrap();
    let (holder, _grants) = mesh.lender.open(&identity, &node, 1).unwrap();
    for (sequence, allowed, denied) in [(1, 5, 0), (2, 8, 2)] {
        let report = report(&policy, sequence, allowed, denied);
        mesh.lender.report(holder, &report, |_, _| Some(Arc::clone(&policy)));
    }
    let expected = json!({ "leftOut": 0, "items": [{
        "policy": "research/fair", "limit": "calls", "per": [{ "dimension": "caller", "value": "a/b" }],
        "amount": "10/min", "capacity": 10.0, "lent": 4.0, "used": 3.0, "allowed": 8, "denied": 2,
        "holders": 1, "overdue": 0, "learning": true,
    }] });
    assert_eq!(list("").await, expected);
    assert_eq!(list("?policy=research/fair&server=research/files").await, expected);
    let none = json!({ "items": [], "leftOut": 0 });
    assert_eq!(list("?policy=research/unfair").await, none);
    assert_eq!(list("?server=research/other").await, none);
    assert_eq!(list("?server=research/gone").await, none);
    mesh.admin("GET", "/v1/quotas?policy=fair", "").await.refused(400, "bad-parameter");
}
