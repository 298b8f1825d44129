//! Probes as the bootstrap file has them: as in a pod, with ports by number.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use serde::Deserialize;

/// Most probes of one file. A pod has three for each of its containers.
const PROBES_MAX: usize = 192;
/// The longest that a container is waited for, whatever its probe says.
const PROBE_SECS_MAX: u32 = 600;
/// Bytes of a probe's headers, all together.
const HEADERS_BYTES_MAX: usize = 16 << 10;
const PATH_BYTES_MAX: usize = 4096;
const SERVICE_BYTES_MAX: usize = 1024;

/// Every probe, by whom and what is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<Name, Probe>")]
pub struct Probes(BTreeMap<Name, Probe>);

/// Which container, and for what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Name {
    container: Box<str>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Liveness,
    Readiness,
    Startup,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Probe {
    pub question: Question,
    pub timeout: Duration,
}

/// What a container is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Http(Box<HttpGet>),
    Tcp { port: u16 },
    Grpc { port: u16, service: Box<str> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    pub scheme: Scheme,
    pub port: u16,
    pub path: PathAndQuery,
    pub headers: HeaderMap,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Scheme {
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    #[serde(rename = "HTTPS")]
    Https,
}

/// What is wrong with a probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0:?} names no probe: <container>/liveness, <container>/readiness or <container>/startup")]
    Name(String),
    #[error("a probe has exactly one of httpGet, tcpSocket and grpc")]
    NotOne,
    #[error("timeoutSeconds is at least 1")]
    Timeout,
    #[error("{0:?} is no path")]
    Path(String),
    #[error("{0:?} is no header")]
    Header(String),
    #[error("the headers of a probe are more than {HEADERS_BYTES_MAX} bytes")]
    Headers,
    #[error("the {0} of a probe is longer than {1} bytes")]
    Long(&'static str, usize),
    #[error("there are {0} probes, more than {PROBES_MAX}")]
    TooMany(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    http_get: Option<RawHttpGet>,
    #[serde(default)]
    tcp_socket: Option<RawTcpSocket>,
    #[serde(default)]
    grpc: Option<RawGrpc>,
    #[serde(default = "one")]
    timeout_seconds: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawHttpGet {
    #[serde(default)]
    path: String,
    port: NonZeroU16,
    #[serde(default)]
    scheme: Scheme,
    #[serde(default)]
    http_headers: Vec<RawHeader>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawHeader {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawTcpSocket {
    port: NonZeroU16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawGrpc {
    port: NonZeroU16,
    #[serde(default)]
    service: String,
}

const fn one() -> u32 {
    1
}

impl Probes {
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Probe)> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The longest that any of them waits.
    pub fn longest(&self) -> Duration {
        self.0.values().map(|probe| probe.timeout).max().unwrap_or_default()
    }
}

impl TryFrom<BTreeMap<Name, Probe>> for Probes {
    type Error = Error;

    fn try_from(probes: BTreeMap<Name, Probe>) -> Result<Self, Error> {
        if probes.len() > PROBES_MAX {
            return Err(Error::TooMany(probes.len()));
        }
        Ok(Self(probes))
    }
}

impl Kind {
    const ALL: [Self; 3] = [Self::Liveness, Self::Readiness, Self::Startup];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        }
    }
}

impl Name {
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Name(text.to_owned());
        let (container, kind) = text.split_once('/').ok_or_else(wrong)?;
        let kind = Kind::ALL.into_iter().find(|it| it.word() == kind).ok_or_else(wrong)?;
        let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if container.is_empty() || container.len() > 63 || !container.bytes().all(is_label) {
            return Err(wrong());
        }
        Ok(Self { container: container.into(), kind })
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.kind.word())
    }
}

impl TryFrom<Raw> for Probe {
    type Error = Error;

    fn try_from(raw: Raw) -> Result<Self, Error> {
        let question = match (raw.http_get, raw.tcp_socket, raw.grpc) {
            (Some(it), None, None) => Question::Http(Box::new(it.try_into()?)),
            (None, Some(RawTcpSocket { port }), None) => Question::Tcp { port: port.get() },
            (None, None, Some(RawGrpc { port, service })) => {
                Question::Grpc { port: port.get(), service: bounded("service", service, SERVICE_BYTES_MAX)? }
            }
            _ => return Err(Error::NotOne),
        };
        if raw.timeout_seconds == 0 {
            return Err(Error::Timeout);
        }
        let timeout = Duration::from_secs(raw.timeout_seconds.min(PROBE_SECS_MAX).into());
        Ok(Self { question, timeout })
    }
}

impl TryFrom<RawHttpGet> for HttpGet {
    type Error = Error;

    fn try_from(raw: RawHttpGet) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        let mut bytes = 0;
        for RawHeader { name, value } in raw.http_headers {
            bytes += name.len() + value.len();
            if bytes > HEADERS_BYTES_MAX {
                return Err(Error::Headers);
            }
            let wrong = || Error::Header(name.clone());
            let value = HeaderValue::from_str(&value).map_err(|_| wrong())?;
            headers.append(HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value);
        }
        Ok(Self {
            scheme: raw.scheme,
            port: raw.port.get(),
            path: path(&bounded("path", raw.path, PATH_BYTES_MAX)?)?,
            headers,
        })
    }
}

