//! Resources that callers of the legacy era want to hear of from a server of the modern one.
//!
//! Such a caller names one resource after the other; the server is told all at once, by a stream that is opened anew
//! whenever there are others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;
use weft_proto::mcp::{Revision, edit, method};

use crate::admit::Places;
use crate::exchange::sessions::Session;

use super::conversation::{Asked, Conversation, Heard, Question};
use super::interest::{ITEMS_MAX, Interest};
use super::{Front, Patience};

/// Time for the server to agree.
const AGREE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time after which a server that ended the stream, or did not agree to one, is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Topics {
    uris: watch::Sender<BTreeSet<String>>,
    are_told: AtomicBool,
}

impl Topics {
    fn add(&self, uri: String) {
        self.uris.send_if_modified(|uris| uris.len() < ITEMS_MAX && uris.insert(uri));
    }

    fn remove(&self, uri: &str) {
        self.uris.send_if_modified(|uris| uris.remove(uri));
    }
}

impl Front {
    pub(super) fn add_topic(self: &Arc<Self>, session: &Arc<Session>, uri: String) {
        session.topics.add(uri);
        if !session.topics.are_told.swap(true, Ordering::AcqRel) {
            let (front, session) = (Arc::clone(self), Arc::clone(session));
            tokio::spawn(async move {
                session.over.clone().run_until_cancelled(front.tell_of_topics(&session)).await;
            });
        }
    }

    pub(super) fn remove_topic(&self, session: &Session, uri: &str) {
        session.topics.remove(uri);
    }

    async fn tell_of_topics(&self, session: &Session) {
        let mut uris = session.topics.uris.subscribe();
        let mut upstream: Option<Conversation>;
        loop {
            let wanted = uris.borrow_and_update().clone();
            let is_idle = wanted.is_empty();
            // The one before goes on until there is another.
            upstream = self.hear_of(session, wanted).await;
            loop {
                tokio::select! {
                    changed = uris.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    note = told(&mut upstream), if upstream.is_some() => match note {
                        Some(note) => self.tell_of(session, note).await,
                        None => upstream = None,
                    },
                    () = sleep(AGAIN_AFTER), if upstream.is_none() && !is_idle => break,
                }
            }
        }
    }

    async fn tell_of(&self, session: &Session, note: Bytes) {
        let Ok(server) = self.server().await else { return };
        if let Some(note) = server.aside(note) {
            session.streams.listening().say_now(&note, self.settings.unread_max);
        }
    }

    /// A stream on which the server tells of these; none where there is nothing to tell, or it does not agree.
    async fn hear_of(&self, session: &Session, uris: BTreeSet<String>) -> Option<Conversation> {
        let interest = Interest { resource_subscriptions: uris.into_iter().collect(), ..Interest::default() };
        let interest = interest.within(&self.server().await.ok()?.introduction);
        if interest.is_empty() {
            return None;
        }
        let params = json!({
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": Revision::LATEST.as_str(),
                "io.modelcontextprotocol/clientCapabilities": {},
            },
            "notifications": interest,
        });
        let params = serde_json::value::to_raw_value(&params).ok();
        let id = format!("\"weft-{:032x}\"", rand::random::<u128>());
        let message = edit::request(&id, method::SUBSCRIPTIONS_LISTEN, params.as_deref());
        let question = Question::as_it_is(session.asker.clone(), Asked::Server(message.into()), id, None);
        let patience = Patience { call: AGREE_TIMEOUT, idle: None, result_bytes_max: None };
        let mut upstream = self.conversation(question, patience, Places::exempt());
        super::subscribe::acknowledged(&mut upstream, self.settings.bounds).await.map(|_| upstream)
    }
}

/// The next notification; nothing once the stream has ended.
async fn told(upstream: &mut Option<Conversation>) -> Option<Bytes> {
    let stream = upstream.as_mut()?;
    loop {
        match stream.next().await {
            Some(Heard::Note(note)) => return Some(note),
            Some(Heard::Request(_) | Heard::Asked(_)) => {}
            Some(Heard::Response(_) | Heard::Refused(_) | Heard::Cancelled) | None => {
                return None;
            }
        }
    }
}
