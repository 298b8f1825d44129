//! The identity service behind gRPC.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::Rng;
use tokio::time::{Instant, timeout};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};
use weft_certs::bundle::Fingerprint;
use weft_certs::ca::{self, Issued};
use weft_proto::name::SpiffeId;
use weft_proto::pb::weft::identity::v1::identity_server::Identity;
use weft_proto::pb::weft::identity::v1::{CertifyRequest, CertifyResponse};
use weft_proto::resource::kinds::Trust as TrustSpec;

use super::attest::{self, Attested, Attestor};
use super::kubernetes;
use super::limits::{Buckets, Rate};
use super::queue::Queue;
use super::sessions::SessionSecret;
use crate::clock;
use crate::metrics::{Metrics, ReasonLabel};
use crate::peer::Peer;
use crate::trust::Trust;
use crate::xds::Hub;

/// How the service behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Attempts without a certificate, per client address.
    pub per_address: Rate,
    /// Renewals, per identity and client address. Not per certificate: each renewal makes a new one.
    pub per_identity: Rate,
    pub peers_max: usize,
    pub queue_max: usize,
    pub signers: usize,
    /// Certificates of workloads live no longer, whatever the mesh's `Trust` says.
    pub lifetime_max: Duration,
    /// How long a request may take, waiting included.
    pub timeout: Duration,
    /// Over how long clients are spread that are turned away.
    pub retry_spread: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            per_address: Rate { burst: 200.0, per_second: 20.0 },
            per_identity: Rate { burst: 200.0, per_second: 20.0 },
            peers_max: 100_000,
            queue_max: 10_000,
            signers: 2,
            lifetime_max: TrustSpec::SVID_LIFETIME_MAX.duration(),
            timeout: Duration::from_secs(20),
            retry_spread: Duration::from_secs(30),
        }
    }
}

/// The metadata key that says when to come back.
const RETRY_AFTER: &str = "weft-retry-after-ms";

/// What the service works with.
#[derive(Debug)]
pub struct Deps {
    pub attestor: Attestor,
    pub trust: Arc<Trust>,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub sessions: SessionSecret,
}

/// Issues certificates to whoever proves who they are.
#[derive(Debug)]
pub struct IdentityService {
    attestor: Attestor,
    trust: Arc<Trust>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    sessions: SessionSecret,
    settings: Settings,
    addresses: Buckets<IpAddr>,
    identities: Buckets<(SpiffeId, IpAddr)>,
    queue: Queue,
}

impl IdentityService {
    pub fn start(deps: Deps, settings: Settings) -> std::io::Result<Self> {
        let Deps { attestor, trust, hub, metrics, sessions } = deps;
        Ok(Self {
            addresses: Buckets::new(settings.per_address, settings.peers_max),
            identities: Buckets::new(settings.per_identity, settings.peers_max),
            queue: Queue::start(settings.signers, settings.queue_max)?,
            attestor,
            trust,
            hub,
            metrics,
            sessions,
            settings,
        })
    }

    async fn certify_for(&self, request: CertifyRequest, peer: &Peer) -> Result<CertifyResponse, Refusal> {
        let now = clock::now();
        self.check_rate(&request, peer)?;
        let lifetime = self.lifetime(&request)?;
        // Checked before the proof is spent: a bad request must not cost a token its use.
        let checked = ca::request::check(&request.csr).map_err(Refusal::Csr)?;
        let attested = self.attestor.attest(request.proof, &request.spiffe_id, peer, now).await;
        let attested = attested.map_err(|error| match error {
            // Whoever comes back at once, with all the others, keeps it away.
            attest::Error::Kubernetes(kubernetes::Error::Unavailable(why)) => {
                Refusal::ClusterAway { why, after: self.spread() }
            }
            other => other.into(),
        })?;
        let issued = self.sign(checked, &attested, lifetime).await?;
        let root = Fingerprint::of(&issued.root).to_string();
        if let Some(old) = &attested.renews {
            self.hub.renewed(old, &issued.leaf, &root);
        }
        tracing::info!(identity = %issued.leaf.spiffe_id, serial = issued.leaf.serial.as_str(),
            renews = attested.renews, peer.address = %peer.address, "certificate issued");
        self.metrics.certificates_issued.inc();
        Ok(self.response(issued, now))
    }

    fn check_rate(&self, request: &CertifyRequest, peer: &Peer) -> Result<(), Refusal> {
        let now = Instant::now();
        let waited = match (&request.proof, &peer.leaf) {
            (None, Some(leaf)) => self.identities.take((leaf.spiffe_id.clone(), peer.network()), now),
            _ => self.addresses.take(peer.network(), now),
        };
        waited.map_err(|after| Refusal::TooOften { after })
    }

    fn lifetime(&self, request: &CertifyRequest) -> Result<Duration, Refusal> {
        let granted = self.trust.svid_lifetime().min(self.settings.lifetime_max);
        let Some(asked) = request.lifetime else { return Ok(granted) };
        let asked = Duration::try_from(asked).map_err(|_| Refusal::Lifetime)?;
        // Shorter than the mesh's is a wish, longer is ignored.
        let shortest = TrustSpec::SVID_LIFETIME_MIN.duration().min(self.settings.lifetime_max);
        Ok(asked.clamp(shortest, granted.max(shortest)))
    }

