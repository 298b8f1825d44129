//! Whom the mesh trusts, and the control plane's own certificate: keeps the authority fresh, publishes the roots to
//! every sidecar, and exchanges them on an operator's word (`rotation`).
//!
//! Not here: who gets a certificate (`identity`), and the signing itself (`weft_certs::ca`).

mod control;
mod report;
pub(crate) mod roots_file;
pub mod rotation;
mod wishes;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use weft_certs::bundle::{self, Bundle, Bundles, Fingerprint, TrustStore};
use weft_certs::ca::{self, Issued, Signer};
use weft_certs::svid::Serial;
use weft_certs::tls::{self, LiveIdentity};
use weft_certs::{csr, x509};
use weft_proto::name::{SpiffeId, TrustDomain};
use weft_proto::resource::kinds;
use weft_proto::wire;

use crate::clock;
use crate::metrics::Metrics;
use crate::plan::{self, Change, TrustRoots, Update};
use crate::store::{self, Store, Txn};
use crate::xds::ClientStatus;
pub use control::Control;
pub use report::{RootStatus, TrustReport};
use rotation::{Action, Command, Facts, Gate, State};
pub use wishes::{Unreadable, Wishes};

const STATE_KEY: &str = "trust/rotation";
/// How often the authority and the own certificate are looked after.
const UPKEEP: Duration = Duration::from_secs(30);
/// Longest life of the control plane's own certificate.
const OWN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The path of the identity that no workload ever gets.
pub const CONTROL_PLANE_PATH: &str = "/ns/weft-system/sa/control-plane";

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] rotation::Refused),
    #[error("the issuer is kept outside of Weft, so its root is exchanged there")]
    External,
    #[error("the authority failed: {0}")]
    Authority(#[from] ca::own::Error),
    #[error("the control plane's own certificate could not be issued: {0}")]
    Issue(#[from] ca::issuer::Error),
    #[error("the control plane's own key could not be made: {0}")]
    Key(#[from] csr::Error),
    #[error("the control plane's own certificate cannot be used: {0}")]
    Own(#[from] tls::Error),
    #[error("a trust bundle cannot be used: {0}")]
    Bundle(#[from] bundle::Error),
    #[error("the rotation could not be recorded: {0}")]
    Store(#[from] store::Error),
    #[error("the authority's work ended in a panic")]
    Panicked,
    #[error("the recorded rotation cannot be read: {0}")]
    State(#[from] serde_json::Error),
}

/// Keeps the mesh's trust.
#[derive(Debug)]
pub struct Trust {
    trust_domain: TrustDomain,
    signer: Signer,
    dns_names: Vec<String>,
    store: Arc<dyn Store>,
    intake: mpsc::Sender<Update>,
    metrics: Arc<Metrics>,
    /// What connections from sidecars are checked against.
    pub bundles: TrustStore,
    /// The control plane's own certificate.
    pub live: LiveIdentity,
    wishes: watch::Sender<Wishes>,
    state: tokio::sync::Mutex<State>,
    /// The state as readers see it.
    shown: Mutex<State>,
    /// Since when this process knows who connects.
    known_since: SystemTime,
    /// Held from reading the roots until they are handed on, so that older ones never come last.
    publishing: tokio::sync::Mutex<()>,
}

/// What a trust is opened with.
#[derive(Debug)]
pub struct Deps {
    pub signer: Signer,
    pub trust_domain: TrustDomain,
    pub dns_names: Vec<String>,
    pub store: Arc<dyn Store>,
    pub intake: mpsc::Sender<Update>,
    pub metrics: Arc<Metrics>,
}

impl Trust {
    /// Reads where a rotation stands, issues the control plane's own certificate and publishes the roots.
    pub async fn open(deps: Deps) -> Result<Arc<Self>, Error> {
        let Deps { signer, trust_domain, dns_names, store, intake, metrics } = deps;
        let known_since = clock::now();
        let state = recorded(&*store).await?;
        let trust = Arc::new(Self {
            bundles: TrustStore::new(Bundles::new([signer.bundle()])?),
            live: LiveIdentity::empty(),
            wishes: watch::Sender::new(Wishes::default()),
            state: tokio::sync::Mutex::new(State::Stable),
            shown: Mutex::new(State::Stable),
            known_since,
            publishing: tokio::sync::Mutex::new(()),
            trust_domain,
            signer,
            dns_names,
            store,
            intake,
            metrics,
        });
        let state = trust.reconcile(state, known_since)?;
        *trust.state.lock().await = state;
        trust.show(state);
        trust.renew_own()?;
        trust.publish().await?;
        Ok(trust)
    }

    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Who this control plane is.
    pub fn own_id(&self) -> SpiffeId {
        let text = format!("spiffe://{}{CONTROL_PLANE_PATH}", self.trust_domain);
        SpiffeId::parse(&text).expect("a trust domain and a fixed path make an identity")
    }

    /// How long workloads' certificates live.
    pub fn svid_lifetime(&self) -> Duration {
        let default = kinds::Trust::SVID_LIFETIME_DEFAULT.duration();
        self.wishes.borrow().svid_lifetime.unwrap_or(default)
    }

    /// The root that new join tokens pin.
    pub fn root(&self) -> Fingerprint {
        self.signer.root()
    }

    /// Signs a workload's request.
    pub fn issue(
        &self,
        request: &ca::request::Checked,
        id: &SpiffeId,
        lifetime: Duration,
    ) -> Result<Issued, ca::issuer::Error> {
        self.signer.issuer().certify(request, id, &[], lifetime, clock::now())
    }

    /// Takes over what operators set.
    pub async fn wish(&self, wishes: Wishes) -> Result<(), Error> {
        self.wishes.send_replace(wishes);
        self.publish().await
    }

    /// Looks after the authority and the own certificate until the end.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let external = self.external_changed();
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = upkeep.tick() => {}
                () = external => {}
            }
            if let Err(error) = self.upkeep().await {
                tracing::error!(error = &error as &dyn std::error::Error, "upkeep of the authority failed");
            }
        }
    }

    async fn external_changed(&self) {
        match &self.signer {
            Signer::Own(_) => std::future::pending().await,
            Signer::External(external) => {
                let mut state = external.state();
                state.mark_unchanged();
                if state.changed().await.is_err() {
                    std::future::pending().await
                }
            }
        }
    }

    async fn upkeep(&self) -> Result<(), Error> {
        if let Signer::Own(authority) = &self.signer {
            let authority = Arc::clone(authority);
            if blocking(move || authority.maintain(clock::now())).await? {
                tracing::info!("the issuing certificate was renewed");
            }
        }
        self.publish().await?;
        let due =
            self.live.leaf().is_none_or(|leaf| is_past_half(leaf.not_before, leaf.not_after, clock::now()));
        let foreign_root =
            self.live.load().is_none_or(|own| own.chain().last() != Some(self.signer.issuer().root()));
        if due || foreign_root {
            self.renew_own()?;
        }
        let expiry =
            self.signer.issuer().not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.metrics.issuer_expiry_timestamp_seconds.set(i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX));
        Ok(())
    }

    fn renew_own(&self) -> Result<(), Error> {
        let request = csr::Request::generate()?;
        let id = self.own_id();
        let issued = self.signer.issue(request.der(), &id, &self.dns_names, OWN_LIFETIME, clock::now())?;
        // Whoever comes with a join token knows only the root's fingerprint, so the root goes along.
        let chain = ca::with_root(&issued.chain, &issued.root);
        self.live.swap(tls::Identity::new(chain, request.into_key())?);
        Ok(())
    }

    /// Tells every verifier and every sidecar whom to trust.
    async fn publish(&self) -> Result<(), Error> {
        let _turn = self.publishing.lock().await;
        let own = self.signer.bundle();
        let federated = self.wishes.borrow().federated.clone();
        self.metrics.trust_roots.set(i64::try_from(own.roots().len()).unwrap_or(i64::MAX));
        let state = self.shown();
        let mut domains = vec![self.roots_of(&own, state)];
        domains.extend(federated.iter().map(|bundle| self.roots_of(bundle, State::Stable)));
        self.bundles.update_all([own])?;
        let update = Update { revision: 0, changes: vec![Change::Trust(domains)] };
        // Nobody listens any more only at the very end.
        let _ = self.intake.send(update).await;
        Ok(())
    }

    fn roots_of(&self, bundle: &Bundle, state: State) -> TrustRoots {
        let renew_unless_root = match state {
            State::Renewing { .. } => vec![self.root().to_string()],
            State::Stable | State::Adding { .. } | State::Dropping { .. } => Vec::new(),
        };
        TrustRoots {
            trust_domain: bundle.trust_domain().clone(),
            roots: bundle.roots().iter().map(|root| root.to_vec()).collect(),
            sequence: bundle.sequence(),
            revoked_serials: bundle.revoked().iter().map(|serial| serial.as_str().to_owned()).collect(),
            renew_unless_root,
        }
    }

    /// The version under which sidecars are sent the own roots in a state.
    fn own_version(&self, state: State) -> Arc<str> {
        let own = self.roots_of(&self.signer.bundle(), state);
        plan::version_of(&wire::encode_trust_bundle(
            &own.trust_domain,
            &own.roots,
            own.sequence,
            &own.revoked_serials,
            &own.renew_unless_root,
        ))
    }

    /// The roots of every trusted domain, as workloads are told with each certificate.
    pub fn bundles_to_wire(&self) -> Vec<weft_proto::pb::weft::identity::v1::TrustBundle> {
        let own = [(&self.signer.bundle()).into()];
        own.into_iter().chain(self.wishes.borrow().federated.iter().map(Into::into)).collect()
    }

    /// Takes the next step of a rotation, or the first, or goes back.
    pub async fn rotate(
        &self,
        action: Action,
        force: bool,
        author: &str,
        clients: &[ClientStatus],
    ) -> Result<State, Error> {
        let Signer::Own(authority) = &self.signer else { return Err(Error::External) };
        let mut held = self.state.lock().await;
        self.catch_up(&mut held, author).await?;
        let gate = self.gate_of(*held, clients);
        let command = rotation::decide(*held, action, &gate, force)?;
        match self.step(authority, *held, command, author).await {
            Ok(next) => {
                tracing::info!(author, from = held.word(), to = next.word(), force, "root rotation");
                *held = next;
                self.show(next);
            }
            Err(error) => {
                // The authority may have taken the step although the record of it failed.
                if let Err(error) = self.follow_authority(&mut held).await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "rotation is not where it is shown"
                    );
                }
                return Err(error);
            }
        }
        self.upkeep().await?;
        Ok(*held)
    }

    /// Follows the authority where a step before was cut short, and records that first: a record that is two steps
    /// behind could not be reconciled any more.
    async fn catch_up(&self, held: &mut State, author: &str) -> Result<(), Error> {
        *held = self.reconcile(*held, clock::now())?;
        self.show(*held);
        let recorded = recorded(&*self.store).await?;
        if recorded != *held {
            self.record(author, recorded, *held).await?;
        }
        Ok(())
    }

    async fn follow_authority(&self, held: &mut State) -> Result<(), Error> {
        *held = self.reconcile(*held, clock::now())?;
        self.show(*held);
        self.upkeep().await
    }

    /// Has the authority carry a command out, and records what came of it.
    async fn step(
        &self,
        authority: &Arc<ca::own::Ca>,
        from: State,
        command: Command,
        author: &str,
    ) -> Result<State, Error> {
        let now = clock::now();
        let current = authority.current_generation().unwrap_or_default();
        let authority = Arc::clone(authority);
        let added = blocking(move || match command {
            Command::AddRoot => authority.add_root(now).map(Some),
            Command::SwitchIssuer { to } => authority.switch_issuer(to, now).map(|()| None),
            Command::DropRoot { generation } => authority.drop_root(generation).map(|()| None),
            Command::Nothing => Ok(None),
        });
        let next = rotation::then(from, command, current, added.await?, now);
        self.record(author, from, next).await?;
        Ok(next)
    }

    async fn record(&self, author: &str, from: State, to: State) -> Result<(), Error> {
        let reason = format!("root rotation: {} → {}", from.word(), to.word());
        let txn = Txn::new(author, reason).put(state_key(), serde_json::to_vec(&to)?);
        self.store.commit(txn).await?;
        Ok(())
    }

    /// No longer honours a certificate, wherever it is shown.
    pub async fn revoke(&self, serial: &Serial) -> Result<(), Error> {
        let Signer::Own(authority) = &self.signer else { return Err(Error::External) };
        // No certificate lives longer than the longest that could have been issued by now.
        let until = clock::now() + kinds::Trust::SVID_LIFETIME_MAX.duration();
        let (authority, serial) = (Arc::clone(authority), serial.clone());
        blocking(move || authority.revoke(&serial, until)).await?;
        self.publish().await
    }

    /// Everything about trust, for people.
    pub fn report(&self, clients: &[ClientStatus]) -> Result<TrustReport, Error> {
        let bundle = self.signer.bundle();
        let issuer = self.signer.issuer();
        let roots = match &self.signer {
            Signer::Own(authority) => {
                let describe = |root: ca::own::Root| RootStatus {
                    fingerprint: root.fingerprint.to_string(),
                    generation: Some(root.generation),
                    not_before: root.not_before,
                    not_after: root.not_after,
                    issuing: root.current,
                };
                authority.roots()?.into_iter().map(describe).collect()
            }
            Signer::External(_) => bundle.roots().iter().map(|root| external_root(root, &issuer)).collect(),
        };
        let rotation = self.shown();
        Ok(TrustReport {
            trust_domain: self.trust_domain.clone(),
            svid_lifetime: self.svid_lifetime(),
            sequence: bundle.sequence(),
            roots,
            external: matches!(self.signer, Signer::External(_)),
            issuer_not_after: issuer.not_after(),
            rotation,
            gate: self.gate_of(rotation, clients),
            revoked: bundle.revoked().iter().map(|serial| serial.as_str().to_owned()).collect(),
        })
    }

    fn gate_of(&self, state: State, clients: &[ClientStatus]) -> Gate {
        let facts = Facts {
            clients,
            issuing_root: &self.root().to_string(),
            bundle_version: &self.own_version(state),
            lifetime_max: self.svid_lifetime(),
            known_since: self.known_since,
            now: clock::now(),
        };
        rotation::gate(state, &facts)
    }

    /// A crash or a failure between the authority's step and its record leaves the record behind: the authority is
    /// right. `now` is when a state that is found so is taken to have begun.
    fn reconcile(&self, recorded: State, now: SystemTime) -> Result<State, Error> {
        let Signer::Own(authority) = &self.signer else { return Ok(State::Stable) };
        let current = authority.current_generation().unwrap_or_default();
        let others: Vec<u32> = authority
            .roots()?
            .iter()
            .map(|root| root.generation)
            .filter(|generation| *generation != current)
            .collect();
        Ok(match (recorded, others.as_slice()) {
            (State::Stable, [.., other]) => State::Adding { from: current, to: *other, since: now },
            (State::Adding { to, .. }, [.., other]) if to == current => {
                State::Renewing { from: *other, to: current, since: now }
            }
            (State::Renewing { from, .. }, [.., other]) if from == current => {
                State::Renewing { from: *other, to: current, since: now }
            }
            (State::Adding { to, .. }, []) => State::Dropping { dropped: to, since: now },
            (State::Renewing { from, .. }, []) => State::Dropping { dropped: from, since: now },
            (recorded, _) => recorded,
        })
    }

    fn show(&self, state: State) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn shown(&self) -> State {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The authority works on files; a worker of the runtime must not wait for them.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ca::own::Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| Error::Panicked)?;
    Ok(done?)
}

/// Where the last recorded step left the rotation.
async fn recorded(store: &dyn Store) -> Result<State, Error> {
    Ok(match store.get(&state_key()).await? {
        Some(entry) => serde_json::from_slice(&entry.value)?,
        None => State::Stable,
    })
}

fn state_key() -> store::Key {
    store::Key::new(STATE_KEY).expect("the key is short and plain")
}

fn external_root(root: &CertificateDer<'static>, issuer: &ca::Issuer) -> RootStatus {
    let (not_before, not_after) =
        x509::validity(root).unwrap_or((SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH));
    RootStatus {
        fingerprint: Fingerprint::of(root).to_string(),
        generation: None,
        not_before,
        not_after,
        issuing: root == issuer.root(),
    }
}

fn is_past_half(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> bool {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    now >= not_before + life / 2
}
