use std::sync::Arc;

use serde_json::{Value, json};
use weft_proto::mcp::lists::Listed;
use weft_proto::mcp::{self, Bounds, Message, Request};
use weft_proto::offer::{Introduction, Offer, Offered};
use weft_proto::roster::{Naming, Part, Roster};

use super::search::{self, Searchable};
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
fn an_assembly_can_do_what_any_member_can() {
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
        "extensions": { "io.modelcontextprotocol/ui": { "a": 1 }, "io.modelcontextprotocol/tasks": {} },
    });
    assert_eq!(introduction(&[one, other], None)["capabilities"], expected);
    let legacy = json!({ "tasks": { "requests": { "tools": { "call": {} } } } });
    let legacy = introduction(&[offer("x/a", &legacy, "", &[])], None);
    assert_eq!(legacy["capabilities"]["extensions"], json!({ "io.modelcontextprotocol/tasks": {} }));
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
        let list = written::list((&roster, None), Listed::Tool, "7", after);
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
        serde_json::from_slice(&written::list((&roster, None), Listed::Prompt, "\"p\"", None)).unwrap();
    assert_eq!((&prompts["id"], &prompts["result"]["prompts"]), (&json!("p"), &json!([])));
}

fn searchable(names: &[(&str, &str)]) -> (Roster, Searchable) {
    let items: Vec<_> = names
        .iter()
        .map(|(name, text)| (Listed::Tool, json!({ "name": name, "description": text, "inputSchema": {} })))
        .collect();
    let offer = offer("x/a", &json!({}), "", &items);
    let part = Part { offer: &offer, prefix: "a", tools: None, rename: None };
    let roster = Roster::new([part], Naming::default(), |_, _| true);
    let searchable = Searchable::of(&roster, None);
    (roster, searchable)
}

fn call(tool: &str, arguments: &Value) -> String {
    let params = json!({ "name": tool, "arguments": arguments });
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string()
}

fn with_request<T>(message: &str, with: impl FnOnce(&Request<'_>) -> T) -> T {
    let bounds = Bounds { depth_max: 32, batch_max: 1 };
    match mcp::parse(message.as_bytes(), bounds).unwrap() {
        mcp::Body::One(Message::Request(request)) => with(&request),
        other => panic!("{other:?} is no request"),
    }
}

#[track_caller]
fn searched(names: &[(&str, &str)], tool: &str, arguments: &Value) -> Value {
    let (roster, searchable) = searchable(names);
    let answer =
        with_request(&call(tool, arguments), |request| searchable.answer((&roster, None), request)).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    answer["result"].clone()
}

const TOOLS: [(&str, &str); 3] = [
    ("read_file", "Reads a file."),
    ("send_mail", "Sends a letter to somebody."),
    ("list_files", "Lists a folder."),
];

#[test]
fn tools_are_found_by_words_and_described_whole() {
    let found = searched(&TOOLS, "find_tools", &json!({ "query": "read files" }));
    let names: Vec<_> =
        found["structuredContent"]["tools"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["a_read_file", "a_list_files"]);
    assert_eq!(found["structuredContent"]["of"], 3);
    let text: Value = serde_json::from_str(found["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(text, found["structuredContent"]);
    let one = searched(&TOOLS, "find_tools", &json!({ "query": "files", "limit": 1 }));
    assert_eq!(one["structuredContent"]["tools"].as_array().unwrap().len(), 1);
    let told = searched(&TOOLS, "describe_tool", &json!({ "name": "a_send_mail" }));
    assert_eq!(told["structuredContent"]["description"], "Sends a letter to somebody.");
    assert_eq!(told["structuredContent"]["name"], "a_send_mail");
}

#[test]
fn what_cannot_be_searched_for_is_told_as_the_tools_own_failure() {
    for (tool, arguments) in [
        ("find_tools", json!({})),
        ("find_tools", json!({ "query": "x".repeat(2000) })),
        ("describe_tool", json!({ "name": "read_file" })),
        ("call_tool", json!({ "tool": "a_read_file" })),
        ("call_tool", json!({ "name": "a_read_file", "arguments": [] })),
    ] {
        assert_eq!(searched(&TOOLS, tool, &arguments)["isError"], true, "{tool} {arguments}");
    }
    let (roster, searchable) = searchable(&TOOLS);
    let other =
        with_request(&call("a_read_file", &json!({})), |request| searchable.answer((&roster, None), request));
    assert!(other.is_none());
}

#[test]
fn a_call_within_a_call_is_read_with_its_arguments_as_they_are() {
    let check = |tool: &str, arguments: Value, expected: Option<(&str, Option<&str>)>| {
        with_request(&call(tool, &arguments), |request| {
            let inner = search::inner(request);
            let inner = inner.as_ref().map(|it| (&*it.name, it.arguments.map(|raw| raw.get())));
            assert_eq!(inner, expected, "{tool} {arguments}");
        });
    };
    check("call_tool", json!({ "name": "a", "arguments": { "x": 1.50 } }), Some(("a", Some(r#"{"x":1.5}"#))));
    check("call_tool", json!({ "name": "a" }), Some(("a", None)));
    check("call_tool", json!({ "name": "a", "arguments": 7 }), None);
    check("call_tool", json!({ "arguments": {} }), None);
    check("other", json!({ "name": "a" }), None);
}

#[test]
fn another_roster_is_searched_as_if_it_had_been_the_first() {
    let (_, before) = searchable(&TOOLS);
    let (roster, fresh) = searchable(&[("read_file", "Sings."), ("new", "A file that is new.")]);
    let next = Searchable::of(&roster, Some(&before));
    for query in ["sings", "file", "mail", "folder", "new"] {
        let asked = call("find_tools", &json!({ "query": query }));
        let [one, other] = [&next, &fresh]
            .map(|it| with_request(&asked, |request| it.answer((&roster, None), request)).unwrap());
        assert_eq!(one, other, "{query}");
    }
}
