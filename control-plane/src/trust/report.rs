//! Everything about trust, for people.

use std::time::{Duration, SystemTime};

use weft_proto::name::TrustDomain;

use super::rotation::{Gate, State};

/// One root, for people.
#[derive(Clone, Debug)]
pub struct RootStatus {
    pub fingerprint: String,
    pub generation: Option<u32>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub issuing: bool,
}

/// Everything about trust, for people.
#[derive(Clone, Debug)]
pub struct TrustReport {
    pub trust_domain: TrustDomain,
    pub svid_lifetime: Duration,
    pub sequence: u64,
    pub roots: Vec<RootStatus>,
    pub external: bool,
    pub issuer_not_after: SystemTime,
    pub rotation: State,
    pub gate: Gate,
    pub revoked: Vec<String>,
}
