//! Probes by gRPC's health protocol, `grpc.health.v1`: what counts is that the container says it serves.

use std::net::IpAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;

use super::ask::{Failure, reach};
use super::http::AGENT;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// Largest answer. It is a number.
const ANSWER_BYTES_MAX: usize = 1 << 10;
/// A message is told by a flag and its length.
const PREFIX_BYTES: usize = 5;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks whether a service is served; the server as a whole, if none is named.
pub(super) async fn check(addresses: &[IpAddr], port: u16, service: &str) -> Result<(), Failure> {
    let (stream, at) = reach(addresses, port).await?;
    let (mut sender, connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await?;
    // Ends with the sender.
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::post(format!("http://{at}{PATH}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(framed(&Asked { service: service.to_owned() })))?;
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(Failure::Status(head.status.as_u16()));
    }
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(Failure::Body)?;
    // An error may come without a message, in the head.
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = status(&trailers).or_else(|| status(&head.headers));
    match status.as_deref() {
        Some("0") => said(&body.to_bytes()),
        Some(other) => Err(Failure::GrpcStatus(other.to_owned())),
        None => Err(Failure::NoHealth),
    }
}

fn framed(message: &Asked) -> Bytes {
    let message = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("the file bounds the name of a service"));
    frame.put_slice(&message);
    frame.freeze()
}

fn status(headers: &HeaderMap) -> Option<String> {
    let status = headers.get("grpc-status")?.to_str().ok()?;
    // A few digits; what else stands there is no status.
    (status.len() <= 4).then(|| status.to_owned())
}

fn said(body: &[u8]) -> Result<(), Failure> {
    let (prefix, message) = body.split_first_chunk::<PREFIX_BYTES>().ok_or(Failure::NoHealth)?;
    let [flag, length @ ..] = prefix;
    if *flag != 0 || usize::try_from(u32::from_be_bytes(*length)).ok() != Some(message.len()) {
        return Err(Failure::NoHealth);
    }
    match Told::decode(message).map_err(|_| Failure::NoHealth)?.status {
        1 => Ok(()),
        2 => Err(Failure::NotServing("not serving")),
        3 => Err(Failure::NotServing("not serving this service")),
        _ => Err(Failure::NotServing("of an unknown status")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_container_that_says_that_it_serves_is_well() {
        assert!(said(&[0, 0, 0, 0, 2, 8, 1]).is_ok());
        for other in [
            &[][..],
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 8, 2],
            &[0, 0, 0, 0, 2, 8, 3],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0xff, 0xff, 0xff, 0xff, 8, 1],
            &[0, 0, 0, 0, 2, 8, 0xff],
        ] {
            assert!(said(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_question_is_framed_as_grpc_has_it() {
        assert_eq!(framed(&Asked { service: String::new() }).as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(framed(&Asked { service: "a".to_owned() }).as_ref(), [0, 0, 0, 0, 3, 10, 1, b'a']);
    }
}
