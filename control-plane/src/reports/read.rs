//! A report as it was sent, made into one that can be kept: everything in it has a limit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use weft_proto::name::{self, HostPort, NodeId, ServerName, Workload};
use weft_proto::pb::weft::status::v1 as pb;

/// Servers in one report.
pub const SERVERS_MAX: usize = 256;
/// Bytes of what is said of one server.
pub const DETAIL_BYTES_MAX: usize = 512;
/// Places at which one server can be called past its sidecar.
pub(super) const EXPOSED_MAX: usize = 16;
/// Bytes of a version.
pub const VERSION_BYTES_MAX: usize = 128;
/// Longest time that a sidecar can have run: more is an error of its clock.
const UPTIME_SECS_MAX: i64 = 100 * 366 * 24 * 3600;

/// Why a report is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("the report's node: {0}")]
    Node(#[source] name::Error),
    #[error("the report is of the node {found}, the ones before it of {expected}")]
    AnotherNode { found: NodeId, expected: NodeId },
    #[error("the node {node} is not in the namespace of the certificate, {proved}")]
    Namespace { node: NodeId, proved: Workload },
    #[error("the report {found} comes after the report {last}")]
    Sequence { found: u64, last: u64 },
    #[error("the report is about {0} servers; at most {SERVERS_MAX} are taken")]
    TooManyServers(usize),
    #[error("the report's server {text:?}: {source}")]
    Server {
        text: String,
        #[source]
        source: name::Error,
    },
    #[error("the server {server} is not in the namespace of the certificate, {proved}")]
    ForeignServer { server: ServerName, proved: Workload },
    #[error("the report speaks of the server {0} twice")]
    Twice(ServerName),
    #[error("the health of {0} is none that is known")]
    Health(ServerName),
    #[error("the report says of more than {EXPOSED_MAX} places that {0} is exposed at them")]
    TooManyExposed(ServerName),
    #[error("the report says that {0} is exposed at what is no address with a port")]
    ExposedAt(ServerName),
    #[error("the report's {what} is longer than {max} bytes")]
    TooLong { what: &'static str, max: usize },
    #[error("the report's inbound address: {0}")]
    Address(#[source] name::Error),
    #[error("the report's uptime is no time that anything can have run")]
    Uptime,
}

impl Error {
    /// Whether the report claims what the certificate does not allow.
    pub(super) const fn is_about_identity(&self) -> bool {
        matches!(self, Self::Namespace { .. } | Self::ForeignServer { .. })
    }
}

/// How a server is, by the word of the sidecar beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Serving,
    Starting,
    Degraded,
    Draining,
}

impl Health {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Starting => "starting",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
        }
    }
}

/// One server of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub health: Health,
    /// Why it does not serve, in a few words.
    pub detail: String,
    pub in_flight: u32,
    /// Where it can be called past its sidecar.
    pub exposed_at: Vec<SocketAddr>,
}

/// What a sidecar lost since it began, and what lags behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    pub spans_dropped: u64,
    pub audit_dropped: u64,
    pub audit_failures: u64,
    pub audit_unshipped: u64,
}

/// When more was lost last, as far as that is known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grown {
    pub spans_dropped: Option<SystemTime>,
    pub audit_dropped: Option<SystemTime>,
    pub audit_failures: Option<SystemTime>,
}

/// What a sidecar said of itself last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub at: SystemTime,
    /// Its own clock, when it made the report.
    pub clock: Option<SystemTime>,
    pub losses: Losses,
    pub grown: Grown,
    /// Bytes of the disk of its state folder: those that are free, and all.
    pub room: Option<(u64, u64)>,
    pub version: String,
    pub uptime: Duration,
    pub inbound_address: Option<HostPort>,
    pub servers: BTreeMap<ServerName, Served>,
}

impl Report {
    /// The same, as what follows an earlier report of the sidecar: what is more than it was there was lost meanwhile.
    #[must_use]
    pub fn after(mut self, before: Option<&Self>) -> Self {
        let (was, grown) = before.map(|it| (it.losses, it.grown)).unwrap_or_default();
        let last = |now: u64, was: u64, grown| if now > was { Some(self.at) } else { grown };
        self.grown = Grown {
            spans_dropped: last(self.losses.spans_dropped, was.spans_dropped, grown.spans_dropped),
            audit_dropped: last(self.losses.audit_dropped, was.audit_dropped, grown.audit_dropped),
            audit_failures: last(self.losses.audit_failures, was.audit_failures, grown.audit_failures),
        };
        self
    }

    /// The worst of its servers; none if there are none.
    pub fn health(&self) -> Option<Health> {
        self.servers.values().map(|it| it.health).max()
    }

