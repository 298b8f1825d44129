//! The operator API over a real store: requests go into the router as a server would pass them on.

mod api_support;

use std::time::Duration;

use api_support::*;
use serde_json::{Value, json};

mod tools {
    use super::*;

    fn pins(approved: &str) -> String {
        document("ToolPolicy", "research", "pins", &format!("{{ pin: enforce, approved: {{ {approved} }} }}"))
    }

    #[tokio::test]
    async fn what_is_advertised_is_held_against_what_was_approved() {
        let mesh = Mesh::start().await;
        let list =
            async || mesh.admin("GET", "/v1/tools?definitions=true", "").await.ok()["items"][0].clone();
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
}

mod quotas {
    use std::sync::Arc;

    use weft_proto::name::{NodeId, SpiffeId};
    use weft_proto::pb::weft::quota::v1::{KeyPart, LeaseDemand, LeaseReport, LimitKey};
    use weft_proto::policy::quota::Plan;
    use weft_proto::resource::{Resource, Spec, parse_one};
    use weft_proto::wire::{Meta, Object};

    use super::*;

    fn fair() -> String {
        let limit = "{ name: calls, per: [caller], rate: 10/min, scope: mesh }";
        let spec = format!("{{ servers: {{ names: [files] }}, limits: [{limit}] }}");
        document("QuotaPolicy", "research", "fair", &spec)
    }

    /// What a sidecar holds since before the control plane began, and what it counted.
    fn report(resource: &Resource, sequence: u64, allowed: u64, denied: u64) -> LeaseReport {
        let Spec::QuotaPolicy(spec) = &resource.spec else { panic!("it is a policy") };
        let plan =
            Plan::new(&[Arc::new(Object { meta: Meta::new(&resource.metadata, 0), spec: spec.clone() })]);
        let key = LimitKey {
            policy: "research/fair".to_owned(),
            limit: plan.limits()[0].identity.to_string(),
            parts: vec![KeyPart { dimension: "caller".to_owned(), value: Some("a/b".to_owned()) }],
        };
        let demand = LeaseDemand {
            key: Some(key),
            has_milli: 4000,
            has_burst_milli: 4000,
            wants_milli: 3000,
            allowed_total: allowed,
            denied_total: denied,
            cost_milli_total: allowed * 1000,
            epoch: 1,
            ..LeaseDemand::default()
        };
        LeaseReport { session: 1, sequence, demands: vec![demand], node: "research/files-0".to_owned() }
    }

    #[tokio::test]
    async fn mesh_wide_limits_are_told_as_they_are_lent_and_used() {
        let mesh = Mesh::start().await;
        let list = async |query: &str| mesh.admin("GET", &format!("/v1/quotas{query}"), "").await.ok();
        assert_eq!(list("").await, json!({ "items": [], "leftOut": 0 }));
        mesh.apply(&(server("files", "") + &server("other", "") + &fair())).await;
        let policy = Arc::new(parse_one("fair.yaml", &fair()).unwrap());
        let identity = SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap();
        let node = NodeId::parse("research/files-0").unwrap();
        let (holder, _grants) = mesh.lender.open(&identity, &node, 1).unwrap();
        for (sequence, allowed, denied) in [(1, 5, 0), (2, 8, 2)] {
            let report = report(&policy, sequence, allowed, denied);
            mesh.lender.report(holder, &report, |_, _| Some(Arc::clone(&policy)));
        }
        let expected = json!({ "leftOut": 0, "items": [{
            "policy": "research/fair", "limit": "calls", "per": [{ "dimension": "caller", "value": "a/b" }],
            "amount": "10/min", "capacity": 10.0, "lent": 4.0, "used": 3.0, "allowed": 8, "denied": 2,
            "holders": 1, "learning": true,
        }] });
        assert_eq!(list("").await, expected);
        assert_eq!(list("?policy=research/fair&server=research/files").await, expected);
        let none = json!({ "items": [], "leftOut": 0 });
        assert_eq!(list("?policy=research/unfair").await, none);
        assert_eq!(list("?server=research/other").await, none);
        assert_eq!(list("?server=research/gone").await, none);
        mesh.admin("GET", "/v1/quotas?policy=fair", "").await.refused(400, "bad-parameter");
    }
}

mod changes {
    use super::*;

    #[tokio::test]
    async fn an_object_is_created_shown_changed_and_deleted() {
        let mesh = Mesh::start().await;
        let path = "/v1/namespaces/research/mcpservers/files";
        let made = mesh.admin("PUT", path, &server("files", "")).await.ok();
        assert_eq!(made["results"][0]["action"], "created");
        assert_eq!(made["results"][0]["kind"], "McpServer");
        let shown = mesh.admin("GET", path, "").await;
        let version = made["revision"].to_string();
        assert_eq!(shown.headers["etag"], format!("\"{version}\""));
        assert_eq!(shown.ok()["metadata"]["resourceVersion"], version);
        let changed = mesh.admin("PUT", path, &server("files", "old")).await.ok();
        assert_eq!(changed["results"][0]["action"], "changed");
        let diff = changed["results"][0]["diff"].as_str().unwrap();
        assert!(diff.starts_with("--- mcpservers/research/files\n+++ mcpservers/research/files\n"), "{diff}");
        assert!(diff.contains("\n+  - old\n"), "{diff}");
        let same = mesh.admin("PUT", path, &server("files", "old")).await.ok();
        assert_eq!(
            (&same["results"][0]["action"], &same["results"][0]["diff"]),
            (&json!("unchanged"), &json!(""))
        );
        let deleted = mesh.admin("DELETE", path, "").await.ok();
        assert_eq!(deleted["results"][0]["action"], "deleted");
        mesh.admin("GET", path, "").await.refused(404, "not-found");
        mesh.admin("DELETE", path, "").await.refused(404, "not-found");
    }

