//! Who is at the other end of a connection: found once, when it opens. A gateway calls for many, and says for whom with
//! each request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use weft_certs::svid::Serial;
use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::name::Workload;
use weft_proto::policy;
use weft_proto::policy::access::View;

use crate::gateway::{Guest, guest};
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
    Workload(Box<Proved>),
    /// The agent beside this sidecar: it came over loopback, and calls in this sidecar's own name.
    Local,
    /// Nobody knows: a listener without TLS, which exists only on loopback and only without a control plane; or that of
    /// a gateway, where each request says who calls.
    Anonymous,
    /// Somebody from outside the mesh whom this gateway knows.
    Guest(Arc<Guest>),
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
    /// Whose part of what is counted by tenant it is: the namespace of a workload, or a tenant that a gateway names,
    /// which is written as no namespace is.
    pub tenant: Box<str>,
    /// What quotas know the caller by.
    pub mark: Mark,
    /// Whether a gateway says so: what is proved is the gateway's identity.
    pub by_gateway: bool,
    /// Those for whom it called on the connection.
    pub guests: Guests,
}

/// Most guests that a connection of a gateway keeps: one that is not kept is read again.
const GUESTS_MAX: usize = 256;

/// Those for whom a gateway called on a connection, by what it says of each.
#[derive(Debug, Default)]
pub struct Guests(Mutex<HashMap<HeaderValue, Arc<Identified>>>);

impl Identified {
    /// The one for whom a gateway calls: whom policies, quotas, sessions and records take for the caller.
    pub fn on_behalf(&self, said: &HeaderValue, bytes_max: usize) -> Result<Arc<Self>, guest::Error> {
        let Caller::Workload(proved) = &self.caller else { return Err(guest::Error::Form) };
        let mut guests = proved.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = guests.get(said) {
            return Ok(Arc::clone(known));
        }
        let guest = Guest::read(said, proved.caller.workload().clone(), bytes_max)?;
        let tenant = match guest.caller.tenant() {
            Some(tenant) => format!("#{tenant}").into(),
            None => proved.tenant.clone(),
        };
        let spoken_for = Proved {
            caller: guest.caller,
            tenant,
            id: guest.name,
            header: guest.header,
            serial: proved.serial.clone(),
            views: Views::default(),
            mark: Mark::default(),
            by_gateway: true,
            guests: Guests::default(),
        };
        let identified = Arc::new(Self {
            address: self.address,
            caller: Caller::Workload(Box::new(spoken_for)),
            protocol: self.protocol,
        });
        if guests.len() >= GUESTS_MAX {
            guests.clear();
        }
        guests.insert(said.clone(), Arc::clone(&identified));
        Ok(identified)
    }
}

/// Views of servers, the last made last.
#[derive(Debug, Default)]
pub struct Views(Mutex<Vec<Arc<View>>>);

impl Proved {
    /// A workload by its certificate.
    pub fn new(workload: Workload, serial: Serial) -> Self {
        let tenant = workload.namespace.as_str().into();
        let caller = policy::Caller::new(workload);
        let id: Arc<str> = caller.id().as_str().into();
        let header = HeaderValue::from_str(&id).expect("a SPIFFE ID has only letters that a header can hold");
        let (views, mark, guests) = (Views::default(), Mark::default(), Guests::default());
        Self { caller, id, header, serial, views, tenant, mark, by_gateway: false, guests }
    }

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
            Self::Guest(guest) => &guest.name,
            Self::Local => "local",
            Self::Anonymous => "anonymous",
        }
    }

    /// Whoever proved who they are, as policies know them.
    pub fn proved(&self) -> Option<&policy::Caller> {
        match self {
            Self::Workload(proved) => Some(&proved.caller),
            Self::Guest(guest) => Some(&guest.caller),
            Self::Local | Self::Anonymous => None,
        }
    }

    /// Whose part of what is counted by tenant it is.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::Workload(proved) => Some(&proved.tenant),
            Self::Local | Self::Anonymous | Self::Guest(_) => None,
        }
    }

    /// What a gateway says of whom it calls for.
    pub fn said(&self) -> Option<&HeaderValue> {
        match self {
            Self::Guest(guest) => Some(&guest.said),
            Self::Workload(_) | Self::Local | Self::Anonymous => None,
        }
    }

    /// How the caller appears to servers.
    pub fn header(&self) -> HeaderValue {
        match self {
            Self::Workload(proved) => proved.header.clone(),
            Self::Guest(guest) => guest.header.clone(),
            Self::Local => HeaderValue::from_static("local"),
            Self::Anonymous => HeaderValue::from_static("anonymous"),
        }
    }

    /// The name, shared.
    pub fn shared_name(&self) -> Arc<str> {
        match self {
            Self::Workload(proved) => Arc::clone(&proved.id),
            Self::Guest(guest) => Arc::clone(&guest.name),
            Self::Local | Self::Anonymous => self.name().into(),
        }
    }
}