    /// The servers that callers better ask elsewhere for.
    pub fn unfit(&self) -> BTreeSet<ServerName> {
        let unfit = self.servers.iter().filter(|(_, it)| it.health != Health::Serving);
        unfit.map(|(name, _)| name.clone()).collect()
    }
}

/// Whose report it is: a node in the namespace that the certificate proves.
pub(super) fn node(report: &pb::WorkloadReport, identity: &Workload) -> Result<NodeId, Error> {
    let node = NodeId::parse(&report.node).map_err(Error::Node)?;
    match node.namespace() == identity.namespace.as_str() {
        true => Ok(node),
        false => Err(Error::Namespace { node, proved: identity.clone() }),
    }
}

/// Reads a report of a sidecar.
pub(super) fn read(report: pb::WorkloadReport, identity: &Workload, at: SystemTime) -> Result<Report, Error> {
    let pb::WorkloadReport { inbound_address, servers, version, uptime, clock, losses, state_room, .. } =
        report;
    if servers.len() > SERVERS_MAX {
        return Err(Error::TooManyServers(servers.len()));
    }
    let mut read = BTreeMap::new();
    for server in servers {
        let (name, served) = read_server(server, identity)?;
        if read.contains_key(&name) {
            return Err(Error::Twice(name));
        }
        read.insert(name, served);
    }
    let inbound_address = match inbound_address.is_empty() {
        true => None,
        false => Some(HostPort::parse(&inbound_address).map_err(Error::Address)?),
    };
    let uptime = uptime.map_or(Ok(Duration::ZERO), |it| match it.seconds {
        0..=UPTIME_SECS_MAX => Duration::try_from(it).map_err(|_| Error::Uptime),
        _ => Err(Error::Uptime),
    })?;
    let version = short("version", version, VERSION_BYTES_MAX)?;
    // A time that no clock tells is none.
    let clock = clock.and_then(|it| SystemTime::try_from(it).ok());
    let losses = losses.map(read_losses).unwrap_or_default();
    let room = state_room.map(|it| (it.bytes_free, it.bytes_total));
    let grown = Grown::default();
    Ok(Report { at, clock, losses, grown, room, version, uptime, inbound_address, servers: read })
}

const fn read_losses(it: pb::Losses) -> Losses {
    let pb::Losses { spans_dropped, audit_dropped, audit_failures, audit_unshipped } = it;
    Losses { spans_dropped, audit_dropped, audit_failures, audit_unshipped }
}

fn read_server(server: pb::ServedServer, identity: &Workload) -> Result<(ServerName, Served), Error> {
    let name = ServerName::parse(&server.server).map_err(|source| {
        let text = server.server.chars().take(64).collect();
        Error::Server { text, source }
    })?;
    if name.namespace != identity.namespace {
        return Err(Error::ForeignServer { server: name, proved: identity.clone() });
    }
    let health = match server.health() {
        pb::Health::Starting => Health::Starting,
        pb::Health::Serving => Health::Serving,
        pb::Health::Degraded => Health::Degraded,
        pb::Health::Draining => Health::Draining,
        pb::Health::Unspecified => return Err(Error::Health(name)),
    };
    let detail = short("detail", server.detail, DETAIL_BYTES_MAX)?;
    if server.exposed_at.len() > EXPOSED_MAX {
        return Err(Error::TooManyExposed(name));
    }
    let exposed_at = server.exposed_at.iter().map(|at| at.parse()).collect::<Result<_, _>>();
    let exposed_at = exposed_at.map_err(|_| Error::ExposedAt(name.clone()))?;
    Ok((name, Served { health, detail, in_flight: server.in_flight, exposed_at }))
}