    #[tokio::test]
    async fn the_path_and_the_document_must_name_the_same() {
        let mesh = Mesh::start().await;
        let path = "/v1/namespaces/research/mcpservers/other";
        let errors =
            mesh.admin("PUT", path, &server("files", "")).await.refused(422, "invalid")["errors"].clone();
        assert_eq!((&errors[0]["field"], &errors[0]["line"]), (&json!("metadata"), &json!(1)));
        mesh.admin("PUT", path, &(server("other", "") + &server("b", ""))).await.refused(422, "invalid");
        mesh.admin("GET", "/v1/namespaces/research/things/a", "").await.refused(404, "not-found");
        mesh.admin("GET", "/v1/namespaces/Research/mcpservers/a", "").await.refused(400, "bad-parameter");
        mesh.admin("GET", "/v1/namespaces/a%2Fb/mcpservers/a", "").await.refused(400, "bad-parameter");
        mesh.admin("GET", "/v1/namespaces/a/mcpservers/%FF", "").await.refused(404, "unknown-route");
    }

    #[tokio::test]
    async fn of_an_apply_everything_is_done_or_nothing_and_every_mistake_has_its_place() {
        let mesh = Mesh::start().await;
        let broken = "---\napiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: { name: bad }\nspec:\n  external: { url: 'https://x.example/' }\n  tmeouts: {}\n";
        let input = server("a", "") + broken + &server("b", "");
        let problem = mesh.admin("POST", "/v1/apply?file=mesh.yaml", &input).await.refused(422, "invalid");
        let error = &problem["errors"][0];
        assert_eq!(error["file"], "mesh.yaml");
        assert_eq!((&error["line"], &error["column"]), (&json!(12), &json!(3)), "{error}");
        assert!(error["message"].as_str().unwrap().contains("did you mean \"timeouts\"?"), "{error}");
        assert_eq!(problem["errors"].as_array().unwrap().len(), 1);
        assert_eq!(mesh.names().await, [""; 0]);
        let twice = mesh.admin("POST", "/v1/apply", &(server("a", "") + &server("a", ""))).await;
        let error = twice.refused(422, "invalid")["errors"][0].clone();
        assert_eq!((&error["line"], &error["field"]), (&json!(6), &json!("metadata.name")));
        mesh.apply(&(server("a", "") + &server("b", ""))).await;
        assert_eq!(mesh.names().await, ["a", "b"]);
    }

    #[tokio::test]
    async fn json_is_taken_like_yaml() {
        let mesh = Mesh::start().await;
        let text = "{\n\t\"apiVersion\": \"weft.dev/v1alpha1\",\n\t\"kind\": \"McpServer\",\n\t\"metadata\": {\"namespace\": \"research\", \"name\": \"files\"},\n\t\"spec\": {\"external\": {\"url\": \"https://x.example/\"}}\n}";
        let request =
            mesh.request("POST", "/v1/apply", text).header("content-type", "application/json; charset=utf-8");
        mesh.send(request).await.ok();
        let shown = mesh.admin("GET", "/v1/namespaces/research/mcpservers/files", "").await.ok();
        mesh.admin("PUT", "/v1/namespaces/research/mcpservers/files", &shown.to_string()).await.ok();
    }

    #[tokio::test]
    async fn a_dry_run_tells_everything_and_leaves_no_trace() {
        let mesh = Mesh::start().await;
        mesh.apply(&server("a", "")).await;
        let before = mesh.traces().await;
        let path = "/v1/namespaces/research/mcpservers/a";
        for (method, path, body) in [
            ("POST", "/v1/apply?dryRun=true", server("a", "x") + &server("b", "")),
            ("POST", "/v1/delete?dryRun=true", server("a", "")),
            ("PUT", &format!("{path}?dryRun=true"), server("a", "x")),
            ("DELETE", &format!("{path}?dryRun=true"), String::new()),
            ("POST", "/v1/rollback", json!({ "to": 1, "dryRun": true }).to_string()),
        ] {
            let told = mesh.admin(method, path, &body).await.ok();
            assert_eq!(told["dryRun"], true);
            assert!(!told["results"][0]["diff"].as_str().unwrap().is_empty(), "{path}");
        }
        assert_eq!(mesh.traces().await, before);
        mesh.admin("POST", "/v1/apply?dryRun=true", "kind: Nonsense").await.refused(422, "invalid");
    }

