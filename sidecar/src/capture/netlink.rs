//! Messages of netlink, as nf_tables takes and gives them: rules → bytes → messages. The numbers are those of
//! `linux/netlink.h` and `linux/netfilter/nf_tables.h`.

use super::Error;
use super::rules::{Chain, Expression, Rule, TABLE};

const HEADER_BYTES: usize = 16;
/// Family, version and resource, before a message's attributes.
const PREFIX_BYTES: usize = 4;
const ATTRIBUTE_BYTES: usize = 4;
const ALIGN_BYTES: usize = 4;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;

const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = NFTABLES << 8;
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const GET_RULE: u16 = NFTABLES << 8 | 7;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Of every address, IPv4 and IPv6.
const INET: u8 = 1;
const ACCEPT: u32 = 1;
const DROP: u32 = 0;
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
/// The range of ports, which here is one, is said.
const PORT_SAID: u32 = 0x2;

/// Messages that hold together or not at all.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// What each message is for that is answered; the first has number 1.
    pub(super) steps: Vec<String>,
}

/// An answer of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// To the message of this number: 0, or the number of an error.
    Done {
        number: u32,
        errno: i32,
    },
    /// A rule of the chain that was asked for.
    Rule {
        chain: Vec<u8>,
    },
    /// There are no more rules.
    End,
    Other,
}

/// The table anew, with nothing in between: made if it is not there, so that it can be removed, and made again.
pub(super) fn batch(chains: &[Chain]) -> Batch {
    let mut steps = vec![
        ("a table".to_owned(), NEW_TABLE, CREATE, table()),
        ("the removal of a table".to_owned(), DELETE_TABLE, 0, table()),
        ("a table".to_owned(), NEW_TABLE, CREATE, table()),
    ];
    for chain in chains {
        let what = format!("chain {} of type {}", chain.name, chain.kind);
        steps.push((what, NEW_CHAIN, CREATE, chain_of(chain)));
        let rules = chain.rules.iter().map(|rule| {
            let what = format!("the rule `{rule}`");
            (what, NEW_RULE, CREATE | APPEND, rule_of(chain.name, rule))
        });
        steps.extend(rules);
    }
    let mut batch = Batch { bytes: bracket(BATCH_BEGIN, 0), steps: Vec::new() };
    for (number, (what, kind, flags, attributes)) in (1..).zip(steps) {
        batch.bytes.extend(message(kind, REQUEST | ACK | flags, number, INET, 0, &attributes.0));
        batch.steps.push(what);
    }
    let after = u32::try_from(batch.steps.len() + 1).expect("there are few steps");
    batch.bytes.extend(bracket(BATCH_END, after));
    batch
}

/// Asks for the rules of a chain.
pub(super) fn question(chain: &str, number: u32) -> Vec<u8> {
    let asked = Attributes::default().text(1, TABLE).text(2, chain);
    message(GET_RULE, REQUEST | DUMP, number, INET, 0, &asked.0)
}

/// The answers in what the kernel sent at once.
pub(super) fn answers(mut bytes: &[u8]) -> Result<Vec<Answer>, Error> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(Error::Garbled)?;
        let [l0, l1, l2, l3, k0, k1, _, _, n0, n1, n2, n3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).map_err(|_| Error::Garbled)?;
        let body = bytes.get(HEADER_BYTES..length).ok_or(Error::Garbled)?;
        let answer = match u16::from_ne_bytes([k0, k1]) {
            ERROR => {
                let negative = i32::from_ne_bytes(*body.first_chunk().ok_or(Error::Garbled)?);
                let errno = negative.checked_neg().ok_or(Error::Garbled)?;
                Answer::Done { number: u32::from_ne_bytes([n0, n1, n2, n3]), errno }
            }
            NEW_RULE => Answer::Rule { chain: chain_in(body)? },
            DONE => Answer::End,
            _ => Answer::Other,
        };
        answers.push(answer);
        bytes = bytes.get(length.next_multiple_of(ALIGN_BYTES)..).unwrap_or_default();
    }
    Ok(answers)
}

/// The chain that a rule says it is in, without the zero at its end.
fn chain_in(body: &[u8]) -> Result<Vec<u8>, Error> {
    let mut rest = body.get(PREFIX_BYTES..).ok_or(Error::Garbled)?;
    while let Some(&[l0, l1, k0, k1]) = rest.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(ATTRIBUTE_BYTES..length).ok_or(Error::Garbled)?;
        if u16::from_ne_bytes([k0, k1]) == 2 {
            return Ok(value.strip_suffix(&[0]).unwrap_or(value).to_vec());
        }
        rest = rest.get(length.next_multiple_of(ALIGN_BYTES)..).unwrap_or_default();
    }
    Err(Error::Garbled)
}

fn bracket(kind: u16, number: u32) -> Vec<u8> {
    message(kind, REQUEST, number, 0, NFTABLES, &[])
}

fn message(kind: u16, flags: u16, number: u32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + PREFIX_BYTES + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).expect("a message is short").to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    // From whichever socket.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

fn table() -> Attributes {
    Attributes::default().text(1, TABLE)
}

fn chain_of(chain: &Chain) -> Attributes {
    let hook = Attributes::default().number(1, chain.hook).bytes(2, &chain.priority.to_be_bytes());
    Attributes::default()
        .text(1, TABLE)
        .text(3, chain.name)
        .text(7, chain.kind)
        .number(5, ACCEPT)
        .nested(4, &hook)
}

fn rule_of(chain: &str, rule: &Rule) -> Attributes {
    Attributes::default().text(1, TABLE).text(2, chain).nested(4, &expressions_of(rule))
}

pub(super) fn expressions_of(rule: &Rule) -> Attributes {
    rule.expressions().fold(Attributes::default(), |list, expression| match expression {
        Expression::Meta(fact) => {
            list.expression("meta", &Attributes::default().number(2, *fact as u32).number(1, REGISTER))
        }
        Expression::Payload { base, offset, bytes } => {
            let load = Attributes::default().number(1, REGISTER).number(2, *base as u32);
            list.expression("payload", &load.number(3, *offset).number(4, *bytes))
        }
        Expression::Is(value) => list.expression("cmp", &compared(EQUAL, value)),
        Expression::IsNot(value) => list.expression("cmp", &compared(NOT_EQUAL, value)),
        Expression::Redirect(port) => {
            let port = Attributes::default().bytes(1, &port.to_be_bytes());
            let load = Attributes::default().number(1, REGISTER).nested(2, &port);
            let redirect = Attributes::default().number(1, REGISTER).number(3, PORT_SAID);
            list.expression("immediate", &load).expression("redir", &redirect)
        }
        Expression::Drop => {
            let verdict = Attributes::default().nested(2, &Attributes::default().number(1, DROP));
            list.expression("immediate", &Attributes::default().number(1, VERDICT).nested(2, &verdict))
        }
    })
}

fn compared(how: u32, value: &[u8]) -> Attributes {
    let value = Attributes::default().bytes(1, value);
    Attributes::default().number(1, REGISTER).number(2, how).nested(3, &value)
}

/// Attributes one after the other, each filled up to whole words.
#[derive(Default)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE_BYTES + value.len()).expect("an attribute is short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGN_BYTES), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        let mut value = value.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    fn nested(self, kind: u16, value: &Self) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }

    fn expression(self, name: &str, data: &Self) -> Self {
        self.nested(1, &Self::default().text(1, name).nested(2, data))
    }
}