fn short(what: &'static str, text: String, max: usize) -> Result<String, Error> {
    if text.len() > max { Err(Error::TooLong { what, max }) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use weft_proto::name::SpiffeId;

    use super::*;

    fn identity() -> Workload {
        SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap().workload().unwrap()
    }

    fn served(server: &str, health: pb::Health) -> pb::ServedServer {
        let server = server.to_owned();
        pb::ServedServer {
            server,
            health: health.into(),
            detail: "why".to_owned(),
            in_flight: 3,
            exposed_at: Vec::new(),
        }
    }

    fn report(servers: Vec<pb::ServedServer>) -> pb::WorkloadReport {
        pb::WorkloadReport {
            sequence: 1,
            node: "research/files-1".to_owned(),
            inbound_address: "10.0.0.5:7443".to_owned(),
            version: "0.1.0".to_owned(),
            uptime: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            servers,
            ..pb::WorkloadReport::default()
        }
    }

    #[test]
    fn places_past_the_sidecar_are_addresses_and_few() {
        let exposed = |at: &[&str]| {
            let exposed_at = at.iter().map(|it| (*it).to_owned()).collect();
            let sent = pb::ServedServer { exposed_at, ..served("research/a", pb::Health::Serving) };
            read(report(vec![sent]), &identity(), SystemTime::UNIX_EPOCH)
        };
        let read = exposed(&["0.0.0.0:9000", "[::]:9000"]).unwrap();
        let at = &read.servers.values().next().unwrap().exposed_at;
        assert_eq!(at.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0:9000", "[::]:9000"]);
        assert!(matches!(exposed(&["\u{1b}[31m"]), Err(Error::ExposedAt(_))));
        assert!(matches!(exposed(&["localhost:1"]), Err(Error::ExposedAt(_))));
        assert!(matches!(exposed(&["0.0.0.0:1"; EXPOSED_MAX + 1]), Err(Error::TooManyExposed(_))));
    }

    #[test]
    fn a_report_says_how_each_server_is_and_which_is_worst() {
        let sent = report(vec![
            served("research/a", pb::Health::Serving),
            served("research/b", pb::Health::Degraded),
            served("research/c", pb::Health::Starting),
        ]);
        assert_eq!(node(&sent, &identity()).unwrap().as_str(), "research/files-1");
        let read = read(sent, &identity(), SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(read.health(), Some(Health::Degraded));
        assert_eq!(
            read.unfit().iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["research/b", "research/c"]
        );
        assert_eq!(read.uptime, Duration::from_secs(5));
        assert_eq!(read.servers.values().next().unwrap().in_flight, 3);
    }

    #[test]
    fn a_loss_is_known_by_when_it_grew() {
        let at = |secs: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        let of = |secs: u64, spans_dropped: u64| {
            let losses = Some(pb::Losses { spans_dropped, ..pb::Losses::default() });
            let clock = Some(prost_types::Timestamp { seconds: 7, nanos: 0 });
            let state_room = Some(pb::Room { bytes_free: 1, bytes_total: 2 });
            let sent = pb::WorkloadReport { losses, clock, state_room, ..report(Vec::new()) };
            read(sent, &identity(), at(secs)).unwrap()
        };
        let first = of(1, 0).after(None);
        assert_eq!((first.grown, first.clock, first.room), (Grown::default(), Some(at(7)), Some((1, 2))));
        let second = of(2, 3).after(Some(&first));
        assert_eq!(second.grown, Grown { spans_dropped: Some(at(2)), ..Grown::default() });
        let third = of(3, 3).after(Some(&second));
        assert_eq!((third.grown, third.losses.spans_dropped), (second.grown, 3));
        // It began anew.
        assert_eq!(of(4, 1).after(Some(&third)).grown, second.grown);
    }

    #[test]
    fn a_report_beyond_a_limit_or_the_certificate_is_refused_and_says_why() {
        let check = |change: &dyn Fn(&mut pb::WorkloadReport), why: &str, about_identity: bool| {
            let mut sent = report(vec![served("research/a", pb::Health::Serving)]);
            change(&mut sent);
            let refused = node(&sent, &identity()).err();
            let refused = refused.or_else(|| read(sent, &identity(), SystemTime::UNIX_EPOCH).err());
            let refused = refused.expect(why);
            assert!(refused.to_string().contains(why), "{refused} should contain {why:?}");
            assert_eq!(refused.is_about_identity(), about_identity, "{refused}");
        };
        check(&|it| it.node = "research".to_owned(), "node", false);
        check(&|it| it.node = "payments/files-1".to_owned(), "not in the namespace", true);
        check(&|it| it.servers[0].server = "payments/a".to_owned(), "not in the namespace", true);
        check(&|it| it.servers[0].server = "a".to_owned(), "server \"a\"", false);
        check(&|it| it.servers[0].health = 0, "none that is known", false);
        check(&|it| it.servers[0].health = 99, "none that is known", false);
        check(&|it| it.servers[0].detail = "x".repeat(DETAIL_BYTES_MAX + 1), "detail is longer", false);
        check(&|it| it.version = "x".repeat(VERSION_BYTES_MAX + 1), "version is longer", false);
        check(&|it| it.inbound_address = "nowhere".to_owned(), "inbound address", false);
        check(&|it| it.servers.push(it.servers[0].clone()), "twice", false);
        let many = |it: &mut pb::WorkloadReport| {
            let all = (0..=SERVERS_MAX).map(|n| served(&format!("research/s{n}"), pb::Health::Serving));
            it.servers = all.collect();
        };
        check(&many, "at most 256", false);
        for seconds in [-1, i64::MAX] {
            check(&|it| it.uptime = Some(prost_types::Duration { seconds, nanos: 0 }), "uptime", false);
        }
    }
}
