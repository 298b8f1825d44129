//! What one that stands by has of the leader's store, and who may stand by.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tonic::Code;
use weft_certs::csr;
use weft_certs::tls::{self, CONTROL_PLANE_PATH, Identity, LiveIdentity};
use weft_certs::verifier::Expect;
use weft_control_plane::check::{self, Observer};
use weft_control_plane::clock;
use weft_control_plane::replica::Lost;
use weft_control_plane::store::embedded::{EmbeddedStore, Options};
use weft_control_plane::store::replicated::Piece;
use weft_control_plane::store::{Count, Key, Prefix, Revision, Store, Txn, audit, list_all};
use weft_proto::name::SpiffeId;
use weft_proto::pb::weft::replica::v1::replica_client::ReplicaClient;
use weft_proto::pb::weft::replica::v1::{Hello, LinesAsked, LinesLacking, Progress, TrailsAsked};
use weft_tests::link;

use super::{Plane, Shared};
use crate::mesh::eventually;

async fn start(shared: &Shared, name: &str) -> Plane {
    shared.start(name, |_| {}).await
}

impl Plane {
    fn store(&self) -> &dyn Store {
        &*self.mesh.running.store
    }

    async fn put(&self, name: &str) -> Revision {
        let txn = Txn::new("somebody", "to see").put(key(name), "1");
        let record = audit::Record::new("somebody", "put", name, audit::Outcome::Done);
        self.store().commit(txn.audited(record)).await.unwrap().revision()
    }

