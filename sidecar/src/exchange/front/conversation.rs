//! One request and all that comes in answer to it, in the caller's era.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_proto::mcp::{self, Message, Request, edit};

use crate::admit::Admitted;
use crate::exchange::{Ask, Asker, BoxFuture, Peer, Reply, Said};
use crate::refusal::Refusal;

use super::calls::UnderWay;
use super::translate::{Turn, Way};
use super::{Patience, answer};

/// What comes in answer to a request. The last three are the end of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Note(Bytes),
    /// A request of the server's own.
    Request(Bytes),
    Response(Bytes),
    Refused(Refusal),
    /// The caller wanted no answer any more.
    Cancelled,
}

/// What a conversation goes by.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) patience: Patience,
    /// Kept for as long as the conversation goes on.
    pub(super) _admitted: Admitted,
    /// The caller takes the request back.
    pub(super) cancelled: CancellationToken,
    /// The sidecar waits no longer.
    pub(super) stop: CancellationToken,
    /// How far messages of the server are looked into.
    pub(super) bounds: mcp::Bounds,
}

pub(super) struct Conversation {
    /// The caller's id, as it was written.
    id: String,
    peer: Arc<dyn Peer>,
    asker: Asker,
    /// Whether the peer knows the request by another id.
    renamed: bool,
    way: Way,
    rules: Rules,
    /// When the server will have been waited for long enough.
    due: Due,
    state: State,
    /// Ends with the conversation.
    _under_way: Option<UnderWay>,
}

/// How long the server is still waited for.
#[derive(Clone, Copy)]
enum Due {
    /// It has not said anything.
    First(Instant),
    Next(Instant),
    Never,
}

enum State {
    /// On its way to the server.
    Asking(BoxFuture<'static, Result<Reply, Refusal>>),
    Listening(Reply),
    /// Answered without asking.
    Known(Bytes),
    Over,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A request as the server shall have it.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) asker: Asker,
    pub(super) asked: Asked,
    /// The caller's id, as it was written.
    pub(super) id: String,
    /// Whether what is asked has another.
    pub(super) renamed: bool,
    pub(super) way: Way,
    /// Ends with the conversation.
    pub(super) under_way: Option<UnderWay>,
}

impl Question {
    /// One among several that is refused on its own.
    pub(super) fn refused(asker: &Asker, request: &Request<'_>, refusal: &Refusal) -> Self {
        let id = request.id.raw().to_owned();
        let asked = Asked::Nobody(answer::refused(&id, refusal));
        let way = Way::Same;
        Self { asker: asker.clone(), asked, id, renamed: false, way, under_way: None }
    }
}

#[derive(Debug)]
pub(super) enum Asked {
    /// This, of the server.
    Server(Bytes),
    /// What can be answered without it, and how.
    Nobody(Bytes),
}

