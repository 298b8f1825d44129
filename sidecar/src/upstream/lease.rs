//! A connection, or a stream of one, in the hands of one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, Entry};
use http::{Request, Response, Uri, Version, uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::body::UpstreamBody;
use super::state::Shared;
use super::{Outgoing, SendError, Unsent};

/// How long a connection may take to be ready again after its answer was read.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// An HTTP/1.1 connection. It serves one request at a time.
pub(super) struct Alone {
    pub(super) sender: http1::SendRequest<Full<Bytes>>,
    pub(super) task: AbortHandle,
    pub(super) usage: Usage,
}

/// How much a connection has served, and how long it may.
pub(super) struct Usage {
    pub(super) retire_at: Instant,
    pub(super) idle_since: Instant,
    pub(super) requests: u32,
}

/// An HTTP/2 connection. Everything but `sender` and `peer_max` changes under the pool's lock only.
pub(super) struct Multiplexed {
    pub(super) sender: http2::SendRequest<Full<Bytes>>,
    pub(super) retire_at: Instant,
    /// Streams that the peer allows at once, as far as it said.
    pub(super) peer_max: Arc<AtomicUsize>,
    pub(super) streams: AtomicUsize,
    pub(super) requests: AtomicUsize,
    /// The requests that the last sweep saw: as many at the next one say that nobody used it in between.
    pub(super) swept_at: AtomicUsize,
    pub(super) retired: AtomicBool,
}

impl Multiplexed {
    pub(super) fn is_usable(&self, now: Instant, requests_max: u32) -> bool {
        let worn = self.requests.load(Ordering::Relaxed) >= requests_max as usize;
        !self.sender.is_closed() && !self.retired.load(Ordering::Relaxed) && now < self.retire_at && !worn
    }
}

/// The right to one request. Dropped while the request is under way, it closes the connection.
pub(super) struct Lease {
    pub(super) shared: Arc<Shared>,
    held: Held,
    busy: bool,
}

enum Held {
    Alone(Alone),
    Stream(Arc<Multiplexed>),
    Nothing,
}

impl Lease {
    pub(super) const fn alone(shared: Arc<Shared>, connection: Alone) -> Self {
        Self { shared, held: Held::Alone(connection), busy: false }
    }

    /// One stream, which the caller has counted.
    pub(super) const fn stream(shared: Arc<Shared>, connection: Arc<Multiplexed>) -> Self {
        Self { shared, held: Held::Stream(connection), busy: false }
    }

    pub(super) fn served_before(&self) -> bool {
        match &self.held {
            Held::Alone(connection) => connection.usage.requests > 0,
            Held::Stream(connection) => connection.requests.load(Ordering::Relaxed) > 1,
            Held::Nothing => false,
        }
    }

    pub(super) async fn send(mut self, request: Outgoing) -> Result<Response<UpstreamBody>, SendError> {
        self.busy = true;
        let sent = match &mut self.held {
            Held::Alone(connection) => {
                connection.usage.requests = connection.usage.requests.saturating_add(1);
                let mut request = Arc::unwrap_or_clone(request);
                self.shared.in_origin_form(&mut request);
                connection.sender.try_send_request(request).await.map_err(never_written)
            }
            Held::Stream(connection) => {
                // HTTP/2 may refuse a request long after it took it, and does not give it back.
                let mut sent = Request::clone(&request);
                self.shared.in_absolute_form(&mut sent);
                let mut sender = connection.sender.clone();
                let sent = sender.try_send_request(sent).await;
                sent.map_err(|error| never_processed(error, request, connection))
            }
            Held::Nothing => {
                return Err(SendError::NeverSent { request, why: Unsent::Closed });
            }
        };
        Ok(sent?.map(|incoming: Incoming| UpstreamBody::new(incoming, self)))
    }

    /// The answer was read to its end.
    pub(super) fn finish(mut self) {
        self.busy = false;
        self.give_back();
    }

    fn give_back(&mut self) {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Alone(connection) => give_back_alone(&self.shared, connection),
            Held::Stream(connection) => self.shared.end_stream(&connection),
            Held::Nothing => {}
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let (true, Held::Alone(connection)) = (self.busy, &self.held) {
            // The server is told by the closing of the connection; HTTP/2 resets the stream as the body is dropped.
            connection.task.abort();
            self.held = Held::Nothing;
        }
        self.give_back();
    }
}

fn give_back_alone(shared: &Arc<Shared>, mut connection: Alone) {
    if connection.sender.is_closed() {
        return;
    }
    if connection.sender.is_ready() || connection.usage.requests == 0 {
        shared.put_back(connection);
        return;
    }
    // The answer may end before the connection has noticed, or before the request was read.
    let Ok(runtime) = Handle::try_current() else { return };
    let shared = Arc::clone(shared);
    runtime.spawn(async move {
        match timeout(READY_WITHIN, connection.sender.ready()).await {
            Ok(Ok(())) => shared.put_back(connection),
            Ok(Err(_)) | Err(_) => connection.task.abort(),
        }
    });
}

/// HTTP/1.1 gives a request back unless it began to write it.
fn never_written(mut error: TrySendError<Request<Full<Bytes>>>) -> SendError {
    match error.take_message() {
        Some(request) => SendError::NeverSent { request: Arc::new(request), why: Unsent::Closed },
        None => SendError::MaybeSent(error.into_error()),
    }
}

fn never_processed(
    mut error: TrySendError<Request<Full<Bytes>>>,
    spare: Outgoing,
    connection: &Multiplexed,
) -> SendError {
    if error.take_message().is_some() {
        connection.retired.store(true, Ordering::Relaxed);
        return SendError::NeverSent { request: spare, why: Unsent::Closed };
    }
    let error = error.into_error();
    match refusal(&error) {
        Some(why) => {
            if matches!(why, Unsent::Closed) {
                connection.retired.store(true, Ordering::Relaxed);
            }
            SendError::NeverSent { request: spare, why }
        }
        None => SendError::MaybeSent(error),
    }
}

/// What the peer says of a stream that it did nothing with: it refused it, or its last word (GOAWAY) names an earlier
/// stream as the last that it looked at. Streams before that one never end with the peer's GOAWAY.
fn refusal(error: &hyper::Error) -> Option<Unsent> {
    let reason = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
    if !reason.is_remote() {
        return None;
    }
    if reason.is_go_away() {
        return Some(Unsent::Closed);
    }
    (reason.reason() == Some(h2::Reason::REFUSED_STREAM)).then_some(Unsent::Refused)
}

impl Shared {
    /// As HTTP/1.1 wants it: path and query in the first line, the host in a header.
    fn in_origin_form(&self, request: &mut Request<Full<Bytes>>) {
        if request.uri().authority().is_some() {
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
        }
        if let Entry::Vacant(host) = request.headers_mut().entry(header::HOST) {
            host.insert(self.host.clone());
        }
        *request.version_mut() = Version::HTTP_11;
    }

    /// As HTTP/2 wants it: everything in the target.
    fn in_absolute_form(&self, request: &mut Request<Full<Bytes>>) {
        request.headers_mut().remove(header::HOST);
        let mut parts = uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = request.uri().path_and_query().cloned();
        parts.path_and_query.get_or_insert(uri::PathAndQuery::from_static("/"));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        *request.version_mut() = Version::HTTP_2;
    }
}
