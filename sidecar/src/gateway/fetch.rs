//! Fetching the keys of an issuer: one GET, to an address that may be asked, without following anybody elsewhere.
//!
//! A name is resolved once, and what is connected to is the address that was looked at: a name that means a public
//! address now and one of this network a moment later gets nowhere.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_certs::{pem, tls};
use weft_proto::name::WebUrl;

use super::settings::KeyFetching;
use crate::external::is_public;
use crate::trace::collector;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Largest file of roots, in bytes.
const ROOTS_BYTES_MAX: u64 = 1 << 20;

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0} is no URL that keys can be fetched from")]
    Url(WebUrl),
    #[error("{host} cannot be resolved")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("{host} has no address that may be asked; see listen.gateway.keys of the bootstrap file")]
    Forbidden { host: String },
    #[error("{host} cannot be reached")]
    Unreachable {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("no root certificates are known to recognise the issuer by")]
    NoRoots,
    #[error("no HTTP with {host}")]
    Http {
        host: String,
        #[source]
        source: hyper::Error,
    },
    #[error("{host} answered with status {status}; nobody is followed elsewhere")]
    Status { host: String, status: StatusCode },
    #[error("the answer of {host} broke off, or is longer than {max} bytes")]
    Answer { host: String, max: usize },
    #[error("the issuer took longer than {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

/// How keys are fetched.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    pub(super) settings: KeyFetching,
    pub(super) bytes_max: usize,
    pub(super) timeout: Duration,
}

impl Fetcher {
    pub(super) async fn get(&self, url: &WebUrl) -> Result<Bytes, Error> {
        let getting = Box::pin(self.open(url));
        timeout(self.timeout, getting).await.map_err(|_| Error::Timeout(self.timeout))?
    }

    async fn open(&self, url: &WebUrl) -> Result<Bytes, Error> {
        let bad = || Error::Url(url.clone());
        let uri: Uri = url.as_str().parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        let is_tls = uri.scheme_str() == Some("https");
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = self.connect(&host, port, is_tls).await?;
        let request = Request::get(uri.path_and_query().map_or("/", |it| it.as_str()))
            .header(HOST, authority.as_str())
            .header(ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"))
            .header(USER_AGENT, HeaderValue::from_static("weft-sidecar"))
            .body(Empty::new())
            .map_err(|_| bad())?;
        if !is_tls {
            return self.ask(stream, request, host).await;
        }
        let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
        let config = Arc::new(self.tls().await?);
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|source| Error::Unreachable { host: host.clone(), source })?;
        self.ask(stream, request, host).await
    }

    /// Plain HTTP is for this machine alone.
    async fn connect(&self, host: &str, port: u16, is_tls: bool) -> Result<TcpStream, Error> {
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(|source| Error::Resolve { host: host.to_owned(), source })?;
        let allowed = |address: &SocketAddr| self.may_ask(address.ip(), is_tls);
        let mut last = Error::Forbidden { host: host.to_owned() };
        for address in found.filter(allowed).take(ADDRESSES_MAX) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(source) => last = Error::Unreachable { host: host.to_owned(), source },
            }
        }
        Err(last)
    }

    fn may_ask(&self, address: IpAddr, is_tls: bool) -> bool {
        let address = address.to_canonical();
        match address.is_loopback() {
            true => self.settings.loopback,
            false => is_tls && (self.settings.private_addresses && is_private(address) || is_public(address)),
        }
    }

    async fn ask<S>(&self, stream: S, request: Request<Empty<Bytes>>, host: String) -> Result<Bytes, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let http = |source| Error::Http { host: host.clone(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(http);
        let whole = async {
            let (head, body) = response?.into_parts();
            if head.status != StatusCode::OK {
                return Err(Error::Status { host: host.clone(), status: head.status });
            }
            let max = self.bytes_max;
            let body = Limited::new(body, max).collect().await;
            Ok(body.map_err(|_| Error::Answer { host: host.clone(), max })?.to_bytes())
        };
        let whole = whole.await;
        driver.abort();
        whole
    }

    /// An issuer is known as any public server is, or by the roots that the operator gives.
    async fn tls(&self) -> Result<rustls::ClientConfig, Error> {
        let path = self.settings.roots.clone();
        let read = move || path.map_or_else(collector::roots, |path| own_roots(&path));
        let roots = tokio::task::spawn_blocking(read).await.ok().flatten().ok_or(Error::NoRoots)?;
        let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| Error::NoRoots)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn own_roots(path: &PathBuf) -> Option<rustls::RootCertStore> {
    let size = std::fs::metadata(path).ok()?.len();
    let text = (size <= ROOTS_BYTES_MAX).then(|| std::fs::read_to_string(path).ok()).flatten()?;
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(pem::certificates(&text).ok()?);
    (added > 0).then_some(roots)
}

/// An address of the networks that people have for themselves.
const fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || is_shared(v4),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// What carriers share among customers; clouds have services of their own there.
const fn is_shared(it: Ipv4Addr) -> bool {
    let [a, b, ..] = it.octets();
    a == 100 && b >= 64 && b <= 127
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetcher(loopback: bool, private_addresses: bool) -> Fetcher {
        let settings = KeyFetching { loopback, private_addresses, roots: None };
        Fetcher { settings, bytes_max: 1024, timeout: Duration::from_secs(5) }
    }

    #[test]
    fn only_public_addresses_are_asked_where_nothing_else_is_said() {
        let strict = fetcher(false, false);
        for public in ["9.9.9.9", "1.1.1.1", "2606:4700::1111", "2a00:1450::1"] {
            assert!(strict.may_ask(public.parse().unwrap(), true), "{public}");
            assert!(!strict.may_ask(public.parse().unwrap(), false), "{public} without TLS");
        }
        for inner in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.2.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
            "::10.0.0.1",
        ] {
            assert!(!strict.may_ask(inner.parse().unwrap(), true), "{inner}");
        }
    }

    #[test]
    fn what_the_operator_allows_is_asked_and_no_more() {
        let private = fetcher(false, true);
        for (address, expected) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("100.64.0.1", true),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("127.0.0.1", false),
            ("::ffff:10.0.0.1", true),
        ] {
            assert_eq!(private.may_ask(address.parse().unwrap(), true), expected, "{address}");
            assert!(!private.may_ask(address.parse().unwrap(), false), "{address} without TLS");
        }
        let loopback = fetcher(true, false);
        assert!(loopback.may_ask("127.0.0.1".parse().unwrap(), false));
        assert!(loopback.may_ask("::ffff:127.0.0.1".parse().unwrap(), false));
        assert!(!loopback.may_ask("10.0.0.1".parse().unwrap(), true));
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_not_asked_unless_that_is_allowed() {
        let error = fetcher(false, true).get(&WebUrl::parse("https://localhost:1/keys").unwrap()).await;
        assert!(matches!(error, Err(Error::Forbidden { .. })), "{error:?}");
    }
}
