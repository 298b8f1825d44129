//! Who is at the other end of a connection, as far as the handshake proved it.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_certs::svid::Leaf;
use weft_proto::name::Workload;

/// The other end of a connection; travels with every request of it.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// The verified client certificate, if one was presented.
    pub leaf: Option<Arc<Leaf>>,
    /// SHA-256 fingerprint of the root that the certificate chains to.
    pub root: Arc<str>,
}

impl Peer {
    /// The workload that the certificate names.
    pub fn workload(&self) -> Option<Workload> {
        self.leaf.as_ref()?.spiffe_id.workload()
    }
}
