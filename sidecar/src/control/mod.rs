//! Where configuration and identity come from: a control plane, with the last good configuration kept on disk, or local
//! files.
//!
//! The link to the control plane, inside out: [`session`] says what a stream's messages mean, `link` keeps a stream
//! open, [`store`] keeps what was accepted, [`identity`] gets certificates. `file` is the other source. Whatever the
//! source, it only ever swaps a whole [`Live`] snapshot, and trouble with it leaves the last good one in force.
//!
//! Not here: what a configuration means for a request, and the other streams (quotas, catalogue).

pub mod ask;
mod catalog;
pub mod connect;
pub mod file;
pub mod identity;
mod keeper;
mod lease;
mod link;
mod losses;
mod node;
pub mod report;
pub mod session;
mod ship;
pub mod store;
mod timing;
mod trust;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_certs::bundle::TrustStore;
use weft_certs::rotation;
use weft_certs::tls::LiveIdentity;
use weft_proto::name::HostPort;
use weft_proto::wire::ResourceType;

use crate::audit::Audit;
use crate::bootstrap::{Bootstrap, ControlPlane, Source};
use crate::clock;
use crate::quota::Quotas;
use crate::servers::Servers;
use crate::session_id::Ring;
use crate::state::{Current, Live, Origin};
use link::Link;
pub use losses::Losses;
use session::Session;

/// Why there is no source of configuration. What merely is not there yet is no error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the control plane cannot be asked for a certificate: {0}")]
    Identity(#[from] identity::Error),
    #[error(transparent)]
    File(#[from] file::Error),
}

/// How the link behaves, beside what the bootstrap says. The defaults are right outside of tests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A change is put into force once none has come for this long…
    pub quiet: Duration,
    /// …or once the first has waited this long.
    pub burst_max: Duration,
    /// The same for the first change of a stream, when everything is told.
    pub first_quiet: Duration,
    pub first_burst_max: Duration,
    /// A stream that says nothing for this long, while not everything was told, is given up.
    pub silence_max: Duration,
    /// Time to open a stream.
    pub open_timeout: Duration,
    /// What is stored is written no more often than this.
    pub store_every: Duration,
    /// Within which time a renewal happens that the control plane asks for.
    pub forced_spread: Duration,
    /// How often local files are looked at without any notice.
    pub poll_every: Duration,
    /// How often the control plane is told how this sidecar is.
    pub report: report::Pace,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(5),
            burst_max: Duration::from_millis(100),
            first_quiet: Duration::from_millis(50),
            first_burst_max: Duration::from_millis(500),
            silence_max: Duration::from_secs(30),
            open_timeout: Duration::from_secs(10),
            store_every: Duration::from_secs(1),
            forced_spread: Duration::from_secs(30),
            poll_every: Duration::from_secs(5),
            report: report::Pace { gap: Duration::from_secs(1), every: Duration::from_secs(20) },
        }
    }
}

/// How the source stands: for readiness, metrics and people.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Whether there is a configuration to serve by: told whole, stored by an earlier run, or read from files.
    pub ready: bool,
    /// Whether there is a discovery stream.
    pub connected: bool,
    /// Since when there is one, or none.
    pub since: Option<SystemTime>,
    /// Whether everything was told on the present stream.
    pub complete: bool,
    /// What the control plane calls itself.
    pub control_plane: Option<String>,
    /// Streams that were opened.
    pub streams: u64,
    /// Failures since the last good stream.
    pub failures: u32,
    /// The last thing that went wrong with the stream, or with the files.
    pub last_error: Option<Problem>,
    pub types: BTreeMap<ResourceType, TypeState>,
    /// Servers that are held back because a policy that may be about them cannot be read.
    pub held_back: usize,
    /// How often another configuration was put into force.
    pub swaps: u64,
    pub store: StoreState,
    pub certificate: CertificateState,
}

/// Something that went wrong, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub at: SystemTime,
    pub message: String,
}

impl Problem {
    fn now(message: String) -> Self {
        Self { at: clock::now(), message }
    }
}

/// How one type of resources stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeState {
    /// Resources that are held.
    pub resources: usize,
    pub acknowledged: u64,
    pub rejected: u64,
    /// The control plane's revision as of the last response that was taken whole.
    pub revision: Option<String>,
    /// Why the last response was not taken whole; none once one was.
    pub nack: Option<Problem>,
}

/// How the stored configuration stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreState {
    /// When what is stored was stored.
    pub stored_at: Option<SystemTime>,
    pub failures: u64,
    /// Why it could not be read or written the last time.
    pub error: Option<Problem>,
}

/// How the own certificate stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateState {
    pub expires: Option<SystemTime>,
    pub error: Option<String>,
}

