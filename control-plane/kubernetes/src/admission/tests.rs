use std::sync::Mutex;

use axum::body::Body;
use axum::http;
use base64::Engine as _;
use proptest::prelude::*;
use serde_json::json;
use tower::ServiceExt as _;
use weft_proto::name::{HostPort, TrustDomain};

use super::*;
use crate::inject::settings::{Image, OnMistake};
use crate::inject::{Skip, uninject};

fn settings() -> Settings {
    Settings::new(
        TrustDomain::parse("corp.example").unwrap(),
        HostPort::parse("weft-control-plane.weft-system.svc:7500").unwrap(),
        Image::parse("weft-sidecar:1").unwrap(),
    )
}

fn asks(_: &str) -> Option<Labels> {
    Some(Labels::from([("weft.dev/inject".to_owned(), "enabled".to_owned())]))
}

fn pod() -> Value {
    json!({ "metadata": { "generateName": "files-", "ownerReferences": [
            { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "files-1", "uid": "r", "controller": true }] },
        "spec": { "serviceAccountName": "default", "containers": [{ "name": "server", "image": "files:1" }] } })
}

fn review_of(object: Value) -> Value {
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5", "kind": { "group": "", "version": "v1", "kind": "Pod" }, "resource": { "group": "", "version": "v1",
        "resource": "pods" }, "operation": "CREATE", "namespace": "research", "object": object, "oldObject": null, "dryRun": false } })
}

fn answered(review: &Value) -> (Value, Told) {
    let answered = mutate::answer(review.to_string().as_bytes(), &settings(), asks);
    let body: Value = serde_json::from_slice(&answered.body).unwrap();
    assert_eq!(
        (&body["apiVersion"], &body["kind"]),
        (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
    );
    (body["response"].clone(), answered.told)
}

/// The object as the API server makes it of the answer.
fn patched(object: &Value, response: &Value) -> Value {
    let mut object = object.clone();
    if let Some(patch) = response["patch"].as_str() {
        assert_eq!(response["patchType"], "JSONPatch");
        let patch = base64::engine::general_purpose::STANDARD.decode(patch).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        json_patch::patch(&mut object, &patch).unwrap();
    }
    object
}

#[test]
fn a_pod_without_name_and_namespace_of_its_own_gets_its_sidecar() {
    let (response, told) = answered(&review_of(pod()));
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("705ab4f5"), &json!(true)));
    let with = patched(&pod(), &response);
    assert_eq!(with["spec"]["initContainers"][0]["name"], "weft-sidecar");
    assert_eq!(uninject(&with).unwrap(), pod());
    assert_eq!(
        (told.namespace.as_str(), told.name.as_str(), told.outcome),
        ("research", "files-", Outcome::Injected)
    );
    assert_eq!(told.owner.map(|owner| owner.name), Some("files-1".to_owned()));
}

#[test]
fn asked_again_about_what_was_patched_nothing_more_is_done() {
    let (response, _) = answered(&review_of(pod()));
    let with = patched(&pod(), &response);
    let (response, told) = answered(&review_of(with));
    assert_eq!(response, json!({ "uid": "705ab4f5", "allowed": true }));
    assert_eq!(told.outcome, Outcome::Skipped(Skip::AlreadyInjected));
}

#[test]
fn the_namespace_is_that_of_the_question() {
    let mut review = review_of(pod());
    review["request"]["namespace"] = json!("weft-system");
    let (response, told) = answered(&review);
    assert_eq!(response, json!({ "uid": "705ab4f5", "allowed": true }));
    assert_eq!(told.outcome.word(), "own-namespace");
}

#[test]
fn other_questions_pass_untouched() {
    for (field, value) in [
        ("operation", json!("UPDATE")),
        ("operation", json!("DELETE")),
        ("operation", json!("CONNECT")),
        ("subResource", json!("ephemeralcontainers")),
        ("kind", json!({ "group": "apps", "version": "v1", "kind": "Deployment" })),
        ("kind", json!({ "group": "", "version": "v2", "kind": "Pod" })),
    ] {
        let mut review = review_of(pod());
        review["request"][field] = value;
        let (response, told) = answered(&review);
        assert_eq!((response, told.outcome), (json!({ "uid": "705ab4f5", "allowed": true }), Outcome::Other));
    }
}

