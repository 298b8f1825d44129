//! Two control planes with one authority, as a cluster has them: one leads, the other stands by with a copy.

mod copies;
mod trails;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_certs::ca::external::Files;
use weft_certs::ca::founding;
use weft_control_plane::app::{self, Config, Leading, Surroundings, Webhooks};
use weft_control_plane::check::{self, Observer};
use weft_control_plane::identity::SessionSecret;
use weft_control_plane::identity::kubernetes::{Cluster, Review};
use weft_control_plane::replica::Lost;
use weft_control_plane::{auth, clock, listen};
use weft_proto::name::TrustDomain;

use crate::mesh::{Mesh, eventually};
use crate::operator::Operator;

/// A cluster in which nobody asks.
#[derive(Debug)]
struct Nobody;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

impl Cluster for Nobody {
    fn review<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, Review> {
        Box::pin(async { Err("nobody asks".to_owned()) })
    }

    fn pod_uid<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, Option<String>> {
        Box::pin(async { Err("nobody asks".to_owned()) })
    }
}

/// What all of them share.
#[derive(Clone)]
pub(crate) struct Shared {
    issuer: watch::Sender<Arc<Files>>,
    admin: auth::Secret,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let (domain, now) = (TrustDomain::parse("flow.test").unwrap(), clock::now());
        let root = founding::root(&domain, now).unwrap();
        let issuer = founding::intermediate(&root, &domain, now).unwrap();
        let issuer = Files {
            certificate: issuer.certificate.into_bytes(),
            key: issuer.key.as_bytes().to_vec().into(),
            roots: root.certificate.into_bytes(),
        };
        Self { issuer: watch::Sender::new(Arc::new(issuer)), admin: auth::Secret::mint().unwrap() }
    }

    /// The admin, at one that leads.
    pub(crate) fn admin<'a>(&self, leader: &'a Plane) -> Operator<'a> {
        Operator::of(&leader.mesh, self.admin.to_string())
    }

    /// Starts one that stands by.
    pub(crate) async fn start(&self, name: &str, adjust: impl FnOnce(&mut Config)) -> Plane {
        self.again(tempfile::tempdir().unwrap(), name, adjust).await
    }

    /// Starts one that stands by with what an earlier one left in a folder.
    pub(crate) async fn again(&self, folder: TempDir, name: &str, adjust: impl FnOnce(&mut Config)) -> Plane {
        let [leads, follows, synced] = std::array::from_fn(|_| watch::Sender::new(false));
        let leader = watch::Sender::new(None);
        let mut config = Config::local(folder.path().to_owned());
        config.trust_domain = Some(TrustDomain::parse("flow.test").unwrap());
        config.cluster = Some(Surroundings {
            issuer: self.issuer.subscribe(),
            accounts: Arc::new(Nobody),
            webhooks: Webhooks {
                address: SocketAddr::from(([127, 0, 0, 1], 0)),
                service: Default::default(),
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
        adjust(&mut config);
        let mut running = Box::pin(app::start(config)).await.unwrap();
        let app::Replica { follower, leading } = running.replica.take().unwrap();
        let following = tokio::spawn(follower.run());
        let name = name.to_owned();
        Plane { mesh: Mesh { running, folder }, name, leading, following, leads, leader, follows }
    }
}

/// One of them.
pub(crate) struct Plane {
    pub(crate) mesh: Mesh,
    name: String,
    leading: Leading,
    following: JoinHandle<Lost>,
    leads: watch::Sender<bool>,
    leader: watch::Sender<Option<SocketAddr>>,
    follows: watch::Sender<bool>,
}

impl Plane {
    pub(crate) async fn lead(&self) {
        self.leader.send_replace(None);
        self.leading.begin().await.unwrap();
        self.leads.send_replace(true);
        self.mesh.running.ready().await;
    }

    /// Follows the one that leads, which waits for this one with what it writes from then on.
    pub(crate) async fn follow(&self, leader: &Self) {
        self.leader.send_replace(Some(leader.mesh.sidecars()));
        eventually("it follows", || *self.follows.borrow()).await;
        let keeps_up = format!("weft_replica_behind_seconds{{replica=\"{}\"}} 0.0", self.name);
        eventually("it keeps up", || leader.mesh.running.metrics.text().contains(&keeps_up)).await;
    }

    /// No longer has the lease: cut off, it knows no more than that.
    pub(crate) fn lapse(&self) {
        self.leads.send_replace(false);
    }

    /// Stops it, and waits until nobody has its store any more.
    pub(crate) async fn stop(self) -> TempDir {
        let Self { mesh, leading, following, .. } = self;
        following.abort();
        drop(leading);
        let folder = mesh.stop().await;
        let lock = std::fs::File::open(folder.path().join("store/lock")).unwrap();
        eventually("its store is free", || lock.try_lock().is_ok()).await;
        folder
    }
}

/// An address that stays the same whoever leads.
pub(crate) async fn service(leader: watch::Receiver<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let leader = *leader.borrow();
            tokio::spawn(async move {
                if let Ok(mut far) = TcpStream::connect(leader).await {
                    // Whichever end goes, the other is told by its end.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    address
}
