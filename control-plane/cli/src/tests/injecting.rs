//! `weft inject` and `weft uninject`.

use std::path::Path;

use clap::Parser as _;
use serde_json::{Value, json};
use weft_sidecar::bootstrap::{Bootstrap, Source, Upstream};
use weft_sidecar::cli::Cli;
use weft_sidecar::cli::Command::Run;
use weft_sidecar::probes::Question;

use super::fake::{Ran, command, context};
use crate::app;
use crate::failure::ExitCode;
use crate::terminal::Terminal;

const DEPLOYMENT: &str = "\
# What serves.
apiVersion: apps/v1
kind: Deployment
metadata: {name: files, namespace: research}
spec:
  template:
    metadata: {labels: {app: files}}
    spec: {containers: [{name: server, image: 'files:1'}]}
";
const SERVICE: &str = "---\nkind:  Service   # as it is\napiVersion: v1\n";

async fn run(input: &str, words: &[&str]) -> Ran {
    let (terminal, out, err) = Terminal::captured(input, false);
    let code = app::run(command(words), &context(Path::new("."), terminal)).await;
    Ran { code, out: out.text(), err: err.text() }
}

fn values(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

#[tokio::test]
async fn manifests_come_out_with_sidecars_and_a_report_beside_them() {
    let ran = run(&format!("{DEPLOYMENT}{SERVICE}"), &["inject", "-f", "-"]).await;
    assert_eq!(
        ran.done().err,
        "Deployment files of research: has its sidecar\n1 changed, 0 skipped, 1 that make no pods\n"
    );
    assert!(ran.out.starts_with("# What serves.\napiVersion") && ran.out.ends_with(SERVICE), "{}", ran.out);
    let object = &values(&ran.out)[0];
    let sidecar = &object["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(sidecar["image"], concat!("weft-sidecar:", env!("CARGO_PKG_VERSION")));
    let again = run(&ran.out, &["inject", "-f", "-"]).await;
    assert_eq!(again.done().out, ran.out);
    assert!(
        again.err.contains("gets no sidecar: it has its sidecar already\n0 changed, 1 skipped"),
        "{}",
        again.err
    );
    let back = run(&ran.out, &["uninject", "-f", "-"]).await;
    assert_eq!(values(&back.done().out), values(&format!("{DEPLOYMENT}{SERVICE}")));
    assert!(back.err.starts_with("Deployment files of research: has no sidecar any more\n"), "{}", back.err);
    let twice = run(&back.out, &["uninject", "-f", "-"]).await;
    assert_eq!(twice.done().out, back.out);
    assert!(twice.err.starts_with("Deployment files of research: had no sidecar\n"), "{}", twice.err);
}

#[tokio::test]
async fn a_mistake_is_told_with_its_place_and_nothing_is_printed() {
    let wrong = DEPLOYMENT.replace("labels: {app: files}", "annotations: {weft.dev/port: http}");
    let ran = run(&format!("{SERVICE}---\n{wrong}"), &["inject", "-f", "-"]).await;
    assert_eq!(ran.out, "");
    ran.ended(
        ExitCode::Failed,
        &[
            "stdin:4: Deployment files of research: weft.dev/port: \"http\" holds no port",
            "nothing was printed",
        ],
    );
    let ran = run(&wrong, &["inject", "-f", "-", "--on-mistake", "skip"]).await;
    assert_eq!(ran.done().out, wrong);
    assert!(ran.err.contains("gets no sidecar: weft.dev/port"), "{}", ran.err);
    run("a: [", &["inject", "-f", "-"])
        .await
        .ended(ExitCode::Failed, &["stdin: the document that begins at line 1"]);
    let record = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {weft.dev/status: '{'}}\n";
    run(record, &["uninject", "-f", "-"])
        .await
        .ended(ExitCode::Failed, &["Pod p: its annotation weft.dev/status is no record"]);
}

#[tokio::test]
async fn flags_go_before_the_file_of_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.yaml");
    let text =
        "trustDomain: corp.example\ncontrolPlane: cp.example:7500\nimage: from-file:1\nrevision: canary\n";
    std::fs::write(&path, text).unwrap();
    let settings = path.to_str().unwrap();
    let ran = run(
        DEPLOYMENT,
        &["inject", "-f", "-", "--settings", settings, "--image", "from-flag:2", "--no-native"],
    )
    .await;
    let template = &values(&ran.done().out)[0]["spec"]["template"];
    assert_eq!(template["spec"]["containers"][0]["image"], "from-flag:2");
    assert_eq!(template["metadata"]["labels"]["weft.dev/sidecar"], "canary");
    let audience =
        &template["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["audience"];
    assert_eq!(audience, "weft.corp.example");
    std::fs::write(&path, "trustDomain: corp.example\n").unwrap();
    run("", &["inject", "-f", "-", "--settings", settings])
        .await
        .ended(ExitCode::Failed, &["have a mistake"]);
    run("", &["inject", "-f", "-", "--settings", "/nowhere"])
        .await
        .ended(ExitCode::Usage, &["cannot be read"]);
}

#[tokio::test]
async fn several_files_come_out_as_one_stream() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), DEPLOYMENT.trim_end()).unwrap();
    std::fs::write(folder.path().join("b.yaml"), "kind: Service\n").unwrap();
    std::fs::write(folder.path().join("c.yaml"), SERVICE).unwrap();
    let ran = run("", &["inject", "-n", "kube-system", "-f", folder.path().to_str().unwrap()]).await;
    assert_eq!(values(&ran.done().out).len(), 3);
    assert!(ran.out.ends_with(&format!("---\nkind: Service\n{SERVICE}")), "{}", ran.out);
}

