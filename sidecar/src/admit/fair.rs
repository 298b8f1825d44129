//! Who gets the places of which there are so many: first come, first served, as long as a caller leaves some to others.
//! Those who wait take turns by caller, so that one with many calls does not stand before one with a single call.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A caller that holds more than so many times what is free gets no more. A caller alone leaves one place of eight to
/// others, two that take what they can leave one of fifteen; of eight places or fewer one caller may have all.
const SHARE: u64 = 7;

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// None is free.
    All,
    /// What is free is for other callers.
    Share,
}

/// The places, and those who wait for one. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Fair(Arc<Mutex<State>>);

/// A place that is taken, until this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    from: Fair,
    caller: Arc<str>,
}

/// Somebody in the queue, until this is dropped.
#[derive(Debug)]
pub(super) struct Waits {
    at: Fair,
    caller: Arc<str>,
    ticket: u64,
    place: oneshot::Receiver<Taken>,
}

#[derive(Debug)]
struct State {
    places: Shares,
    queue: Shares,
    /// By caller, and by when they came.
    lines: BTreeMap<Arc<str>, BTreeMap<u64, oneshot::Sender<Taken>>>,
    /// Whose turn it was last; nobody's at first.
    served: Arc<str>,
    tickets: u64,
}

/// How many are free, and how many each caller has.
#[derive(Debug)]
struct Shares {
    free: u32,
    held: HashMap<Arc<str>, u32>,
}

impl Fair {
    pub(super) fn new(places_max: u32, queue_max: u32) -> Self {
        let shares = |free| Shares { free, held: HashMap::new() };
        Self(Arc::new(Mutex::new(State {
            places: shares(places_max),
            queue: shares(queue_max),
            lines: BTreeMap::new(),
            served: "".into(),
            tickets: 0,
        })))
    }

    /// A place that is free now.
    pub(super) fn take(&self, caller: &Arc<str>) -> Result<Taken, Full> {
        self.lock().places.take(caller)?;
        Ok(Taken { from: self.clone(), caller: Arc::clone(caller) })
    }

    /// A place in the queue. Nobody comes before those who wait and could be served: they were.
    pub(super) fn wait(&self, caller: &Arc<str>) -> Result<Waits, Full> {
        let mut state = self.lock();
        state.queue.take(caller)?;
        let (sender, place) = oneshot::channel();
        let ticket = state.tickets;
        state.tickets += 1;
        state.lines.entry(Arc::clone(caller)).or_default().insert(ticket, sender);
        drop(state);
        Ok(Waits { at: self.clone(), caller: Arc::clone(caller), ticket, place })
    }

    /// Gives places to those whose turn it is, for as long as there are some for them.
    fn serve(&self) {
        loop {
            let mut state = self.lock();
            let Some((caller, sender)) = state.next() else { return };
            drop(state);
            // Whoever left in this moment gives the place back by dropping it, which must not happen under the lock.
            let _ = sender.send(Taken { from: self.clone(), caller });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next who waits, with a place taken for it.
    fn next(&mut self) -> Option<(Arc<str>, oneshot::Sender<Taken>)> {
        let later = self.lines.range::<str, _>((Excluded(&*self.served), Unbounded));
        let again = self.lines.range::<str, _>((Unbounded, Included(&*self.served)));
        let mut turns = later.chain(again).map(|(caller, _)| caller);
        let caller = turns.find(|caller| self.places.may(caller).is_ok()).cloned()?;
        self.places.take(&caller).ok()?;
        let line = self.lines.get_mut(&caller)?;
        let sender = line.pop_first().map(|(_, sender)| sender);
        if line.is_empty() {
            self.lines.remove(&caller);
        }
        self.served = Arc::clone(&caller);
        sender.map(|sender| (caller, sender))
    }

    fn leave(&mut self, caller: &Arc<str>, ticket: u64) {
        self.queue.give(caller);
        if let Some(line) = self.lines.get_mut(caller) {
            line.remove(&ticket);
            if line.is_empty() {
                self.lines.remove(caller);
            }
        }
    }
}

impl Shares {
    fn may(&self, caller: &Arc<str>) -> Result<u32, Full> {
        let held = self.held.get(caller).copied().unwrap_or_default();
        match self.free {
            0 => Err(Full::All),
            free if u64::from(held) > SHARE * u64::from(free) => Err(Full::Share),
            _ => Ok(held),
        }
    }

    fn take(&mut self, caller: &Arc<str>) -> Result<(), Full> {
        let held = self.may(caller)?;
        self.free -= 1;
        self.held.insert(Arc::clone(caller), held + 1);
        Ok(())
    }

    fn give(&mut self, caller: &Arc<str>) {
        self.free += 1;
        match self.held.get_mut(caller) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(self.held.remove(caller)),
        }
    }
}

impl Waits {
    /// The place, once it is this one's turn.
    pub(super) async fn place(&mut self) -> Option<Taken> {
        (&mut self.place).await.ok()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.from.lock().places.give(&self.caller);
        self.from.serve();
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.at.lock().leave(&self.caller, self.ticket);
    }
}

#[cfg(test)]
mod tests;
