//! Tasks of members: their ids as callers are given them, each of which says at which server and instance the task is, and
//! is good for the caller alone whose call began it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use weft_proto::mcp::{self, Bounds, Message, Outcome, Request, Target, span, splice};
use weft_proto::name::ServerName;

use crate::exchange::{Reply, Said};
use crate::outbound::Outbound;
use crate::refusal::Refusal;
use crate::session_id::Tag;
use crate::task_id::{self, TaskIds};

use super::Found;
use super::peer::Members;

/// Where a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) server: ServerName,
    /// As far as it is known.
    instance: Option<Tag>,
    /// What it is called there.
    pub(super) own: String,
}

impl Held {
    fn text(&self) -> String {
        let instance = self.instance.map_or_else(String::new, |instance| instance.to_string());
        format!("{} {instance} {}", self.server, self.own)
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        let (server, instance, own) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { server: server.parse().ok()?, instance: Tag::parse(instance), own: own.to_owned() })
    }
}

impl From<Held> for Found {
    fn from(held: Held) -> Self {
        Self { server: held.server, own: held.own, arguments: None }
    }
}

impl Members {
    /// The task that an id of a caller's names, as long as its server is among the members.
    pub(super) fn task(&self, caller: &str, id: &str) -> Result<Held, Refusal> {
        let held = Held::read(&self.ids.open(caller, id)?).ok_or(Refusal::TaskUnknown)?;
        if !self.drawn().has(&held.server) {
            return Err(Refusal::TaskUnknown);
        }
        // Whoever sends it there looks for it among what began here.
        if let Some(instance) = held.instance {
            self.to.remember(&held.server, &held.own, instance);
        }
        Ok(held)
    }

    /// What has to be changed in the answer to a request that went to a member; none where it stays as it is.
    pub(super) fn shown(&self, caller: &str, request: &Request<'_>, found: Found) -> Option<Shown> {
        let id = match request.target() {
            Some(Target::Task(id)) => Some(id.to_owned()),
            _ if task_id::is_concerned(request) => None,
            _ => return None,
        };
        Some(Shown {
            ids: self.ids.clone(),
            caller: caller.to_owned(),
            id,
            found,
            to: Arc::clone(&self.to),
            bounds: self.settings().bounds,
        })
    }
}

/// Shows the answers of a member with ids of ours.
pub(super) struct Shown {
    ids: TaskIds,
    caller: String,
    /// What the caller calls the task that it asks about; none while there is none yet.
    id: Option<String>,
    found: Found,
    /// Knows at which instance a task began.
    to: Arc<Outbound>,
    bounds: Bounds,
}

impl Shown {
    /// The same reply as it is shown. Dropping it drops the other.
    pub(super) fn over(self, Reply(mut from): Reply, queue_max: usize) -> Reply {
        let (sender, receiver) = mpsc::channel(queue_max);
        tokio::spawn(async move {
            loop {
                let said = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    said = from.recv() => said,
                };
                let Some(said) = said else { return };
                let said = match said {
                    Ok(Said::Response(response)) => self.response(response).map(Said::Response),
                    other => other,
                };
                if sender.send(said).await.is_err() {
                    return;
                }
            }
        });
        Reply(receiver)
    }

    fn response(&self, message: Bytes) -> Result<Bytes, Refusal> {
        let Ok(mcp::Body::One(Message::Response(response))) = mcp::parse(&message, self.bounds) else {
            return Ok(message);
        };
        let Outcome::Result(result) = response.outcome else { return Ok(message) };
        let (at, shown) = match (&self.id, task_id::begun_by(result)) {
            // Whatever else the result says, it is the task that was asked about.
            (Some(id), _) => match result.member("taskId") {
                Some(at) => (at, id.clone()),
                None => return Ok(message),
            },
            (None, Some(at)) => (at, self.sealed(at.text().as_deref())?),
            (None, None) => return Ok(message),
        };
        let edit = (span(&message, at.get()), serde_json::Value::from(shown).to_string().into_bytes());
        Ok(splice(&message, vec![edit]).into())
    }

    fn sealed(&self, own: Option<&str>) -> Result<String, Refusal> {
        let broke = || Refusal::UpstreamBroke("the id of the task is no text".to_owned());
        let (server, own) = (self.found.server.clone(), own.ok_or_else(broke)?.to_owned());
        let instance = self.to.began(&server, &own).map(|(_, instance)| instance);
        self.ids.seal(&self.caller, &Held { server, instance, own }.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session_id::Key;

    #[test]
    fn where_a_task_is_can_be_read_from_what_is_sealed() {
        let tag = Key::random().tag("a");
        for (instance, own) in [(Some(tag), "1"), (None, "1"), (Some(tag), "with spaces  in it "), (None, "")]
        {
            let held = Held { server: "x/a".parse().unwrap(), instance, own: own.to_owned() };
            assert_eq!(Held::read(&held.text()), Some(held));
        }
        for none in ["", "x/a", "x/a  ".trim_end(), "nothing  1"] {
            assert_eq!(Held::read(none), None, "{none:?}");
        }
    }
}
