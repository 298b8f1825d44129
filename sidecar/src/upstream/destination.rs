//! Where a pool connects to.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::uri::{Authority, Scheme};
use weft_proto::name::HostPort;

/// One destination, with how it is spoken to below HTTP.
#[derive(Clone)]
pub enum Destination {
    /// In the clear: a server on this machine.
    Tcp(Address),
    Unix(Arc<Path>),
    /// The configuration knows whom to expect, and offers HTTP/2, HTTP/1.1 or both by ALPN.
    Tls {
        address: Address,
        config: Arc<rustls::ClientConfig>,
    },
    /// A server of the web, which is known by its name.
    Web {
        address: Address,
        config: Arc<rustls::ClientConfig>,
        /// Whether it may be at an address that is not a public one.
        private: bool,
    },
}

impl Destination {
    /// What requests carry as their host if they have none.
    pub(super) fn authority(&self) -> Authority {
        let text = match self {
            Self::Tcp(address) | Self::Tls { address, .. } => address.to_string(),
            Self::Web { address: Address::Name { host, port: 443 }, .. } => host.to_string(),
            Self::Web { address, .. } => address.to_string(),
            Self::Unix(_) => LOCALHOST.to_owned(),
        };
        text.parse().unwrap_or(Authority::from_static(LOCALHOST))
    }

    pub(super) const fn scheme(&self) -> Scheme {
        match self {
            Self::Tls { .. } | Self::Web { .. } => Scheme::HTTPS,
            Self::Tcp(_) | Self::Unix(_) => Scheme::HTTP,
        }
    }
}

const LOCALHOST: &str = "localhost";

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tls { address, .. } => write!(f, "tls://{address}"),
            Self::Web { address, .. } => write!(f, "https://{address}"),
        }
    }
}

/// A host and a port; a name is looked up whenever a connection is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Socket(SocketAddr),
    Name {
        host: Arc<str>,
        port: u16,
    },
    /// This machine, by whichever family of addresses answers.
    Loopback {
        port: u16,
    },
}

impl Address {
    pub(super) fn server_name(&self) -> rustls_pki_types::ServerName<'static> {
        let by_name = match self {
            Self::Socket(address) => return address.ip().into(),
            Self::Name { host, .. } => rustls_pki_types::ServerName::try_from(host.to_string()),
            Self::Loopback { .. } => rustls_pki_types::ServerName::try_from(LOCALHOST.to_owned()),
        };
        // A host that is no DNS name cannot be told to the peer; its identity, not its name, is what is verified.
        by_name.unwrap_or_else(|_| std::net::IpAddr::from([0, 0, 0, 0]).into())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl From<&HostPort> for Address {
    fn from(address: &HostPort) -> Self {
        match address.as_str().parse() {
            Ok(socket) => Self::Socket(socket),
            Err(_) => Self::Name { host: address.host().into(), port: address.port() },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Loopback { port } => write!(f, "{LOCALHOST}:{port}"),
        }
    }
}
