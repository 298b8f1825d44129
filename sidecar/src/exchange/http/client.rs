//! The plain way to a server: a connection for each request, in the clear. For servers beside this sidecar, and tests.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::exchange::BoxFuture;
use crate::refusal::Refusal;

use super::{AnswerBody, Http};

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    Unix(PathBuf),
}

/// A connection for each request.
#[derive(Clone, Debug)]
pub struct Direct {
    pub address: Address,
    pub connect_timeout: Duration,
}

impl Http for Direct {
    fn send(&self, request: Request<Full<Bytes>>) -> BoxFuture<'_, Result<Response<AnswerBody>, Refusal>> {
        Box::pin(async move {
            let unreachable = |error: std::io::Error| Refusal::UpstreamUnreachable(error.to_string());
            let late = |_| Refusal::UpstreamUnreachable("no connection in time".to_owned());
            match &self.address {
                Address::Tcp(address) => {
                    let connecting = timeout(self.connect_timeout, TcpStream::connect(address));
                    let stream = connecting.await.map_err(late)?.map_err(unreachable)?;
                    // Messages are small and wait for each other.
                    stream.set_nodelay(true).map_err(unreachable)?;
                    exchange(stream, request).await
                }
                Address::Unix(path) => {
                    let connecting = timeout(self.connect_timeout, UnixStream::connect(path));
                    exchange(connecting.await.map_err(late)?.map_err(unreachable)?, request).await
                }
            }
        })
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<AnswerBody>, Refusal> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Refusal::UpstreamUnreachable(error.to_string()))?;
    let connection = Connection(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a server broke");
        }
    }));
    let response = sender.send_request(request).await.map_err(|error| broke(&error))?;
    Ok(response.map(|body| Held { body, _connection: connection }.boxed_unsync()))
}

fn broke(error: &hyper::Error) -> Refusal {
    Refusal::UpstreamBroke(error.to_string())
}

/// A connection that ends when this is dropped.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A body with the connection that it comes over.
struct Held {
    body: Incoming,
    _connection: Connection,
}

impl Body for Held {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map(|frame| frame.map(|frame| frame.map_err(|error| broke(&error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
