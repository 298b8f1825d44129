//! What `weft audit verify` says of a sidecar's files, and of what was done to them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weft_certs::audit as seals;
use weft_certs::ca::{Ca, Kek, Limits};
use weft_certs::csr;
use weft_certs::pem;
use weft_certs::tls::Identity;
use weft_control_plane::clock;
use weft_proto::audit::{Anchor, Asked, Call, Cursor, Outcome, Seal, Trail, What};
use weft_proto::name::{SpiffeId, TrustDomain};

use super::fake::{Fake, Ran, ok};
use crate::failure::ExitCode;

const NODE: &str = "research/files-1";

/// A sidecar's folder with three segments, and what was anchored of them.
struct Stage {
    folder: tempfile::TempDir,
    anchors: Vec<Anchor>,
    identity: Identity,
}

fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::try_from(clock::now()).unwrap();
    jiff::Timestamp::from_microsecond(now.as_microsecond()).unwrap()
}

fn call(tool: String) -> What {
    What::Call(Box::new(Call {
        id: "00".to_owned(),
        caller: "spiffe://corp.example/ns/agents/sa/a".to_owned(),
        tenant: None,
        server: "research/files".to_owned(),
        outcome: Outcome::Done,
        reason: "ok".to_owned(),
        rule: None,
        limit: None,
        detail: None,
        status: 200,
        era: "modern".to_owned(),
        request_bytes: 0,
        response_bytes: 0,
        duration_us: 0,
        asked: Asked { method: "tools/call".to_owned(), tool: Some(tool), ..Asked::default() },
        result_digest: None,
        result: None,
    }))
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::from_text(&"0a".repeat(32)).unwrap();
        let domain = TrustDomain::parse("corp.example").unwrap();
        let path = folder.path().join("ca");
        let ca = Ca::open_or_create(&path, kek, domain, Limits::default(), clock::now()).unwrap();
        let request = csr::Request::generate().unwrap();
        let id = SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap();
        let issued = ca.issue(request.der(), &id, &[], Duration::from_secs(3600), clock::now()).unwrap();
        let identity = Identity::new(issued.chain, request.into_key()).unwrap();
        fs::write(folder.path().join("ca.pem"), pem::encode(ca.bundle().roots())).unwrap();
        let mut stage = Self { folder, anchors: Vec::new(), identity };
        stage.anchors = stage.write(&[3, 3, 3]);
        stage
    }

    fn trail(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    fn file(&self, number: usize) -> PathBuf {
        self.trail().join(format!("{number:010}.jsonl"))
    }

    /// Writes a trail with so many calls in each segment.
    fn write(&self, calls: &[usize]) -> Vec<Anchor> {
        fs::create_dir_all(self.trail()).unwrap();
        let (trail, mut anchors) = (Trail::from_random(1), Vec::new());
        let mut cursor = Cursor::new(NODE, trail.clone());
        for (index, calls) in calls.iter().enumerate() {
            let mut bytes = cursor.begin_segment(now());
            bytes.extend(cursor.write(now(), What::Certificate(seals::certificates(&self.identity))));
            for number in 0..*calls {
                bytes.extend(cursor.write(now(), call(format!("tool-{index}-{number}"))));
            }
            let statement = cursor.statement(now(), true);
            let seal = Seal {
                segment: statement.segment,
                count: statement.count,
                before: statement.before,
                closes: true,
                signature: seals::sign(&self.identity, &statement).unwrap(),
            };
            bytes.extend(cursor.write(statement.at, What::Seal(seal)));
            fs::write(self.file(index + 1), bytes).unwrap();
            anchors.push(Anchor {
                node: NODE.to_owned(),
                trail: trail.clone(),
                segment: statement.segment,
                first: cursor.first(),
                n: cursor.next() - 1,
                head: cursor.head(),
                closed: true,
                sealed_at: statement.at,
                received_at: now(),
                signer: String::new(),
            });
        }
        anchors
    }

    /// What `verify` says with the control plane's anchors.
    async fn verify(&self, more: &[&str]) -> Ran {
        let items = json!([{
            "node": NODE, "trail": Trail::from_random(1), "segments": [], "anchors": self.anchors,
        }]);
        let fake = Fake::start(move |_| ok(json!({ "items": items }))).await;
        let (files, roots) = (self.trail(), self.folder.path().join("ca.pem"));
        let mut words = vec!["audit", "verify", "--files", text(&files), "--roots", text(&roots)];
        words.extend_from_slice(more);
        fake.run(&words).await
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What is found after a change of the files.
async fn check(change: impl FnOnce(&Stage), more: &[&str], expected: &str) {
    let stage = Stage::new();
    change(&stage);
    let ran = stage.verify(more).await;
    assert_eq!(ran.code, ExitCode::Failed, "{ran:?}");
    assert!(ran.out.contains("NOT WHOLE") && ran.out.contains(expected), "{expected} is not in {ran:?}");
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines: Vec<String> = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    change(&mut lines);
    fs::write(path, lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>()).unwrap();
}

#[tokio::test]
async fn files_as_they_were_written_are_whole() {
    let stage = Stage::new();
    let ran = stage.verify(&[]).await;
    assert_eq!(ran.code, ExitCode::Done, "{ran:?}");
    assert!(ran.out.contains("whole\n  3 segments, 18 lines (1 to 18), 3 seals hold"), "{ran:?}");
    assert!(ran.out.contains("as anchored up to line 18"), "{ran:?}");
    let ran = stage.verify(&["-o", "json"]).await;
    let answer: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(answer["items"][0]["whole"], true);
}

#[tokio::test]
async fn a_removed_record_is_found() {
    check(|it| edit(&it.file(2), |lines| drop(lines.remove(3))), &[], "line 10 was removed").await;
}

#[tokio::test]
async fn an_altered_record_is_found() {
    let alter = |lines: &mut Vec<String>| lines[3] = lines[3].replace("agents/sa/a", "agents/sa/b");
    check(|it| edit(&it.file(2), alter), &["--offline"], "line 10 was altered").await;
}

#[tokio::test]
async fn records_in_another_order_are_found() {
    check(|it| edit(&it.file(2), |lines| lines.swap(2, 3)), &[], "line 9 is not in its place").await;
}

#[tokio::test]
async fn a_removed_segment_is_found() {
    check(|it| fs::remove_file(it.file(2)).unwrap(), &["--offline"], "segment 2 was removed").await;
}

#[tokio::test]
async fn an_end_that_was_cut_off_is_found_by_the_anchors_and_not_without() {
    let cut = |it: &Stage| edit(&it.file(3), |lines| lines.truncate(4));
    check(cut, &[], "the end is missing: line 18 was anchored, and the last line is 16").await;
    let stage = Stage::new();
    cut(&stage);
    let ran = stage.verify(&["--offline"]).await;
    assert_eq!(ran.code, ExitCode::Done, "{ran:?}");
    assert!(
        ran.out.contains("a missing end would go unnoticed") && ran.out.contains("not sealed yet"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn a_segment_that_was_rewritten_with_the_nodes_own_key_is_found_by_the_anchors() {
    let rewrite = |it: &Stage| drop(it.write(&[3, 2, 4]));
    check(rewrite, &[], "segment 2 was rewritten: line 12 is not the one that was anchored").await;
}

#[tokio::test]
async fn a_trail_that_somebody_else_signed_is_found() {
    let other = Arc::new(Stage::new());
    let replace = |it: &Stage| {
        for number in 1..=3 {
            fs::copy(other.file(number), it.file(number)).unwrap();
        }
    };
    check(replace, &["--offline"], "the seal in line 6 does not hold: its signer is not believed").await;
}

#[tokio::test]
async fn a_folder_that_was_emptied_is_found_by_the_anchors_of_the_node() {
    let empty = |it: &Stage| (1..=3).for_each(|number| fs::remove_file(it.file(number)).unwrap());
    check(empty, &["--node", NODE], "line 18 was anchored, and the last line is 0").await;
}

#[tokio::test]
async fn a_line_that_a_kill_left_half_written_is_told_of_and_no_finding() {
    let stage = Stage::new();
    let mut bytes = fs::read(stage.file(3)).unwrap();
    bytes.extend_from_slice(b"{\"n\":19,\"prev\":\"00");
    fs::write(stage.file(3), bytes).unwrap();
    let ran = stage.verify(&[]).await;
    assert_eq!(ran.code, ExitCode::Done, "{ran:?}");
    assert!(ran.out.contains("18 bytes at the end were not written to their end"), "{ran:?}");
}

/// Two records, the newest first, as the control plane answers them, of a later version.
fn records() -> Value {
    let mut cursor = Cursor::new(NODE, Trail::from_random(1));
    let lines: Vec<Value> = ["read", "write"]
        .into_iter()
        .map(|tool| {
            let mut line: Value =
                serde_json::from_slice(&cursor.write(now(), call(tool.to_owned()))).unwrap();
            line["is"]["call"]["later"] = json!([tool]);
            line
        })
        .collect();
    let item = |place: usize| json!({ "place": place, "node": NODE, "trail": "", "segment": 1, "line": lines[place - 1] });
    json!({ "items": [item(2), item(1)], "next": 1 })
}

async fn holding_two() -> Fake {
    Fake::start(|asked| match asked.line.contains("before=") {
        true => ok(json!({ "items": [], "next": null })),
        false => ok(records()),
    })
    .await
}

#[tokio::test]
async fn records_are_listed_with_who_did_what_and_where_there_may_be_more() {
    let fake = holding_two().await;
    let ran = fake.run(&["audit", "query", "--of", "research/files", "--limit", "2"]).await;
    assert_eq!(ran.code, ExitCode::Done, "{ran:?}");
    for part in ["spiffe://corp.example/ns/agents/sa/a", "read", "write", "research/files-1", "done"] {
        assert!(ran.out.contains(part), "{part} is not in {ran:?}");
    }
    assert!(ran.err.contains("weft audit query --before 1"), "{ran:?}");
    assert!(
        fake.lines()[0].starts_with("GET /v1/audit/records?limit=2&server=research"),
        "{:?}",
        fake.lines()
    );
    let ran = fake.run(&["audit", "query", "--since", "yesterday"]).await;
    assert_eq!(ran.code, ExitCode::Usage, "{ran:?}");
}

#[tokio::test]
async fn records_are_exported_the_oldest_first_as_lines_or_as_messages_of_syslog() {
    let fake = holding_two().await;
    let ran = fake.run(&["audit", "export"]).await;
    let tools: Vec<Value> = ran
        .out
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["line"]["is"]["call"]["asked"]["tool"].clone()
        })
        .collect();
    assert_eq!(tools, ["read", "write"]);
    assert!(ran.out.contains("\"later\":[\"read\"]"), "{ran:?}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("tcp://{}", listener.local_addr().unwrap());
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut listener.accept().unwrap().0, &mut text).unwrap();
        text
    });
    let ran = fake.run(&["audit", "export", "--to", &to]).await;
    assert_eq!(ran.code, ExitCode::Done, "{ran:?}");
    let mut text = read.join().unwrap();
    for tool in ["read", "write"] {
        let (later, tool) = (format!("\"later\":[\"{tool}\"]"), format!("\"tool\":\"{tool}\""));
        let (count, rest) = text.split_once(' ').unwrap();
        let (message, rest) = rest.split_at(count.parse().unwrap());
        assert!(message.starts_with("<110>1 2") && message.contains(&tool), "{message}");
        assert!(message.contains(&later), "{message}");
        text = rest.to_owned();
    }
    assert_eq!(text, "");
    let ran = fake.run(&["audit", "export", "--to", &to, "--format", "jsonl"]).await;
    assert_eq!(ran.code, ExitCode::Usage, "{ran:?}");
}

#[tokio::test]
async fn an_export_goes_on_where_another_ended_and_says_when_it_cannot() {
    let fake = holding_two().await;
    let places = |out: &str| -> Vec<u64> {
        out.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["place"].as_u64().unwrap())
            .collect()
    };
    let all = places(&fake.run(&["audit", "export"]).await.out);
    let [first, second] = all[..] else { panic!("{all:?}") };
    let after = first.to_string();
    assert_eq!(places(&fake.run(&["audit", "export", "--after", &after]).await.out), [second]);
    let ran = fake.run(&["audit", "export", "--to", "http://127.0.0.1:1"]).await;
    assert_eq!(ran.code, ExitCode::Failed, "{ran:?}");
    assert!(ran.err.contains("records could not be sent to http://127.0.0.1:1"), "{ran:?}");
    assert!(ran.err.contains("0 records were written"), "{ran:?}");
    for wrong in
        [["--format", "otlp", "--to", "records.log"], ["--format", "syslog", "--to", "http://127.0.0.1:1"]]
    {
        let ran = fake.run(&["audit", "export", wrong[0], wrong[1], wrong[2], wrong[3]]).await;
        assert_eq!(ran.code, ExitCode::Usage, "{ran:?}");
    }
}
