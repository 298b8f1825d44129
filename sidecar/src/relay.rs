//! A server's answer on its way through: bytes pass as they come, and nothing is kept. On event streams silence is
//! filled with comments, between events only, and a drain ends what merely listens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::oldest::{Begun, Exchange};
use crate::refusal::Refusal;
use crate::tools::{Cap, Passed};
use crate::upstream::UpstreamBody;

/// What keeps an idle stream open on its way through whatever lies between.
const COMMENT: &[u8] = b": keep-alive\n\n";

/// Why an answer did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    Upstream(String),
    Idle(Duration),
}

impl Broken {
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Upstream(_) => "upstream_broke",
            Self::Idle(_) => "idle",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(error) => write!(f, "the server's answer broke off: {error}"),
            Self::Idle(limit) => write!(f, "the server said nothing for {} s", limit.as_secs()),
        }
    }
}

impl std::error::Error for Broken {}

/// What becomes of the server's side when the caller leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenLeft {
    /// The server is told by its connection's end, at once: that is how a modern call is cancelled.
    Cut,
    /// The call goes on: a disconnect of a legacy caller is no cancellation.
    ReadOn,
}

/// The body of a server's answer.
pub struct Relay {
    upstream: Option<UpstreamBody>,
    when_left: WhenLeft,
    idle_max: Option<Duration>,
    events: Option<Events>,
    /// The beginning of a stream of 2024-11-05, until it has named the address for messages.
    exchange: Option<Box<Exchange>>,
    /// What an event may be large.
    cap: Option<Box<Cap>>,
    /// Why the stream was ended here.
    refused: Option<Refusal>,
    over: bool,
}

/// What is kept of an event stream.
struct Events {
    comment_every: Duration,
    timer: Pin<Box<Sleep>>,
    last_byte: Instant,
    tail: Tail,
    ending: Option<Ending>,
}

/// How a stream ends before the server ends it.
pub struct Ending {
    /// When.
    pub when: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The last event, whole.
    pub last: Bytes,
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("last", &self.last).finish_non_exhaustive()
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("events", &self.events.is_some()).finish_non_exhaustive()
    }
}

impl Relay {
    /// An answer in one piece.
    pub fn whole(upstream: UpstreamBody, when_left: WhenLeft) -> Self {
        Self {
            over: upstream.is_end_stream(),
            upstream: Some(upstream),
            when_left,
            idle_max: None,
            events: None,
            exchange: None,
            cap: None,
            refused: None,
        }
    }

    /// An event stream. Without `idle_max` the server may be silent for ever.
    pub fn events(
        upstream: UpstreamBody,
        when_left: WhenLeft,
        comment_every: Duration,
        idle_max: Option<Duration>,
        ending: Option<Ending>,
    ) -> Self {
        // The limit on silence may be the shorter of the two.
        let timer = Box::pin(tokio::time::sleep(idle_max.unwrap_or(comment_every).min(comment_every)));
        let events =
            Events { comment_every, timer, last_byte: Instant::now(), tail: Tail::default(), ending };
        Self {
            upstream: Some(upstream),
            when_left,
            idle_max,
            events: Some(events),
            exchange: None,
            cap: None,
            refused: None,
            over: false,
        }
    }

    /// Exchanges the address for messages that the stream names first.
    #[must_use]
    pub(crate) fn exchanging(mut self, exchange: Exchange) -> Self {
        self.exchange = Some(Box::new(exchange));
        self
    }

    /// Holds every event of a stream to a limit.
    pub(crate) fn cap(&mut self, cap: Cap) {
        self.cap = Some(Box::new(cap));
    }

    /// Why the stream was ended here, if it was.
    pub(crate) const fn refusal(&self) -> Option<&Refusal> {
        self.refused.as_ref()
    }

    /// Takes bytes of a stream whose events are held to a limit; gives those that may pass, if there are any yet.
    fn hold(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let cap = self.cap.as_mut()?;
        let Passed { bytes, over } = cap.feed(&frame.into_data().ok()?);
        if let Some(events) = &mut self.events {
            events.last_byte = Instant::now();
            events.tail.see(&bytes);
        }
        if over.is_some() {
            self.refused = over;
            self.end();
        }
        (!bytes.is_empty()).then(|| Frame::data(bytes))
    }

