//! What the doors for whoever runs a sidecar show, and whom.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use weft_sidecar::app::Running;

use super::pair::Answer;

pub(crate) async fn get(door: SocketAddr, path: &str) -> Answer {
    ask(door, Method::GET, path, "localhost").await
}

async fn ask(door: SocketAddr, method: Method, path: &str, host: &str) -> Answer {
    let stream = TcpStream::connect(door).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", host);
    let request = request.body(Full::<Bytes>::default()).unwrap();
    Answer::read(sender.send_request(request).await.unwrap()).await
}

/// The value of a series, named with its labels.
pub(crate) fn value(sidecar: &Running, series: &str) -> i64 {
    let text = sidecar.metrics.text();
    let value = text.lines().find_map(|line| line.strip_prefix("weft_sidecar_")?.strip_prefix(series));
    value.map_or(0, |value| value.trim().parse().unwrap())
}
