//! Metrics as OTLP has them, made from the text that Prometheus is shown: what both are told is the same.
//!
//! Only the form that this program writes is read. The histograms of the conventions for MCP get their own names and
//! attributes; everything else keeps the name that it has in Prometheus.

use std::collections::BTreeMap;

use weft_proto::pb::opentelemetry::proto::common::v1::any_value::Value;
use weft_proto::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue};
use weft_proto::pb::opentelemetry::proto::metrics::v1::metric::Data;
use weft_proto::pb::opentelemetry::proto::metrics::v1::{
    AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
    exemplar, number_data_point,
};

/// What is counted by calls, and what it is called there.
const OF_CALLS: [(&str, &str); 2] = [
    ("mcp_server_operation_duration_seconds", "mcp.server.operation.duration"),
    ("mcp_client_operation_duration_seconds", "mcp.client.operation.duration"),
];
/// Labels of these, and what they are called there.
const ATTRIBUTES: [(&str, &str); 11] = [
    ("server", "weft.server"),
    ("mcp_method_name", "mcp.method.name"),
    ("gen_ai_tool_name", "gen_ai.tool.name"),
    ("gen_ai_prompt_name", "gen_ai.prompt.name"),
    ("caller_namespace", "weft.caller.namespace"),
    ("error_type", "error.type"),
    ("rpc_response_status_code", "rpc.response.status_code"),
    ("reason", "weft.reason"),
    ("caller", "weft.caller"),
    ("era", "weft.era"),
    ("limit", "weft.quota.limit"),
];

/// Names and values.
type Labels<'a> = Vec<(&'a str, String)>;

/// The span of time that sums are of, in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub start: u64,
    pub now: u64,
}

/// The metrics of a text. Lines that are not understood are left out.
pub fn metrics(text: &str, span: Span) -> Vec<Metric> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for line in text.lines() {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "HELP", name, help] => {
                families.push(Family { name, help: help.trim_end_matches('.'), ..Family::default() });
            }
            ["#", "TYPE", name, kind] => {
                if let Some(family) = families.last_mut().filter(|family| family.name == name) {
                    family.kind = kind;
                }
            }
            ["#", ..] => {}
            _ => {
                if let (Some(family), Some(sample)) = (families.last_mut(), Sample::read(line)) {
                    family.samples.push(sample);
                }
            }
        }
    }
    families.iter().filter_map(|family| family.metric(span)).collect()
}

#[derive(Debug, Default)]
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: &'a str,
    samples: Vec<Sample<'a>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: Labels<'a>,
    value: f64,
    exemplar: Option<Example<'a>>,
}

/// A call that is the example of its bucket.
#[derive(Clone, Debug, PartialEq)]
struct Example<'a> {
    labels: Labels<'a>,
    value: f64,
    at_seconds: f64,
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (name, labels, rest) = named(line)?;
        let (value, exemplar) = match rest.split_once(" # ") {
            Some((value, example)) => (value, Example::read(example)),
            None => (rest, None),
        };
        Some(Self { name, labels, value: value.trim().parse().ok()?, exemplar })
    }
}

impl<'a> Example<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (_, labels, rest) = named(text)?;
        let (value, at) = rest.trim().split_once(' ')?;
        Some(Self { labels, value: value.parse().ok()?, at_seconds: at.parse().ok()? })
    }

    fn told(&self) -> Exemplar {
        let bytes = |name: &str| {
            let hex = self.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value);
            let pairs = hex.as_bytes().chunks_exact(2).map(|pair| {
                let pair = std::str::from_utf8(pair).unwrap_or_default();
                u8::from_str_radix(pair, 16).unwrap_or_default()
            });
            pairs.collect()
        };
        Exemplar {
            time_unix_nano: nanos(self.at_seconds),
            span_id: bytes("span_id"),
            trace_id: bytes("trace_id"),
            value: Some(exemplar::Value::AsDouble(self.value)),
        }
    }
}

