use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use weft_control_plane::clock;
use weft_control_plane::store::embedded::{EmbeddedStore, Options};
use weft_control_plane::store::list_all;
use weft_proto::name::TrustDomain;

use super::super::read;
use super::*;

struct World {
    mirror: Mirror,
    directory: TempDir,
}

impl World {
    async fn new() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap()).await
    }

    async fn in_directory(directory: TempDir) -> Self {
        let options = Options::new(directory.path(), Arc::new(clock::now));
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(options).await.unwrap());
        let mesh = Mesh { trust_domain: TrustDomain::parse("corp.example").unwrap() };
        let objects = Arc::new(Objects::new(Arc::clone(&store)));
        Self { mirror: Mirror::new(store, objects, mesh, Arc::default()), directory }
    }

    /// The same disk under a new control plane, which remembers nothing else.
    async fn restarted(self) -> Self {
        let Self { mirror, directory } = self;
        drop(mirror);
        Self::in_directory(directory).await
    }

    async fn take(&mut self, seen: impl IntoIterator<Item = Seen>) -> Revision {
        let batch = seen.into_iter().map(|seen| (seen.key.clone(), Some(seen))).collect();
        self.mirror.take(batch, &BTreeMap::new()).await.unwrap()
    }

    async fn stored(&self) -> Vec<String> {
        let (_, entries) = list_all(&*self.mirror.store, &desired::prefix(), None).await.unwrap();
        entries
            .iter()
            .map(|entry| entry.key.as_str().trim_start_matches(desired::PREFIX).to_owned())
            .collect()
    }

    async fn text(&self, key: &Key) -> String {
        let entry = self.mirror.store.get(&desired::store_key(key)).await.unwrap().unwrap();
        String::from_utf8(entry.value.to_vec()).unwrap()
    }

    fn fate(&self, key: &Key) -> Fate {
        self.mirror.ledger.entries()[key].fate.clone()
    }
}

/// An object as a watch gives it, made in the given second.
fn seen(kind: Kind, name: &str, made_at: i64, spec: Value) -> Seen {
    let object = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": kind.name(),
        "metadata": {
            "namespace": "a", "name": name, "uid": format!("{name}-{made_at}"), "generation": 1,
            "creationTimestamp": jiff::Timestamp::from_second(made_at).unwrap().to_string(),
        },
        "spec": spec,
    });
    read::seen(kind, serde_json::from_value(object).unwrap()).unwrap()
}

fn server(name: &str, made_at: i64, aliases: &[&str]) -> Seen {
    seen(Kind::McpServer, name, made_at, json!({ "stdio": { "command": "x" }, "aliases": aliases }))
}

fn policy(name: &str, spec: Value) -> Seen {
    seen(Kind::AccessPolicy, name, 5, spec)
}

fn deny(servers: Value) -> Value {
    json!({ "servers": servers, "rules": [{ "action": "deny" }] })
}

#[tokio::test]
async fn a_batch_is_one_commit_by_kubernetes_with_the_age_of_each_object() {
    let mut world = World::new().await;
    let (young, old) = (server("young", 2000, &[]), server("old", 1000, &[]));
    let key = old.key.clone();
    let revision = world.take([young, old, policy("p", deny(json!({ "names": ["old"] })))]).await;
    assert_eq!(revision, Revision(1));
    assert_eq!(world.stored().await, ["accesspolicies/a/p", "mcpservers/a/old", "mcpservers/a/young"]);
    let history = world.mirror.store.history(&desired::prefix(), None, 9).await.unwrap();
    assert_eq!((&*history[0].author, &*history[0].reason), ("kubernetes", "3 objects of the cluster"));
    assert!(world.text(&key).await.contains("1970-01-01T00:16:40Z"));
    assert_eq!(world.fate(&key), Fate::Taken(Revision(1)));
}

#[tokio::test]
async fn what_is_so_already_is_no_commit_even_after_a_restart() {
    let mut world = World::new().await;
    let objects = || [server("files", 1, &[]), policy("p", deny(json!({})))];
    let before = world.take(objects()).await;
    assert_eq!(world.take(objects()).await, before);
    let mut world = world.restarted().await;
    assert_eq!(world.take(objects()).await, before);
    assert_eq!(world.mirror.ledger.counts(), (2, 0));
}

#[tokio::test]
async fn what_vanished_while_nobody_looked_is_deleted() {
    let mut world = World::new().await;
    let (files, mail) = (server("files", 1, &[]), server("mail", 2, &[]));
    world.take([files.clone(), mail, policy("p", deny(json!({})))]).await;
    let mut world = world.restarted().await;
    let whole = BTreeMap::from([(Kind::McpServer, BTreeSet::from([files.key.clone()]))]);
    let batch = Batch::from([(files.key.clone(), Some(files))]);
    world.mirror.take(batch, &whole).await.unwrap();
    // Of the policies nothing is known, so that they stay.
    assert_eq!(world.stored().await, ["accesspolicies/a/p", "mcpservers/a/files"]);
}

#[tokio::test]
async fn an_object_that_does_not_read_is_kept_out_and_what_it_said_before_holds() {
    let mut world = World::new().await;
    let quota = |rate: &str| seen(Kind::QuotaPolicy, "q", 1, json!({ "limits": [{ "rate": rate }] }));
    world.take([quota("10/min")]).await;
    let bad = quota("10/fortnight");
    let key = bad.key.clone();
    world.take([bad, server("files", 1, &[])]).await;
    let Fate::KeptOut { message, before } = world.fate(&key) else { panic!("it is taken") };
    assert!(message.starts_with("spec.limits[0].rate: "), "{message}");
    assert_eq!(before, Before::Itself);
    assert!(world.text(&key).await.contains("10/min"));
    assert_eq!(world.stored().await, ["mcpservers/a/files", "quotapolicies/a/q"]);
    world.take([quota("20/min")]).await;
    assert!(matches!(world.fate(&key), Fate::Taken(_)));
}

