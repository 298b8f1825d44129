//! Asks a server for what it offers: what it says of itself, and its lists, all pages within bounds. A list that is too
//! long is none: of a part nobody could say what is not in it.
//!
//! Nobody's name stands on such a question, and it is no call: it takes no place, and is not written down.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::broadcast;
use weft_proto::catalogue::Introduced;
use weft_proto::mcp::lists::Listed;
use weft_proto::mcp::{self, Bounds, Message, Outcome, Raw, edit, method};
use weft_proto::policy::tools::answer;
use weft_proto::resource::kinds::Era;

use crate::backend::way::Ways;
use crate::backend::way::list::HttpLister;
use crate::exchange::http::modern_request;
use crate::exchange::{Aside, Ask, Asker, Peer as _, Reply, Said};
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::stdio::StdioPeer;

/// The id of each question; there is one at a time.
const ID: &str = "\"weft-lists\"";

/// Whom to ask.
#[derive(Debug)]
pub enum Lister {
    Http(HttpLister),
    Child(Arc<StdioPeer>),
}

/// How much is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) pages: usize,
    pub(super) items: usize,
    pub(super) bytes: usize,
    pub(super) bounds: Bounds,
}

impl Most {
    pub(super) fn of(limits: &Limits) -> Self {
        Self {
            pages: limits.tool_pages_max,
            items: limits.tools_max,
            bytes: limits.tools_bytes_max,
            bounds: Bounds { depth_max: limits.depth_max, batch_max: limits.batch_max },
        }
    }
}

impl Lister {
    pub fn http(ways: Arc<Ways>) -> Self {
        Self::Http(HttpLister::new(ways))
    }

    /// All definitions of a kind, each as it is written.
    pub(super) async fn read(&mut self, listed: Listed, most: Most) -> Result<Vec<Box<str>>, Refusal> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        let (mut cursor, mut seen) = (None::<String>, BTreeSet::new());
        for _ in 0..most.pages {
            let response = self.page(listed, cursor.as_deref(), most.bounds).await?;
            bytes += response.len();
            if bytes > most.bytes {
                return Err(too_much(listed, format_args!("they take more than {} bytes", most.bytes)));
            }
            let (page, next) = read_page(listed, &response, most.bounds)?;
            items.extend(page);
            if items.len() > most.items {
                return Err(too_much(listed, format_args!("there are more than {}", most.items)));
            }
            let Some(next) = next else { return Ok(items) };
            if !seen.insert(next.clone()) {
                return Err(broke(listed.member(), "its pages go round in a circle"));
            }
            cursor = Some(next);
        }
        Err(too_much(listed, format_args!("they are on more than {} pages", most.pages)))
    }

    async fn page(&mut self, listed: Listed, cursor: Option<&str>, bounds: Bounds) -> Result<Bytes, Refusal> {
        let reply = match self {
            Self::Http(http) => {
                let (era, peer) = http.peer().await?;
                let message = question(era, listing(listed), cursor);
                peer.call(Ask { asker: Asker::nobody(), message }).await?
            }
            Self::Child(peer) => peer.ask_for(listing(listed), cursor).await?,
        };
        response(listed.member(), reply, bounds).await
    }

    /// What the server says of itself. One that can be asked again is: it may be another than before.
    pub(super) async fn introduction(&mut self, bounds: Bounds) -> Result<Introduced, Refusal> {
        let said = match self {
            Self::Http(http) => match http.peer().await? {
                (Era::Modern, peer) => {
                    let message = question(Era::Modern, method::SERVER_DISCOVER, None);
                    let reply = peer.call(Ask { asker: Asker::nobody(), message }).await?;
                    let response = response("introduction", reply, bounds).await?;
                    return match result("introduction", &response, bounds)? {
                        Some(result) => introduced(result),
                        None => Ok(Introduced::default()),
                    };
                }
                (Era::Legacy, peer) => {
                    // It says that in the handshake of the session in which it is asked for its lists.
                    let message = question(Era::Legacy, method::PING, None);
                    let reply = peer.call(Ask { asker: Asker::nobody(), message }).await?;
                    response("introduction", reply, bounds).await?;
                    peer.introduction().await?
                }
            },
            Self::Child(peer) => peer.introduction().await?,
        };
        let said =
            std::str::from_utf8(&said.result).map_err(|error| broke("introduction", &error.to_string()))?;
        introduced(
            Raw::scan(said, bounds.depth_max).map_err(|error| broke("introduction", &error.to_string()))?,
        )
    }

    /// The next question begins anew.
    pub(super) fn forget(&mut self) {
        match self {
            Self::Http(http) => http.forget(),
            Self::Child(_) => {}
        }
    }

    /// What the server says by itself; none while it is not known what it speaks.
    pub(super) async fn asides(&mut self) -> Option<broadcast::Receiver<Aside>> {
        match self {
            Self::Http(http) => http.peer().await.ok().map(|(_, peer)| peer.asides(&Asker::nobody())),
            Self::Child(peer) => Some(peer.asides_of_first()),
        }
    }
}

