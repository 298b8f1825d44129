//! Learning what a child speaks: it is asked as a server of the modern era would be, and shaken hands with as one of the
//! legacy era if it does not understand.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;
use weft_proto::mcp::{self, Body, Bounds, Fault, Message, Outcome, Revision, code, method};
use weft_proto::resource::kinds::Era;

use super::wire::Wire;
use crate::exchange::{Introduction, Reply, Said};

/// How long the first question may stay unanswered before the other one is asked, too. There are servers that are
/// silent about what they do not know.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);

const CLIENT: &str = concat!(r#"{"name":"weft-sidecar","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// What a child that many share may ask of who calls. Roots are not among it: they would be one caller's, and the child
/// would take them for everyone's.
pub(super) const SHARED_CAPABILITIES: &str = r#"{"sampling":{},"elicitation":{}}"#;
pub(super) const OWN_CAPABILITIES: &str = r#"{"roots":{"listChanged":true},"sampling":{},"elicitation":{}}"#;

/// What an answer to the first question says about a server.
enum Judged {
    Modern(Introduction),
    /// Whoever does not understand the question is of the legacy era, whatever the words.
    NotModern,
    /// Of the modern era, and of no use.
    Useless(String),
}

/// Shakes hands. `probe` is whether to ask as in the modern era first. What goes wrong is told in words.
pub(super) async fn shake(wire: &Wire, probe: bool, capabilities: &str) -> Result<Introduction, String> {
    let mut asked = None;
    if probe {
        let mut probe = wire.own(method::SERVER_DISCOVER, &discover());
        match timeout(PROBE_PATIENCE, response(&mut probe)).await {
            Ok(answer) => match judge(answer?) {
                Judged::Modern(introduction) => return Ok(introduction),
                Judged::Useless(why) => return Err(why),
                Judged::NotModern => {}
            },
            // It may just be slow to start.
            Err(_) => asked = Some(probe),
        }
    }
    let mut first = wire.own(method::INITIALIZE, &initialize(capabilities));
    let introduction = loop {
        tokio::select! {
            answer = response(&mut first) => break introduced(answer?)?,
            answer = late(&mut asked) => {
                asked = None;
                match judge(answer?) {
                    Judged::Modern(introduction) => return Ok(introduction),
                    Judged::Useless(why) => return Err(why),
                    Judged::NotModern => {}
                }
            }
        }
    };
    wire.tell(method::INITIALIZED);
    Ok(introduction)
}

async fn late(asked: &mut Option<Reply>) -> Result<Vec<u8>, String> {
    match asked {
        Some(asked) => response(asked).await,
        None => std::future::pending().await,
    }
}

async fn response(reply: &mut Reply) -> Result<Vec<u8>, String> {
    while let Some(said) = reply.0.recv().await {
        match said {
            Ok(Said::Response(response)) => return Ok(response.into()),
            Ok(Said::Note(_) | Said::Request(_) | Said::Sign) => {}
            Err(refusal) => return Err(refusal.detail()),
        }
    }
    Err("it ended during the handshake".to_owned())
}

fn judge(answer: Vec<u8>) -> Judged {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Discovered {
        supported_versions: Vec<String>,
    }
    let modern = Revision::LATEST;
    let outcome = outcome(&answer);
    let supported = match &outcome {
        Some(Outcome::Result(result)) => match serde_json::from_str::<Discovered>(result.get()) {
            Ok(Discovered { supported_versions }) => supported_versions,
            Err(_) => return Judged::NotModern,
        },
        Some(Outcome::Error(fault)) if code::proves_modern(fault.code) => supported_by(fault),
        Some(Outcome::Error(_)) | None => return Judged::NotModern,
    };
    let known: Vec<Revision> = supported.iter().filter_map(|text| Revision::parse(text)).collect();
    match outcome {
        Some(Outcome::Result(result)) if known.contains(&modern) => Judged::Modern(Introduction {
            era: Era::Modern,
            revision: modern.as_str().to_owned(),
            result: result.get().to_owned().into(),
        }),
        _ if known.iter().any(|revision| revision.era() == Era::Legacy) => Judged::NotModern,
        _ => Judged::Useless(format!("it speaks only {supported:?}, which is not known here")),
    }
}

fn supported_by(fault: &Fault<'_>) -> Vec<String> {
    #[derive(Deserialize)]
    struct Data {
        supported: Vec<String>,
    }
    let data = fault.data.and_then(|data| serde_json::from_str::<Data>(data.get()).ok());
    data.map(|data| data.supported).unwrap_or_default()
}

fn introduced(answer: Vec<u8>) -> Result<Introduction, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized {
        protocol_version: String,
    }
    let result = match outcome(&answer) {
        Some(Outcome::Result(result)) => result,
        Some(Outcome::Error(fault)) => {
            return Err(format!("it refused the handshake: {} ({})", fault.message, fault.code));
        }
        None => return Err("its answer to the handshake cannot be read".to_owned()),
    };
    let Initialized { protocol_version } = serde_json::from_str(result.get())
        .map_err(|error| format!("its answer to the handshake is wrong: {error}"))?;
    match Revision::parse(&protocol_version).filter(|revision| revision.era() == Era::Legacy) {
        Some(revision) => Ok(Introduction {
            era: Era::Legacy,
            revision: revision.as_str().to_owned(),
            result: result.get().to_owned().into(),
        }),
        None => Err(format!("it speaks {protocol_version:?}, which is not known here")),
    }
}

/// The mux has read it before.
fn outcome(answer: &[u8]) -> Option<Outcome<'_>> {
    match mcp::parse(answer, Bounds { depth_max: usize::MAX, batch_max: 1 }) {
        Ok(Body::One(Message::Response(response))) => Some(response.outcome),
        _ => None,
    }
}

pub(super) fn discover() -> String {
    let version = Revision::LATEST;
    format!(
        r#"{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{CLIENT}}}}}"#
    )
}

/// The parameters of asking for a page of a list.
pub(super) fn listing(cursor: Option<&str>) -> String {
    match cursor {
        None => discover(),
        Some(cursor) => {
            let (discover, cursor) = (discover(), serde_json::Value::from(cursor));
            format!("{{\"cursor\":{cursor},{}", &discover[1..])
        }
    }
}

/// The parameters to listen to the lists that a server says it tells of; none if it tells of none.
pub(super) fn lists_to_hear_of(introduction: &[u8]) -> Option<String> {
    let result: serde_json::Value = serde_json::from_slice(introduction).ok()?;
    let lists = [
        ("tools", "toolsListChanged"),
        ("prompts", "promptsListChanged"),
        ("resources", "resourcesListChanged"),
    ];
    let told = lists.iter().filter(|(kind, _)| result["capabilities"][*kind]["listChanged"] == true);
    let wanted: Vec<String> = told.map(|(_, name)| format!("\"{name}\":true")).collect();
    // The same `_meta` that every request has.
    let about = discover();
    let about = about.strip_suffix('}')?;
    (!wanted.is_empty()).then(|| format!("{about},\"notifications\":{{{}}}}}", wanted.join(",")))
}

fn initialize(capabilities: &str) -> String {
    let version = Revision::LATEST_LEGACY;
    format!(r#"{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{CLIENT}}}"#)
}
