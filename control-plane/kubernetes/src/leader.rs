//! Which of several control planes leads: whoever holds the Lease `weft-leader`.
//!
//! The one that leads lets sidecars and operators in, lends limits, and writes into the cluster; the others stand by with
//! everything read. [`Seat`] decides, from what was read and when by this process's own monotonic clock: the clocks of
//! others prove nothing. Whoever cannot renew in time leads no more before anybody else may, and whoever sees another in its
//! place is done for: its store may lack what the other has written, so the process ends and begins anew.
//!
//! Not here: what it means to lead (`app`).

pub mod label;
mod seat;

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use weft_control_plane::clock;

use self::seat::{Move, Record, Seat};

/// The annotation of the lease that says where its holder lets sidecars in, and those that stand by.
pub const ADDRESS: &str = "weft.dev/address";
/// How much longer one waits for its turn that has no copy of the leader's store which is up to date: others may have one.
pub const HESITATION: Duration = Duration::from_secs(5);
/// The name of the lease.
pub const NAME: &str = "weft-leader";
/// The API server takes no longer than this, or it is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// How long releasing may take when the process ends.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// How fast leadership moves.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For how long a lease holds that is not renewed.
    pub lease: Duration,
    /// After how long without renewal its holder leads no more; less than `lease`, for others count from when they saw.
    pub renew_within: Duration,
    /// How often the lease is looked at.
    pub every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_within: Duration::from_secs(10),
            every: Duration::from_secs(2),
        }
    }
}

/// Why a campaign ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The process ends.
    Stopped,
    /// Another leads, in the place of this one.
    Replaced,
}

/// One candidate.
#[derive(Debug)]
pub struct Campaign {
    api: Api<Lease>,
    name: String,
    timing: Timing,
    seat: Seat,
    began: Instant,
    leads: watch::Sender<bool>,
    others: Others,
}

/// What a candidate has to do with the one that leads.
#[derive(Debug)]
pub struct Others {
    /// Where this one is found, once it leads; unknown of one that nobody can follow.
    pub address: Option<SocketAddr>,
    /// Told where another is that leads.
    pub leader: watch::Sender<Option<SocketAddr>>,
    /// Whether this one has had a copy of the leader's store that was up to date.
    pub copied: watch::Receiver<bool>,
}

impl Campaign {
    /// `me` is a name that no other process has, this one's predecessor included.
    pub fn new(
        api: Api<Lease>,
        name: String,
        me: String,
        timing: Timing,
        (leads, others): (watch::Sender<bool>, Others),
    ) -> Self {
        Self { api, name, seat: Seat::new(me, timing), timing, began: Instant::now(), leads, others }
    }

    /// Campaigns until the process ends or another replaces this one.
    pub async fn run(mut self, shutdown: CancellationToken) -> Ended {
        loop {
            let stopped = tokio::select! {
                () = shutdown.cancelled() => true,
                () = self.round() => false,
            };
            if stopped {
                self.release().await;
                return Ended::Stopped;
            }
            if self.seat.is_replaced() {
                self.leads.send_replace(false);
                tracing::error!(
                    by = self.seat.holder(),
                    "another control plane leads in the place of this one"
                );
                return Ended::Replaced;
            }
            let next = self.began + self.seat.look_at(self.now());
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.lapse() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Looks at the lease and does what is due. Ends in time for what was held to lapse.
    async fn round(&mut self) {
        // A request that hangs must not keep this one in its place: the round ends when its time is over.
        let now = self.now();
        let lapses = self.seat.lapses_at().filter(|at| *at > now).map(|at| self.began + at);
        let round = async {
            match timeout(ANSWER_TIMEOUT, self.look_and_move()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the lease cannot be read or renewed"
                    );
                }
                Err(_) => tracing::warn!("the API server does not answer about the lease"),
            }
        };
        match lapses {
            Some(at) => drop(tokio::time::timeout_at(at, round).await),
            None => round.await,
        }
        self.show();
    }

    async fn look_and_move(&mut self) -> kube::Result<()> {
        let found = self.api.get_opt(&self.name).await?;
        let now = self.now();
        self.seat.saw(found.as_ref().map(read), now);
        self.seat.hesitate(if *self.others.copied.borrow() { Duration::ZERO } else { HESITATION });
        let leader = found.as_ref().and_then(|lease| address(lease, self.seat.me()));
        self.others.leader.send_if_modified(|known| std::mem::replace(known, leader) != leader);
        let asked = self.now();
        let outcome = match self.seat.next(asked) {
            Move::Wait => return Ok(()),
            Move::Make => {
                let lease = self.written(None, 0);
                self.api.create(&PostParams::default(), &lease).await
            }
            Move::Take { transitions } => {
                let lease = self.written(found, transitions);
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match outcome {
            Ok(lease) => self.seat.wrote(read(&lease), asked),
            // Another was faster: who, is seen with the next look.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Ends once what is held is over.
    async fn lapse(&self) {
        match self.seat.lapses_at() {
            Some(at) => {
                tokio::time::sleep_until(self.began + at).await;
                self.show();
                std::future::pending().await
            }
            None => std::future::pending().await,
        }
    }

    fn show(&self) {
        let leads = self.seat.leads(self.now());
        let changed = self.leads.send_if_modified(|shown| std::mem::replace(shown, leads) != leads);
        match (changed, leads) {
            (true, true) => tracing::info!("this control plane leads"),
            (true, false) => {
                tracing::warn!("the lease is not renewed in time: this control plane leads no more")
            }
            (false, _) => {}
        }
    }

    /// Gives the lease back, so that nobody has to wait for its end. Nothing is lent any more by then.
    async fn release(&self) {
        self.leads.send_replace(false);
        let Some(transitions) = self.seat.held(self.now()) else { return };
        let release = async {
            let found = self.api.get_opt(&self.name).await?;
            if found.as_ref().is_none_or(|lease| read(lease).holder.as_deref() != Some(self.seat.me())) {
                return Ok(());
            }
            let mut lease = self.written(found, transitions);
            let spec = lease.spec.get_or_insert_default();
            (spec.holder_identity, spec.lease_duration_seconds) = (Some(String::new()), Some(1));
            lease.metadata.annotations.get_or_insert_default().remove(ADDRESS);
            self.api.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        };
        if !matches!(timeout(RELEASE_TIMEOUT, release).await, Ok(Ok(()))) {
            tracing::warn!("the lease could not be given back; it ends by itself");
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The lease with this one as its holder. What others wrote beside stays.
    fn written(&self, found: Option<Lease>, transitions: i32) -> Lease {
        let now = Timestamp::try_from(clock::now()).map(MicroTime).ok();
        let mut lease = found.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        let annotations = lease.metadata.annotations.get_or_insert_default();
        match self.others.address {
            Some(address) => annotations.insert(ADDRESS.to_owned(), address.to_string()),
            None => annotations.remove(ADDRESS),
        };
        let before = lease.spec.take().unwrap_or_default();
        let is_mine = before.holder_identity.as_deref() == Some(self.seat.me());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.seat.me().to_owned()),
            lease_duration_seconds: i32::try_from(self.timing.lease.as_secs().max(1)).ok(),
            acquire_time: before.acquire_time.clone().filter(|_| is_mine).or_else(|| now.clone()),
            renew_time: now,
            lease_transitions: Some(transitions),
            ..before
        });
        lease
    }
}

/// Where another is that holds the lease.
fn address(lease: &Lease, me: &str) -> Option<SocketAddr> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    let address = lease.metadata.annotations.as_ref()?.get(ADDRESS)?;
    if holder.is_empty() || holder == me { None } else { address.parse().ok() }
}

fn read(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}
