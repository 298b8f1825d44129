//! The source against an API server that fails in the ways that API servers fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod api_server;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_server::ApiServer;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_control_plane::clock;
use weft_control_plane::desired;
use weft_control_plane::metrics::Metrics;
use weft_control_plane::objects::Objects;
use weft_control_plane::plan::World;
use weft_control_plane::store::embedded::{EmbeddedStore, Options};
use weft_control_plane::store::{Store, list_all};
use weft_control_plane::xds::{Hub, Settings};
use weft_kubernetes::source::{self, Ledger};
use weft_kubernetes::status;
use weft_proto::name::TrustDomain;

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);

struct Following {
    server: ApiServer,
    store: Arc<dyn Store>,
    ledger: Arc<Ledger>,
    synced: watch::Receiver<bool>,
    shutdown: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Following {
    async fn start(server: ApiServer) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path(), Arc::new(clock::now));
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(options).await.unwrap());
        let (ledger, shutdown) = (Arc::<Ledger>::default(), CancellationToken::new());
        let synced = watch::Sender::new(false);
        let receiver = synced.subscribe();
        let (_, published) = watch::channel(u64::MAX);
        let deps = source::Deps {
            client: server.client(),
            store: Arc::clone(&store),
            objects: Arc::new(Objects::new(Arc::clone(&store))),
            trust_domain: TrustDomain::parse("corp.example").unwrap(),
            ledger: Arc::clone(&ledger),
            metrics: Arc::new(Metrics::new()),
            published,
            synced,
        };
        tokio::spawn(source::run(deps, shutdown.clone()));
        Self { server, store, ledger, synced: receiver, shutdown, _directory: directory }
    }

    async fn synced(&mut self) {
        let synced = self.synced.wait_for(|synced| *synced);
        tokio::time::timeout(PATIENCE, synced).await.expect("it is synced in time").unwrap();
    }

    async fn stored(&self) -> BTreeSet<String> {
        let (_, entries) = list_all(&*self.store, &desired::prefix(), None).await.unwrap();
        entries.iter().map(|it| it.key.as_str().rsplit('/').next().unwrap().to_owned()).collect()
    }

    /// Waits until the store has exactly these objects.
    async fn until(&self, expected: &[&str]) {
        let expected: BTreeSet<_> = expected.iter().map(|name| (*name).to_owned()).collect();
        let mut version = self.ledger.version();
        let reached = async {
            while self.stored().await != expected {
                version.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            panic!("the store has {:?}, not {expected:?}", self.stored().await);
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn command(name: &str) -> serde_json::Value {
    json!({ "stdio": { "command": name } })
}

#[tokio::test]
async fn what_is_there_comes_in_pages_and_what_happens_then_as_it_happens() {
    let server = ApiServer::start().await;
    for number in 0..250 {
        server.put("mcpservers", &format!("s{number}"), command("x"));
    }
    let mut following = Following::start(server).await;
    following.synced().await;
    assert_eq!(following.stored().await.len(), 250);
    assert_eq!(following.store.head().await.unwrap().revision.0, 1, "one commit for all that is there");
    assert_eq!(following.server.lists("mcpservers"), 3);
    following.server.put("mcpservers", "late", command("x"));
    for number in 0..250 {
        following.server.delete("mcpservers", &format!("s{number}"));
    }
    following.until(&["late"]).await;
}

#[tokio::test]
async fn nothing_counts_as_synced_before_every_kind_was_listed() {
    let server = ApiServer::start().await;
    server.put("mcpservers", "files", command("x"));
    server.fails("accesspolicies", true);
    let mut following = Following::start(server).await;
    following.server.until_lists("accesspolicies", 2).await;
    assert!(!*following.synced.borrow());
    assert!(following.stored().await.is_empty());
    following.server.put("accesspolicies", "p", json!({ "rules": [{ "action": "deny" }] }));
    following.server.fails("accesspolicies", false);
    following.synced().await;
    assert_eq!(following.stored().await, BTreeSet::from(["files".to_owned(), "p".to_owned()]));
}

#[tokio::test]
async fn a_watch_whose_place_is_gone_begins_anew_and_misses_nothing() {
    let server = ApiServer::start().await;
    server.put("mcpservers", "old", command("x"));
    let mut following = Following::start(server).await;
    following.synced().await;
    // While no watch listens, one object goes and another comes; then its place in the history is gone.
    following.server.silent("mcpservers", true);
    following.server.delete("mcpservers", "old");
    following.server.put("mcpservers", "new", command("x"));
    following.server.silent("mcpservers", false);
    following.server.says_gone("mcpservers");
    following.until(&["new"]).await;
}

#[tokio::test]
async fn a_watch_that_breaks_off_goes_on_where_it_was() {
    let server = ApiServer::start().await;
    let mut following = Following::start(server).await;
    following.synced().await;
    let lists = following.server.lists("mcpservers");
    following.server.breaks_off("mcpservers");
    following.server.put("mcpservers", "later", command("x"));
    following.until(&["later"]).await;
    assert_eq!(following.server.lists("mcpservers"), lists, "nothing is listed again");
}

#[tokio::test]
async fn what_became_of_objects_is_told_once_and_only_by_whoever_leads() {
    let server = ApiServer::start().await;
    server.put("mcpservers", "files", command("x"));
    server.put("quotapolicies", "bad", json!({ "limits": [{ "rate": "10/fortnight" }] }));
    let mut following = Following::start(server).await;
    following.synced().await;
    let (metrics, domain) = (Arc::new(Metrics::new()), TrustDomain::parse("corp.example").unwrap());
    let (world, counted) = (World::new(domain), Arc::clone(&metrics));
    let hub = Hub::start(Settings::default(), world, counted, following.shutdown.clone());
    let head = following.store.head().await.unwrap().revision.0;
    hub.apply(vec![weft_control_plane::plan::Update { revision: head, changes: Vec::new() }]);
    let leads = watch::Sender::new(false);
    let deps = status::Deps {
        client: following.server.client(),
        hub,
        ledger: Arc::clone(&following.ledger),
        metrics: Arc::clone(&metrics),
        leads: leads.subscribe(),
    };
    tokio::spawn(status::run(deps, following.shutdown.clone()));
    tokio::task::yield_now().await;
    assert_eq!(following.server.told(), 0);
    leads.send_replace(true);
    following.server.until_told(2).await;
    let conditions = |plural: &str, name: &str| {
        let status = following.server.status(plural, name);
        let of = |it: &serde_json::Value| {
            format!("{}={}", it["type"].as_str().unwrap(), it["status"].as_str().unwrap())
        };
        status["conditions"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(conditions("mcpservers", "files"), ["Accepted=True", "Programmed=True"]);
    assert_eq!(conditions("quotapolicies", "bad"), ["Accepted=False", "Programmed=False"]);
    // A third object makes it look again; of the two nothing is said anew. Something stands in for the one that restricts
    // and cannot be read.
    following.server.put("mcpservers", "mail", command("x"));
    following.until(&["bad", "files", "mail"]).await;
    following.server.until_told(3).await;
    assert_eq!(following.server.told(), 3);
    assert!(metrics.cluster_tellings.get() >= 2);
}
