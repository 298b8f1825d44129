//! Which translation messages need between a caller and a server, by the eras of the two. The translations are the
//! bridge's.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use weft_proto::mcp::{self, Bounds, Notification, Request, Revision, method};
use weft_proto::resource::kinds::Era;

use crate::bridge::{
    self, Abilities, AboutTasks, Answered, Asked, Change, Outgoing, ToLegacy, ToModern, Turn, input,
};
use crate::exchange::{Introduction, Peer};
use crate::refusal::Refusal;

use super::tasks::Tools;

/// A server, with what is needed for callers of the other era.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) introduction: Arc<Introduction>,
    translator: Result<Translator, Refusal>,
    /// Which of its tools can be tasks.
    pub(super) tools: Tools,
}

#[derive(Clone, Debug)]
enum Translator {
    ToLegacy(Arc<ToLegacy>),
    ToModern(Arc<ToModern>),
}

/// The server as it last introduced itself.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Option<Arc<Server>>>);

impl Known {
    pub(super) async fn ask(&self, peer: &dyn Peer, bounds: Bounds) -> Result<Arc<Server>, Refusal> {
        let introduction = peer.introduction().await?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = known.as_ref().filter(|it| Arc::ptr_eq(&it.introduction, &introduction)) {
            return Ok(Arc::clone(server));
        }
        let server = Arc::new(Server::new(introduction, bounds));
        *known = Some(Arc::clone(&server));
        Ok(server)
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Fate {
    /// The server is asked this.
    Ask(Bytes),
    /// This is the response.
    Answer(Bytes),
    /// This is the response once something is remembered.
    Remember(Change, Bytes),
}

impl Server {
    fn new(introduction: Arc<Introduction>, bounds: Bounds) -> Self {
        let translator = match introduction.era {
            Era::Legacy => ToLegacy::new(&introduction, bounds).map(|it| Translator::ToLegacy(Arc::new(it))),
            Era::Modern => ToModern::new(&introduction, bounds).map(|it| Translator::ToModern(Arc::new(it))),
        };
        Self { introduction, translator, tools: Tools::default() }
    }

    /// What translates the tasks of a server of the legacy era that has any.
    pub(super) fn tasks(&self) -> Option<Arc<ToLegacy>> {
        match &self.translator {
            Ok(Translator::ToLegacy(bridge)) if bridge.has_tasks() => Some(Arc::clone(bridge)),
            Ok(_) | Err(_) => None,
        }
    }

    /// What translates the tasks of a server of the modern era that has any.
    pub(super) fn extension(&self) -> Option<Arc<ToModern>> {
        match &self.translator {
            Ok(Translator::ToModern(bridge)) if bridge.has_tasks() => Some(Arc::clone(bridge)),
            Ok(_) | Err(_) => None,
        }
    }

    /// The way of one request and what comes in answer to it.
    pub(super) fn way(
        &self,
        caller: Era,
        abilities: Abilities,
        request: &Request<'_>,
    ) -> Result<Way, Refusal> {
        if caller == self.introduction.era {
            return Ok(Way::Same);
        }
        let asked = Asked::of(request, abilities);
        Ok(match self.translator.clone()? {
            Translator::ToLegacy(bridge) => Way::ToLegacy(bridge, asked),
            Translator::ToModern(bridge) => Way::ToModern(bridge, asked),
        })
    }

    /// What becomes of a notification of the caller's, if the server has a use for it.
    pub(super) fn notification(
        &self,
        caller: Era,
        message: &Bytes,
        notification: &Notification<'_>,
    ) -> Result<Option<Bytes>, Refusal> {
        if caller == self.introduction.era {
            return Ok(Some(message.clone()));
        }
        Ok(match self.translator.clone()? {
            Translator::ToLegacy(bridge) => Some(bridge.notification(message, notification)),
            Translator::ToModern(bridge) => bridge.notification(message, notification),
        })
    }

    /// What becomes of a notification that belongs to no request, for a caller of the legacy era.
    pub(super) fn aside(&self, note: Bytes) -> Option<Bytes> {
        match &self.translator {
            Ok(Translator::ToModern(bridge)) => bridge.note(note),
            Ok(Translator::ToLegacy(_)) | Err(_) => Some(note),
        }
    }

    /// The result of `server/discover`, for a server of the legacy era.
    pub(super) fn discovered(&self) -> Result<Bytes, Refusal> {
        match self.translator.clone()? {
            Translator::ToLegacy(bridge) => Ok(Bytes::copy_from_slice(bridge.discovered().as_bytes())),
            Translator::ToModern(_) => Ok(self.introduction.result.clone()),
        }
    }

    /// The revision for a caller of the legacy era who asked for one, and the result of `initialize` that says so. A
    /// server of the same era can do those before its own too.
    pub(super) fn initialized(&self, asked: Option<&str>) -> Result<(Revision, String), Refusal> {
        let agreed = bridge::agreed(asked);
        match self.translator.clone() {
            Ok(Translator::ToModern(bridge)) => Ok((agreed, bridge.initialized(agreed))),
            Err(refusal) if self.introduction.era == Era::Modern => Err(refusal),
            Ok(Translator::ToLegacy(_)) | Err(_) => {
                let own = Revision::parse(&self.introduction.revision).unwrap_or(Revision::LATEST_LEGACY);
                let revision = agreed.min(own);
                Ok((revision, with_revision(&self.introduction.result, revision)?))
            }
        }
    }
}

/// Between which eras one request and its answers go.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// Both speak the same era: everything passes as it is.
    Same,
    ToLegacy(Arc<ToLegacy>, Asked),
    ToModern(Arc<ToModern>, Asked),
}

impl Way {
    /// The same for the list of tools of a server that has tasks, for a caller who knows them.
    pub(super) fn with_tasks(self, request: &Request<'_>) -> Self {
        match self {
            Self::ToModern(bridge, asked) if bridge.has_tasks() && request.method == method::TOOLS_LIST => {
                Self::ToModern(bridge, asked.with_tasks(AboutTasks::Tools))
            }
            other => other,
        }
    }