    #[tokio::test]
    async fn a_change_based_on_an_old_version_conflicts_and_names_both() {
        let mesh = Mesh::start().await;
        let first = mesh.apply(&server("a", "")).await;
        let second = mesh.apply(&server("a", "x")).await;
        let versioned = |version: u64| {
            server("a", "y").replace("name: a", &format!("name: a, resourceVersion: '{version}'"))
        };
        let problem = mesh.admin("POST", "/v1/apply", &versioned(first)).await.refused(409, "conflict");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains(&format!("version {first}")) && detail.contains(&format!("version {second}")),
            "{detail}"
        );
        let stale = format!("/v1/namespaces/research/mcpservers/a?resourceVersion={first}");
        mesh.admin("DELETE", &stale, "").await.refused(409, "conflict");
        mesh.apply(&versioned(second)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn concurrent_writers_lose_no_update() {
        let mesh = Mesh::start().await;
        mesh.apply(&server("shared", "")).await;
        // Each writer adds an alias to what it read, and begins anew when somebody was faster.
        let writers = (0..8).map(|number| {
            let mesh = mesh.clone();
            tokio::spawn(async move {
                let path = "/v1/namespaces/research/mcpservers/shared";
                loop {
                    let mut object = mesh.admin("GET", path, "").await.ok();
                    let aliases = &mut object["spec"]["aliases"];
                    let mut list = aliases.as_array().cloned().unwrap_or_default();
                    list.push(format!("alias-{number}").into());
                    *aliases = list.into();
                    match mesh.admin("PUT", path, &object.to_string()).await.status {
                        200 => break,
                        status => assert_eq!(status, 409),
                    }
                }
            })
        });
        let others = (0..8).map(|number| {
            let mesh = mesh.clone();
            tokio::spawn(async move { _ = mesh.apply(&server(&format!("own-{number}"), "")).await })
        });
        for done in futures_util::future::join_all(writers.chain(others)).await {
            done.unwrap();
        }
        let shared = mesh.admin("GET", "/v1/namespaces/research/mcpservers/shared", "").await.ok();
        assert_eq!(shared["spec"]["aliases"].as_array().unwrap().len(), 8);
        assert_eq!(mesh.names().await.len(), 9);
    }

    #[tokio::test]
    async fn objects_that_documents_name_are_deleted_together() {
        let mesh = Mesh::start().await;
        mesh.apply(&(server("a", "") + &server("b", ""))).await;
        let told =
            mesh.admin("POST", "/v1/delete?reason=done", &(server("a", "") + &server("z", ""))).await.ok();
        let actions: Vec<_> = told["results"].as_array().unwrap().iter().map(|it| &it["action"]).collect();
        assert_eq!(actions, ["deleted", "unchanged"]);
        assert_eq!(told["results"][1]["warnings"], json!(["it was not there"]));
        assert_eq!(mesh.names().await, ["b"]);
    }

    #[tokio::test]
    async fn nonsense_between_objects_is_refused_and_probable_mistakes_are_warned_of() {
        let mesh = Mesh::start().await;
        mesh.apply(&server("a", "x")).await;
        mesh.admin("POST", "/v1/apply", &server("b", "x")).await.refused(422, "invalid");
        let trust = document("Trust", "weft-system", "mesh", "{ trustDomain: other.example }");
        mesh.admin("POST", "/v1/apply", &trust).await.refused(422, "invalid");
        let policy = document(
            "AccessPolicy",
            "research",
            "p",
            "{ servers: { names: [z] }, rules: [{ action: deny }] }",
        );
        let told = mesh.admin("POST", "/v1/apply", &policy).await.ok();
        assert_eq!(told["results"][0]["warnings"], json!(["it selects no server that exists"]));
    }
}

mod listing {
    use super::*;

    #[tokio::test]
    async fn pages_show_one_revision_and_filters_hold() {
        let mesh = Mesh::start().await;
        for name in ["a", "b", "c", "d", "e"] {
            mesh.apply(&server(name, "")).await;
        }
        let labelled = server("f", "").replace("name: f", "name: f, labels: { team: papers, tier: gold }");
        mesh.apply(&labelled).await;
        mesh.apply(&document("Telemetry", "other", "t", "{ accessLog: { off: true } }")).await;
        let (mut names, mut path) = (Vec::new(), "/v1/resources?kind=servers&limit=2".to_owned());
        let mut revision = None;
        loop {
            let page = mesh.admin("GET", &path, "").await.ok();
            assert_eq!(page["revision"], *revision.get_or_insert_with(|| page["revision"].clone()));
            names.extend(page["items"].as_array().unwrap().iter().map(|it| it["metadata"]["name"].clone()));
            mesh.apply(&server("zz", &format!("n{}", names.len()))).await;
            let Some(token) = page["continue"].as_str() else { break };
            path = format!("/v1/resources?kind=servers&limit=2&continue={token}");
        }
        assert_eq!(names, ["a", "b", "c", "d", "e", "f"]);
        let count = async |query: &str| {
            mesh.admin("GET", &format!("/v1/resources?{query}"), "").await.ok()["items"]
                .as_array()
                .unwrap()
                .len()
        };
        assert_eq!(count("labels=team=papers,tier=gold").await, 1);
        assert_eq!(count("labels=team%3Dpapers%2Ctier%3Dtin").await, 0);
        assert_eq!(count("namespace=other").await, 1);
        assert_eq!(count("namespace=research&kind=McpServer").await, 7);
        assert_eq!(count("").await, 8);
    }

    #[tokio::test]
    async fn bad_questions_are_refused() {
        let mesh = Mesh::start().await;
        for query in [
            "kind=Nonsense",
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=",
            "namespace=Upper",
            "labels=x",
            "continue=nonsense",
            "continue=",
            "unknown=1",
            "limit=1&limit=2",
            "Kind=McpServer",
        ] {
            mesh.admin("GET", &format!("/v1/resources?{query}"), "").await.refused(400, "bad-parameter");
        }
        for path in [
            "/v1/version?x=1",
            "/v1/history?before=x",
            "/v1/watch?after=x",
            "/v1/audit?limit=-1",
            "/openapi.json?x",
        ] {
            mesh.admin("GET", path, "").await.refused(400, "bad-parameter");
        }
        mesh.admin("POST", "/v1/apply?dryrun=true", "").await.refused(400, "bad-parameter");
        mesh.admin("POST", "/v1/apply?dryRun=yes", "").await.refused(400, "bad-parameter");
    }
}

mod the_past {
    use super::*;