    /// Everything that the store says of itself.
    async fn told(&self) -> String {
        let store = self.store();
        let (_, entries) = list_all(store, &Prefix::all(), None).await.unwrap();
        let history = store.history(&Prefix::all(), None, 1000).await.unwrap();
        let counts = store.counts(None).await.unwrap();
        let audit = store.audit(audit::Filter::default()).await.unwrap();
        format!("{entries:#?} {history:#?} {counts:#?} {audit:#?}")
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn spent(milli: u64) -> Vec<Count> {
    vec![Count { name: key("budgets/a"), ends: 1 << 40, milli }]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stands_by_has_whatever_the_leader_answered_and_goes_on_from_it() {
    let shared = Shared::new();
    let first = start(&shared, "first").await;
    first.lead().await;
    first.put("before").await;
    let second = start(&shared, "second").await;
    let head = second.store().head().await.unwrap();
    assert_eq!(head.revision, Revision::ZERO, "it writes nothing of its own");
    second.follow(&first).await;
    let metrics = [&first, &second].map(|it| &it.mesh.running.metrics);
    assert_eq!((metrics[0].replicas.get(), metrics[1].replica_follows.get()), (1, 1));
    for number in 0..20 {
        first.put(&format!("key-{number}")).await;
        first.store().keep_counts(spent(number)).await.unwrap();
        // No waiting here: it was answered, so that it is there.
        assert_eq!(second.told().await, first.told().await);
    }
    let last = first.store().head().await.unwrap().revision;
    first.stop().await;
    second.lead().await;
    assert_eq!(second.store().counts(None).await.unwrap(), spent(19));
    assert_eq!(second.put("after").await, last.next(), "beginning to lead writes nothing anew");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_told_how_far_those_are_that_stand_by() {
    let shared = Shared::new();
    let should_stand_by =
        check::Cluster { control_planes: Some(vec!["second".to_owned()]), ..check::Cluster::default() };
    let observer = Observer(Arc::new(move || should_stand_by.clone()));
    let first = shared.start("first", |it| it.cluster.as_mut().unwrap().observer = observer).await;
    first.lead().await;
    let second = start(&shared, "second").await;
    second.follow(&first).await;
    let admin = shared.admin(&first);
    let told = async || {
        let (_, sidecars) = admin.get("/v1/sidecars").await;
        let (_, checks) = admin.get("/v1/checks?group=control-plane").await;
        let checks = checks["items"].as_array().unwrap();
        let check = checks.iter().find(|it| it["name"] == "standbys").unwrap();
        (sidecars["standbys"].clone(), check["outcome"].clone(), check["detail"].clone())
    };
    let standby = json!({ "replica": "second", "keepsUp": true, "behindRevisions": 0, "behindSeconds": 0 });
    assert_eq!(told().await, (json!([standby]), json!("ok"), json!("1 keep up")));
    second.stop().await;
    eventually("it is gone", || first.mesh.running.metrics.replicas.get() == 0).await;
    let (standbys, outcome, detail) = told().await;
    assert_eq!((standbys, outcome), (json!([]), json!("failed")));
    assert_eq!(detail, "none keeps up: second (does not follow)");
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_leader_begins_anew_where_it_has_what_nobody_copied() {
    let shared = Shared::new();
    let first = start(&shared, "first").await;
    first.lead().await;
    let second = start(&shared, "second").await;
    second.follow(&first).await;
    // Cut off, it leads without what is written now.
    second.lead().await;
    first.put("lost").await;
    second.put("kept").await;
    let folder = first.stop().await;

    let mut first = shared.again(folder, "first", |_| {}).await;
    first.leader.send_replace(Some(second.mesh.sidecars()));
    eventually("it follows no more", || first.following.is_finished()).await;
    assert!(matches!((&mut first.following).await.unwrap(), Lost::BeganAnew));
    let first = shared.again(first.stop().await, "first", |_| {}).await;
    first.follow(&second).await;
    assert_eq!(first.told().await, second.told().await);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_cut_off_in_its_base_is_begun_anew() {
    let (shared, folder) = (Shared::new(), tempfile::tempdir().unwrap());
    let first = start(&shared, "first").await;
    first.lead().await;
    first.put("a").await;
    first.put("b").await;
    let head = first.put("c").await;
    first.store().compact(head).await.unwrap();
    let (_, mut base) = list_all(first.store(), &Prefix::all(), Some(head.previous())).await.unwrap();
    base[0].value = "of another time".into();
    let options =
        Options { follows: true, ..Options::new(folder.path().join("store"), Arc::new(clock::now)) };
    let cut = EmbeddedStore::open(options).await.unwrap();
    cut.take(Piece::Base(base)).await.unwrap();
    drop(cut);

    let second = shared.again(folder, "second", |_| {}).await;
    second.follow(&first).await;
    assert_eq!(second.told().await, first.told().await);
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_control_plane_itself_may_follow() {
    let leader = start(&Shared::new(), "first").await;
    leader.lead().await;
    let trust = &leader.mesh.running.trust;
    let live = |path: &str| {
        let request = csr::Request::generate().unwrap();
        let id = SpiffeId::parse(&format!("spiffe://{}{path}", trust.trust_domain())).unwrap();
        let lifetime = Duration::from_secs(3600);
        let issued = trust.signer().issue(request.der(), &id, &[], lifetime, clock::now()).unwrap();
        LiveIdentity::new(Identity::new(issued.chain, request.into_key()).unwrap())
    };
    let ask = async |live: LiveIdentity| {
        let expect = Expect::Exactly(trust.own_id());
        let config = tls::client_config(&live, &trust.bundles, expect, &[b"h2"]);
        let channel = link::connect(leader.mesh.sidecars(), Arc::new(config)).await.unwrap();
        let hello = Hello { replica: "x".to_owned(), position: None };
        let words = futures_util::stream::iter([Progress { hello: Some(hello), ..Progress::default() }]);
        let mut client = ReplicaClient::new(channel);
        let follows = client.follow(words).await.map(drop).map_err(|it| it.code());
        let of_trails = [
            client.list_trails(TrailsAsked::default()).await.map(drop).map_err(|it| it.code()),
            client.find_lines(LinesLacking::default()).await.map(drop).map_err(|it| it.code()),
            client.read_lines(LinesAsked::default()).await.map(drop).map_err(|it| it.code()),
        ];
        assert!(of_trails.iter().all(|it| *it == follows), "{follows:?} and {of_trails:?}");
        follows
    };
    assert_eq!(ask(live(CONTROL_PLANE_PATH)).await, Ok(()));
    for other in
        ["/ns/weft-system/sa/other", "/ns/other/sa/control-plane", "/ns/weft-system/sa/control-plane-2"]
    {
        assert_eq!(ask(live(other)).await, Err(Code::PermissionDenied), "{other}");
    }
    assert_eq!(ask(LiveIdentity::empty()).await, Err(Code::Unauthenticated));
    leader.stop().await;
}
