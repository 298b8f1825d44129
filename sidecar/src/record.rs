//! What is kept of a request: one event, built as a value while the request runs, written once when it ended.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::access_log::AccessLog;
use crate::audit::Recording;
use crate::authorize::Decided;
use crate::heard::{self, Heard};
use crate::logged::Logged;
use crate::metrics::calls::{Also, Call};
use crate::metrics::{Dimensions, ServerSeries, Verdict};
use crate::outbound::Learning;
use crate::refusal::Refusal;
use crate::trace::{Part, Trace};

/// Largest list that is looked through for what a server advertises, in bytes.
const LIST_BYTES_MAX: usize = 1 << 20;

/// What there is to say of a request. Texts that callers choose are clipped when the event is written.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: SystemTime,
    pub listener: &'static str,
    pub caller: Arc<str>,
    pub server: Arc<str>,
    pub http_method: http::Method,
    /// Index in [`crate::metrics::METHODS`].
    pub method: usize,
    /// The tool, prompt, resource or task, if the request names one.
    pub target: Option<Box<str>>,
    pub rpc_id: Option<Box<str>>,
    pub era: &'static str,
    pub status: u16,
    /// `ok`, or why not.
    pub reason: &'static str,
    /// What the log may say besides, and the caller may not hear.
    pub detail: Option<String>,
    pub decided: Decided,
    /// The limit of a quota that refused it.
    pub limit: Option<Arc<str>>,
    /// A limit in shadow that would have.
    pub shadow_limit: Option<Arc<str>>,
    /// What policies for tools would have refused, or warn of.
    pub tools: Option<Box<str>>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub duration: Duration,
    /// An event stream that only listens, whose duration says nothing.
    pub listens: bool,
}

/// An event whose request still runs.
#[derive(Debug)]
pub struct Open {
    pub event: Event,
    began: Instant,
    series: Arc<ServerSeries>,
    log: AccessLog,
    /// What the answer says of how the call went.
    heard: Heard,
    /// What is told apart in metrics besides.
    pub dimensions: Dimensions,
    /// What the access log is to have of it.
    pub logged: Logged,
    /// The answer so far, if it is a list of what the server advertises.
    list: Option<Vec<u8>>,
    /// Who reads the answer for what begins with it.
    pub begins: Option<Box<Learning>>,
    /// Of a call that is traced.
    pub trace: Option<Trace>,
    /// Where policy wants the call in the audit trail.
    pub(crate) audit: Option<Box<Recording>>,
}

impl Open {
    /// In a box, for it is handed on with every step of an answer.
    pub fn new(event: Event, began: Instant, series: Arc<ServerSeries>, log: AccessLog) -> Box<Self> {
        Box::new(Self {
            event,
            began,
            series,
            log,
            heard: Heard::default(),
            dimensions: Dimensions::default(),
            logged: Logged::default(),
            list: None,
            begins: None,
            trace: None,
            audit: None,
        })
    }

    /// The request is about this server after all.
    pub fn about(&mut self, series: Arc<ServerSeries>, server: Arc<str>) {
        self.series = series;
        self.event.server = server;
    }

    /// When a part of the call begins; none where nobody wants to know.
    pub fn mark(&self) -> Option<Instant> {
        self.trace.as_ref().is_some_and(Trace::is_recorded).then(Instant::now)
    }

    /// A part of the call ended.
    pub fn took(&mut self, part: Part, since: Option<Instant>) {
        if let (Some(trace), Some(since)) = (&mut self.trace, since) {
            trace.took(part, self.began, since);
        }
    }

    /// The answer is a list of what the server advertises, which nobody else reads here.
    pub(crate) fn lists(&mut self) {
        self.list = Some(Vec::new());
    }

    /// Bytes of the answer go to the caller.
    pub fn heard(&mut self, data: &[u8]) {
        self.event.response_bytes += data.len() as u64;
        if !self.event.listens {
            self.heard.hear(data);
        }
        if let Some(begins) = &self.begins {
            begins.hear(data);
        }
        self.list.take_if(|list| list.len() + data.len() > LIST_BYTES_MAX);
        if let Some(list) = &mut self.list {
            list.extend_from_slice(data);
        }
        if let Some(audit) = &mut self.audit {
            audit.feed(data);
        }
        if let Some(trace) = &mut self.trace {
            trace.feed(data);
        }
    }

    /// The request was refused: what is to be on disk before the caller hears of it is.
    pub(crate) async fn refused(&mut self, refusal: &Refusal) {
        let Some(audit) = self.audit.take() else { return };
        let told = refusal.told();
        (self.event.reason, self.event.status) = (told.reason, told.status);
        self.event.detail = Some(refusal.detail());
        self.event.duration = self.began.elapsed();
        audit.refused(&self.event).await;
    }

    /// The request ended.
    pub fn finish(mut self: Box<Self>) {
        self.event.duration = self.began.elapsed();
        let Event { method, reason, listens, duration, request_bytes, response_bytes, .. } = self.event;
        let took = (!listens).then_some(duration);
        self.series.ended(method, reason, took, (request_bytes, response_bytes));
        if took.is_some() {
            self.count();
        }
        self.series.onlookers().ended(&self.event);
        if self.event.decided.shadow.as_ref().is_some_and(|shadow| !shadow.allowed) {
            self.series.refused_in_shadow();
        }
        let is_written = self.is_written();
        if let Some(trace) = self.trace.take() {
            trace.finish(&self.event, std::mem::take(&mut self.heard));
        }
        if let Some(audit) = self.audit.take() {
            audit.finish(&self.event);
        }
        if is_written {
            self.log.write(&self.event, self.logged.format);
        }
    }

    /// What a policy wants recorded is written, whatever telemetry says of the rest.
    fn is_written(&self) -> bool {
        let is_well = self.event.reason == "ok" && self.heard == Heard::Nothing;
        self.event.decided.audit.is_marked() || !(self.logged.not || self.logged.only_if_unwell && is_well)
    }

    fn count(&mut self) {
        for message in self.list.take().iter().flat_map(|list| heard::messages(list)) {
            self.series.learn(message, heard::BOUNDS);
        }
        let (event, dimensions) = (&self.event, self.dimensions);
        let is_known = event.caller.contains([':', '#']);
        self.series.called(&Call {
            method: event.method,
            target: event.target.as_deref(),
            caller: &event.caller,
            verdict: Verdict::of(&self.heard, event.reason, event.status, self.series.side()),
            reason: event.reason,
            also: Also {
                caller: Some(&*event.caller).filter(|_| dimensions.caller && is_known),
                era: Some(event.era).filter(|_| dimensions.era),
                limit: event.limit.as_deref().filter(|_| dimensions.limit),
            },
            at: event.at,
            took: event.duration,
            span: self.trace.as_ref().and_then(Trace::recorded),
        });
    }
}

impl Drop for Open {
    /// A caller who left before there was an answer takes no record along.
    fn drop(&mut self) {
        let Some(audit) = self.audit.take() else { return };
        self.event.reason = "caller_left";
        self.event.duration = self.began.elapsed();
        audit.finish(&self.event);
    }
}
