//! An event stream that is looked at on its way: lists on it are cut to what the caller may see, and it ends once it is
//! allowed no longer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Sleep;

use crate::answer::Inner;
use crate::refusal::Refusal;
use crate::relay::{Broken, Tail};
use crate::shown::Sieve;
use crate::standing::{Over, Standing};

/// How long a stream that is allowed no longer may take to end the event that it is in.
const END_OF_EVENT_MAX: Duration = Duration::from_secs(5);

/// The stream within, with what looks at it.
#[derive(Debug)]
pub(crate) struct Watched {
    /// None once it is over.
    inner: Option<Inner>,
    sieve: Option<Sieve>,
    standing: Option<Standing>,
    /// It is allowed no longer, and is waited for to come between two events, for a while.
    over: Option<(Over, Pin<Box<Sleep>>)>,
    tail: Tail,
    refusal: Option<Refusal>,
}

impl Watched {
    pub(crate) fn new(inner: Inner, sieve: Option<Sieve>, standing: Option<Standing>) -> Self {
        Self { inner: Some(inner), sieve, standing, over: None, tail: Tail::default(), refusal: None }
    }

    /// Why it was ended, if it was.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref().or_else(|| self.inner.as_ref().and_then(Inner::refusal))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.inner.as_ref().is_none_or(Inner::is_over)
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            // Looked at first, so that a stream that never pauses ends too.
            if let Some(over) = self.poll_standing(context) {
                return Poll::Ready(self.end(over));
            }
            let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
            let Poll::Ready(frame) = inner.poll_frame(context) else { return Poll::Pending };
            match frame.map(|frame| self.look_at(frame?)) {
                Some(Ok(None)) => {}
                Some(Ok(Some(bytes))) => {
                    self.tail.see(&bytes);
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(broken)) => {
                    self.close();
                    return Poll::Ready(Some(Err(broken)));
                }
                None => {
                    self.close();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn poll_standing(&mut self, context: &mut Context<'_>) -> Option<Over> {
        self.inner.as_ref()?;
        if let Some(Poll::Ready(over)) = self.standing.as_mut().map(|standing| standing.poll_over(context)) {
            self.standing = None;
            self.over = Some((over, Box::pin(tokio::time::sleep(END_OF_EVENT_MAX))));
        }
        let (_, waited) = self.over.as_mut()?;
        let waited = waited.as_mut().poll(context).is_ready();
        // What is said within an event could not be told from it, so a stream that stays there ends in silence.
        if !waited && !self.tail.is_between_events() {
            return None;
        }
        let (over, _) = self.over.take()?;
        Some(if self.tail.is_between_events() { over } else { Over { last: None, ..over } })
    }

    /// The stream within has ended; why, it can say no longer.
    fn close(&mut self) {
        self.refusal = self.inner.take().and_then(|inner| inner.refusal().cloned());
    }

    fn end(&mut self, over: Over) -> Option<Result<Frame<Bytes>, Broken>> {
        let Over { refusal, last } = over;
        (self.inner, self.standing, self.refusal) = (None, None, Some(refusal));
        last.map(|last| Ok(Frame::data(last)))
    }

    /// What is passed on of some bytes; trailers are not.
    fn look_at(&mut self, frame: Frame<Bytes>) -> Result<Option<Bytes>, Broken> {
        let Ok(bytes) = frame.into_data() else { return Ok(None) };
        let Some(sieve) = &mut self.sieve else { return Ok(Some(bytes)) };
        let shown = sieve.feed(bytes).map_err(|refusal| Broken::Upstream(refusal.detail()))?;
        Ok((!shown.is_empty()).then_some(shown))
    }
}
