//! One request and all that comes in answer to it, in the caller's era.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_proto::audit::Digest;
use weft_proto::mcp::{self, Message, Request, edit};

use crate::admit::Admitted;
use crate::exchange::{Ask, Asker, BoxFuture, Peer, Reply, Said};
use crate::refusal::Refusal;

use crate::bridge::{Answered, Turn, input};

use super::calls::UnderWay;
use super::parked;
use super::questions::Questions;
use super::rounds::{ROUNDS_MAX, Round, Step};
use super::translate::Way;
use super::{Patience, answer};

/// What comes in answer to a request. The last three are the end of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Note(Bytes),
    /// A request of the server's own.
    Request(Bytes),
    /// What a server of the legacy era wants to know of a caller who can only be told in a response.
    Asked(input::Question),
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
    /// How long the caller is waited for.
    pub(super) input_timeout: Duration,
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
    /// What was heard and not told yet.
    ahead: VecDeque<Heard>,
    /// Where the caller is asked what a modern server wants to know.
    questions: Option<Questions>,
    /// What was asked first, where it may have to be asked again, or compared.
    first: Option<Bytes>,
    /// What it is about and its progress token, once it has waited for its caller.
    matter: Option<(Digest, Option<String>)>,
    /// How often the server asked back.
    rounds: u32,
    /// The tokens that the server has for progress, and the caller by now.
    tokens: Option<Tokens>,
    /// Ends with the conversation.
    _under_way: Option<UnderWay>,
}

/// The caller came back with another progress token than the one that the server has, as JSON.
struct Tokens {
    old: String,
    new: Option<String>,
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
    /// Until the caller has answered what the server wants to know.
    Asked(Box<Round>),
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
    /// Where the caller can be asked things.
    pub(super) questions: Option<Questions>,
    /// What was asked first, where it may have to be asked again, or compared.
    pub(super) first: Option<Bytes>,
    /// Ends with the conversation.
    pub(super) under_way: Option<UnderWay>,
}

impl Question {
    /// One among several that is refused on its own.
    pub(super) fn refused(asker: &Asker, request: &Request<'_>, refusal: &Refusal) -> Self {
        let id = request.id.raw().to_owned();
        let asked = Asked::Nobody(answer::refused(&id, refusal));
        Self::as_it_is(asker.clone(), asked, id, None)
    }

    /// One that passes as it is, and so do its answers.
    pub(super) fn as_it_is(asker: Asker, asked: Asked, id: String, under_way: Option<UnderWay>) -> Self {
        Self { asker, asked, id, renamed: false, way: Way::Same, questions: None, first: None, under_way }
    }
}

#[derive(Debug)]
pub(super) enum Asked {
    /// This, of the server.
    Server(Bytes),
    /// What can be answered without it, and how.
    Nobody(Bytes),
    /// This sidecar, which asks the server as often as it has to, each time for no longer than it waits for one.
    Here(Reply),
}

impl Conversation {
    pub(super) fn begin(peer: &Arc<dyn Peer>, question: Question, rules: Rules) -> Self {
        let Question { asker, asked, id, renamed, way, questions, first, under_way } = question;
        let due = Due::First(Instant::now() + rules.patience.call);
        let (state, due) = match asked {
            Asked::Server(message) => {
                (State::Asking(asking(peer, Ask { asker: asker.clone(), message })), due)
            }
            Asked::Nobody(response) => (State::Known(response), due),
            Asked::Here(reply) => (State::Listening(reply), Due::Never),
        };
        let peer = Arc::clone(peer);
        Self {
            id,
            peer,
            asker,
            renamed,
            way,
            rules,
            due,
            state,
            ahead: VecDeque::new(),
            questions,
            first,
            matter: None,
            rounds: 0,
            tokens: None,
            _under_way: under_way,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The next thing that is said, or nothing once all was. Dropping the future loses nothing; dropping the
    /// conversation cancels the request.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        if let Some(heard) = self.ahead.pop_front() {
            return Some(heard);
        }
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
        if !matches!(heard, Heard::Note(_) | Heard::Request(_) | Heard::Asked(_)) {
            self.state = State::Over;
        }
        Some(heard)
    }

    async fn hear(&mut self) -> Heard {
        loop {
            if let State::Asked(round) = &mut self.state {
                match round.next().await {
                    Ok(Step::Ask(request)) => return Heard::Request(request),
                    Ok(Step::Met(answers)) => match self.ask_again(&answers) {
                        Ok(()) => continue,
                        Err(refusal) => return Heard::Refused(refusal),
                    },
                    Err(refusal) => return Heard::Refused(refusal),
                }
            }
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
                Ok(Some(Heard::Request(_) | Heard::Asked(_))) => Due::Never,
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
            State::Asked(_) | State::Over => Err(Refusal::UpstreamBroke("there is no more".to_owned())),
        }
    }

