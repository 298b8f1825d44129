//! The same life for a request of the agent beside this sidecar: it leaves for the sidecar of the server that it names,
//! in this sidecar's own name. Whether it may call is decided there.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::mcp::{Target, method};
use weft_proto::name::ServerName;
use weft_proto::resource::kinds::Era;

use crate::access_log::AccessLog;
use crate::answer::Answer;
use crate::assembly::Assemblies;
use crate::classify::{self, Call, Kind};
use crate::forward::{self, apart, ending, is_event_stream, when_left};
use crate::headers::{self, ON_BEHALF_OF, SESSION};
use crate::identify::Identified;
use crate::limits::Limits;
use crate::metrics::{Counted, Dimensions, SeriesByServer, ServerSeries};
use crate::oldest::{self, Exchange};
use crate::outbound::{self as to, Affinity, Course, Stop};
use crate::receive::{self, Place, Received};
use crate::record::Open;
use crate::refusal::Refusal;
use crate::relay::{Relay, WhenLeft};
use crate::room::Room;
use crate::route;
use crate::session_id::Tag;
use crate::state::{Current, Live, Origin};
use crate::trace::{Onward, Part, Trace, Tracer};
use crate::{accept, authorize, logged, trace};

use super::cards::Cards;
use super::{finish, note, opened};

/// Everything that requests of the outbound listener need.
#[derive(Clone, Debug)]
pub struct Outbound(pub(super) Arc<Parts>);

/// What an outbound listener is made of.
#[derive(Debug)]
pub struct Parts {
    pub live: Live,
    pub to: Arc<to::Outbound>,
    pub assemblies: Assemblies,
    pub limits: Arc<Limits>,
    pub room: Room,
    pub log: AccessLog,
    /// Ends what merely listens.
    pub drain: CancellationToken,
    /// For requests about no server.
    pub nowhere: Arc<ServerSeries>,
    pub series: SeriesByServer,
    pub cards: Cards,
    pub tracer: Tracer,
    /// The agent, as its calls are traced.
    pub traced: trace::Service,
}

impl Outbound {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    pub(super) fn live(&self) -> &Live {
        &self.0.live
    }

    pub(super) fn nowhere(&self) -> &Arc<ServerSeries> {
        &self.0.nowhere
    }

    pub(super) fn log(&self) -> &AccessLog {
        &self.0.log
    }

    pub(super) async fn run(
        &self,
        connection: &Identified,
        request: Box<Request<Incoming>>,
        record: &mut Open,
    ) -> Result<Response<Answer>, Refusal> {
        let parts = &*self.0;
        if receive::is_about_card(&request) {
            return self.card(connection, request, record);
        }
        let received = receive::receive(request, connection, &parts.limits, &parts.room).await?;
        record.event.request_bytes = received.body.len() as u64;
        let call = classify::classify(&received, &parts.limits).map_err(|unclear| {
            record.event.rpc_id = unclear.id;
            unclear.refusal
        })?;
        note(&call, record);
        match &received.place {
            Place::Server(named) => self.one(connection, &received, &call, named, record).await,
            // In a box: it is the larger, and every request would carry its room.
            Place::Only => Box::pin(self.assembled(connection, (&received, &call), None, record)).await,
            Place::Virtual(name) => {
                Box::pin(self.assembled(connection, (&received, &call), Some(name), record)).await
            }
        }
    }

    /// A request to one server.
    pub(super) async fn one(
        &self,
        connection: &Identified,
        received: &Received,
        call: &Call<'_>,
        named: &ServerName,
        record: &mut Open,
    ) -> Result<Response<Answer>, Refusal> {
        let parts = &*self.0;
        let current = parts.live.load();
        if current.origin == Origin::Nothing {
            return Err(Refusal::NotReady);
        }
        self.noted(&current, connection, (received, call), named, record);
        // Only names that exist get series of their own: whoever calls chooses the others.
        let server =
            current.snapshot.server(named).ok_or_else(|| Refusal::UnknownServer(named.to_string()))?;
        let caller = connection.caller.proved();
        let asked = route::Asked::of(call, &received.head.headers, caller);
        let way = Way { snapshot: &current.snapshot, entry: server, asked };
        let server = &server.server.meta.full_name();
        self.about(server, record);
        let lists = |it: &str| matches!(it, method::TOOLS_LIST | method::PROMPTS_LIST);
        if call.request().is_some_and(|request| lists(&request.method)) {
            record.lists();
        }
        let _permit = authorize::local();
        let onward = trace::onward(record.trace.as_ref(), received, call, &parts.limits, &parts.room);
        let began = record.mark();
        let answer = self.send(server, (connection, received), call, way, onward).await;
        record.took(Part::Upstream, began);
        let mut answer = answer?;
        // Whose call it is, is known now.
        let series = self.about(&answer.server, record);
        if let Some(trace) = &mut record.trace {
            trace.to(&answer.address);
        }
        if let Some(scope) = headers::take_scope(answer.response.headers_mut()) {
            return Err(Refusal::ScopeNeeded { scopes: vec![scope] });
        }
        if answer.was_chosen && may_begin(call) {
            record.begins = Some(Box::new(parts.to.learning(server, answer.instance)));
        }
        let exchange = self.exchange(server, answer.instance, received, call);
        self.relayed(server, answer, call, &series, exchange)
    }

