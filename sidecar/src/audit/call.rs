//! What is kept of one call: taken down when it is decided, completed when its answer ends.

use std::sync::Arc;

use tokio::sync::oneshot;
use weft_proto::audit::{self as trail, Asked, Digest, Digesting, Outcome, TEXT_BYTES_MAX, What, clip};
use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::mcp::{Raw, Target};
use weft_proto::policy::access::Marked;
use weft_proto::policy::tools::{Redaction, Speaking};
use weft_proto::resource::kinds::AuditDetail;

use super::queue::{Job, Place};
use super::{Audit, DISK_TIMEOUT, Durability, Lack, WhenFull};
use crate::classify::Call;
use crate::clock;
use crate::identify::Caller;
use crate::metrics::{METHODS, ReasonLabel};
use crate::record::{Event, Open};
use crate::refusal::Refusal;

/// Refusals by which something was decided about the call; with any other, it failed.
const DECIDED: [&str; 9] = [
    "denied",
    "limited",
    "budget_spent",
    "not_lent",
    "in_flight",
    "bad_arguments",
    "not_validated",
    "tools_unknown",
    "not_recorded",
];

/// What a call is recorded by.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub snapshot: &'a Snapshot,
    pub entry: &'a ServerEntry,
    pub caller: &'a Caller,
    pub call: &'a Call<'a>,
}

impl About<'_> {
    /// What of a tool's arguments is not to be kept.
    pub(crate) fn redaction(&self, tool: &str) -> Redaction {
        let root = self.snapshot.root_namespace();
        Speaking::of(self.entry, &root, tool).treatments(tool).enforced.redaction
    }
}

/// The record of a call that runs.
#[derive(Debug)]
pub struct Recording {
    audit: Audit,
    id: u64,
    tenant: Option<String>,
    asked: Asked,
    place: Option<Arc<Place>>,
    result: Option<Digesting>,
    kept: Option<Vec<u8>>,
}

impl Audit {
    /// Takes down what policy marks, before it goes on. What was refused is taken down too.
    pub async fn begin(&self, about: About<'_>, is_refused: bool, record: &mut Open) -> Result<(), Refusal> {
        if !record.event.decided.audit.is_marked() || record.audit.is_some() {
            return Ok(());
        }
        // In a box: it is rare, and every request carries the room.
        Box::pin(self.take_down(about, is_refused, record)).await
    }

    async fn take_down(&self, about: About<'_>, is_refused: bool, record: &mut Open) -> Result<(), Refusal> {
        let root = about.snapshot.root_namespace();
        let detail = about.entry.audit_detail(&root, record.event.decided.audit == Marked::ByMesh);
        if detail == AuditDetail::None {
            return Ok(());
        }
        let place = match self.0.trail.is_some() {
            true => self.0.queue.place(),
            false => Err(Lack::Nowhere),
        };
        let place = match (place, self.0.settings.when_full) {
            (Ok(place), _) => Some(place),
            (Err(lack), WhenFull::Refuse) if !is_refused => {
                return Err(Refusal::NotRecorded(lack.word()));
            }
            (Err(lack), _) => {
                self.drop_one(lack);
                return Ok(());
            }
        };
        let (asked, shows_result) = asked(&about, detail, self.0.limits.audit_value_bytes_max);
        let digests = detail != AuditDetail::Metadata && shows_result;
        let keeps_result = detail == AuditDetail::Full && shows_result;
        let recording = Recording {
            audit: self.clone(),
            id: rand::random(),
            tenant: about.caller.tenant().map(ToOwned::to_owned),
            asked,
            place,
            result: digests.then(Digesting::default),
            kept: keeps_result.then(Vec::new),
        };
        let recording = record.audit.insert(Box::new(recording));
        if is_refused || self.0.settings.durability == Durability::Queued {
            return Ok(());
        }
        let begun = recording.call(&record.event, Outcome::Begun);
        let written = recording.write(What::Begun(begun));
        match (tokio::time::timeout(DISK_TIMEOUT, written).await, self.0.settings.when_full) {
            (Ok(Ok(())), _) | (_, WhenFull::DropAndRecord) => Ok(()),
            (_, WhenFull::Refuse) => Err(Refusal::NotRecorded(Lack::Disk.word())),
        }
    }

    pub(super) fn drop_one(&self, lack: Lack) {
        self.0.queue.dropped(lack);
        self.0.metrics.audit_dropped.get_or_create(&ReasonLabel { reason: lack.word() }).inc();
    }
}

