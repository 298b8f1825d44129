//! Who is at the other end of a connection, as far as the handshake proved it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use weft_certs::bundle::Bundles;
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
    /// Who sent a request.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Result<Self, tonic::Status> {
        let peer = request.extensions().get::<Self>().cloned();
        peer.ok_or_else(|| tonic::Status::internal("the connection carries no peer"))
    }

    /// The workload that the certificate names.
    pub fn workload(&self) -> Option<Workload> {
        self.leaf.as_ref()?.spiffe_id.workload()
    }

    /// Whether the certificate was revoked since, which no handshake of an open connection tells.
    pub fn is_revoked(&self, bundles: &Bundles) -> bool {
        self.leaf.as_ref().is_some_and(|leaf| {
            let bundle = bundles.get(leaf.spiffe_id.trust_domain());
            bundle.is_some_and(|bundle| bundle.revoked().contains(&leaf.serial))
        })
    }

    /// The network that the other end is in.
    pub fn network(&self) -> IpAddr {
        network(self.address.ip())
    }
}

/// What one party is known by: an IPv4 address, or the /64 that an IPv6 host has for itself.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let mask = !u128::from(u64::MAX);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}
