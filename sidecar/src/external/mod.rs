//! Servers that somebody else runs, outside of the mesh. The sidecar that stands beside such a server is where calls of it
//! leave: whatever policies, limits and records there are hold here, as beside any other server.
//!
//! Where calls may leave to, and with which credentials, the file of the sidecar says and no object of the mesh: whoever may
//! write objects can neither have credentials sent elsewhere nor have this sidecar ask addresses of its own network. Nothing
//! of the caller goes along but the message: not who it is, nor what it would prove that by; where each caller has a token of
//! its own, the authorization server of the file alone hears who calls. Redirects are not followed.

mod address;
mod credentials;
mod exchange;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use http::header::HeaderValue;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, Uri};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use weft_certs::tls;
use weft_proto::name::WebUrl;

use crate::trace::collector;
use crate::upstream::{Address, Destination};

pub(crate) use address::is_public;
pub(crate) use credentials::Dress;
pub use credentials::{Error as CredentialsError, Source};
use exchange::Exchange;
pub use exchange::Settings as ExchangeSettings;

/// Either is fine; the server chooses.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Largest file of roots, in bytes.
const ROOTS_BYTES_MAX: u64 = 4 << 20;

/// What this sidecar may do for a server outside of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawSettings")]
pub struct Settings {
    /// Where calls leave to, `https://host[:port]`. A server whose URL is of another origin is not served.
    pub origin: WebUrl,
    /// Headers that every request gets, and where their values are from.
    pub headers: BTreeMap<Name, Source>,
    /// Where the token of each caller is from, if each has one.
    pub exchange: Option<ExchangeSettings>,
    /// Roots by which the server is known, in PEM, instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whether the server may be at an address that is not a public one.
    pub private_addresses: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSettings {
    origin: WebUrl,
    #[serde(default)]
    headers: BTreeMap<Name, Source>,
    #[serde(default)]
    exchange: Option<ExchangeSettings>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    private_addresses: bool,
}

impl TryFrom<RawSettings> for Settings {
    type Error = &'static str;

    fn try_from(raw: RawSettings) -> Result<Self, &'static str> {
        let RawSettings { origin, headers, exchange, ca_file, private_addresses } = raw;
        if exchange.is_some() && headers.keys().any(|name| name.0 == "authorization") {
            return Err("either headers or exchange says what authorization is");
        }
        Ok(Self { origin, headers, exchange, ca_file, private_addresses })
    }
}

/// The name of a header.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = HeaderName::try_from(&text).map_err(|_| format!("{text:?} is no name of a header"))?;
        // What the transport and the protocol say themselves.
        let spoken = ["host", "content-length", "content-type", "connection", "transfer-encoding", "accept"];
        if spoken.contains(&name.as_str()) || name.as_str().starts_with("mcp-") {
            return Err(format!("{name} is not for the file to set"));
        }
        Ok(Self(name.as_str().to_owned()))
    }
}

impl Name {
    fn header(&self) -> HeaderName {
        HeaderName::try_from(&self.0).expect("it was one when it was read")
    }
}

/// Why calls cannot leave to a server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "it is outside of the mesh, and the bootstrap file does not say that calls may leave to it (node.external)"
    )]
    NotAllowed,
    #[error("its URL is not of the origin {0}, which the bootstrap file has for it")]
    OtherOrigin(WebUrl),
    #[error("its URL is not encrypted, and the bootstrap file allows no private addresses for it")]
    Plain,
    #[error("its URL leads nowhere")]
    Url,
    #[error("no certificates are known to recognise it by")]
    NoRoots,
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// How calls leave to a server.
#[derive(Debug)]
pub(crate) struct Outward {
    pub(crate) destination: Destination,
    pub(crate) host: HeaderValue,
    pub(crate) path: PathAndQuery,
    pub(crate) dress: Dress,
}

impl Outward {
    pub(crate) fn new(url: &WebUrl, settings: Option<&Settings>) -> Result<Self, Error> {
        let settings = settings.ok_or(Error::NotAllowed)?;
        if origin(url) != origin(&settings.origin) {
            return Err(Error::OtherOrigin(settings.origin.clone()));
        }
        let Place { destination, host, path } =
            place_of(url, settings.ca_file.as_ref(), settings.private_addresses)?;
        let exchange = settings.exchange.as_ref().map(Exchange::new).transpose()?;
        let headers = settings.headers.iter().map(|(name, source)| (name.header(), source));
        Ok(Self { destination, host, path, dress: Dress::new(headers, exchange)? })
    }
}

/// Where a URL leads.
#[derive(Debug)]
pub(super) struct Place {
    destination: Destination,
    host: HeaderValue,
    path: PathAndQuery,
}

fn place_of(url: &WebUrl, ca_file: Option<&PathBuf>, private: bool) -> Result<Place, Error> {
    let uri = Uri::try_from(url.as_str()).map_err(|_| Error::Url)?;
    let authority = uri.authority().ok_or(Error::Url)?;
    let is_plain = uri.scheme_str() == Some("http");
    let address = address_of(authority, if is_plain { 80 } else { 443 });
    let destination = match (is_plain, private) {
        // Whatever the name may be looked up as.
        (true, true) if authority.host() == "localhost" => {
            Destination::Tcp(Address::Loopback { port: authority.port_u16().unwrap_or(80) })
        }
        (true, true) => Destination::Tcp(address),
        (true, false) => return Err(Error::Plain),
        (false, private) => Destination::Web { address, config: Arc::new(client(ca_file)?), private },
    };
    Ok(Place {
        destination,
        host: HeaderValue::from_str(authority.as_str()).map_err(|_| Error::Url)?,
        path: uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
    })
}

/// Scheme, host and port of a URL; none if it has none.
fn origin(url: &WebUrl) -> Option<(String, String, u16)> {
    let uri = Uri::try_from(url.as_str()).ok()?;
    let (scheme, authority) = (uri.scheme_str()?.to_ascii_lowercase(), uri.authority()?);
    let usual = if scheme == "http" { 80 } else { 443 };
    Some((scheme, authority.host().to_ascii_lowercase(), authority.port_u16().unwrap_or(usual)))
}

fn address_of(authority: &Authority, usual: u16) -> Address {
    let port = authority.port_u16().unwrap_or(usual);
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    match host.parse::<std::net::IpAddr>() {
        Ok(ip) => Address::Socket((ip, port).into()),
        Err(_) => Address::Name { host: host.into(), port },
    }
}

/// A server outside is known as any public server is, or by the roots that the file names; never by those of the mesh.
fn client(ca_file: Option<&PathBuf>) -> Result<rustls::ClientConfig, Error> {
    let roots = match ca_file {
        None => collector::roots(),
        Some(path) => own_roots(path),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_root_certificates(roots.ok_or(Error::NoRoots)?)
        .with_no_client_auth();
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn own_roots(path: &PathBuf) -> Option<rustls::RootCertStore> {
    let is_bearable = std::fs::metadata(path).ok()?.len() <= ROOTS_BYTES_MAX;
    let text = std::fs::read(path).ok().filter(|_| is_bearable)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok));
    (!roots.is_empty()).then_some(roots)
}

#[cfg(test)]
mod tests;