/// The running source. It ends when the token that it was started with is cancelled.
#[derive(Debug)]
pub struct Handle {
    pub state: watch::Receiver<State>,
    /// The renewal of the certificate; none where files hold it.
    pub rotation: Option<Arc<rotation::Handle>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Handle {
    /// Waits until there is a configuration to serve by.
    pub async fn ready(&self) {
        let mut state = self.state.clone();
        // The sender goes only when the source has ended, and then nothing more will come.
        if state.wait_for(|state| state.ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until everything has ended, and what is to be stored is.
    pub async fn ended(self) {
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// What the source works on.
#[derive(Clone, Debug)]
pub struct Deps {
    pub live: Live,
    pub identity: LiveIdentity,
    pub trust: TrustStore,
    /// Where the inbound listener listens.
    pub address: Option<HostPort>,
    /// What is reported to the control plane; nothing, if this is none.
    pub servers: Option<Servers>,
    /// What is reported beside them.
    pub losses: Option<Losses>,
    /// For which shares of mesh-wide limits are borrowed; for none, if this is none.
    pub quotas: Option<Quotas>,
    /// What is shipped to the control plane; nothing, if this is none.
    pub audit: Option<Audit>,
    /// What the control plane may ask about; it is answered nothing, if this is none.
    pub about: Option<ask::About>,
    /// Takes the keys that come with certificates.
    pub ring: Ring,
    pub cancel: CancellationToken,
}

/// Starts the source that the bootstrap names.
pub async fn start_with(bootstrap: &Bootstrap, deps: Deps, settings: Settings) -> Result<Handle, Error> {
    match &bootstrap.source {
        Source::ControlPlane(control_plane) => {
            from_control_plane(bootstrap, control_plane, deps, settings).await
        }
        Source::File(standalone) => Ok(file::start(standalone, deps, settings).await?),
    }
}

async fn from_control_plane(
    bootstrap: &Bootstrap,
    control_plane: &ControlPlane,
    deps: Deps,
    settings: Settings,
) -> Result<Handle, Error> {
    let (states, state) = watch::channel(State::default());
    let states = Arc::new(states);
    let node = bootstrap.node.clone();
    let (live, trust) = (deps.identity.clone(), deps.trust.clone());
    let issuer = identity::ControlPlaneIssuer::new(
        node.id.clone(),
        control_plane.clone(),
        (live, trust),
        deps.ring.clone(),
    )?;
    let (session, owner) = restore(bootstrap, &deps, &states).await;
    let mut config = rotation::Config::new(None, weft_certs::clock::wall());
    config.forced_spread = settings.forced_spread;
    let rotation = rotation::start(config, deps.identity.clone(), deps.trust.clone(), Arc::new(issuer));
    let rotation = Arc::new(rotation);
    let certificate = tokio::spawn(follow_certificate(
        deps.identity.clone(),
        rotation.state(),
        Arc::clone(&states),
        deps.cancel.clone(),
    ));
    let link = Link::new(link::Parts {
        node,
        listen: bootstrap.listen.clone(),
        control_plane: control_plane.address.clone(),
        state_dir: bootstrap.state_dir.clone(),
        deps,
        settings,
        rotation: Arc::clone(&rotation),
        states,
        session,
        owner,
    });
    let link = tokio::spawn(link.run());
    Ok(Handle { state, rotation: Some(rotation), tasks: vec![link, certificate] })
}

/// Takes up what an earlier run stored: it is in force before anybody is connected to.
async fn restore(
    bootstrap: &Bootstrap,
    deps: &Deps,
    states: &watch::Sender<State>,
) -> (Session, Option<String>) {
    let Some(folder) = bootstrap.state_dir.clone() else { return (Session::new(), None) };
    let loaded = tokio::task::spawn_blocking(move || store::load(&folder)).await;
    let stored = match loaded {
        Ok(Ok(Some(stored))) => stored,
        Ok(Ok(None)) => return (Session::new(), None),
        Ok(Err(error)) => {
            not_restored(states, bootstrap.state_dir.as_deref(), identity::told(&error));
            return (Session::new(), None);
        }
        Err(error) => {
            not_restored(states, bootstrap.state_dir.as_deref(), error.to_string());
            return (Session::new(), None);
        }
    };
    if stored.node != bootstrap.node.id.as_str() {
        not_restored(states, bootstrap.state_dir.as_deref(), format!("it is of the node {}", stored.node));
        return (Session::new(), None);
    }
    let (mut session, lost) = Session::restored(stored.resources);
    for reason in lost {
        tracing::warn!(reason, "a stored resource cannot be read any more");
    }
    if let Err(error) =
        deps.trust.update_newer(session.bundles().iter().map(|it| weft_certs::bundle::Bundle::clone(it)))
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "stored trust not taken up");
    }
    let change = session.restored_change();
    let snapshot = link::compile(&change.parts).await;
    deps.live.swap(Current { snapshot, origin: Origin::Stored, version: change.version, since: stored.at });
    tracing::info!(
        stored_at_secs = secs(stored.at),
        "stored configuration in force until the control plane is heard"
    );
    states.send_modify(|state| {
        state.ready = true;
        state.held_back = change.held_back;
        state.store.stored_at = Some(stored.at);
        for ty in ResourceType::ALL {
            state.types.entry(ty).or_default().resources = session.count(ty);
        }
    });
    (session, Some(stored.identity))
}

fn secs(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn not_restored(states: &watch::Sender<State>, folder: Option<&Path>, reason: String) {
    tracing::warn!(folder = ?folder, reason, "stored configuration passed over");
    states.send_modify(|state| {
        state.store.failures += 1;
        state.store.error = Some(Problem::now(reason));
    });
}

/// Shows how the certificate stands beside everything else.
async fn follow_certificate(
    identity: LiveIdentity,
    mut renewal: watch::Receiver<rotation::State>,
    states: Arc<watch::Sender<State>>,
    cancel: CancellationToken,
) {
    let mut leaf = identity.watch();
    loop {
        let expires = leaf.borrow_and_update().as_ref().map(|leaf| leaf.not_after);
        let error = renewal.borrow_and_update().last_error.as_ref().map(ToString::to_string);
        states.send_if_modified(|state| {
            let now = CertificateState { expires, error };
            let changed = state.certificate != now;
            state.certificate = now;
            changed
        });
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = leaf.changed() => if changed.is_err() { return },
            changed = renewal.changed() => if changed.is_err() { return },
        }
    }
}
