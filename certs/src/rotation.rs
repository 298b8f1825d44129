//! Keeps a workload's certificate fresh: asks for the next one well before the present one ends, with a new key each
//! time, and swaps only what it has verified itself.
//!
//! A failure never costs a valid certificate: the present one serves until it expires, and the attempts go on. Not
//! here: how the issuer is reached and how the workload proves itself; that is behind [`Issuer`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use weft_proto::name::SpiffeId;

use crate::bundle::{self, Bundle, TrustStore};
use crate::clock::Clock;
use crate::csr::{self, Request};
use crate::svid::{Leaf, Serial};
use crate::tls::{self, Identity, LiveIdentity};
use crate::verifier::{self, Role};

mod schedule;

/// Longest advice of an issuer to stay away that is followed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Where certificates come from. Whatever lies between (gRPC, tokens, a fake) is the implementation's business.
pub trait Issuer: Send + Sync + 'static {
    /// Asks for a certificate for the PKCS#10 request `csr` (DER).
    fn issue(&self, csr: Vec<u8>) -> Pin<Box<dyn Future<Output = Result<Grant, Refusal>> + Send + '_>>;
}

/// What an issuer hands out.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Leaf first, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whom to trust from now on; domains that are not named stay as they are.
    pub bundles: Vec<Bundle>,
    /// When to come back, if the issuer says so.
    pub renew_at: Option<SystemTime>,
}

