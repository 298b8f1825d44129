//! A request's life, on one screen: each stage takes what the one before it proved, and may refuse.

mod assembled;
mod cards;
mod gateway;
mod outbound;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use weft_proto::mcp::code;
use weft_proto::resource::kinds::Era;

use crate::access_log::AccessLog;
use crate::admit::{Admitted, Places};
use crate::answer::Answer;
use crate::audit::{self, Audit};
use crate::authorize::{Decided, Permit};
use crate::body::Body;
use crate::classify::{self, Call};
use crate::forward::{self, Inbound as ForwardInbound};
use crate::headers::{ON_BEHALF_OF, REASON, SCOPE};
use crate::identify::Identified;
use crate::limits::Limits;
use crate::metrics::{Counted, Dimensions, Metrics, ServerSeries, method_index};
use crate::quota::Quotas;
use crate::receive::{self, Received};
use crate::record::{Event, Open};
use crate::refusal::{Refusal, Shape};
use crate::room::Room;
use crate::servers::{Local, Servers};
use crate::shown::{self, Cutter};
use crate::standing::{self, Asked};
use crate::state::{Current, Live};
use crate::tools::Treated;
use crate::trace::{Part, Trace};
use crate::{accept, authorize, clock, logged, session_id, tools, trace};

pub use cards::Cards;
pub use gateway::{Gateway, Parts as GatewayParts};
pub use outbound::{Outbound, Parts as OutboundParts};

/// Times that a call is judged anew, because what it is judged by changes all the while.
const JUDGED_ANEW_MAX: usize = 8;
/// What the record says of an answer that was kept.
const KEPT: &str = "a kept answer";

/// Everything that requests of the inbound listener need.
#[derive(Clone, Debug)]
pub struct Inbound(Arc<Parts>);

/// What an inbound listener is made of.
#[derive(Debug)]
pub struct Parts {
    pub live: Live,
    pub servers: Servers,
    pub limits: Arc<Limits>,
    pub room: Room,
    pub quotas: Quotas,
    pub log: AccessLog,
    pub audit: Audit,
    pub sessions: session_id::Key,
    /// Ends what merely listens.
    pub drain: CancellationToken,
    /// For requests about no server.
    pub nowhere: Arc<ServerSeries>,
    pub metrics: Arc<Metrics>,
}

impl Inbound {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    async fn run(
        &self,
        connection: &Arc<Identified>,
        request: Box<Request<Incoming>>,
        record: &mut Open,
    ) -> Result<Response<Answer>, Refusal> {
        let parts = &*self.0;
        let current = parts.live.load();
        let received = receive::receive(request, connection, &parts.limits, &parts.room).await?;
        record.event.request_bytes = received.body.len() as u64;
        let call = classify::classify(&received, &parts.limits).map_err(|unclear| {
            record.event.rpc_id = unclear.id;
            unclear.refusal
        })?;
        note(&call, record);
        let server = parts.servers.find(&received.place, &current)?;
        record.about(Arc::clone(&server.series), Arc::clone(&server.label));
        let entry = current.snapshot.server(&server.name).ok_or(Refusal::NotReady)?;
        let telemetry = || entry.telemetry.iter().map(|it| &it.spec);
        let proved = || connection.caller.proved().cloned();
        record.logged = logged::logged(telemetry(), proved, &server.name, &call, logged::random);
        record.dimensions = Dimensions::of(telemetry());
        let asked = trace::Asked { call: &call, headers: &received.head.headers, connection };
        record.trace = Trace::begin(trace::of(entry), &server.traced, asked);
        let decided = &mut record.event.decided;
        let permit = authorize::authorize(&current.snapshot, entry, &connection.caller, &call, decided);
        let marked =
            audit::About { snapshot: &current.snapshot, entry, caller: &connection.caller, call: &call };
        trace::show(marked, &parts.limits, record);
        parts.audit.begin(marked, permit.is_err(), record).await?;
        let permit = permit?;
        // Judged once: what it says holds for all that it would cost.
        let goes_on = server.goes_on(&connection.caller, &call);
        let queued = record.mark();
        let held = match goes_on {
            true => Ok(parts.quotas.nothing()),
            false => parts.quotas.take(&server, entry, &connection.caller, &call, &mut record.event).await,
        };
        record.took(Part::Queue, queued);
        let held = held?;
        let about = About { connection, server: &server, received: &received, call: &call };
        let treated = about.treat(&current, record).await?;
        let queued = record.mark();
        // What waits here has its place.
        let exempt = call.is_exempt() || goes_on;
        let caller = connection.caller.shared_name();
        let admitted = match (call.listens(), exempt) {
            (true, _) => server.places.listen(&caller),
            (false, true) => Ok(Places::exempt()),
            (false, false) => server.places.admit(&caller, Counted::new(server.in_flight.clone())).await,
        };
        record.took(Part::Queue, queued);
        let admitted = admitted?.holding(held.keep());
        // It may have waited, and what it waited for was not a policy that forbids it, or another tool of that name.
        let judged = parts.still(Judged { current, permit, treated }, about, record).await?;
        parts.answer(judged, about, admitted, record).await
    }
}

