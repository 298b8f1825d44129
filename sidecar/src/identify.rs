//! Who is at the other end of a connection: found once, when it opens.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use weft_certs::svid::Serial;
use weft_proto::policy;

/// In whose name requests come on a connection.
#[derive(Debug)]
pub struct Identified {
    /// Where the connection comes from.
    pub address: SocketAddr,
    pub caller: Caller,
    pub protocol: Protocol,
}

/// Who calls.
#[derive(Debug)]
pub enum Caller {
    /// Somebody who proved an identity of the mesh.
    Workload(Proved),
    /// The agent beside this sidecar: it came over loopback, and calls in this sidecar's own name.
    Local,
    /// Nobody knows: a listener without TLS, which exists only on loopback and only without a control plane.
    Anonymous,
}

/// An identity that a certificate proved.
#[derive(Debug)]
pub struct Proved {
    /// As policies know it.
    pub caller: policy::Caller,
    /// The SPIFFE ID, as everything that records it needs it.
    pub id: Arc<str>,
    /// The same, as a header.
    pub header: HeaderValue,
    pub serial: Serial,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

impl Caller {
    /// How the caller appears in records, sessions and headers.
    pub fn name(&self) -> &str {
        match self {
            Self::Workload(proved) => &proved.id,
            Self::Local => "local",
            Self::Anonymous => "anonymous",
        }
    }

    /// The same, as a header.
    pub fn header(&self) -> HeaderValue {
        match self {
            Self::Workload(proved) => proved.header.clone(),
            Self::Local => HeaderValue::from_static("local"),
            Self::Anonymous => HeaderValue::from_static("anonymous"),
        }
    }

    /// The same, shared.
    pub fn shared_name(&self) -> Arc<str> {
        match self {
            Self::Workload(proved) => Arc::clone(&proved.id),
            Self::Local | Self::Anonymous => self.name().into(),
        }
    }
}
