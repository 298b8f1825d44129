//! Sidecars: who is connected, and how far each is with what it was sent.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use axum::response::Response;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::name::{Digest, Namespace, NodeId};
use weft_proto::pb::weft::ask::v1::question::Asks;
use weft_proto::wire::ResourceType;

use super::call::{Call, json};
use super::dto::DateTime;
use super::{Api, Error};
use crate::ask::{self, Answers, Whom};
use crate::auth::timestamp;
use crate::replica::{Replication, Standby};
use crate::reports::{Losses, Report};
use crate::xds::{ClientStatus, Hub, Intended, TypeStatus};

/// What is known of sidecars.
pub trait Sidecars: fmt::Debug + Send + Sync {
    /// Every sidecar that is connected or was lately, by name.
    fn status(&self) -> Vec<ClientStatus>;

    /// The revision that sidecars are told.
    fn published_revision(&self) -> u64;

    /// How many resources of each type are published.
    fn published(&self) -> Vec<(ResourceType, usize)>;

    /// Everything that a connected sidecar is to hold; none if it is not connected.
    fn intended(&self, whom: &Whom) -> Option<Vec<Intended>>;

    /// Asks a sidecar something.
    fn ask(&self, whom: &Whom, asks: Asks) -> Result<Answers, ask::Error>;

    /// A definition that some server advertised lately.
    fn definition(&self, digest: &Digest) -> Option<Arc<str>>;
}

impl Sidecars for Hub {
    fn status(&self) -> Vec<ClientStatus> {
        self.status()
    }

    fn published_revision(&self) -> u64 {
        *self.revision().borrow()
    }

    fn published(&self) -> Vec<(ResourceType, usize)> {
        self.counts()
    }

    fn intended(&self, whom: &Whom) -> Option<Vec<Intended>> {
        self.intended(whom)
    }

    fn ask(&self, whom: &Whom, asks: Asks) -> Result<Answers, ask::Error> {
        self.ask(whom, asks)
    }

    fn definition(&self, digest: &Digest) -> Option<Arc<str>> {
        self.seen().find(digest)
    }
}

/// Sidecars by name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarList {
    pub published_revision: u64,
    pub items: Vec<Sidecar>,
    /// The other control planes that follow this one, by name; left out where this one is not one of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standbys: Option<Vec<FollowingReplica>>,
}

/// A control plane that stands by, with a copy of the store of the one that leads.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FollowingReplica {
    /// Its pod.
    pub replica: String,
    /// Whatever was answered, it has as well.
    pub keeps_up: bool,
    /// Revisions that it lacks.
    pub behind_revisions: u64,
    /// For how long it has lacked something; 0 if it has everything.
    pub behind_seconds: u64,
}

impl From<Standby> for FollowingReplica {
    fn from(standby: Standby) -> Self {
        let Standby { name: replica, keeps_up, behind_revisions, behind_secs: behind_seconds } = standby;
        Self { replica, keeps_up, behind_revisions, behind_seconds }
    }
}

/// A sidecar that is connected or was lately.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    pub node: String,
    pub identity: String,
    pub version: String,
    pub peer: String,
    pub connected: bool,
    #[schemars(with = "DateTime")]
    pub connected_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub disconnected_at: Option<Timestamp>,
    /// The servers it stands beside.
    pub serves: Vec<String>,
    /// The worst of its types: `synced`, `waiting` or `rejected`.
    pub sync: String,
    pub seen_revision: u64,
    pub types: Vec<SidecarType>,
    pub certificate: SidecarCertificate,
    /// What it said of itself last; left out while it is not connected, or where it does not report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<SidecarReport>,
}

/// What a sidecar said of itself last.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarReport {
    #[schemars(with = "DateTime")]
    pub at: Timestamp,
    pub version: String,
    pub uptime_seconds: u64,
    /// Where other sidecars reach it, if it takes calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound_address: Option<String>,
    /// The worst of its servers: `serving`, `starting`, `degraded` or `draining`. Left out if it stands beside none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    pub servers: Vec<SidecarServer>,
    /// How far its clock is ahead of that of the control plane; the way of the report is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_millis: Option<i64>,
    pub losses: SidecarLosses,
    /// The disk of its state folder; left out where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_folder: Option<Room>,
}

/// What a sidecar lost since it began, and what lags behind.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarLosses {
    /// Spans that no collector took.
    pub spans_dropped: u64,
    /// Calls that were to be recorded in the audit trail and were not.
    pub audit_dropped: u64,
    /// Times that the audit trail could not be written, signed or shipped.
    pub audit_failures: u64,
    /// Lines of the audit trail that are not here yet.
    pub audit_unshipped: u64,
}

/// Room on a disk.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    pub bytes_free: u64,
    pub bytes_total: u64,
}

/// How a server is, by the word of the sidecar beside it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarServer {
    /// `<namespace>/<name>`
    pub server: String,
    /// `serving`, `starting`, `degraded` or `draining`.
    pub health: String,
    /// Why it does not serve, in a few words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Calls under way.
    pub in_flight: u32,
    /// Where it can be called past the sidecar: addresses with ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed_at: Vec<String>,
}

/// How far a sidecar is with resources of one type.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarType {
    #[serde(rename = "type")]
    pub ty: String,
    /// `synced`, `waiting` or `rejected`.
    pub sync: String,
    pub resources: usize,
    pub sent_revision: u64,
    pub acknowledged_revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ack_age_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nack: Option<Nack>,
}

/// What a sidecar refused, and why.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Nack {
    #[schemars(with = "DateTime")]
    pub at: Timestamp,
    pub message: String,
}

