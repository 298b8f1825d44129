//! A call on its way to the server, held to what policies say about the tool: its definition must be one that was
//! approved, its arguments as the schema wants. What is in shadow, or only to be warned of, is noted and counted.
//!
//! Where a policy enforces something that needs the definition, a call waits until that is known, and is refused if it
//! cannot be known.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest as hash};
use http::request::Parts;
use http::{HeaderMap, Response};
use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::mcp::{Message, Raw, Request, Revision, Target, header, method};
use weft_proto::name::ToolName;
use weft_proto::policy::tools::answer::is_plain_call;
use weft_proto::policy::tools::canonical::{Numbers, canonical};
use weft_proto::policy::tools::{Redaction, Speaking, Treatment};
use weft_proto::resource::kinds::{CacheScope, Era, ResponseCache, Strictness, ToolPolicy};
use weft_proto::wire::Object;

use crate::answer::Answer;
use crate::classify::Call;
use crate::headers::is_of_the_way;
use crate::refusal::{Refusal, Shape};

use super::advertised::{Known, Tool};
use super::kept::Key;
use super::schema::Problem;
use super::{Tools, schema};

/// Bytes of arguments whose answers are kept.
const KEY_BYTES_MAX: usize = 64 << 10;
/// Bytes of the revision that a caller names; those that there are have ten.
const REVISION_BYTES_MAX: usize = 16;
/// Characters of what is noted of one call.
const NOTE_CHARS_MAX: usize = 240;

/// What is asked about a call.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub snapshot: &'a Snapshot,
    pub entry: &'a ServerEntry,
    pub tools: &'a Tools,
    pub head: &'a Parts,
    pub caller: &'a Arc<str>,
    /// How long the server is waited for, where no policy says anything else.
    pub patience: Duration,
}

/// How a call is treated from here on.
#[derive(Debug, Default)]
pub struct Treated {
    /// Time to the first byte of the answer, where a policy says it.
    pub call_timeout: Option<Duration>,
    pub result_bytes_max: Option<u64>,
    pub(super) keep: Option<Keep>,
    /// The definitions that it was held to, where any were needed.
    known: Option<Arc<Known>>,
    /// For the record: what would have been refused, and what was warned of.
    pub note: Option<Box<str>>,
}

/// That the answer is to be kept, and how.
#[derive(Debug)]
pub(super) struct Keep {
    pub(super) key: Key,
    pub(super) ttl: Duration,
    pub(super) policies: Vec<Arc<Object<ToolPolicy>>>,
}

/// Holds a call to what policies say about its tool.
pub async fn treat(asked: Asked<'_>, call: &Call<'_>) -> Result<Treated, Refusal> {
    let mut treated = Treated::default();
    if asked.entry.tools.is_empty() {
        return Ok(treated);
    }
    for message in call.messages() {
        if let Message::Request(request) = message
            && request.method == method::TOOLS_CALL
            && let Some(Target::Tool(tool)) = request.target()
        {
            Box::pin(asked.one(call, request, tool, &mut treated)).await?;
        }
    }
    if call.request().is_none() {
        // One of several answers is not to be given alone.
        treated.keep = None;
    }
    Ok(treated)
}

impl Treated {
    /// Whether the server still advertises what the call was held to.
    pub fn is_of_now(&self, tools: &Tools) -> bool {
        let is_now = |known| tools.advertised.now().is_some_and(|now| Arc::ptr_eq(known, &now));
        self.known.as_ref().is_none_or(is_now)
    }

    /// The answer that is kept for the call, if there is one.
    pub fn kept(&self, tools: &Tools, call: &Call<'_>) -> Option<Response<Answer>> {
        let (keep, request) = (self.keep.as_ref()?, call.request()?);
        let found = tools.kept.find(&keep.key, &keep.policies);
        tools.series.looked_up(found.is_some());
        let (result, _) = found?;
        Some(result.response(request.id.raw(), ""))
    }

    fn note(&mut self, what: &str) {
        let before = self.note.take().map_or_else(String::new, |note| format!("{note}; "));
        self.note = Some(format!("{before}{what}").chars().take(NOTE_CHARS_MAX).collect());
    }
}