    /// Takes bytes of the beginning; gives what takes their place, once that is known.
    fn begin(&mut self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, Broken> {
        let Some(exchange) = &mut self.exchange else { return Ok(Some(frame)) };
        let Ok(data) = frame.into_data() else { return Ok(None) };
        let begun = exchange.feed(&data).map_err(|refusal| Broken::Upstream(refusal.detail()))?;
        let Begun::With(bytes) = begun else { return Ok(None) };
        self.exchange = None;
        if let Some(events) = &mut self.events {
            events.last_byte = Instant::now();
            events.tail.see(&bytes);
        }
        Ok(Some(Frame::data(bytes)))
    }

    fn end(&mut self) {
        self.over = true;
        self.upstream = None;
    }

    fn poll_quiet(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let idle_max = self.idle_max;
        let Some(events) = &mut self.events else { return Poll::Pending };
        if events.tail.is_between_events()
            && let Some(ending) = &mut events.ending
            && ending.when.as_mut().poll(context).is_ready()
        {
            let last = std::mem::take(&mut ending.last);
            self.end();
            return match last.is_empty() {
                true => Poll::Ready(None),
                false => Poll::Ready(Some(Ok(Frame::data(last)))),
            };
        }
        while events.timer.as_mut().poll(context).is_ready() {
            let silent = events.last_byte.elapsed();
            if let Some(limit) = idle_max.filter(|limit| silent >= *limit) {
                self.end();
                return Poll::Ready(Some(Err(Broken::Idle(limit))));
            }
            // Bytes came since the timer was set: it goes on from them.
            let since = if silent < events.comment_every { events.last_byte } else { Instant::now() };
            let next = since + events.comment_every;
            let next = idle_max.map_or(next, |limit| next.min(events.last_byte + limit));
            events.timer.as_mut().reset(next);
            if silent >= events.comment_every && events.tail.is_between_events() {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
            }
        }
        Poll::Pending
    }
}

impl http_body::Body for Relay {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let Some(upstream) = &mut this.upstream else { return Poll::Ready(None) };
        match Pin::new(upstream).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) if this.exchange.is_some() => {
                let begun = this.begin(frame);
                match begun {
                    Ok(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                    Ok(None) => {
                        // There may be more already.
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    Err(broken) => {
                        this.end();
                        Poll::Ready(Some(Err(broken)))
                    }
                }
            }
            Poll::Ready(Some(Ok(frame))) if this.cap.is_some() => match this.hold(frame) {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => {
                    // There may be more already.
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            },
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(events), Some(data)) = (&mut this.events, frame.data_ref()) {
                    events.last_byte = Instant::now();
                    events.tail.see(data);
                }
                this.over = this.upstream.as_ref().is_none_or(http_body::Body::is_end_stream);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.end();
                Poll::Ready(Some(Err(Broken::Upstream(error.to_string()))))
            }
            Poll::Ready(None) => {
                this.end();
                let rest = this.cap.take().map(|mut cap| cap.rest()).filter(|rest| !rest.is_empty());
                Poll::Ready(rest.map(|rest| Ok(Frame::data(rest))))
            }
            Poll::Pending => this.poll_quiet(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.events, &self.upstream) {
            (None, Some(upstream)) => upstream.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let (WhenLeft::ReadOn, false, Some(upstream)) = (self.when_left, self.over, self.upstream.take()) {
            let idle_max = self.idle_max.unwrap_or(READ_ON_SILENCE_MAX);
            tokio::spawn(read_on(upstream, idle_max));
        }
    }
}

/// How long a server may be silent in an answer that nobody reads any more.
pub(crate) const READ_ON_SILENCE_MAX: Duration = Duration::from_secs(300);

/// Lets a server finish what it says to a caller that left.
pub(crate) async fn read_on(mut upstream: UpstreamBody, silence_max: Duration) {
    while let Ok(Some(Ok(_))) = tokio::time::timeout(silence_max, upstream.frame()).await {}
}

/// The last bytes of a stream, as far as they tell whether an event has just ended.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    seen: bool,
    last: [u8; 4],
}

impl Tail {
    pub(crate) fn see(&mut self, data: &[u8]) {
        self.seen |= !data.is_empty();
        let from = data.len().saturating_sub(4);
        let fresh = &data[from..];
        self.last.rotate_left(fresh.len());
        let at = self.last.len() - fresh.len();
        self.last[at..].copy_from_slice(fresh);
    }

    pub(crate) fn is_between_events(&self) -> bool {
        let [_, b, c, d] = self.last;
        // The last of these is how an event ends that was split from a stream before its last LF came.
        !self.seen
            || matches!((c, d), (b'\n', b'\n') | (b'\r', b'\r'))
            || self.last == *b"\r\n\r\n"
            || [b, c, d] == *b"\r\n\r"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_fit_only_between_events() {
        let check = |chunks: &[&str], between: bool| {
            let mut tail = Tail::default();
            chunks.iter().for_each(|chunk| tail.see(chunk.as_bytes()));
            assert_eq!(tail.is_between_events(), between, "{chunks:?}");
        };
        check(&[], true);
        check(&["data: a\n\n"], true);
        check(&["data: a\n", "\n"], true);
        check(&["data: a\r\n\r", "\n"], true);
        check(&["data: a\r\r"], true);
        check(&["data: a\r\n\r"], true);
        check(&["data: a\n"], false);
        check(&["data: a\r\n"], false);
        check(&["d"], false);
        check(&["data: a\n\n", "data"], false);
        check(&["data: a\n\n", ""], true);
    }
}
