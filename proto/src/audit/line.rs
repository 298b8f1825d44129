//! One line of a trail: JSON, so that whoever has the file can read it without any tool.
//!
//! Fields and kinds of lines that a later version adds are passed over, so that whoever reads may be older than whoever
//! wrote. They are as safe as the rest: links are digests of the bytes. So a line is handed on as it was written, never as
//! it was understood. A new outcome is no field: all readers have to know it before anybody writes it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Digest;

/// Longest line, in bytes, without its end.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// Longest text of somebody's choice in a line, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;
/// Most certificates that a seal is checked with.
const CHAIN_MAX: usize = 8;

/// Why bytes are no line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a line has {bytes} bytes; at most {LINE_BYTES_MAX} are allowed")]
    TooLong { bytes: usize },
    #[error("a line is none of a trail: {0}")]
    Form(String),
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its number in the trail.
    pub n: u64,
    /// The digest of the line before it.
    pub prev: Digest,
    pub at: Timestamp,
    pub is: What,
}

/// What a line says: an object of one member, whose name is its kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// A segment begins.
    Segment(Segment),
    /// The certificates, leaf first, whose key signs the seals that follow. DER in base64.
    Certificate(Vec<String>),
    /// Everything before this line is sealed.
    Seal(Seal),
    /// A call is about to be made.
    Begun(Box<Call>),
    /// A call ended, or was refused.
    Call(Box<Call>),
    /// What an operator did at the control plane, or was refused.
    Operator(Box<Operator>),
    /// Calls that should have been recorded and were not.
    Dropped(Dropped),
    /// The node ended without closing its file, and took up the trail here.
    Resumed(Cut),
    /// Something that only a later version knows.
    #[serde(untagged)]
    Later(BTreeMap<String, Value>),
}

impl<'de> Deserialize<'de> for What {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OneMember)
    }
}

/// Reads a line's object. What is of a known kind has to have the form of that kind.
struct OneMember;

impl<'de> Visitor<'de> for OneMember {
    type Value = What;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one member")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<What, A::Error> {
        let kind: String = map.next_key()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let is = match kind.as_str() {
            "segment" => What::Segment(map.next_value()?),
            "certificate" => What::Certificate(map.next_value()?),
            "seal" => What::Seal(map.next_value()?),
            "begun" => What::Begun(map.next_value()?),
            "call" => What::Call(map.next_value()?),
            "operator" => What::Operator(map.next_value()?),
            "dropped" => What::Dropped(map.next_value()?),
            "resumed" => What::Resumed(map.next_value()?),
            _ => What::Later(BTreeMap::from([(kind, map.next_value()?)])),
        };
        match map.next_key::<String>()? {
            None => Ok(is),
            Some(_) => Err(A::Error::invalid_length(2, &self)),
        }
    }
}

/// The first line of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// `<namespace>/<name>` of who writes.
    pub node: String,
    pub trail: Trail,
    /// 1, 2, 3, …
    pub number: u64,
}

/// A node's signature under all that it has written. What it signs is a [`super::Statement`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    pub segment: u64,
    /// Lines of the segment before this one.
    pub count: u64,
    /// The last line of the segment before, as its digest.
    pub before: Digest,
    /// Whether it is the last line of its segment.
    pub closes: bool,
    /// ECDSA, as ASN.1 in base64.
    pub signature: String,
}

/// Calls that were not recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub count: u64,
    /// Why, in one word.
    pub reason: String,
    pub since: Timestamp,
}

/// What was found at the end of a file that nobody closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// Bytes of a line that was not written to its end, which are cut off; zero after a clean end.
    pub torn_bytes: u64,
    /// Whether what was there before did not hold together.
    #[serde(default, skip_serializing_if = "is_false")]
    pub damaged: bool,
}

fn is_false(it: &bool) -> bool {
    !it
}

/// What came of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is under way.
    Begun,
    Done,
    Refused,
    Failed,
}

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Begun, Self::Done, Self::Refused, Self::Failed];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    pub fn find(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.word() == word)
    }
}

/// A call. Fields that do not apply are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Drawn for the call: the same where it begins and where it ends.
    pub id: String,
    pub caller: String,
    /// The caller's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    pub server: String,
    pub outcome: Outcome,
    /// `ok`, or why not, in one word.
    pub reason: String,
    /// The rule that let it pass or refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The limit of a quota that refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub status: u16,
    pub era: String,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub duration_us: u64,
    pub asked: Asked,
    /// Of the answer's bytes, as the caller read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_digest: Option<Digest>,
    /// The answer, where it is text and short enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

/// What was asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    pub method: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// A prompt, a resource or a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The id under which the caller asked, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Of the arguments, less what a policy redacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments_digest: Option<Digest>,
    /// The arguments as JSON, less what a policy redacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// What an operator did at the control plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operator {
    /// The number of the act in the control plane's own list.
    pub sequence: u64,
    pub who: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub action: String,
    pub object: String,
    pub outcome: Outcome,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Anything else that belongs to it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// What tells a node's trail from one that it began anew: 32 lower-case hexadecimal digits, drawn when it began.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Trail(String);

impl Trail {
    pub fn from_random(random: u128) -> Self {
        Self(format!("{random:032x}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The node and the trail that a segment says it is of.
    pub fn of_segment(bytes: &[u8]) -> Option<(String, Self)> {
        let end = bytes.iter().position(|it| *it == b'\n')?;
        match Line::parse(&bytes[..end]).ok()?.is {
            What::Segment(segment) => Some((segment.node, segment.trail)),
            _ => None,
        }
    }
}

impl FromStr for Trail {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.len() == 32 && text.bytes().all(is_digit) {
            true => Ok(Self(text.to_owned())),
            false => Err("a trail is called by 32 lower-case hexadecimal digits"),
        }
    }
}

impl TryFrom<String> for Trail {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Trail> for String {
    fn from(trail: Trail) -> Self {
        trail.0
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Line {
    /// Its bytes, without a line's end.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a line has texts for keys and nothing that fails")
    }

    /// Reads a line without its end.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > LINE_BYTES_MAX {
            return Err(Error::TooLong { bytes: bytes.len() });
        }
        let line: Self = serde_json::from_slice(bytes).map_err(|error| Error::Form(error.to_string()))?;
        match &line.is {
            What::Certificate(chain) if chain.is_empty() || chain.len() > CHAIN_MAX => {
                Err(Error::Form(format!("{} certificates; 1 to {CHAIN_MAX} are expected", chain.len())))
            }
            _ => Ok(line),
        }
    }
}

/// At most so many bytes of a text.
pub fn clip(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