/// Why an issuer handed nothing out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub message: String,
    /// How long the issuer asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no signing request could be made: {0}")]
    Request(#[from] csr::Error),
    #[error("the issuer refused or could not be reached: {0}")]
    Issuer(#[from] Refusal),
    #[error("the issuer did not answer within {} s", .after.as_secs())]
    Timeout { after: Duration },
    #[error("the issued certificate cannot be used: {0}")]
    Identity(#[from] tls::Error),
    #[error("the issued certificate does not hold: {0}")]
    Chain(#[from] verifier::Error),
    #[error("the issued certificate is for {found}; expected {expected}")]
    WrongIdentity { found: SpiffeId, expected: SpiffeId },
    #[error("the issued trust bundles cannot be used: {0}")]
    Bundles(#[from] bundle::Error),
}

/// How to keep the certificate fresh.
#[derive(Clone)]
pub struct Config {
    /// Who this workload is. `None`: whoever the first certificate says, and nobody else afterwards.
    pub identity: Option<SpiffeId>,
    /// Where the time comes from: [`crate::clock::wall`].
    pub clock: Clock,
    pub attempt_timeout: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Within which time a renewal that was asked for happens, so that a whole mesh does not come at once.
    pub forced_spread: Duration,
}

impl Config {
    pub fn new(identity: Option<SpiffeId>, clock: Clock) -> Self {
        Self {
            identity,
            clock,
            attempt_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(150),
            forced_spread: Duration::from_secs(30),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// How the renewal stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub spiffe_id: Option<SpiffeId>,
    pub serial: Option<Serial>,
    /// When the present certificate ends. Stays after the end, so that it can be said since when there is none.
    pub not_after: Option<SystemTime>,
    /// When the next attempt is due.
    pub next_attempt: Option<SystemTime>,
    /// Failures since the last success.
    pub attempts: u32,
    /// Certificates obtained since the start.
    pub renewals: u64,
    pub last_error: Option<Error>,
}

/// The running renewal. It ends when this is dropped; the identity stays as it is.
#[derive(Debug)]
pub struct Handle {
    state: watch::Receiver<State>,
    forced: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Handle {
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Renews soon rather than when due, at a random moment within the configured spread.
    pub fn renew_now(&self) {
        self.forced.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts the renewal. Without a valid identity in `live` the first attempt is made at once.
pub fn start(config: Config, live: LiveIdentity, trust: TrustStore, issuer: Arc<dyn Issuer>) -> Handle {
    let held = live.leaf();
    let (states, state) = watch::channel(State::default());
    let forced = Arc::new(Notify::new());
    let identity = config.identity.clone().or_else(|| held.as_ref().map(|leaf| leaf.spiffe_id.clone()));
    let renewal = Renewal { config, identity, live, trust, issuer, forced: Arc::clone(&forced), states };
    let task = tokio::spawn(renewal.run(held));
    Handle { state, forced, task }
}

struct Renewal {
    config: Config,
    identity: Option<SpiffeId>,
    live: LiveIdentity,
    trust: TrustStore,
    issuer: Arc<dyn Issuer>,
    forced: Arc<Notify>,
    states: watch::Sender<State>,
}

impl Renewal {
    async fn run(mut self, held: Option<Leaf>) {
        let mut due = self.first_attempt(held);
        loop {
            self.states.send_modify(|state| state.next_attempt = Some(due));
            self.wait_until(due).await;
            let outcome = self.attempt().await;
            due = match outcome {
                Ok((leaf, renew_at)) => self.succeeded(leaf, renew_at),
                Err(error) => self.failed(error),
            };
        }
    }

    fn now(&self) -> SystemTime {
        (self.config.clock)()
    }

    fn first_attempt(&self, held: Option<Leaf>) -> SystemTime {
        let now = self.now();
        let Some(leaf) = held.filter(|leaf| leaf.is_valid_at(now)) else { return now };
        self.show(&leaf);
        schedule::renewal(leaf.not_before, leaf.not_after, rand::random()).max(now)
    }

    fn show(&self, leaf: &Leaf) {
        self.states.send_modify(|state| {
            state.spiffe_id = Some(leaf.spiffe_id.clone());
            state.serial = Some(leaf.serial.clone());
            state.not_after = Some(leaf.not_after);
        });
    }

    fn succeeded(&self, leaf: Leaf, renew_at: Option<SystemTime>) -> SystemTime {
        let now = self.now();
        tracing::info!(spiffe_id = %leaf.spiffe_id, serial = %leaf.serial, "certificate renewed");
        self.show(&leaf);
        self.states.send_modify(|state| {
            state.attempts = 0;
            state.renewals += 1;
            state.last_error = None;
        });
        // The issuer's word counts if it leaves time to try again before the end.
        renew_at
            .filter(|at| *at > now && *at < leaf.not_after)
            .unwrap_or_else(|| schedule::renewal(now, leaf.not_after, rand::random()))
    }

    fn failed(&self, error: Error) -> SystemTime {
        let now = self.now();
        let attempts = self.states.borrow().attempts.saturating_add(1);
        let retry_after = match &error {
            Error::Issuer(refusal) => refusal.retry_after,
            _ => None,
        };
        tracing::warn!(error = %error, attempts, "certificate not renewed");
        let backoff =
            schedule::backoff(attempts, self.config.backoff_min, self.config.backoff_max, rand::random());
        let delay = retry_after.map_or(backoff, |after| after.min(RETRY_AFTER_MAX) + backoff);
        self.states.send_modify(|state| {
            state.attempts = attempts;
            state.last_error = Some(error);
        });
        schedule::retry(now, delay, self.live.leaf().map(|leaf| leaf.not_after))
    }

    /// Waits in short steps of the wall clock, so that a suspended machine or a clock that was set does not oversleep.
    /// An identity that ends meanwhile is given up at its end: nobody would believe it.
    async fn wait_until(&self, mut due: SystemTime) {
        const STEP: Duration = Duration::from_secs(30);
        let mut forced = false;
        loop {
            let now = self.now();
            self.give_up_expired(now);
            if now >= due {
                return;
            }
            let remaining = |until: SystemTime| until.duration_since(now).unwrap_or(Duration::ZERO);
            let mut step = remaining(due).min(STEP);
            if let Some(leaf) = self.live.leaf() {
                // The certificate is still good in its very last second.
                step = step.min(remaining(leaf.not_after) + Duration::from_millis(1));
            }
            tokio::select! {
                () = tokio::time::sleep(step) => {}
                () = self.forced.notified(), if !forced => {
                    forced = true;
                    let spread = schedule::spread(self.config.forced_spread, rand::random());
                    due = due.min(self.now() + spread);
                    self.states.send_modify(|state| state.next_attempt = Some(due));
                }
            }
        }
    }

    fn give_up_expired(&self, now: SystemTime) {
        let expired = self.live.leaf().filter(|leaf| leaf.not_after < now);
        if let Some(leaf) = expired {
            tracing::error!(spiffe_id = %leaf.spiffe_id, serial = %leaf.serial, "certificate expired");
            self.live.clear();
        }
    }

    async fn attempt(&mut self) -> Result<(Leaf, Option<SystemTime>), Error> {
        let request = Request::generate()?;
        let after = self.config.attempt_timeout;
        let grant = tokio::time::timeout(after, self.issuer.issue(request.der().to_vec()))
            .await
            .map_err(|_| Error::Timeout { after })??;
        self.take_on(request, grant)
    }

    /// Believes the issuer only as far as it can be checked: our key, our identity, and a root that is trusted.
    fn take_on(&mut self, request: Request, grant: Grant) -> Result<(Leaf, Option<SystemTime>), Error> {
        let identity = Identity::new(grant.chain, request.into_key())?;
        let found = &identity.leaf().spiffe_id;
        if let Some(expected) = self.identity.as_ref().filter(|expected| *expected != found) {
            return Err(Error::WrongIdentity { found: found.clone(), expected: expected.clone() });
        }
        let bundles = self.trust.load().with_newer(grant.bundles.iter().cloned())?;
        let [leaf, above @ ..] = identity.chain() else { return Err(tls::Error::EmptyChain.into()) };
        let leaf = verifier::verify(leaf, above, &bundles, Role::Server, self.now())?;
        self.trust.update_newer(grant.bundles)?;
        self.identity = Some(leaf.spiffe_id.clone());
        self.live.swap(identity);
        Ok((leaf, grant.renew_at))
    }
}

#[cfg(test)]
mod tests;
