//! How tasks of a server of the legacy era get on, for callers of the modern one who listen.
//!
//! The server says it in the session in which a task began, and says less than the modern era does: what a task wants to
//! know, and how its call came out, is got for it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use weft_proto::mcp::{self, Message, Request, method};

use crate::bridge::{self, Abilities, tasks};
use crate::exchange::{Aside, Asker};

use super::tasks::Asks;
use super::{Front, Incoming};

/// What was told and not passed on yet.
const QUEUE_MAX: usize = 16;

/// The tasks that are told of, by their callers' ids, and where they are.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) ids: Vec<String>,
    pub(super) notes: Option<mpsc::Receiver<Bytes>>,
}

/// Tasks that began in one session.
struct Group {
    asks: Asks,
    asides: broadcast::Receiver<Aside>,
    /// By what their server calls them, what their caller does.
    tasks: HashMap<String, String>,
    sender: mpsc::Sender<Bytes>,
}

impl Front {
    /// Tells of those of these tasks that are the caller's.
    pub(super) async fn told_of_tasks(
        self: &Arc<Self>,
        asker: &Asker,
        ids: Vec<String>,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Told {
        let Some(bridge) = self.server().await.ok().and_then(|server| server.tasks()) else {
            return Told::default();
        };
        let mut sessions: HashMap<Abilities, HashMap<String, String>> = HashMap::new();
        let mut told = Told::default();
        for id in ids {
            let Ok((abilities, own)) = self.opened(&asker.caller, &id) else { continue };
            sessions.entry(abilities).or_default().insert(own, id.clone());
            told.ids.push(id);
        }
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        for (abilities, tasks) in sessions {
            let asks = Asks {
                front: Arc::clone(self),
                bridge: Arc::clone(&bridge),
                asker: Asker { abilities, ..asker.clone() },
                asked: bridge::Asked::of(request, Abilities::default()),
                patience: incoming.patience,
                admitted: incoming.admitted.clone(),
            };
            let asides = self.peer.asides(&asks.asker);
            tokio::spawn(Group { asks, asides, tasks, sender: sender.clone() }.run());
        }
        told.notes = (!told.ids.is_empty()).then_some(receiver);
        told
    }
}

impl Group {
    async fn run(mut self) {
        let sender = self.sender.clone();
        tokio::select! {
            // Nobody listens any more.
            () = sender.closed() => {}
            () = self.tell() => {}
        }
    }

    async fn tell(&mut self) {
        loop {
            let others: Vec<String> = match self.asides.recv().await {
                Ok(Aside::Note(note)) => self.told_by(&note).into_iter().collect(),
                Ok(Aside::Request(_)) => Vec::new(),
                // It may have been anything.
                Err(RecvError::Lagged(_)) => self.tasks.keys().cloned().collect(),
                Err(RecvError::Closed) => return,
            };
            for own in others {
                let Some(id) = self.tasks.get(&own) else { continue };
                // Of what cannot be had now, whoever asks is told.
                if let Ok(Ok(standing)) = self.asks.standing(id, &own).await
                    && let Some(note) = tasks::told(&standing)
                    && self.sender.send(note).await.is_err()
                {
                    return;
                }
            }
        }
    }

    /// The task of these that a notification is about.
    fn told_by(&self, note: &[u8]) -> Option<String> {
        match mcp::parse(note, self.asks.front.settings.bounds) {
            Ok(mcp::Body::One(Message::Notification(note))) if note.method == method::TASKS_STATUS => {
                note.params.task_id.map(|own| own.into_owned()).filter(|own| self.tasks.contains_key(own))
            }
            Ok(_) | Err(_) => None,
        }
    }
}