    #[tokio::test]
    async fn history_says_who_changed_what_when_and_why() {
        let mesh = Mesh::start().await;
        mesh.apply(&server("a", "")).await;
        let key = mesh.key("ci", "operator").await;
        let path = "/v1/apply?reason=because%20of%20it";
        let made = mesh.as_key(&key, "POST", path, &(server("a", "x") + &server("b", ""))).await.ok();
        let list = mesh.admin("GET", "/v1/history", "").await.ok();
        assert_eq!(list["items"].as_array().unwrap().len(), 2, "keys are no part of it: {list}");
        let newest = &list["items"][0];
        assert_eq!((&newest["author"], &newest["reason"]), (&json!("ci"), &json!("because of it")));
        assert_eq!(
            newest["changes"][0],
            json!({ "kind": "McpServer", "namespace": "research", "name": "a", "action": "changed" })
        );
        assert_eq!(newest["changes"][1]["action"], "created");
        let one = mesh.admin("GET", &format!("/v1/history/{}", made["revision"]), "").await.ok();
        assert!(one["changes"][0]["diff"].as_str().unwrap().contains("\n+  - x\n"), "{one}");
        let of_b = mesh.admin("GET", "/v1/history?kind=server&namespace=research&name=b", "").await.ok();
        assert_eq!(of_b["items"].as_array().unwrap().len(), 1);
        let first_page = mesh.admin("GET", "/v1/history?limit=1", "").await.ok();
        let next = format!("/v1/history?limit=1&before={}", first_page["next"]);
        assert_eq!(mesh.admin("GET", &next, "").await.ok()["items"][0]["changes"][0]["action"], "created");
        mesh.admin("GET", "/v1/history/999", "").await.refused(404, "unknown-revision");
        mesh.admin("GET", "/v1/history/1", "").await.refused(404, "unknown-revision");
        mesh.admin("GET", "/v1/history/x", "").await.refused(400, "bad-parameter");
    }

    #[tokio::test]
    async fn a_rollback_restores_objects_and_nothing_else() {
        let mesh = Mesh::start().await;
        let then = mesh.apply(&(server("a", "") + &server("b", ""))).await;
        let now = mesh.apply(&(server("a", "x") + &server("c", ""))).await;
        mesh.admin("DELETE", "/v1/namespaces/research/mcpservers/b", "").await.ok();
        let key = mesh.key("later", "readonly").await;
        let stale = json!({ "to": then, "expectRevision": now }).to_string();
        mesh.admin("POST", "/v1/rollback", &stale).await.refused(409, "conflict");
        let told = mesh.admin("POST", "/v1/rollback", &json!({ "to": then }).to_string()).await.ok();
        let mut actions: Vec<_> = told["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| format!("{} {}", it["name"].as_str().unwrap(), it["action"].as_str().unwrap()))
            .collect();
        actions.sort();
        assert_eq!(actions, ["a changed", "b created", "c deleted"]);
        assert_eq!(mesh.names().await, ["a", "b"]);
        mesh.as_key(&key, "GET", "/v1/version", "").await.ok();
        let newest = mesh.admin("GET", "/v1/history?limit=1", "").await.ok();
        assert_eq!(newest["items"][0]["reason"], format!("rollback to revision {then}"));
        mesh.admin("POST", "/v1/rollback", "{\"to\": 999}").await.refused(404, "unknown-revision");
        mesh.admin("POST", "/v1/rollback", "{\"to\": 1, \"x\": 1}").await.refused(400, "bad-body");
    }

    #[tokio::test]
    async fn what_was_compacted_is_gone() {
        let mesh = Mesh::start().await;
        let first = mesh.apply(&server("a", "")).await;
        let mut last = 0;
        for number in 0..5 {
            last = mesh.apply(&server("a", &format!("x{number}"))).await;
        }
        mesh.store.compact(weft_control_plane::store::Revision(last)).await.unwrap();
        mesh.admin("GET", &format!("/v1/watch?after={first}"), "").await.refused(410, "compacted");
        mesh.admin("GET", &format!("/v1/history/{first}"), "").await.refused(410, "compacted");
        mesh.admin("POST", "/v1/rollback", &json!({ "to": first }).to_string())
            .await
            .refused(410, "compacted");
        let token = "MSByZXNvdXJjZXMvbWNwc2VydmVycy9yZXNlYXJjaC9h";
        mesh.admin("GET", &format!("/v1/resources?continue={token}"), "").await.refused(410, "compacted");
    }
}

mod watching {
    use super::*;

    #[tokio::test]
    async fn a_watch_replays_stays_live_and_resumes() {
        let mesh = Mesh::start().await;
        let first = mesh.apply(&(server("a", "") + &server("b", ""))).await;
        let mut watch = mesh.watch("/v1/watch?after=1", None).await;
        assert_eq!(watch.next().await.name, "bookmark");
        let (one, two) = (watch.next().await, watch.next().await);
        assert_eq!((one.name.as_str(), &one.data["name"], one.id), ("put", &json!("a"), None));
        assert_eq!((&two.data["name"], two.id), (&json!("b"), Some(first)));
        assert_eq!(two.data["resource"]["metadata"]["resourceVersion"], first.to_string());
        mesh.admin("DELETE", "/v1/namespaces/research/mcpservers/a", "").await.ok();
        let gone = watch.next().await;
        assert_eq!((gone.name.as_str(), &gone.data["name"]), ("delete", &json!("a")));
        assert!(gone.data.get("resource").is_none());
        let mut resumed = mesh.watch("/v1/watch?after=0", Some(first)).await;
        assert_eq!(resumed.next().await.id, Some(first));
        assert_eq!(resumed.next().await.name, "delete");
    }

