//! From the permit to the server and back. Where caller and server speak the same, the bytes that were judged are the
//! bytes that leave, and the answer streams back untouched; elsewhere the exchange carries message by message.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use weft_proto::mcp::Message;
use weft_proto::resource::kinds::Era;

use crate::admit::Admitted;
use crate::answer::Answer;
use crate::authorize::Permit;
use crate::backend::way::Way;
use crate::backend::{Backend, Http, IDLE_TIMEOUT};
use crate::classify::{self, Call, Kind};
use crate::exchange::front::{Front, Incoming, Patience};
use crate::headers::{self, CALLER, SERVER, SESSION};
use crate::identify::Caller;
use crate::limits::Limits;
use crate::metrics::Counted;
use crate::oldest::{self, Exchange};
use crate::receive::Received;
use crate::record::Open;
use crate::refusal::Refusal;
pub(crate) use crate::relay::READ_ON_SILENCE_MAX;
use crate::relay::{self, Ending, Relay, WhenLeft};
use crate::servers::Local;
use crate::session_id;
use crate::tools::Treated;
use crate::trace::{Onward, Part};
use crate::upstream::{Outgoing, SendError, Unsent, UpstreamBody};

/// What forwarding to a server beside this sidecar needs.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    pub server: &'a Arc<Local>,
    pub caller: &'a Caller,
    pub limits: &'a Limits,
    pub sessions: &'a session_id::Key,
    pub drain: &'a CancellationToken,
    pub treated: &'a Treated,
    pub onward: &'a Onward,
}

/// Forwards what was permitted to the server beside this sidecar. The call's place is free again when the server is
/// done with it, which is later than its caller's leaving where that is no cancellation.
pub async fn inbound(
    to: Inbound<'_>,
    received: &Received,
    call: &Call<'_>,
    _permit: Permit,
    admitted: Admitted,
    record: &mut Open,
) -> Result<Response<Answer>, Refusal> {
    if let Some(refusal) = to.not_offered(call.era) {
        return Err(refusal);
    }
    let began = record.mark();
    let (part, answer) = match &*to.server.backend {
        Backend::Http(http) => {
            match http.ways.of(call.era, to.is_oldest(received, call), to.call_timeout()).await? {
                Way::Through => (Part::Upstream, to.transparent(http, received, call, admitted, false).await),
                Way::ThroughSse => {
                    (Part::Upstream, to.transparent(http, received, call, admitted, true).await)
                }
                Way::Exchange(front) => {
                    (Part::Bridge, Box::pin(to.exchanged(&front, received, call, admitted)).await)
                }
            }
        }
        Backend::Child(child) => {
            (Part::Bridge, Box::pin(to.exchanged(&child.front, received, call, admitted)).await)
        }
    };
    record.took(part, began);
    answer
}