/// A name with its labels, and what comes after them.
fn named(text: &str) -> Option<(&str, Labels<'_>, &str)> {
    let end = text.find(['{', ' '])?;
    let (name, mut rest) = text.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = unquoted(quoted)?;
            labels.push((label, value));
            rest = after;
        }
    }
    Some((name, labels, rest))
}

/// A text up to its closing quote, and what comes after that.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut escaped) = (String::new(), false);
    for (at, letter) in text.char_indices() {
        match (escaped, letter) {
            (true, 'n') => value.push('\n'),
            (false, '"') => return Some((value, &text[at + 1..])),
            (false, '\\') => {}
            (_, letter) => value.push(letter),
        }
        escaped = !escaped && letter == '\\';
    }
    None
}

impl Family<'_> {
    fn metric(&self, span: Span) -> Option<Metric> {
        let of_calls = OF_CALLS.iter().find(|(name, _)| *name == self.name);
        let is_of_calls = of_calls.is_some();
        let cumulative = AggregationTemporality::Cumulative.into();
        let numbers = || {
            let point = |sample: &Sample<'_>| NumberDataPoint {
                attributes: attributes(&sample.labels, is_of_calls),
                start_time_unix_nano: if self.kind == "counter" { span.start } else { 0 },
                time_unix_nano: span.now,
                value: Some(number_data_point::Value::AsDouble(sample.value)),
            };
            self.samples.iter().map(point).collect::<Vec<_>>()
        };
        let data = match self.kind {
            "counter" => Data::Sum(Sum {
                data_points: numbers(),
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
            "gauge" => Data::Gauge(Gauge { data_points: numbers() }),
            "histogram" => Data::Histogram(Histogram {
                data_points: self.histograms(span, is_of_calls),
                aggregation_temporality: cumulative,
            }),
            _ => return None,
        };
        // What has no members says nothing.
        (!self.samples.is_empty()).then(|| Metric {
            name: of_calls.map_or(self.name, |(_, name)| name).to_owned(),
            description: self.help.to_owned(),
            unit: if is_of_calls { "s".to_owned() } else { String::new() },
            data: Some(data),
        })
    }

    fn histograms(&self, span: Span, is_of_calls: bool) -> Vec<HistogramDataPoint> {
        let mut points = BTreeMap::<Labels<'_>, (HistogramDataPoint, f64)>::new();
        for Sample { name, labels, value, exemplar } in &self.samples {
            let (ends, own): (Vec<_>, Vec<_>) = labels.iter().cloned().partition(|(label, _)| *label == "le");
            let (point, below) = points.entry(own).or_default();
            match name.strip_prefix(self.name) {
                Some("_sum") => point.sum = Some(*value),
                Some("_count") => point.count = whole(*value),
                Some("_bucket") => {
                    point.bucket_counts.push(whole(*value - *below));
                    *below = *value;
                    let end = ends.first().and_then(|(_, end)| end.parse::<f64>().ok());
                    point.explicit_bounds.extend(end.filter(|end| end.is_finite()));
                    point.exemplars.extend(exemplar.as_ref().map(Example::told));
                }
                Some(_) | None => {}
            }
        }
        let points = points.into_iter().map(|(labels, (point, _))| HistogramDataPoint {
            attributes: attributes(&labels, is_of_calls),
            start_time_unix_nano: span.start,
            time_unix_nano: span.now,
            ..point
        });
        points.collect()
    }
}