/// How something that is not as it should be is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Refuse,
    Warn,
    /// It would be refused, were a policy in shadow enforced too.
    Shadow,
}

/// Of the same check as enforced and in shadow.
fn manner(enforced: Strictness, shadow: Option<Strictness>) -> Option<Manner> {
    match (enforced, shadow) {
        (Strictness::Enforce, _) => Some(Manner::Refuse),
        (_, Some(Strictness::Enforce)) => Some(Manner::Shadow),
        (Strictness::Warn, _) | (_, Some(Strictness::Warn)) => Some(Manner::Warn),
        (Strictness::Off, Some(Strictness::Off) | None) => None,
    }
}

impl Asked<'_> {
    async fn one(
        &self,
        call: &Call<'_>,
        request: &Request<'_>,
        tool: &str,
        treated: &mut Treated,
    ) -> Result<(), Refusal> {
        let speaking = Speaking::of(self.entry, &self.snapshot.root_namespace(), tool);
        if speaking.is_empty() {
            return Ok(());
        }
        let treatments = speaking.treatments(tool);
        let (enforced, shadow) = (&treatments.enforced, treatments.shadow.as_ref());
        let pin = manner(enforced.pin.strictness, shadow.map(|it| it.pin.strictness));
        let validate = manner(enforced.validate, shadow.map(|it| it.validate));
        let patience = enforced.timeout.unwrap_or(self.patience);
        let must_know = pin == Some(Manner::Refuse) || validate == Some(Manner::Refuse);
        let known = match (pin, validate) {
            (None, None) => None,
            _ if must_know => Some(self.known(tool, patience).await?),
            _ => self.tools.advertised.now(),
        };
        treated.known.clone_from(&known);
        let definition = known.as_ref().and_then(|known| known.tool(tool));
        match (pin, &known) {
            (Some(manner), Some(_)) => {
                let decisive = if manner == Manner::Refuse { enforced } else { shadow.unwrap_or(enforced) };
                self.pin(manner, decisive, &speaking, tool, definition, treated)?;
            }
            (Some(_), None) => treated.note("pin: its definition is not known yet"),
            (None, _) => {}
        }
        match (validate, &known) {
            (Some(manner), Some(_)) => {
                let shape = shape(call.era, &self.head.headers);
                let arguments = request.params.arguments.map_or("{}", Raw::get);
                let found =
                    judge(definition, arguments, &enforced.redaction, &self.tools.limits, shape, tool);
                self.take(manner, "arguments", found, treated)?;
            }
            (Some(_), None) => treated.note("validateArguments: the schema is not known yet"),
            (None, _) => {}
        }
        // Of several calls at once, the longest wait and the tightest limit.
        treated.call_timeout = treated.call_timeout.max(enforced.timeout);
        treated.result_bytes_max =
            [treated.result_bytes_max, enforced.result_bytes_max].into_iter().flatten().min();
        treated.keep = enforced.cache.and_then(|cache| self.keep(cache, call.era, request, tool, definition));
        Ok(())
    }

    /// What is advertised; looked at once more if the tool is not in it.
    async fn known(&self, tool: &str, patience: Duration) -> Result<Arc<Known>, Refusal> {
        let advertised = &self.tools.advertised;
        let known = advertised.known(patience).await?;
        match known.tool(tool) {
            Some(_) => Ok(known),
            None => advertised.renewed(patience).await,
        }
    }

    fn pin(
        &self,
        manner: Manner,
        treatment: &Treatment<'_>,
        speaking: &Speaking<'_>,
        tool: &str,
        definition: Option<&Arc<Tool>>,
        treated: &mut Treated,
    ) -> Result<(), Refusal> {
        let found = definition.and_then(|it| it.digest.as_ref());
        if treatment.pin.approves(found) {
            return Ok(());
        }
        let why = match (definition, treatment.pin.approved.is_empty()) {
            (None, _) => "it is not advertised",
            (Some(_), true) => "its definition was not approved",
            (Some(_), false) => "its definition is another than was approved",
        };
        let policy =
            speaking.pinning().map_or_else(String::new, |policy| policy.meta.full_name().to_string());
        let refusal = Refusal::Denied {
            target: format!("tool {tool:?}"),
            rule: format!("{policy}: {why}"),
            explain: self.entry.access.iter().any(|policy| policy.spec.explain),
            scope: None,
        };
        self.take(manner, "pin", Err(refusal), treated)
    }

    /// Takes what a check found as it is meant.
    fn take(
        &self,
        manner: Manner,
        check: &'static str,
        found: Result<(), Refusal>,
        treated: &mut Treated,
    ) -> Result<(), Refusal> {
        let Err(refusal) = found else { return Ok(()) };
        let series = &self.tools.series;
        match manner {
            Manner::Refuse => {
                series.checked(check, "refused");
                return Err(refusal);
            }
            Manner::Warn => {
                series.checked(check, "warned");
                treated.note(&format!("warned: {}", refusal.detail()));
            }
            Manner::Shadow => {
                series.checked(check, "shadow");
                treated.note(&format!("would be refused: {}", refusal.detail()));
            }
        }
        Ok(())
    }

    fn keep(
        &self,
        cache: ResponseCache,
        era: Era,
        request: &Request<'_>,
        tool: &str,
        definition: Option<&Arc<Tool>>,
    ) -> Option<Keep> {
        let params = &request.params;
        let headers = &self.head.headers;
        let revision = revision(headers);
        // What callers choose is kept with the answer.
        let is_short = tool.len() <= ToolName::LEN_BYTES_MAX && revision.len() <= REVISION_BYTES_MAX;
        let asked = params.raw.filter(|raw| is_plain_call(*raw) && raw.get().len() <= KEY_BYTES_MAX)?;
        // The server is told all of it, and may heed any of it.
        if !is_short || self.head.uri.query().is_some() {
            return None;
        }
        let mut asked = canonical(asked, Numbers::AsWritten).into_bytes();
        for (name, value) in headers.iter().filter(|(name, _)| !is_of_the_way(name)) {
            asked.extend_from_slice(format!("\n{name}: ").as_bytes());
            asked.extend_from_slice(value.as_bytes());
        }
        let digest = definition.and_then(|it| it.digest.as_ref()).map_or("", |it| it.as_str());
        let key = Key {
            caller: (cache.scope == CacheScope::Caller).then(|| Arc::clone(self.caller)),
            about: tool.into(),
            revision: format!("{era:?} {revision} {digest}").into(),
            asked: hash(&SHA256, &asked).as_ref().try_into().ok()?,
        };
        Some(Keep { key, ttl: cache.ttl.duration(), policies: self.entry.tools.clone() })
    }
}

