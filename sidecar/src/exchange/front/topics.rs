//! Resources that callers of the legacy era want to hear of from a server of the modern one, and their tasks there.
//!
//! Such a caller names one resource after the other, and is told of its tasks without asking; the server is told all at
//! once, by a stream that is opened anew whenever there are others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;
use weft_proto::mcp::{Revision, edit, method};

use crate::admit::Places;
use crate::bridge::extension;
use crate::exchange::sessions::Session;
use crate::task_id;

use super::conversation::{Asked, Conversation, Heard, Question};
use super::interest::{ITEMS_MAX, Interest};
use super::{Front, Patience};

/// Time for the server to agree.
const AGREE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time after which a server that ended the stream, or did not agree to one, is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Topics {
    wanted: watch::Sender<Wanted>,
    are_told: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct Wanted {
    uris: BTreeSet<String>,
    /// By what their server calls them, what their caller does.
    tasks: BTreeMap<String, String>,
}

impl Topics {
    fn add(&self, uri: String) {
        self.wanted.send_if_modified(|it| it.uris.len() < ITEMS_MAX && it.uris.insert(uri));
    }

    fn remove(&self, uri: &str) {
        self.wanted.send_if_modified(|it| it.uris.remove(uri));
    }

    fn add_task(&self, own: &str, id: &str) {
        self.wanted.send_if_modified(|it| {
            it.tasks.len() < ITEMS_MAX && it.tasks.insert(own.to_owned(), id.to_owned()).is_none()
        });
    }

    fn remove_task(&self, own: &str) {
        self.wanted.send_if_modified(|it| it.tasks.remove(own).is_some());
    }
}

impl Front {
    pub(super) fn add_topic(self: &Arc<Self>, session: &Arc<Session>, uri: String) {
        session.topics.add(uri);
        self.tell_of_all(session);
    }

    /// Tells a caller how a task of its gets on.
    pub(super) fn add_task(self: &Arc<Self>, session: &Arc<Session>, own: &str, id: &str) {
        session.topics.add_task(own, id);
        self.tell_of_all(session);
    }

    fn tell_of_all(self: &Arc<Self>, session: &Arc<Session>) {
        if !session.topics.are_told.swap(true, Ordering::AcqRel) {
            let (front, session) = (Arc::clone(self), Arc::clone(session));
            tokio::spawn(async move {
                session.over.clone().run_until_cancelled(front.tell_of_topics(&session)).await;
            });
        }
    }

    /// A task of the caller's has ended.
    pub(super) fn remove_task(&self, session: &Session, own: &str) {
        session.topics.remove_task(own);
    }

    pub(super) fn remove_topic(&self, session: &Session, uri: &str) {
        session.topics.remove(uri);
    }

    async fn tell_of_topics(&self, session: &Session) {
        let mut changes = session.topics.wanted.subscribe();
        let mut upstream: Option<Conversation>;
        loop {
            let wanted = changes.borrow_and_update().clone();
            let is_idle = wanted.uris.is_empty() && wanted.tasks.is_empty();
            // The one before goes on until there is another.
            upstream = self.hear_of(session, wanted).await;
            loop {
                tokio::select! {
                    changed = changes.changed() => match changed {
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
        if let Some(task) = extension::told_of(&note, self.settings.bounds) {
            let id = session.topics.wanted.borrow().tasks.get(&task.task_id).cloned();
            let Some(id) = id else { return };
            session.streams.listening().say_now(&task.told(&id), self.settings.unread_max);
            if task.has_ended() {
                session.topics.remove_task(&task.task_id);
            }
            return;
        }
        let Ok(server) = self.server().await else { return };
        if let Some(note) = server.aside(note) {
            session.streams.listening().say_now(&note, self.settings.unread_max);
        }
    }

    /// A stream on which the server tells of these; none where there is nothing to tell, or it does not agree.
    async fn hear_of(&self, session: &Session, wanted: Wanted) -> Option<Conversation> {
        let capabilities = match wanted.tasks.is_empty() {
            true => json!({}),
            false => json!({ "extensions": { task_id::EXTENSION: {} } }),
        };
        let interest = Interest {
            resource_subscriptions: wanted.uris.into_iter().collect(),
            task_ids: wanted.tasks.into_keys().collect(),
            ..Interest::default()
        };
        let interest = interest.within(&self.server().await.ok()?.introduction);
        if interest.is_empty() {
            return None;
        }
        let params = json!({
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": Revision::LATEST.as_str(),
                "io.modelcontextprotocol/clientCapabilities": capabilities,
            },
            "notifications": interest,
        });
        let params = serde_json::value::to_raw_value(&params).ok();
        let id = format!("\"weft-{:032x}\"", rand::random::<u128>());
        let message = edit::request(&id, method::SUBSCRIPTIONS_LISTEN, params.as_deref());
        let question = Question::as_it_is(session.asker.clone(), Asked::Server(message.into()), id, None);
        let patience = Patience { call: AGREE_TIMEOUT, idle: None, result_bytes_max: None };
        let mut upstream = self.conversation(question, patience, Places::exempt());
        let honoured = super::subscribe::acknowledged(&mut upstream, self.settings.bounds).await;
        let told = honoured.as_ref().map_or(&[][..], |honoured| &honoured.task_ids);
        // A server need not tell of tasks, and is not asked for it again and again.
        for own in interest.task_ids.iter().filter(|own| !told.contains(own)) {
            session.topics.remove_task(own);
        }
        honoured.map(|_| upstream)
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
