//! What became of the calls: counted as the sidecars record them, once each, and the last ones in words.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use weft_sidecar::access_log::Told;
use weft_sidecar::metrics::METHODS;
use weft_sidecar::onlook::{Outcome, Outcomes, is_counted};
use weft_sidecar::record::Event;

/// Calls that are remembered in words.
const LAST_MAX: usize = 5;
/// Longest text of one of them, in bytes.
const TEXT_BYTES_MAX: usize = 400;

/// One call, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) at: SystemTime,
    /// None if it was about no server that is known.
    pub(crate) server: Option<Arc<str>>,
    pub(crate) outcome: Outcome,
    /// The word of the metrics, `denied` for one.
    pub(crate) reason: &'static str,
    /// Method and target.
    pub(crate) what: String,
    /// Why, where it was not answered.
    pub(crate) why: String,
}

/// The calls of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All of them, but for handshakes and notifications that went well.
    pub(crate) calls: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    pub(crate) last_refused: Option<Last>,
    pub(crate) last_failed: Option<Last>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Tally(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// By server, or by sidecar.
    counts: BTreeMap<Arc<str>, Counts>,
    last: VecDeque<Last>,
    outcomes: Outcomes,
}

impl Tally {
    /// Where a sidecar tells this tally of what it records. Calls about no server that is known count as the sidecar's.
    pub(crate) fn told(tally: &Arc<Self>, sidecar: Arc<str>) -> Told {
        let tally = Arc::clone(tally);
        Told::new(move |event| tally.count(event, &sidecar))
    }

    /// The calls of a server, or those that went no further than to a sidecar.
    pub(crate) fn of(&self, counted: &str) -> Counts {
        self.inner().counts.get(counted).cloned().unwrap_or_default()
    }

    /// The last calls, the newest last.
    pub(crate) fn last(&self) -> Vec<Last> {
        self.inner().last.iter().cloned().collect()
    }

    pub(crate) fn forget(&self, server: &str) {
        self.inner().counts.remove(server);
    }

    fn count(&self, event: &Event, sidecar: &Arc<str>) {
        if !is_counted(event) {
            return;
        }
        let mut inner = self.inner();
        let outcome = inner.outcomes.of(event.reason);
        let of = if event.server.is_empty() { sidecar } else { &event.server };
        let counts = inner.counts.entry(Arc::clone(of)).or_default();
        counts.calls += 1;
        counts.refused += u64::from(outcome == Outcome::Refused);
        counts.failed += u64::from(outcome == Outcome::Failed);
        let last = in_words(event, outcome);
        match outcome {
            Outcome::Refused => counts.last_refused = Some(last.clone()),
            Outcome::Failed => counts.last_failed = Some(last.clone()),
            Outcome::Answered | Outcome::Left => {}
        }
        if inner.last.len() >= LAST_MAX {
            inner.last.pop_front();
        }
        inner.last.push_back(last);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_words(event: &Event, outcome: Outcome) -> Last {
    let method = METHODS[event.method];
    let mut what = match method {
        "none" => event.http_method.to_string(),
        method => method.to_owned(),
    };
    if let Some(target) = &event.target {
        what = format!("{what} {target}");
    }
    let why = match (outcome, &event.detail) {
        (Outcome::Answered | Outcome::Left, _) => String::new(),
        (_, Some(detail)) => detail.clone(),
        (_, None) => format!("the server answered with status {}", event.status),
    };
    Last {
        at: event.at,
        server: Some(Arc::clone(&event.server)).filter(|server| !server.is_empty()),
        outcome,
        reason: event.reason,
        what: clipped(what),
        why: clipped(why),
    }
}

fn clipped(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_sidecar::metrics::method_index;

    use super::*;

    fn event(listener: &'static str, method: &str, reason: &'static str) -> Event {
        Event {
            at: SystemTime::UNIX_EPOCH,
            listener,
            caller: "".into(),
            server: "demo/example".into(),
            http_method: http::Method::POST,
            method: method_index(method),
            target: Some("greet".into()),
            rpc_id: None,
            era: "modern",
            status: 200,
            reason,
            detail: (reason != "ok").then(|| "why".to_owned()),
            decided: Default::default(),
            limit: None,
            shadow_limit: None,
            tools: None,
            request_bytes: 0,
            response_bytes: 0,
            duration: Duration::ZERO,
            listens: false,
        }
    }

    fn tallied(events: &[Event]) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        let sidecar: Arc<str> = "agent local/agent".into();
        drop(Tally::told(&tally, Arc::clone(&sidecar)));
        events.iter().for_each(|event| tally.count(event, &sidecar));
        tally
    }

    #[test]
    fn a_call_is_counted_once_although_two_sidecars_record_it() {
        let tally = tallied(&[
            event("inbound", "tools/call", "ok"),
            event("outbound", "tools/call", "ok"),
            event("inbound", "tools/call", "denied"),
            event("outbound", "tools/call", "client_error"),
        ]);
        let counts = tally.of("demo/example");
        assert_eq!((counts.calls, counts.refused, counts.failed), (2, 1, 0));
        assert_eq!(counts.last_refused.unwrap().what, "tools/call greet");
    }

    #[test]
    fn what_came_no_further_than_the_agents_sidecar_is_counted_all_the_same() {
        let nowhere = Event { server: "".into(), ..event("outbound", "tools/call", "unknown_server") };
        let tally = tallied(&[event("outbound", "tools/call", "no_instance"), nowhere]);
        assert_eq!(tally.of("demo/example").failed, 1);
        assert_eq!(tally.of("agent local/agent").refused, 1);
        let last = tally.last();
        assert_eq!((last[0].reason, &last[1].server), ("no_instance", &None));
    }

    #[test]
    fn handshakes_and_notifications_count_only_when_they_go_wrong() {
        let good = ["initialize", "notifications/initialized", "ping", "GET", "server/discover"];
        let mut events: Vec<_> = good.map(|method| event("inbound", method, "ok")).into();
        events.push(Event { listens: true, ..event("inbound", "subscriptions/listen", "caller_left") });
        let tally = tallied(&events);
        assert_eq!(tally.of("demo/example"), Counts::default());
        events.push(event("inbound", "initialize", "denied"));
        assert_eq!(tallied(&events[6..]).of("demo/example").refused, 1);
    }

    #[test]
    fn only_the_last_calls_are_kept_in_words_and_a_server_can_be_forgotten() {
        let events: Vec<_> = (0..20).map(|_| event("inbound", "tools/call", "timed_out")).collect();
        let tally = tallied(&events);
        assert_eq!((tally.last().len(), tally.of("demo/example").failed), (LAST_MAX, 20));
        tally.forget("demo/example");
        assert_eq!(tally.of("demo/example"), Counts::default());
    }
}