    #[tokio::test]
    async fn a_watch_without_a_start_begins_now_and_shows_what_it_was_asked_for() {
        let mesh = Mesh::start().await;
        let head = mesh.apply(&server("a", "")).await;
        let mut watch = mesh.watch("/v1/watch?kind=Route&namespace=research", None).await;
        assert_eq!(watch.next().await.id, Some(head));
        mesh.apply(&server("b", "")).await;
        mesh.apply(&document(
            "Route",
            "research",
            "r",
            "{ server: research/a, rules: [{ to: [{ server: research/b }] }] }",
        ))
        .await;
        assert_eq!(watch.next().await.data["name"], "r");
    }

    #[tokio::test]
    async fn a_quiet_watch_gives_signs_of_life_and_ends_with_its_key() {
        let mesh = Mesh::start_with(|limits| limits.heartbeat = Duration::from_millis(20)).await;
        let key = mesh.key("eyes", "readonly").await;
        let mut watch = mesh.watch_as(&key, "/v1/watch", None).await;
        watch.next().await;
        assert_eq!(watch.next_block().await.unwrap(), ": heartbeat");
        let id = key.split('_').nth(1).unwrap();
        mesh.admin("DELETE", &format!("/v1/keys/{id}"), "").await.status(204);
        let last = watch.next().await;
        assert_eq!((last.name.as_str(), &last.data["code"]), ("error", &json!("unauthenticated")));
        assert_eq!(watch.next_block().await, None);
    }

    #[tokio::test]
    async fn watchers_are_bounded_and_their_places_given_back() {
        let mesh = Mesh::start_with(|limits| limits.watchers_max = 2).await;
        let first = mesh.watch("/v1/watch", None).await;
        let _second = mesh.watch("/v1/watch", None).await;
        let refused = mesh.admin("GET", "/v1/watch", "").await;
        assert!(refused.headers.contains_key("retry-after"));
        refused.refused(503, "too-many-watchers");
        drop(first);
        mesh.watch("/v1/watch", None).await;
        mesh.admin("GET", "/v1/watch?after=999", "").await.refused(404, "unknown-revision");
    }

    #[tokio::test]
    async fn shutting_down_ends_watches() {
        let mesh = Mesh::start().await;
        let mut watch = mesh.watch("/v1/watch", None).await;
        watch.next().await;
        mesh.shutdown.cancel();
        assert_eq!(watch.next_block().await, None);
    }
}

mod access {
    use super::*;

    #[tokio::test]
    async fn every_operation_is_routed_and_its_scope_is_enforced() {
        let mesh = Mesh::start().await;
        let readonly = mesh.key("eyes", "readonly").await;
        let operator = mesh.key("hands", "operator").await;
        let document = weft_control_plane::api::openapi();
        let mut seen = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let method = method.to_uppercase();
                let path = path.replace("{plural}", "mcpservers").replace("{revision}", "1");
                let path = path.replace(['{', '}'], "");
                let scope = operation["x-weft-scope"].as_str();
                seen += 1;
                let Some(scope) = scope else {
                    mesh.as_nobody(&method, &path).await.status(200);
                    continue;
                };
                // Each from an address of its own: this is not about guessing keys.
                mesh.as_nobody_from(seen, &method, &path).await.refused(401, "unauthenticated");
                for (key, held) in [(&readonly, "readonly"), (&operator, "operator")] {
                    let answer = mesh.as_key(key, &method, &path, "").await;
                    let rank =
                        |scope: &str| ["readonly", "operator", "admin"].iter().position(|it| *it == scope);
                    match rank(held) < rank(scope) {
                        true => _ = answer.refused(403, "forbidden"),
                        false => assert!(
                            ![401, 403, 405].contains(&answer.status),
                            "{method} {path}: {}",
                            answer.status
                        ),
                    }
                }
                let answer = mesh.admin(&method, &path, "").await;
                assert!(![401, 403, 405].contains(&answer.status), "{method} {path}: {}", answer.status);
                assert!(answer.json().is_none_or(|it| it["code"] != "unknown-route"), "{method} {path}");
            }
        }
        assert_eq!(seen, 31);
    }