/// Holds arguments against the schema of their tool.
fn judge(
    definition: Option<&Arc<Tool>>,
    arguments: &str,
    redaction: &Redaction,
    limits: &schema::Limits,
    shape: Shape,
    tool: &str,
) -> Result<(), Refusal> {
    let Some(definition) = definition else {
        return Err(Refusal::Denied {
            target: format!("tool {tool:?}"),
            rule: "it is not advertised, so that its arguments cannot be validated".to_owned(),
            explain: false,
            scope: None,
        });
    };
    let schema = definition.schema(limits).map_err(|why| Refusal::NotValidated(why.to_string()))?;
    schema.check(arguments, redaction).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
        Refusal::BadArguments { problems: problems.join("; "), shape }
    })
}

fn revision(headers: &HeaderMap) -> &str {
    headers.get(header::PROTOCOL_VERSION).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// How callers of a revision are told of arguments that are not as they should be: since 2025-11-25 as the failure of
/// the tool, which a model gets to see and can mend; before as an error of the protocol.
fn shape(era: Era, headers: &HeaderMap) -> Shape {
    let revision = Revision::parse(revision(headers));
    match (era, revision) {
        (Era::Modern, _) => Shape::Result,
        (Era::Legacy, Some(revision)) if revision >= Revision::V2025_11_25 => Shape::Result,
        (Era::Legacy, _) => Shape::Error,
    }
}
