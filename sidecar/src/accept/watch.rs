//! What happens on a connection between requests, watched with one timer for the whole connection: heads that never
//! end, and connections that nobody uses.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::identify::Protocol;

/// What was seen of a connection so far.
#[derive(Debug)]
pub(super) struct Activity {
    bytes_read: AtomicU64,
    /// `bytes_read` when the last request ended: what came since belongs to the next head.
    bytes_known: AtomicU64,
    under_way: AtomicU32,
    requests: AtomicU64,
    /// With HTTP/2, bytes come without requests, and its own pings find dead peers.
    http2: AtomicBool,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub struct Busy(Arc<Activity>);

impl Activity {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            bytes_read: AtomicU64::new(0),
            bytes_known: AtomicU64::new(0),
            under_way: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            http2: AtomicBool::new(protocol == Protocol::Http2),
        }
    }

    pub(super) fn begin(self: &Arc<Self>, http2: bool) -> Busy {
        if http2 {
            self.http2.store(true, Ordering::Relaxed);
        }
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Ends when the connection is of no more use: a head takes longer than `head`, or nothing came for `silence`.
    pub(super) fn idle(
        self: &Arc<Self>,
        head: Duration,
        silence: Duration,
    ) -> impl Future<Output = ()> + use<> {
        let activity = Arc::clone(self);
        async move {
            let step = (head / 3).max(Duration::from_millis(10));
            let (mut head_for, mut silent_for, mut seen) = (Duration::ZERO, Duration::ZERO, 0);
            loop {
                tokio::time::sleep(step).await;
                let requests = activity.requests.load(Ordering::Relaxed);
                if activity.under_way.load(Ordering::Relaxed) > 0 || requests != seen {
                    (head_for, silent_for, seen) = (Duration::ZERO, Duration::ZERO, requests);
                } else if !activity.http2.load(Ordering::Relaxed) && activity.in_a_head() {
                    head_for += step;
                } else {
                    silent_for += step;
                }
                if head_for >= head || silent_for >= silence {
                    return;
                }
            }
        }
    }

    fn in_a_head(&self) -> bool {
        self.bytes_read.load(Ordering::Relaxed) > self.bytes_known.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.bytes_known.store(self.0.bytes_read.load(Ordering::Relaxed), Ordering::Relaxed);
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose bytes are counted as they come.
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) const fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 {
            self.activity.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(15);
    const SILENCE: Duration = Duration::from_secs(180);

    async fn ends_after(activity: &Arc<Activity>) -> Duration {
        let began = tokio::time::Instant::now();
        activity.idle(HEAD, SILENCE).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_ends_the_connection() {
        let activity = Arc::new(Activity::new(Protocol::Http1));
        activity.bytes_read.store(10, Ordering::Relaxed);
        assert_eq!(ends_after(&activity).await, HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_uses_ends_later() {
        let activity = Arc::new(Activity::new(Protocol::Http1));
        drop(activity.begin(false));
        assert!(ends_after(&activity).await >= SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_under_way_keeps_its_connection() {
        let activity = Arc::new(Activity::new(Protocol::Http1));
        let busy = activity.begin(false);
        let idle = tokio::time::timeout(SILENCE * 10, activity.idle(HEAD, SILENCE));
        assert!(idle.await.is_err());
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_between_requests_are_no_head_in_http2() {
        let activity = Arc::new(Activity::new(Protocol::Http2));
        activity.bytes_read.store(10, Ordering::Relaxed);
        assert!(ends_after(&activity).await >= SILENCE);
    }
}