#[test]
fn a_pod_that_cannot_have_a_sidecar_is_created_with_a_warning() {
    let mut host = pod();
    host["spec"]["hostNetwork"] = json!(true);
    let (response, told) = answered(&review_of(host));
    assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None));
    assert!(
        response["warnings"][0]
            .as_str()
            .unwrap()
            .starts_with("weft: no sidecar: it uses the network of its node")
    );
    assert_eq!(told.outcome.word(), "host-network");
}

#[test]
fn a_mistake_keeps_a_pod_from_being_created_unless_that_is_not_wanted() {
    let mut wrong = pod();
    wrong["metadata"]["annotations"] = json!({ "weft.dev/port": "http" });
    let (response, _) = answered(&review_of(wrong.clone()));
    assert_eq!(
        response,
        json!({ "uid": "705ab4f5", "allowed": false, "status": { "code": 400,
            "message": "no sidecar: weft.dev/port: \"http\" holds no port between 1 and 65535" } })
    );
    let lenient = Settings { on_mistake: OnMistake::Skip, ..settings() };
    let answered = mutate::answer(review_of(wrong).to_string().as_bytes(), &lenient, asks);
    let body: Value = serde_json::from_slice(&answered.body).unwrap();
    assert_eq!((&body["response"]["allowed"], body["response"].get("patch")), (&json!(true), None));
    assert!(body["response"]["warnings"][0].as_str().unwrap().contains("weft.dev/port"));
}

#[test]
fn a_pod_of_a_megabyte_is_answered() {
    let mut large = pod();
    let env: Vec<_> =
        (0..1000).map(|n| json!({ "name": format!("V{n}"), "value": "x".repeat(1000) })).collect();
    large["spec"]["containers"][0]["env"] = env.into();
    let (response, _) = answered(&review_of(large.clone()));
    // What is large and stays is not in the answer.
    assert!(response["patch"].as_str().unwrap().len() < 20_000);
    assert_eq!(uninject(&patched(&large, &response)).unwrap(), large);
}

#[test]
fn what_is_no_question_is_answered_with_a_message() {
    for body in [
        "",
        "null",
        "{",
        "[]",
        "{\"request\":7}",
        "{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\"}",
    ] {
        let answered = mutate::answer(body.as_bytes(), &settings(), asks);
        let answer: Value = serde_json::from_slice(&answered.body).unwrap();
        assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&json!(""), &json!(false)));
        assert!(
            answer["response"]["status"]["message"].as_str().unwrap().starts_with("the review"),
            "{body}"
        );
        assert_eq!(answered.told.outcome.word(), "misunderstood");
    }
    for object in [json!(null), json!(7), json!([]), json!({ "spec": { "containers": 7 } })] {
        let (response, told) = answered(&review_of(object));
        assert_eq!((&response["allowed"], told.outcome.word()), (&json!(false), "malformed"));
    }
}

struct Tried {
    router: Router,
    metrics: Arc<Metrics>,
    told: Arc<Mutex<Vec<Told>>>,
}

fn door(change: impl FnOnce(&mut Deps)) -> Tried {
    let (metrics, told) = (Arc::new(Metrics::new()), Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&told);
    let mut deps = Deps {
        injector: Some(Injector {
            settings: Arc::new(settings()),
            namespaces: Arc::new(asks),
            told: Arc::new(move |it| heard.lock().unwrap().push(it)),
        }),
        judge: None,
        metrics: Arc::clone(&metrics),
        limits: Limits::default(),
    };
    change(&mut deps);
    Tried { router: router(deps), metrics, told }
}

impl Tried {
    async fn ask(&self, path: &str, body: impl Into<Body>) -> (StatusCode, Bytes) {
        let request = http::Request::post(path).body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap())
    }

    fn count(&self, reason: &'static str) -> u64 {
        self.metrics.admissions.get_or_create(&ReasonLabel { reason }).get()
    }
}

