//! An onlooker that passes calls on, as far as there is room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use weft_proto::pb::weft::ask::v1 as pb;

use super::{Error, Onlooker, Outcome, PATTERNS_MAX, Patterns, clipped};
use crate::metrics::METHODS;
use crate::record::Event;

/// Calls that wait to be taken.
const WAITING_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Tap {
    servers: Patterns,
    targets: Patterns,
    callers: Patterns,
    /// Outcomes or reasons; any if there are none.
    outcomes: Vec<String>,
    calls: mpsc::Sender<pb::Call>,
    lost: AtomicU64,
}

impl Tap {
    /// A tap, and where its calls come out.
    pub fn new(wanted: pb::Tap) -> Result<(Arc<Self>, mpsc::Receiver<pb::Call>), Error> {
        let pb::Tap { servers, targets, callers, outcomes } = wanted;
        if outcomes.len() > PATTERNS_MAX {
            return Err(Error::TooManyPatterns);
        }
        let (sender, calls) = mpsc::channel(WAITING_MAX);
        let tap = Self {
            servers: Patterns::read(servers)?,
            targets: Patterns::read(targets)?,
            callers: Patterns::read(callers)?,
            outcomes,
            calls: sender,
            lost: AtomicU64::new(0),
        };
        Ok((Arc::new(tap), calls))
    }

    /// How many calls found no room since this was asked last.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    fn wants(&self, event: &Event, outcome: Outcome) -> bool {
        let is_such = |word: &String| word == outcome.word() || word == event.reason;
        (self.outcomes.is_empty() || self.outcomes.iter().any(is_such))
            && self.servers.matches(&event.server)
            && self.callers.matches(&event.caller)
            && self.targets.matches(event.target.as_deref().unwrap_or_default())
    }
}

impl Onlooker for Tap {
    fn ended(&self, event: &Event, outcome: Outcome) {
        if !self.wants(event, outcome) {
            return;
        }
        match self.calls.try_reserve() {
            Ok(room) => room.send(told(event, outcome)),
            Err(_) => _ = self.lost.fetch_add(1, Ordering::Relaxed),
        }
    }
}

fn told(event: &Event, outcome: Outcome) -> pb::Call {
    let method = match METHODS[event.method] {
        "none" => event.http_method.as_str(),
        method => method,
    };
    pb::Call {
        at: Some(event.at.into()),
        listener: event.listener.to_owned(),
        caller: clipped(&event.caller).to_owned(),
        server: clipped(&event.server).to_owned(),
        method: clipped(method).to_owned(),
        target: clipped(event.target.as_deref().unwrap_or_default()).to_owned(),
        era: event.era.to_owned(),
        status: event.status.into(),
        outcome: outcome.word().to_owned(),
        reason: event.reason.to_owned(),
        limit: clipped(event.limit.as_deref().unwrap_or_default()).to_owned(),
        micros: event.duration.as_micros().try_into().unwrap_or(u64::MAX),
        request_bytes: event.request_bytes,
        response_bytes: event.response_bytes,
        refused_in_shadow: event.decided.shadow.as_ref().is_some_and(|shadow| !shadow.allowed),
    }
}
