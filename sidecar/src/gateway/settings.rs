//! The section `listen.gateway` of the bootstrap file.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::Uri;
use serde::Deserialize;
use weft_proto::name::WebUrl;

/// A listener for callers from outside the mesh.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    pub address: SocketAddr,
    /// Where clients reach it, as `https://host[:port]`: what it is called in metadata, in challenges, and by `Host`.
    pub public_url: PublicUrl,
    /// Certificate chain and key in PEM, taken anew when they change. Without them the listener is plain HTTP, which
    /// is for loopback addresses.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Plain HTTP on an address that others reach, because TLS ends before it.
    #[serde(default)]
    pub plain_http: bool,
    /// Other names by which `Host` may call it, as `host[:port]`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Origins of pages that may call, as `https://host[:port]`, besides its own; `*` for all.
    #[serde(default)]
    pub origins: Vec<String>,
    /// How keys of issuers are fetched.
    #[serde(default)]
    pub keys: KeyFetching,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Where keys of issuers may be fetched from, besides public addresses over HTTPS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyFetching {
    /// This machine, over plain HTTP too.
    pub loopback: bool,
    /// Addresses of private and local networks.
    pub private_addresses: bool,
    /// Root certificates in PEM by which issuers are known, instead of the public ones of the system.
    pub roots: Option<PathBuf>,
}

/// A URL without a path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicUrl {
    /// Without a slash at the end.
    base: String,
    /// As `Host` says it.
    host: String,
}

impl TryFrom<String> for PublicUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let url = WebUrl::parse(&text).map_err(|error| error.to_string())?;
        let uri: Uri = url.as_str().parse().map_err(|_| format!("{text:?} is no URL"))?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("{text:?} has a path; the paths of the endpoints are fixed"));
        }
        let scheme = uri.scheme_str().unwrap_or("https");
        let authority = uri.authority().ok_or_else(|| format!("{text:?} has no host"))?;
        let host = normal(authority.as_str(), scheme);
        Ok(Self { base: format!("{scheme}://{host}"), host })
    }
}

impl PublicUrl {
    /// Without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn scheme(&self) -> &str {
        self.base.split_once(':').map_or("https", |(scheme, _)| scheme)
    }

    pub fn host(&self) -> &str {
        &self.host
    }
}

/// A host with its port, as all its spellings: in lower case, without the port that is usual.
pub(super) fn normal(host: &str, scheme: &str) -> String {
    let usual = if scheme == "http" { ":80" } else { ":443" };
    let host = host.to_ascii_lowercase();
    host.strip_suffix(usual).map(ToOwned::to_owned).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_where_clients_are_and_nothing_more() {
        let check = |text: &str, base: &str, host: &str| {
            let url = PublicUrl::try_from(text.to_owned()).unwrap();
            assert_eq!((url.base(), url.host()), (base, host), "{text}");
        };
        check("https://MCP.example.com", "https://mcp.example.com", "mcp.example.com");
        check("https://mcp.example.com:443/", "https://mcp.example.com", "mcp.example.com");
        check("https://mcp.example.com:8443", "https://mcp.example.com:8443", "mcp.example.com:8443");
        check("http://127.0.0.1:7480", "http://127.0.0.1:7480", "127.0.0.1:7480");
        for bad in
            ["mcp.example.com", "http://mcp.example.com", "https://a.example/mcp", "https://a.example?x"]
        {
            assert!(PublicUrl::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
