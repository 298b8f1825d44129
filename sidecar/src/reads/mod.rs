//! What a server says may be kept of what was read of it, and given again: resources, and the lists of resources, of
//! their templates and of prompts.
//!
//! It stands beside the server, behind everything that is decided of a call: whoever is given a kept answer was let
//! through by policy, counted and written down like anybody. What a server calls private is given to the same caller
//! only, with the same claims. What the server says has changed is forgotten, as far as anybody here hears it: the sidecar
//! itself while it reads what the server offers, and callers that listen. Lists are kept as the server gave them, and cut
//! to what a caller may see whenever they are given. Not here: lists of tools.

mod ear;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest as hash};
use http::Response;
use weft_proto::mcp::{self, Bounds, Message, Outcome, Raw, fresh, method};
use weft_proto::resource::kinds::Era;

use crate::answer::Answer;
use crate::classify::Call;
use crate::forward::is_event_stream;
use crate::headers::{ON_BEHALF_OF, is_of_the_way};
use crate::identify::Caller;
use crate::limits::Limits;
use crate::metrics::ToolSeries;
use crate::receive::Received;
use crate::tools::kept::Parts;
use crate::tools::{Kept, Key};

pub(crate) use ear::Ear;

/// Bytes of parameters whose answers are kept.
const ASKED_BYTES_MAX: usize = 64 << 10;

/// What is kept of one server.
#[derive(Debug)]
pub struct Reads {
    kept: Kept,
    age_max: Duration,
    event_bytes_max: usize,
    bounds: Bounds,
    series: ToolSeries,
    /// How often the server said that something changed: what was asked before that is not kept after.
    changes: AtomicU64,
}

/// A read whose answer may be kept.
#[derive(Debug)]
pub struct Wanted {
    public: Key,
    private: Key,
    changes: u64,
}

impl Reads {
    pub fn new(limits: &Limits, series: ToolSeries) -> Arc<Self> {
        Arc::new(Self {
            kept: Kept::new(limits),
            age_max: *limits.kept_reads_age_max,
            event_bytes_max: limits.event_bytes_max,
            bounds: Bounds { depth_max: limits.depth_max, batch_max: 1 },
            series,
            changes: AtomicU64::new(0),
        })
    }

    /// What is asked, if its answer may be kept. Only the modern era says so of its answers.
    pub fn wanted(&self, received: &Received, call: &Call<'_>, caller: &Caller) -> Option<Wanted> {
        let request = call.request().filter(|_| call.era == Era::Modern && !self.age_max.is_zero())?;
        if !fresh::may_be_fresh(&request.method) || received.head.uri.query().is_some() {
            return None;
        }
        let params = request.params.raw.filter(|raw| raw.get().len() <= ASKED_BYTES_MAX)?;
        let mut asked = format!("{}\n{}", request.method, fresh::asked(params)?).into_bytes();
        for (name, value) in received.head.headers.iter().filter(|(name, _)| !is_of_the_way(name)) {
            asked.extend_from_slice(format!("\n{name}: ").as_bytes());
            asked.extend_from_slice(value.as_bytes());
        }
        let key = |caller: Option<Arc<str>>, asked: &[u8]| {
            Some(Key {
                caller,
                about: request.params.uri.as_deref().unwrap_or_default().into(),
                revision: request.params.meta.protocol_version.as_deref().unwrap_or_default().into(),
                asked: hash(&SHA256, asked).as_ref().try_into().ok()?,
            })
        };
        let public = key(None, &asked)?;
        // The claims by which a gateway's caller was let through are a part of who it is.
        for said in received.head.headers.get_all(ON_BEHALF_OF) {
            asked.extend_from_slice(b"\n\n");
            asked.extend_from_slice(said.as_bytes());
        }
        let private = key(Some(caller.shared_name()), &asked)?;
        Some(Wanted { public, private, changes: self.changes.load(Ordering::Acquire) })
    }

    /// The answer that is kept, with what is left of its time.
    pub fn kept(&self, wanted: &Wanted, call: &Call<'_>) -> Option<Response<Answer>> {
        let found = [&wanted.public, &wanted.private].into_iter().find_map(|key| self.kept.find(key, &[]));
        self.series.read_looked_up(found.is_some());
        let ((parts, left), request) = (found?, call.request()?);
        Some(parts.response(request.id.raw(), &left.as_millis().to_string()))
    }

    /// Listens to the answer on its way: to what was read, and on a stream that listens to what the server says changed.
    pub fn listen(
        self: &Arc<Self>,
        wanted: Option<Wanted>,
        call: &Call<'_>,
        response: Response<Answer>,
    ) -> Response<Answer> {
        let is_stream = is_event_stream(response.headers());
        let encoded = response.headers().contains_key(http::header::CONTENT_ENCODING);
        let ear = match wanted {
            Some(wanted) if response.status() == http::StatusCode::OK && !encoded => {
                Some(Ear::to_answer(Arc::clone(self), wanted, is_stream))
            }
            None if is_stream && call.listens() => Some(Ear::to_changes(Arc::clone(self))),
            Some(_) | None => None,
        };
        match ear {
            Some(ear) => response.map(|answer| answer.heard_by(ear)),
            None => response,
        }
    }

    /// Forgets what a message says has changed.
    pub(crate) fn hear(&self, message: &[u8]) {
        let Ok(mcp::Body::One(Message::Notification(note))) = mcp::parse(message, self.bounds) else {
            return;
        };
        match &*note.method {
            method::RESOURCES_UPDATED => self.changed(note.params.uri.as_deref()),
            method::RESOURCES_LIST_CHANGED | method::PROMPTS_LIST_CHANGED => self.changed(None),
            _ => {}
        }
    }

    /// Forgets a resource, with what is above it and below; or everything.
    pub(crate) fn changed(&self, uri: Option<&str>) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.kept.forget(|key| {
            uri.is_none_or(|uri| {
                key.about.starts_with(uri) || !key.about.is_empty() && uri.starts_with(&*key.about)
            })
        });
    }

    /// Keeps what an answer says may be kept.
    fn keep(&self, wanted: Wanted, answer: &[u8]) {
        let Ok(mcp::Body::One(Message::Response(response))) = mcp::parse(answer, self.bounds) else { return };
        let Outcome::Result(result) = response.outcome else { return };
        let Some(fresh) = fresh::fresh(result) else { return };
        let key = if fresh.is_public { wanted.public } else { wanted.private };
        let age = Duration::from_millis(fresh.ttl_ms).min(self.age_max);
        if self.changes.load(Ordering::Acquire) == wanted.changes {
            self.kept.keep(key.clone(), around(result, fresh.written), age, &[]);
        }
        // It may have changed between the two.
        if self.changes.load(Ordering::Acquire) != wanted.changes {
            self.kept.forget(|it| *it == key);
        }
    }
}

/// A result without one of its parts, which is another whenever it is given.
fn around(result: Raw<'_>, part: Raw<'_>) -> Parts {
    let result = result.get();
    let at = mcp::span(result.as_bytes(), part.get());
    let copied = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    Parts(copied(&result[..at.start]), copied(&result[at.end..]))
}

#[cfg(test)]
pub(crate) mod tests;