/// What a call is judged by besides policies.
#[derive(Clone, Copy)]
struct About<'a> {
    connection: &'a Arc<Identified>,
    server: &'a Arc<Local>,
    received: &'a Received,
    call: &'a Call<'a>,
}

/// How a call was judged, and by which configuration.
struct Judged {
    current: Arc<Current>,
    permit: Permit,
    treated: Treated,
}

impl About<'_> {
    async fn treat(&self, by: &Current, record: &mut Open) -> Result<Treated, Refusal> {
        let asked = tools::Asked {
            snapshot: &by.snapshot,
            entry: by.snapshot.server(&self.server.name).ok_or(Refusal::NotReady)?,
            tools: &self.server.tools,
            head: &self.received.head,
            caller: &self.connection.caller.shared_name(),
            patience: self.server.call_timeout(),
        };
        let mut treated = tools::treat(asked, self.call).await?;
        record.event.tools = treated.note.take();
        Ok(treated)
    }
}

impl Parts {
    /// The judgement by the configuration that is in force by now, and what the server advertises by now. To learn that
    /// may take time, in which either changes again.
    async fn still(
        &self,
        mut judged: Judged,
        about: About<'_>,
        record: &mut Open,
    ) -> Result<Judged, Refusal> {
        for _ in 0..JUDGED_ANEW_MAX {
            let current = self.live.load();
            let is_same = Arc::ptr_eq(&current, &judged.current);
            if is_same && judged.treated.is_of_now(&about.server.tools) {
                return Ok(judged);
            }
            let entry = current.snapshot.server(&about.server.name).ok_or(Refusal::NotReady)?;
            let (caller, decided) = (&about.connection.caller, &mut record.event.decided);
            let permit = authorize::authorize(&current.snapshot, entry, caller, about.call, decided);
            let marked = audit::About { snapshot: &current.snapshot, entry, caller, call: about.call };
            self.audit.begin(marked, permit.is_err(), record).await?;
            let permit = permit?;
            // In a box: it is rare, and every request carries the room.
            let treated = Box::pin(about.treat(&current, record)).await?;
            judged = Judged { current, permit, treated };
        }
        Err(Refusal::NotReady)
    }

    /// The answer to what was permitted and admitted: one that is kept, or the server's; as the caller may see it.
    async fn answer(
        &self,
        judged: Judged,
        about: About<'_>,
        admitted: Admitted,
        record: &mut Open,
    ) -> Result<Response<Answer>, Refusal> {
        let Judged { current, permit, treated } = judged;
        let About { connection, server, received, call } = about;
        if let Some(kept) = treated.kept(&server.tools, call) {
            record.event.detail = Some(KEPT.to_owned());
            return Ok(kept);
        }
        let reads = &server.tools.reads;
        let wanted = reads.wanted(received, call, &connection.caller);
        let cutter = Cutter::new(call, connection, server, &self.live, &self.limits);
        let response = match wanted.as_ref().and_then(|wanted| reads.kept(wanted, call)) {
            Some(kept) => {
                record.event.detail = Some(KEPT.to_owned());
                kept
            }
            None => {
                let inbound = ForwardInbound {
                    server,
                    caller: &connection.caller,
                    limits: &self.limits,
                    sessions: &self.sessions,
                    drain: &self.drain,
                    treated: &treated,
                    onward: &trace::onward(record.trace.as_ref(), received, call, &self.limits, &self.room),
                };
                let response = forward::inbound(inbound, received, call, permit, admitted, record).await?;
                reads.listen(wanted, call, response)
            }
        };
        let response = tools::answered(treated, &server.tools, call, response, &self.limits).await?;
        let response = shown::show(response, cutter, &self.limits).await?;
        let asked = || Asked {
            connection: Arc::clone(connection),
            server: server.name.clone(),
            era: call.era,
            body: received.body.clone(),
            limits: Arc::clone(&self.limits),
        };
        Ok(standing::watch(response, asked, &self.live, current))
    }
}

