//! Sidecars that are asked while they run, and operators who ask.

use std::time::{Duration, SystemTime};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_proto::pb::weft::ask::v1::answer::Says;
use weft_proto::pb::weft::ask::v1::ask_client::AskClient;
use weft_proto::pb::weft::ask::v1::question::Asks;
use weft_proto::pb::weft::ask::v1::{Answer, Held, Holds, Question};
use weft_proto::wire::ResourceType;
use weft_sidecar::metrics::method_index;
use weft_sidecar::record::Event;
use weft_tests::link::Channel;

use super::pair::{LINE, Pair};
use super::upstream::Upstream;
use crate::mesh::{Mesh, Stream, eventually};
use crate::operator::Operator;

const CONFIG: &str = "/v1/sidecars/research/files-1/config";
const LOGGING: &str = "/v1/sidecars/research/files-1/logging";
const LOG: &str = "/v1/sidecars/research/files-1/log";
const SERVER: &str = "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: { namespace: research, name: files }\n\
    spec: { stdio: { command: x } }\n";

/// A sidecar opens the stream that it is asked on after everything else.
async fn until_asked(operator: &Operator<'_>) -> Value {
    loop {
        let (status, answer) = operator.get(LOGGING).await;
        if status == 200 {
            return answer;
        }
        assert!([404, 501, 503].contains(&status), "{status} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_says_what_it_holds_and_it_is_what_it_should() {
    let pair = Pair::start(Upstream::echo().await).await;
    let admin = Operator::admin(&pair.mesh);
    until_asked(&admin).await;
    let (status, told) = admin.with("readonly").await.get(&format!("{CONFIG}?snapshot=true")).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!((&told["differs"], &told["differences"]), (&json!(false), &json!([])), "{told}");
    let resources = told["resources"].as_array().unwrap();
    let server = resources.iter().find(|it| it["type"] == "Server").unwrap();
    assert_eq!(server["name"], "research/files");
    assert!(server["digest"].as_str().unwrap().starts_with(server["version"].as_str().unwrap()), "{server}");
    assert_eq!(told["standing"]["serving"], json!(["research/files"]));
    assert!(told["snapshot"].as_str().unwrap().contains("server research/files"), "{told}");
    assert!(told["standing"].get("snapshot").is_none());
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sidecar_logs_is_set_by_operators_alone_and_recorded() {
    let pair = Pair::start(Upstream::echo().await).await;
    let admin = Operator::admin(&pair.mesh);
    assert_eq!(until_asked(&admin).await, json!({ "node": "research/files-1", "filter": "info" }));
    let body = json!({ "filter": "debug", "forSeconds": 600 });
    let (status, _) = admin.with("readonly").await.send(Method::PUT, LOGGING, Some(body.clone())).await;
    assert_eq!(status, 403);
    let operator = admin.with("operator").await;
    let (status, told) = operator.send(Method::PUT, LOGGING, Some(body)).await;
    assert_eq!((status, &told["filter"], &told["before"]), (200, &json!("debug"), &json!("info")), "{told}");
    assert_eq!(told["usual"], "info");
    assert!(told["returnsInSeconds"].as_u64().unwrap() > 590, "{told}");
    let (status, told) = operator.send(Method::PUT, LOGGING, Some(json!({ "filter": "" }))).await;
    assert_eq!((status, &told["code"]), (400, &json!("bad-body")));
    let done = "of-operator done sidecar/research/files-1";
    let acts = admin.acts("sidecar.logging").await;
    assert_eq!(acts[1..], [done.to_owned(), format!("of-readonly refused {LOGGING}")]);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_lines_of_a_sidecars_log_are_for_operators() {
    let pair = Pair::start(Upstream::echo().await).await;
    let admin = Operator::admin(&pair.mesh);
    until_asked(&admin).await;
    let (status, told) = admin.with("operator").await.get(LOG).await;
    assert_eq!((status, told), (200, json!({ "node": "research/files-1", "lines": [LINE] })));
    assert_eq!(admin.with("readonly").await.get(LOG).await.0, 403);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_told_as_they_end_without_what_was_said_in_them_and_who_looked_on_is_recorded() {
    let pair = Pair::start(Upstream::echo().await).await;
    let admin = Operator::admin(&pair.mesh);
    until_asked(&admin).await;
    let mut caller = pair.caller("agents", "bot").await;
    let mut tap = admin.events("/v1/tap?server=research/*&caller=agents/bot&tool=re*&outcome=ok&max=2").await;
    assert_eq!(tap.next().await.unwrap(), ("begun".to_owned(), json!({ "count": 1 })));
    assert_eq!(tap.named("joined").await["sidecar"], "research/files-1");
    caller.call("write", json!({})).await;
    caller.call("read", json!({ "path": "hunter2" })).await;
    let call = tap.named("call").await;
    assert_eq!(
        (&call["target"], &call["outcome"], &call["server"]),
        (&json!("read"), &json!("ok"), &json!("research/files"))
    );
    assert!(call["micros"].as_u64().unwrap() > 0 && !call.to_string().contains("hunter2"), "{call}");
    caller.call("remove", json!({})).await;
    assert_eq!(tap.named("call").await["target"], "remove");
    assert_eq!(tap.next().await.unwrap().0, "end");
    assert_eq!(tap.next().await, None);
    let (status, _) = admin.with("readonly").await.get("/v1/tap").await;
    assert_eq!(status, 403);
    let object = "server=research/*&caller=agents/bot&tool=re*&outcome=ok&max=2";
    assert_eq!(
        admin.acts("tap").await,
        ["of-readonly refused /v1/tap".to_owned(), format!("admin done {object}")]
    );
    // Nobody looks on any more, so nobody is told.
    let onlookers = &pair.inbound.metrics.onlookers;
    eventually("the tap is taken away", || !onlookers.is_looked_on()).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_ends_with_the_operator_who_left() {
    let pair = Pair::start(Upstream::echo().await).await;
    let admin = Operator::admin(&pair.mesh);
    until_asked(&admin).await;
    let mut tap = admin.events("/v1/tap").await;
    tap.named("joined").await;
    assert!(pair.inbound.metrics.onlookers.is_looked_on());
    drop(tap);
    eventually("the tap is taken away", || !pair.inbound.metrics.onlookers.is_looked_on()).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_is_told_of_a_sidecar_that_leaves_and_of_one_that_comes() {
    let pair = Pair::start(Upstream::echo().await).await;
    let admin = Operator::admin(&pair.mesh);
    until_asked(&admin).await;
    let mut tap = admin.events("/v1/tap").await;
    tap.named("joined").await;
    let _agent = super::agent::Agent::join(&pair, "bot").await;
    assert_eq!(tap.named("joined").await["sidecar"], "agents/bot-1");
    let Pair { mesh, inbound, .. } = &pair;
    mesh.running.hub.forget(&"research/files-1".parse().unwrap());
    assert_eq!(tap.named("left").await["sidecar"], "research/files-1");
    // It comes back by itself.
    assert_eq!(tap.named("joined").await["sidecar"], "research/files-1");
    assert!(inbound.metrics.onlookers.is_looked_on());
    drop(tap);
    pair.stop().await;
}

fn ended(server: &str) -> Event {
    Event {
        at: SystemTime::UNIX_EPOCH,
        listener: "inbound",
        caller: "spiffe://flow.test/ns/agents/sa/flood".into(),
        server: server.into(),
        http_method: Method::POST,
        method: method_index("tools/call"),
        target: Some("flood".into()),
        rpc_id: None,
        era: "modern",
        status: 200,
        reason: "ok",
        detail: None,
        decided: Default::default(),
        limit: None,
        shadow_limit: None,
        tools: None,
        request_bytes: 1,
        response_bytes: 1,
        duration: Duration::from_micros(10),
        listens: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_beside_a_tap_that_nobody_reads_loses_events_that_are_counted_and_no_calls() {
    const FLOOD: u64 = 200_000;
    let pair = Pair::start(Upstream::echo().await).await;
    let admin = Operator::admin(&pair.mesh);
    until_asked(&admin).await;
    let mut tap = admin.events("/v1/tap").await;
    tap.named("joined").await;
    let onlookers = pair.inbound.metrics.onlookers.clone();
    let flood = tokio::task::spawn_blocking(move || {
        let event = ended("research/files");
        (0..FLOOD).for_each(|_| onlookers.ended(&event));
    });
    let mut caller = pair.caller("agents", "bot").await;
    for _ in 0..20 {
        assert_eq!(caller.call("read", json!({})).await.status, 200);
    }
    flood.await.unwrap();
    let (mut told, mut lost) = (0, 0);
    while told + lost < FLOOD + 20 {
        match tap.next().await.unwrap() {
            (name, _) if name == "call" => told += 1,
            (name, data) if name == "lost" => lost += data["count"].as_u64().unwrap(),
            _ => {}
        }
    }
    assert_eq!(told + lost, FLOOD + 20);
    assert!(lost > 0 && told > 0, "{told} told, {lost} lost");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_golden_signals_are_what_the_sidecars_counted() {
    let pair = Pair::start(Upstream::echo().await).await;
    let admin = Operator::admin(&pair.mesh);
    until_asked(&admin).await;
    let mut counts = admin.events("/v1/calls?by=tool&server=research/files&windowMillis=500").await;
    let mut caller = pair.caller("agents", "bot").await;
    let calling = async {
        loop {
            assert_eq!(caller.call("read", json!({})).await.status, 200);
            assert_eq!(caller.call("write", json!({})).await.status, 200);
        }
    };
    let reading = async {
        loop {
            let told = counts.named("counts").await;
            if told["total"]["calls"].as_u64().unwrap() > 1 {
                return told;
            }
        }
    };
    let told = tokio::select! {
        told = reading => told,
        () = calling => unreachable!("it goes on"),
    };
    assert_eq!((&told["sidecars"], &told["silent"]), (&json!(1), &json!([])), "{told}");
    let items = told["items"].as_array().unwrap();
    let mut tools: Vec<_> = items.iter().map(|it| it["tool"].as_str().unwrap()).collect();
    tools.sort_unstable();
    assert_eq!(tools, ["read", "write"], "{told}");
    for item in items {
        assert_eq!((&item["server"], &item["success"]), (&json!("research/files"), &json!(1.0)), "{item}");
        assert!(item["p50Micros"].as_u64().unwrap() > 0, "{item}");
    }
    let calls = |it: &Value| it["calls"].as_u64().unwrap();
    assert_eq!(items.iter().map(calls).sum::<u64>(), calls(&told["total"]));
    // The window may have been somewhat longer than it was asked for, and never shorter.
    let rate = told["total"]["callsPerSecond"].as_f64().unwrap();
    assert!(rate > 0.0 && rate <= calls(&told["total"]) as f64 / 0.5, "{told}");
    let readonly = admin.with("readonly").await;
    assert_eq!(readonly.get("/v1/calls?by=caller").await.0, 403);
    drop(counts);
    pair.stop().await;
}

/// A sidecar whose answers the story says.
struct ByHand {
    _discovery: Stream,
    answers: mpsc::Sender<Answer>,
    questions: Streaming<Question>,
}

impl ByHand {
    async fn join(mesh: &Mesh) -> Self {
        let (channel, discovery) = Self::connected(mesh).await;
        let (answers, questions) = Self::listen(channel, "research/files-1").await.unwrap();
        Self { _discovery: discovery, answers, questions }
    }

    /// Without the stream that it would be asked on.
    async fn connected(mesh: &Mesh) -> (Channel, Stream) {
        let workload = mesh.workload("research", "files").await;
        let channel = mesh.connect(&workload).await.unwrap();
        let (node, types) = ("research/files-1", [ResourceType::Server]);
        let mut discovery = Stream::serving(channel.clone(), node, "research/files", &types).await;
        discovery.next().await.unwrap();
        (channel, discovery)
    }

    async fn listen(
        channel: Channel,
        node: &str,
    ) -> Result<(mpsc::Sender<Answer>, Streaming<Question>), Status> {
        let (answers, outgoing) = mpsc::channel(64);
        answers.send(Answer { node: node.to_owned(), ..Answer::default() }).await.unwrap();
        let questions = AskClient::new(channel).listen(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok((answers, questions))
    }

    async fn holds(&mut self, holds: Holds) {
        let question = self.questions.message().await.unwrap().unwrap();
        assert!(matches!(question.asks, Some(Asks::HoldsWhat(_))), "{question:?}");
        let answer =
            Answer { id: question.id, last: true, says: Some(Says::Holds(holds)), ..Answer::default() };
        self.answers.send(answer).await.unwrap();
    }
}

fn held(ty: ResourceType, name: &str, version: &str) -> Held {
    let digest = version
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    Held {
        type_url: ty.type_url().to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
        digest: digest.collect(),
        ..Held::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sidecar_holds_otherwise_than_it_should_is_told_for_each_resource() {
    let mesh = Mesh::start().await;
    mesh.apply(SERVER).await;
    let mut sidecar = ByHand::join(&mesh).await;
    let admin = Operator::admin(&mesh);
    let resources = vec![
        held(ResourceType::Server, "research/files", "0123456789abcdef"),
        held(ResourceType::Server, "research/gone", "0123456789abcdef"),
    ];
    let holds = Holds { resources, standing: "{\"origin\":\"ControlPlane\"}".to_owned(), ..Holds::default() };
    let answering = async {
        loop {
            sidecar.holds(holds.clone()).await;
        }
    };
    let (status, told) = tokio::select! {
        told = admin.get(CONFIG) => told,
        () = answering => unreachable!("it goes on"),
    };
    assert_eq!((status, &told["differs"]), (200, &json!(true)), "{told}");
    let differences = told["differences"].as_array().unwrap();
    let of = |name: &str| {
        differences.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name} in {told}"))
    };
    assert_eq!(
        (&of("research/files")["what"], &of("research/files")["held"]),
        (&json!("stale"), &json!("0123456789abcdef"))
    );
    assert_eq!(of("research/gone")["what"], "surplus");
    assert!(differences.iter().any(|it| it["type"] == "Mesh" && it["what"] == "missing"), "{told}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_hangs_holds_nobody_up_for_long_and_is_named() {
    let mesh = Mesh::with(|config| config.api_limits.sidecar_timeout = Duration::from_millis(300)).await;
    mesh.apply(SERVER).await;
    let _sidecar = ByHand::join(&mesh).await;
    let admin = Operator::admin(&mesh);
    let (status, told) = admin.get(CONFIG).await;
    assert_eq!((status, &told["code"]), (504, &json!("sidecar-silent")), "{told}");
    let counts = admin.events("/v1/calls?windowMillis=100").await.named("counts").await;
    assert_eq!(
        (&counts["sidecars"], &counts["silent"][0]["node"]),
        (&json!(0), &json!("research/files-1")),
        "{counts}"
    );
    let mut tap = admin.events("/v1/tap").await;
    assert!(tap.named("left").await["why"].as_str().unwrap().contains("did not answer in time"));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_knows_no_questions_is_told_apart_from_one_that_is_gone_and_from_one_that_never_was() {
    let mesh = Mesh::start().await;
    mesh.apply(SERVER).await;
    let admin = Operator::admin(&mesh);
    assert_eq!(admin.get(CONFIG).await.0, 404);
    let (_channel, discovery) = ByHand::connected(&mesh).await;
    let (status, told) = admin.get(CONFIG).await;
    assert_eq!((status, &told["code"]), (501, &json!("sidecar-unasked")), "{told}");
    drop(discovery);
    eventually("the sidecar is gone", || !mesh.running.hub.status()[0].connected).await;
    let (status, told) = admin.get(CONFIG).await;
    assert_eq!((status, &told["code"]), (503, &json!("sidecar-away")), "{told}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_sidecar_that_is_who_it_says_is_asked() {
    let mesh = Mesh::start().await;
    mesh.apply(SERVER).await;
    let refused = async |channel: Channel, node: &str| match ByHand::listen(channel, node).await {
        Ok((_answers, mut questions)) => questions.message().await.unwrap_err().code(),
        Err(status) => status.code(),
    };
    assert_eq!(refused(mesh.stranger().await, "research/files-1").await, Code::Unauthenticated);
    let (channel, _discovery) = ByHand::connected(&mesh).await;
    assert_eq!(refused(channel.clone(), "payments/files-1").await, Code::PermissionDenied);
    assert_eq!(refused(channel.clone(), "research/files-2").await, Code::FailedPrecondition);
    assert_eq!(refused(channel.clone(), "nonsense").await, Code::InvalidArgument);
    // Whoever comes last is asked; who came before is told so.
    let (_first, mut questions) = ByHand::listen(channel.clone(), "research/files-1").await.unwrap();
    let (_second, _questions) = ByHand::listen(channel, "research/files-1").await.unwrap();
    assert_eq!(questions.message().await.unwrap_err().code(), Code::Aborted);
    mesh.stop().await;
}
