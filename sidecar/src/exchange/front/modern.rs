//! Callers of the modern era: no session; every request stands for itself, and a caller who leaves takes it back.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use weft_proto::mcp::{self, Message, Request, edit, method};
use weft_proto::resource::kinds::Era;

use crate::body::{Body, Verdict};
use crate::bridge::{Abilities, Caller};
use crate::classify::Kind;
use crate::exchange::Asker;
use crate::refusal::Refusal;

use super::calls::UnderWay;
use super::conversation::{Asked, Conversation, Heard, Question};
use super::parked::{Outcome, Parked};
use super::translate::{Fate, Way};
use super::{Front, Incoming, answer, events};

impl Front {
    pub(super) async fn modern(
        self: &Arc<Self>,
        incoming: Incoming<'_>,
        kind: &Kind<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let abilities = match kind {
            Kind::Message(Message::Request(request)) => {
                Abilities::of(request.params.meta.client_capabilities)
            }
            _ => Abilities::default(),
        };
        let asker = Asker {
            caller: Arc::clone(incoming.caller),
            session: None,
            abilities,
            said: incoming.said.cloned(),
        };
        match kind {
            Kind::Message(Message::Request(request)) => match &*request.method {
                method::SERVER_DISCOVER => self.discover(&asker, request, &incoming).await,
                method::SUBSCRIPTIONS_LISTEN => self.subscribe(asker, request, &incoming).await,
                _ => self.modern_call(asker, request, &incoming).await,
            },
            Kind::Message(Message::Notification(notification)) => {
                // A cancellation is the end of the connection; whatever else there is may be an extension's.
                if notification.method != method::CANCELLED {
                    let server = self.server().await?;
                    if let Some(message) = server.notification(Era::Modern, incoming.body, notification)? {
                        self.peer.notify(&asker, message).await?;
                    }
                }
                Ok(answer::accepted())
            }
            Kind::Message(Message::Response(_)) => {
                Err(Refusal::Invalid("this revision has no responses of clients".to_owned()))
            }
            Kind::Batch(_) => Err(Refusal::Invalid("this revision has no batches".to_owned())),
            Kind::Listen | Kind::End => Err(Refusal::HttpMethod { allow: "POST" }),
        }
    }

    async fn modern_call(
        self: &Arc<Self>,
        asker: Asker,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let resumed = self.parked.resume(&asker.caller, request, incoming.patience).await?;
        let mut conversation = match resumed {
            Some(conversation) => conversation,
            None => {
                super::calls::check_length(&request.id)?;
                // In a box: few requests need its room.
                let answered = Box::pin(self.modern_task(&asker, request, incoming)).await?;
                if let Some(response) = answered {
                    return Ok(response);
                }
                let question = self.modern_question(asker, request, incoming.body.clone()).await?;
                self.conversation(question, incoming.patience, incoming.admitted.clone())
            }
        };
        let comment_every = self.settings.comment_every;
        let first = loop {
            break match timeout(comment_every, conversation.next()).await {
                Ok(Some(Heard::Response(response))) => return Ok(self.at_once(response)),
                Ok(Some(Heard::Refused(refusal))) => return Err(refusal),
                Ok(Some(Heard::Cancelled) | None) => return Ok(events::response(Body::empty())),
                Ok(Some(Heard::Note(message) | Heard::Request(message))) => Some(message),
                Ok(Some(Heard::Asked(question))) => match self.parked.park(conversation, vec![question]) {
                    Outcome::Waits(asking) => return Ok(self.at_once(asking)),
                    Outcome::GoesOn(goes_on) => {
                        conversation = *goes_on;
                        continue;
                    }
                },
                // It takes long enough that somebody between might lose patience.
                Err(_) => None,
            };
        };
        let (sender, body) = Body::channel(events::CHUNKS_MAX);
        let verdict = Verdict::default();
        let body = body.judged_by(verdict.clone());
        let parked = self.parked.clone();
        tokio::spawn(async move {
            let gone = sender.clone();
            let told = tell(conversation, first, sender, comment_every, &verdict, &parked);
            tokio::select! {
                () = told => {}
                // What is not finished is dropped with it, and so taken back.
                () = gone.closed() => {}
            }
        });
        Ok(events::response(body))
    }

