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
use crate::external::is_public;

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
    #[error("{host} is at no public address, and nothing allows another")]
    Private { host: Arc<str> },
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
            Destination::Tcp(address) => Ok(Io::Tcp(self.tcp(address, |_| true).await?)),
            Destination::Unix(path) => {
                let to = || format!("the socket {}", path.display());
                let stream = UnixStream::connect(path).await;
                Ok(Io::Unix(stream.map_err(|source| Error::Reach { to: to(), source })?))
            }
            Destination::Tls { address, config } => self.tls(address, config, |_| true).await,
            Destination::Web { address, config, private } => {
                self.tls(address, config, |ip| *private || is_public(ip)).await
            }
        }
    }

    async fn tls(
        &self,
        address: &Address,
        config: &Arc<rustls::ClientConfig>,
        may: impl Fn(IpAddr) -> bool,
    ) -> Result<Io, Error> {
        let stream = self.tcp(address, may).await?;
        let tls = TlsConnector::from(Arc::clone(config)).connect(address.server_name(), stream).await;
        let tls = tls.map_err(|source| Error::Tls { to: address.clone(), source })?;
        Ok(Io::Tls(Box::new(tls)))
    }

    /// Connects to an address that may be connected to. What is looked at is what is connected to: a name that means
    /// something else a moment later leads nowhere else.
    async fn tcp(&self, address: &Address, may: impl Fn(IpAddr) -> bool) -> Result<TcpStream, Error> {
        let (host, port) = match address {
            Address::Socket(address) if may(address.ip()) => return reach(*address).await,
            Address::Socket(address) => return Err(Error::Private { host: address.to_string().into() }),
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
        let addresses = self.resolve(host, port, may).await?;
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

    async fn resolve(
        &self,
        host: &Arc<str>,
        port: u16,
        may: impl Fn(IpAddr) -> bool,
    ) -> Result<Arc<[SocketAddr]>, Error> {
        let found = tokio::net::lookup_host((&**host, port)).await;
        let mut found = found.map_err(|source| Error::Resolve { host: host.clone(), source })?.peekable();
        let is_somewhere = found.peek().is_some();
        let allowed = found.filter(|address| may(address.ip()));
        let addresses: Arc<[SocketAddr]> = allowed.take(ADDRESSES_MAX).collect();
        if is_somewhere && addresses.is_empty() {
            return Err(Error::Private { host: host.clone() });
        }
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
    async fn a_server_of_the_web_is_not_looked_for_in_this_network_unless_that_is_allowed() {
        let (listener, at) = listener().await;
        let config = rustls::ClientConfig::builder_with_provider(weft_certs::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let config = Arc::new(config);
        let name = Address::Name { host: "localhost".into(), port: at.port() };
        for address in [Address::Socket(at), name] {
            let to = |private| {
                let config = Arc::clone(&config);
                Connector::new(Destination::Web { address: address.clone(), config, private })
            };
            let refused = to(false).connect().await.unwrap_err();
            assert!(matches!(refused, Error::Private { .. }), "{refused}");
            let accept = async { drop(listener.accept().await) };
            let connector = to(true);
            let (allowed, ()) = tokio::join!(connector.connect(), accept);
            // It came as far as TLS.
            assert!(matches!(allowed.unwrap_err(), Error::Tls { .. }));
        }
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
