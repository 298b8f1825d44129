//! `subscriptions/listen`: a stream on which a caller of the modern era is told of changes.
//!
//! The server is asked once for all callers where that is possible; what single resources and tasks do, it is asked for
//! each caller. What changes often is told once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::value::RawValue;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use weft_proto::mcp::{self, Message, Notification, Request, method};
use weft_proto::resource::kinds::Era;

use crate::body::Body;
use crate::exchange::{Aside, Asker, Introduction};
use crate::refusal::Refusal;
use crate::task_id;

use super::conversation::{Asked, Conversation, Heard, Question};
use super::interest::{self, Interest};
use super::watch::Watching;
use super::{Front, Incoming, Patience, events};

/// For how long the same change is gathered before it is told.
const GATHERED_FOR: Duration = Duration::from_millis(100);

/// Different changes waiting for a slow caller. A stream with more is ended: its caller has to look at everything anew.
const WAITING_MAX: usize = 1024;

/// Time for the server to agree to tell of single resources and tasks.
const AGREE_TIMEOUT: Duration = Duration::from_secs(5);

impl Front {
    pub(super) async fn subscribe(
        self: &Arc<Self>,
        asker: Asker,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Result<Response<Body>, Refusal> {
        super::calls::check_length(&request.id)?;
        let introduction = Arc::clone(&self.server().await?.introduction);
        let mut interest = Interest::parse(&request.params)?.within(&introduction);
        if !interest.task_ids.is_empty() && !task_id::is_declared(request) {
            return Err(Refusal::MissingCapability(task_id::EXTENSION.to_owned()));
        }
        // From here on nothing is missed, whatever is agreed on meanwhile.
        let asides = self.peer.asides(&asker);
        let items = interest.items();
        let source = match items.is_empty() {
            true => Source::default(),
            false => self.source(asker, request, incoming, &introduction, items).await,
        };
        interest.resource_subscriptions.clone_from(&source.honoured.resource_subscriptions);
        interest.task_ids.clone_from(&source.honoured.task_ids);
        let id = RawValue::from_string(request.id.raw().to_owned());
        let id = id.map_err(|error| Refusal::Parse(error.to_string()))?;
        let (sender, body) = Body::channel(events::CHUNKS_MAX);
        // The channel is new and has room.
        _ = sender.try_send(events::event(None, &interest::acknowledgement(&id, &interest)));
        let subscription = Subscription {
            id,
            interest,
            era: introduction.era,
            waiting: Vec::new(),
            due: None,
            bounds: self.settings.bounds,
        };
        let (comment_every, drain) = (self.settings.comment_every, self.drain.clone());
        tokio::spawn(subscription.run(asides, source, sender, comment_every, drain));
        Ok(events::response(body))
    }

    /// Asks the server to tell of single resources and tasks.
    async fn source(
        self: &Arc<Self>,
        asker: Asker,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
        introduction: &Introduction,
        items: Interest,
    ) -> Source {
        if introduction.era == Era::Legacy {
            let told = self.told_of_tasks(&asker, items.task_ids, request, incoming).await;
            let watching = Watching::start(self, asker, items.resource_subscriptions, AGREE_TIMEOUT).await;
            let honoured = Interest {
                resource_subscriptions: watching.uris().to_vec(),
                task_ids: told.ids,
                ..Interest::default()
            };
            return Source { honoured, _watching: Some(watching), upstream: None, tasks: told.notes };
        }
        let id = format!("\"weft-{:032x}\"", rand::random::<u128>());
        let (Some(old), Ok(new)) = (request.params.notifications, serde_json::to_vec(&items)) else {
            return Source::default();
        };
        let message = incoming.body;
        let edits = vec![
            (mcp::span(message, request.id.raw()), id.clone().into()),
            (mcp::span(message, old.get()), new),
        ];
        let asked = Asked::Server(mcp::splice(message, edits).into());
        let question = Question::as_it_is(asker, asked, id, None);
        // What only listens may hear nothing for as long as nothing changes.
        let patience = Patience { idle: None, ..incoming.patience };
        let mut upstream = self.conversation(question, patience, incoming.admitted.clone());
        let honoured = timeout(AGREE_TIMEOUT, acknowledged(&mut upstream, self.settings.bounds)).await;
        match honoured.ok().flatten() {
            Some(honoured) => Source { honoured, upstream: Some(upstream), ..Source::default() },
            None => Source::default(),
        }
    }
}

/// From where a stream hears of single resources and tasks.
#[derive(Debug, Default)]
struct Source {
    honoured: Interest,
    /// Kept for as long as the stream goes.
    _watching: Option<Watching>,
    upstream: Option<Conversation>,
    /// How tasks of a server of the legacy era get on.
    tasks: Option<mpsc::Receiver<Bytes>>,
}

impl Source {
    /// The next notification of a stream of its own; never without one, and nothing once it has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(tasks) = &mut self.tasks {
            return tasks.recv().await;
        }
        let Some(upstream) = &mut self.upstream else { return std::future::pending().await };
        loop {
            match upstream.next().await {
                Some(Heard::Note(note)) => return Some(note),
                Some(Heard::Request(_) | Heard::Asked(_)) => {}
                Some(Heard::Response(_) | Heard::Refused(_) | Heard::Cancelled) | None => return None,
            }
        }
    }
}

