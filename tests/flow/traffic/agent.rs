//! An agent with its sidecar.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use weft_sidecar::app::Running;

use super::pair::{self, Answer, Pair};
use crate::mesh::Mesh;

pub(crate) struct Agent {
    pub(crate) sidecar: Running,
}

impl Agent {
    pub(crate) async fn join(pair: &Pair, account: &str) -> Self {
        Self::join_mesh(&pair.mesh, account).await
    }

    pub(crate) async fn join_mesh(mesh: &Mesh, account: &str) -> Self {
        let listen = json!({ "inbound": null, "outbound": "127.0.0.1:0" });
        Self { sidecar: pair::sidecar(mesh, "agents", account, listen, json!({})).await }
    }

    /// On a connection of its own.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        send(self.sidecar.outbound.unwrap(), request).await.unwrap()
    }

    pub(crate) async fn answer(&self, request: Request<Full<Bytes>>) -> Answer {
        Answer::read(self.send(request).await).await
    }

    /// Calls a tool in the modern way.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Answer {
        self.answer(pair::modern("tools/call", tool, json!({ "name": tool, "arguments": arguments }))).await
    }
}

/// Sends a request to an outbound listener, on a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    mut request: Request<Full<Bytes>>,
) -> anyhow::Result<Response<Incoming>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    request.headers_mut().insert("host", address.to_string().parse()?);
    Ok(sender.send_request(request).await?)
}