fn bounded(what: &'static str, text: String, bytes_max: usize) -> Result<Box<str>, Error> {
    if text.len() > bytes_max {
        return Err(Error::Long(what, bytes_max));
    }
    Ok(text.into())
}

/// A path as a kubelet asks for it: with a slash before it, without a fragment, and with escapes for what is not allowed.
fn path(text: &str) -> Result<PathAndQuery, Error> {
    let (kept, _) = text.split_once('#').unwrap_or((text, ""));
    let mut path = if kept.starts_with('/') { String::new() } else { "/".to_owned() };
    for byte in kept.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            path.push(byte.into());
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    PathAndQuery::try_from(path).map_err(|_| Error::Path(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(yaml: &str) -> Result<Probe, String> {
        serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
    }

    fn http(yaml: &str) -> HttpGet {
        match probe(yaml).unwrap().question {
            Question::Http(get) => *get,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn probes_are_read_as_a_pod_has_them() {
        let get = http(
            "{ httpGet: { path: /healthz?full=1, port: 9000, scheme: HTTPS, httpHeaders: [{ name: X-A, value: b }] } }",
        );
        assert_eq!((get.scheme, get.port, get.path.as_str()), (Scheme::Https, 9000, "/healthz?full=1"));
        assert_eq!(get.headers["x-a"], "b");
        let tcp = probe("{ tcpSocket: { port: 1 }, timeoutSeconds: 7 }").unwrap();
        assert_eq!(tcp.question, Question::Tcp { port: 1 });
        assert_eq!(tcp.timeout, Duration::from_secs(7));
        let grpc = probe("{ grpc: { port: 2 } }").unwrap();
        assert_eq!(grpc.question, Question::Grpc { port: 2, service: "".into() });
        assert_eq!(grpc.timeout, Duration::from_secs(1));
    }

    #[test]
    fn paths_are_those_that_a_kubelet_asks_for() {
        for (given, asked) in
            [("", "/"), ("healthz", "/healthz"), ("/a b", "/a%20b"), ("/a#b", "/a"), ("/ä", "/%C3%A4")]
        {
            assert_eq!(path(given).unwrap().as_str(), asked, "{given}");
        }
    }

    #[test]
    fn what_is_no_probe_is_refused_with_its_reason() {
        for (yaml, why) in [
            ("{}", "exactly one"),
            ("{ tcpSocket: { port: 1 }, grpc: { port: 1 } }", "exactly one"),
            ("{ tcpSocket: { port: 0 } }", "nonzero"),
            ("{ tcpSocket: { port: http } }", "port"),
            ("{ tcpSocket: { port: 1 }, timeoutSeconds: 0 }", "at least 1"),
            ("{ tcpSocket: { port: 1, host: elsewhere } }", "host"),
            ("{ exec: { command: [sh] } }", "exec"),
            ("{ httpGet: { port: 1, scheme: http } }", "http"),
            ("{ httpGet: { port: 1, httpHeaders: [{ name: 'a b' }] } }", "no header"),
            ("{ httpGet: { port: 1, httpHeaders: [{ name: a, value: \"x\\ny\" }] } }", "no header"),
        ] {
            let error = probe(yaml).unwrap_err();
            assert!(error.contains(why), "{yaml}: {error}");
        }
    }

    #[test]
    fn a_probe_is_named_by_container_and_kind() {
        assert_eq!(Name::parse("files/startup").unwrap().to_string(), "files/startup");
        for wrong in
            ["", "files", "files/", "/liveness", "files/exec", "a/b/liveness", "A/liveness", "../liveness"]
        {
            assert!(Name::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_container_is_waited_for_without_end() {
        let probe = probe("{ tcpSocket: { port: 1 }, timeoutSeconds: 100000 }").unwrap();
        assert_eq!(probe.timeout, Duration::from_secs(PROBE_SECS_MAX.into()));
    }
}