    #[tokio::test]
    async fn whatever_changes_something_takes_more_than_readonly() {
        let document = weft_control_plane::api::openapi();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                // A question that is too long for an address changes nothing.
                let asks = method == "get" || operation["operationId"] == "explainCall";
                assert!(asks || operation["x-weft-scope"] != "readonly", "{method} {path}");
            }
        }
    }

    #[tokio::test]
    async fn keys_are_made_listed_and_revoked() {
        let mesh = Mesh::start().await;
        let key = mesh.key("ci", "operator").await;
        mesh.as_key(&key, "GET", "/v1/version", "").await.ok();
        let list = mesh.admin("GET", "/v1/keys", "").await.ok();
        let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
        assert_eq!(names, ["admin", "ci"]);
        assert!(list["items"][1]["lastUsedAt"].is_string());
        assert!(!list.to_string().contains("hash") && !list.to_string().contains(&key));
        let body = json!({ "name": "ci", "scope": "admin" }).to_string();
        mesh.admin("POST", "/v1/keys", &body).await.refused(409, "name-taken");
        let id = |at: usize| format!("/v1/keys/{}", list["items"][at]["id"].as_str().unwrap());
        mesh.admin("DELETE", &id(0), "").await.refused(409, "last-admin-key");
        mesh.admin("DELETE", &id(1), "").await.status(204);
        mesh.as_key(&key, "GET", "/v1/version", "").await.refused(401, "unauthenticated");
        mesh.admin("DELETE", &id(1), "").await.refused(404, "not-found");
        for bad in
            ["{}", "{\"name\":\"x\",\"scope\":\"root\"}", "{\"name\":\"X\",\"scope\":\"admin\"}", "[", ""]
        {
            mesh.admin("POST", "/v1/keys", bad).await.refused(400, "bad-body");
        }
    }

    #[tokio::test]
    async fn tokens_are_made_listed_redeemed_and_revoked() {
        let mesh = Mesh::start().await;
        let wish = json!({ "identity": { "namespace": "research", "serviceAccount": "files" }, "description": "first" });
        let made = mesh.admin("POST", "/v1/tokens", &wish.to_string()).await.status(201);
        let token: weft_certs::join::JoinToken = made["token"].as_str().unwrap().parse().unwrap();
        assert_eq!((&made["usesLeft"], &made["state"]), (&json!(1), &json!("active")));
        let now = weft_control_plane::clock::now();
        let tries = (0..16).map(|_| mesh.tokens.redeem(&token, now));
        let granted = futures_util::future::join_all(tries).await.into_iter().filter_map(Result::ok);
        assert_eq!(
            granted.map(|it| it.to_string()).collect::<Vec<_>>(),
            ["spiffe://corp.example/ns/research/sa/files"]
        );
        let list = mesh.admin("GET", "/v1/tokens", "").await.ok();
        assert_eq!(
            (&list["items"][0]["state"], &list["items"][0]["createdBy"]),
            (&json!("used"), &json!("admin"))
        );
        assert!(!list.to_string().contains("hash"));
        let path = format!("/v1/tokens/{}", token.id());
        mesh.admin("DELETE", &path, "").await.status(204);
        assert_eq!(mesh.admin("GET", "/v1/tokens", "").await.ok()["items"][0]["state"], "revoked");
        mesh.admin("DELETE", "/v1/tokens/nobody", "").await.refused(404, "not-found");
        let long = json!({ "identity": wish["identity"], "expiresIn": "365d" }).to_string();
        mesh.admin("POST", "/v1/tokens", &long).await.refused(422, "limit-exceeded");
    }

    #[tokio::test]
    async fn what_was_done_and_what_was_refused_is_in_the_audit_trail() {
        let mesh = Mesh::start().await;
        let eyes = mesh.key("eyes", "readonly").await;
        mesh.as_nobody("POST", "/v1/apply").await.refused(401, "unauthenticated");
        mesh.as_key(&eyes, "POST", "/v1/apply", "").await.refused(403, "forbidden");
        mesh.admin("POST", "/v1/apply", "kind: Nonsense").await.refused(422, "invalid");
        let revision = mesh.apply(&server("a", "")).await;
        let stale = server("a", "").replace("name: a", "name: a, resourceVersion: '1'");
        mesh.admin("POST", "/v1/apply", &stale).await.refused(409, "conflict");
        mesh.admin("POST", "/v1/trust/rotation", "{\"action\":\"start\"}").await.ok();
        mesh.admin("POST", "/v1/trust/rotation", "{\"action\":\"abort\"}")
            .await
            .refused(409, "rotation-refused");
        mesh.admin("POST", "/v1/trust/revocations", "{\"serial\":\"abc\"}").await.status(204);
        let list = mesh.admin("GET", "/v1/audit", "").await.ok();
        let told: Vec<_> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| ["who", "action", "outcome"].map(|field| it[field].as_str().unwrap()).join(" "))
            .collect();
        assert_eq!(
            told,
            [
                "admin trust.revocation done",
                "admin trust.rotation refused",
                "admin trust.rotation done",
                "admin apply refused",
                "admin apply done",
                "admin apply refused",
                "eyes apply refused",
                "anonymous apply refused",
                "admin key.create done",
                "control-plane key.create done",
            ]
        );
        let done = &list["items"][4];
        assert_eq!((&done["revision"], &done["object"]), (&json!(revision), &json!("mcpservers/research/a")));
        assert_eq!(done["from"], "192.0.2.1:4711");
        assert!(list["items"][3]["detail"].as_str().unwrap().starts_with("conflict: "));
        let filtered = mesh.admin("GET", "/v1/audit?who=admin&action=trust.&limit=2", "").await.ok();
        assert_eq!(filtered["items"].as_array().unwrap().len(), 2);
        let next = format!("/v1/audit?who=admin&action=trust.&limit=2&before={}", filtered["next"]);
        let rest = mesh.admin("GET", &next, "").await.ok();
        assert_eq!((rest["items"].as_array().unwrap().len(), rest.get("next")), (1, None));
    }

    #[tokio::test]
    async fn whoever_guesses_is_slowed_down_and_floods_no_trail() {
        let mesh = Mesh::start().await;
        let mut answers = Vec::new();
        for _ in 0..20 {
            answers.push(mesh.as_nobody("POST", "/v1/apply").await);
        }
        assert!(answers[0].headers.contains_key("www-authenticate"));
        let throttled = answers.pop().unwrap();
        assert!(throttled.headers.contains_key("retry-after"));
        throttled.refused(429, "too-many-attempts");
        let list = mesh.admin("GET", "/v1/audit?who=anonymous", "").await.ok();
        assert_eq!(list["items"].as_array().unwrap().len(), 10);
    }
}

