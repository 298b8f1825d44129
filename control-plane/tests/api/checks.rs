//! Whether all is well, as operators ask for it.

use weft_control_plane::check::{CHECKS, Group};

use super::*;

#[tokio::test]
async fn every_check_is_made_and_says_what_it_found() {
    let mesh = Mesh::start().await;
    let reader = mesh.key("reader", "readonly").await;
    let shadow = document("AccessPolicy", "research", "trial", "{ shadow: true, rules: [{ action: deny }] }");
    mesh.apply(&(server("files", "") + &shadow)).await;
    let list = mesh.as_key(&reader, "GET", "/v1/checks", "").await.ok();
    let items = list["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, CHECKS.iter().map(|it| it.name).collect::<Vec<_>>());
    let of = |name: &str| items.iter().find(|it| it["name"] == name).unwrap();
    let check = |name: &str, outcome: &str, said: &str| {
        assert_eq!(of(name)["outcome"], outcome, "{}", of(name));
        assert!(of(name)["detail"].as_str().unwrap().contains(said), "{}", of(name));
    };
    // The fakes know no root, and of a sidecar that refused something; nobody says who may call the server.
    check("published revision", "ok", "7, with every change");
    check("root certificates", "failed", "no root is trusted");
    check("accepted", "failed", "research/files-1 (Server: no)");
    // How much room there is, is the machine's affair.
    assert!(of("room on disk")["detail"].as_str().unwrap().contains("are free"));
    check("open servers", "warning", "research/files");
    check("policies in shadow", "ok", "1 are tried out");
    assert_eq!(list["ok"], false);
    assert!(list["at"].as_str().unwrap().ends_with('Z'));
    let (bad, good) = (of("accepted"), of("published revision"));
    assert!(bad["why"].is_string() && bad["remedy"].is_string() && good.get("why").is_none(), "{bad} {good}");
}

#[tokio::test]
async fn one_group_of_checks_is_made_alone() {
    let mesh = Mesh::start().await;
    for group in Group::ALL {
        let list = mesh.admin("GET", &format!("/v1/checks?group={}", group.word()), "").await.ok();
        let items = list["items"].as_array().unwrap();
        assert!(!items.is_empty() && items.iter().all(|it| it["group"] == group.word()), "{list}");
    }
    mesh.admin("GET", "/v1/checks?group=weather", "").await.refused(400, "bad-parameter");
}
