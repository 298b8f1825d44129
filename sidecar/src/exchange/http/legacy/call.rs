//! Hearing what comes in answer to one request, over as many connections as it takes.

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::mpsc;
use tokio::time::sleep;
use weft_proto::mcp::Id;

use crate::exchange::http::answer::{Events, Form};
use crate::exchange::http::sessions::{Established, Session};
use crate::exchange::http::sort::{Sorted, sort};
use crate::exchange::{Aside, Said};
use crate::refusal::Refusal;

use super::{RETRY, RETRY_MAX, Server};

/// Connections after each other that bring nothing for a request, before it is given up.
const EMPTY_MAX: u32 = 16;

/// One request that is under way.
pub(super) struct Call<'a> {
    pub(super) server: &'a Server,
    pub(super) session: &'a Session,
    pub(super) established: &'a Established,
    pub(super) id: &'a str,
    pub(super) sender: &'a mpsc::Sender<Result<Said, Refusal>>,
}

impl Call<'_> {
    /// Takes a message; tells whether it was the response.
    pub(super) async fn hear(&self, message: Bytes) -> Result<bool, Refusal> {
        let said = match sort(&message, Id::parse(self.id).as_ref(), self.server.settings.bounds)? {
            Sorted::Response(response) => Said::Response(response),
            Sorted::Note(note) => Said::Note(note),
            Sorted::Request(request) => Said::Request(request),
            Sorted::Aside(note) => {
                // Nobody may listen.
                _ = self.session.asides.send(Aside::Note(note));
                return Ok(false);
            }
            Sorted::Ping(pong) => {
                self.server.post(self.established, pong).await?;
                return Ok(false);
            }
            Sorted::Stray => {
                tracing::debug!("response to nothing that was asked");
                return Ok(false);
            }
        };
        let is_response = matches!(said, Said::Response(_));
        // Whoever is gone is noticed elsewhere.
        _ = self.sender.send(Ok(said)).await;
        Ok(is_response)
    }

    /// Follows a stream until the response. A server may end the connection whenever it has given an event an id; the
    /// rest comes with the next one.
    pub(super) async fn follow(&self, mut events: Events) -> Result<(), Refusal> {
        let mut empty = 0;
        loop {
            // Where there is no room, messages wait that are as good a sign.
            let at_work = || drop(self.sender.try_send(Ok(Said::Sign)));
            let broke = match events.next_with(at_work).await {
                Ok(Some(event)) if event.is("message") => {
                    empty = 0;
                    if self.hear(event.data.unwrap_or_default()).await? {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Some(_)) => continue,
                Ok(None) => Refusal::UpstreamBroke("the stream ended without a response".to_owned()),
                Err(refusal) => refusal,
            };
            events = self.followed_on(events, broke, &mut empty).await?;
        }
    }

    /// The next connection of a stream.
    async fn followed_on(&self, ended: Events, broke: Refusal, empty: &mut u32) -> Result<Events, Refusal> {
        let Some(last_id) = ended.resumable().cloned() else { return Err(broke) };
        loop {
            *empty += 1;
            if *empty > EMPTY_MAX {
                return Err(broke);
            }
            sleep(ended.retry.unwrap_or(RETRY).min(RETRY_MAX)).await;
            let response = match self.server.resume(self.established, Some(&last_id)).await {
                // A conflict: the server has not noticed yet that the last connection is gone.
                Ok(response)
                    if response.status().is_server_error() || response.status() == StatusCode::CONFLICT =>
                {
                    continue;
                }
                Ok(response) => response,
                Err(Refusal::UpstreamUnreachable(_)) => continue,
                Err(refusal) => return Err(refusal),
            };
            let is_stream = Form::of(response.headers()) == Form::Events && response.status().is_success();
            if !is_stream {
                let status = response.status();
                return Err(Refusal::UpstreamBroke(format!("the rest of the stream got status {status}")));
            }
            let mut events = Events::new(response, &self.server.settings);
            events.last_id = Some(last_id);
            events.retry = ended.retry;
            return Ok(events);
        }
    }
}
