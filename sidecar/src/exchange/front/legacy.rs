//! Callers of the legacy era: a handshake, a session, streams that can be resumed.
//!
//! A connection that ends says nothing about what it was for: a call goes on until it is cancelled in so many words.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use serde_json::value::RawValue;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use weft_proto::mcp::{Message, Notification, Request, Revision, edit, method};
use weft_proto::resource::kinds::Era;

use crate::body::Body;
use crate::bridge::Change;
use crate::classify::Kind;
use crate::exchange::Aside;
use crate::exchange::sessions::Session;
use crate::refusal::Refusal;

use super::client::Client;
use super::conversation::{Asked, Question};
use super::events::{self, EventId};
use super::interest::Interest;
use super::pump::{Begun, Pump};
use super::replay::{Log, Manner};
use super::translate::{Fate, Way};
use super::{Front, Incoming, answer};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: &str = "mcp-protocol-version";
const LAST_EVENT_ID: &str = "last-event-id";

/// Longest session id that is looked for; ours are shorter.
const SESSION_ID_BYTES_MAX: usize = 2048;

impl Front {
    pub(super) async fn legacy(
        self: &Arc<Self>,
        incoming: Incoming<'_>,
        kind: &Kind<'_>,
    ) -> Result<Response<Body>, Refusal> {
        match kind {
            Kind::Message(Message::Request(request)) if request.method == method::INITIALIZE => {
                self.initialize(&incoming, request).await
            }
            Kind::Message(message) => {
                let session = self.session(&incoming)?;
                self.take(&incoming, session, &[(message, incoming.body.clone())], false).await
            }
            Kind::Batch(messages) => {
                let session = self.session(&incoming)?;
                if !session.revision.has_batches() {
                    return Err(Refusal::Invalid("this revision has no batches".to_owned()));
                }
                if messages.iter().any(|message| message.method() == Some(method::INITIALIZE)) {
                    return Err(Refusal::Invalid("initialize must not be part of a batch".to_owned()));
                }
                let parts = parts_of(incoming.body)?;
                let messages: Vec<_> = messages.iter().zip(parts).collect();
                self.take(&incoming, session, &messages, true).await
            }
            Kind::Listen => self.listen(&incoming),
            Kind::End => self.close(&incoming),
        }
    }

    async fn initialize(
        &self,
        incoming: &Incoming<'_>,
        request: &Request<'_>,
    ) -> Result<Response<Body>, Refusal> {
        super::calls::check_length(&request.id)?;
        let asked = request.params.protocol_version.as_deref();
        let (revision, result) = self.server().await?.initialized(asked)?;
        // What a server of the modern era needs to know of a session is in each request.
        let is_carried = self.server().await?.introduction.era == Era::Modern;
        let client = Client::of(&request.params);
        let session =
            self.sessions.open(incoming.caller, incoming.said.cloned(), revision, client, is_carried)?;
        let mut response = answer::json(answer::result(request.id.raw(), &result)?);
        let id = HeaderValue::from_str(session.id()).expect("session ids are visible ASCII");
        response.headers_mut().insert(SESSION_ID, id);
        Ok(response)
    }

    /// The caller's session that a request names.
    fn session(&self, incoming: &Incoming<'_>) -> Result<Arc<Session>, Refusal> {
        let headers = &incoming.head.headers;
        let id = answer::header(headers, SESSION_ID.as_str()).ok_or(Refusal::SessionMissing)?;
        if id.len() > SESSION_ID_BYTES_MAX {
            return Err(Refusal::SessionUnknown);
        }
        let session = self.sessions.find(incoming.caller, incoming.said, id)?;
        match answer::header(headers, PROTOCOL_VERSION).map(|version| (version, Revision::parse(version))) {
            None => Ok(session),
            Some((_, Some(revision))) if revision.era() == Era::Legacy => Ok(session),
            // Not with the code that the modern era has for it: that would prove what this session is not.
            Some((version, _)) => {
                let version: String = version.chars().take(32).collect();
                Err(Refusal::Invalid(format!(
                    "protocol version {version:?} is not supported in this session"
                )))
            }
        }
    }

