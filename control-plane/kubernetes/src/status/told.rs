//! What is told back about an object, as its `status`.
//!
//! Pure: what became of it and how far sidecars are go in, and the status comes out, or nothing where what stands there
//! says so already.

use jiff::Timestamp;
use serde_json::{Value, json};
use weft_control_plane::plan::type_of;
use weft_control_plane::xds::Held;
use weft_proto::resource::Key;
use weft_proto::wire::{MESH_NAME, ResourceType};

use crate::source::{Before, Entry, Fate, clipped};

/// Longest message of a condition, in bytes; the definitions let in twice as much.
const MESSAGE_BYTES_MAX: usize = 2048;
const ACCEPTED: &str = "Accepted";
const PROGRAMMED: &str = "Programmed";

/// How far an object is on its way to sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It was kept out, or is not published yet.
    NotThere,
    Pending,
    Programmed,
    Rejected,
}

/// What is to be told of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) way: Way,
    generation: i64,
    sidecars: Option<String>,
    accepted: Condition,
    programmed: Condition,
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    kind: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

/// How an object is published; none for a name that stands for itself.
pub(super) fn published_as(key: &Key) -> (ResourceType, String) {
    match type_of(key.kind) {
        ResourceType::Mesh => (ResourceType::Mesh, MESH_NAME.to_owned()),
        ty => (ty, format!("{}/{}", key.namespace, key.name)),
    }
}

/// What there is to tell. `published` is the revision that sidecars are told about, `held` how far they are, if it
/// concerns any.
pub(super) fn tell(entry: &Entry, published: u64, held: Option<&Held>) -> Told {
    let condition = |kind, is_true, reason, message: &str| Condition {
        kind,
        is_true,
        reason,
        message: clipped(message, MESSAGE_BYTES_MAX),
    };
    let (accepted, revision) = match &entry.fate {
        Fate::Taken(revision) => {
            (condition(ACCEPTED, true, "Accepted", &entry.warnings.join("; ")), Some(*revision))
        }
        Fate::KeptOut { message, before } => {
            let holds = match before {
                Before::Nothing => "",
                Before::Itself => "; what it said before goes on holding",
                Before::Denial => "; until it reads, calls of what it may be about are refused",
            };
            // What holds is said even where the mistake is long.
            let message = format!("{}{holds}", clipped(message, MESSAGE_BYTES_MAX - holds.len()));
            (condition(ACCEPTED, false, "Invalid", &message), None)
        }
    };
    let counted = held.filter(|_| revision.is_some_and(|revision| revision.0 <= published));
    let is_published = revision.is_some_and(|revision| revision.0 <= published);
    let (way, message) = match (revision, counted) {
        (None, _) => (Way::NotThere, "it is not accepted".to_owned()),
        (Some(_), None) if is_published => {
            (Way::Programmed, "it concerns no sidecar that is connected".to_owned())
        }
        (Some(_), None) => (Way::Pending, "it is about to be published".to_owned()),
        (Some(_), Some(held)) => way(held),
    };
    let (is_true, reason) = match way {
        Way::NotThere => (false, "NotAccepted"),
        Way::Pending => (false, "Pending"),
        Way::Programmed => (true, "Programmed"),
        Way::Rejected => (false, "Rejected"),
    };
    let programmed = condition(PROGRAMMED, is_true, reason, &message);
    let sidecars = is_published.then(|| {
        let (holding, concerned) = counted.map_or((0, 0), |held| (held.holding, held.concerned));
        format!("{holding}/{concerned}")
    });
    Told { way, generation: entry.generation, sidecars, accepted, programmed }
}

fn way(held: &Held) -> (Way, String) {
    let Held { concerned, holding, refusing, refusals } = held;
    if *refusing > 0 {
        let said = refusals.iter().map(|(node, why)| format!("{node}: {why}")).collect::<Vec<_>>().join("; ");
        return (Way::Rejected, format!("{refusing} of {concerned} sidecars refuse it: {said}"));
    }
    let way = if holding == concerned { Way::Programmed } else { Way::Pending };
    (way, format!("{holding} of {concerned} sidecars hold it"))
}

impl Told {
    /// Whether the status that stands there says the same.
    pub(super) fn is_said(&self, status: &Value) -> bool {
        self.is_nearly_said(status)
            && status["sidecars"].as_str() == self.sidecars.as_deref()
            && self.conditions().iter().all(|it| find(status, it.kind)["message"] == it.message.as_str())
    }

    /// Whether it differs from what stands there only in counts and words.
    pub(super) fn is_nearly_said(&self, status: &Value) -> bool {
        let said = |it: &Condition| {
            let there = find(status, it.kind);
            there["status"] == it.word()
                && there["reason"] == it.reason
                && there["observedGeneration"] == self.generation
        };
        status["observedGeneration"] == self.generation && self.conditions().into_iter().all(said)
    }

    /// Whether sidecars held this form of the object, by what stands there.
    pub(super) fn was_programmed(&self, status: &Value) -> bool {
        let there = find(status, PROGRAMMED);
        there["status"] == "True" && there["observedGeneration"] == self.generation
    }

