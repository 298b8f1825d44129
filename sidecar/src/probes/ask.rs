//! One probe, made within its time.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::settings::{Probe, Question};
use super::{Outcome, grpc, http};

/// Why a container is not well.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("port {port} cannot be reached at {}: {source}", .at.ip())]
    Reach { at: SocketAddr, port: u16, source: io::Error },
    #[error("port {port} cannot be reached")]
    Nowhere { port: u16 },
    #[error("no TLS: {0}")]
    Tls(io::Error),
    #[error("no HTTP: {}", in_full(.0))]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] ::http::Error),
    #[error("the answer cannot be read: {0}")]
    Body(Box<dyn Error + Send + Sync>),
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("it redirected more than {0} times")]
    Redirects(usize),
    #[error("it answered with gRPC status {0}")]
    GrpcStatus(String),
    #[error("its answer is none of gRPC's health protocol")]
    NoHealth,
    #[error("it says that it is {0}")]
    NotServing(&'static str),
}

/// Asks a container, at the first of the addresses that takes the connection.
pub(super) async fn ask(probe: &Probe, addresses: &[IpAddr]) -> Outcome {
    let asked = async {
        match &probe.question {
            Question::Tcp { port } => reach(addresses, *port).await.map(|_| None),
            Question::Http(get) => Box::pin(http::get(get, addresses)).await,
            Question::Grpc { port, service } => {
                Box::pin(grpc::check(addresses, *port, service)).await.map(|()| None)
            }
        }
    };
    match timeout(probe.timeout, asked).await {
        Ok(Ok(but)) => Ok(but),
        Ok(Err(failure)) => Err(failure.to_string().into()),
        Err(_) => Err(format!("it did not answer within {} s", probe.timeout.as_secs()).into()),
    }
}

/// A connection to the port. Who does not listen at one address may at another.
pub(super) async fn reach(addresses: &[IpAddr], port: u16) -> Result<(TcpStream, SocketAddr), Failure> {
    let mut first = None;
    for ip in addresses {
        let at = SocketAddr::new(*ip, port);
        match TcpStream::connect(at).await {
            Ok(stream) => return Ok((stream, at)),
            Err(source) => {
                first.get_or_insert(Failure::Reach { at, port, source });
            }
        }
    }
    Err(first.unwrap_or(Failure::Nowhere { port }))
}

/// What is said besides that a container is well.
pub(super) fn but(text: &str) -> Option<Arc<str>> {
    Some(text.into())
}

/// Errors of hyper say little without their causes.
fn in_full(error: &hyper::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