    pub(super) fn about(&self, server: &ServerName, record: &mut Open) -> Arc<ServerSeries> {
        let series = self.0.series.of(server);
        record.about(Arc::clone(&series), server.to_string().into());
        series
    }

    /// What is recorded of a request, and how, as telemetry says.
    pub(super) fn noted(
        &self,
        current: &Current,
        connection: &Identified,
        (received, call): (&Received, &Call<'_>),
        named: &ServerName,
        record: &mut Open,
    ) {
        let parts = &*self.0;
        let telemetry = || parts.tracer.telemetry(current);
        record.dimensions = Dimensions::of(telemetry());
        let own = || parts.tracer.caller();
        record.logged = logged::logged(telemetry(), own, named, call, logged::random);
        let asked = trace::Asked { call, headers: &received.head.headers, connection };
        record.trace = Trace::begin(parts.tracer.own(current), &parts.traced, asked);
    }

    async fn send(
        &self,
        server: &ServerName,
        (connection, received): (&Identified, &Received),
        call: &Call<'_>,
        way: Way<'_>,
        onward: Onward,
    ) -> Result<to::Answer, Refusal> {
        // The pool names whoever it connects to.
        let mut headers = headers::toward_server(&received.head.headers, None);
        onward.sign(&mut headers);
        if let Some(said) = connection.caller.said() {
            headers.insert(ON_BEHALF_OF, said.clone());
        }
        let session = self.unstick(server, &mut headers, call.era)?;
        let messages = self.unstick_address(server, received, call)?;
        let (bound, path) = match (session, messages) {
            (_, Some((instance, path))) => (Some(instance), Some(path)),
            (session, None) => (session, None),
        };
        let mut request = Request::new(Full::new(onward.body));
        *request.method_mut() = received.head.method.clone();
        *request.headers_mut() = headers;
        let request = Arc::new(request);
        let task = call.request().and_then(|request| request.target()).and_then(|target| match target {
            Target::Task(id) => Some(id.to_owned()),
            Target::Tool(_) | Target::Prompt(_) | Target::Resource(_) => None,
        });
        let tool = way.asked.tool.filter(|_| way.asked.method == method::TOOLS_CALL).map(str::to_owned);
        let (to, server) = (Arc::clone(&self.0.to), server.clone());
        let state = call.request().and_then(|request| request.params.request_state);
        let waits = way.asked.waits;
        let name = || task.as_deref().map(Cow::Borrowed).or_else(|| state?.text());
        let began = if bound.is_none() { name().and_then(|name| to.began(&server, &name)) } else { None };
        let course = match (bound, &began) {
            (Some(instance), _) => Course::from(way.home(to.home(&server, instance)?)?),
            (None, Some((home, _))) => Course::from(way.home(home.clone())?),
            (None, None) => way.course(&to),
        };
        let began = began.map(|(_, instance)| instance);
        let sending = async move {
            let affinity = match (bound, &task, waits, began) {
                (Some(instance), ..) => Affinity::Instance(instance),
                (None, _, Some(whence), _) => Affinity::Waits(whence),
                (None, task, None, Some(instance)) => Affinity::Rather(instance, task.as_deref()),
                (None, Some(task), None, None) => Affinity::Key(task),
                (None, None, None, None) => Affinity::Any,
            };
            let call = to::Call { path, tool: tool.as_deref(), ..to::Call::new(request, affinity) };
            to.forward(&server, &course, call).await
        };
        match when_left(call) {
            WhenLeft::Cut => sending.await,
            WhenLeft::ReadOn => {
                apart(sending, |answer| answer.response.into_body(), forward::READ_ON_SILENCE_MAX).await
            }
        }
    }

    /// Takes from a session's id where it was opened.
    fn unstick(
        &self,
        server: &ServerName,
        headers: &mut HeaderMap,
        era: Era,
    ) -> Result<Option<Tag>, Refusal> {
        if era == Era::Modern {
            headers.remove(SESSION);
            return Ok(None);
        }
        let Some(stuck) = headers.get(SESSION) else { return Ok(None) };
        let stuck = stuck.to_str().map_err(|_| Refusal::SessionUnknown)?;
        let (instance, session) = self.0.to.unstick(server, stuck)?;
        let session = HeaderValue::from_str(session).map_err(|_| Refusal::SessionUnknown)?;
        headers.insert(SESSION, session);
        Ok(Some(instance))
    }

    /// By the transport of 2024-11-05 a message says in its address where its stream was opened.
    fn unstick_address(
        &self,
        server: &ServerName,
        received: &Received,
        call: &Call<'_>,
    ) -> Result<Option<(Tag, PathAndQuery)>, Refusal> {
        let named = received.head.uri.query().and_then(oldest::parameter);
        let Some(named) = named.filter(|_| !call.listens()) else { return Ok(None) };
        let (instance, address) = self.0.to.unstick_in_query(server, named)?;
        let path = PathAndQuery::try_from(address).map_err(|_| Refusal::SessionUnknown)?;
        Ok(Some((instance, path)))
    }

    /// A stream without a session may be of 2024-11-05's transport; its first event tells.
    fn exchange(
        &self,
        server: &ServerName,
        instance: Tag,
        received: &Received,
        call: &Call<'_>,
    ) -> Option<Exchange> {
        let opens = matches!(call.kind, Kind::Listen) && !received.head.headers.contains_key(SESSION);
        opens.then(|| {
            let (to, server, own) =
                (Arc::clone(&self.0.to), server.clone(), received.head.uri.path().to_owned());
            Exchange::new(move |named| {
                Ok(oldest::address(&own, &to.stick_in_query(&server, instance, named.as_str())?))
            })
        })
    }

    fn relayed(
        &self,
        server: &ServerName,
        answer: to::Answer,
        call: &Call<'_>,
        series: &ServerSeries,
        exchange: Option<Exchange>,
    ) -> Result<Response<Answer>, Refusal> {
        let parts = &*self.0;
        let (mut head, body) = answer.response.into_parts();
        headers::toward_caller(&mut head.headers);
        head.version = http::Version::HTTP_11;
        if let Some(session) = head.headers.get(SESSION) {
            let broke = || Refusal::UpstreamBroke("the session id is no text".to_owned());
            let session = session.to_str().map_err(|_| broke())?;
            let stuck = parts.to.stick(server, answer.instance, session)?;
            head.headers.insert(SESSION, HeaderValue::from_str(&stuck).map_err(|_| broke())?);
        }
        let answer = match is_event_stream(&head.headers) {
            true => {
                head.headers.remove(http::header::CONTENT_LENGTH);
                let every = *parts.limits.keep_alive_comment_every;
                let relay = Relay::events(body, when_left(call), every, None, ending(call, &parts.drain));
                let relay = exchange.into_iter().fold(relay, Relay::exchanging);
                Answer::from(relay).streaming(Counted::new(series.streams.clone()))
            }
            false => Answer::from(Relay::whole(body, when_left(call))),
        };
        Ok(Response::from_parts(head, answer))
    }
}

/// Whether the answer may be the beginning of more, which another instance would know nothing of.
fn may_begin(call: &Call<'_>) -> bool {
    let begins = |it: &str| matches!(it, method::TOOLS_CALL | method::PROMPTS_GET | method::RESOURCES_READ);
    call.era == Era::Modern && call.request().is_some_and(|request| begins(&request.method))
}

/// What decides where a call goes.
struct Way<'a> {
    snapshot: &'a Snapshot,
    entry: &'a ServerEntry,
    asked: route::Asked<'a>,
}

impl Way<'_> {
    fn course(&self, to: &to::Outbound) -> Course {
        route::course(self.snapshot, self.entry, &self.asked, to, rand::random)
    }

    /// Where a session is.
    fn home(&self, server: ServerName) -> Result<Stop, Refusal> {
        let entry = self.snapshot.server(&server).ok_or(Refusal::SessionUnknown)?;
        Ok(route::stop(self.snapshot, entry, &self.asked))
    }
}

impl accept::Service for Outbound {
    async fn serve(&self, connection: Arc<Identified>, request: Box<Request<Incoming>>) -> Response<Answer> {
        let mut record = opened("outbound", &connection, &request, &self.0.nowhere, &self.0.log);
        let outcome = self.run(&connection, request, &mut record).await;
        finish(outcome, record)
    }
}
