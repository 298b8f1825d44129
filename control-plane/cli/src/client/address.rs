//! Where the control plane is, and what is asked of it there.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use hyper::Uri;
use rustls_pki_types::ServerName;

/// The control plane's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
    authority: String,
}

/// The port that a URL means when it names none.
const HTTPS_PORT: u16 = 443;

impl Endpoint {
    /// Without the brackets that an IPv6 address has in a URL.
    pub(crate) fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// As URLs write it.
    pub(crate) fn url_host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.host().to_owned()).expect("the host was checked when it was parsed")
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a URL such as https://127.0.0.1:7501";
        let wrong = |problem: &str| format!("{problem}; {EXPECTED}");
        let uri: Uri = text.parse().map_err(|error| wrong(&format!("it cannot be read ({error})")))?;
        match uri.scheme_str() {
            Some("https") => {}
            Some(_) => return Err(wrong("only https is spoken, as the token must not be read on its way")),
            None => return Err(wrong("it has no scheme")),
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("it has a path"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it holds a user name; give the token in a file or in WEFT_TOKEN"));
        }
        let port = uri.port_u16().unwrap_or(HTTPS_PORT);
        let endpoint =
            Self { host: authority.host().to_owned(), port, authority: authority.as_str().to_owned() };
        ServerName::try_from(endpoint.host())
            .map_err(|_| wrong("its host is neither a name nor an address"))?;
        Ok(endpoint)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority)
    }
}

/// A path with its query, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    text: String,
    query: bool,
}

impl Path {
    /// `/v1/` followed by the segments.
    pub(crate) fn v1(segments: &[&str]) -> Self {
        let mut text = "/v1".to_owned();
        for segment in segments {
            text.push('/');
            encode(&mut text, segment);
        }
        Self { text, query: false }
    }

    /// What maintainers look at.
    pub(crate) fn debug(name: &str) -> Self {
        let mut text = "/debug/".to_owned();
        encode(&mut text, name);
        Self { text, query: false }
    }

    /// With one more part of the query, if there is a value.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            self.text.push(if self.query { '&' } else { '?' });
            self.query = true;
            self.text.push_str(name);
            self.text.push('=');
            encode(&mut self.text, &value.to_string());
        }
        self
    }

    /// With a switch that is only said when it is on.
    #[must_use]
    pub(crate) fn when(self, name: &str, on: bool) -> Self {
        self.with(name, on.then_some(true))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

fn encode(text: &mut String, part: &str) {
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_its_host_and_port() {
        let check = |text: &str, host: &str, port: u16| {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{text}");
        };
        check("https://127.0.0.1:7501", "127.0.0.1", 7501);
        check("https://[::1]:7501/", "::1", 7501);
        check("https://mesh.example", "mesh.example", 443);
    }

    #[test]
    fn an_address_that_could_leak_the_token_or_mean_nothing_is_refused() {
        let check = |text: &str, expected: &str| {
            let problem = text.parse::<Endpoint>().unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        };
        check("http://127.0.0.1:7501", "only https");
        check("127.0.0.1:7501", "no scheme");
        check("https://h/v1", "has a path");
        check("https://me:secret@h", "user name");
        check("https://-/", "neither a name nor an address");
        check("", "cannot be read");
    }

    #[test]
    fn paths_are_encoded_segment_by_segment() {
        let path = Path::v1(&["namespaces", "a/../b", "ü"])
            .with("labels", Some("k=v,x=y z"))
            .with("limit", None::<u32>)
            .when("dryRun", true)
            .when("other", false);
        assert_eq!(path.as_str(), "/v1/namespaces/a%2F..%2Fb/%C3%BC?labels=k%3Dv%2Cx%3Dy%20z&dryRun=true");
    }
}