    async fn sign(
        &self,
        request: ca::request::Checked,
        attested: &Attested,
        lifetime: Duration,
    ) -> Result<Issued, Refusal> {
        let (trust, id) = (Arc::clone(&self.trust), attested.workload.id());
        let overloaded = || Refusal::Overloaded { after: self.spread() };
        let signed = self
            .queue
            .submit(attested.priority, move || trust.issue(&request, &id, lifetime))
            .map_err(|_| overloaded())?;
        self.measure_queue();
        let answered = timeout(self.settings.timeout, signed).await;
        self.measure_queue();
        match answered {
            Ok(Ok(result)) => result.map_err(Refusal::Issue),
            Ok(Err(_)) => Err(Refusal::Panicked),
            Err(_) => Err(overloaded()),
        }
    }

    fn measure_queue(&self) {
        self.metrics.certificate_queue.set(i64::try_from(self.queue.len()).unwrap_or(i64::MAX));
    }

    fn response(&self, issued: Issued, now: SystemTime) -> CertifyResponse {
        let life = issued.leaf.not_after.duration_since(now).unwrap_or_default();
        let renew_at = now + life.mul_f64(rand::rng().random_range(0.45..=0.55));
        CertifyResponse {
            chain: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            spiffe_id: issued.leaf.spiffe_id.to_string(),
            not_before: Some(issued.leaf.not_before.into()),
            not_after: Some(issued.leaf.not_after.into()),
            renew_at: Some(renew_at.into()),
            bundles: self.trust.bundles_to_wire(),
            session_keys: Some(self.sessions.of_identity(&issued.leaf.spiffe_id, now)),
        }
    }

    /// A moment to come back at, different for everyone.
    fn spread(&self) -> Duration {
        self.settings.retry_spread.mul_f64(rand::rng().random_range(0.1..=1.0))
    }
}

/// Why a certificate is not issued.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("too many attempts; come back in {} ms", .after.as_millis())]
    TooOften { after: Duration },
    #[error("too many requests are waiting; come back in {} ms", .after.as_millis())]
    Overloaded { after: Duration },
    #[error("the wished lifetime is negative or out of range")]
    Lifetime,
    #[error("the signing request cannot be used: {0}")]
    Csr(#[source] ca::request::Error),
    #[error("the cluster could not be asked about the token: {why}; come back in {} ms", .after.as_millis())]
    ClusterAway { why: String, after: Duration },
    #[error(transparent)]
    Attest(#[from] attest::Error),
    #[error("the certificate could not be issued: {0}")]
    Issue(#[source] ca::issuer::Error),
    #[error("the request could not be processed")]
    Panicked,
}

impl Refusal {
    /// The one table from refusals to codes, reasons and advice.
    fn table(&self) -> (Code, &'static str, Option<Duration>) {
        match self {
            Self::TooOften { after } => (Code::ResourceExhausted, "too_often", Some(*after)),
            Self::Overloaded { after } => (Code::ResourceExhausted, "overloaded", Some(*after)),
            Self::Lifetime => (Code::InvalidArgument, "lifetime", None),
            Self::Csr(_) => (Code::InvalidArgument, "csr", None),
            Self::Attest(attest::Error::NoProof) => (Code::Unauthenticated, "no_proof", None),
            Self::Attest(attest::Error::Malformed(_)) => {
                (Code::InvalidArgument, "join_token_malformed", None)
            }
            Self::Attest(attest::Error::Token(_)) => (Code::Unauthenticated, "join_token", None),
            Self::Attest(attest::Error::NoCluster) => (Code::FailedPrecondition, "no_cluster", None),
            Self::ClusterAway { after, .. } => (Code::Unavailable, "cluster_unavailable", Some(*after)),
            Self::Attest(attest::Error::Kubernetes(_)) => (Code::Unauthenticated, "account_token", None),
            Self::Attest(
                attest::Error::NotAWorkload(_)
                | attest::Error::OtherIdentity { .. }
                | attest::Error::Reserved,
            ) => (Code::PermissionDenied, "identity", None),
            Self::Issue(_) => (Code::Internal, "issuer", None),
            Self::Panicked => (Code::Internal, "panic", None),
        }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let started = Instant::now();
        let peer = Peer::of(&request)?;
        let result = self.certify_for(request.into_inner(), &peer).await;
        self.metrics.certificate_seconds.observe(started.elapsed().as_secs_f64());
        result.map(Response::new).map_err(|refusal| {
            let (code, reason, after) = refusal.table();
            self.metrics.certificates_refused.get_or_create(&ReasonLabel { reason }).inc();
            tracing::warn!(peer.address = %peer.address, reason, error = %refusal, "certificate refused");
            let mut status = Status::new(code, refusal.to_string());
            if let Some(after) = after {
                let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                status.metadata_mut().insert(RETRY_AFTER, MetadataValue::from(millis));
            }
            status
        })
    }
}
