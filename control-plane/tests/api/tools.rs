//! Tools as they are advertised, held against what was approved.

use super::*;

fn pins(approved: &str) -> String {
    document("ToolPolicy", "research", "pins", &format!("{{ pin: enforce, approved: {{ {approved} }} }}"))
}

#[tokio::test]
async fn what_is_advertised_is_held_against_what_was_approved() {
    let mesh = Mesh::start().await;
    let list = async || mesh.admin("GET", "/v1/tools?definitions=true", "").await.ok()["items"][0].clone();
    mesh.apply(&server("files", "")).await;
    assert_eq!(list().await["tools"][0]["state"], "unpinned");
    mesh.apply(&pins("")).await;
    let found = list().await;
    let tool = &found["tools"][0];
    assert_eq!((&tool["state"], &tool["policy"]), (&json!("new"), &json!("research/pins")));
    assert_eq!(tool["definition"]["description"], "Reads.");
    assert_eq!((&tool["nodes"], &found["agreed"]), (&json!(["research/files-1"]), &json!(true)));
    let digest = tool["digest"].as_str().unwrap();
    mesh.apply(&pins(&format!("read: '{digest}'"))).await;
    assert_eq!(list().await["tools"][0]["state"], "approved");
    let other = format!("sha256:{}", "0".repeat(64));
    mesh.apply(&pins(&format!("read: '{other}', write: '{other}'"))).await;
    let found = list().await;
    let tool = &found["tools"][0];
    assert_eq!((&tool["state"], &tool["approved"]), (&json!("changed"), &json!([other])));
    assert_eq!(found["gone"], json!([{ "name": "write", "policy": "research/pins", "digest": other }]));
    let none = mesh.admin("GET", "/v1/tools?server=research/other", "").await.ok();
    assert_eq!(none["items"], json!([]));
    mesh.admin("GET", "/v1/tools?server=x", "").await.refused(400, "bad-parameter");
}
