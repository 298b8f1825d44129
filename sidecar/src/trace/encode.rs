//! Spans in the words of OpenTelemetry's conventions for MCP, as OTLP has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weft_proto::mcp::method;
use weft_proto::pb::opentelemetry::proto::common::v1::any_value::Value;
use weft_proto::pb::opentelemetry::proto::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use weft_proto::pb::opentelemetry::proto::resource::v1::Resource;
use weft_proto::pb::opentelemetry::proto::trace::v1::span::{Link, SpanKind};
use weft_proto::pb::opentelemetry::proto::trace::v1::status::StatusCode;
use weft_proto::pb::opentelemetry::proto::trace::v1::{ResourceSpans, ScopeSpans, Span as Told, Status};
use weft_proto::trace::{Context, SpanId};

use super::content::Shown;
use super::open::{More, Part};
use super::span::{Child, Span};
use crate::heard::Heard;
use crate::identify::Protocol;
use crate::metrics::METHODS;
use crate::record::Event;

/// Longest text of an attribute, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// That the flags of a span, or of what it is linked to, say whether the one before it is of another process; and that
/// it is.
const REMOTE: u32 = 0x300;

/// Who recorded something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub namespace: String,
    pub instance: String,
    pub workload: Option<String>,
}

/// Spans of one service. `random` names the parts of calls.
pub(super) fn encode(source: &Source, spans: &[Span], mut random: impl FnMut() -> u64) -> ResourceSpans {
    let spans = spans.iter().flat_map(|span| {
        let children = span.more.iter().flat_map(|more| &more.children);
        let mut told = vec![whole(span)];
        told.extend(children.map(|child| part(span, child, SpanId::new(random()))));
        told
    });
    let scope =
        InstrumentationScope { name: "weft".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    ResourceSpans {
        resource: Some(resource(source)),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans: spans.collect() }],
        schema_url: String::new(),
    }
}

