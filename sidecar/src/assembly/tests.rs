use std::sync::Arc;

use serde_json::{Value, json};
use weft_proto::mcp::lists::Listed;
use weft_proto::offer::{Introduction, Offer, Offered};
use weft_proto::roster::{Naming, Part, Roster};

use super::written::{self, Said};

fn offer(server: &str, capabilities: &Value, instructions: &str, items: &[(Listed, Value)]) -> Arc<Offer> {
    let introduction = Introduction {
        capabilities: Some(capabilities.to_string().into()),
        server_info: None,
        instructions: Some(instructions.into()),
    };
    let items = items
        .iter()
        .map(|(kind, definition)| Arc::new(Offered::parse(*kind, definition.to_string().into()).unwrap()));
    Arc::new(Offer::new(server.parse().unwrap(), introduction, items).unwrap())
}

fn introduction(offers: &[Arc<Offer>], instructions: Option<&str>) -> Value {
    let said = Said { name: "x".to_owned(), instructions, offers };
    serde_json::from_slice(&written::introduction(&said).result).unwrap()
}

#[test]
fn an_assembly_can_do_what_any_member_can_but_for_tasks() {
    let tasks = json!({ "io.modelcontextprotocol/tasks": {}, "io.modelcontextprotocol/ui": { "a": 1 } });
    let one = offer("x/a", &json!({ "completions": {}, "extensions": tasks, "tasks": {} }), "", &[]);
    let other = offer(
        "x/b",
        &json!({ "logging": {}, "experimental": { "e": {} }, "extensions": { "io.modelcontextprotocol/ui": {} } }),
        "",
        &[],
    );
    let expected = json!({
        "tools": { "listChanged": true }, "prompts": { "listChanged": true },
        "resources": { "listChanged": true, "subscribe": true },
        "completions": {}, "logging": {}, "experimental": { "e": {} },
        "extensions": { "io.modelcontextprotocol/ui": { "a": 1 } },
    });
    assert_eq!(introduction(&[one, other], None)["capabilities"], expected);
    let odd = offer("x/a", &json!({ "extensions": 7 }), "", &[]);
    assert_eq!(introduction(&[odd], None)["capabilities"].as_object().unwrap().len(), 3);
}

#[test]
fn instructions_are_those_of_the_assembly_or_else_of_its_members_as_far_as_there_is_room() {
    let long = "x".repeat(16 << 10);
    let offers = [
        offer("x/a", &json!({}), " One. ", &[]),
        offer("x/b", &json!({}), "", &[]),
        offer("x/c", &json!({}), &long, &[]),
        offer("x/d", &json!({}), "Two.", &[]),
    ];
    assert_eq!(introduction(&offers, None)["instructions"], "# a\n\nOne.\n\n# d\n\nTwo.");
    assert_eq!(introduction(&offers, Some("Mine."))["instructions"], "Mine.");
    assert!(introduction(&[], None).get("instructions").is_none());
}

#[test]
fn lists_keep_what_they_do_not_know_and_come_in_pages() {
    let ui = json!({ "name": "t", "_meta": { "ui": { "resourceUri": "ui://a" } }, "x": [1, { "y": null }] });
    let many = (0..1500).map(|n| (Listed::Tool, json!({ "name": format!("n{n:04}") })));
    let items: Vec<_> = std::iter::once((Listed::Tool, ui.clone())).chain(many).collect();
    let offer = offer("x/a", &json!({}), "", &items);
    let part = Part { offer: &offer, prefix: "a", tools: None, rename: None };
    let roster = Roster::new([part], Naming::default(), |_, _| true);
    let list = |after: Option<&str>| -> Value {
        let list = written::list(&roster, Listed::Tool, "7", after);
        serde_json::from_slice(&list).unwrap()
    };
    let first = list(None);
    assert_eq!((&first["id"], first["result"]["tools"].as_array().unwrap().len()), (&json!(7), 1000));
    assert_eq!(first["result"]["cacheScope"], "private");
    let next = list(Some(first["result"]["nextCursor"].as_str().unwrap()));
    let rest = next["result"]["tools"].as_array().unwrap();
    assert_eq!((rest.len(), next["result"].get("nextCursor")), (501, None));
    let mut expected = ui;
    expected["name"] = "a_t".into();
    assert_eq!(rest.last(), Some(&expected));
    let prompts: Value =
        serde_json::from_slice(&written::list(&roster, Listed::Prompt, "\"p\"", None)).unwrap();
    assert_eq!((&prompts["id"], &prompts["result"]["prompts"]), (&json!("p"), &json!([])));
}
