//! What servers offer, as it is listed, searched and shown.

use serde_json::{Value, json};

use super::fake::{Fake, ok};
use crate::failure::ExitCode;

fn item(name: &str, more: Value) -> Value {
    let mut item = json!({ "server": "research/files", "kind": "tool", "name": name, "digest": "sha256:aa",
        "since": "2020-01-01T00:00:00Z", "instances": 2, "agreeing": 2, "state": "unpinned", "pin": "off" });
    item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    item
}

#[tokio::test]
async fn every_page_is_listed_and_who_disagrees_is_told() {
    let fake = Fake::start(|asked| match asked.line.contains("continue=") {
        false => {
            ok(json!({ "items": [item("read", json!({ "hints": ["read-only"] }))], "continue": "more" }))
        }
        true => {
            ok(json!({ "items": [item("wipe", json!({ "agreeing": 1, "state": "changed", "pin": "warn" })),
            item("old", json!({ "awaySince": "2020-01-02T00:00:00.5Z", "instances": 0, "agreeing": 0 }))] }))
        }
    })
    .await;
    let ran = fake.run(&["tools", "list", "research/files", "--hint", "read-only", "--label", "a=b"]).await;
    ran.ended(ExitCode::Done, &["instances of research/files disagree about wipe"]);
    let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..6], ["SERVER", "NAME", "STATE", "PIN", "HINTS", "SINCE"]);
    assert_eq!(rows[1][1..5], ["read", "unpinned", "off", "read-only"]);
    assert_eq!(rows[2][1..4], ["wipe", "changed", "warn"]);
    assert!(ran.out.contains("away since 2020-01-02T00:00:00Z"), "{}", ran.out);
    let first =
        "GET /v1/catalogue/items?kind=tool&server=research%2Ffiles&labels=a%3Db&hint=read-only&limit=500";
    assert_eq!(fake.lines(), [first.to_owned(), format!("{first}&continue=more")]);
}

#[tokio::test]
async fn words_find_and_one_is_shown() {
    let fake = Fake::start(|asked| match asked.line.contains("/items") {
        true => {
            ok(json!({ "items": [item("read", json!({ "score": 2.5, "description": "Reads.\nAll." }))] }))
        }
        false => {
            ok(json!({ "item": item("read", json!({})), "definition": { "name": "read" }, "replicas": [],
            "versions": [] }))
        }
    })
    .await;
    let ran = fake.run(&["tools", "search", "read", "a", "file", "--kind", "all", "--limit", "5"]).await;
    assert_eq!(
        ran.done().out,
        "SERVER          KIND  NAME  SCORE  DESCRIPTION\nresearch/files  tool  read  2.50   Reads.\n"
    );
    let ran = fake.run(&["tools", "show", "research/files/read", "--kind", "tool"]).await;
    assert!(ran.done().out.starts_with("research/files/read (tool)\n"));
    assert_eq!(
        fake.lines(),
        [
            "GET /v1/catalogue/items?words=read%20a%20file&limit=5".to_owned(),
            "GET /v1/catalogue/item?server=research%2Ffiles&kind=tool&name=read".to_owned(),
        ]
    );
}
