//! Speaking with the control plane's API: one request, one connection, HTTP/1.1 over TLS 1.3, with a limit on every
//! wait and every size.
//!
//! Not here: what the answers mean to a command, and where the credentials come from (`credentials`). Proxies named in
//! the environment are not used: the token goes to the control plane and to nobody else.

mod address;
mod connect;
mod error;
mod events;
mod problem;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::credentials::{Credentials, Secret};
use crate::terminal::Terminal;
pub(crate) use address::{Endpoint, Path};
pub(crate) use connect::{Trusted, plain_status, plain_text};
pub(crate) use error::Error;
pub(crate) use events::{Event, Events};
pub(crate) use problem::{Mistake, Problem};

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest wait for a connection, whatever the timeout.
const CONNECT_SECS_MAX: u64 = 10;
const REQUEST_ID: &str = "weft-request-id";

/// What is sent along with a request.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    None,
    Json(Value),
    /// JSON as it was written.
    JsonText(String),
    /// Documents, as operators write them.
    Documents(String),
}

/// A way to the control plane.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    trusted: Trusted,
    token: Secret,
    patience: Duration,
    terminal: Arc<Terminal>,
}

impl Client {
    pub(crate) fn new(credentials: Credentials, patience: Duration, terminal: Arc<Terminal>) -> Self {
        let Credentials { endpoint, trusted, token } = credentials;
        Self { endpoint, trusted, token, patience, terminal }
    }

    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) async fn get(&self, path: &Path) -> Result<Value, Error> {
        self.send(Method::GET, path, Body::None).await
    }

    /// The items of all pages of a list, up to a limit, and whether there are more. `path` makes the one for the page
    /// that goes on where the one before said.
    pub(crate) async fn pages(
        &self,
        path: impl Fn(Option<String>) -> Path,
        items_max: usize,
    ) -> Result<(Vec<Value>, bool), Error> {
        let (mut items, mut next) = (Vec::new(), None::<String>);
        loop {
            let mut page = self.get(&path(next.take())).await?;
            if let Some(found) = page["items"].as_array_mut() {
                items.append(found);
            }
            next = match page.get("continue").or_else(|| page.get("next")) {
                Some(Value::String(text)) => Some(text.clone()),
                Some(Value::Number(number)) => Some(number.to_string()),
                _ => None,
            };
            if next.is_none() || items.len() >= items_max {
                return Ok((items, next.is_some()));
            }
        }
    }

    /// The whole answer, as it is.
    pub(crate) async fn bytes(&self, path: &Path) -> Result<Bytes, Error> {
        let asked = async { whole(self.exchange(Method::GET, path, Body::None, "*/*").await?).await };
        timeout(self.patience, asked).await.map_err(|_| self.slow("an answer", self.patience))?
    }

    /// Whom it believes.
    pub(crate) const fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    /// One request and its whole answer, as JSON.
    pub(crate) async fn send(&self, method: Method, path: &Path, body: Body) -> Result<Value, Error> {
        let bytes = timeout(self.patience, async {
            let response = self.exchange(method, path, body, "application/json").await?;
            whole(response).await
        });
        let bytes = bytes.await.map_err(|_| self.slow("an answer", self.patience))??;
        match bytes.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice(&bytes).map_err(|error| Error::Strange(error.to_string())),
        }
    }

    /// Opens a stream of events. There is no limit on how long it lasts.
    pub(crate) async fn events(&self, path: &Path) -> Result<Events, Error> {
        let opening = timeout(self.patience, async {
            let response = self.exchange(Method::GET, path, Body::None, "text/event-stream").await?;
            match response.status().is_success() {
                true => Ok(response),
                false => Err(refusal(response).await),
            }
        });
        let response = opening.await.map_err(|_| self.slow("an answer", self.patience))??;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return Err(Error::Strange("it is no stream of events".to_owned()));
        }
        Ok(Events::new(response.into_body()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &Path,
        body: Body,
        accept: &'static str,
    ) -> Result<Response<Incoming>, Error> {
        let request = self.request(method, path, body, accept)?;
        let (line, started) = (format!("{} {}", request.method(), request.uri()), Instant::now());
        self.terminal.detail(&format!("> {line} at {}", self.endpoint));
        let stream = self.connect().await?;
        let response = connect::ask(stream, request).await?;
        let id = response.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or("-");
        let took = started.elapsed().as_millis();
        self.terminal.detail(&format!("< {} after {took} ms, request {id}", response.status()));
        Ok(response)
    }

    async fn connect(&self) -> Result<connect::Secured, Error> {
        let patience = self.patience.min(Duration::from_secs(CONNECT_SECS_MAX));
        let connecting = timeout(patience, connect::secured(&self.endpoint, &self.trusted));
        connecting.await.map_err(|_| self.slow("a connection", patience))?
    }

    fn request(
        &self,
        method: Method,
        path: &Path,
        body: Body,
        accept: &'static str,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let mut token = HeaderValue::try_from(format!("Bearer {}", self.token.expose()))
            .map_err(|_| Error::Token("it contains characters that no token has"))?;
        token.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(path.as_str())
            .header(header::HOST, self.endpoint.authority())
            .header(header::USER_AGENT, concat!("weft/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, accept)
            .header(header::CONNECTION, "close")
            .header(header::AUTHORIZATION, token);
        let (kind, bytes) = match body {
            Body::None => (None, Bytes::new()),
            Body::Json(value) => (Some("application/json"), value.to_string().into()),
            Body::JsonText(text) => (Some("application/json"), text.into()),
            Body::Documents(text) => (Some("application/yaml"), text.into()),
        };
        let request = match kind {
            Some(kind) => request.header(header::CONTENT_TYPE, kind),
            None => request,
        };
        Ok(request.body(Full::new(bytes)).expect("the path is encoded and the headers are plain"))
    }

    fn slow(&self, what: &'static str, after: Duration) -> Error {
        Error::Slow { server: self.endpoint.to_string(), what, after }
    }
}

/// An answer as the type that a command works with.
pub(crate) fn read<T: DeserializeOwned>(answer: Value) -> Result<T, Error> {
    serde_json::from_value(answer).map_err(|error| Error::Strange(error.to_string()))
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Error> {
    match response.status().is_success() {
        true => collect(response.into_body()).await,
        false => Err(refusal(response).await),
    }
}

async fn refusal(response: Response<Incoming>) -> Error {
    let (parts, body) = response.into_parts();
    match collect(body).await {
        Ok(bytes) => {
            let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let problem = Problem::read(parts.status, &bytes);
            let (request_id, retry_after) = (text(REQUEST_ID), text("retry-after"));
            Error::Refused(Box::new(Problem { request_id, retry_after, ..problem }))
        }
        Err(error) => error,
    }
}

async fn collect(body: Incoming) -> Result<Bytes, Error> {
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Error::Strange(format!("it is longer than {ANSWER_BYTES_MAX} bytes")))
        }
        Err(error) => Err(Error::Broken(error.to_string())),
    }
}
