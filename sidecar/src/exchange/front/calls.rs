//! Which requests are under way, by their ids, so that none is taken for another and each can be cancelled.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use weft_proto::mcp::Id;

use crate::refusal::Refusal;

/// Longest id that is remembered, in bytes.
const ID_BYTES_MAX: usize = 1024;

/// The requests that are under way: all of one session, or all of the callers who have none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(Arc<Mutex<HashMap<Key, CancellationToken>>>);

/// Whose request, where that is not always the same, and its id.
type Key = (Option<Arc<str>>, String);

impl Calls {
    /// Notes a request until what is returned is dropped; unless its id is taken.
    pub(super) fn begin(&self, caller: Option<&Arc<str>>, id: &Id<'_>) -> Option<UnderWay> {
        let key = (caller.cloned(), id.canonical().into_owned());
        match self.lock().entry(key) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                let key = place.key().clone();
                let cancelled = place.insert(CancellationToken::new()).clone();
                Some(UnderWay { calls: self.clone(), key, cancelled })
            }
        }
    }

    /// Cancels a request of a session; one that is not under way may have just ended.
    pub(super) fn cancel(&self, id: &Id<'_>) {
        if let Some(token) = self.lock().get(&(None, id.canonical().into_owned())) {
            token.cancel();
        }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ids are remembered, so they have a limit of their own.
pub(super) fn check_length(id: &Id<'_>) -> Result<(), Refusal> {
    match id.raw().len() {
        ..=ID_BYTES_MAX => Ok(()),
        _ => Err(Refusal::Invalid(format!("the id is longer than {ID_BYTES_MAX} bytes"))),
    }
}

/// One request under way.
#[derive(Debug)]
pub(super) struct UnderWay {
    calls: Calls,
    key: Key,
    /// Cancelled when the caller takes the request back.
    pub(super) cancelled: CancellationToken,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.key);
    }
}