    pub(super) fn at_once(&self, response: Bytes) -> Response<Body> {
        let status = answer::modern_status(&response, self.settings.bounds);
        let mut response = answer::json(response);
        *response.status_mut() = status;
        response
    }

    /// Ids of one caller's requests may be the same: a caller may be many processes, of which none knows the others'.
    pub(super) async fn modern_question(
        &self,
        asker: Asker,
        request: &Request<'_>,
        message: Bytes,
    ) -> Result<Question, Refusal> {
        let (under_way, other_id) = self.modern_id(&asker.caller, request)?;
        let way = self.server().await?.way(Era::Modern, asker.abilities, request)?;
        let whole = message.clone();
        let asked = match way.request(Caller::default(), message, request)? {
            Fate::Ask(message) => match &other_id {
                Some(id) => Asked::Server(self.with_id(&message, id)?),
                None => Asked::Server(message),
            },
            Fate::Answer(response) | Fate::Remember(_, response) => Asked::Nobody(response),
        };
        let renamed = other_id.is_some() && matches!(asked, Asked::Server(_));
        let id = request.id.raw().to_owned();
        let first = match (&asked, &way) {
            (Asked::Server(_), Way::ToLegacy(..)) if asker.abilities.any() => Some(whole),
            _ => None,
        };
        Ok(Question { asker, asked, id, renamed, way, questions: None, first, under_way: Some(under_way) })
    }

    pub(super) fn with_id(&self, message: &[u8], id: &str) -> Result<Bytes, Refusal> {
        match mcp::parse(message, self.settings.bounds) {
            Ok(mcp::Body::One(Message::Request(request))) => Ok(edit::with_id(message, &request, id).into()),
            Ok(_) => Err(Refusal::Invalid("the request is none".to_owned())),
            Err(error) => Err(Refusal::Parse(error.to_string())),
        }
    }

    fn modern_id(
        &self,
        caller: &Arc<str>,
        request: &Request<'_>,
    ) -> Result<(UnderWay, Option<String>), Refusal> {
        super::calls::check_length(&request.id)?;
        if let Some(under_way) = self.modern_calls.begin(Some(caller), &request.id) {
            return Ok((under_way, None));
        }
        let other = format!("\"weft-{:032x}\"", rand::random::<u128>());
        let id = mcp::Id::parse(&other).expect("a string is an id");
        let under_way = self.modern_calls.begin(Some(caller), &id).expect("no id is drawn twice");
        Ok((under_way, Some(other)))
    }
}

/// Says everything as events, each at once, and comments when there is nothing to say.
async fn tell(
    mut conversation: Conversation,
    first: Option<Bytes>,
    sender: mpsc::Sender<Bytes>,
    comment_every: std::time::Duration,
    verdict: &Verdict,
    parked: &Parked,
) {
    let mut next = first;
    loop {
        if let Some(message) = next.take()
            && sender.send(events::event(None, &message)).await.is_err()
        {
            return;
        }
        let comment_at = Instant::now() + comment_every;
        tokio::select! {
            heard = conversation.next() => match heard {
                Some(Heard::Note(message) | Heard::Request(message) | Heard::Response(message)) => {
                    next = Some(message);
                }
                Some(Heard::Asked(question)) => match parked.park(conversation, vec![question]) {
                    Outcome::Waits(asking) => {
                        // This is the end of this answer, though not of the call.
                        _ = sender.send(events::event(None, &asking)).await;
                        return;
                    }
                    Outcome::GoesOn(goes_on) => conversation = *goes_on,
                },
                Some(Heard::Refused(refusal)) => {
                    verdict.refused(&refusal);
                    next = Some(answer::refused(conversation.id(), &refusal));
                }
                Some(Heard::Cancelled) | None => return,
            },
            () = sleep_until(comment_at) => drop(sender.try_send(events::COMMENT)),
        }
    }
}
