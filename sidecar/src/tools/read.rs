//! Asks a server for the definitions of its tools: all pages, within bounds. A list that is too long is none: of a part
//! nobody could say what is not in it.
//!
//! Nobody's name stands on such a question, and it is no call: it takes no place, and is not written down.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::broadcast;
use weft_proto::mcp::{self, Bounds, Message, Outcome, edit, method};
use weft_proto::policy::tools::answer;
use weft_proto::resource::kinds::Era;

use crate::backend::way::Ways;
use crate::backend::way::list::HttpLister;
use crate::exchange::http::modern_request;
use crate::exchange::{Aside, Ask, Asker, Reply, Said};
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::stdio::StdioPeer;

/// The id of each question; there is one at a time.
const ID: &str = "\"weft-tools\"";

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
    pub(super) tools: usize,
    pub(super) bytes: usize,
    pub(super) bounds: Bounds,
}

impl Most {
    pub(super) fn of(limits: &Limits) -> Self {
        Self {
            pages: limits.tool_pages_max,
            tools: limits.tools_max,
            bytes: limits.tools_bytes_max,
            bounds: Bounds { depth_max: limits.depth_max, batch_max: limits.batch_max },
        }
    }
}

impl Lister {
    pub fn http(ways: Arc<Ways>) -> Self {
        Self::Http(HttpLister::new(ways))
    }

    /// All definitions, each as it is written.
    pub(super) async fn read(&mut self, most: Most) -> Result<Vec<Box<str>>, Refusal> {
        let (mut tools, mut bytes) = (Vec::new(), 0);
        let (mut cursor, mut seen) = (None::<String>, BTreeSet::new());
        for _ in 0..most.pages {
            let response = self.page(cursor.as_deref(), most.bounds).await?;
            bytes += response.len();
            if bytes > most.bytes {
                return Err(too_much(format_args!("they take more than {} bytes", most.bytes)));
            }
            let (page, next) = read_page(&response, most.bounds)?;
            tools.extend(page);
            if tools.len() > most.tools {
                return Err(too_much(format_args!("there are more than {}", most.tools)));
            }
            let Some(next) = next else { return Ok(tools) };
            if !seen.insert(next.clone()) {
                return Err(broke("its pages go round in a circle"));
            }
            cursor = Some(next);
        }
        Err(too_much(format_args!("they are on more than {} pages", most.pages)))
    }

    async fn page(&mut self, cursor: Option<&str>, bounds: Bounds) -> Result<Bytes, Refusal> {
        let reply = match self {
            Self::Http(http) => {
                let (era, peer) = http.peer().await?;
                peer.call(Ask { asker: nobody(), message: question(era, cursor) }).await?
            }
            Self::Child(peer) => peer.ask_for_tools(cursor).await?,
        };
        response(reply, bounds).await
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
            Self::Http(http) => http.peer().await.ok().map(|(_, peer)| peer.asides(&nobody())),
            Self::Child(peer) => Some(peer.asides_of_first()),
        }
    }
}

/// No header says who asks.
fn nobody() -> Asker {
    Asker { caller: "".into(), session: None }
}

fn question(era: Era, cursor: Option<&str>) -> Bytes {
    match era {
        Era::Modern => {
            let more = cursor.map(|cursor| format!(",\"cursor\":{}", json_string(cursor)));
            modern_request(ID, method::TOOLS_LIST, &more.unwrap_or_default())
        }
        Era::Legacy => {
            let params = cursor.map(|cursor| format!("{{\"cursor\":{}}}", json_string(cursor)));
            let params = params.and_then(|text| RawValue::from_string(text).ok());
            edit::request(ID, method::TOOLS_LIST, params.as_deref()).into()
        }
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

async fn response(mut reply: Reply, bounds: Bounds) -> Result<Bytes, Refusal> {
    while let Some(said) = reply.0.recv().await {
        if let Said::Response(response) = said? {
            // Whatever is in it twice is read in two ways.
            return mcp::parse(&response, bounds)
                .map(|_| response.clone())
                .map_err(|error| broke(&format!("its answer cannot be read: {error}")));
        }
    }
    Err(broke("it was not answered"))
}

/// The definitions of a page, and where the next one begins.
fn read_page(response: &[u8], bounds: Bounds) -> Result<(Vec<Box<str>>, Option<String>), Refusal> {
    let parsed = mcp::parse(response, bounds).map_err(|error| broke(&error.to_string()))?;
    let mcp::Body::One(Message::Response(response)) = parsed else {
        return Err(broke("its answer is no response"));
    };
    let result = match response.outcome {
        Outcome::Result(result) => result,
        // Who has no tools need not know the question.
        Outcome::Error(fault) if fault.code == mcp::code::METHOD_NOT_FOUND => return Ok((Vec::new(), None)),
        Outcome::Error(fault) => return Err(broke(&format!("error {}: {}", fault.code, fault.message))),
    };
    let page = answer::page(result).ok_or_else(|| broke("its answer is no list of tools"))?;
    let tools = page.tools.into_iter().map(|tool| tool.get().into()).collect();
    Ok((tools, page.next.map(Into::into)))
}

fn broke(what: &str) -> Refusal {
    Refusal::UpstreamBroke(format!("asked for its tools: {what}"))
}

fn too_much(what: std::fmt::Arguments<'_>) -> Refusal {
    Refusal::UpstreamBroke(format!("its tools are too many to be known: {what}"))
}
