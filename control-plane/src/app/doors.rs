//! The doors of a control plane: what stands behind each, and whom it lets in.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use weft_certs::tls::{self, ClientAuth};
use weft_certs::verifier::Expect as ExpectPeer;

use super::{Error, HEALTH_AGE_MAX, Parts, Webhooks};
use crate::identity::IdentityService;
use crate::listen::{Door, Limits, Place};
use crate::quota::Leases;
use crate::{api, auth, clock, grpc, health, trust};

/// Where each of them is.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) sidecars: Place,
    pub(super) operators: Place,
    pub(super) health: Place,
}

impl Places {
    /// Takes the addresses. Where several control planes stand by, only one that leads opens the doors behind which its
    /// store is.
    pub(super) fn take(
        [sidecars, operators, health]: [SocketAddr; 3],
        leads: Option<&watch::Receiver<bool>>,
    ) -> Result<Self, Error> {
        Ok(Self {
            sidecars: take("sidecars", sidecars, leads.cloned())?,
            operators: take("operators", operators, leads.cloned())?,
            health: take("health", health, None)?,
        })
    }

    /// Those of the sidecars, of the operators, and of health.
    pub(super) fn addresses(&self) -> Result<[SocketAddr; 3], Error> {
        Ok([
            address("sidecars", &self.sidecars)?,
            address("operators", &self.operators)?,
            address("health", &self.health)?,
        ])
    }
}

/// Takes an address for a door.
fn take(
    door: &'static str,
    address: SocketAddr,
    opens: Option<watch::Receiver<bool>>,
) -> Result<Place, Error> {
    Place::take(address, opens).map_err(|source| Error::Listen { door, address, source })
}

/// Which address a place has.
fn address(door: &'static str, place: &Place) -> Result<SocketAddr, Error> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    place.address().map_err(|source| Error::Listen { door, address: unknown, source })
}

/// Opens the door of webhooks and says where it is. Whoever knocks is known by nothing but what it asks: the API server
/// shows no certificate.
pub(super) fn webhooks(parts: &Parts, webhooks: Webhooks, tasks: &TaskTracker) -> Result<SocketAddr, Error> {
    let place = take("webhooks", webhooks.address, None)?;
    let found = address("webhooks", &place)?;
    let trust = &parts.trust;
    let tls = tls::server_config(&trust.live, &trust.bundles, ClientAuth::None, &[b"h2", b"http/1.1"]);
    let door = Door {
        name: "webhooks",
        place,
        tls: Some(Arc::new(tls)),
        trust: None,
        service: webhooks.service,
        limits: webhooks.limits,
        metrics: Arc::clone(&parts.metrics),
    };
    tasks.spawn(door.serve(parts.shutdown.clone()));
    Ok(found)
}

/// The three doors. Only the sidecars' asks for client certificates, and only health is without TLS.
pub(super) fn doors(
    parts: &Parts,
    identity: Arc<IdentityService>,
    Places { sidecars, operators, health: plain }: Places,
    (sidecar_limits, operator_limits, api_limits): (Limits, Limits, api::Limits),
) -> [Door; 3] {
    let api = operator_api(parts, api_limits);
    let Parts { store, hub, trust, metrics, lender, trails, catalogue, standing, replication, .. } =
        parts.clone();
    let leases = Leases::new(Arc::clone(&hub), lender, store);
    let tls =
        |auth, alpn: &[&[u8]]| Some(Arc::new(tls::server_config(&trust.live, &trust.bundles, auth, alpn)));
    [
        Door {
            name: "sidecars",
            place: sidecars,
            tls: tls(ClientAuth::Optional(ExpectPeer::AnyInMesh), &[b"h2"]),
            trust: Some(trust.bundles.clone()),
            service: grpc::router(
                &hub,
                identity,
                catalogue,
                (leases, replication),
                trails,
                trust.bundles.clone(),
            ),
            limits: sidecar_limits,
            metrics: Arc::clone(&metrics),
        },
        Door {
            name: "operators",
            place: operators,
            tls: tls(ClientAuth::None, &[b"h2", b"http/1.1"]),
            trust: None,
            service: api::router(api),
            limits: operator_limits.clone(),
            metrics: Arc::clone(&metrics),
        },
        Door {
            name: "health",
            place: plain,
            tls: None,
            trust: None,
            service: health::router(hub, standing, Arc::clone(&metrics)),
            limits: Limits { age_max: HEALTH_AGE_MAX, ..operator_limits },
            metrics,
        },
    ]
}

/// What stands behind the operators' door.
fn operator_api(parts: &Parts, limits: api::Limits) -> api::Deps {
    let Parts { store, hub, trust, tokens, metrics, lender, trails, catalogue, .. } = parts.clone();
    let Parts { data_dir, log, managed, cluster, replication, shutdown, .. } = parts.clone();
    api::Deps {
        keys: Arc::new(auth::Keys::new(Arc::clone(&store))),
        store,
        sidecars: Arc::clone(&hub) as Arc<dyn api::Sidecars>,
        lender,
        trails,
        catalogue,
        trust_domain: trust.trust_domain().clone(),
        trust: Arc::new(trust::Control::new(trust, hub)),
        tokens,
        metrics,
        data_dir: Some(data_dir),
        clock: Arc::new(clock::now),
        log,
        limits,
        managed,
        cluster,
        replication,
        shutdown,
    }
}
