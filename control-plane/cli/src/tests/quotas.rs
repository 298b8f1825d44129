//! How limits stand.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::fake::{Fake, ok, problem};
use crate::failure::ExitCode;

fn counts() -> Value {
    let count = |limit: &str, caller: Option<&str>, used: f64, learning: bool| {
        json!({ "policy": "research/fair", "limit": limit, "per": [{ "dimension": "caller", "value": caller }],
            "amount": "10/min", "capacity": 10.0, "lent": 10.0, "used": used, "allowed": 7, "denied": 2, "holders": 3,
            "learning": learning })
    };
    json!({ "leftOut": 4, "items": [
        count("calls", Some("c/z"), 9.25, false),
        count("calls", Some("a/b"), 3.0, false),
        count("calls", None, 0.0, true),
    ] })
}

#[tokio::test]
async fn limits_are_shown_by_name_with_what_is_used_and_lent() {
    let fake = Fake::start(|_| ok(counts())).await;
    let ran = fake.run(&["quota", "status", "--policy", "research/fair", "--of", "research/files"]).await;
    let expected = "\
POLICY         LIMIT  PER         AMOUNT  USED       LENT  HOLDERS  DENIED  STATE
research/fair  calls  caller=-    10/min  0 (0%)     10    3        2       learning
research/fair  calls  caller=a/b  10/min  3 (30%)    10    3        2       lending
research/fair  calls  caller=c/z  10/min  9.2 (92%)  10    3        2       lending
";
    assert_eq!(ran.done().out, expected);
    ran.ended(ExitCode::Done, &["4 more are used less and not shown"]);
    assert_eq!(fake.lines(), ["GET /v1/quotas?policy=research%2Ffair&server=research%2Ffiles"]);
    let ran = fake.run(&["quota", "status", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&ran.done().out).unwrap(), counts());
}

#[tokio::test]
async fn where_no_limit_is_shared_it_is_said_where_the_others_are_counted() {
    let fake = Fake::start(|_| ok(json!({ "items": [], "leftOut": 0 }))).await;
    let ran = fake.run(&["quota", "status"]).await;
    assert_eq!(ran.done().out, "");
    ran.ended(ExitCode::Done, &["no mesh-wide limit is in use", "weft_sidecar_quota_used"]);
}

#[tokio::test]
async fn the_top_is_drawn_by_use_until_there_is_no_answer() {
    let seen = AtomicBool::new(false);
    let fake = Fake::start(move |_| match seen.swap(true, Ordering::Relaxed) {
        false => ok(counts()),
        true => problem(401, "unauthenticated", "the key has expired"),
    })
    .await;
    let ran = fake.run(&["quota", "top", "--every", "100ms"]).await;
    ran.ended(ExitCode::Refused, &["the key has expired"]);
    let at = |text: &str| ran.out.find(text).unwrap_or_else(|| panic!("{text:?} is not in {}", ran.out));
    assert!(at("caller=c/z") < at("caller=a/b") && at("caller=a/b") < at("caller=-"), "{}", ran.out);
    assert!(at("… 4 more are used less") > at("caller=-"));
    assert_eq!(fake.lines().len(), 2);
}