/// What the server agrees to tell.
pub(super) async fn acknowledged(upstream: &mut Conversation, bounds: mcp::Bounds) -> Option<Interest> {
    loop {
        match upstream.next().await? {
            Heard::Note(note) => {
                let Ok(mcp::Body::One(Message::Notification(it))) = mcp::parse(&note, bounds) else {
                    continue;
                };
                if it.method == method::SUBSCRIPTIONS_ACKNOWLEDGED {
                    return Interest::parse(&it.params).ok().map(|interest| interest.items());
                }
            }
            Heard::Request(_) | Heard::Asked(_) => {}
            Heard::Response(_) | Heard::Refused(_) | Heard::Cancelled => return None,
        }
    }
}

/// One stream.
struct Subscription {
    id: Box<RawValue>,
    interest: Interest,
    /// The server's.
    era: Era,
    /// What is told next, each with what makes it the same as another.
    waiting: Vec<(String, Bytes)>,
    /// When it is told.
    due: Option<Instant>,
    bounds: mcp::Bounds,
}

impl Subscription {
    async fn run(
        mut self,
        mut asides: broadcast::Receiver<Aside>,
        mut source: Source,
        sender: mpsc::Sender<Bytes>,
        comment_every: Duration,
        drain: CancellationToken,
    ) {
        let mut comment_at = Instant::now() + comment_every;
        loop {
            let due = self.due.unwrap_or(comment_at);
            let is_due = self.due.is_some_and(|due| due <= Instant::now());
            tokio::select! {
                biased;
                () = sender.closed() => return,
                () = drain.cancelled() => break,
                room = sender.reserve(), if is_due => {
                    let Ok(room) = room else { return };
                    room.send(self.take());
                    comment_at = Instant::now() + comment_every;
                }
                aside = asides.recv() => match aside {
                    Ok(Aside::Note(note)) => self.hear(&note, true),
                    // Requests are made of those who have a session.
                    Ok(Aside::Request(_)) => {}
                    Err(RecvError::Lagged(_)) => self.all_changed(),
                    Err(RecvError::Closed) => break,
                },
                note = source.next() => match note {
                    Some(note) => self.hear(&note, false),
                    // Who asks again is told again what will be told.
                    None => break,
                },
                () = sleep_until(due), if self.due.is_some() && !is_due => {}
                () = sleep_until(comment_at) => {
                    // Where there is no room, the stream is not idle.
                    _ = sender.try_send(events::COMMENT);
                    comment_at = Instant::now() + comment_every;
                }
            }
            if self.waiting.len() > WAITING_MAX {
                return;
            }
        }
        for (_, message) in std::mem::take(&mut self.waiting) {
            if sender.send(events::event(None, &message)).await.is_err() {
                return;
            }
        }
        _ = sender.send(events::event(None, &interest::completion(&self.id))).await;
    }

    fn take(&mut self) -> Bytes {
        let (_, message) = self.waiting.remove(0);
        if self.waiting.is_empty() {
            self.due = None;
        }
        events::event(None, &message)
    }

    fn hear(&mut self, note: &Bytes, is_aside: bool) {
        let Ok(mcp::Body::One(Message::Notification(notification))) = mcp::parse(note, self.bounds) else {
            return;
        };
        if !self.interest.wants(&notification) || !self.comes_from(&notification, is_aside) {
            return;
        }
        let told = interest::told_for(&self.id, note, &notification);
        self.wait(interest::key(&notification), told.into());
    }

    /// Each notification has one source: a server of the modern era tells of single things on a stream of their own.
    fn comes_from(&self, notification: &Notification<'_>, is_aside: bool) -> bool {
        let is_about_one = matches!(&*notification.method, method::RESOURCES_UPDATED | method::TASKS);
        match self.era {
            Era::Legacy => is_aside != (notification.method == method::TASKS),
            Era::Modern => is_aside != is_about_one,
        }
    }

    /// Something was missed, and it may have been anything.
    fn all_changed(&mut self) {
        let lists: Vec<_> = self.interest.lists().collect();
        for list in lists {
            self.wait(format!("{list} "), interest::list_changed(&self.id, list).into());
        }
        for uri in self.interest.resource_subscriptions.clone() {
            let message = interest::updated(&self.id, &uri);
            self.wait(format!("{} {uri}", method::RESOURCES_UPDATED), message.into());
        }
    }

    fn wait(&mut self, key: String, message: Bytes) {
        match self.waiting.iter_mut().find(|(waiting, _)| *waiting == key) {
            Some((_, waiting)) => *waiting = message,
            None => self.waiting.push((key, message)),
        }
        self.due.get_or_insert_with(|| Instant::now() + GATHERED_FOR);
    }
}