fn introduced(result: Raw<'_>) -> Result<Introduced, Refusal> {
    Introduced::read(result).map_err(|why| broke("introduction", &format!("it has {why}")))
}

const fn listing(listed: Listed) -> &'static str {
    match listed {
        Listed::Tool => method::TOOLS_LIST,
        Listed::Prompt => method::PROMPTS_LIST,
        Listed::Resource => method::RESOURCES_LIST,
        Listed::ResourceTemplate => method::RESOURCES_TEMPLATES_LIST,
    }
}

fn question(era: Era, method: &str, cursor: Option<&str>) -> Bytes {
    match era {
        Era::Modern => {
            let more = cursor.map(|cursor| format!(",\"cursor\":{}", json_string(cursor)));
            modern_request(ID, method, &more.unwrap_or_default())
        }
        Era::Legacy => {
            let params = cursor.map(|cursor| format!("{{\"cursor\":{}}}", json_string(cursor)));
            let params = params.and_then(|text| RawValue::from_string(text).ok());
            edit::request(ID, method, params.as_deref()).into()
        }
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

async fn response(what: &str, mut reply: Reply, bounds: Bounds) -> Result<Bytes, Refusal> {
    while let Some(said) = reply.0.recv().await {
        if let Said::Response(response) = said? {
            // Whatever is in it twice is read in two ways.
            return mcp::parse(&response, bounds)
                .map(|_| response.clone())
                .map_err(|error| broke(what, &format!("its answer cannot be read: {error}")));
        }
    }
    Err(broke(what, "it was not answered"))
}

/// What was answered; none by a server that does not know the question.
fn result<'m>(what: &str, response: &'m [u8], bounds: Bounds) -> Result<Option<Raw<'m>>, Refusal> {
    let parsed = mcp::parse(response, bounds).map_err(|error| broke(what, &error.to_string()))?;
    let mcp::Body::One(Message::Response(response)) = parsed else {
        return Err(broke(what, "its answer is no response"));
    };
    match response.outcome {
        Outcome::Result(result) => Ok(Some(result)),
        Outcome::Error(fault) if fault.code == mcp::code::METHOD_NOT_FOUND => Ok(None),
        Outcome::Error(fault) => Err(broke(what, &format!("error {}: {}", fault.code, fault.message))),
    }
}

/// The definitions of a page, and where the next one begins.
fn read_page(
    listed: Listed,
    response: &[u8],
    bounds: Bounds,
) -> Result<(Vec<Box<str>>, Option<String>), Refusal> {
    // Who has none of a kind need not know the question.
    let Some(result) = result(listed.member(), response, bounds)? else { return Ok((Vec::new(), None)) };
    let page = answer::page(listed, result);
    let page = page.ok_or_else(|| broke(listed.member(), "its answer is no such list"))?;
    let items = page.items.into_iter().map(|item| item.get().into()).collect();
    Ok((items, page.next.map(Into::into)))
}

fn broke(what: &str, why: &str) -> Refusal {
    Refusal::UpstreamBroke(format!("asked for its {what}: {why}"))
}

fn too_much(listed: Listed, what: std::fmt::Arguments<'_>) -> Refusal {
    Refusal::UpstreamBroke(format!("its {} are too many to be known: {what}", listed.member()))
}
