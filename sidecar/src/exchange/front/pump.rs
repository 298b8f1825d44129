//! The answer to what a caller of the legacy era posts: kept going whether or not the caller stays to hear it.
//!
//! As long as there are only responses, the answer is JSON. With the first other message, or when it takes long enough
//! that somebody between might lose patience, it becomes an event stream, which can be resumed.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, SelectAll, Stream, StreamExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::body::{Body, Verdict};
use crate::exchange::sessions::Session;
use crate::refusal::Refusal;

use super::answer;
use super::conversation::{Conversation, Heard};
use super::replay::{Log, Manner};

/// What the answer turns out to be.
#[derive(Debug)]
pub(super) enum Begun {
    Json(Bytes),
    Stream(Body),
}

pub(super) struct Pump {
    pub(super) session: Arc<Session>,
    pub(super) conversations: Vec<Conversation>,
    /// Whether they came as one array.
    pub(super) is_batch: bool,
    pub(super) manner: Manner,
}

type Line = Pin<Box<dyn Stream<Item = (Arc<str>, Heard)> + Send>>;

impl Pump {
    /// Starts; the answer is told as soon as it is known what it will be. Whoever does not wait for that hears nothing
    /// of it, but the server is let finish.
    pub(super) fn start(self) -> oneshot::Receiver<Result<Begun, Refusal>> {
        let (begun, receiver) = oneshot::channel();
        let over = self.session.over.clone();
        tokio::spawn(async move { over.run_until_cancelled(self.run(begun)).await });
        receiver
    }

    async fn run(self, begun: oneshot::Sender<Result<Begun, Refusal>>) {
        let Self { session, conversations, is_batch, manner } = self;
        let mut lines: SelectAll<Line> = conversations.into_iter().map(line).collect();
        let mut responses = Vec::new();
        let mut other = None;
        let verdict = Verdict::default();
        let silence = timeout(manner.comment_every, async {
            while let Some((id, heard)) = lines.next().await {
                match heard {
                    Heard::Response(response) => responses.push(response),
                    Heard::Refused(refusal) if !is_batch => return Some(Err(refusal)),
                    Heard::Refused(refusal) => {
                        verdict.refused(&refusal);
                        responses.push(answer::refused(&id, &refusal));
                    }
                    // Callers with a session are asked by requests.
                    Heard::Cancelled | Heard::Asked(_) => {}
                    Heard::Note(message) | Heard::Request(message) => {
                        other = Some(message);
                        return None;
                    }
                }
            }
            Some(Ok(()))
        });
        match silence.await {
            Ok(Some(Err(refusal))) => return drop(begun.send(Err(refusal))),
            Ok(Some(Ok(()))) => return drop(begun.send(Ok(at_once(&responses, is_batch)))),
            Ok(None) | Err(_) => {}
        }
        if begun.is_closed() {
            // Nobody knows of a stream that could be resumed.
            return lines.for_each(|_| std::future::ready(())).await;
        }
        let log = session.streams.open();
        let in_use = session.use_it();
        let over = session.over.clone();
        let body = log.read(None, manner, async move {
            over.cancelled().await;
            drop(in_use);
        });
        let body = body.judged_by(verdict.clone());
        _ = begun.send(Ok(Begun::Stream(body)));
        for message in responses.iter().chain(&other) {
            log.say(message).await;
        }
        let answered = go_on(&log, lines, &verdict).await || !responses.is_empty();
        match answered {
            true => session.streams.end(&log),
            false => session.streams.forget(&log),
        }
    }
}

/// Says what is yet to come; tells whether there was an answer to anything.
async fn go_on(log: &Log, mut lines: SelectAll<Line>, verdict: &Verdict) -> bool {
    let mut answered = false;
    while let Some((id, heard)) = lines.next().await {
        let message = match heard {
            Heard::Note(message) | Heard::Request(message) => message,
            Heard::Response(response) => {
                answered = true;
                response
            }
            Heard::Refused(refusal) => {
                answered = true;
                verdict.refused(&refusal);
                answer::refused(&id, &refusal)
            }
            Heard::Cancelled | Heard::Asked(_) => continue,
        };
        log.say(&message).await;
    }
    answered
}

fn at_once(responses: &[Bytes], is_batch: bool) -> Begun {
    match responses {
        // All were cancelled, so that nobody waits for an answer; it has to have some form.
        [] => Begun::Stream(Body::empty()),
        [only] if !is_batch => Begun::Json(only.clone()),
        responses => Begun::Json(answer::batch(responses)),
    }
}

fn line(conversation: Conversation) -> Line {
    let id: Arc<str> = conversation.id().into();
    Box::pin(stream::unfold((conversation, id), |(mut conversation, id)| async move {
        let heard = conversation.next().await?;
        Some(((Arc::clone(&id), heard), (conversation, id)))
    }))
}
