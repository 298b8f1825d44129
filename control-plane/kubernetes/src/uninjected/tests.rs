use kube::runtime::watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
use serde_json::{Value, json};

use super::*;
use crate::admission::mutate::Labels;
use crate::inject::Settings;

fn settings() -> Settings {
    Settings::parse("trustDomain: corp.example\ncontrolPlane: cp.weft-system.svc:7500\nimage: i\n").unwrap()
}

fn pod(namespace: &str, name: &str, uid: &str, labels: &Value) -> PartialObjectMeta<Pod> {
    let metadata = json!({ "namespace": namespace, "name": name, "uid": uid, "labels": labels });
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

/// `shop` asks for sidecars, `plain` does not, and nobody knows `news`.
fn labels(namespace: &str) -> Option<Labels> {
    match namespace {
        "shop" => Some([("weft.dev/inject".to_owned(), "enabled".to_owned())].into()),
        "news" => None,
        _ => Some(Labels::new()),
    }
}

fn read(pods: impl IntoIterator<Item = PartialObjectMeta<Pod>>) -> Candidates {
    let mut candidates = Candidates::new(&"weft-system".parse().unwrap());
    candidates.take(Init);
    assert!(!candidates.is_read());
    pods.into_iter().for_each(|it| candidates.take(InitApply(it)));
    candidates.take(InitDone);
    assert!(candidates.is_read());
    candidates.ask(&settings(), labels);
    candidates
}

fn names<'a>(some: impl IntoIterator<Item = &'a Name>) -> Vec<String> {
    some.into_iter().map(|it| format!("{}/{}", it.namespace, it.name)).collect()
}

fn unknown(candidates: &Candidates) -> Vec<String> {
    names(candidates.unknown(100).iter().map(|(name, _)| name))
}

fn all_missing(candidates: &mut Candidates) {
    for (name, uid) in candidates.unknown(usize::MAX) {
        candidates.judged(&name, &uid, Verdict::Missing);
    }
}

#[test]
fn those_are_looked_at_that_ask_by_their_own_labels_or_their_namespaces() {
    let enabled = json!({ "weft.dev/inject": "enabled" });
    let candidates = read([
        pod("shop", "a", "1", &json!(null)),
        pod("shop", "b", "2", &json!({ "weft.dev/inject": "disabled" })),
        pod("shop", "c", "3", &json!({ "weft.dev/revision": "canary" })),
        pod("plain", "a", "4", &json!({ "app": "x" })),
        pod("plain", "b", "5", &enabled),
        pod("news", "a", "6", &enabled),
        pod("kube-system", "a", "7", &enabled),
        pod("weft-system", "a", "8", &enabled),
    ]);
    assert_eq!(unknown(&candidates), ["plain/b", "shop/a"]);
    assert_eq!(candidates.unknown(1).len(), 1);
}

#[test]
fn what_is_known_of_a_pod_holds_until_it_goes_or_another_comes_in_its_place() {
    let mut candidates = read([pod("shop", "a", "1", &json!({})), pod("shop", "b", "2", &json!({}))]);
    all_missing(&mut candidates);
    assert_eq!(names(candidates.missing()), ["shop/a", "shop/b"]);
    let now = Instant::now();
    candidates.untold(now).for_each(|(_, it)| it.told_at = Some(now));
    // Notes on it change nothing, nor does a whole list.
    candidates.take(Apply(pod("shop", "a", "1", &json!({ "app": "x" }))));
    candidates.take(Init);
    candidates.take(InitApply(pod("shop", "a", "1", &json!({}))));
    candidates.take(InitApply(pod("shop", "b", "3", &json!({}))));
    assert_eq!(
        names(candidates.missing()),
        ["shop/b"],
        "a waits to be asked, and a list is no news before its end"
    );
    candidates.take(InitDone);
    candidates.ask(&settings(), labels);
    assert_eq!(
        (names(candidates.missing()), unknown(&candidates)),
        (vec!["shop/a".to_owned()], vec!["shop/b".to_owned()])
    );
    assert_eq!(candidates.untold(now).count(), 0);
    assert_eq!(candidates.untold(now + Duration::from_secs(3600)).count(), 1);
    // A judgement that comes late is none of the pod that has the name now.
    candidates.judged(&candidates.unknown(1)[0].0.clone(), "2", Verdict::Missing);
    assert_eq!(names(candidates.missing()), ["shop/a"]);
    candidates.take(Delete(pod("shop", "a", "1", &json!({}))));
    assert_eq!(candidates.missing().count(), 0);
}

#[test]
fn whoever_is_labelled_not_to_have_one_is_missed_no_more() {
    let mut candidates = read([pod("shop", "a", "1", &json!({}))]);
    all_missing(&mut candidates);
    candidates.take(Apply(pod("shop", "a", "1", &json!({ "weft.dev/inject": "disabled" }))));
    candidates.ask(&settings(), labels);
    assert_eq!(candidates.missing().count(), 0);
    candidates.ask(&settings(), |_| None);
    assert_eq!(unknown(&candidates).len(), 0);
}

#[test]
fn a_pod_that_is_about_to_go_is_let_go() {
    let mut candidates = read([pod("shop", "a", "1", &json!({}))]);
    let mut going = pod("shop", "a", "1", &json!({}));
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    candidates.take(Apply(going));
    assert!(unknown(&candidates).is_empty());
}

#[test]
fn more_pods_than_are_kept_are_told_of_as_more() {
    let mut candidates = read((0..PODS_MAX).map(|it| pod("plain", &it.to_string(), "1", &json!({}))));
    assert!(!candidates.is_beyond());
    candidates.take(Apply(pod("plain", "0", "1", &json!({}))));
    assert!(!candidates.is_beyond(), "it is there already");
    candidates.take(Apply(pod("plain", "more", "1", &json!({}))));
    assert!(candidates.is_beyond());
}

#[test]
fn namespaces_beyond_the_first_hundred_are_counted_together() {
    let metrics = Metrics::new();
    let all: Vec<String> = (0..NAMESPACES_MAX + 20).map(|it| format!("n{it:04}")).collect();
    count(&metrics, all.iter().flat_map(|it| [it.as_str(), it.as_str()]));
    let of = |namespace: &str| {
        let label = NamespaceLabel { namespace: namespace.to_owned() };
        metrics.cluster_namespace_pods_without_sidecar.get_or_create(&label).get()
    };
    assert_eq!(
        (metrics.cluster_pods_without_sidecar.get(), of("n0000"), of("n0099"), of("")),
        (240, 2, 2, 40)
    );
    count(&metrics, std::iter::empty());
    assert_eq!((metrics.cluster_pods_without_sidecar.get(), of("n0000")), (0, 0));
}