mod the_door {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_read_is_refused() {
        let mesh = Mesh::start().await;
        let send = async |path: &str, kind: &str, body: &[u8]| {
            mesh.send(mesh.request("POST", path, body.to_vec()).header("content-type", kind)).await
        };
        send("/v1/apply", "application/yaml", b"kind: \xff").await.refused(400, "bad-body");
        send("/v1/apply", "application/yaml", b"").await.refused(400, "bad-body");
        send("/v1/apply", "application/yaml", b"# nothing\n---\n").await.refused(400, "bad-body");
        send("/v1/apply", "application/yaml", b"a: [").await.refused(422, "invalid");
        send("/v1/apply", "application/json", b"{\"a\": ").await.refused(422, "invalid");
        send("/v1/apply", "text/html", b"a: b").await.refused(415, "unsupported-media-type");
        send("/v1/apply", "application/yaml; charset=latin1", b"a: b")
            .await
            .refused(415, "unsupported-media-type");
        send("/v1/keys", "application/yaml", b"{}").await.refused(415, "unsupported-media-type");
        let problem = send("/v1/keys", "application/json", b"{\n  \"x\": 1}").await.refused(400, "bad-body");
        assert_eq!(problem["errors"][0]["line"], 2);
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_by_its_announcement_and_while_it_arrives() {
        let mesh = Mesh::start().await;
        let announced = mesh.request("POST", "/v1/keys", "").header("content-length", (256 << 10) + 1);
        mesh.send(announced).await.refused(413, "body-too-large");
        let chunks = |count: usize| {
            let chunk = || Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b' '; 64 << 10]));
            axum::body::Body::from_stream(futures_util::stream::iter((0..count).map(move |_| chunk())))
        };
        mesh.send(mesh.request("POST", "/v1/keys", chunks(5))).await.refused(413, "body-too-large");
        mesh.send(mesh.request("POST", "/v1/apply", chunks(257))).await.refused(413, "body-too-large");
        mesh.send(mesh.request("POST", "/v1/apply", chunks(256))).await.refused(400, "bad-body");
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let mesh = Mesh::start_with(|limits| limits.body_timeout = Duration::from_millis(20)).await;
        let body = axum::body::Body::from_stream(futures_util::stream::pending::<
            Result<bytes::Bytes, std::io::Error>,
        >());
        mesh.send(mesh.request("POST", "/v1/apply", body)).await.refused(408, "body-timeout");
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_is_given_up() {
        let mesh = Mesh::start_with(|limits| limits.request_timeout = Duration::from_millis(20)).await;
        mesh.trust.hang();
        mesh.admin("GET", "/v1/trust", "").await.refused(503, "timed-out");
    }

    #[tokio::test]
    async fn more_than_so_many_at_once_are_turned_away() {
        let mesh = Mesh::start_with(|limits| limits.in_flight_max = 1).await;
        mesh.trust.hang();
        let waiting = tokio::spawn({
            let mesh = mesh.clone();
            async move { mesh.admin("GET", "/v1/trust", "").await }
        });
        mesh.trust.asked().await;
        let refused = mesh.admin("GET", "/v1/version", "").await;
        assert_eq!(refused.headers["retry-after"], "1");
        refused.refused(503, "overloaded");
        waiting.abort();
    }

    #[tokio::test]
    async fn a_panic_is_answered_counted_and_ends_nothing_else() {
        let mesh = Mesh::start().await;
        mesh.trust.panic();
        mesh.admin("GET", "/v1/trust", "").await.refused(500, "internal");
        assert_eq!(mesh.metrics.panics.get(), 1);
        mesh.admin("GET", "/v1/version", "").await.ok();
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_problems_too() {
        let mesh = Mesh::start().await;
        for path in ["/", "/v1", "/v2/version", "/v1/version/", "/v1/namespaces/a/b"] {
            mesh.as_nobody("GET", path).await.refused(404, "unknown-route");
        }
        let refused = mesh.as_nobody("POST", "/v1/version").await;
        assert!(refused.headers["allow"].to_str().unwrap().contains("GET"));
        refused.refused(405, "method-not-allowed");
    }

    #[tokio::test]
    async fn every_answer_names_its_request() {
        let mesh = Mesh::start().await;
        let ok = mesh.admin("GET", "/v1/version", "").await;
        let id = ok.headers["weft-request-id"].to_str().unwrap().to_owned();
        assert_eq!(id.len(), 16);
        assert_eq!(ok.ok()["trustDomain"], "corp.example");
        let refused = mesh.as_nobody("GET", "/nowhere").await;
        let id = refused.headers["weft-request-id"].to_str().unwrap().to_owned();
        assert_eq!(refused.refused(404, "unknown-route")["instance"], format!("urn:weft:request:{id}"));
    }
}

mod what_is_shown {
    use super::*;

    #[tokio::test]
    async fn sidecars_are_told_as_the_hub_knows_them() {
        let mesh = Mesh::start().await;
        let list = mesh.admin("GET", "/v1/sidecars", "").await.ok();
        assert_eq!((&list["publishedRevision"], &list["items"][0]["sync"]), (&json!(7), &json!("rejected")));
        assert_eq!(list["items"][0]["types"][0]["nack"]["message"], "no");
        assert_eq!(mesh.admin("GET", "/v1/sidecars?namespace=other", "").await.ok()["items"], json!([]));
        assert_eq!(
            mesh.admin("GET", "/v1/sidecars/research/files-1", "").await.ok()["node"],
            "research/files-1"
        );
        mesh.admin("GET", "/v1/sidecars/research/none", "").await.refused(404, "not-found");
        assert_eq!(mesh.admin("GET", "/debug/nackz", "").await.ok()["items"].as_array().unwrap().len(), 1);
        assert_eq!(mesh.admin("GET", "/debug/syncz", "").await.ok()["items"].as_array().unwrap().len(), 1);
        assert_eq!(mesh.admin("GET", "/debug/plan", "").await.ok()["publishedRevision"], 7);
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
}

mod policy {
    use super::*;