/// The variable of the sidecar's container, with what the cluster would put into it.
fn file_of(pod: &Value) -> Bootstrap {
    let containers = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    let variables =
        containers.into_iter().flatten().flatten().filter_map(|it| it["env"].as_array()).flatten();
    let file = variables.into_iter().find(|it| it["name"] == "WEFT_SIDECAR_YAML").unwrap();
    let text = file["value"].as_str().unwrap();
    let text = text.replace("$(WEFT_POD_NAME)", "files-0").replace("$(WEFT_POD_NAMESPACE)", "research");
    let text = text.replace("$(WEFT_POD_IP)", "10.0.0.5").replace("$$", "$");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn injected(annotations: Value, container: Value) -> Value {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "annotations": annotations,
        "labels": { "app": "files" } }, "spec": { "containers": [container] } });
    let ran = run(&pod.to_string(), &["inject", "-f", "-"]).await;
    serde_json::from_str(&ran.done().out).unwrap()
}

/// One side writes this file and the other reads it; neither knows the other.
#[tokio::test]
async fn the_sidecar_reads_the_file_that_it_is_given_in_a_pod() {
    let wishes = json!({ "weft.dev/servers": "files,search", "weft.dev/port": "9000" });
    let pod = injected(wishes, json!({ "name": "server", "image": "files:1" })).await;
    let file = file_of(&pod);
    assert_eq!(file.node.id.as_str(), "research/files-0");
    assert_eq!(file.node.address.unwrap().as_str(), "10.0.0.5:7443");
    assert_eq!(file.node.labels["app"], "files");
    assert_eq!(file.node.servers.len(), 2);
    assert!(
        file.node.upstreams.values().all(|it| *it == Upstream::Loopback(9000)),
        "{:?}",
        file.node.upstreams
    );
    assert!(matches!(file.source, Source::ControlPlane(_)));
    assert_eq!(file.listen.inbound.unwrap().to_string(), "0.0.0.0:7443");
    assert_eq!((file.limits.drain_timeout.as_secs(), file.limits.linger_timeout.as_secs()), (20, 0));
    assert_eq!(file.limits.audit_disk_bytes_max, 256 << 20);
}

#[tokio::test]
async fn a_sidecar_that_is_told_to_end_with_its_agent_lingers() {
    let pod =
        injected(json!({ "weft.dev/native": "disabled" }), json!({ "name": "agent", "image": "a" })).await;
    assert_eq!(file_of(&pod).limits.linger_timeout.as_secs(), 5);
}

#[tokio::test]
async fn the_sidecar_reads_probes_and_commands_as_they_are_written_for_it() {
    let pod = injected(
        json!({}),
        json!({ "name": "server", "image": "files:1", "ports": [{ "name": "http", "containerPort": 8080 }],
            "livenessProbe": { "timeoutSeconds": 3, "httpGet": { "path": "/live", "port": "http", "scheme": "HTTPS",
                "httpHeaders": [{ "name": "X-Probe", "value": "$(A) $$" }, { "name": "Y" }] } },
            "readinessProbe": { "tcpSocket": { "port": 8081 } },
            "startupProbe": { "timeoutSeconds": 0, "grpc": { "port": 8082, "service": "" } } }),
    )
    .await;
    let probes = file_of(&pod).probes;
    let names: Vec<_> = probes.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["server/liveness", "server/readiness", "server/startup"]);
    let liveness = probes.iter().next().unwrap().1;
    let Question::Http(get) = &liveness.question else { panic!("{liveness:?}") };
    assert_eq!(
        (get.port, liveness.timeout.as_secs(), &get.headers["x-probe"]),
        (8080, 3, &"$(A) $$".parse().unwrap())
    );
    let pod = injected(
        json!({ "weft.dev/stdio": "notes", "weft.dev/servers": "notes" }),
        json!({ "name": "notes", "image": "n", "command": ["serve"], "args": ["--price", "$$5"] }),
    )
    .await;
    let container = &pod["spec"]["containers"][0];
    let words = ["command", "args"].map(|field| container[field].as_array().unwrap().iter());
    let mut words: Vec<&str> = words.into_iter().flatten().map(|word| word.as_str().unwrap()).collect();
    // In the pod, a variable holds the file.
    words.splice(2..2, ["--config", "file"]);
    let Ok(Cli { command: Run(started) }) = Cli::try_parse_from(words) else { panic!("{container}") };
    // Dollars are the cluster's to look at.
    assert_eq!(started.command, ["serve", "--price", "$$5"]);
    let commands = file_of(&pod).serving(&started.command).unwrap().node.commands;
    let (server, command) = commands.iter().next().unwrap();
    assert_eq!((server.to_string().as_str(), command.command.as_str()), ("research/notes", "serve"));
}
