//! What it costs to put a sidecar into a pod that is created: from the bytes of the API server's question to the bytes of
//! the answer, and through the door at a steady rate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use weft_control_plane::metrics::Metrics;
use weft_kubernetes::admission::mutate::{self, Labels, Outcome};
use weft_kubernetes::admission::{Deps, Injector, Limits, router};
use weft_kubernetes::inject::Settings;
use weft_kubernetes::inject::settings::Image;
use weft_proto::name::{HostPort, TrustDomain};

use crate::table::{Quantiles, Table};

const ANSWERS: usize = 2_000;
const LARGE_ANSWERS: usize = 100;
/// At the door.
const EACH_SECOND: u32 = 200;
const SECONDS: u32 = 10;

pub(crate) fn run(table: &mut Table) -> anyhow::Result<()> {
    let settings = settings()?;
    for (what, review, times) in
        [("a usual pod", review(&pod()), ANSWERS), ("a pod of 1 MB", review(&large()), LARGE_ANSWERS)]
    {
        let mut each = Vec::with_capacity(times);
        for _ in 0..times {
            let started = Instant::now();
            let answered = mutate::answer(std::hint::black_box(&review), &settings, asks);
            each.push(started.elapsed());
            anyhow::ensure!(answered.told.outcome == Outcome::Injected, "{what} gets a sidecar");
        }
        let each = Quantiles::new(each);
        table.row(
            format!("a sidecar for {what} of {} KiB, one core", review.len() >> 10),
            figure(&each),
            "p99 ≤ 10 ms",
        );
    }
    Ok(())
}

/// Questions that come at a steady rate, whether those before are answered or not.
pub(crate) async fn steadily(table: &mut Table) -> anyhow::Result<()> {
    let deps = Deps {
        injector: Some(Injector {
            settings: Arc::new(settings()?),
            namespaces: Arc::new(asks),
            told: Arc::new(|_| ()),
        }),
        judge: None,
        metrics: Arc::new(Metrics::new()),
        limits: Limits::default(),
    };
    let (router, review) = (router(deps), bytes::Bytes::from(review(&pod())));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / EACH_SECOND);
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..EACH_SECOND * SECONDS {
        let due = ticks.tick().await;
        let (router, review) = (router.clone(), review.clone());
        asked.spawn(async move {
            let request = http::Request::post("/inject").body(Full::from(review))?;
            let response = router.oneshot(request).await?;
            anyhow::ensure!(response.status() == http::StatusCode::OK, "the question is answered");
            response.into_body().collect().await?;
            Ok(due.elapsed())
        });
    }
    let each = asked.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let each = Quantiles::new(each);
    table.row(
        format!("a sidecar for a usual pod, {EACH_SECOND} questions a second at the door"),
        figure(&each),
        "p99 ≤ 10 ms",
    );
    Ok(())
}

fn figure(each: &Quantiles) -> String {
    let millis = |share| each.at(share).as_secs_f64() * 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms", millis(0.5), millis(0.99))
}

fn settings() -> anyhow::Result<Settings> {
    let image = Image::parse("registry.example/weft-sidecar:1.0").map_err(anyhow::Error::msg)?;
    let control_plane = HostPort::parse("weft-control-plane.weft-system.svc:7500")?;
    Ok(Settings::new(TrustDomain::parse("bench.test")?, control_plane, image))
}

fn asks(_: &str) -> Option<Labels> {
    Some(Labels::from([("weft.dev/inject".to_owned(), "enabled".to_owned())]))
}

fn review(pod: &Value) -> Vec<u8> {
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": { "group": "", "version": "v1", "kind": "Pod" },
        "resource": { "group": "", "version": "v1", "resource": "pods" }, "operation": "CREATE",
        "namespace": "research", "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller" },
        "object": pod, "oldObject": null, "dryRun": false } })
    .to_string()
    .into_bytes()
}

/// Two containers with probes, variables and volumes, as the API server fills a pod of a Deployment in.
fn pod() -> Value {
    let probe = json!({ "httpGet": { "path": "/healthz", "port": "http", "scheme": "HTTP" }, "timeoutSeconds": 1,
        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3 });
    let env: Vec<_> =
        (0..20).map(|n| json!({ "name": format!("SETTING_{n}"), "value": format!("value {n}") })).collect();
    let container = |name: &str, port: u16| {
        json!({ "name": name, "image": format!("registry.example/{name}:1"), "env": env,
            "ports": [{ "name": "http", "containerPort": port, "protocol": "TCP" }],
            "livenessProbe": probe, "readinessProbe": probe, "imagePullPolicy": "IfNotPresent",
            "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } }, "terminationMessagePath": "/dev/termination-log",
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/config" }, { "name": "kube-api-access", "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }] })
    };
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "files-6d4cf56db6-", "creationTimestamp": null,
            "labels": { "app": "files", "pod-template-hash": "6d4cf56db6" },
            "annotations": { "weft.dev/servers": "files", "weft.dev/port": "9000" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "files-6d4cf56db6",
                "uid": "c2a1", "controller": true, "blockOwnerDeletion": true }] },
        "spec": { "serviceAccountName": "files", "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 30, "enableServiceLinks": true, "schedulerName": "default-scheduler",
            "containers": [container("files", 9000), container("helper", 9100)],
            "initContainers": [{ "name": "migrate", "image": "registry.example/migrate:1", "env": env }],
            "volumes": [{ "name": "config", "configMap": { "name": "files", "defaultMode": 420 } },
                { "name": "kube-api-access", "projected": { "defaultMode": 420, "sources": [] } }] } })
}

fn large() -> Value {
    let mut pod = pod();
    let env: Vec<_> =
        (0..10_000).map(|n| json!({ "name": format!("V{n}"), "value": "x".repeat(75) })).collect();
    pod["spec"]["containers"][0]["env"] = env.into();
    pod
}
