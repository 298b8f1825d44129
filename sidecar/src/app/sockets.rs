//! The doors of a sidecar, opened.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;

use super::{Error, is_plain};
use crate::bootstrap::{Bootstrap, Listen};
use crate::gateway::Gateway;

/// Connections that wait to be taken.
const BACKLOG: u32 = 1024;

/// The sockets of a sidecar, none where a door is not wanted.
pub(super) struct Sockets {
    pub(super) inbound: Option<TcpListener>,
    pub(super) outbound: Option<TcpListener>,
    pub(super) gateway: Option<TcpListener>,
    pub(super) health: Option<TcpListener>,
    pub(super) admin: Option<TcpListener>,
}

impl Sockets {
    /// Opens everything before anything is served, so that a port that is taken is told at once.
    pub(super) fn open(bootstrap: &Bootstrap, workers: &Handle) -> Result<Self, Error> {
        let _in_workers = workers.enter();
        let Listen { inbound, outbound, gateway, health, admin } = &bootstrap.listen;
        let (inbound, outbound, health, admin) = (*inbound, *outbound, *health, *admin);
        let inbound =
            if is_plain(bootstrap) { loopback("inbound", inbound)? } else { open("inbound", inbound)? };
        Ok(Self {
            inbound,
            outbound: loopback("outbound", outbound)?,
            gateway: gateway.as_ref().map(public).transpose()?.flatten(),
            health: open("health", health)?,
            admin: loopback("admin", admin)?,
        })
    }

    pub(super) fn addresses(&self) -> [Option<SocketAddr>; 5] {
        [&self.inbound, &self.outbound, &self.gateway, &self.health, &self.admin]
            .map(|socket| socket.as_ref().and_then(|socket| socket.local_addr().ok()))
    }
}

/// Tokens are shown to whoever listens on the way, so that plain HTTP has to be meant.
fn public(gateway: &Gateway) -> Result<Option<TcpListener>, Error> {
    let address = gateway.address;
    match (&gateway.tls, gateway.plain_http) {
        (Some(_), true) => Err(Error::PlainAndTls),
        (None, false) if !address.ip().is_loopback() => Err(Error::Plain { address }),
        _ => open("gateway", Some(address)),
    }
}

fn loopback(door: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, Error> {
    match address {
        Some(address) if !address.ip().is_loopback() => Err(Error::NotLoopback { door, address }),
        address => open(door, address),
    }
}

fn open(door: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, Error> {
    let Some(address) = address else { return Ok(None) };
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map(Some).map_err(|source| Error::Listen { door, address, source })
}
