//! Who somebody is, by what they can prove.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use weft_certs::join::{self, JoinToken};
use weft_proto::name::{SpiffeId, TrustDomain, Workload};
use weft_proto::pb::weft::identity::v1::certify_request::Proof;

use super::kubernetes::{self, Cluster};
use super::queue::Priority;
use crate::peer::Peer;
use crate::tokens::{self, Tokens};
use crate::trust::CONTROL_PLANE_PATH;

/// Longest accepted join token, in bytes.
pub const JOIN_TOKEN_BYTES_MAX: usize = 512;

/// Why nobody is who they say.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no proof of identity: give a join token or a service account token, or connect with a certificate"
    )]
    NoProof,
    #[error("the join token is malformed: {0}")]
    Malformed(#[source] join::Error),
    #[error("the join token is not accepted: {0}")]
    Token(#[source] tokens::Error),
    #[error("service account tokens are not accepted here: no cluster is configured")]
    NoCluster,
    #[error("the service account token is not accepted: {0}")]
    Kubernetes(#[from] kubernetes::Error),
    #[error("the certificate names {0}, which is no workload of this mesh")]
    NotAWorkload(SpiffeId),
    #[error("the proof is for {proved}, not for {asked:?}")]
    OtherIdentity { proved: SpiffeId, asked: String },
    #[error("the identity of the control plane itself is never given out")]
    Reserved,
}

/// Somebody who proved who they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Attested {
    pub workload: Workload,
    pub priority: Priority,
    /// Serial of the certificate that is renewed.
    pub renews: Option<String>,
}

/// What proofs are checked against.
#[derive(Clone, Debug)]
pub struct Attestor {
    pub trust_domain: TrustDomain,
    pub tokens: Arc<Tokens>,
    pub cluster: Option<Arc<dyn Cluster>>,
    pub audience: String,
}

impl Attestor {
    /// Decides who is asking. A join token loses one use by this, so it comes after everything else was checked.
    pub async fn attest(
        &self,
        proof: Option<Proof>,
        asked: &str,
        peer: &Peer,
        now: SystemTime,
    ) -> Result<Attested, Error> {
        let attested = match proof {
            Some(Proof::JoinToken(text)) => {
                let token = JoinToken::parse(&text).map_err(Error::Malformed)?;
                let workload = self.tokens.redeem(&token, now).await.map_err(Error::Token)?;
                Attested { workload, priority: Priority::First, renews: None }
            }
            Some(Proof::KubernetesToken(token)) => {
                let cluster = self.cluster.as_deref().ok_or(Error::NoCluster)?;
                let workload =
                    kubernetes::attest(cluster, &token, &self.audience, &self.trust_domain).await?;
                Attested { workload, priority: Priority::First, renews: None }
            }
            None => self.renewal(peer, now)?,
        };
        let id = attested.workload.id();
        if id.path() == CONTROL_PLANE_PATH {
            // Whoever held this name could speak for the control plane to every sidecar.
            return Err(Error::Reserved);
        }
        if !asked.is_empty() && asked != id.as_str() {
            return Err(Error::OtherIdentity { proved: id, asked: asked.chars().take(256).collect() });
        }
        Ok(attested)
    }

    fn renewal(&self, peer: &Peer, now: SystemTime) -> Result<Attested, Error> {
        let leaf = peer.leaf.as_ref().ok_or(Error::NoProof)?;
        let not_ours = || Error::NotAWorkload(leaf.spiffe_id.clone());
        let workload = leaf.spiffe_id.workload().ok_or_else(not_ours)?;
        if workload.trust_domain != self.trust_domain {
            return Err(not_ours());
        }
        let life = leaf.not_after.duration_since(leaf.not_before).unwrap_or_default();
        let left = leaf.not_after.duration_since(now).unwrap_or(Duration::ZERO);
        let priority = if left < life / 4 { Priority::Ending } else { Priority::Renewal };
        Ok(Attested { workload, priority, renews: Some(leaf.serial.as_str().to_owned()) })
    }
}
