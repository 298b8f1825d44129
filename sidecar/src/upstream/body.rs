//! The body of a server's answer, which holds the connection that it comes over.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::lease::Lease;

/// A server's answer. Read to its end, the connection serves again; dropped before, the connection (or, with HTTP/2,
/// the stream) is closed at once, which tells the server that nobody listens any more.
pub struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    held: Option<Box<dyn Send + Sync>>,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, lease: Lease) -> Self {
        let mut body = Self { incoming, lease: Some(lease), held: None };
        body.finish_if_ended();
        body
    }

    /// Keeps something until the answer was read to its end or is dropped.
    #[must_use]
    pub fn hold(mut self, what: impl Send + Sync + 'static) -> Self {
        self.held = self.lease.is_some().then(|| Box::new(what) as Box<dyn Send + Sync>);
        self
    }

    fn finish_if_ended(&mut self) {
        if self.incoming.is_end_stream() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.held = None;
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.incoming).poll_frame(context));
        match &frame {
            Some(Ok(_)) => this.finish_if_ended(),
            Some(Err(_)) => (this.lease, this.held) = (None, None),
            None => this.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody").field("ended", &self.lease.is_none()).finish_non_exhaustive()
    }
}
