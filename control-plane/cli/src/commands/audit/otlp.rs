//! Records as a collector takes them: records of a log in OTLP, in batches, the oldest first. What a collector has not
//! taken is told, so that another export can go on from there.

use weft_proto::audit::{Outcome, What};
use weft_proto::name::CollectorUrl;
use weft_proto::pb::opentelemetry::proto::collector::logs::v1::ExportLogsServiceRequest;
use weft_proto::pb::opentelemetry::proto::common::v1::any_value::Value;
use weft_proto::pb::opentelemetry::proto::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use weft_proto::pb::opentelemetry::proto::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use weft_proto::resource::kinds::OtlpProtocol;
use weft_sidecar::trace::collector::{Collector, Error, Place, Signal};
use weft_sidecar::trace::{Source, resource};

use super::query::Record;

/// Records that are sent at once.
const BATCH_RECORDS_MAX: usize = 256;
/// Severities, as the standard counts and calls them.
const INFO: (i32, &str) = (9, "INFO");
const NOTICE: (i32, &str) = (10, "INFO2");
const WARN: (i32, &str) = (13, "WARN");

/// How far an export came.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) records: usize,
    /// The place of the last record that was taken.
    pub(super) last: Option<u64>,
    /// Why not all were.
    pub(super) error: Option<Error>,
}

/// Sends records, until one batch is not taken.
pub(super) async fn send(endpoint: CollectorUrl, protocol: OtlpProtocol, records: &[Record]) -> Sent {
    let place = Place { endpoint, protocol, signal: Signal::Logs };
    let mut sent = Sent { records: 0, last: None, error: None };
    let mut collector = match Collector::connect(&place).await {
        Ok(collector) => collector,
        Err(error) => return Sent { error: Some(error), ..sent },
    };
    for batch in records.chunks(BATCH_RECORDS_MAX) {
        match collector.export(&request(batch)).await {
            Ok(0) => {}
            // Nobody says which, and a trail with holes is none.
            Ok(rejected) => return Sent { error: Some(Error::Rejected { rejected }), ..sent },
            Err(error) => return Sent { error: Some(error), ..sent },
        }
        sent.records += batch.len();
        sent.last = batch.last().map(|record| record.place).or(sent.last);
    }
    sent
}

fn request(records: &[Record]) -> ExportLogsServiceRequest {
    let mut by_node: Vec<ResourceLogs> = Vec::new();
    let mut node = None;
    for record in records {
        // Neighbours of one node go together, and everything stays in order.
        if node != Some(&record.node) {
            node = Some(&record.node);
            by_node.push(of_node(&record.node));
        }
        if let Some(scope) = by_node.last_mut().and_then(|of| of.scope_logs.last_mut()) {
            scope.log_records.push(told(record));
        }
    }
    ExportLogsServiceRequest { resource_logs: by_node }
}

fn of_node(node: &str) -> ResourceLogs {
    let namespace = node.split('/').next().unwrap_or_default();
    let source = Source {
        name: "weft-audit".to_owned(),
        namespace: namespace.to_owned(),
        instance: node.to_owned(),
        workload: None,
    };
    let scope =
        InstrumentationScope { name: "weft".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records: Vec::new() }];
    ResourceLogs { resource: Some(resource(&source)), scope_logs }
}

/// A record, whose body is its line as its node wrote it.
fn told(record: &Record) -> LogRecord {
    let (what, (number, severity)) = match &record.line.is {
        What::Begun(_) => ("begun", INFO),
        What::Call(call) => ("call", severity(call.outcome)),
        What::Operator(act) => ("operator", severity(act.outcome)),
        What::Dropped(_) => ("dropped", WARN),
        What::Resumed(_) => ("resumed", NOTICE),
        What::Later(_) => ("later", NOTICE),
        What::Segment(_) | What::Certificate(_) | What::Seal(_) => ("trail", INFO),
    };
    let at = u64::try_from(record.line.at.as_nanosecond()).unwrap_or_default();
    let mut attributes = vec![
        pair("weft.audit.place", Value::IntValue(i64::try_from(record.place).unwrap_or(i64::MAX))),
        pair("weft.audit.n", Value::IntValue(i64::try_from(record.line.n).unwrap_or(i64::MAX))),
    ];
    let mut text = |key: &str, value: Option<&str>| {
        attributes.extend(value.map(|value| pair(key, Value::StringValue(value.to_owned()))));
    };
    match &record.line.is {
        What::Begun(call) | What::Call(call) => {
            text("weft.caller", Some(&call.caller));
            text("weft.server", Some(&call.server));
            text("mcp.method.name", Some(&call.asked.method));
            text("gen_ai.tool.name", call.asked.tool.as_deref());
            text("weft.outcome", Some(call.outcome.word()));
            text("weft.reason", Some(&call.reason));
            text("weft.rule", call.rule.as_deref());
            text("weft.quota.limit", call.limit.as_deref());
        }
        What::Operator(act) => text("weft.outcome", Some(act.outcome.word())),
        What::Dropped(dropped) => text("weft.reason", Some(&dropped.reason)),
        What::Resumed(_) | What::Segment(_) | What::Certificate(_) | What::Seal(_) | What::Later(_) => {}
    }
    LogRecord {
        time_unix_nano: at,
        observed_time_unix_nano: at,
        severity_number: number,
        severity_text: severity.to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(record.text.clone())) }),
        attributes,
        event_name: format!("weft.audit.{what}"),
        ..LogRecord::default()
    }
}

const fn severity(outcome: Outcome) -> (i32, &'static str) {
    match outcome {
        Outcome::Begun | Outcome::Done => INFO,
        Outcome::Refused => NOTICE,
        Outcome::Failed => WARN,
    }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use weft_proto::audit::{Cursor, Dropped, Line, Trail};

    use super::*;

    fn record(place: u64, node: &str) -> Record {
        let at = Timestamp::from_microsecond(1_800_000_000_000_001).unwrap();
        let is = What::Dropped(Dropped { count: 2, reason: "disk_full".to_owned(), since: at });
        let bytes = Cursor::new(node, Trail::from_random(1)).write(at, is);
        let text = String::from_utf8(bytes).unwrap().trim_end().replacen('{', "{\"later\":1,", 1);
        Record { place, node: node.to_owned(), line: Line::parse(text.as_bytes()).unwrap(), text }
    }

    #[test]
    fn records_stay_in_order_by_node_and_keep_their_lines() {
        let records = [record(1, "a/x"), record(2, "a/x"), record(3, "b/y"), record(4, "a/x")];
        let request = request(&records);
        let sizes: Vec<_> =
            request.resource_logs.iter().map(|of| of.scope_logs[0].log_records.len()).collect();
        assert_eq!(sizes, [2, 1, 1]);
        let first = &request.resource_logs[0].scope_logs[0].log_records[0];
        assert_eq!((first.severity_number, first.event_name.as_str()), (13, "weft.audit.dropped"));
        assert_eq!(first.time_unix_nano, 1_800_000_000_000_001_000);
        let Some(Value::StringValue(body)) = first.body.as_ref().and_then(|body| body.value.as_ref()) else {
            panic!("{first:?}");
        };
        assert_eq!(*body, records[0].text);
    }

    #[tokio::test]
    async fn an_export_that_reaches_nobody_says_so() {
        let records = [record(1, "a/x")];
        let nobody = CollectorUrl::parse("http://127.0.0.1:1").unwrap();
        let sent = send(nobody, OtlpProtocol::Http, &records).await;
        assert!(matches!((sent.records, sent.last, sent.error), (0, None, Some(Error::Unreachable(_)))));
    }
}