#[tokio::test]
async fn an_access_policy_of_which_nothing_earlier_is_known_denies_what_it_may_be_about() {
    let mut world = World::new().await;
    let bad = |servers: Value| policy("p", json!({ "servers": servers, "rules": [{ "action": "alow" }] }));
    let key = bad(json!({})).key;
    world.take([bad(json!({ "names": ["files"] }))]).await;
    let held = |world: &World| match world.fate(&key) {
        Fate::KeptOut { before, .. } => before,
        Fate::Taken(_) => panic!("it is taken"),
    };
    assert_eq!(held(&world), Before::Denial);
    let text = world.text(&key).await;
    assert!(text.contains("\"action\":\"deny\"") && text.contains("files"), "{text}");
    // The next control plane finds the denial, and knows it for one.
    let mut world = world.restarted().await;
    world.take([bad(json!({ "names": ["files"] }))]).await;
    assert_eq!(held(&world), Before::Denial);
    world.take([policy("p", json!({ "rules": [{ "action": "allow" }] }))]).await;
    assert!(world.text(&key).await.contains("allow"));
    world.take([bad(json!({}))]).await;
    assert_eq!(held(&world), Before::Itself);
    assert!(world.text(&key).await.contains("allow"));
}

#[tokio::test]
async fn whatever_restricts_and_does_not_read_has_something_that_stands_in_for_it() {
    let mut world = World::new().await;
    let objects = [
        seen(Kind::QuotaPolicy, "q", 1, json!({ "limits": [{ "rate": "1/moon" }] })),
        seen(Kind::ToolPolicy, "t", 2, json!({ "pin": "always" })),
        seen(Kind::Authentication, "s", 3, json!({ "passkeys": true })),
    ];
    let keys: Vec<_> = objects.iter().map(|seen| seen.key.clone()).collect();
    world.take(objects.clone()).await;
    for (key, expected) in keys.iter().zip(["unread", "enforce", "1970-01-01"]) {
        assert!(world.text(key).await.contains(expected), "{key}");
        assert!(matches!(world.fate(key), Fate::KeptOut { before: Before::Denial, .. }), "{key}");
    }
    // The next control plane finds what stands in, and knows it for that.
    let mut world = world.restarted().await;
    world.take(objects).await;
    assert!(keys.iter().all(|key| matches!(world.fate(key), Fate::KeptOut { before: Before::Denial, .. })));
    world.take([seen(Kind::QuotaPolicy, "q", 1, json!({ "limits": [{ "rate": "10/min" }] }))]).await;
    assert!(world.text(&keys[0]).await.contains("10/min"));
}

#[tokio::test]
async fn of_two_that_contradict_the_older_is_taken_and_the_younger_once_it_may() {
    let mut world = World::new().await;
    let (older, younger) = (server("one", 10, &["shared"]), server("shared", 20, &[]));
    let rest = (0..20).map(|number| server(&format!("s{number}"), 30 + number, &[]));
    world.take(rest.chain([younger.clone(), older.clone()])).await;
    assert_eq!(world.mirror.ledger.counts(), (22, 1));
    let Fate::KeptOut { message, before } = world.fate(&younger.key) else { panic!("it is taken") };
    assert_eq!(before, Before::Nothing);
    assert!(message.contains("mcpservers/a/one is called \"shared\" already"), "{message}");
    world.mirror.take(Batch::from([(older.key.clone(), None)]), &BTreeMap::new()).await.unwrap();
    assert!(matches!(world.fate(&younger.key), Fate::Taken(_)));
    assert_eq!(world.mirror.ledger.counts(), (21, 0));
}

#[tokio::test]
async fn an_object_that_goes_is_forgotten_whatever_became_of_it() {
    let mut world = World::new().await;
    let bad = seen(Kind::QuotaPolicy, "q", 1, json!({ "limits": [] }));
    let good = server("files", 1, &[]);
    world.take([bad.clone(), good.clone()]).await;
    let gone = Batch::from([(bad.key, None), (good.key, None)]);
    world.mirror.take(gone, &BTreeMap::new()).await.unwrap();
    assert_eq!(world.mirror.ledger.counts(), (0, 0));
    assert!(world.stored().await.is_empty());
}

#[tokio::test]
async fn warnings_are_kept_as_long_as_the_object_is_the_same() {
    let mut world = World::new().await;
    let lonely = policy("p", deny(json!({ "names": ["nobody"] })));
    for _ in 0..2 {
        world.take([lonely.clone()]).await;
        assert_eq!(world.mirror.ledger.entries()[&lonely.key].warnings, ["it selects no server that exists"]);
    }
}

#[tokio::test]
async fn of_many_that_contradict_each_has_its_turn() {
    let mut world = World::new().await;
    let first = server("first", 1, &["shared"]);
    let others =
        (0..2 * RETRIED_MAX as i64).map(|number| server(&format!("s{number:03}"), 2 + number, &["shared"]));
    world.take([first.clone()].into_iter().chain(others)).await;
    assert_eq!(world.mirror.ledger.counts(), (1 + 2 * RETRIED_MAX, 2 * RETRIED_MAX));
    // One of them takes its place, and the others go on waiting.
    let gone = Batch::from([(first.key, None)]);
    world.mirror.take(gone, &BTreeMap::new()).await.unwrap();
    assert_eq!(world.mirror.ledger.counts(), (2 * RETRIED_MAX, 2 * RETRIED_MAX - 1));
    let tried = world.mirror.tried.clone();
    world.take([server("unrelated", 900, &[])]).await;
    assert_ne!(world.mirror.tried, tried);
}