/// The certificate that a sidecar showed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarCertificate {
    pub serial: String,
    #[schemars(with = "DateTime")]
    pub expires_at: Timestamp,
    /// Fingerprint of the root that it leads to.
    pub root: String,
}

/// What is published.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    pub published_revision: u64,
    pub resources: Vec<PlanCount>,
}

/// How many resources of one type are published.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PlanCount {
    #[serde(rename = "type")]
    pub ty: String,
    pub count: usize,
}

/// Which sidecars are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SidecarsQuery {
    /// A namespace; every namespace if not given.
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
}

pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let SidecarsQuery { namespace } = call.query()?;
    let wanted =
        |it: &ClientStatus| namespace.as_ref().is_none_or(|wanted| it.node.namespace() == wanted.as_str());
    Ok(json(&listed(&api, wanted)))
}

pub(super) async fn show(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    Ok(json(&told(named(&api, &call)?, api.now())))
}

/// The sidecar that the path names.
pub(super) fn named(api: &Api, call: &Call) -> Result<ClientStatus, Error> {
    let (namespace, instance): (Namespace, String) = (call.part("ns")?, call.part("instance")?);
    let missing = || Error::NotFound { what: format!("sidecar {namespace}/{instance}") };
    let node = NodeId::parse(&format!("{namespace}/{instance}")).map_err(|_| missing())?;
    let status = api.deps.sidecars.status();
    // One name may have been held by two identities; whoever is connected is meant.
    let named = status.into_iter().filter(|it| it.node == node);
    named.max_by_key(|it| (it.connected, it.connected_at)).ok_or_else(missing)
}

pub(super) async fn syncz(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    Ok(json(&listed(&api, |_| true)))
}

pub(super) async fn nackz(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    Ok(json(&listed(&api, |it| it.types.values().any(|ty| ty.nack.is_some()))))
}

pub(super) async fn plan(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let counts = api.deps.sidecars.published().into_iter();
    let resources = counts.map(|(ty, count)| PlanCount { ty: ty.name().to_owned(), count }).collect();
    Ok(json(&PlanStatus { published_revision: api.deps.sidecars.published_revision(), resources }))
}

fn listed(api: &Api, wanted: impl Fn(&ClientStatus) -> bool) -> SidecarList {
    let (published_revision, now) = (api.deps.sidecars.published_revision(), api.now());
    let items = api.deps.sidecars.status().into_iter().filter(wanted).map(|it| told(it, now)).collect();
    let followers = api.deps.replication.as_ref().map(Replication::followers);
    let standbys = followers.map(|them| them.into_iter().map(FollowingReplica::from).collect());
    SidecarList { published_revision, items, standbys }
}

fn told(it: ClientStatus, now: SystemTime) -> Sidecar {
    let sync = it.sync().word().to_owned();
    Sidecar {
        node: it.node.to_string(),
        identity: it.identity.to_string(),
        version: it.version,
        peer: it.peer,
        connected: it.connected,
        connected_at: timestamp(it.connected_at),
        disconnected_at: it.disconnected_at.map(timestamp),
        serves: it.serves.iter().map(ToString::to_string).collect(),
        sync,
        seen_revision: it.seen_revision,
        types: it.types.into_iter().map(|(ty, status)| told_type(ty, status, now)).collect(),
        certificate: SidecarCertificate {
            serial: it.certificate_serial,
            expires_at: timestamp(it.certificate_expires),
            root: it.certificate_root,
        },
        report: it.report.as_deref().map(told_report),
    }
}

fn told_report(it: &Report) -> SidecarReport {
    let servers = it.servers.iter().map(|(server, served)| SidecarServer {
        server: server.to_string(),
        health: served.health.word().to_owned(),
        detail: served.detail.clone(),
        in_flight: served.in_flight,
        exposed_at: served.exposed_at.iter().map(ToString::to_string).collect(),
    });
    SidecarReport {
        at: timestamp(it.at),
        version: it.version.clone(),
        uptime_seconds: it.uptime.as_secs(),
        inbound_address: it.inbound_address.as_ref().map(ToString::to_string),
        health: it.health().map(|health| health.word().to_owned()),
        servers: servers.collect(),
        clock_ahead_millis: it.clock.map(|clock| ahead_millis(clock, it.at)),
        losses: told_losses(it.losses),
        state_folder: it.room.map(|(bytes_free, bytes_total)| Room { bytes_free, bytes_total }),
    }
}

const fn told_losses(it: Losses) -> SidecarLosses {
    let Losses { spans_dropped, audit_dropped, audit_failures, audit_unshipped } = it;
    SidecarLosses { spans_dropped, audit_dropped, audit_failures, audit_unshipped }
}

fn ahead_millis(clock: SystemTime, here: SystemTime) -> i64 {
    let millis = |apart: std::time::Duration| i64::try_from(apart.as_millis()).unwrap_or(i64::MAX);
    clock.duration_since(here).map_or_else(|behind| -millis(behind.duration()), millis)
}

fn told_type(ty: ResourceType, it: TypeStatus, now: SystemTime) -> SidecarType {
    let age = |at: SystemTime| now.duration_since(at).unwrap_or_default().as_secs();
    SidecarType {
        ty: ty.name().to_owned(),
        sync: it.sync().word().to_owned(),
        resources: it.resources,
        sent_revision: it.sent_revision,
        acknowledged_revision: it.acknowledged_revision,
        last_ack_age_seconds: it.acknowledged_at.map(age),
        nack: it.nack.map(|nack| Nack { at: timestamp(nack.at), message: nack.message }),
    }
}