impl Recording {
    /// Bytes of the answer, as they go to the caller.
    pub(crate) fn feed(&mut self, data: &[u8]) {
        if let Some(result) = &mut self.result {
            result.update(data);
        }
        let max = self.audit.0.limits.audit_value_bytes_max;
        self.kept = self.kept.take().filter(|kept| kept.len() + data.len() <= max).map(|mut kept| {
            kept.extend_from_slice(data);
            kept
        });
    }

    /// The call ended.
    pub(crate) fn finish(self: Box<Self>, event: &Event) {
        let (call, place) = (self.call(event, outcome(event)), self.place.clone());
        self.audit.0.queue.add(Job { at: event.at, is: What::Call(call), done: None, _place: place });
    }

    /// The call was refused. Answers once that is on disk, where it is to be before the caller hears of it.
    pub(crate) async fn refused(self: Box<Self>, event: &Event) {
        if self.audit.0.settings.durability == Durability::Queued {
            return self.finish(event);
        }
        let call = self.call(event, outcome(event));
        // A refusal is told in any case; there is nothing to refuse further.
        let _ = tokio::time::timeout(DISK_TIMEOUT, self.write(What::Call(call))).await;
    }

    fn write(&self, is: What) -> oneshot::Receiver<()> {
        let (done, written) = oneshot::channel();
        let job = Job { at: clock::now(), is, done: Some(done), _place: self.place.clone() };
        self.audit.0.queue.add(job);
        written
    }

    fn call(&self, event: &Event, outcome: Outcome) -> Box<trail::Call> {
        let text = |text: &str| clip(text, TEXT_BYTES_MAX).to_owned();
        let optional = |it: Option<&str>| it.filter(|it| !it.is_empty()).map(text);
        let has_result = outcome != Outcome::Begun && event.response_bytes > 0;
        let result = self.kept.clone().filter(|_| has_result);
        Box::new(trail::Call {
            id: format!("{:016x}", self.id),
            caller: text(&event.caller),
            tenant: self.tenant.clone(),
            server: text(&event.server),
            outcome,
            reason: event.reason.to_owned(),
            rule: event.decided.rule.as_ref().map(|rule| text(&rule.to_string())),
            limit: optional(event.limit.as_deref()),
            detail: optional(event.detail.as_deref()),
            status: event.status,
            era: event.era.to_owned(),
            request_bytes: event.request_bytes,
            response_bytes: event.response_bytes,
            duration_us: u64::try_from(event.duration.as_micros()).unwrap_or(u64::MAX),
            asked: Asked {
                method: METHODS[event.method].to_owned(),
                request_id: optional(event.rpc_id.as_deref()),
                ..self.asked.clone()
            },
            result_digest: self.result.as_ref().filter(|_| has_result).map(Digesting::so_far),
            result: result.and_then(|bytes| String::from_utf8(bytes).ok()),
        })
    }
}

fn outcome(event: &Event) -> Outcome {
    match event.reason {
        "ok" => Outcome::Done,
        reason if DECIDED.contains(&reason) => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

/// What is asked, and whether anything of the answer may be kept, be it a digest.
fn asked(about: &About<'_>, detail: AuditDetail, value_bytes_max: usize) -> (Asked, bool) {
    let Some(request) = about.call.request() else { return (Asked::default(), false) };
    let text = |text: &str| Some(clip(text, TEXT_BYTES_MAX).to_owned());
    let (tool, target) = match request.target() {
        Some(Target::Tool(tool)) => (Some(tool), None),
        Some(Target::Prompt(name) | Target::Resource(name) | Target::Task(name)) => (None, Some(name)),
        None => (None, None),
    };
    let redaction = tool.map_or_else(Redaction::default, |tool| about.redaction(tool));
    // What is hidden could come back in the answer, and a digest of little can be guessed.
    let shows_result = redaction.is_empty();
    let arguments = request.params.arguments.filter(|_| detail != AuditDetail::Metadata);
    let arguments = arguments.map(|arguments| as_kept(&redaction, arguments));
    let asked = Asked {
        tool: tool.and_then(text),
        target: target.and_then(text),
        arguments_digest: arguments.as_ref().map(|it| Digest::of(it.as_bytes())),
        arguments: arguments
            .filter(|it| detail == AuditDetail::Full && it.len() <= value_bytes_max)
            .map(String::from),
        ..Asked::default()
    };
    (asked, shows_result)
}

fn as_kept<'a>(redaction: &Redaction, arguments: Raw<'a>) -> std::borrow::Cow<'a, str> {
    match redaction.is_empty() {
        true => arguments.get().into(),
        false => redaction.apply(arguments).into(),
    }
}
