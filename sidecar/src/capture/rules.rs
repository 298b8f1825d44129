//! Which rules make ports lead to the sidecar. Each part of a rule is said twice, for readers and for the kernel, side by
//! side; nothing here speaks to anybody.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::net::Ipv6Addr;

use super::Error;
use crate::exposure::CANARY;

/// Ports that may be captured; an injected pod has no more servers.
pub const PORTS_MAX: usize = 16;
/// The table, of both families of addresses.
pub(super) const TABLE: &str = "weft";

/// Loopback's number in every network namespace.
const LOOPBACK: u32 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// Ports, where they lead to, and whom they do not mislead.
#[derive(Clone, Debug)]
pub struct Capture {
    chains: [Chain; 4],
}

/// Rules at one place of a packet's way.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    place: &'static str,
    /// The number of the place.
    pub(super) hook: u32,
    pub(super) priority: i32,
    /// As `nft` shows the priority.
    priority_shown: &'static str,
    pub(super) rules: Vec<Rule>,
}

/// Conditions, and last what is done with a packet that meets all of them.
#[derive(Clone, Debug)]
pub(super) struct Rule(Vec<Part>);

#[derive(Clone, Debug)]
struct Part {
    text: String,
    expressions: Vec<Expression>,
}

/// A step of a rule as the kernel takes it. There is one register.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    Meta(Meta),
    Payload {
        base: Base,
        offset: u32,
        bytes: u32,
    },
    Is(Vec<u8>),
    IsNot(Vec<u8>),
    /// To this port of this machine.
    Redirect(u16),
    Drop,
}

/// What is known of a packet, by the kernel's numbers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meta {
    InputDevice = 4,
    OutputDevice = 5,
    User = 10,
    Family = 15,
    Protocol = 16,
}

/// Where an offset counts from, by the kernel's numbers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Base {
    Network = 1,
    Transport = 2,
}

impl Capture {
    /// `uid` is the sidecar's user, who alone reaches the ports at every address of this machine.
    pub fn new(ports: &[u16], to: u16, uid: u32) -> Result<Self, Error> {
        let ports: BTreeSet<u16> = ports.iter().copied().collect();
        if ports.is_empty() || ports.len() > PORTS_MAX {
            return Err(Error::Ports(ports.len()));
        }
        if ports.contains(&to) {
            return Err(Error::OwnPort(to));
        }
        let each = |rules: fn(u16, u16, u32) -> Vec<Rule>| {
            ports.iter().flat_map(|port| rules(*port, to, uid)).collect::<Vec<_>>()
        };
        Ok(Self {
            chains: [
                Chain {
                    name: "prerouting",
                    kind: "nat",
                    place: "prerouting",
                    hook: 0,
                    priority: -100,
                    priority_shown: "dstnat",
                    rules: each(from_outside),
                },
                Chain {
                    name: "output",
                    kind: "nat",
                    place: "output",
                    hook: 3,
                    priority: -100,
                    priority_shown: "-100",
                    rules: each(from_within),
                },
                Chain {
                    name: "input",
                    kind: "filter",
                    place: "input",
                    hook: 1,
                    priority: 0,
                    priority_shown: "filter",
                    rules: each(datagrams),
                },
                Chain {
                    name: "canary",
                    kind: "filter",
                    place: "output",
                    hook: 3,
                    priority: 0,
                    priority_shown: "filter",
                    rules: each(canary),
                },
            ],
        })
    }

    pub(super) fn chains(&self) -> &[Chain] {
        &self.chains
    }
}

/// As `nft list table inet weft` shows it, and `nft -f` reads it.
impl Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for (n, chain) in self.chains.iter().enumerate() {
            let Chain { name, kind, place, priority_shown, .. } = chain;
            let gap = if n == 0 { "" } else { "\n" };
            writeln!(f, "{gap}\tchain {name} {{")?;
            writeln!(f, "\t\ttype {kind} hook {place} priority {priority_shown}; policy accept;")?;
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|part| part.text.as_str()).collect();
        f.write_str(&parts.join(" "))
    }
}

