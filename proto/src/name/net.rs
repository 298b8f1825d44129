//! Where things are and what they hash to: addresses, URLs, digests.

use super::{Error, check_characters, text_name};

text_name!(
    /// `host:port`, where the host is a name, an IPv4 address, or an IPv6 address in brackets.
    HostPort,
    pattern = "^(\\[[0-9a-fA-F:.]+\\]|[A-Za-z0-9._-]+):[0-9]{1,5}$",
    max = 262,
    parse = parse_host_port
);

text_name!(
    /// An `https` URL, or an `http` one to this machine; no credentials, no fragment.
    WebUrl,
    pattern = "^https?://[^\\s@#]+$",
    max = 2048,
    parse = parse_web_url
);

text_name!(
    /// Where records go: an `https` or `http` URL, without credentials, query and fragment. Plain ones are allowed
    /// anywhere, for collectors beside the mesh take no other; what is sent there can be read on the way.
    CollectorUrl,
    pattern = "^https?://[^\\s@#?]+$",
    max = 2048,
    parse = parse_collector_url
);

text_name!(
    /// A SHA-256 digest: `sha256:` and 64 lower-case hex digits.
    Digest,
    pattern = "^sha256:[0-9a-f]{64}$",
    max = 71,
    parse = parse_digest
);

impl HostPort {
    pub fn host(&self) -> &str {
        self.as_str().rsplit_once(':').map_or("", |(host, _)| host)
    }

    pub fn port(&self) -> u16 {
        self.as_str().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0)
    }
}

impl Digest {
    pub fn hex(&self) -> &str {
        &self.as_str()["sha256:".len()..]
    }
}

fn parse_host_port(text: &str) -> Result<String, Error> {
    const EXPECTED: &str = "host:port, such as 10.0.0.5:7443 or [::1]:7443";
    let what = "address";
    let form = |problem| Error::Form { what, problem, expected: EXPECTED };
    check_characters(what, text, HostPort::LEN_BYTES_MAX, EXPECTED, |c| c.is_ascii_graphic())?;
    let (host, port) = text.rsplit_once(':').ok_or_else(|| form("has no port"))?;
    let digits = !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    if !digits || !matches!(port.parse(), Ok(1..=65535u32)) {
        return Err(form("has no port between 1 and 65535"));
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        inner.parse::<std::net::Ipv6Addr>().map_err(|_| form("has brackets around no IPv6 address"))?;
        return Ok(text.to_owned());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    check_characters("host", host, 253, "a name, an IPv4 address, or [IPv6 address]", allowed)?;
    Ok(text.to_owned())
}

fn parse_web_url(text: &str) -> Result<String, Error> {
    const EXPECTED: &str = "https://host[:port][/path], or http:// to a loopback address";
    let uri = parse_url(text, &['@', '#'], "carries credentials or a fragment", EXPECTED)?;
    let loopback = matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match uri.scheme_str() {
        Some("http") if !loopback => {
            Err(Error::Form { what: "URL", problem: "is not encrypted", expected: EXPECTED })
        }
        _ => Ok(text.to_owned()),
    }
}

fn parse_collector_url(text: &str) -> Result<String, Error> {
    const EXPECTED: &str = "http[s]://host[:port][/path]";
    parse_url(text, &['@', '#', '?'], "carries credentials, a query or a fragment", EXPECTED)?;
    Ok(text.to_owned())
}

/// A URL of the web with a host, and nothing in it that it must not carry.
fn parse_url(
    text: &str,
    forbidden: &[char],
    carries: &'static str,
    expected: &'static str,
) -> Result<http::Uri, Error> {
    let what = "URL";
    let form = |problem| Error::Form { what, problem, expected };
    check_characters(what, text, WebUrl::LEN_BYTES_MAX, expected, |c| c.is_ascii_graphic())?;
    let uri: http::Uri = text.parse().map_err(|_| form("is malformed"))?;
    let authority = uri.authority().ok_or_else(|| form("has no host"))?;
    if text.contains(forbidden) {
        return Err(form(carries));
    }
    if authority.host().is_empty() || (authority.port().is_some() && authority.port_u16().unwrap_or(0) == 0) {
        return Err(form("has no valid host and port"));
    }
    match uri.scheme_str() {
        Some("https" | "http") => Ok(uri),
        _ => Err(form("is of another scheme")),
    }
}

fn parse_digest(text: &str) -> Result<String, Error> {
    const EXPECTED: &str = "sha256: and 64 lower-case hex digits";
    let what = "digest";
    let hex = text.strip_prefix("sha256:").ok_or(Error::Form {
        what,
        problem: "does not start with sha256:",
        expected: EXPECTED,
    })?;
    check_characters(what, hex, 64, EXPECTED, |c| matches!(c, '0'..='9' | 'a'..='f'))?;
    if hex.len() != 64 {
        return Err(Error::Form { what, problem: "is too short", expected: EXPECTED });
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_a_host_and_a_port() {
        for text in ["127.0.0.1:7443", "files.research.svc:80", "[::1]:7443", "localhost:65535"] {
            let address = HostPort::parse(text).unwrap();
            assert_eq!(format!("{}:{}", address.host(), address.port()), text);
        }
        for text in [
            "",
            "localhost",
            ":80",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "localhost:+80",
            "::1:80",
            "[::g]:80",
            "a b:80",
            "[::1]",
            "h:000080",
        ] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_are_encrypted_or_local() {
        for text in [
            "https://mcp.example.com/mcp",
            "https://h:8443",
            "http://127.0.0.1:9/mcp",
            "http://[::1]:80/",
            "http://localhost/x?y=1",
        ] {
            assert!(WebUrl::parse(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "mcp.example.com",
            "http://mcp.example.com",
            "ftp://h/",
            "https://",
            "https://user@h/",
            "https://h/#x",
            "https://h:0/",
            "http://localhost.evil.com/",
            "https://h /",
            "file:///etc/passwd",
        ] {
            assert!(WebUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn collectors_may_be_plain_anywhere() {
        for text in ["http://jaeger:4317", "http://10.0.0.7:4318/v1/traces", "https://otlp.example.com"] {
            assert!(CollectorUrl::parse(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "jaeger:4317",
            "grpc://jaeger:4317",
            "http://key@h/",
            "http://h/?key=x",
            "http://h/#x",
            "http://:1/",
        ] {
            assert!(CollectorUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn digests_are_written_in_one_way() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(Digest::parse(&good).unwrap().hex(), "0a".repeat(32));
        for text in ["", "sha256:", &good[..70], &good.to_uppercase(), &format!("{good}0"), "md5:00"] {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
    }
}