fn attributes(labels: &[(&str, String)], is_of_calls: bool) -> Vec<KeyValue> {
    let own = |label: &str| ATTRIBUTES.iter().find(|(name, _)| is_of_calls && *name == label);
    let mut told: Vec<KeyValue> =
        labels.iter().map(|(label, value)| text(own(label).map_or(label, |(_, name)| name), value)).collect();
    if is_of_calls {
        told.push(text("network.transport", "tcp"));
        if labels.iter().any(|(label, _)| *label == "gen_ai_tool_name") {
            told.push(text("gen_ai.operation.name", "execute_tool"));
        }
    }
    told
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value) }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, written as one")]
fn whole(count: f64) -> u64 {
    count.max(0.0) as u64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time of this age, to the millisecond"
)]
fn nanos(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e3).round() as u64 * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP weft_sidecar_panics Requests that ended in a panic.
# TYPE weft_sidecar_panics counter
weft_sidecar_panics_total 3
# HELP weft_sidecar_in_flight Calls.
# TYPE weft_sidecar_in_flight gauge
weft_sidecar_in_flight{server=\"a/\\\"b\\\\\"} 2
# HELP weft_sidecar_nobody None.
# TYPE weft_sidecar_nobody gauge
# HELP mcp_server_operation_duration_seconds Calls.
# TYPE mcp_server_operation_duration_seconds histogram
# UNIT mcp_server_operation_duration_seconds seconds
mcp_server_operation_duration_seconds_sum{server=\"a/b\",gen_ai_tool_name=\"t\"} 0.25
mcp_server_operation_duration_seconds_count{server=\"a/b\",gen_ai_tool_name=\"t\"} 3
mcp_server_operation_duration_seconds_bucket{server=\"a/b\",gen_ai_tool_name=\"t\",le=\"0.1\"} 2 # {trace_id=\"00ab\",span_id=\"0c\"} 0.05 2.5
mcp_server_operation_duration_seconds_bucket{server=\"a/b\",gen_ai_tool_name=\"t\",le=\"+Inf\"} 3
# EOF
";

    fn keys(attributes: &[KeyValue]) -> Vec<&str> {
        attributes.iter().map(|it| it.key.as_str()).collect()
    }

    #[test]
    fn each_kind_is_told_as_otlp_has_it() {
        let metrics = metrics(TEXT, Span { start: 1, now: 2 });
        let names: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["weft_sidecar_panics", "weft_sidecar_in_flight", "mcp.server.operation.duration"]);
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsDouble(3.0)));
        let Some(Data::Gauge(gauge)) = &metrics[1].data else { panic!("{metrics:?}") };
        assert_eq!(gauge.data_points[0].attributes, [text("server", "a/\"b\\")]);
        let Some(Data::Histogram(histogram)) = &metrics[2].data else { panic!("{metrics:?}") };
        let [point] = &histogram.data_points[..] else { panic!("{histogram:?}") };
        let expected = ["weft.server", "gen_ai.tool.name", "network.transport", "gen_ai.operation.name"];
        assert_eq!(keys(&point.attributes), expected);
        assert_eq!((point.count, point.sum), (3, Some(0.25)));
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[2, 1][..], &[0.1][..]));
        let [exemplar] = &point.exemplars[..] else { panic!("{point:?}") };
        assert_eq!((&exemplar.trace_id[..], &exemplar.span_id[..]), (&[0, 0xab][..], &[0x0c][..]));
        assert_eq!(exemplar.time_unix_nano, 2_500_000_000);
        assert_eq!(metrics[2].unit, "s");
    }

    #[test]
    fn what_this_program_writes_is_read_whole() {
        let metrics_of = std::sync::Arc::new(crate::metrics::Metrics::new());
        let series = crate::metrics::ServerSeries::new(&metrics_of, "inbound", "a/{b}, \"c\"\n".into());
        series.ended(2, "ok", Some(std::time::Duration::from_millis(1)), (1, 1));
        let text = metrics_of.text();
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        let read = text.lines().filter(|line| !line.starts_with('#')).filter_map(Sample::read).count();
        assert_eq!(read, samples);
        let names = metrics(&text, Span { start: 1, now: 2 });
        assert!(names.iter().any(|metric| metric.name == "weft_sidecar_requests"), "{names:?}");
    }

    #[test]
    fn nonsense_is_left_out() {
        for line in ["", "a", "a{b=\"c", "a{b} 1", "a{b=\"c\"} x", "# HELP", "{}"] {
            assert!(
                metrics(&format!("# HELP a b\n# TYPE a gauge\n{line}\n"), Span { start: 0, now: 0 })
                    .is_empty(),
                "{line}"
            );
        }
    }
}