#[tokio::test]
async fn the_door_answers_counts_and_tells() {
    let door = door(|_| ());
    let (status, body) = door.ask("/inject", review_of(pod()).to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["response"]["allowed"], true);
    assert_eq!((door.count("injected"), door.told.lock().unwrap().len()), (1, 1));
    assert_eq!(door.ask("/validate", "{}").await.0, StatusCode::NOT_FOUND);
    let get = http::Request::get("/inject").body(Body::empty()).unwrap();
    assert_eq!(door.router.clone().oneshot(get).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_dry_run_is_answered_alike_and_leaves_no_trace() {
    let door = door(|_| ());
    let mut review = review_of(pod());
    let (_, real) = door.ask("/inject", review.to_string()).await;
    review["request"]["dryRun"] = json!(true);
    let (_, dry) = door.ask("/inject", review.to_string()).await;
    assert_eq!(real, dry);
    assert_eq!((door.count("injected"), door.told.lock().unwrap().len()), (1, 1));
}

#[tokio::test]
async fn a_question_that_is_too_large_is_not_read_to_its_end() {
    let door = door(|_| ());
    let (status, _) = door.ask("/inject", vec![b' '; BODY_BYTES_MAX + 1]).await;
    assert_eq!((status, door.count("unread")), (StatusCode::PAYLOAD_TOO_LARGE, 1));
}

#[tokio::test]
async fn a_panic_ends_nothing_but_its_question() {
    let door = door(|deps| {
        deps.injector.as_mut().unwrap().namespaces =
            Arc::new(|name| if name == "research" { panic!("as meant") } else { asks(name) })
    });
    let (status, _) = door.ask("/inject", review_of(pod()).to_string()).await;
    assert_eq!((status, door.count("panicked")), (StatusCode::INTERNAL_SERVER_ERROR, 1));
    assert_eq!(door.metrics.panics.get(), 1);
    let mut other = review_of(pod());
    other["request"]["namespace"] = json!("agents");
    assert_eq!(door.ask("/inject", other.to_string()).await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_does_not_come_to_its_end_is_answered_in_time() {
    let door = door(|_| ());
    let endless = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let (status, _) = door.ask("/inject", endless).await;
    assert_eq!((status, door.count("timed-out")), (StatusCode::SERVICE_UNAVAILABLE, 1));
}

#[tokio::test(start_paused = true)]
async fn questions_beyond_the_limit_wait_and_are_answered_in_time() {
    let door = door(|deps| deps.limits.in_flight_max = 1);
    let router = door.router.clone();
    let endless = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let slow = http::Request::post("/inject").body(endless).unwrap();
    let slow = tokio::spawn(router.oneshot(slow));
    tokio::task::yield_now().await;
    let (status, _) = door.ask("/inject", review_of(pod()).to_string()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    // Whoever held the place has left it.
    assert_eq!(door.ask("/inject", review_of(pod()).to_string()).await.0, StatusCode::OK);
}

#[tokio::test]
async fn objects_are_judged_where_somebody_does() {
    let door = door(|deps| {
        deps.judge = Some(Arc::new(|request: &Value| match request["object"]["good"] == json!(true) {
            true => Answer { warnings: vec!["mind".to_owned()], ..Answer::allowed() },
            false => Answer::refused(422, "spec: is wrong"),
        }));
    });
    let ask = async |object: Value| {
        let (status, body) = door.ask("/validate", review_of(object).to_string()).await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice::<Value>(&body).unwrap()["response"].clone()
    };
    assert_eq!(
        ask(json!({ "good": true })).await,
        json!({ "uid": "705ab4f5", "allowed": true, "warnings": ["mind"] })
    );
    let refused = ask(json!({})).await;
    assert_eq!(
        (&refused["allowed"], &refused["status"]["message"]),
        (&json!(false), &json!("spec: is wrong"))
    );
    assert_eq!((door.count("valid"), door.count("invalid")), (1, 1));
    let (_, body) = door.ask("/validate", "{").await;
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["response"]["allowed"], false);
}

proptest! {
    #[test]
    fn whatever_comes_is_answered(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let answered = mutate::answer(&body, &settings(), asks);
        prop_assert!(serde_json::from_slice::<Value>(&answered.body).is_ok());
    }

    /// A question in which one thing is something else is answered; if with a patch, with one that can be taken back.
    #[test]
    fn a_question_that_is_bent_somewhere_is_answered(at in 0_usize..40, kind in 0_usize..7) {
        let with = [json!(null), json!(-1), json!(1e300), json!(""), json!([]), json!({}), json!([{ "name": 7 }])][kind].clone();
        let mut review = review_of(pod());
        let mut left = at;
        bend(&mut review, &mut left, &with);
        let answered = mutate::answer(review.to_string().as_bytes(), &settings(), asks);
        let response: Value = serde_json::from_slice(&answered.body).unwrap();
        let object = &review["request"]["object"];
        let made = patched(object, &response["response"]);
        if made != *object {
            prop_assert_eq!(&uninject(&made).unwrap(), object);
        }
    }
}

fn bend(value: &mut Value, left: &mut usize, with: &Value) -> bool {
    if *left == 0 {
        *value = with.clone();
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| bend(item, left, with)),
        Value::Object(fields) => fields.values_mut().any(|field| bend(field, left, with)),
        _ => false,
    }
}
