//! The trace of a call that still runs: where it belongs, and what was seen of it so far.

use std::net::SocketAddr;
use std::time::Instant;

use http::HeaderMap;
use weft_proto::mcp::header::PROTOCOL_VERSION;
use weft_proto::name::HostPort;
use weft_proto::resource::kinds::{Era, Tracing};
use weft_proto::trace::{Context, SpanId, State, TraceId, sampling};

use super::content::Content;
use super::span::{Child, Span};
use super::{Kind, Service};
use crate::classify::{Call, Kind as What, MODERN};
use crate::headers::SESSION;
use crate::heard::Heard;
use crate::identify::{Identified, Protocol};
use crate::record::Event;

/// Most parts of a call that are told apart.
const CHILDREN_MAX: usize = 8;

/// A part of a call that may take time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Waiting for what a quota or the server has too little of.
    Queue,
    /// An exchange of messages between two eras or transports.
    Bridge,
    /// Until the server, or its sidecar, begins to answer.
    Upstream,
}

/// What is known of a call when it begins.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub call: &'a Call<'a>,
    pub headers: &'a HeaderMap,
    pub connection: &'a Identified,
}

/// The trace of a call.
#[derive(Debug)]
pub struct Trace {
    service: Service,
    pub(super) own: Context,
    pub(super) parent: Option<Context>,
    /// Whether it is kept should it fail, recorded or not.
    keep_failures: bool,
    /// Of a call that is recorded.
    pub(super) more: Option<Box<More>>,
}

/// What only a call that is recorded needs.
#[derive(Debug)]
pub(super) struct More {
    pub(super) link: Option<Context>,
    pub(super) state: Option<Box<str>>,
    /// As the caller wrote it, where it is none of the known ones.
    pub(super) method: Option<Box<str>>,
    pub(super) revision: Option<Box<str>>,
    pub(super) session: Option<Box<str>>,
    pub(super) protocol: Protocol,
    /// Who called.
    pub(super) from: SocketAddr,
    /// Who was called.
    pub(super) to: Option<HostPort>,
    pub(super) children: Vec<Child>,
    /// Where telemetry wants it.
    pub(super) content: Option<Content>,
}

impl Trace {
    /// None where nothing is traced: what only listens is no call, and neither is a response.
    pub fn begin(tracing: Option<&Tracing>, service: &Service, asked: Asked<'_>) -> Option<Self> {
        let tracing = tracing.filter(|tracing| tracing.endpoint.is_some())?;
        let first = asked.call.messages().first()?;
        let method = first.method()?;
        let meta = asked.call.request().map(|request| &request.params.meta).or_else(|| first.meta());
        let said = meta.and_then(weft_proto::mcp::Meta::context);
        let ambient = asked.headers.get("traceparent").and_then(|it| Context::parse(it.to_str().ok()?));
        let parent = said.or(ambient);
        let trace = parent.map_or_else(|| TraceId::new(rand::random()), |parent| parent.trace);
        let sampled = sampling::is_recorded(parent.as_ref(), trace, tracing.sampling);
        let span = SpanId::new(rand::random());
        let own = match &parent {
            Some(parent) => parent.child(span, sampled),
            None => Context::new(trace, span, sampled),
        };
        let more = sampled.then(|| {
            let state = match said {
                Some(_) => meta.and_then(|meta| meta.tracestate.as_deref()).and_then(State::parse),
                None => asked.headers.get("tracestate").and_then(|it| State::parse(it.to_str().ok()?)),
            };
            let more = More {
                link: ambient.filter(|ambient| said.is_some_and(|said| said != *ambient)),
                state: state.map(|state| state.as_str().into()),
                method: (asked.call.method() == 0).then(|| method.into()),
                revision: revision(asked),
                session: session(asked),
                protocol: asked.connection.protocol,
                from: asked.connection.address,
                to: None,
                children: Vec::new(),
                content: None,
            };
            Box::new(more)
        });
        let keep_failures = tracing.keep_failures;
        Some(Self { service: service.clone(), own, parent, keep_failures, more })
    }

    /// Whether everything that is seen of it is recorded.
    pub const fn is_recorded(&self) -> bool {
        self.more.is_some()
    }

    /// What the span of a call that is recorded is called.
    pub(crate) fn recorded(&self) -> Option<(TraceId, SpanId)> {
        self.is_recorded().then_some((self.own.trace, self.own.span))
    }

    /// A part of the call ended, which began so long after it.
    pub(crate) fn took(&mut self, part: Part, began: Instant, since: Instant) {
        let Some(more) = &mut self.more else { return };
        if more.children.len() < CHILDREN_MAX {
            let (after, took) = (since.duration_since(began), since.elapsed());
            more.children.extend(Child::new(part, after, took));
        }
    }

    /// Who is called.
    pub fn to(&mut self, address: &HostPort) {
        if let Some(more) = &mut self.more {
            more.to = Some(address.clone());
        }
    }

    /// Bytes of the answer, as they go to the caller.
    pub(crate) fn feed(&mut self, data: &[u8]) {
        if let Some(content) = self.more.as_mut().and_then(|more| more.content.as_mut()) {
            content.feed(data);
        }
    }

    /// The call ended, and this was heard of it.
    pub(crate) fn finish(self, event: &Event, heard: Heard) {
        let kept = self.more.is_some() || self.keep_failures && heard.is_failure(event);
        if kept {
            let service = self.service.clone();
            service.keep(self.into_span(event, heard));
        }
    }

    fn into_span(self, event: &Event, heard: Heard) -> Span {
        let is_client = self.service.kind == Kind::Client;
        Span { own: self.own, parent: self.parent, is_client, heard, more: self.more, event: event.clone() }
    }
}

fn revision(asked: Asked<'_>) -> Option<Box<str>> {
    if asked.call.era == Era::Modern {
        return Some(MODERN[0].into());
    }
    let named = asked.headers.get(PROTOCOL_VERSION).and_then(|it| it.to_str().ok());
    let wanted = || asked.call.request()?.params.protocol_version.as_deref();
    named.or_else(wanted).map(Into::into)
}

/// The modern era has no sessions, whatever a caller sends.
fn session(asked: Asked<'_>) -> Option<Box<str>> {
    let is_legacy = asked.call.era == Era::Legacy && !matches!(asked.call.kind, What::Listen | What::End);
    let session = asked.headers.get(SESSION).filter(|_| is_legacy);
    session.and_then(|it| it.to_str().ok()).map(Into::into)
}
