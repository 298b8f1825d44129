//! Whether a call may run now: the calls under way at a server are bounded, and so are those that wait for a place and
//! the streams that only listen.

mod fair;

use std::sync::Arc;
use std::time::Duration;

use weft_proto::resource::kinds::InFlight;

use self::fair::{Fair, Full, Taken};
use crate::metrics::Counted;
use crate::quota::Kept;
use crate::refusal::Refusal;

/// Calls under way, if nothing else is said.
pub const IN_FLIGHT_MAX: u32 = 256;
/// Longest wait for a place.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// When whoever found no place should come again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The places that a server has for calls, and for streams that listen.
#[derive(Debug)]
pub struct Places {
    calls: Fair,
    listening: Fair,
}

/// A call that may run. Only [`Places`] makes one; its place is free again when this and all clones of it are dropped.
#[derive(Clone, Debug)]
pub struct Admitted {
    _place: Option<Arc<Place>>,
    _kept: Kept,
}

impl Admitted {
    /// Gives back what was taken of quotas with the place.
    pub fn holding(self, kept: Kept) -> Self {
        Self { _kept: kept, ..self }
    }
}

#[derive(Debug)]
struct Place {
    _taken: Taken,
    /// None for what only listens.
    _counted: Option<Counted>,
}

impl Places {
    pub fn new(in_flight: &InFlight, listening_max: usize) -> Self {
        let max = in_flight.max.map_or(IN_FLIGHT_MAX, |max| max.get());
        let waiting_max = in_flight.queue_max.map_or(0, |max| max.get());
        let listening_max = listening_max.try_into().unwrap_or(u32::MAX);
        Self { calls: Fair::new(max, waiting_max), listening: Fair::new(listening_max, 0) }
    }

    /// A place for a call, at once or after waiting for it.
    pub async fn admit(&self, caller: &Arc<str>, counted: Counted) -> Result<Admitted, Refusal> {
        let taken = match self.calls.take(caller) {
            Ok(taken) => taken,
            Err(full) => self.wait(caller).await.map_err(|_| refusal(full))?,
        };
        Ok(Admitted {
            _place: Some(Arc::new(Place { _taken: taken, _counted: Some(counted) })),
            _kept: Kept::NOTHING,
        })
    }

    async fn wait(&self, caller: &Arc<str>) -> Result<Taken, Full> {
        let mut waits = self.calls.wait(caller)?;
        let place = tokio::time::timeout(WAIT_MAX, waits.place()).await;
        place.ok().flatten().ok_or(Full::All)
    }

    /// A place among the streams that only listen: each holds a connection to the server for as long as it lasts.
    pub fn listen(&self, caller: &Arc<str>) -> Result<Admitted, Refusal> {
        let taken = self.listening.take(caller).map_err(|full| match full {
            Full::All => Refusal::TooManyStreams,
            Full::Share => refusal(full),
        })?;
        let place = Place { _taken: taken, _counted: None };
        Ok(Admitted { _place: Some(Arc::new(place)), _kept: Kept::NOTHING })
    }

    /// What takes no place: handshakes, which must never fail for load.
    pub const fn exempt() -> Admitted {
        Admitted { _place: None, _kept: Kept::NOTHING }
    }
}

fn refusal(full: Full) -> Refusal {
    match full {
        Full::All => Refusal::InFlight { after: AGAIN_AFTER },
        Full::Share => Refusal::CallerShare,
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    fn places(max: u32, queue: u32) -> Places {
        let json = format!("{{\"max\":{max},\"queueMax\":{queue}}}");
        Places::new(&serde_json::from_str(&json).unwrap(), 1)
    }

    async fn admit(places: &Places, caller: &str) -> Result<Admitted, Refusal> {
        places.admit(&caller.into(), Counted::new(Gauge::default())).await
    }

    #[tokio::test]
    async fn a_call_beyond_the_places_is_refused_at_once() {
        let places = places(1, 0);
        let first = admit(&places, "a").await.unwrap();
        assert!(matches!(admit(&places, "a").await, Err(Refusal::InFlight { .. })));
        drop(first);
        admit(&places, "a").await.unwrap();
    }

    #[tokio::test]
    async fn one_caller_leaves_places_to_others_and_is_told_so() {
        let places = places(256, 0);
        let mut held = Vec::new();
        let refused = loop {
            match admit(&places, "greedy").await {
                Ok(admitted) => held.push(admitted),
                Err(refusal) => break refusal,
            }
        };
        assert_eq!(refused, Refusal::CallerShare);
        assert_eq!(held.len(), 225);
        admit(&places, "modest").await.unwrap();
    }

    #[tokio::test]
    async fn streams_that_listen_have_places_of_their_own() {
        let places = places(1, 0);
        let call = admit(&places, "a").await.unwrap();
        let stream = places.listen(&"a".into()).unwrap();
        assert!(matches!(places.listen(&"a".into()), Err(Refusal::TooManyStreams)));
        drop(stream);
        places.listen(&"a".into()).unwrap();
        drop(call);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waited_for_as_long_as_may_be_is_refused_and_leaves_the_queue() {
        let places = places(1, 1);
        let first = admit(&places, "a").await.unwrap();
        assert!(matches!(admit(&places, "b").await, Err(Refusal::InFlight { .. })));
        drop(first);
        admit(&places, "b").await.unwrap();
    }
}