/// Whoever recorded something, in the words of the conventions.
pub fn resource(source: &Source) -> Resource {
    let mut attributes = Attributes::default();
    attributes.text("service.name", &source.name);
    attributes.text("service.namespace", &source.namespace);
    attributes.text("service.instance.id", &source.instance);
    attributes.text("service.version", env!("CARGO_PKG_VERSION"));
    attributes.text("telemetry.sdk.name", "weft");
    attributes.text("telemetry.sdk.language", "rust");
    attributes.text("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
    attributes.maybe("weft.workload", source.workload.as_deref());
    Resource { attributes: attributes.0 }
}

fn whole(span: &Span) -> Told {
    let Span { own, parent, is_client, event, more, .. } = span;
    let (start, end) = between(event.at, Duration::ZERO, event.duration);
    let verdict = Verdict::of(span);
    Told {
        trace_id: own.trace.bytes().to_vec(),
        span_id: own.span.bytes().to_vec(),
        trace_state: more.as_ref().and_then(|more| more.state.as_deref()).unwrap_or_default().to_owned(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span.bytes().to_vec()),
        flags: u32::from(own.flags()) | if parent.is_some() { REMOTE } else { 0 },
        name: name(span),
        kind: if *is_client { SpanKind::Client } else { SpanKind::Server }.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        attributes: attributes(span, &verdict),
        links: more.iter().filter_map(|more| more.link.as_ref()).map(link).collect(),
        status: verdict
            .error
            .is_some()
            .then(|| Status { message: verdict.message.unwrap_or_default(), code: StatusCode::Error.into() }),
    }
}

fn part(span: &Span, child: &Child, id: SpanId) -> Told {
    let (start, end) = between(span.event.at, child.after, child.took);
    let name = match child.part {
        Part::Queue => "queue",
        Part::Bridge => "bridge",
        Part::Upstream => "upstream",
    };
    Told {
        trace_id: span.own.trace.bytes().to_vec(),
        span_id: id.bytes().to_vec(),
        parent_span_id: span.own.span.bytes().to_vec(),
        flags: span.own.flags().into(),
        name: name.to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        ..Told::default()
    }
}

fn link(to: &Context) -> Link {
    Link {
        trace_id: to.trace.bytes().to_vec(),
        span_id: to.span.bytes().to_vec(),
        flags: u32::from(to.flags()) | REMOTE,
        ..Link::default()
    }
}

fn between(at: SystemTime, after: Duration, took: Duration) -> (u64, u64) {
    let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let start = at.duration_since(UNIX_EPOCH).unwrap_or_default() + after;
    (nanos(start), nanos(start + took))
}

fn method_of(span: &Span) -> &str {
    let written = span.more.as_ref().and_then(|more| more.method.as_deref());
    clipped(written.unwrap_or(METHODS[span.event.method]))
}

/// The method, with the tool or the prompt that it is about: names of which a server has few.
fn name(span: &Span) -> String {
    let method = method_of(span);
    match &span.event.target {
        Some(target) if matches!(method, method::TOOLS_CALL | method::PROMPTS_GET) => {
            format!("{method} {}", clipped(target))
        }
        _ => method.to_owned(),
    }
}

fn attributes(span: &Span, verdict: &Verdict) -> Vec<KeyValue> {
    let Event { target, rpc_id, .. } = &span.event;
    let mut told = Attributes::default();
    let method = method_of(span);
    told.text("mcp.method.name", method);
    if let Some(target) = target {
        match method {
            method::TOOLS_CALL => {
                told.text("gen_ai.tool.name", target);
                told.text("gen_ai.operation.name", "execute_tool");
            }
            method::PROMPTS_GET => told.text("gen_ai.prompt.name", target),
            _ if method.starts_with("resources/") => told.text("mcp.resource.uri", target),
            _ => {}
        }
    }
    // An id that is a text has quotes.
    told.maybe("jsonrpc.request.id", rpc_id.as_deref().map(|id| id.trim_matches('"')));
    told.maybe("error.type", verdict.error.as_deref());
    told.maybe("rpc.response.status_code", verdict.code.as_deref());
    told.text("network.transport", "tcp");
    told.text("network.protocol.name", "http");
    if let Some(more) = &span.more {
        conversation(&mut told, more, span.is_client);
    }
    if let Some(content) = span.more.as_ref().and_then(|more| more.content.as_ref()) {
        told.shown("gen_ai.tool.call.arguments", "weft.arguments.left_out", content.arguments.clone());
        // Of what was refused or broke off there is no result.
        let result = content.result().filter(|_| span.event.reason == "ok");
        told.shown("gen_ai.tool.call.result", "weft.result.left_out", result);
    }
    ours(&mut told, &span.event);
    told.0
}

/// What the conventions say of how the two sides speak.
fn conversation(told: &mut Attributes, more: &More, is_client: bool) {
    told.maybe("mcp.protocol.version", more.revision.as_deref());
    told.maybe("mcp.session.id", more.session.as_deref());
    // Between sidecars it is what both agreed on, which is not told here.
    if !is_client {
        let version = match more.protocol {
            Protocol::Http1 => "1.1",
            Protocol::Http2 => "2",
        };
        told.text("network.protocol.version", version);
        told.text("client.address", &more.from.ip().to_string());
        told.number("client.port", more.from.port().into());
    }
    if let Some(to) = &more.to {
        told.text("server.address", to.host());
        told.number("server.port", to.port().into());
    }
}

/// What Weft knows, in the words of its log.
fn ours(told: &mut Attributes, event: &Event) {
    told.text("weft.caller", &event.caller);
    told.text("weft.server", &event.server);
    told.text("weft.era", event.era);
    told.text("weft.reason", event.reason);
    told.maybe("weft.rule", event.decided.rule.as_ref().map(ToString::to_string).as_deref());
    told.maybe("weft.shadow", event.decided.shadow.as_ref().map(ToString::to_string).as_deref());
    if event.decided.rule.is_some() || event.reason == "denied" {
        told.text("weft.decision", if event.reason == "denied" { "refused" } else { "allowed" });
    }
    told.maybe("weft.quota.limit", event.limit.as_deref());
    told.maybe("weft.quota.shadow_limit", event.shadow_limit.as_deref());
    told.maybe("weft.tools", event.tools.as_deref());
    told.maybe("weft.detail", event.detail.as_deref());
    told.number("http.response.status_code", event.status.into());
}

/// How a call went, in the words of the conventions.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// None where the span is no error.
    error: Option<String>,
    /// Of JSON-RPC.
    code: Option<String>,
    message: Option<String>,
}

impl Verdict {
    fn of(span: &Span) -> Self {
        let Event { reason, status, .. } = &span.event;
        match &span.heard {
            Heard::ToolError => Self { error: Some("tool_error".to_owned()), ..Self::default() },
            Heard::Fault { code, message } => {
                let is_error = span.is_client || !Heard::is_callers_own(*code);
                let code = code.to_string();
                let message = is_error.then(|| message.to_string());
                Self { error: is_error.then(|| code.clone()), code: Some(code), message }
            }
            Heard::Nothing => Self {
                error: match *reason {
                    "ok" | "caller_left" => None,
                    "server_error" => Some(status.to_string()),
                    "client_error" if span.is_client => Some(status.to_string()),
                    "client_error" => None,
                    reason => Some(reason.to_owned()),
                },
                ..Self::default()
            },
        }
    }
}

#[derive(Debug, Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &str, value: &str) {
        self.add(key, Value::StringValue(clipped(value).to_owned()));
    }

    fn maybe(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.text(key, value);
        }
    }

    /// A value as long as it is, or why it is not there.
    fn shown(&mut self, key: &str, left_out: &str, value: Option<Shown>) {
        match value {
            Some(Ok(value)) => self.add(key, Value::StringValue(value.into())),
            Some(Err(lack)) => self.text(left_out, lack.word()),
            None => {}
        }
    }

    fn number(&mut self, key: &str, value: i64) {
        self.add(key, Value::IntValue(value));
    }

    fn add(&mut self, key: &str, value: Value) {
        self.0.push(KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) });
    }
}

fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests;
