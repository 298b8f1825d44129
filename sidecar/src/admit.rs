//! Whether a call may run now: the calls under way at a server are bounded, and so are those that wait for a place and
//! the streams that only listen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weft_proto::resource::kinds::InFlight;

use crate::metrics::Counted;
use crate::quota::Kept;
use crate::refusal::Refusal;

/// Calls under way, if nothing else is said.
pub const IN_FLIGHT_MAX: u32 = 256;
/// Longest wait for a place.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The places that a server has for calls.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    listening: Arc<Semaphore>,
    waiting: AtomicU32,
    waiting_max: u32,
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
    _permit: OwnedSemaphorePermit,
    /// None for what only listens.
    _counted: Option<Counted>,
}

impl Places {
    pub fn new(in_flight: &InFlight, listening_max: usize) -> Self {
        let max = in_flight.max.map_or(IN_FLIGHT_MAX, |max| max.get());
        let waiting_max = in_flight.queue_max.map_or(0, |max| max.get());
        Self {
            free: Arc::new(Semaphore::new(max.try_into().unwrap_or(Semaphore::MAX_PERMITS))),
            listening: Arc::new(Semaphore::new(listening_max.min(Semaphore::MAX_PERMITS))),
            waiting: AtomicU32::new(0),
            waiting_max,
        }
    }

    /// A place for a call, at once or after waiting for it.
    pub async fn admit(&self, counted: Counted) -> Result<Admitted, Refusal> {
        let full = Refusal::InFlight { after: Duration::from_secs(1) };
        let place = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let _waits = Waits::new(&self.waiting, self.waiting_max).ok_or_else(|| full.clone())?;
                let place = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.free).acquire_owned()).await;
                place.map_err(|_| full.clone())?.map_err(|_| full)?
            }
        };
        Ok(Admitted {
            _place: Some(Arc::new(Place { _permit: place, _counted: Some(counted) })),
            _kept: Kept::NOTHING,
        })
    }

    /// A place among the streams that only listen: each holds a connection to the server for as long as it lasts.
    pub fn listen(&self) -> Result<Admitted, Refusal> {
        let place = Arc::clone(&self.listening).try_acquire_owned().map_err(|_| Refusal::TooManyStreams)?;
        Ok(Admitted {
            _place: Some(Arc::new(Place { _permit: place, _counted: None })),
            _kept: Kept::NOTHING,
        })
    }

    /// What takes no place: handshakes, which must never fail for load.
    pub const fn exempt() -> Admitted {
        Admitted { _place: None, _kept: Kept::NOTHING }
    }
}

struct Waits<'a>(&'a AtomicU32);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicU32, max: u32) -> Option<Self> {
        let waits = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < max).then_some(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

    fn counted() -> Counted {
        Counted::new(Gauge::default())
    }

    #[tokio::test]
    async fn a_call_beyond_the_places_is_refused_at_once() {
        let places = places(1, 0);
        let first = places.admit(counted()).await.unwrap();
        assert!(matches!(places.admit(counted()).await, Err(Refusal::InFlight { .. })));
        drop(first);
        places.admit(counted()).await.unwrap();
    }

    #[tokio::test]
    async fn streams_that_listen_have_places_of_their_own() {
        let places = places(1, 0);
        let call = places.admit(counted()).await.unwrap();
        let stream = places.listen().unwrap();
        assert!(matches!(places.listen(), Err(Refusal::TooManyStreams)));
        drop(stream);
        places.listen().unwrap();
        drop(call);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_call_gets_the_next_place_and_one_too_many_is_refused() {
        let places = Arc::new(places(1, 1));
        let first = places.admit(counted()).await.unwrap();
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.admit(counted()).await }
        });
        while places.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(places.admit(counted()).await.is_err());
        drop(first);
        waiting.await.unwrap().unwrap();
        assert_eq!(places.waiting.load(Ordering::Relaxed), 0);
    }
}
