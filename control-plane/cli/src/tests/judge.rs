use serde_json::{Value, json};

use super::super::report::{Outcome, Report};
use super::*;
use crate::client;

fn now() -> Timestamp {
    "2026-05-01T12:00:00Z".parse().unwrap()
}

fn sidecar(node: &str, change: impl FnOnce(&mut Value)) -> Sidecar {
    let mut value = json!({ "node": node, "connected": true, "sync": "synced",
        "certificate": { "expiresAt": "2026-05-02T12:00:00Z" } });
    change(&mut value);
    client::read(value).unwrap()
}

#[test]
fn versions_one_minor_apart_go_together() {
    let check = |one, other, expected| assert_eq!(skew(one, other).outcome, expected, "{one} {other}");
    check("0.1.0", "0.1.9", Outcome::Ok);
    check("0.1.0", "0.2.0-rc.1", Outcome::Ok);
    check("0.3.0", "0.1.0", Outcome::Warning);
    check("1.0.0", "0.1.0", Outcome::Warning);
    check("0.1.0", "", Outcome::Warning);
}

#[test]
fn every_change_is_published_whatever_else_the_store_holds() {
    let check = |at, newest, expected| assert_eq!(published(at, newest).outcome, expected);
    check(Some(7), Some(7), Outcome::Ok);
    check(Some(7), Some(3), Outcome::Ok);
    check(Some(1), None, Outcome::Ok);
    check(Some(6), Some(7), Outcome::Failed);
    check(None, Some(7), Outcome::Failed);
}

#[test]
fn certificates_are_warned_of_at_sixty_thirty_and_seven_days() {
    let check = |days: i64, expected, said: &str| {
        let at = Timestamp::from_second(now().as_second() + days * 86_400 - 60).unwrap();
        let finding = lifetime("root", "r", &at.to_string(), now(), "rotate");
        assert_eq!(finding.outcome, expected, "{days}");
        assert!(finding.why.contains(said), "{finding:?}");
        assert_eq!(finding.remedy.is_empty(), expected == Outcome::Ok);
    };
    check(61, Outcome::Ok, "");
    check(60, Outcome::Warning, "less than 60 days");
    check(30, Outcome::Warning, "less than 30 days");
    check(7, Outcome::Warning, "less than 7 days");
    check(0, Outcome::Failed, "no certificate made under it is believed");
}

#[test]
fn a_mesh_without_roots_fails() {
    assert_eq!(roots(&Trust::default(), now())[0].outcome, Outcome::Failed);
}

#[test]
fn sidecars_are_judged_by_what_is_wrong_with_them() {
    let check = |change: fn(&mut Value), expected: [Outcome; 4]| {
        let all = [sidecar("a/good", |_| {}), sidecar("a/other", change)];
        let found = sidecars(&all, now());
        let outcomes: Vec<_> = found.iter().map(|finding| finding.outcome).collect();
        assert_eq!(outcomes, expected, "{found:?}");
        let wrong = found.iter().filter(|finding| finding.outcome != Ok);
        assert!(
            wrong.clone().all(|finding| finding.detail.contains("a/other") && !finding.remedy.is_empty())
        );
    };
    use Outcome::{Failed, Ok, Warning};
    check(|_| {}, [Ok, Ok, Ok, Ok]);
    check(|it| it["connected"] = json!(false), [Failed, Ok, Ok, Ok]);
    check(|it| it["sync"] = json!("waiting"), [Ok, Warning, Ok, Ok]);
    check(|it| it["sync"] = json!("rejected"), [Ok, Ok, Failed, Ok]);
    check(|it| it["certificate"]["expiresAt"] = json!("2026-05-01T12:30:00Z"), [Ok, Ok, Ok, Warning]);
    check(|it| it["certificate"]["expiresAt"] = json!("2026-05-01T11:30:00Z"), [Ok, Ok, Ok, Failed]);
}

#[test]
fn a_long_list_of_sidecars_is_cut() {
    let all: Vec<_> =
        (0..8).map(|n| sidecar(&format!("a/{n}"), |it| it["connected"] = json!(false))).collect();
    assert_eq!(sidecars(&all, now())[0].detail, "disconnected: a/0, a/1, a/2, a/3, a/4 and 3 more");
}

#[test]
fn the_report_says_what_is_wrong_why_and_what_to_do() {
    let mut report = Report::default();
    report.add("state", vec![skew("0.1.0", "0.1.0"), published(Some(6), Some(7))]);
    assert_eq!(
        report.render(false),
        "state\n  ✓ version skew: command 0.1.0, control plane 0.1.0\n  ✗ published revision: the newest change is 7, \
         but 6 is published\n      why: sidecars are not told the latest changes\n      do: look for errors of the \
         planner in the control plane's log; restart it if it does not recover\n\nfailed: 1; warnings: 0\n"
    );
    assert_eq!(report.to_json()["groups"][0]["checks"][1]["outcome"], "failed");
    assert_eq!(report.to_json()["ok"], false);
}