    const POLICY: &str = "{ servers: { names: [files] }, rules: [\
         { name: readers, action: allow, from: [{ namespaces: [agents] }], to: [{ tools: ['read_*'] }], when: 'args.path.startsWith(\"/data/\")' },\
         { name: never, action: deny, from: [{ claims: { groups: [banned] } }] }] }";

    async fn mesh() -> Mesh {
        let mesh = Mesh::start().await;
        mesh.apply(&(server("files", "old") + &document("AccessPolicy", "research", "readers", POLICY)))
            .await;
        mesh
    }

    fn question(more: &Value) -> String {
        let mut question =
            json!({ "as": "agents/reviewer", "server": "research/files", "tool": "read_file" });
        for (key, value) in more.as_object().into_iter().flatten() {
            question[key] = value.clone();
        }
        question.to_string()
    }

    #[tokio::test]
    async fn a_call_is_explained_by_the_rules_as_they_are_now() {
        let mesh = mesh().await;
        let explain = async |more: Value| mesh.admin("POST", "/v1/explain", &question(&more)).await.ok();
        let allowed = explain(json!({ "args": { "path": "/data/x" } })).await;
        assert_eq!(
            (&allowed["allowed"], &allowed["reason"]),
            (&json!(true), &json!("research/readers#readers"))
        );
        assert_eq!(allowed["caller"], "spiffe://corp.example/ns/agents/sa/reviewer");
        let refused = explain(json!({ "args": { "path": "/etc" }, "server": "research/old" })).await;
        assert_eq!((&refused["allowed"], &refused["reason"]), (&json!(false), &json!("no-rule")));
        assert_eq!(
            (&refused["rules"][0]["when"], &refused["server"]),
            (&json!("false"), &json!("research/files"))
        );
        let banned = json!({ "args": { "path": "/data/x" }, "claims": { "groups": ["banned"] } });
        assert_eq!(explain(banned).await["reason"], "research/readers#never");
        let foreign = json!({ "as": "spiffe://other.example/ns/agents/sa/reviewer" });
        assert_eq!(explain(foreign).await["reason"], "federation");
        let all = "{ rules: [{ action: allow }] }";
        mesh.apply(&document("AccessPolicy", "research", "all", all)).await;
        assert_eq!(explain(json!({})).await["reason"], "research/all#0");
    }

    #[tokio::test]
    async fn a_question_that_is_none_is_refused_with_what_is_wrong() {
        let mesh = mesh().await;
        for more in [
            json!({ "as": "nobody" }),
            json!({ "as": "spiffe://corp.example/other" }),
            json!({ "prompt": "x" }),
            json!({ "tool": null }),
            json!({ "method": "tools/list", "args": {} }),
            json!({ "args": [] }),
            json!({ "claims": "x" }),
        ] {
            mesh.admin("POST", "/v1/explain", &question(&more)).await.refused(400, "bad-parameter");
        }
        let twice = r#"{"as":"a/b","server":"research/files","tool":"x","args":{"a":1,"\u0061":2}}"#;
        mesh.admin("POST", "/v1/explain", twice).await.refused(400, "bad-parameter");
        mesh.admin("POST", "/v1/explain", &question(&json!({ "unknown": 1 }))).await.refused(400, "bad-body");
        mesh.admin("POST", "/v1/explain", &question(&json!({ "server": "research/none" })))
            .await
            .refused(404, "not-found");
    }

    #[tokio::test]
    async fn who_can_names_the_rules_and_the_identities_that_are_known() {
        let mesh = mesh().await;
        let who = mesh.admin("GET", "/v1/who-can?server=research/files&tool=read_file", "").await.ok();
        assert_eq!(who["rules"][0]["callers"], json!([r#"{"namespaces":["agents"]}"#]));
        assert_eq!((&who["rules"][1]["action"], &who["others"]), (&json!("deny"), &json!(false)));
        let identity = json!({ "identity": "spiffe://corp.example/ns/research/sa/files", "may": "no" });
        assert_eq!(who["identities"], json!([identity]));
        let all = "{ rules: [{ action: allow, when: 'args.x == 1' }] }";
        mesh.apply(&document("AccessPolicy", "research", "all", all)).await;
        let who = mesh.admin("GET", "/v1/who-can?server=research/files&tool=read_file", "").await.ok();
        assert_eq!(who["identities"][0]["may"], "depends");
        mesh.admin("GET", "/v1/who-can?server=research/files", "").await.refused(400, "bad-parameter");
    }

    #[tokio::test]
    async fn a_bad_expression_is_refused_with_its_place_and_an_idle_policy_warned_of() {
        let mesh = Mesh::start().await;
        let spec = "\n  rules:\n    - action: allow\n      when: 'caller.nmaespace == \"a\"'";
        let input = server("files", "") + &document("AccessPolicy", "research", "p", spec);
        let problem = mesh.admin("POST", "/v1/apply", &input).await.refused(422, "invalid");
        let error = &problem["errors"][0];
        assert_eq!((&error["line"], &error["column"]), (&json!(13), &json!(13)), "{error}");
        assert_eq!(error["field"], "spec.rules[0].when");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with("line 1, column 8 of the expression: unknown field `nmaespace`"),
            "{message}"
        );
        let idle = document("AccessPolicy", "other", "p", "{ rules: [{ action: deny }] }");
        let applied = mesh.admin("POST", "/v1/apply", &idle).await.ok();
        assert_eq!(applied["results"][0]["warnings"], json!(["it selects no server that exists"]));
    }
}