    /// Takes messages in the order in which they came, and answers the requests among them.
    async fn take(
        self: &Arc<Self>,
        incoming: &Incoming<'_>,
        session: Arc<Session>,
        messages: &[(&Message<'_>, Bytes)],
        is_batch: bool,
    ) -> Result<Response<Body>, Refusal> {
        let in_use = session.use_it();
        let mut conversations = Vec::new();
        for (message, bytes) in messages {
            match message {
                Message::Request(request) => {
                    let mut question = match self.question(incoming, &session, request, bytes.clone()).await {
                        // The status of the second would say that the session is gone.
                        Err(refusal) if is_batch || matches!(refusal, Refusal::MethodNotFound(_)) => {
                            Question::refused(&session.asker, request, &refusal)
                        }
                        question => question?,
                    };
                    // The token of this request, which need not be the one that the session was opened with.
                    question.asker.said = incoming.said.cloned();
                    conversations.push(self.conversation(
                        question,
                        incoming.patience,
                        incoming.admitted.clone(),
                    ));
                }
                Message::Notification(notification) => self.noted(&session, notification, bytes).await?,
                Message::Response(response) if session.questions.answered(response) => {}
                Message::Response(_) => self.peer.answer(&session.asker, bytes.clone()).await?,
            }
        }
        if conversations.is_empty() {
            return Ok(answer::accepted());
        }
        let manner = self.manner(&session);
        let begun = Pump { session, conversations, is_batch, manner }.start().await;
        drop(in_use);
        // Who ends a session does not wait for what goes on in it.
        match begun.unwrap_or(Err(Refusal::SessionUnknown))? {
            Begun::Json(message) => Ok(answer::json(message)),
            Begun::Stream(body) => Ok(events::response(body)),
        }
    }

    async fn question(
        self: &Arc<Self>,
        incoming: &Incoming<'_>,
        session: &Arc<Session>,
        request: &Request<'_>,
        message: Bytes,
    ) -> Result<Question, Refusal> {
        let id = request.id.raw().to_owned();
        super::calls::check_length(&request.id)?;
        if session.calls.count() >= self.settings.calls_per_session_max {
            return Err(Refusal::InFlight { after: Duration::from_secs(1) });
        }
        let under_way = session.calls.begin(None, &request.id);
        let taken = || Refusal::Invalid("a request with this id is under way".to_owned());
        let under_way = Some(under_way.ok_or_else(taken)?);
        let asker = session.asker.clone();
        if request.method == method::PING {
            let asked = Asked::Nobody(answer::result(&id, "{}")?);
            return Ok(Question::as_it_is(asker, asked, id, under_way));
        }
        let knows_tasks = session.revision >= Revision::V2025_11_25;
        if knows_tasks && let Some(reply) = self.legacy_task(incoming, session, (request, &message)).await? {
            return Ok(Question::as_it_is(asker, Asked::Here(reply), id, under_way));
        }
        let way = self.server().await?.way(Era::Legacy, asker.abilities, request)?;
        let way = if knows_tasks { way.with_tasks(request) } else { way };
        let asked = match way.request(session.client.as_caller(), message, request)? {
            Fate::Ask(message) => Asked::Server(message),
            Fate::Answer(response) => Asked::Nobody(response),
            Fate::Remember(change, response) => {
                self.remember(session, change);
                Asked::Nobody(response)
            }
        };
        let questions = asker.abilities.any().then(|| session.questions.clone());
        // Only what is translated may be asked for again by us.
        let first = match (&asked, &way, &questions) {
            (Asked::Server(message), Way::ToModern(..), Some(_)) => Some(message.clone()),
            _ => None,
        };
        Ok(Question { asker, asked, id, renamed: false, way, questions, first, under_way })
    }

    async fn noted(
        &self,
        session: &Session,
        notification: &Notification<'_>,
        message: &Bytes,
    ) -> Result<(), Refusal> {
        match &*notification.method {
            // The server has had a handshake of its own.
            method::INITIALIZED => Ok(()),
            method::CANCELLED => {
                if let Some(id) = &notification.params.request_id {
                    session.calls.cancel(id);
                }
                Ok(())
            }
            _ => match self.server().await?.notification(Era::Legacy, message, notification)? {
                Some(message) => self.peer.notify(&session.asker, message).await,
                None => Ok(()),
            },
        }
    }

    fn remember(self: &Arc<Self>, session: &Arc<Session>, change: Change) {
        match change {
            Change::LogLevel(level) => session.client.set_log_level(level),
            Change::Subscribe(uri) => self.add_topic(session, uri),
            Change::Unsubscribe(uri) => self.remove_topic(session, &uri),
        }
    }

    /// A stream on which the server may speak of its own accord, or the rest of one that was lost.
    fn listen(self: &Arc<Self>, incoming: &Incoming<'_>) -> Result<Response<Body>, Refusal> {
        let headers = &incoming.head.headers;
        let session = self.session(incoming)?;
        if !answer::accepts_events(headers) {
            return Err(Refusal::NotAcceptable);
        }
        let unknown = || Refusal::Invalid("the last event id is not one of this session's".to_owned());
        let last = answer::header(headers, LAST_EVENT_ID)
            .map(|id| EventId::parse(id).ok_or_else(unknown))
            .transpose()?;
        let log = match last {
            Some(id) => session.streams.find(id.stream).ok_or_else(unknown)?,
            None => session.streams.listening(),
        };
        let is_listening = log.stream() == super::streams::LISTENING;
        if is_listening && let Some(asides) = session.streams.take_asides() {
            tokio::spawn(Arc::clone(self).forward(Arc::clone(&session), Arc::clone(&log), asides));
        }
        let in_use = session.use_it();
        let over = session.over.clone();
        // A call has an end of its own, which is still told; listening has none.
        let drain = is_listening.then(|| self.drain.clone());
        let body = log.read(last.map(|id| id.number), self.manner(&session), async move {
            match drain {
                None => over.cancelled().await,
                Some(drain) => tokio::select! {
                    () = over.cancelled() => {}
                    () = drain.cancelled() => {}
                },
            }
            drop(in_use);
        });
        Ok(events::response(body))
    }

    /// Puts what the server says of its own accord on the session's stream, until the session ends.
    async fn forward(
        self: Arc<Self>,
        session: Arc<Session>,
        log: Arc<Log>,
        mut asides: broadcast::Receiver<Aside>,
    ) {
        loop {
            let aside = tokio::select! {
                () = session.over.cancelled() => return,
                aside = asides.recv() => aside,
            };
            let message = match aside {
                Ok(Aside::Note(note)) => match self.server().await {
                    Ok(server) => server.aside(note),
                    Err(_) => Some(note),
                },
                Ok(Aside::Request(request)) => Some(request),
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "messages outside of calls were missed");
                    self.say_all_changed(&log).await;
                    None
                }
                Err(RecvError::Closed) => return,
            };
            if let Some(message) = message {
                log.say_now(&message, self.settings.unread_max);
            }
        }
    }

    /// Something was missed, and it may have been anything.
    async fn say_all_changed(&self, log: &Log) {
        let Ok(server) = self.server().await else { return };
        for list in Interest::every_list().within(&server.introduction).lists() {
            log.say_now(&edit::notification(list, None), self.settings.unread_max);
        }
    }

    fn close(&self, incoming: &Incoming<'_>) -> Result<Response<Body>, Refusal> {
        let session = self.session(incoming)?;
        self.sessions.close(incoming.caller, session.id())?;
        Ok(Response::new(Body::empty()))
    }

    fn manner(&self, session: &Session) -> Manner {
        Manner {
            comment_every: self.settings.comment_every,
            primed: session.revision >= Revision::V2025_11_25,
        }
    }
}

/// The messages of a batch, each as it was written.
fn parts_of(batch: &Bytes) -> Result<Vec<Bytes>, Refusal> {
    let parts: Vec<&RawValue> =
        serde_json::from_slice(batch).map_err(|error| Refusal::Parse(error.to_string()))?;
    Ok(parts.into_iter().map(|part| batch.slice(edit::span(batch, part.get()))).collect())
}