    fn translated(&mut self, said: Said) -> Result<Option<Heard>, Refusal> {
        match said {
            Said::Sign => Ok(None),
            Said::Note(note) => Ok(self.way.note(note).and_then(|note| self.retold(note)).map(Heard::Note)),
            Said::Request(request) => match self.way.request_of_server(&request) {
                None => Ok(Some(Heard::Request(request))),
                Some(Turn::Ask(question)) => Ok(Some(Heard::Asked(question))),
                Some(Turn::Answer(answer)) => {
                    self.answer(answer);
                    Ok(None)
                }
                Some(Turn::Nothing) => Ok(None),
            },
            Said::Response(response) => {
                let response = match self.way.response(response)? {
                    Answered::Response(response) => response,
                    Answered::Needs(needs) => return self.needs(needs).map(|()| None),
                };
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

    /// Goes on once the caller has said what the server wants to know.
    fn needs(&mut self, needs: input::Needs) -> Result<(), Refusal> {
        self.rounds += 1;
        let questions = self.questions.as_ref().ok_or(Refusal::InputNeeded)?;
        if self.rounds > ROUNDS_MAX {
            return Err(Refusal::UpstreamBroke("it asks for input again and again".to_owned()));
        }
        let round = Round::new(needs, questions, self.rules.input_timeout, self.rounds);
        self.state = State::Asked(Box::new(round));
        Ok(())
    }

    /// Asks the server once again, with what the caller said. It is another request to it, under another id.
    fn ask_again(&mut self, answers: &[(String, String)]) -> Result<(), Refusal> {
        let (State::Asked(round), Some(first)) = (&self.state, &self.first) else {
            return Err(Refusal::InputNeeded);
        };
        let id = format!("\"weft-{:032x}\"", rand::random::<u128>());
        let message = match mcp::parse(first, self.rules.bounds) {
            Ok(mcp::Body::One(Message::Request(request))) => round.needs().met(first, &request, &id, answers),
            Ok(_) | Err(_) => None,
        };
        let message = message.ok_or_else(|| Refusal::Invalid("the request has no parameters".to_owned()))?;
        self.renamed = true;
        self.state = State::Asking(asking(&self.peer, Ask { asker: self.asker.clone(), message }));
        self.due = Due::First(Instant::now() + self.rules.patience.call);
        Ok(())
    }

    /// What a call is about that is to wait. The message itself is let go: for as long as it is held it counts among the
    /// bodies that are being received.
    pub(super) fn matter(&mut self) -> Option<Digest> {
        if let Some(first) = self.first.take()
            && let Ok(mcp::Body::One(Message::Request(request))) = mcp::parse(&first, self.rules.bounds)
        {
            self.matter = Some((parked::matter(&request), token(&request)));
        }
        self.matter.as_ref().map(|(matter, _)| *matter)
    }

    pub(super) fn caller(&self) -> &Arc<str> {
        &self.asker.caller
    }

    pub(super) fn input_timeout(&self) -> Duration {
        self.rules.input_timeout
    }

    /// The response that asks the caller, under the id that the caller has for the request.
    pub(super) fn asking(&self, wishes: &[input::Wish], state: &str) -> Option<Bytes> {
        self.way.asking(&self.id, wishes, state)
    }

    /// Goes on with a caller who came back with what it was asked for. For the server it is the same request still.
    pub(super) async fn resume(
        &mut self,
        request: &Request<'_>,
        patience: Patience,
        answers: Vec<Bytes>,
    ) -> Result<(), Refusal> {
        let first = self.matter.as_ref().and_then(|(_, token)| token.clone());
        self.tokens = first.map(|old| Tokens { old, new: token(request) });
        self.id = request.id.raw().to_owned();
        self.renamed = true;
        // A server may have answered while the caller was away, where what it asked was another call's matter.
        for heard in &mut self.ahead {
            if let Heard::Response(response) = heard {
                *response = under_id(response, &self.id, self.rules.bounds)?;
            }
        }
        self.rules.patience = patience;
        for answer in answers {
            self.peer.answer(&self.asker, answer).await?;
        }
        self.due = self.due_next();
        Ok(())
    }

    /// What was heard is told once more, before anything else that was heard and not told.
    pub(super) fn say_first(&mut self, mut said: VecDeque<Heard>) {
        said.append(&mut self.ahead);
        self.ahead = said;
    }

    /// A notification of progress under the token that the caller has by now; none if it wants none any more.
    fn retold(&self, note: Bytes) -> Option<Bytes> {
        let Some(Tokens { old, new }) = &self.tokens else { return Some(note) };
        let Ok(mcp::Body::One(Message::Notification(read))) = mcp::parse(&note, self.rules.bounds) else {
            return Some(note);
        };
        match read.params.progress_token.filter(|token| token.get() == old) {
            None => Some(note.clone()),
            Some(token) => {
                let at = mcp::span(&note, token.get());
                Some(mcp::splice(&note, vec![(at, new.as_ref()?.clone().into_bytes())]).into())
            }
        }
    }

    /// Answers a request of the server's for the caller, who cannot or does not.
    pub(super) fn answer(&self, message: Bytes) {
        let (peer, asker) = (Arc::clone(&self.peer), self.asker.clone());
        tokio::spawn(async move {
            if let Err(refusal) = peer.answer(&asker, message).await {
                tracing::debug!(reason = refusal.told().reason, "server not answered");
            }
        });
    }
}

fn token(request: &Request<'_>) -> Option<String> {
    request.params.meta.progress_token.map(|it| it.get().to_owned())
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
