//! `server/discover`: what a server says of itself to callers of the modern era.
//!
//! Callers take a failure of this request for a sign of a server of the legacy era and downgrade, silently and for
//! good. So it is answered from what is known wherever the server itself cannot be asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Response;
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use weft_proto::mcp::{self, Message, Outcome, Request};
use weft_proto::resource::kinds::Era;

use crate::body::Body;
use crate::exchange::Asker;
use crate::refusal::Refusal;

use super::conversation::Heard;
use super::{Front, Incoming, Patience, answer};

/// Callers whose answers are kept.
const CALLERS_MAX: usize = 1024;

/// Time for a server to answer anew where something is known.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest time for which an answer is believed, whatever the server says.
const KEPT_MAX: Duration = Duration::from_secs(3600);

/// The answers, each for the caller who got it: it may depend on who asks.
#[derive(Debug, Default)]
pub(super) struct Discovered(Mutex<HashMap<Arc<str>, Known>>);

#[derive(Clone, Debug)]
struct Known {
    result: Arc<str>,
    until: Instant,
}

impl Discovered {
    fn find(&self, caller: &str) -> Option<Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(caller).cloned()
    }

    fn keep(&self, caller: &Arc<str>, result: &str) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fresh {
            ttl_ms: Option<u64>,
        }
        let fresh_ms = serde_json::from_str::<Fresh>(result).ok().and_then(|fresh| fresh.ttl_ms);
        let until = Instant::now() + Duration::from_millis(fresh_ms.unwrap_or_default()).min(KEPT_MAX);
        let known = Known { result: result.into(), until };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= CALLERS_MAX && !all.contains_key(caller) {
            let oldest =
                all.iter().min_by_key(|(_, known)| known.until).map(|(caller, _)| Arc::clone(caller));
            oldest.map(|caller| all.remove(&caller));
        }
        all.insert(Arc::clone(caller), known);
    }
}

impl Front {
    pub(super) async fn discover(
        &self,
        asker: &Asker,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Result<Response<Body>, Refusal> {
        super::calls::check_length(&request.id)?;
        let known = self.discovered.find(&asker.caller);
        if let Some(known) = known.as_ref().filter(|known| known.until > Instant::now()) {
            return self.discovered_as(request, &known.result);
        }
        let server = match (timeout(PATIENCE, self.server()).await, &known) {
            (Ok(Ok(server)), _) => server,
            // Better old than none.
            (_, Some(known)) => return self.discovered_as(request, &known.result),
            (Ok(Err(refusal)), None) => return Err(refusal),
            (Err(_), None) => self.server().await?,
        };
        let introduced = server.discovered()?;
        let introduced = std::str::from_utf8(&introduced)
            .map_err(|error| Refusal::UpstreamBroke(format!("the introduction: {error}")))?;
        if server.introduction.era == Era::Legacy {
            return self.discovered_as(request, introduced);
        }
        match self.ask_anew(asker, request, incoming).await {
            Ok(response) => Ok(response),
            Err(refusal) => {
                tracing::debug!(reason = refusal.told().reason, "discovery answered from what is known");
                self.discovered_as(request, known.as_ref().map_or(introduced, |known| &*known.result))
            }
        }
    }

    async fn ask_anew(
        &self,
        asker: &Asker,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let question = self.modern_question(asker.clone(), request, incoming.body.clone()).await?;
        let patience = Patience { call: incoming.patience.call.min(PATIENCE), ..incoming.patience };
        let mut conversation = self.conversation(question, patience, incoming.admitted.clone());
        let response = loop {
            match conversation.next().await {
                Some(Heard::Response(response)) => break response,
                Some(Heard::Refused(refusal)) => return Err(refusal),
                Some(Heard::Note(_) | Heard::Request(_) | Heard::Asked(_)) => {}
                Some(Heard::Cancelled) | None => return Err(Refusal::UpstreamBroke("no answer".to_owned())),
            }
        };
        if let Ok(mcp::Body::One(Message::Response(parsed))) = mcp::parse(&response, self.settings.bounds)
            && let Outcome::Result(result) = parsed.outcome
        {
            self.discovered.keep(&asker.caller, result.get());
        }
        Ok(self.at_once(response))
    }

    fn discovered_as(&self, request: &Request<'_>, result: &str) -> Result<Response<Body>, Refusal> {
        answer::result(request.id.raw(), result).map(answer::json)
    }
}