    /// As it is written. A condition that stays as it is keeps its time.
    pub(super) fn status(&self, before: &Value, now: Timestamp) -> Value {
        let conditions = self.conditions().map(|it| {
            let there = find(before, it.kind);
            let since = there["lastTransitionTime"].as_str().filter(|_| there["status"] == it.word());
            let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            json!({
                "type": it.kind,
                "status": it.word(),
                "reason": it.reason,
                "message": it.message,
                "observedGeneration": self.generation,
                "lastTransitionTime": since.map_or(now, str::to_owned),
            })
        });
        let mut status = json!({ "observedGeneration": self.generation, "conditions": conditions });
        if let Some(sidecars) = &self.sidecars {
            status["sidecars"] = sidecars.as_str().into();
        }
        status
    }

    const fn conditions(&self) -> [&Condition; 2] {
        [&self.accepted, &self.programmed]
    }
}

impl Condition {
    const fn word(&self) -> &'static str {
        if self.is_true { "True" } else { "False" }
    }
}

fn find<'s>(status: &'s Value, kind: &str) -> &'s Value {
    const NOTHING: &Value = &Value::Null;
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|it| it["type"] == kind).unwrap_or(NOTHING)
}

#[cfg(test)]
mod tests {
    use weft_control_plane::store::Revision;
    use weft_proto::name::NodeId;

    use super::*;

    fn entry(fate: Fate) -> Entry {
        Entry { uid: "u".to_owned(), generation: 2, fate, warnings: Vec::new(), status: Value::Null }
    }

    fn held(concerned: usize, holding: usize, refusing: usize) -> Held {
        let refusal = (NodeId::parse("a/n1").unwrap(), "a/p: no such word".into());
        Held { concerned, holding, refusing, refusals: std::iter::repeat_n(refusal, refusing).collect() }
    }

    #[track_caller]
    fn check(fate: Fate, held: Option<&Held>, expected: [&str; 7]) -> Value {
        let status = tell(&entry(fate), 7, held).status(&Value::Null, Timestamp::UNIX_EPOCH);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let [accepted, programmed] = ["Accepted", "Programmed"].map(|kind| find(&status, kind).clone());
        let of = |it: &Value| ["status", "reason", "message"].map(|part| text(&it[part]));
        let found = [of(&accepted).as_slice(), &of(&programmed), &[text(&status["sidecars"])]].concat();
        assert_eq!(found, expected);
        status
    }

    #[test]
    fn each_fate_has_its_conditions() {
        let taken = || Fate::Taken(Revision(7));
        let of = |told: [&'static str; 4]| ["True", "Accepted", "", told[0], told[1], told[2], told[3]];
        check(taken(), Some(&held(5, 5, 0)), of(["True", "Programmed", "5 of 5 sidecars hold it", "5/5"]));
        check(taken(), Some(&held(5, 3, 0)), of(["False", "Pending", "3 of 5 sidecars hold it", "3/5"]));
        let why = "1 of 5 sidecars refuse it: a/n1: a/p: no such word";
        check(taken(), Some(&held(5, 3, 1)), of(["False", "Rejected", why, "3/5"]));
        let nobody = "it concerns no sidecar that is connected";
        check(taken(), None, of(["True", "Programmed", nobody, "0/0"]));
        // What sidecars hold until it is published is what was there before.
        let soon = of(["False", "Pending", "it is about to be published", ""]);
        check(Fate::Taken(Revision(8)), Some(&held(5, 5, 0)), soon);
        let out = |before, message| {
            let fate = Fate::KeptOut { message: "spec: bad".to_owned(), before };
            let not = ["False", "NotAccepted", "it is not accepted", ""];
            check(fate, None, ["False", "Invalid", message, not[0], not[1], not[2], not[3]]);
        };
        out(Before::Nothing, "spec: bad");
        out(Before::Itself, "spec: bad; what it said before goes on holding");
        out(Before::Denial, "spec: bad; until it reads, calls of what it may be about are refused");
    }

    #[test]
    fn what_stands_there_already_is_not_said_again() {
        let status = check(
            Fate::Taken(Revision(7)),
            Some(&held(5, 5, 0)),
            ["True", "Accepted", "", "True", "Programmed", "5 of 5 sidecars hold it", "5/5"],
        );
        let told = |generation, held: Held| {
            tell(&Entry { generation, ..entry(Fate::Taken(Revision(7))) }, 7, Some(&held))
        };
        assert!(told(2, held(5, 5, 0)).is_said(&status));
        let more = told(2, held(6, 6, 0));
        assert!(!more.is_said(&status) && more.is_nearly_said(&status) && more.was_programmed(&status));
        let newer = told(3, held(5, 5, 0));
        assert!(!newer.is_nearly_said(&status) && !newer.was_programmed(&status));
        assert!(!told(2, held(5, 4, 0)).is_nearly_said(&status));
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_turns() {
        let at = |held: Held, before: &Value, secs| {
            let told = tell(&entry(Fate::Taken(Revision(7))), 7, Some(&held));
            told.status(before, Timestamp::from_second(secs).unwrap())
        };
        let first = at(held(1, 0, 0), &Value::Null, 0);
        let second = at(held(1, 1, 0), &first, 60);
        let time = |status: &Value, kind| find(status, kind)["lastTransitionTime"].clone();
        assert_eq!(time(&second, "Accepted"), "1970-01-01T00:00:00Z");
        assert_eq!(time(&second, "Programmed"), "1970-01-01T00:01:00Z");
    }
}