impl Inbound<'_> {
    /// A server may be offered in one era only, whatever it speaks itself.
    fn not_offered(&self, era: Era) -> Option<Refusal> {
        let offered = self.server.spec.eras.as_ref()?;
        if offered.contains(&era) {
            return None;
        }
        Some(match era {
            // What callers of both eras take for the answer of a server that has only handshakes.
            Era::Modern => Refusal::Invalid("this server is offered in the legacy era only".to_owned()),
            Era::Legacy => Refusal::UnsupportedVersion {
                requested: "a legacy revision".to_owned(),
                supported: classify::MODERN.to_vec(),
            },
        })
    }

    /// Whether the request came by the transport of 2024-11-05: its stream has no session yet, and its messages name
    /// theirs in the query.
    fn is_oldest(&self, received: &Received, call: &Call<'_>) -> bool {
        match call.kind {
            Kind::Listen => !received.head.headers.contains_key(SESSION),
            _ => received.head.uri.query().is_some(),
        }
    }

    async fn exchanged(
        &self,
        front: &Arc<Front>,
        received: &Received,
        call: &Call<'_>,
        admitted: Admitted,
    ) -> Result<Response<Answer>, Refusal> {
        let result_bytes_max = self.treated.result_bytes_max;
        let patience = Patience { call: self.call_timeout(), idle: Some(self.idle_max()), result_bytes_max };
        let caller = self.caller.shared_name();
        let (head, body) = (&received.head, &self.onward.body);
        let incoming = Incoming { caller: &caller, said: None, head, body, patience, admitted: &admitted };
        // What was read is a part of the bytes that came, which are not those that go on.
        let again =
            self.onward.is_changed.then(|| classify::again(body, call.era, self.limits)).transpose()?;
        let response = front.serve(incoming, again.as_ref().unwrap_or(call)).await?;
        let is_stream = is_event_stream(response.headers());
        let answer = response.map(Answer::from);
        Ok(match is_stream {
            true => answer.map(|answer| answer.streaming(Counted::new(self.server.series.streams.clone()))),
            false => answer,
        })
    }

    fn call_timeout(&self) -> Duration {
        self.treated.call_timeout.unwrap_or_else(|| self.server.call_timeout())
    }

    async fn transparent(
        &self,
        http: &Http,
        received: &Received,
        call: &Call<'_>,
        admitted: Admitted,
        oldest: bool,
    ) -> Result<Response<Answer>, Refusal> {
        let mut headers = headers::toward_server(&received.head.headers, Some(&http.host));
        self.sign(&mut headers);
        self.onward.sign(&mut headers);
        self.unbind_session(&mut headers, call.era)?;
        let mut request = Request::new(Full::new(self.onward.body.clone()));
        *request.method_mut() = received.head.method.clone();
        let query = received.head.uri.query();
        *request.uri_mut() = match (oldest, &call.kind) {
            (false, _) | (true, Kind::Listen) => uri(&http.path, query)?,
            (true, _) => {
                let named = oldest::unbind(self.sessions, self.caller.name(), query.unwrap_or_default());
                Uri::from(named.ok_or(Refusal::SessionUnknown)?)
            }
        };
        *request.headers_mut() = headers;
        match self.send(http, Arc::new(request), call, admitted).await {
            Ok(response) if oldest && call.listens() => {
                let (key, caller) = (self.sessions.clone(), self.caller.shared_name());
                let own = received.head.uri.path().to_owned();
                let address = move |named: PathAndQuery| oldest::bind(&key, &caller, &own, &named);
                self.relayed(response, call, Some(Exchange::new(address)))
            }
            Ok(response) => self.relayed(response, call, None),
            Err(refusal) => {
                if matches!(refusal, Refusal::UpstreamUnreachable(_)) {
                    http.ways.doubt();
                }
                Err(refusal)
            }
        }
    }

    /// Who calls, in headers that only we can set.
    fn sign(&self, headers: &mut HeaderMap) {
        headers.append(CALLER, self.caller.header());
        headers.append(SERVER, self.server.header.clone());
    }

    /// A session belongs to whoever opened it: to anyone else it is unknown. The modern era has none.
    fn unbind_session(&self, headers: &mut HeaderMap, era: Era) -> Result<(), Refusal> {
        if era == Era::Modern {
            headers.remove(SESSION);
            return Ok(());
        }
        let Some(bound) = headers.get(SESSION) else { return Ok(()) };
        let bound = bound.to_str().map_err(|_| Refusal::SessionUnknown)?;
        let session = self.sessions.unbind(bound, self.caller.name()).ok_or(Refusal::SessionUnknown)?;
        let session = HeaderValue::from_str(session).map_err(|_| Refusal::SessionUnknown)?;
        headers.insert(SESSION, session);
        Ok(())
    }

    async fn send(
        &self,
        http: &Http,
        request: Outgoing,
        call: &Call<'_>,
        admitted: Admitted,
    ) -> Result<Response<UpstreamBody>, Refusal> {
        let after = self.call_timeout();
        let pool = http.pool.clone();
        let sent = async move {
            // Where it stands: it is large, and the timeout would move it.
            let sending = pin!(pool.send(request));
            let sent = tokio::time::timeout(after, sending).await;
            let response = sent.map_err(|_| Refusal::TimedOut { after })?.map_err(refusal)?;
            // The call has its place for as long as the server is busy with it, even if its caller leaves.
            Ok(response.map(|body| body.hold(admitted)))
        };
        match when_left(call) {
            WhenLeft::Cut => sent.await,
            WhenLeft::ReadOn => Box::pin(apart(sent, Response::into_body, self.idle_max())).await,
        }
    }

    fn idle_max(&self) -> Duration {
        self.server.spec.timeouts.idle.map_or(IDLE_TIMEOUT, |span| span.duration())
    }

    /// The server's answer on its way back.
    fn relayed(
        &self,
        response: Response<UpstreamBody>,
        call: &Call<'_>,
        exchange: Option<Exchange>,
    ) -> Result<Response<Answer>, Refusal> {
        let (mut head, body) = response.into_parts();
        headers::toward_mesh(&mut head.headers);
        if let Some(session) = head.headers.get(SESSION) {
            let session = session.to_str().map_err(|_| broke("the session id is no text"))?;
            let bound = self
                .sessions
                .bind(session, self.caller.name())
                .and_then(|bound| HeaderValue::from_str(&bound).ok())
                .ok_or_else(|| broke("the session id is too long"))?;
            head.headers.insert(SESSION, bound);
        }
        let when_left = when_left(call);
        let answer = match is_event_stream(&head.headers) {
            true => {
                // A stream whose end nobody announced must not be taken for whole.
                head.headers.remove(http::header::CONTENT_LENGTH);
                let idle_max = (!call.listens()).then(|| self.idle_max());
                let every = *self.limits.keep_alive_comment_every;
                let relay = Relay::events(body, when_left, every, idle_max, self.ending(call));
                let relay = exchange.into_iter().fold(relay, Relay::exchanging);
                let stream = Counted::new(self.server.series.streams.clone());
                Answer::from(relay).streaming(stream)
            }
            false => Answer::from(Relay::whole(body, when_left)),
        };
        Ok(Response::from_parts(head, answer))
    }

    /// How a stream that only listens ends when the sidecar is about to stop.
    fn ending(&self, call: &Call<'_>) -> Option<Ending> {
        ending(call, self.drain)
    }
}

