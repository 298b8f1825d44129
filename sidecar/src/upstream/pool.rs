//! The pool of one destination, as others use it.

use std::sync::Arc;
use std::time::Duration;

use http::Response;

use super::body::UpstreamBody;
use super::destination::Destination;
use super::state::Shared;
use super::{Outgoing, SendError, Unsent};
use crate::external::Dress;

/// How often a request that never left is tried on another connection of the same destination.
const TRIES_MAX: u32 = 8;

/// What a pool allows itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time for a connection, TLS included.
    pub connect_timeout: Duration,
    /// Connections at once, those that are being made included.
    pub connections_max: usize,
    /// Requests that wait for a connection at once.
    pub pending_max: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams_per_connection_max: usize,
    /// Time without a request after which a connection is closed. Shorter than the server's own: whoever closes first
    /// never sends into a connection that the other side has closed.
    pub idle_timeout: Duration,
    /// Age, give or take a tenth, after which a connection takes no more requests, so that identities are proved
    /// again.
    pub age_max: Duration,
    /// Requests after which a connection takes no more.
    pub requests_max: u32,
    /// HTTP/2 without having agreed on it, where there is no TLS.
    pub http2_prior_knowledge: bool,
}

impl Settings {
    /// For a server beside this sidecar. Common servers close an idle connection after five seconds.
    pub const fn local() -> Self {
        Self { idle_timeout: Duration::from_secs(4), ..Self::peer() }
    }

    /// For another sidecar, which keeps idle connections for minutes.
    pub const fn peer() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            connections_max: 1024,
            pending_max: 1024,
            streams_per_connection_max: 100,
            idle_timeout: Duration::from_secs(60),
            age_max: Duration::from_secs(3600),
            requests_max: u32::MAX,
            http2_prior_knowledge: false,
        }
    }
}

/// What a pool holds at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that exist or are being made.
    pub open: usize,
    /// HTTP/1.1 connections that wait for a request.
    pub idle: usize,
    /// Requests that wait for a connection.
    pub pending: usize,
}

/// Connections to one destination. Clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    /// What requests take along, where they leave the mesh.
    dress: Option<Arc<Dress>>,
}

impl Pool {
    pub fn new(destination: Destination, settings: Settings) -> Self {
        Self { shared: Shared::new(destination, settings), dress: None }
    }

    /// Every request is dressed before it is sent, and every answer undressed: no way leads past that.
    #[must_use]
    pub(crate) fn dressing(mut self, dress: Dress) -> Self {
        self.dress = Some(Arc::new(dress));
        self
    }

    /// Sends a request and waits for the head of its answer. Dropping the future gives the request up, and closes the
    /// connection if it was sent.
    ///
    /// The request needs a method, a path and its own headers; host and version are the pool's business.
    pub async fn send(&self, request: Outgoing) -> Result<Response<UpstreamBody>, SendError> {
        if let Some(dress) = &self.dress {
            // In a box: few are.
            return Box::pin(self.send_dressed(dress, request)).await;
        }
        self.send_bare(request).await
    }

    async fn send_dressed(
        &self,
        dress: &Dress,
        mut request: Outgoing,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let worn = match dress.put_on(Arc::make_mut(&mut request).headers_mut()).await {
            Ok(worn) => worn,
            Err(error) => {
                return Err(SendError::NeverSent { request, why: Unsent::Credentials(Arc::new(error)) });
            }
        };
        let mut response = self.send_bare(request).await?;
        dress.take_off(&worn, &mut response);
        Ok(response)
    }

    async fn send_bare(&self, mut request: Outgoing) -> Result<Response<UpstreamBody>, SendError> {
        let mut tries = 0;
        loop {
            let lease = match self.shared.lease().await {
                Ok(lease) => lease,
                Err(why) => return Err(SendError::NeverSent { request, why }),
            };
            // On a new connection there was no race with the server's closing an old one.
            let may_be_stale = lease.served_before();
            tries += 1;
            match lease.send(request).await {
                Err(SendError::NeverSent { request: back, .. }) if may_be_stale && tries < TRIES_MAX => {
                    request = back;
                }
                outcome => return outcome,
            }
        }
    }

    /// Takes no more requests. What is under way goes on, each connection ends with its last request.
    pub fn retire(&self) {
        self.shared.retire();
    }

    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}
