//! How a server beside this sidecar is spoken to: over HTTP, where its own answers pass through, or as a child.

pub mod way;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use tokio::sync::watch;
use weft_proto::name::ServerName;
use weft_proto::resource::kinds::{External, HealthCheck, Location, McpServer, Stdio};

use crate::bootstrap::{Node, Upstream};
use crate::exchange::front::{Front, Place};
use crate::external::{self, Outward};
use crate::health::Health;
use crate::health::check::Checked;
use crate::servers::Parts;
use crate::session_id::Whence;
use crate::stdio::check::StdioProbe;
use crate::stdio::command::{self, Inherited};
use crate::stdio::{Phase, StdioPeer};
use crate::tools::Lister;
use crate::upstream::{Address, Destination, Pool, Settings};
use way::Ways;
use way::check::HttpProbe;

/// Time to connect to a server, if nothing else is said.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to the first byte of an answer, if nothing else is said.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Silence in an answer, if nothing else is said.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// What a child may take to end when it is asked to.
const CHILD_GRACE: Duration = Duration::from_secs(5);

/// Why a server cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "nothing says where it listens: its workload has neither port nor unixSocket, and the bootstrap file no upstream for it"
    )]
    NoAddress,
    #[error("its path is no path")]
    Path,
    #[error(transparent)]
    External(#[from] external::Error),
    #[error(transparent)]
    Command(#[from] command::Error),
    #[error("the folder that the sidecar was started in cannot be told of")]
    Here(#[source] std::io::Error),
}

/// The way to a server.
#[derive(Debug)]
pub enum Backend {
    Http(Http),
    Child(Child),
}

/// What was seen of a server.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub up: bool,
    pub child: Option<SeenChild>,
}

/// What was seen of a child.
#[derive(Clone, Copy, Debug)]
pub struct SeenChild {
    pub restarts: i64,
    pub garbage_lines: i64,
}

/// How a server stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is starting, or nobody asked it anything yet.
    Starting,
    /// It answered, and this is what it speaks.
    Ready(String),
    /// It does not answer, and why.
    Failing(String),
}

/// A server that listens beside this sidecar.
#[derive(Debug)]
pub struct Http {
    pub pool: Pool,
    pub host: HeaderValue,
    pub path: PathAndQuery,
    pub ways: Arc<Ways>,
}

/// A server that is a child of this sidecar.
#[derive(Debug)]
pub struct Child {
    pub peer: Arc<StdioPeer>,
    pub front: Arc<Front>,
}

fn place(name: &ServerName, parts: &Parts) -> Place {
    let scope = format!("server {name}").into();
    Place { here: Whence::of(&parts.node.id), ring: parts.ring.clone(), scope }
}

impl Backend {
    pub fn new(name: &ServerName, spec: &McpServer, parts: &Parts) -> Result<Self, Error> {
        if let Some(command) = parts.node.commands.get(name) {
            let here = std::env::current_dir().map_err(Error::Here)?;
            let stdio = command.instead_of(&spec.location, &here)?;
            return Ok(Self::child(name, &stdio, Inherited::Container, parts));
        }
        if let Location::Stdio(stdio) = &spec.location {
            return Ok(Self::child(name, stdio, Inherited::Little, parts));
        }
        if let Location::External(External { url }) = &spec.location {
            let Outward { destination, host, path, dress } =
                Outward::new(url, parts.node.external.get(name))?;
            let pool = Pool::new(destination, settings(spec, parts, Settings::peer())).dressing(dress);
            return Self::http(name, spec, parts, (pool, host, path));
        }
        let path = spec.path.as_ref().map_or("/mcp", |path| path.as_str());
        let path = PathAndQuery::try_from(path).map_err(|_| Error::Path)?;
        let (destination, host) = match listens_at(name, spec, &parts.node).ok_or(Error::NoAddress)? {
            Upstream::Address(address) => {
                // The guards of SDKs against rebound names know a server on loopback by this name.
                let host = format!("localhost:{}", address.port());
                (Destination::Tcp(address.into()), host)
            }
            Upstream::Loopback(port) => {
                (Destination::Tcp(Address::Loopback { port }), format!("localhost:{port}"))
            }
            Upstream::Unix(path) => (Destination::Unix(path.into()), "localhost".to_owned()),
        };
        let host = HeaderValue::from_str(&host).map_err(|_| Error::Path)?;
        let pool = Pool::new(destination, settings(spec, parts, Settings::local()));
        Self::http(name, spec, parts, (pool, host, path))
    }

    fn child(name: &ServerName, stdio: &Stdio, inherited: Inherited, parts: &Parts) -> Self {
        let (limits, launcher) = (&parts.limits, parts.launcher.clone());
        let peer = StdioPeer::start_with(stdio, inherited, name.clone(), limits, launcher);
        let (shared, drain) = (Arc::<StdioPeer>::clone(&peer), parts.drain.clone());
        let front = Front::new(shared, limits, drain, place(name, parts));
        Self::Child(Child { peer, front })
    }

    fn http(
        name: &ServerName,
        spec: &McpServer,
        parts: &Parts,
        (pool, host, path): (Pool, HeaderValue, PathAndQuery),
    ) -> Result<Self, Error> {
        let server = HeaderValue::from_str(&name.to_string()).map_err(|_| Error::Path)?;
        let target = way::target(path.as_str(), &host, &server);
        let at = (&parts.drain, place(name, parts));
        let ways = Ways::new(&pool, target, spec.protocol, &parts.limits, at);
        Ok(Self::Http(Http { pool, host, path, ways }))
    }

