//! Resources that a server of the legacy era is asked to tell of for callers of the modern one.
//!
//! A caller may have several streams about the same resource; the server is asked once and asked to stop with the last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;
use tokio::time::timeout;
use weft_proto::mcp::{self, Message, Outcome, edit, method};

use crate::exchange::{Ask, Asker, Peer, Said};

use super::Front;

/// Resources that are asked for at once.
const AT_ONCE_MAX: usize = 8;

/// How many streams there are for each caller and resource.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched(Arc<Mutex<HashMap<Key, usize>>>);

/// A caller and a resource.
type Key = (Arc<str>, String);

impl Watched {
    fn add(&self, caller: &Arc<str>, uri: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry((Arc::clone(caller), uri.to_owned())).or_default() += 1;
    }

    /// Whether it was the last.
    fn remove(&self, caller: &Arc<str>, uri: &str) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(caller), uri.to_owned());
        match all.get_mut(&key) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => all.remove(&key).is_some(),
        }
    }
}

/// The resources of one stream; they are no longer watched when it is dropped.
#[derive(Debug)]
pub(super) struct Watching {
    peer: Arc<dyn Peer>,
    asker: Asker,
    watched: Watched,
    uris: Vec<String>,
}

impl Watching {
    /// Asks for each; those that the server does not agree to in time are left out.
    pub(super) async fn start(front: &Front, asker: Asker, uris: Vec<String>, within: Duration) -> Self {
        let mut watching =
            Self { peer: Arc::clone(&front.peer), asker, watched: front.watched.clone(), uris: Vec::new() };
        let (peer, asker, bounds) =
            (Arc::clone(&watching.peer), watching.asker.clone(), front.settings.bounds);
        let agreed = futures_util::stream::iter(uris).map(|uri| {
            let asked = ask(&peer, &asker, method::RESOURCES_SUBSCRIBE, &uri, bounds);
            async move { timeout(within, asked).await.unwrap_or(false).then_some(uri) }
        });
        let agreed: Vec<_> = agreed.buffered(AT_ONCE_MAX).collect().await;
        for uri in agreed.into_iter().flatten() {
            watching.watched.add(&watching.asker.caller, &uri);
            watching.uris.push(uri);
        }
        watching
    }

    pub(super) fn uris(&self) -> &[String] {
        &self.uris
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let caller = &self.asker.caller;
        let last: Vec<_> = std::mem::take(&mut self.uris)
            .into_iter()
            .filter(|uri| self.watched.remove(caller, uri))
            .collect();
        if last.is_empty() {
            return;
        }
        // Outside of a runtime everything ends anyway.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (peer, asker) = (Arc::clone(&self.peer), self.asker.clone());
        runtime.spawn(async move {
            let bounds = mcp::Bounds { depth_max: 16, batch_max: 1 };
            for uri in last {
                let asked = ask(&peer, &asker, method::RESOURCES_UNSUBSCRIBE, &uri, bounds);
                _ = timeout(Duration::from_secs(5), asked).await;
            }
        });
    }
}

/// Whether the server agrees.
fn ask(
    peer: &Arc<dyn Peer>,
    asker: &Asker,
    method: &'static str,
    uri: &str,
    bounds: mcp::Bounds,
) -> impl Future<Output = bool> + use<> {
    let id = format!("\"weft-{:032x}\"", rand::random::<u128>());
    let params = serde_json::value::to_raw_value(&json!({ "uri": uri })).ok();
    let message = edit::request(&id, method, params.as_deref()).into();
    let (peer, ask) = (Arc::clone(peer), Ask { asker: asker.clone(), message });
    async move {
        let Ok(mut reply) = peer.call(ask).await else { return false };
        while let Some(Ok(said)) = reply.0.recv().await {
            if let Said::Response(response) = said {
                let parsed = mcp::parse(&response, bounds);
                return matches!(
                    parsed,
                    Ok(mcp::Body::One(Message::Response(it))) if matches!(it.outcome, Outcome::Result(_))
                );
            }
        }
        false
    }
}