pub(crate) fn ending(call: &Call<'_>, drain: &CancellationToken) -> Option<Ending> {
    if !call.listens() {
        return None;
    }
    let last = call.request().map_or_else(Bytes::new, |request| {
        let id = request.id.raw();
        format!(
            "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"resultType\":\"complete\",\
             \"_meta\":{{\"io.modelcontextprotocol/subscriptionId\":{id}}}}}}}\n\n"
        )
        .into()
    });
    Some(Ending { when: Box::pin(drain.clone().cancelled_owned()), last })
}

/// A legacy call goes on when its caller leaves; everything else ends with the caller's connection.
pub(crate) const fn when_left(call: &Call<'_>) -> WhenLeft {
    match (call.era, &call.kind) {
        (Era::Legacy, Kind::Message(Message::Request(_)) | Kind::Batch(_)) => WhenLeft::ReadOn,
        _ => WhenLeft::Cut,
    }
}

/// Sends in a task of its own, so that a caller that leaves does not take the request with it. Whoever waits too long
/// still ends it.
pub(crate) async fn apart<F, T>(
    send: F,
    body: fn(T) -> UpstreamBody,
    silence_max: Duration,
) -> Result<T, Refusal>
where
    F: Future<Output = Result<T, Refusal>> + Send + 'static,
    T: Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        if let Err(Ok(unread)) = sender.send(send.await) {
            relay::read_on(body(unread), silence_max).await;
        }
    });
    // The task ends without an answer only when the program does.
    receiver.await.map_err(|_| Refusal::Draining)?
}

pub(crate) fn refusal(error: SendError) -> Refusal {
    match error {
        SendError::NeverSent { why: Unsent::Credentials(why), .. } if why.is_of_caller() => {
            Refusal::NotExchanged(why.to_string())
        }
        SendError::NeverSent { why, .. } => Refusal::UpstreamUnreachable(causes(&why)),
        SendError::MaybeSent(why) => Refusal::UpstreamBroke(causes(&why)),
    }
}

/// An error with everything that lies behind it, for the log.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn broke(what: &str) -> Refusal {
    Refusal::UpstreamBroke(what.to_owned())
}

pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

fn uri(path: &PathAndQuery, query: Option<&str>) -> Result<Uri, Refusal> {
    let Some(query) = query else { return Ok(Uri::from(path.clone())) };
    let joined = format!("{}{}{query}", path.as_str(), if path.query().is_some() { '&' } else { '?' });
    Uri::try_from(joined).map_err(|_| Refusal::NoSuchPath)
}
