//! Copies of calls for servers that mirror others: sent apart, never waited for, their answers thrown away. There are so
//! many under way at most; beyond that there are none.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::{Affinity, Call, Manner, Outbound, Stop, Time};
use crate::upstream::{Outgoing, UpstreamBody};

/// How much of the answer to a copy is read, so that its server comes to its end. One that has more to say is left.
const READ_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Copies {
    places: Arc<Semaphore>,
}

impl Copies {
    pub(super) fn new(max: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))) }
    }
}

impl Outbound {
    /// Sends a copy of a request to a server, if there is room and the server is known.
    pub(super) fn copy(self: &Arc<Self>, stop: &Stop, request: &Outgoing) {
        let Ok(reach) = self.reach(&stop.server) else { return };
        let Ok(place) = Arc::clone(&self.copies.places).try_acquire_owned() else {
            return self.config.counts.copy(&stop.server, "no_room");
        };
        let (to, request) = (Arc::clone(self), Arc::clone(request));
        let after = stop.manner.timeout.unwrap_or(reach.call_timeout);
        tokio::spawn(async move {
            let _place = place;
            let (server, time) = (reach.server.clone(), Time::beginning(after));
            // It is never sent twice: what is lost of a mirror is no loss.
            let sent = to.to_one(reach, Manner::default(), Call::new(request, Affinity::Any), time).await;
            let outcome = match sent {
                Err(_) => "failed",
                Ok((_, _, response)) => {
                    let status = response.status();
                    // Dropped before its end, the call would be cancelled at the mirror.
                    let read = timeout_at(time.until, read(response.into_body())).await;
                    match status.is_success() && read == Ok(true) {
                        true => "answered",
                        false => "failed",
                    }
                }
            };
            to.config.counts.copy(&server, outcome);
        });
    }
}

/// Reads an answer to its end. Whether that came.
async fn read(mut body: UpstreamBody) -> bool {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
        if bytes > READ_BYTES_MAX {
            return false;
        }
    }
    true
}