/// The record of a request that begins.
fn opened(
    listener: &'static str,
    connection: &Identified,
    request: &Request<Incoming>,
    nowhere: &Arc<ServerSeries>,
    log: &AccessLog,
) -> Box<Open> {
    let event = Event {
        at: clock::now(),
        listener,
        caller: connection.caller.shared_name(),
        server: nowhere.server(),
        http_method: request.method().clone(),
        method: method_index("none"),
        target: None,
        rpc_id: None,
        era: "unknown",
        status: 0,
        reason: "ok",
        detail: None,
        decided: Decided::default(),
        limit: None,
        shadow_limit: None,
        tools: None,
        request_bytes: 0,
        response_bytes: 0,
        duration: std::time::Duration::ZERO,
        listens: false,
    };
    Open::new(event, Instant::now(), Arc::clone(nowhere), log.clone())
}

impl Inbound {
    /// In whose name a request comes: that of the connection, or of somebody for whom a gateway calls. Whoever is no
    /// gateway speaks for nobody else: taken for its own, such a call would pass what policies deny to its real caller.
    fn in_whose_name(
        &self,
        connection: Arc<Identified>,
        request: &Request<Incoming>,
    ) -> (Arc<Identified>, Result<(), Refusal>) {
        let mut said = request.headers().get_all(ON_BEHALF_OF).iter();
        let (Some(only), None) = (said.next(), said.next()) else {
            let is_none = request.headers().get(ON_BEHALF_OF).is_none();
            let twice = || Refusal::Invalid("it is said twice for whom the call is".to_owned());
            return (connection, is_none.then_some(()).ok_or_else(twice));
        };
        let parts = &*self.0;
        let proved = connection.caller.proved();
        if !proved.is_some_and(|proved| authorize::is_gateway(&parts.live.load().snapshot, proved.id())) {
            parts.metrics.not_believed.inc();
            tracing::debug!(peer = connection.caller.name(), "it calls for somebody else and is no gateway");
            let refused = Refusal::Denied {
                target: "a call for somebody else".to_owned(),
                rule: "the mesh's Trust, which does not name this gateway".to_owned(),
                explain: true,
                scope: None,
            };
            return (connection, Err(refused));
        }
        match connection.on_behalf(only, parts.limits.guest_bytes_max) {
            Ok(guest) => (guest, Ok(())),
            Err(error) => (connection, Err(Refusal::Invalid(error.to_string()))),
        }
    }
}

impl accept::Service for Inbound {
    async fn serve(&self, connection: Arc<Identified>, request: Box<Request<Incoming>>) -> Response<Answer> {
        let (connection, said) = self.in_whose_name(connection, &request);
        let mut record = opened("inbound", &connection, &request, &self.0.nowhere, &self.0.log);
        let outcome = match said {
            // In a box: it is rare.
            Ok(()) if receive::is_about_card(&request) => {
                Box::pin(self.card(&connection, request, &mut record)).await
            }
            Ok(()) => self.run(&connection, request, &mut record).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &outcome {
            record.refused(refusal).await;
        }
        finish(outcome, record)
    }
}

/// Writes down what the record needs of a call, while the message is there to borrow from.
pub(crate) fn note(call: &Call<'_>, record: &mut Open) {
    let event = &mut record.event;
    event.era = era_name(call.era);
    event.method = call.method();
    event.listens = call.listens();
    event.target = call.target().map(Into::into);
    event.rpc_id = call.request().map(|request| request.id.raw().into());
}

pub(crate) const fn era_name(era: Era) -> &'static str {
    match era {
        Era::Legacy => "legacy",
        Era::Modern => "modern",
    }
}

/// The answer, with its record: it is written when the answer's last byte is taken.
pub(crate) fn finish(outcome: Result<Response<Answer>, Refusal>, mut record: Box<Open>) -> Response<Answer> {
    let response = match outcome {
        Ok(response) => {
            let status = response.status();
            record.event.reason = match status.as_u16() {
                500.. => "server_error",
                400.. => "client_error",
                _ => "ok",
            };
            response
        }
        Err(refusal) => {
            record.event.reason = refusal.told().reason;
            record.event.detail = Some(refusal.detail());
            let legacy = record.event.era == "legacy" && record.event.rpc_id.is_some();
            refused(&refusal, record.event.rpc_id.as_deref(), legacy)
        }
    };
    record.event.status = response.status().as_u16();
    response.map(|answer| answer.recorded(record))
}

