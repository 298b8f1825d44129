//! Two control planes with one authority, each with the door and the certificate that it has in a cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Code;
use weft_certs::ca::external::Files;
use weft_certs::ca::founding;
use weft_certs::csr;
use weft_certs::tls::{Identity, LiveIdentity};
use weft_proto::name::{SpiffeId, TrustDomain};
use weft_proto::pb::weft::replica::v1::replica_client::ReplicaClient;
use weft_proto::pb::weft::replica::v1::{Hello, Progress};

use super::*;
use crate::app::{self, Config, Running, Surroundings, Webhooks};
use crate::check::{self, Observer};
use crate::identity::SessionSecret;
use crate::identity::kubernetes::{Cluster, Review};
use crate::metrics::Metrics;
use crate::store::embedded::{EmbeddedStore, Options};
use crate::store::replicated::Piece;
use crate::store::{Count, Key, Prefix, Revision, Txn, audit, list_all};
use crate::trust::CONTROL_PLANE_PATH;
use crate::{auth, clock, listen};

const DOMAIN: &str = "corp.example";

/// A cluster in which nobody asks.
#[derive(Debug)]
struct Nobody;

type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

impl Cluster for Nobody {
    fn review<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, Review> {
        Box::pin(async { Err("nobody asks".to_owned()) })
    }

    fn pod_uid<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, Option<String>> {
        Box::pin(async { Err("nobody asks".to_owned()) })
    }
}

/// What all control planes of a mesh share.
struct Shared {
    issuer: watch::Sender<Arc<Files>>,
    admin: auth::Secret,
}

impl Shared {
    fn new() -> Self {
        let (domain, now) = (TrustDomain::parse(DOMAIN).unwrap(), clock::now());
        let root = founding::root(&domain, now).unwrap();
        let issuer = founding::intermediate(&root, &domain, now).unwrap();
        let issuer = Files {
            certificate: issuer.certificate.into_bytes(),
            key: issuer.key.as_bytes().to_vec().into(),
            roots: root.certificate.into_bytes(),
        };
        Self { issuer: watch::Sender::new(Arc::new(issuer)), admin: auth::Secret::mint().unwrap() }
    }

    async fn start(&self, folder: &Path, name: &str) -> Plane {
        let [leads, follows, synced] = std::array::from_fn(|_| watch::Sender::new(false));
        let leader = watch::Sender::new(None);
        let mut config = Config::local(folder.to_owned());
        config.trust_domain = Some(TrustDomain::parse(DOMAIN).unwrap());
        config.metrics = Arc::new(Metrics::new());
        config.cluster = Some(Surroundings {
            issuer: self.issuer.subscribe(),
            accounts: Arc::new(Nobody),
            webhooks: Webhooks {
                address: SocketAddr::from(([127, 0, 0, 1], 0)),
                service: Router::new(),
                limits: listen::Limits::default(),
            },
            sessions: SessionSecret::of(&[7; 32]).unwrap(),
            admin: self.admin.clone(),
            synced: synced.subscribe(),
            replica: name.to_owned(),
            leader: leader.subscribe(),
            follows: follows.clone(),
            leads: leads.subscribe(),
            observer: Observer(Arc::new(check::Cluster::default)),
        });
        let mut running = Box::pin(app::start(config)).await.unwrap();
        let app::Replica { follower, leading } = running.replica.take().unwrap();
        let following = tokio::spawn(follower.run());
        Plane { running, leading, following, leads, leader, follows }
    }
}

struct Plane {
    running: Running,
    leading: app::Leading,
    following: JoinHandle<Lost>,
    leads: watch::Sender<bool>,
    leader: watch::Sender<Option<SocketAddr>>,
    follows: watch::Sender<bool>,
}

impl Plane {
    async fn lead(&self) {
        self.leader.send_replace(None);
        self.leading.begin().await.unwrap();
        self.leads.send_replace(true);
        self.running.ready().await;
    }

    fn follow(&self, leader: &Self) {
        self.leader.send_replace(Some(leader.running.sidecars));
    }

    async fn follows(&self) {
        soon(self.follows.subscribe().wait_for(|follows| *follows)).await.unwrap();
    }

    async fn put(&self, name: &str) -> Revision {
        let txn = Txn::new("somebody", "to see").put(key(name), "1");
        let record = audit::Record::new("somebody", "put", name, audit::Outcome::Done);
        self.running.store.commit(txn.audited(record)).await.unwrap().revision()
    }

    /// Everything that the store says of itself.
    async fn told(&self) -> String {
        let store = &self.running.store;
        let (_, entries) = list_all(&**store, &Prefix::all(), None).await.unwrap();
        let history = store.history(&Prefix::all(), None, 1000).await.unwrap();
        let counts = store.counts(None).await.unwrap();
        format!(
            "{entries:#?} {history:#?} {counts:#?} {:#?}",
            store.audit(audit::Filter::default()).await.unwrap()
        )
    }

