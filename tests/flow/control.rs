//! A sidecar's control link to tell stories about: everything of a sidecar that has to do with its control plane.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use weft_certs::bundle::{Bundles, TrustStore};
use weft_certs::tls::LiveIdentity;
use weft_proto::name::HostPort;
use weft_sidecar::bootstrap::Bootstrap;
use weft_sidecar::control::{self as source, Deps, Handle, Settings, State};
use weft_sidecar::state::Live;

use crate::mesh::{Mesh, eventually};
use weft_sidecar::session_id::{Key, Ring};

pub(crate) struct Sidecar {
    pub(crate) live: Live,
    pub(crate) identity: LiveIdentity,
    pub(crate) trust: TrustStore,
    pub(crate) handle: Handle,
    cancel: CancellationToken,
}

/// Everything at once rather than spread over time.
pub(crate) fn settings() -> Settings {
    Settings { forced_spread: Duration::ZERO, store_every: Duration::from_millis(10), ..Settings::default() }
}

/// The bootstrap of a sidecar beside the server that has its namespace and name, and no agent.
pub(crate) fn beside(address: std::net::SocketAddr, server: &str, token: &str) -> Value {
    json!({
        "node": { "id": format!("{server}-1"), "servers": [server] },
        "source": { "controlPlane": { "address": address.to_string(), "proof": { "joinToken": token } } },
        "listen": { "outbound": null },
    })
}

impl Sidecar {
    pub(crate) async fn start(bootstrap: Value) -> Self {
        let (identity, trust) = (LiveIdentity::empty(), TrustStore::new(Bundles::default()));
        Self::with(bootstrap, identity, trust, settings()).await
    }

    pub(crate) async fn with(
        bootstrap: Value,
        identity: LiveIdentity,
        trust: TrustStore,
        settings: Settings,
    ) -> Self {
        let bootstrap: Bootstrap = serde_json::from_value(bootstrap).unwrap();
        let (live, cancel) = (Live::empty(), CancellationToken::new());
        let deps = Deps {
            live: live.clone(),
            identity: identity.clone(),
            trust: trust.clone(),
            address: Some(HostPort::parse("0.0.0.0:7443").unwrap()),
            servers: None,
            losses: None,
            quotas: None,
            audit: None,
            about: None,
            ring: Ring::own(&Key::random()),
            cancel: cancel.clone(),
        };
        let handle = Box::pin(source::start_with(&bootstrap, deps, settings)).await.unwrap();
        Self { live, identity, trust, handle, cancel }
    }

    /// A sidecar that has joined a mesh, has been told everything, and keeps it in a folder.
    pub(crate) async fn joined(mesh: &Mesh, server: &str, folder: &Path) -> Self {
        let (namespace, account) = server.split_once('/').unwrap();
        let token = mesh.token(namespace, account, 1).await;
        let mut bootstrap = beside(mesh.sidecars(), server, &token);
        bootstrap["stateDir"] = json!(folder);
        let sidecar = Self::start(bootstrap).await;
        sidecar.is_told().await;
        sidecar
    }

    pub(crate) fn state(&self) -> State {
        self.handle.state.borrow().clone()
    }

    pub(crate) async fn is_told(&self) {
        eventually("everything is told and in force", || {
            let state = self.state();
            state.complete && state.ready && self.live.is_ready()
        })
        .await;
    }

    /// The servers that are known, by name.
    pub(crate) fn servers(&self) -> Vec<String> {
        self.live.load().snapshot.servers.keys().map(ToString::to_string).collect()
    }

    /// The access policies of a server.
    pub(crate) fn policies(&self, server: &str) -> Vec<String> {
        let current = self.live.load();
        let entry = current.snapshot.server(&server.parse().unwrap());
        let access = entry.into_iter().flat_map(|entry| entry.access.to_vec());
        access.map(|policy| policy.meta.full_name().to_string()).collect()
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.handle.ended().await;
    }
}