impl Rule {
    pub(super) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.0.iter().flat_map(|part| &part.expressions)
    }
}

fn from_outside(port: u16, to: u16, _: u32) -> Vec<Rule> {
    vec![Rule(vec![to_port("tcp", TCP, port), redirect(to)])]
}

/// What others of the pod send to an address by which it is known outside. At loopback the server itself stays: there
/// the sidecar reaches it.
fn from_within(port: u16, to: u16, uid: u32) -> Vec<Rule> {
    let to_addresses = [not_to_loopback_4(), not_to_loopback_6()];
    let rule = |address| {
        Rule(vec![not_of_user(uid), out_by_loopback(), address, to_port("tcp", TCP, port), redirect(to)])
    };
    to_addresses.into_iter().map(rule).collect()
}

/// Nobody checks who sends a datagram, HTTP/3 for one, so that none comes in.
fn datagrams(port: u16, _: u16, _: u32) -> Vec<Rule> {
    vec![Rule(vec![not_in_by_loopback(), to_port("udp", UDP, port), discard()])]
}

/// What the sidecar, which may not look at rules, sees that a port is captured by.
fn canary(port: u16, _: u16, _: u32) -> Vec<Rule> {
    vec![Rule(vec![to_canary(), to_port("udp", UDP, port), discard()])]
}

fn to_port(word: &str, protocol: u8, port: u16) -> Part {
    Part {
        text: format!("{word} dport {port}"),
        expressions: vec![
            Expression::Meta(Meta::Protocol),
            Expression::Is(vec![protocol]),
            Expression::Payload { base: Base::Transport, offset: 2, bytes: 2 },
            Expression::Is(port.to_be_bytes().to_vec()),
        ],
    }
}

fn not_of_user(uid: u32) -> Part {
    Part {
        text: format!("meta skuid != {uid}"),
        expressions: vec![Expression::Meta(Meta::User), Expression::IsNot(uid.to_ne_bytes().to_vec())],
    }
}

fn out_by_loopback() -> Part {
    Part {
        text: "oif \"lo\"".to_owned(),
        expressions: vec![
            Expression::Meta(Meta::OutputDevice),
            Expression::Is(LOOPBACK.to_ne_bytes().to_vec()),
        ],
    }
}

fn not_in_by_loopback() -> Part {
    Part {
        text: "iif != \"lo\"".to_owned(),
        expressions: vec![
            Expression::Meta(Meta::InputDevice),
            Expression::IsNot(LOOPBACK.to_ne_bytes().to_vec()),
        ],
    }
}

fn not_to_loopback_4() -> Part {
    Part {
        text: "ip daddr != 127.0.0.0/8".to_owned(),
        expressions: vec![
            Expression::Meta(Meta::Family),
            Expression::Is(vec![NFPROTO_IPV4]),
            // The network is one byte of the receiver's address.
            Expression::Payload { base: Base::Network, offset: 16, bytes: 1 },
            Expression::IsNot(vec![127]),
        ],
    }
}

fn not_to_loopback_6() -> Part {
    Part {
        text: "ip6 daddr != ::1".to_owned(),
        expressions: vec![
            Expression::Meta(Meta::Family),
            Expression::Is(vec![NFPROTO_IPV6]),
            Expression::Payload { base: Base::Network, offset: 24, bytes: 16 },
            Expression::IsNot(Ipv6Addr::LOCALHOST.octets().to_vec()),
        ],
    }
}

fn to_canary() -> Part {
    Part {
        text: format!("ip daddr {CANARY}"),
        expressions: vec![
            Expression::Meta(Meta::Family),
            Expression::Is(vec![NFPROTO_IPV4]),
            Expression::Payload { base: Base::Network, offset: 16, bytes: 4 },
            Expression::Is(CANARY.octets().to_vec()),
        ],
    }
}

fn redirect(to: u16) -> Part {
    Part { text: format!("redirect to :{to}"), expressions: vec![Expression::Redirect(to)] }
}

fn discard() -> Part {
    Part { text: "drop".to_owned(), expressions: vec![Expression::Drop] }
}