/// A refusal as the caller reads it. Callers of the legacy era take a status other than 200 for a failure of the
/// connection, not of the call; so what failed after a request was understood is told as its response.
pub(crate) fn refused(refusal: &Refusal, id: Option<&str>, legacy: bool) -> Response<Answer> {
    let told = refusal.told();
    let as_response =
        id.is_some() && refusal.is_answer() || legacy && told.code > 0 && !refusal.is_about_transport();
    let status = if as_response { 200 } else { told.status };
    let mut response = Response::new(Answer::from(Body::full(refusal.body(id))));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REASON, HeaderValue::from_static(told.reason));
    if let Some(after) = refusal.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    if let Refusal::Denied { scope: Some(scope), .. } = refusal
        && let Ok(scope) = HeaderValue::from_str(scope)
    {
        headers.insert(SCOPE, scope);
    }
    if let Refusal::HttpMethod { allow } = refusal {
        headers.insert(http::header::ALLOW, HeaderValue::from_static(allow));
    }
    response
}

impl Refusal {
    /// The refusal as a JSON-RPC error, with the id if one was read.
    pub fn body(&self, id: Option<&str>) -> Bytes {
        let told = self.told();
        // The id goes back as it came: a number beyond what this program's numbers hold keeps its digits.
        let id = id.map_or_else(String::new, |id| format!("\"id\":{id},"));
        if let Self::BadArguments { shape: Shape::Result, .. } = self {
            let content = serde_json::json!([{ "type": "text", "text": self.message() }]);
            let result = format!("{{\"resultType\":\"complete\",\"content\":{content},\"isError\":true}}");
            return format!("{{\"jsonrpc\":\"2.0\",{id}\"result\":{result}}}").into();
        }
        let mut data = serde_json::json!({ "reason": told.reason });
        match self {
            Self::UnsupportedVersion { requested, supported } => {
                data = serde_json::json!({ "requested": requested, "supported": supported });
            }
            Self::Limited(hit) | Self::BudgetSpent(hit) | Self::NotLent(hit) => {
                data["limit"] = hit.limit.as_str().into();
                data["window"] = hit.window.as_str().into();
                if let Some(after) = hit.after {
                    data["retryAfterSecs"] = after.as_secs().into();
                }
            }
            Self::MissingCapability(extension) => {
                data["requiredCapabilities"] = serde_json::json!({ "extensions": { extension: {} } });
            }
            Self::BodyTooLarge { max } | Self::HeadTooLarge { max } => data["bytesMax"] = (*max).into(),
            _ => {}
        }
        let code = match self {
            Self::BadArguments { .. } => code::INVALID_PARAMS,
            _ => told.code,
        };
        let error = serde_json::json!({ "code": code, "message": self.message(), "data": data });
        format!("{{\"jsonrpc\":\"2.0\",{id}\"error\":{error}}}").into()
    }

    /// Whether it is told as the server would tell it, whatever its own status is.
    const fn is_answer(&self) -> bool {
        matches!(self, Self::BadArguments { .. })
    }

    /// Whether it concerns the way a request came rather than what was asked.
    const fn is_about_transport(&self) -> bool {
        matches!(
            self,
            Self::BodyTooLarge { .. }
                | Self::HeadTooLarge { .. }
                | Self::BodyTimeout
                | Self::BodyBroken
                | Self::NoRoom
                | Self::HttpMethod { .. }
                | Self::MediaType
                | Self::NotAcceptable
                | Self::NoSuchPath
                | Self::ForeignHost
                | Self::ForeignOrigin
                | Self::Unauthenticated { .. }
                | Self::KeyExpired { .. }
                | Self::InsufficientScope
                | Self::ScopeNeeded { .. }
                | Self::ClaimsTooLarge { .. }
                | Self::IssuerAway(_)
                | Self::CallerBusy
                | Self::CallerStreams
                | Self::UnknownServer(_)
                | Self::SessionMissing
                | Self::SessionUnknown
                | Self::TooManySessions
        )
    }
}
