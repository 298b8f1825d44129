//! Hearing what a server says outside of requests. Not here: who is told of it; that is whoever has the session.

use std::sync::atomic::Ordering;

use http::StatusCode;
use tokio::time::{Instant, sleep};

use crate::exchange::http::answer::Events;
use crate::exchange::http::sessions::{Established, Session};
use crate::exchange::http::sort::{Sorted, sort};
use crate::exchange::{Aside, Said};
use crate::refusal::Refusal;

use super::{RETRY, RETRY_MAX, Server};

impl Server {
    /// Hears what the server says outside of requests, until the session ends.
    ///
    /// A stream that goes on is kept when nobody wants it any more. Servers allow one for a session, and some notice
    /// that it was closed only when they next have something to say: that is lost then, and until then nobody else gets
    /// a stream.
    pub(super) async fn listen(&self, session: &Session) {
        loop {
            tokio::select! {
                () = session.over.cancelled() => return,
                () = self.keep_listening(session) => {}
            }
            session.is_listening.store(false, Ordering::Release);
            // Someone may have come just now and seen that there is someone who listens.
            let is_wanted = session.asides.receiver_count() > 0;
            if !is_wanted || session.is_listening.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }

    /// Returns when there is no stream and nobody wants one.
    async fn keep_listening(&self, session: &Session) {
        let mut last_id = None;
        let mut pause = RETRY;
        let mut gone = None;
        loop {
            let outcome = async {
                let established = self.established(session, gone.take().as_ref()).await?;
                let response = self.resume(&established, last_id.as_ref()).await?;
                Ok::<_, Refusal>((established, response))
            };
            match outcome.await {
                Ok((established, response)) if response.status() == StatusCode::NOT_FOUND => {
                    (gone, last_id) = (Some(established), None);
                }
                Ok((established, response)) if response.status().is_success() => {
                    session.hears.send_replace(true);
                    let mut events = Events::new(response, &self.settings);
                    let began = Instant::now();
                    let heard = self.hear_asides(session, &established, &mut events).await;
                    last_id = events.resumable().cloned();
                    // A server that only ever ends the stream at once is asked less and less often.
                    if heard || events.retry.is_some() || began.elapsed() > pause {
                        pause = events.retry.unwrap_or(RETRY);
                    }
                }
                // The server takes another stream for open, and will notice that it is not.
                Ok((_, response)) if response.status() == StatusCode::CONFLICT => {
                    tracing::debug!("another stream is open at the server");
                }
                // The server has no such stream.
                Ok((_, response)) if response.status().is_client_error() => {
                    session.hears.send_replace(true);
                    return session.asides.closed().await;
                }
                Ok((_, response)) => tracing::debug!(status = %response.status(), "no stream"),
                Err(refusal) => tracing::debug!(detail = refusal.detail(), "no stream"),
            }
            tokio::select! {
                () = session.asides.closed() => return,
                () = sleep(pause.clamp(RETRY, RETRY_MAX)) => {}
            }
            pause = pause.saturating_mul(2);
        }
    }

    /// Hears a stream to its end; tells whether anything came.
    async fn hear_asides(&self, session: &Session, established: &Established, events: &mut Events) -> bool {
        let mut heard = false;
        loop {
            let message = match events.next().await {
                Ok(Some(event)) if event.is("message") => event.data.unwrap_or_default(),
                Ok(Some(_)) => continue,
                Ok(None) => return heard,
                Err(refusal) => {
                    tracing::debug!(detail = refusal.detail(), "stream broke");
                    return heard;
                }
            };
            heard = true;
            // Nobody may be left to hear it.
            match sort(&message, None, self.settings.bounds) {
                Ok(Sorted::Aside(note) | Sorted::Note(note)) => drop(session.asides.send(Aside::Note(note))),
                // Without a session of the caller's own, what is asked can only be about a call that is under way.
                Ok(Sorted::Request(request)) => match session.meant() {
                    Some(meant) => drop(meant.send(Ok(Said::Request(request))).await),
                    None => drop(session.asides.send(Aside::Request(request))),
                },
                Ok(Sorted::Ping(pong)) => drop(self.post(established, pong).await),
                Ok(Sorted::Response(_) | Sorted::Stray) => {}
                Err(refusal) => tracing::debug!(detail = refusal.detail(), "message passed over"),
            }
        }
    }
}