impl Conversation {
    pub(super) fn begin(peer: &Arc<dyn Peer>, question: Question, rules: Rules) -> Self {
        let Question { asker, asked, id, renamed, way, under_way } = question;
        let state = match asked {
            Asked::Server(message) => State::Asking(asking(peer, Ask { asker: asker.clone(), message })),
            Asked::Nobody(response) => State::Known(response),
        };
        let due = Due::First(Instant::now() + rules.patience.call);
        let peer = Arc::clone(peer);
        Self { id, peer, asker, renamed, way, rules, due, state, _under_way: under_way }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The next thing that is said, or nothing once all was. Dropping the future loses nothing; dropping the
    /// conversation cancels the request.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        if matches!(self.state, State::Over) {
            return None;
        }
        let (cancelled, stop) = (self.rules.cancelled.clone(), self.rules.stop.clone());
        let heard = tokio::select! {
            biased;
            () = cancelled.cancelled() => Heard::Cancelled,
            heard = self.hear() => heard,
            () = stop.cancelled() => Heard::Refused(Refusal::Draining),
        };
        if !matches!(heard, Heard::Note(_) | Heard::Request(_)) {
            self.state = State::Over;
        }
        Some(heard)
    }

    async fn hear(&mut self) -> Heard {
        loop {
            let Patience { call, idle, .. } = self.rules.patience;
            let (by, late) = match self.due {
                Due::First(by) => (Some(by), Refusal::TimedOut { after: call }),
                Due::Next(by) => (Some(by), Refusal::FellSilent { after: idle.unwrap_or(call) }),
                Due::Never => (None, Refusal::TimedOut { after: call }),
            };
            let said = match by {
                None => self.step().await,
                Some(by) => tokio::time::timeout_at(by, self.step()).await.unwrap_or(Err(late)),
            };
            let said = match said {
                Ok(Some(said)) => said,
                Ok(None) => continue,
                Err(refusal) => return Heard::Refused(refusal),
            };
            if said == Said::Sign {
                if let Due::Next(_) = self.due {
                    self.due = self.due_next();
                }
                continue;
            }
            let heard = self.translated(said);
            self.due = match heard {
                // Now it waits for the caller.
                Ok(Some(Heard::Request(_))) => Due::Never,
                _ => self.due_next(),
            };
            match heard {
                Ok(Some(heard)) => return heard,
                Ok(None) => {}
                Err(refusal) => return Heard::Refused(refusal),
            }
        }
    }

    fn due_next(&self) -> Due {
        self.rules.patience.idle.map_or(Due::Never, |idle| Due::Next(Instant::now() + idle))
    }

    /// Goes as far as to the next thing that the server says.
    async fn step(&mut self) -> Result<Option<Said>, Refusal> {
        match &mut self.state {
            State::Asking(asking) => {
                let reply = asking.await?;
                self.state = State::Listening(reply);
                Ok(None)
            }
            State::Listening(reply) => match reply.0.recv().await {
                Some(said) => said.map(Some),
                None => Err(Refusal::UpstreamBroke("the reply ended without a response".to_owned())),
            },
            State::Known(response) => Ok(Some(Said::Response(std::mem::take(response)))),
            State::Over => Err(Refusal::UpstreamBroke("there is no more".to_owned())),
        }
    }

    fn translated(&self, said: Said) -> Result<Option<Heard>, Refusal> {
        match said {
            Said::Sign => Ok(None),
            Said::Note(note) => Ok(self.way.note(note).map(Heard::Note)),
            Said::Request(request) => match self.way.request_of_server(request) {
                Turn::Tell(request) => Ok(Some(Heard::Request(request))),
                Turn::Answer(answer) => {
                    self.answer(answer);
                    Ok(None)
                }
                Turn::Nothing => Ok(None),
            },
            Said::Response(response) => {
                let response = self.way.response(response)?;
                if let Some(max) =
                    self.rules.patience.result_bytes_max.filter(|max| response.len() as u64 > *max)
                {
                    return Err(Refusal::ResultTooLarge { max });
                }
                if !self.renamed {
                    return Ok(Some(Heard::Response(response)));
                }
                under_id(&response, &self.id, self.rules.bounds)
                    .map(|response| Some(Heard::Response(response)))
            }
        }
    }

    /// Answers a request of the server's for the caller, who cannot.
    fn answer(&self, message: Bytes) {
        let (peer, asker) = (Arc::clone(&self.peer), self.asker.clone());
        tokio::spawn(async move {
            if let Err(refusal) = peer.answer(&asker, message).await {
                tracing::debug!(reason = refusal.told().reason, "server not answered");
            }
        });
    }
}

fn asking(peer: &Arc<dyn Peer>, ask: Ask) -> BoxFuture<'static, Result<Reply, Refusal>> {
    let peer = Arc::clone(peer);
    Box::pin(async move { peer.call(ask).await })
}

/// The response under the id that the caller gave.
fn under_id(response: &Bytes, id: &str, bounds: mcp::Bounds) -> Result<Bytes, Refusal> {
    match mcp::parse(response, bounds) {
        Ok(mcp::Body::One(Message::Response(parsed))) => {
            Ok(edit::response_with_id(response, &parsed, id).into())
        }
        Ok(_) => Err(Refusal::UpstreamBroke("the response is none".to_owned())),
        Err(error) => Err(Refusal::UpstreamBroke(format!("the response cannot be read: {error}"))),
    }
}
