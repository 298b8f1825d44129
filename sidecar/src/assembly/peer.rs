//! The members of an assembly as one server that is spoken to message by message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};
use weft_proto::mcp::lists::Listed;
use weft_proto::mcp::{self, Message, Request, Target, edit, method};
use weft_proto::name::ServerName;

use crate::exchange::http::{ModernHttp, Settings};
use crate::exchange::{Aside, Ask, Asker, BoxFuture, Introduction, Peer, Reply, Said};
use crate::limits::Limits;
use crate::outbound::Outbound;
use crate::refusal::Refusal;
use crate::state::Live;
use crate::task_id::{self, TaskIds};

use super::drawn::Drawn;
use super::way::ToMember;
use super::{Found, locate, search, subscribed, written};

/// See the module.
#[derive(Debug)]
pub(super) struct Members {
    drawn: ArcSwap<Drawn>,
    pub(super) ids: TaskIds,
    pub(super) to: Arc<Outbound>,
    asides: broadcast::Sender<Aside>,
    live: Live,
    settings: Settings,
    /// Those that were called, as they are spoken to.
    known: Mutex<HashMap<ServerName, Arc<ModernHttp>>>,
}

impl Members {
    pub(super) fn new(
        drawn: Arc<Drawn>,
        ids: TaskIds,
        to: &Arc<Outbound>,
        live: &Live,
        limits: &Limits,
    ) -> Arc<Self> {
        let settings = Settings::of(limits);
        Arc::new(Self {
            drawn: ArcSwap::from(drawn),
            ids,
            asides: broadcast::Sender::new(settings.queue_max),
            to: Arc::clone(to),
            live: live.clone(),
            settings,
            known: Mutex::default(),
        })
    }

    pub(super) fn drawn(&self) -> Arc<Drawn> {
        self.drawn.load_full()
    }

    /// From now on this is shown; whoever listens is told which lists are others than before.
    pub(super) fn draw(&self, drawn: Arc<Drawn>) {
        let before = self.drawn.swap(Arc::clone(&drawn));
        // To whom other rules show less or more, nobody looks up.
        let is_judged_anew = !before.is_judged_as(&drawn);
        let is_other = |kind: &Listed| is_judged_anew || before.roster.of(*kind) != drawn.roster.of(*kind);
        let mut changed: Vec<_> = Listed::ALL.into_iter().filter(is_other).map(list_changed).collect();
        changed.dedup();
        for method in changed {
            // Nobody may be listening.
            _ = self.asides.send(Aside::Note(edit::notification(method, None).into()));
        }
    }

    /// A member, as it is spoken to.
    pub(super) fn member(&self, server: &ServerName) -> Arc<ModernHttp> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let to = ToMember { to: Arc::clone(&self.to), live: self.live.clone(), server: server.clone() };
            Arc::new(ModernHttp::new(Arc::new(to), ToMember::target(), self.settings.clone()))
        };
        Arc::clone(known.entry(server.clone()).or_insert_with(make))
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where what a caller asks for is; none for what is answered here.
    pub(super) fn locate(&self, request: &Request<'_>, caller: &str) -> Result<Option<Found>, Refusal> {
        match request.target() {
            // The extension, as which alone tasks are told here, does not have it.
            Some(Target::Task(_)) if request.method == method::TASKS_RESULT || !self.drawn().has_tasks => {
                Err(Refusal::MethodNotFound(request.method.clone().into_owned()))
            }
            // Whether there is such a task is the business of those alone who know what one is.
            Some(Target::Task(_)) if !task_id::is_declared(request) => {
                Err(Refusal::MissingCapability(task_id::EXTENSION.to_owned()))
            }
            Some(Target::Task(id)) => self.task(caller, id).map(|held| Some(held.into())),
            _ => locate(&self.drawn(), request),
        }
    }

    /// What is asked of a member, under the names that it has itself.
    async fn forwarded(&self, ask: &Ask, request: &Request<'_>) -> Result<Reply, Refusal> {
        let unknown = || Refusal::MethodNotFound(request.method.clone().into_owned());
        let found = self.locate(request, &ask.asker.caller)?.ok_or_else(unknown)?;
        let message = found.renamed(&ask.message, request).ok_or_else(unknown)?.into();
        let member = self.member(&found.server);
        let reply = member.call(Ask { asker: ask.asker.clone(), message }).await?;
        Ok(match self.shown(&ask.asker.caller, request, found) {
            None => reply,
            Some(shown) => shown.over(reply, self.settings.queue_max),
        })
    }
}

const fn list_changed(kind: Listed) -> &'static str {
    match kind {
        Listed::Tool => method::TOOLS_LIST_CHANGED,
        Listed::Prompt => method::PROMPTS_LIST_CHANGED,
        Listed::Resource | Listed::ResourceTemplate => method::RESOURCES_LIST_CHANGED,
    }
}

impl Peer for Members {
    fn introduction(&self) -> BoxFuture<'_, Result<Arc<Introduction>, Refusal>> {
        Box::pin(async { Ok(Arc::clone(&self.drawn().introduction)) })
    }

    fn call(&self, ask: Ask) -> BoxFuture<'_, Result<Reply, Refusal>> {
        Box::pin(async move {
            let parsed = mcp::parse(&ask.message, self.settings.bounds);
            let Ok(mcp::Body::One(Message::Request(request))) = parsed else {
                return Err(Refusal::Invalid("the message is no request".to_owned()));
            };
            let drawn = self.drawn();
            if let Some(kind) = Listed::by(&request.method) {
                if kind == Listed::Tool && drawn.search.is_some() {
                    return Ok(said(search::list(request.id.raw())));
                }
                let after = request.params.cursor.as_deref();
                let part = drawn.part_of(ask.asker.said.as_ref());
                let of = (&drawn.roster, part.as_deref());
                return Ok(said(written::list(of, kind, request.id.raw(), after)));
            }
            match &*request.method {
                method::SERVER_DISCOVER => {
                    let result = serde_json::from_slice(&drawn.introduction.result);
                    let result = result.map_err(|error| Refusal::UpstreamBroke(error.to_string()))?;
                    Ok(said(edit::result(request.id.raw(), result).into()))
                }
                method::SUBSCRIPTIONS_LISTEN => subscribed::listen(self, &ask.asker, &request),
                _ => {
                    let answered = drawn.search.as_ref().filter(|_| request.method == method::TOOLS_CALL);
                    let answered = answered.filter(|_| search::inner(&request).is_none());
                    let answered = answered.and_then(|search| {
                        let part = drawn.part_of(ask.asker.said.as_ref());
                        search.answer((&drawn.roster, part.as_deref()), &request)
                    });
                    if let Some(response) = answered {
                        return Ok(said(response));
                    }
                    self.forwarded(&ask, &request).await
                }
            }
        })
    }

    /// Of what callers tell, no member could be the only one that is meant.
    fn notify(&self, _: &Asker, _: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async { Ok(()) })
    }

    fn answer(&self, _: &Asker, _: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async { Err(Refusal::Invalid("nothing was asked that could be answered".to_owned())) })
    }

    fn asides(&self, _: &Asker) -> broadcast::Receiver<Aside> {
        self.asides.subscribe()
    }

    fn end(&self, _: &Asker) {}
}

/// A reply that is there already.
fn said(response: Bytes) -> Reply {
    let (sender, receiver) = mpsc::channel(1);
    // The channel is new and has room.
    _ = sender.try_send(Ok(Said::Response(response)));
    Reply(receiver)
}
