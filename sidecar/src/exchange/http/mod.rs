//! Servers that are spoken to over HTTP, message by message: Streamable HTTP of the legacy era with its sessions
//! ([`LegacyHttp`]), and of the modern one without ([`ModernHttp`]).
//!
//! The way to the server is behind [`Http`]. There is no limit here on how long an answer may take: whoever asks knows
//! how long it will wait, and drops what it no longer wants. Nothing that may have reached a server is ever sent twice.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use weft_proto::mcp::{Bounds, Revision, header, method};

use crate::bridge::Abilities;
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::sse;

use super::BoxFuture;

pub(super) mod answer;
mod client;
pub(super) mod legacy;
pub(super) mod modern;
pub(super) mod sessions;
pub(super) mod sort;

pub use client::{Address, Direct};
pub use legacy::LegacyHttp;
pub use modern::ModernHttp;

/// The body of a server's answer. Dropping it before its end gives the connection up.
pub type AnswerBody = UnsyncBoxBody<Bytes, Refusal>;

/// The way to one server.
///
/// A failure before anything was sent is [`Refusal::UpstreamUnreachable`], every other one [`Refusal::UpstreamBroke`].
/// Dropping the future gives the request up, and the connection that it went over.
pub trait Http: Send + Sync + std::fmt::Debug + 'static {
    fn send(&self, request: Request<Full<Bytes>>) -> BoxFuture<'_, Result<Response<AnswerBody>, Refusal>>;
}

/// Where at a server its endpoint is, and what every request to it has.
#[derive(Clone, Debug)]
pub struct Target {
    /// Path and query.
    pub path: String,
    /// What `Host` says. Servers that guard against rebinding want their own name, and often their port.
    pub host: HeaderValue,
    /// Headers of each request besides those that the protocol needs.
    pub headers: HeaderMap,
}

impl Target {
    /// The same for what is asked in a caller's name.
    pub(super) fn in_name_of(&self, caller: Option<&HeaderValue>) -> Self {
        Self { headers: signed(self.headers.clone(), caller), ..self.clone() }
    }

    pub(super) fn request(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Refusal> {
        self.request_at(&self.path, method, headers, body)
    }

    /// A request to another place at the same server.
    pub(super) fn request_at(
        &self,
        path: &str,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Refusal> {
        let invalid =
            |error| Refusal::UpstreamUnreachable(format!("the path {path:?} cannot be asked for: {error}"));
        let mut request =
            Request::builder().method(method).uri(path).body(Full::new(body)).map_err(invalid)?;
        let all = request.headers_mut();
        all.extend(self.headers.clone());
        all.extend(headers);
        all.insert(HOST, self.host.clone());
        Ok(request)
    }
}

/// What bounds an exchange.
#[derive(Clone, Debug)]
pub struct Settings {
    pub bounds: Bounds,
    pub answer_bytes_max: usize,
    pub event_bytes_max: usize,
    /// Messages that wait for an asker.
    pub queue_max: usize,
    pub sessions_max: usize,
    pub session_idle_timeout: Duration,
    /// Time for what introduces two to each other, where nobody else sets a limit.
    pub handshake_timeout: Duration,
}

impl Settings {
    pub fn of(limits: &Limits) -> Self {
        Self {
            bounds: Bounds { depth_max: limits.depth_max, batch_max: limits.batch_max },
            answer_bytes_max: limits.answer_bytes_max,
            event_bytes_max: limits.event_bytes_max,
            queue_max: limits.stream_queue_max,
            sessions_max: limits.sessions_max,
            session_idle_timeout: *limits.session_idle_timeout,
            handshake_timeout: Duration::from_secs(30),
        }
    }
}

/// Headers with which a message is posted.
pub(super) fn posting() -> HeaderMap {
    HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (ACCEPT, HeaderValue::from_static("application/json, text/event-stream")),
    ])
}

/// Headers of a request that is made in a caller's name.
pub(super) fn signed(mut headers: HeaderMap, caller: Option<&HeaderValue>) -> HeaderMap {
    if let Some(caller) = caller.filter(|caller| !caller.is_empty()) {
        headers.insert(crate::headers::CALLER, caller.clone());
    }
    headers
}

/// Headers with which a stream is asked for.
pub(super) fn listening() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(sse::MEDIA_TYPE))])
}

/// Our own `initialize`, with what can be asked of those for whom it is made.
pub(super) fn initialize(id: &str, revision: Revision, abilities: Abilities) -> Bytes {
    let (version, abilities) = (env!("CARGO_PKG_VERSION"), abilities.declared());
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"initialize\",\"params\":{{\"protocolVersion\":\"{revision}\",\
         \"capabilities\":{abilities},\"clientInfo\":{{\"name\":\"weft\",\"version\":\"{version}\"}}}}}}"
    )
    .into()
}

/// A request of our own in the modern era; `more` are further members of its parameters.
pub(crate) fn modern_request(id: &str, method: &str, more: &str) -> Bytes {
    let (version, revision) = (env!("CARGO_PKG_VERSION"), Revision::LATEST);
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{{\"_meta\":{{\
         \"io.modelcontextprotocol/protocolVersion\":\"{revision}\",\
         \"io.modelcontextprotocol/clientCapabilities\":{{}},\
         \"io.modelcontextprotocol/clientInfo\":{{\"name\":\"weft\",\"version\":\"{version}\"}}}}{more}}}}}"
    )
    .into()
}

/// The id of a request for discovery, which has a connection of its own.
const DISCOVERY_ID: &str = "\"weft\"";

/// A request that asks a server of the modern era what it is.
pub(crate) fn discovery(target: &Target) -> Result<Request<Full<Bytes>>, Refusal> {
    let mut headers = posting();
    headers.insert(header::PROTOCOL_VERSION, HeaderValue::from_static(Revision::LATEST.as_str()));
    headers.insert(header::METHOD, HeaderValue::from_static(method::SERVER_DISCOVER));
    let message = modern_request(DISCOVERY_ID, method::SERVER_DISCOVER, "");
    target.request(Method::POST, headers, message)
}

/// Asks a server of the modern era what it says of itself, and returns what it answered.
pub(crate) async fn discover(
    http: &dyn Http,
    target: &Target,
    settings: &Settings,
) -> Result<(StatusCode, Bytes), Refusal> {
    let response = http.send(discovery(target)?).await?;
    let status = response.status();
    let body = match answer::Form::of(response.headers()) {
        answer::Form::Events => legacy::only_response(response, DISCOVERY_ID, settings).await?,
        answer::Form::Json | answer::Form::Other => {
            answer::whole(response.into_body(), settings.answer_bytes_max).await?
        }
    };
    Ok((status, body))
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
