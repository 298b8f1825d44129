//! What the interface shows.

use super::*;

#[tokio::test]
async fn sidecars_are_told_as_the_hub_knows_them() {
    let mesh = Mesh::start().await;
    let list = mesh.admin("GET", "/v1/sidecars", "").await.ok();
    assert_eq!((&list["publishedRevision"], &list["items"][0]["sync"]), (&json!(7), &json!("rejected")));
    assert_eq!(list["items"][0]["types"][0]["nack"]["message"], "no");
    assert_eq!(mesh.admin("GET", "/v1/sidecars?namespace=other", "").await.ok()["items"], json!([]));
    assert_eq!(mesh.admin("GET", "/v1/sidecars/research/files-1", "").await.ok()["node"], "research/files-1");
    mesh.admin("GET", "/v1/sidecars/research/none", "").await.refused(404, "not-found");
    assert_eq!(mesh.admin("GET", "/debug/nackz", "").await.ok()["items"].as_array().unwrap().len(), 1);
    assert_eq!(mesh.admin("GET", "/debug/syncz", "").await.ok()["items"].as_array().unwrap().len(), 1);
    assert_eq!(mesh.admin("GET", "/debug/plan", "").await.ok()["publishedRevision"], 7);
}

#[tokio::test]
async fn the_newest_lines_of_the_log_are_for_operators() {
    let mesh = Mesh::start().await;
    mesh.log.add("INFO somebody came\n");
    mesh.log.add("WARN nobody left\n");
    let lines = json!({ "lines": ["INFO somebody came", "WARN nobody left"] });
    assert_eq!(mesh.admin("GET", "/debug/log", "").await.ok(), lines);
}

#[tokio::test]
async fn the_openapi_document_is_the_one_that_is_checked_in() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let document = weft_control_plane::api::openapi();
    if std::env::var_os("WEFT_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let checked_in: Value = serde_json::from_str(&text).unwrap_or_default();
    assert!(checked_in == document, "openapi.json differs from the table; run with WEFT_BLESS=1");
    let mesh = Mesh::start().await;
    assert_eq!(mesh.as_nobody("GET", "/openapi.json").await.ok(), document);
}

#[tokio::test]
async fn every_reference_of_the_openapi_document_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = weft_control_plane::api::openapi();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}
