//! Learns what a server speaks, by asking it.
//!
//! First as a caller of the modern era would, then with a handshake, then for the stream of the oldest transport. No
//! single status or code decides: an answer proves an era only if no other era has it. What is temporary proves
//! nothing, so that a server that is busy at the moment is not taken for an older one. Not here: how long an outcome
//! is believed. Where it is known not to speak the oldest transport, it is not asked for that.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Method, Response, StatusCode};
use tokio::time::timeout;
use weft_proto::mcp::{Revision, code, header};

use crate::bridge::Abilities;
use crate::refusal::Refusal;

use super::Introduction;
use super::http::answer::{self, Form};
use super::http::legacy::{self, only_response};
use super::http::{AnswerBody, Http, Settings, Target, discover, initialize, listening, modern, posting};
use super::sse_server::{first_endpoint, stream_in};

const ID: &str = "\"weft-probe\"";

/// What a server turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// The modern era. Without an introduction where the server speaks of it only in an error.
    Modern(Option<Introduction>),
    /// The legacy era over Streamable HTTP.
    LegacyStreamable(Introduction),
    /// 2024-11-05's HTTP with SSE.
    HttpSse,
}

/// Why nothing was learnt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The server is there and may say more later.
    #[error("the server is not ready: {0}")]
    NotReady(String),
    /// The server wants to know first who asks.
    #[error("the server wants credentials: status {0}")]
    Unauthorized(StatusCode),
    /// The server is there and is none that is known.
    #[error("the server speaks nothing that is known: {0}")]
    Unknown(String),
}

/// What one question came to.
enum Step {
    Done(Spoken),
    /// The server does not speak that; why, for whoever asks.
    No(String),
}

/// What a server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transports {
    Any,
    /// Nothing but Streamable HTTP.
    Streamable,
}

/// Asks a server what it speaks. Each question has so much time for its answer.
pub async fn probe(
    http: &Arc<dyn Http>,
    target: &Target,
    settings: &Settings,
    transports: Transports,
    question_timeout: Duration,
) -> Result<Spoken, Error> {
    let probe = Probe { http: &**http, target, settings, question_timeout };
    let modern = match probe.modern().await? {
        Step::Done(spoken) => return Ok(spoken),
        Step::No(why) => why,
    };
    let streamable = match probe.streamable().await? {
        Step::Done(spoken) => return Ok(spoken),
        Step::No(why) => why,
    };
    if transports == Transports::Streamable {
        return Err(Error::Unknown(format!("server/discover: {modern}; initialize: {streamable}")));
    }
    match probe.sse().await? {
        Step::Done(spoken) => Ok(spoken),
        Step::No(sse) => {
            Err(Error::Unknown(format!("server/discover: {modern}; initialize: {streamable}; GET: {sse}")))
        }
    }
}

struct Probe<'a> {
    http: &'a dyn Http,
    target: &'a Target,
    settings: &'a Settings,
    question_timeout: Duration,
}

impl Probe<'_> {
    async fn modern(&self) -> Result<Step, Error> {
        let asking = discover(self.http, self.target, self.settings);
        let (status, body) = match self.within(asking).await? {
            Ok(answer) => answer,
            Err(step) => return Ok(step),
        };
        if let Some(spoken) = self.proof_of_modern(&body) {
            return Ok(Step::Done(spoken));
        }
        match modern::introduced_by(&body, self.settings) {
            Ok(introduction) if status.is_success() => Ok(Step::Done(Spoken::Modern(Some(introduction)))),
            _ => not_now(status).map(|()| Step::No(format!("status {status}"))),
        }
    }

    async fn streamable(&self) -> Result<Step, Error> {
        let message = initialize(ID, Revision::LATEST_LEGACY, Abilities::default());
        let request = self.request(Method::POST, posting(), message)?;
        let response = match self.within(self.http.send(request)).await? {
            Ok(response) => response,
            Err(step) => return Ok(step),
        };
        let (status, session) = (response.status(), response.headers().get(header::SESSION_ID).cloned());
        let body = match self.within(only_response_or_text(response, self.settings)).await? {
            Ok(body) => body,
            Err(step) => return Ok(step),
        };
        if let Some(session) = session {
            self.forget(session).await;
        }
        if let Some(spoken) = self.proof_of_modern(&body) {
            return Ok(Step::Done(spoken));
        }
        match legacy::introduced_by(&body, self.settings) {
            Ok(introduction) if status.is_success() => Ok(Step::Done(Spoken::LegacyStreamable(introduction))),
            _ if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(Error::Unauthorized(status))
            }
            _ => not_now(status).map(|()| Step::No(format!("status {status}"))),
        }
    }

    async fn sse(&self) -> Result<Step, Error> {
        let request = self.request(Method::GET, listening(), Bytes::new())?;
        let opening = async {
            let mut events = stream_in(self.http.send(request).await?, self.settings)?;
            first_endpoint(&mut events).await
        };
        Ok(match self.within(opening).await? {
            Ok(_) => Step::Done(Spoken::HttpSse),
            Err(step) => step,
        })
    }

    fn request(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<http::Request<http_body_util::Full<Bytes>>, Error> {
        self.target.request(method, headers, body).map_err(|refusal| Error::Unknown(refusal.detail()))
    }

    /// A question that gets no answer in time, or a broken one, is one that the server does not understand.
    async fn within<T>(
        &self,
        asking: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<Result<T, Step>, Error> {
        match timeout(self.question_timeout, asking).await {
            Ok(Ok(answer)) => Ok(Ok(answer)),
            Ok(Err(Refusal::UpstreamUnreachable(why))) => Err(Error::Unreachable(why)),
            Ok(Err(refusal)) => Ok(Err(Step::No(refusal.detail()))),
            Err(_) => Ok(Err(Step::No("no answer in time".to_owned()))),
        }
    }

    /// What only a server of the modern era says, whatever the status.
    fn proof_of_modern(&self, body: &[u8]) -> Option<Spoken> {
        let code = answer::error_code(body, self.settings.bounds)?;
        code::proves_modern(code).then_some(Spoken::Modern(None))
    }

    /// Ends the session that the handshake has opened.
    async fn forget(&self, session: HeaderValue) {
        let mut headers = HeaderMap::new();
        headers.insert(header::SESSION_ID, session);
        let version = HeaderValue::from_static(Revision::LATEST_LEGACY.as_str());
        headers.insert(header::PROTOCOL_VERSION, version);
        let Ok(request) = self.request(Method::DELETE, headers, Bytes::new()) else { return };
        if self.within(self.http.send(request)).await.is_err() {
            tracing::debug!("session of a probe not ended");
        }
    }
}

/// What says only that the moment is wrong.
fn not_now(status: StatusCode) -> Result<(), Error> {
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Err(Error::NotReady(format!("status {status}"))),
        _ => Ok(()),
    }
}

/// The response on a stream, or whatever else the body is.
async fn only_response_or_text(
    response: Response<AnswerBody>,
    settings: &Settings,
) -> Result<Bytes, Refusal> {
    match Form::of(response.headers()) {
        Form::Events => only_response(response, ID, settings).await,
        Form::Json | Form::Other => answer::whole(response.into_body(), settings.answer_bytes_max).await,
    }
}

#[cfg(test)]
mod tests;