    pub(super) fn request(
        &self,
        caller: bridge::Caller<'_>,
        message: Bytes,
        request: &Request<'_>,
    ) -> Result<Fate, Refusal> {
        let outgoing = match self {
            Self::Same => return Ok(Fate::Ask(message)),
            Self::ToLegacy(bridge, _) => bridge.request(&message, request)?,
            Self::ToModern(bridge, _) => bridge.request(caller, &message, request)?,
        };
        match outgoing {
            Outgoing::Forward(message) => Ok(Fate::Ask(message)),
            Outgoing::Answer(response) => Ok(Fate::Answer(response)),
            Outgoing::Remember(change, response) => Ok(Fate::Remember(change, response)),
            // Those who may ask for it are answered elsewhere.
            Outgoing::Listen => Err(Refusal::MethodNotFound(request.method.clone().into_owned())),
        }
    }

    pub(super) fn note(&self, note: Bytes) -> Option<Bytes> {
        match self {
            Self::Same => Some(note),
            Self::ToLegacy(bridge, asked) => bridge.note(*asked, note),
            Self::ToModern(bridge, _) => bridge.note(note),
        }
    }

    /// None where it is told as it is.
    pub(super) fn request_of_server(&self, request: &[u8]) -> Option<Turn> {
        match self {
            Self::Same => None,
            Self::ToLegacy(bridge, asked) => Some(bridge.request_of_server(*asked, request)),
            // The modern era has none.
            Self::ToModern(..) => Some(Turn::Nothing),
        }
    }

    pub(super) fn response(&self, response: Bytes) -> Result<Answered, Refusal> {
        match self {
            Self::Same => Ok(Answered::Response(response)),
            Self::ToLegacy(bridge, asked) => bridge.response(*asked, &response).map(Answered::Response),
            Self::ToModern(bridge, asked) => bridge.response(*asked, &response),
        }
    }

    /// The response that asks a caller of the modern era for something; none where no other era is spoken.
    pub(super) fn asking(&self, id: &str, wishes: &[input::Wish], state: &str) -> Option<Bytes> {
        match self {
            Self::ToLegacy(bridge, _) => Some(bridge.asking(id, wishes, Some(state))),
            Self::Same | Self::ToModern(..) => None,
        }
    }
}

/// The result of `initialize` with another revision, and otherwise as it was.
fn with_revision(result: &[u8], revision: Revision) -> Result<String, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned<'a> {
        #[serde(borrow)]
        protocol_version: &'a RawValue,
    }
    let broke = |what: String| Refusal::UpstreamBroke(format!("the result of initialize: {what}"));
    let versioned: Versioned<'_> =
        serde_json::from_slice(result).map_err(|error| broke(error.to_string()))?;
    let at = mcp::span(result, versioned.protocol_version.get());
    let result = mcp::splice(result, vec![(at, format!("\"{revision}\"").into())]);
    String::from_utf8(result).map_err(|error| broke(error.to_string()))
}
