//! Makes connections: looks the name up, tries its addresses one after the other without waiting long for any, and
//! proves the peer where TLS is spoken.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::destination::{Address, Destination};
use super::state::Place;

/// How long the addresses of a name are used without asking again.
const RESOLVED_FOR: Duration = Duration::from_secs(5);

/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;

/// How long an address is waited for before the next one is tried beside it.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{host} cannot be looked up: {source}")]
    Resolve { host: Arc<str>, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: Arc<str> },
    #[error("{to} cannot be reached: {source}")]
    Reach { to: String, source: io::Error },
    #[error("no TLS with {to}: {source}")]
    Tls { to: Address, source: io::Error },
    #[error("no HTTP: {}", super::in_full(.0))]
    Http(hyper::Error),
    #[error("no connection within {} s", .after.as_secs_f64())]
    Timeout { after: Duration },
}

/// Makes connections to one destination.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) destination: Destination,
    resolved: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
}

impl Connector {
    pub(super) const fn new(destination: Destination) -> Self {
        Self { destination, resolved: Mutex::new(None) }
    }

    pub(super) async fn connect(&self) -> Result<Io, Error> {
        match &self.destination {
            Destination::Tcp(address) => Ok(Io::Tcp(self.tcp(address).await?)),
            Destination::Unix(path) => {
                let to = || format!("the socket {}", path.display());
                let stream = UnixStream::connect(path).await;
                Ok(Io::Unix(stream.map_err(|source| Error::Reach { to: to(), source })?))
            }
            Destination::Tls { address, config } => {
                let stream = self.tcp(address).await?;
                let tls = TlsConnector::from(Arc::clone(config)).connect(address.server_name(), stream).await;
                let tls = tls.map_err(|source| Error::Tls { to: address.clone(), source })?;
                Ok(Io::Tls(Box::new(tls)))
            }
        }
    }

    async fn tcp(&self, address: &Address) -> Result<TcpStream, Error> {
        let (host, port) = match address {
            Address::Socket(address) => return reach(*address).await,
            Address::Name { host, port } => (host, *port),
            Address::Loopback { port } => {
                let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
                let reached = first_of(&both.map(|ip: IpAddr| SocketAddr::new(ip, *port))).await;
                return reached.expect("there are two addresses");
            }
        };
        if let Some(addresses) = self.known()
            && let Some(Ok(stream)) = first_of(&addresses).await
        {
            return Ok(stream);
        }
        // There are none, or they may be the old ones.
        let addresses = self.resolve(host, port).await?;
        let connected =
            first_of(&addresses).await.unwrap_or_else(|| Err(Error::NoAddress { host: host.clone() }));
        if connected.is_err() {
            *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        connected
    }

    /// The addresses that were found a moment ago.
    fn known(&self) -> Option<Arc<[SocketAddr]>> {
        let known = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.filter(|(since, _)| since.elapsed() < RESOLVED_FOR).map(|(_, addresses)| addresses)
    }

    async fn resolve(&self, host: &Arc<str>, port: u16) -> Result<Arc<[SocketAddr]>, Error> {
        let found = tokio::net::lookup_host((&**host, port)).await;
        let found = found.map_err(|source| Error::Resolve { host: host.clone(), source })?;
        let addresses: Arc<[SocketAddr]> = found.take(ADDRESSES_MAX).collect();
        let resolved = Some((Instant::now(), Arc::clone(&addresses)));
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = resolved;
        Ok(addresses)
    }
}

/// The first address that answers. None if there are no addresses.
async fn first_of(addresses: &[SocketAddr]) -> Option<Result<TcpStream, Error>> {
    let mut rest = addresses.iter();
    let mut attempts = FuturesUnordered::from_iter(rest.next().map(|address| reach(*address)));
    loop {
        let error = tokio::select! {
            outcome = attempts.next() => match outcome? {
                Ok(stream) => return Some(Ok(stream)),
                Err(error) => Some(error),
            },
            () = sleep(NEXT_ADDRESS_AFTER), if rest.len() > 0 => None,
        };
        match (rest.next(), error) {
            (Some(address), _) => attempts.push(reach(*address)),
            (None, Some(error)) if attempts.is_empty() => return Some(Err(error)),
            (None, _) => {}
        }
    }
}

async fn reach(address: SocketAddr) -> Result<TcpStream, Error> {
    let failed = |source| Error::Reach { to: address.to_string(), source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// The bytes of a connection, whatever they travel over.
#[derive(Debug)]
pub(super) enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    /// What was agreed by ALPN, where there was any.
    pub(super) fn is_http2(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            Self::Tcp(_) | Self::Unix(_) => false,
        }
    }
}

/// A connection in its place: the place is free again when the connection is closed, and not before.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) io: Io,
    pub(super) _place: Place,
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().io {
            Io::Tcp($stream) => $call,
            Io::Unix($stream) => $call,
            Io::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(stream) => stream.is_write_vectored(),
            Io::Unix(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A connector to `localhost`, which was found elsewhere before.
    fn found_before(port: u16, before: SocketAddr) -> Connector {
        let address = Address::Name { host: "localhost".into(), port };
        let connector = Connector::new(Destination::Tcp(address));
        *connector.resolved.lock().unwrap() = Some((Instant::now(), [before].into()));
        connector
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn reached(io: &Io) -> SocketAddr {
        let Io::Tcp(stream) = io else { panic!("{io:?}") };
        stream.peer_addr().unwrap()
    }

    #[tokio::test]
    async fn a_name_whose_address_is_dead_is_looked_up_again_at_once() {
        let ((_now, now), (before, old)) = (listener().await, listener().await);
        drop(before);
        let connector = found_before(now.port(), old);
        assert_eq!(reached(&connector.connect().await.unwrap()), now);
        assert!(connector.known().unwrap().contains(&now), "it is found there from now on");
    }

    #[tokio::test]
    async fn a_name_is_looked_up_again_after_a_while_even_if_its_address_still_answers() {
        let ((_now, now), (_before, old)) = (listener().await, listener().await);
        let connector = found_before(now.port(), old);
        assert_eq!(reached(&connector.connect().await.unwrap()), old);
        tokio::time::pause();
        tokio::time::advance(RESOLVED_FOR).await;
        tokio::time::resume();
        assert_eq!(reached(&connector.connect().await.unwrap()), now);
    }
}
