//! Who is at the other end of a connection: found once, when it opens.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use weft_certs::svid::Serial;
use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::policy;
use weft_proto::policy::access::View;

use crate::quota::Mark;

/// Most servers whose views a connection keeps: beside a sidecar there are few, and a view is soon made again.
const VIEWS_MAX: usize = 16;

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
    /// What the caller may do at the servers that it called on the connection.
    pub views: Views,
    /// What quotas know the caller by.
    pub mark: Mark,
}

/// Views of servers, the last made last.
#[derive(Debug, Default)]
pub struct Views(Mutex<Vec<Arc<View>>>);

impl Proved {
    /// What the caller may do at a server by a snapshot: found once for a connection, and again when a policy changed.
    pub fn view(&self, snapshot: &Snapshot, entry: &ServerEntry) -> Arc<View> {
        let (policies, default_action) = (&entry.access, snapshot.default_action());
        let server = &entry.server.meta;
        let mut views = self.views.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = views.iter().rposition(|view| view.is_about(&server.namespace, &server.name));
        if let Some(place) = place {
            let view = &views[place];
            if view.is_of(policies, default_action) {
                return Arc::clone(view);
            }
            views.remove(place);
        }
        let view = Arc::new(View::new(policies, default_action, self.caller.clone(), server.full_name()));
        if views.len() == VIEWS_MAX {
            views.remove(0);
        }
        views.push(Arc::clone(&view));
        view
    }
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

    /// Whoever proved who they are, as policies know them.
    pub fn proved(&self) -> Option<&policy::Caller> {
        match self {
            Self::Workload(proved) => Some(&proved.caller),
            Self::Local | Self::Anonymous => None,
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