    /// Nothing new goes this way; what is under way ends by itself.
    pub fn retire(&self) {
        if let Self::Child(child) = self {
            let peer = Arc::clone(&child.peer);
            tokio::spawn(async move { peer.stop(CHILD_GRACE).await });
        }
    }

    /// What keeps calls for callers who were asked something, if there is anything that does.
    pub fn front(&self) -> Option<Arc<Front>> {
        match self {
            Self::Http(http) => http.ways.front(),
            Self::Child(child) => Some(Arc::clone(&child.front)),
        }
    }

    /// How it goes, for metrics.
    pub fn seen(&self) -> Seen {
        match self {
            Self::Http(http) => Seen { up: http.ways.spoke().is_some(), child: None },
            Self::Child(child) => {
                let state = child.peer.state();
                let restarts = i64::try_from(state.restarts).unwrap_or(i64::MAX);
                let garbage_lines = i64::try_from(state.garbage_lines).unwrap_or(i64::MAX);
                Seen {
                    up: matches!(state.phase, Phase::Ready { .. }),
                    child: Some(SeenChild { restarts, garbage_lines }),
                }
            }
        }
    }

    /// How the server is, by what is known without asking it. Of one that listens nothing is: whoever is not called would
    /// never be found to serve again.
    pub fn health(&self) -> Health {
        let Self::Child(child) = self else { return Health::Serving };
        match &*child.peer.phase().borrow() {
            Phase::Starting => Health::Starting,
            Phase::Ready(_) => Health::Serving,
            Phase::Backoff { reason, .. } => Health::Degraded(Arc::clone(reason)),
            // The child that introduced the server went with its session; the next session has another.
            Phase::Stopped if child.peer.is_per_session() => Health::Serving,
            Phase::Stopped => Health::Draining,
        }
    }

    /// Begins to ask the server how it is, as its health check says.
    pub fn check(
        &self,
        server: Arc<str>,
        check: &HealthCheck,
        before: Health,
        changes: watch::Sender<()>,
    ) -> Checked {
        match self {
            Self::Http(http) => {
                Checked::start(server, check, before, HttpProbe::new(Arc::clone(&http.ways)), changes)
            }
            Self::Child(child) => {
                Checked::start(server, check, before, StdioProbe::new(Arc::clone(&child.peer)), changes)
            }
        }
    }

    /// Whoever asks the server for what it advertises.
    pub fn lister(&self) -> Lister {
        match self {
            Self::Http(http) => Lister::http(Arc::clone(&http.ways)),
            Self::Child(child) => Lister::Child(Arc::clone(&child.peer)),
        }
    }

    /// Whether what checks say counts. Of a child that does not run now, its state says more.
    pub fn can_be_asked(&self) -> bool {
        match self {
            Self::Http(_) => true,
            Self::Child(child) => matches!(&*child.peer.phase().borrow(), Phase::Ready(_)),
        }
    }

    /// How it goes, for people.
    pub fn standing(&self) -> Standing {
        match self {
            Self::Http(http) => match (http.ways.spoke(), http.ways.trouble()) {
                (Some(spoke), _) => Standing::Ready(spoke.to_string()),
                (None, Some(trouble)) => Standing::Failing(trouble),
                (None, None) => Standing::Starting,
            },
            Self::Child(child) => match &*child.peer.phase().borrow() {
                Phase::Ready(introduction) => Standing::Ready(introduction.revision.clone()),
                Phase::Backoff { reason, .. } => Standing::Failing(reason.to_string()),
                Phase::Starting | Phase::Stopped => Standing::Starting,
            },
        }
    }

    /// Asks a server what it speaks before anybody calls it, if that is not known. A command says it when it starts.
    pub fn introduce(&self) {
        if let Self::Http(http) = self {
            http.ways.introduce();
        }
    }

    pub async fn stop(&self) {
        if let Self::Child(child) = self {
            child.peer.stop(CHILD_GRACE).await;
        }
    }
}

/// Each stream that listens has a connection, and must leave calls theirs. How many of either there are is said where they
/// are admitted.
fn settings(spec: &McpServer, parts: &Parts, usual: Settings) -> Settings {
    let connect_timeout = spec.timeouts.connect.map_or(CONNECT_TIMEOUT, |span| span.duration());
    let connections_max = usual.connections_max + parts.limits.listening_max;
    Settings { connect_timeout, connections_max, ..usual }
}

/// Where a server listens, if it is one that does, beside this sidecar.
pub fn listens_at(name: &ServerName, spec: &McpServer, node: &Node) -> Option<Upstream> {
    let elsewhere = matches!(spec.location, Location::Stdio(_) | Location::External(_));
    if elsewhere || node.commands.contains_key(name) {
        return None;
    }
    node.upstreams.get(name).cloned().or_else(|| said_by(&spec.location))
}

/// Where the resource says that the server listens.
fn said_by(location: &Location) -> Option<Upstream> {
    let Location::Workload(workload) = location else { return None };
    match (&workload.port, &workload.unix_socket) {
        (Some(port), _) => u16::try_from(port.get()).ok().map(Upstream::Loopback),
        (None, Some(path)) => Some(Upstream::Unix(path.as_str().into())),
        (None, None) => None,
    }
}
