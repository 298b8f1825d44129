//! Whether servers beside this sidecar can be called past it: one that listens on more than loopback is reached by whoever
//! reaches this machine, unless its port is captured.
//!
//! The sidecar has no right to look at the rules that capture ports. They have one that anyone can find them by: what is
//! sent as a datagram to [`CANARY`] at a captured port is refused at once. Where that is not so, the port is not captured.
//! Not here: setting those rules, and keeping anybody out.

mod table;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::bootstrap::Upstream;
use crate::metrics::{Metrics, ServerLabel};
use crate::servers::Servers;

/// The address by which captured ports are found: on loopback, where datagrams reach nobody else, and used by nobody (`weft`
/// in bytes, after 127).
pub const CANARY: Ipv4Addr = Ipv4Addr::new(127, 119, 101, 102);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// The sockets of this network namespace.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// Servers that can be called past this sidecar, and where.
pub type Exposed = BTreeMap<Arc<str>, Vec<SocketAddr>>;

/// Looks now and then, until it is stopped; tells what is another than before.
pub async fn watch(servers: Servers, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = servers.changes();
    let mut before = Exposed::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
        match look(&servers, &metrics) {
            Ok(now) => {
                tell(&before, &now);
                servers.found_exposed(now.clone());
                before = now;
            }
            Err(error) => tracing::debug!(%error, "it cannot be told whether servers are exposed"),
        }
    }
}

fn look(servers: &Servers, metrics: &Metrics) -> io::Result<Exposed> {
    let beside = servers.listening();
    let mut listening = Vec::new();
    // Without servers there is nothing to look for.
    for path in TABLES.iter().filter(|_| !beside.is_empty()) {
        match File::open(path) {
            Ok(file) => listening.extend(table::listening(BufReader::new(file))?),
            // A system without IPv6 has one table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    metrics.server_exposed.clear();
    let mut all = Exposed::new();
    for (server, at) in beside {
        let open = exposed(&at, &listening);
        let open = if open.first().is_some_and(|it| is_captured(it.port())) { Vec::new() } else { open };
        let label = ServerLabel { server: Arc::clone(&server) };
        metrics.server_exposed.get_or_create(&label).set((!open.is_empty()).into());
        if !open.is_empty() {
            all.insert(server, open);
        }
    }
    Ok(all)
}

/// Where a server that is spoken to at `at` listens for others than this machine.
fn exposed(at: &Upstream, listening: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_its_own = |it: &SocketAddr| match at {
        Upstream::Loopback(port) => it.port() == *port,
        // One at an address of its own shares its port with whoever listens at another.
        Upstream::Address(at) => {
            let ip = it.ip();
            it.port() == at.port() && (at.ip().is_loopback() || ip == at.ip() || ip.is_unspecified())
        }
        Upstream::Unix(_) => false,
    };
    listening.iter().filter(|it| is_its_own(it) && !it.ip().is_loopback()).copied().collect()
}

/// Whether a datagram to the canary is refused, as only the rules that capture a port have it.
fn is_captured(port: u16) -> bool {
    let sent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.send_to(&[], (CANARY, port)));
    sent.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn tell(before: &Exposed, now: &Exposed) {
    for (server, at) in now.iter().filter(|(server, at)| before.get(*server) != Some(at)) {
        tracing::warn!(
            %server,
            ?at,
            "the server can be called past the sidecar: let it listen on loopback, or capture its port"
        );
    }
    for server in before.keys().filter(|server| !now.contains_key(*server)) {
        tracing::info!(%server, "the server can be called past the sidecar no more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(at: &str, listening: &[&str], expected: &[&str]) {
        let at = Upstream::try_from(at.to_owned()).unwrap();
        let parse = |all: &[&str]| all.iter().map(|it| it.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert_eq!(exposed(&at, &parse(listening)), parse(expected), "{at:?} among {listening:?}");
    }

    #[test]
    fn a_server_on_loopback_alone_is_not_exposed() {
        check("localhost:9000", &["127.0.0.1:9000", "[::1]:9000", "0.0.0.0:7443"], &[]);
        check("127.0.0.1:9000", &["127.0.0.1:9000"], &[]);
        check("unix:/run/server", &["0.0.0.0:9000"], &[]);
        check("localhost:9000", &[], &[]);
    }

    #[test]
    fn a_server_on_any_other_address_is() {
        check("localhost:9000", &["0.0.0.0:9000"], &["0.0.0.0:9000"]);
        check("localhost:9000", &["127.0.0.1:9000", "[::]:9000"], &["[::]:9000"]);
        check("127.0.0.1:9000", &["10.0.0.5:9000"], &["10.0.0.5:9000"]);
        check("10.0.0.5:9000", &["10.0.0.5:9000"], &["10.0.0.5:9000"]);
        check("10.0.0.5:9000", &["0.0.0.0:9000"], &["0.0.0.0:9000"]);
    }

    #[test]
    fn a_server_elsewhere_is_not_taken_for_whoever_has_its_port_here() {
        check("10.0.0.9:9000", &["10.0.0.5:9000"], &[]);
    }

    #[test]
    fn a_port_is_not_captured_where_no_rule_refuses_datagrams_to_the_canary() {
        let free = UdpSocket::bind((CANARY, 0)).unwrap().local_addr().unwrap().port();
        assert!(!is_captured(free));
    }
}
