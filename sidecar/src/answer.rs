//! The body of an answer on its way to the caller, with everything that must last as long as it does: the record of
//! the request, its place among the calls under way, and the connection's knowledge that it is busy.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::accept::Busy;
use crate::body::Body;
use crate::gateway::Share;
use crate::metrics::Counted;
use crate::reads::Ear;
use crate::record::Open;
use crate::refusal::Refusal;
use crate::relay::{Broken, Relay};
use crate::shown::Sieve;
use crate::standing::Standing;
use crate::tools::Cap;
use crate::watched::Watched;

/// What the caller reads.
#[derive(Debug)]
pub struct Answer {
    body: Inner,
    busy: Option<Busy>,
    record: Option<Box<Open>>,
    stream: Option<Counted>,
    /// What its caller has under way at a gateway.
    share: Option<Share<Arc<str>>>,
    /// What was read of the body already, and comes first.
    before: Option<Bytes>,
    /// Who hears the answer of the server.
    ear: Option<Box<Ear>>,
}

#[derive(Debug)]
pub(crate) enum Inner {
    Made(Body),
    Relayed(Box<Relay>),
    Watched(Box<Watched>),
}

impl From<Body> for Answer {
    fn from(body: Body) -> Self {
        Self::new(Inner::Made(body))
    }
}

impl From<Relay> for Answer {
    fn from(relay: Relay) -> Self {
        Self::new(Inner::Relayed(Box::new(relay)))
    }
}

impl Answer {
    const fn new(body: Inner) -> Self {
        Self { body, busy: None, record: None, stream: None, share: None, before: None, ear: None }
    }

    pub(crate) fn holding(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }

    pub(crate) fn recorded(mut self, record: Box<Open>) -> Self {
        self.record = Some(record);
        self
    }

    pub(crate) fn streaming(mut self, stream: Counted) -> Self {
        self.stream = Some(stream);
        self
    }

    pub(crate) fn sharing(mut self, share: Share<Arc<str>>) -> Self {
        self.share = Some(share);
        self
    }

    /// A stream that is looked at on its way.
    pub(crate) fn watched(mut self, sieve: Option<Sieve>, standing: Option<Standing>) -> Self {
        if sieve.is_some()
            && let Some(ear) = &mut self.ear
        {
            ear.ignore_answer();
        }
        let inner = std::mem::replace(&mut self.body, Inner::Made(Body::empty()));
        self.body = Inner::Watched(Box::new(Watched::new(inner, sieve, standing)));
        self
    }

    pub(crate) fn heard_by(mut self, ear: Ear) -> Self {
        self.ear = Some(Box::new(ear));
        self
    }

    /// The body, of which some was read already.
    pub(crate) fn after(mut self, before: Bytes) -> Self {
        self.before = Some(before).filter(|before| !before.is_empty());
        self
    }

    /// Holds the events of a server's own stream to a limit. One that is made here was made within its limits.
    pub(crate) fn capped(mut self, cap: Cap) -> Self {
        match &mut self.body {
            Inner::Relayed(relay) => relay.cap(cap),
            Inner::Made(_) | Inner::Watched(_) => {}
        }
        self
    }

    /// Everything was said, or nothing more will be: what the body held is let go, and the record is written.
    fn end(&mut self, failure: Option<(&'static str, String)>) {
        self.stream = None;
        self.share = None;
        if let (Some(ear), None) = (self.ear.take(), &failure) {
            ear.ended();
        }
        let Some(mut record) = self.record.take() else { return };
        // What was told on a stream that had begun says more than how the stream ended.
        let told = self.body.refusal().map(|refusal| (refusal.told().reason, refusal.detail()));
        if let Some((reason, detail)) = told.or(failure) {
            record.event.reason = reason;
            record.event.detail = Some(detail);
        }
        record.finish();
    }
}

impl Inner {
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Made(body) => body.is_end_stream(),
            Self::Relayed(relay) => relay.is_end_stream(),
            Self::Watched(watched) => watched.is_over(),
        }
    }

    /// What was refused on it after it had begun.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Made(body) => body.refusal(),
            Self::Relayed(relay) => relay.refusal(),
            Self::Watched(watched) => watched.refusal(),
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::Made(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Relayed(relay) => Pin::new(&mut **relay).poll_frame(context),
            Self::Watched(watched) => watched.poll(context),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Made(body) => body.size_hint(),
            Self::Relayed(relay) => relay.size_hint(),
            Self::Watched(_) => SizeHint::default(),
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let before = this.before.take().map(|before| Ok(Frame::data(before)));
        let polled = match before {
            Some(before) => Poll::Ready(Some(before)),
            None => this.body.poll_frame(context),
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    if let Some(record) = &mut this.record {
                        record.heard(data);
                    }
                    if let Some(ear) = &mut this.ear {
                        ear.hear(data);
                    }
                }
            }
            Poll::Ready(Some(Err(broken))) => {
                let broken = (broken.reason(), broken.to_string());
                this.end(Some(broken));
            }
            Poll::Ready(None) => this.end(None),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.before.is_none() && self.body.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint();
        match (&self.before, rest.exact()) {
            (None, _) => rest,
            (Some(before), Some(rest)) => SizeHint::with_exact(rest + before.len() as u64),
            (Some(_), None) => SizeHint::default(),
        }
    }
}

impl Drop for Answer {
    /// That a caller left is known only by this: hyper drops the body. So it also does with one whose last byte was
    /// taken.
    fn drop(&mut self) {
        let left =
            (!self.is_end_stream()).then(|| ("caller_left", "the caller closed the stream".to_owned()));
        self.end(left);
    }
}