    /// Why it followed no more, once it is stopped.
    async fn ended(self) -> Lost {
        let Self { running, following, .. } = self;
        let lost = soon(following).await.unwrap();
        running.stop().await;
        lost
    }

    async fn stop(self) {
        self.following.abort();
        self.running.stop().await;
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it takes too long")
}

/// Waits until nobody has the store of a folder any more.
async fn freed(folder: &Path) {
    let lock = std::fs::File::open(folder.join("store/lock")).unwrap();
    soon(async {
        while lock.try_lock().is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn spent(milli: u64) -> Vec<Count> {
    vec![Count { name: key("budgets/a"), ends: 1 << 40, milli }]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stands_by_has_whatever_the_leader_answered_and_goes_on_from_it() {
    let (shared, folders) = (Shared::new(), [TempDir::new().unwrap(), TempDir::new().unwrap()]);
    let first = shared.start(folders[0].path(), "first").await;
    first.lead().await;
    first.put("before").await;
    let second = shared.start(folders[1].path(), "second").await;
    assert_eq!(
        second.running.store.head().await.unwrap().revision,
        Revision::ZERO,
        "it writes nothing of its own"
    );
    second.follow(&first);
    second.follows().await;
    let metrics = &first.running.metrics;
    assert_eq!((metrics.replicas.get(), second.running.metrics.replica_follows.get()), (1, 1));
    // Kept up with as soon as it says that it has everything.
    soon(async {
        while !metrics.text().contains("weft_replica_behind_revisions{replica=\"second\"} 0") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for number in 0..20 {
        first.put(&format!("key-{number}")).await;
        first.running.store.keep_counts(spent(number)).await.unwrap();
        // No waiting here: it was answered, so that it is there.
        assert_eq!(second.told().await, first.told().await);
    }
    let last = first.running.store.head().await.unwrap().revision;
    first.stop().await;
    second.lead().await;
    assert_eq!(second.running.store.counts(None).await.unwrap(), spent(19));
    assert_eq!(second.put("after").await, last.next(), "beginning to lead writes nothing anew");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_leader_begins_anew_where_it_has_what_nobody_copied() {
    let (shared, folders) = (Shared::new(), [TempDir::new().unwrap(), TempDir::new().unwrap()]);
    let first = shared.start(folders[0].path(), "first").await;
    first.lead().await;
    let second = shared.start(folders[1].path(), "second").await;
    second.follow(&first);
    second.follows().await;
    // Cut off, it leads without what is written now.
    second.lead().await;
    first.put("lost").await;
    second.put("kept").await;
    first.stop().await;
    freed(folders[0].path()).await;

    let first = shared.start(folders[0].path(), "first").await;
    first.follow(&second);
    assert!(matches!(first.ended().await, Lost::BeganAnew));
    freed(folders[0].path()).await;
    let first = shared.start(folders[0].path(), "first").await;
    first.follow(&second);
    first.follows().await;
    assert_eq!(first.told().await, second.told().await);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_cut_off_in_its_base_is_begun_anew() {
    let (shared, folders) = (Shared::new(), [TempDir::new().unwrap(), TempDir::new().unwrap()]);
    let first = shared.start(folders[0].path(), "first").await;
    first.lead().await;
    first.put("a").await;
    first.put("b").await;
    let head = first.put("c").await;
    first.running.store.compact(head).await.unwrap();
    let at = head.previous();
    let (_, mut base) = list_all(&*first.running.store, &Prefix::all(), Some(at)).await.unwrap();
    base[0].value = "of another time".into();
    let options =
        Options { follows: true, ..Options::new(folders[1].path().join("store"), Arc::new(clock::now)) };
    let cut = EmbeddedStore::open(options).await.unwrap();
    cut.take(Piece::Base(base)).await.unwrap();
    drop(cut);

    let second = shared.start(folders[1].path(), "second").await;
    second.follow(&first);
    second.follows().await;
    assert_eq!(second.told().await, first.told().await);
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_control_plane_itself_may_follow() {
    let (shared, folder) = (Shared::new(), TempDir::new().unwrap());
    let leader = shared.start(folder.path(), "first").await;
    leader.lead().await;
    let trust = &leader.running.trust;
    let live = |path: &str| {
        let request = csr::Request::generate().unwrap();
        let id = SpiffeId::parse(&format!("spiffe://{DOMAIN}{path}")).unwrap();
        let lifetime = Duration::from_secs(3600);
        let issued = trust.signer().issue(request.der(), &id, &[], lifetime, clock::now()).unwrap();
        LiveIdentity::new(Identity::new(issued.chain, request.into_key()).unwrap())
    };
    let ask = async |live: LiveIdentity| {
        let (channel, driver) = follow::connect(trust, &live, leader.running.sidecars).await.unwrap();
        let hello = Hello { replica: "x".to_owned(), position: None };
        let words = futures_util::stream::iter([Progress { hello: Some(hello), ..Progress::default() }]);
        let answer = soon(ReplicaClient::new(channel).follow(words)).await.map(drop).map_err(|it| it.code());
        drop(driver);
        answer
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
