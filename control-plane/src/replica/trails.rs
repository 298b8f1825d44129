//! Audit trails that sidecars delivered: what the one that leads answers about them, and how one that follows copies
//! them, apart from the store, so that a flood of records holds up no write.
//!
//! Nobody waits for a copy of a line: a sidecar keeps what it delivered as long as it has room, and delivers again what
//! a new leader lacks.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use tonic::{Code, Response, Status};
use weft_proto::audit::Anchor;
use weft_proto::pb::weft::replica::v1 as pb;
use weft_proto::pb::weft::replica::v1::replica_client::ReplicaClient;

use super::follow::{Channel, Lost, connect};
use super::{RETRY, SILENCE_MAX};
use crate::audit::copy::{Copying, Far, LINES_BYTES_MAX, Run, TRAILS_PAGE};
use crate::audit::{Error, SHIPMENT_BYTES_MAX, Trails};
use crate::metrics::Metrics;
use crate::trust::Trust;

/// How often one that has everything asks for more.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause after each answer, so that copying takes no more than a part of the way: with [`LINES_BYTES_MAX`] in each, 8 MiB
/// a second.
pub const PAUSE: Duration = Duration::from_millis(64);
/// Largest answer: lines until there are enough, the longest one beside, and what is said of each trail, with its anchors.
const ANSWER_BYTES_MAX: usize = LINES_BYTES_MAX + SHIPMENT_BYTES_MAX + (16 << 20);

/// Copies trails.
#[derive(Clone, Debug)]
pub(super) struct Copier {
    pub(super) trails: Trails,
    pub(super) trust: Arc<Trust>,
    pub(super) metrics: Arc<Metrics>,
}

impl Copier {
    /// Follows one leader, for ever.
    pub(super) async fn run(&self, address: SocketAddr) -> Infallible {
        loop {
            let Err(lost) = self.copy(address).await;
            if let Lost::Unanswered = lost {
                tracing::info!(leader.address = %address, "the leader is of before audit trails were copied");
                return std::future::pending().await;
            }
            tracing::debug!(
                error = &lost as &dyn std::error::Error,
                leader.address = %address,
                "audit trails are not copied; trying again"
            );
            sleep(RETRY).await;
        }
    }

    async fn copy(&self, address: SocketAddr) -> Result<Infallible, Lost> {
        let (channel, _driver) = connect(&self.trust, address).await?;
        let mut leader = ReplicaClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let mut after = self.begin(&mut leader).await?;
        let mut copying = Copying::default();
        loop {
            let asked = leader.read_lines(pb::LinesAsked { after });
            let pb::Lines { runs, place, newest } = answer(asked).await?;
            let runs = runs.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
            copying = self.trails.take(copying, runs).await?;
            let left = newest.saturating_sub(place);
            self.metrics.replica_lines_behind.set(i64::try_from(left).unwrap_or(i64::MAX));
            after = place.max(after);
            sleep(if left == 0 { LOOK_EVERY } else { PAUSE }).await;
        }
    }

    /// The place after which the leader has lines that are not here.
    async fn begin(&self, leader: &mut ReplicaClient<Channel>) -> Result<u64, Lost> {
        let (mut after, mut from) = (0, None);
        loop {
            let pb::Trails { trails, newest } = answer(leader.list_trails(pb::TrailsAsked { after })).await?;
            // What arrives from now on is behind it.
            let known = *from.get_or_insert(newest);
            let Some(last) = trails.last() else { return Ok(known) };
            after = last.number.max(after.saturating_add(1));
            let names = trails.iter().map(|it| (it.node.clone(), it.name.clone())).collect();
            let next = self.trails.next_of(names).await?;
            let lacking = trails.iter().zip(next).filter(|(trail, next)| trail.last >= *next);
            let lacking: Vec<_> =
                lacking.map(|(trail, next)| pb::TrailLacking { trail: trail.number, next }).collect();
            if !lacking.is_empty() {
                let found = answer(leader.find_lines(pb::LinesLacking { trails: lacking })).await?;
                if let Some(before) = found.place.checked_sub(1) {
                    from = Some(known.min(before));
                }
            }
        }
    }
}

async fn answer<T>(asked: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Lost> {
    match timeout(SILENCE_MAX, asked).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) if status.code() == Code::Unimplemented => Err(Lost::Unanswered),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(Lost::Silent),
    }
}

/// A page of the trails that there are.
pub(super) async fn list(trails: &Trails, after: u64) -> Result<pb::Trails, Status> {
    let (far, newest) = trails.far(after).await.map_err(failed)?;
    let trail = |Far { number, node, name, last }| pb::Trail { number, node, name, last };
    Ok(pb::Trails { trails: far.into_iter().map(trail).collect(), newest })
}

pub(super) async fn find(trails: &Trails, lacking: pb::LinesLacking) -> Result<pb::LinesFound, Status> {
    if lacking.trails.len() > TRAILS_PAGE {
        return Err(Status::invalid_argument("it asks about more trails than a page has"));
    }
    let lacking = lacking.trails.into_iter().map(|it| (it.trail, it.next)).collect();
    Ok(pb::LinesFound { place: trails.first_lacking(lacking).await.map_err(failed)? })
}

pub(super) async fn lines(trails: &Trails, after: u64) -> Result<pb::Lines, Status> {
    let found = trails.runs(after).await.map_err(failed)?;
    let runs = found.runs.into_iter().map(says).collect();
    Ok(pb::Lines { runs, place: found.place, newest: found.newest })
}

fn failed(error: Error) -> Status {
    Status::unavailable(format!("the audit trails cannot be read: {error}"))
}

fn says(run: Run) -> pb::Run {
    let anchor = |it: Anchor| pb::Anchor {
        segment: it.segment,
        first: it.first,
        n: it.n,
        head: it.head.to_string(),
        closed: it.closed,
        sealed_micros: it.sealed_at.as_microsecond(),
        received_micros: it.received_at.as_microsecond(),
        signer: it.signer,
    };
    pb::Run {
        node: run.node,
        trail: run.trail.to_string(),
        identity: run.identity,
        heard_micros: run.heard_at.as_microsecond(),
        lines: run.lines,
        anchors: run.anchors.into_iter().map(anchor).collect(),
    }
}

fn read(run: pb::Run) -> Result<Run, Lost> {
    let unreadable = |what| Lost::Unreadable(super::wire::Unreadable::new(what));
    let time = |micros| Timestamp::from_microsecond(micros).map_err(|_| unreadable("time"));
    let trail: weft_proto::audit::Trail = run.trail.parse().map_err(|_| unreadable("trail"))?;
    let anchor = |it: pb::Anchor| {
        Ok(Anchor {
            node: run.node.clone(),
            trail: trail.clone(),
            segment: it.segment,
            first: it.first,
            n: it.n,
            head: it.head.parse().map_err(|_| unreadable("anchor"))?,
            closed: it.closed,
            sealed_at: time(it.sealed_micros)?,
            received_at: time(it.received_micros)?,
            signer: it.signer,
        })
    };
    let anchors = run.anchors.into_iter().map(anchor).collect::<Result<_, Lost>>()?;
    let heard_at = time(run.heard_micros)?;
    Ok(Run { trail, heard_at, anchors, node: run.node, identity: run.identity, lines: run.lines })
}
