//! The bodies of answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::refusal::Refusal;

/// The body of an answer that is made here; one that is relayed from a server wraps the server's own.
#[derive(Debug)]
pub enum Body {
    /// Bytes that are there at once; none is an empty body.
    Full(Option<Bytes>),
    /// Bytes that come one after the other; the body ends when the sender is dropped. A receiver that takes nothing
    /// holds the sender up.
    Channel(mpsc::Receiver<Bytes>, Verdict),
}

/// That what a body answers was refused after all, noted by whoever writes the body before that is told on it. Clones are
/// the same.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<OnceLock<Refusal>>);

impl Verdict {
    /// Notes a refusal; the first of them counts.
    pub fn refused(&self, refusal: &Refusal) {
        let _ = self.0.set(refusal.clone());
    }
}

impl Body {
    pub const fn empty() -> Self {
        Self::Full(None)
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }

    /// A body that is written while it is sent.
    pub fn channel(chunks_max: usize) -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(chunks_max);
        (sender, Self::Channel(receiver, Verdict::default()))
    }

    /// The same body, by whose writer refusals are noted there.
    pub fn judged_by(self, verdict: Verdict) -> Self {
        match self {
            Self::Channel(receiver, _) => Self::Channel(receiver, verdict),
            full @ Self::Full(_) => full,
        }
    }

    /// The refusal that was told on it, if one was.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Channel(_, verdict) => verdict.0.get(),
            Self::Full(_) => None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Channel(receiver, _) => {
                receiver.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Channel(..) => SizeHint::default(),
        }
    }
}
