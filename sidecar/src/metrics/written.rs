//! Histograms with examples as OpenMetrics writes them, which the library that writes the rest does not do for our own.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use super::timings::{BUCKETS, Counted, Exemplar, Exemplars};

pub(super) fn histogram(
    out: &mut String,
    name: &str,
    labels: &str,
    counted: &Counted,
    exemplars: &Exemplars,
) {
    let mut write = || {
        writeln!(out, "{name}_sum{{{labels}}} {:?}", counted.seconds())?;
        writeln!(out, "{name}_count{{{labels}}} {}", counted.count())?;
        let ends = BUCKETS.iter().map(|(end, _)| format!("{end:?}")).chain(["+Inf".to_owned()]);
        let mut sum = 0;
        for ((end, count), exemplar) in ends.zip(counted.counts).zip(exemplars) {
            sum += count;
            write!(out, "{name}_bucket{{{labels},le=\"{end}\"}} {sum}")?;
            if let Some(Exemplar { trace, span, took, at }) = exemplar {
                let (trace, span) = (hex(trace.bytes()), hex(span.bytes()));
                let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
                let (took, secs, millis) = (took.as_secs_f64(), at.as_secs(), at.subsec_millis());
                write!(out, " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} {took:?} {secs}.{millis:03}")?;
            }
            out.push('\n');
        }
        Ok::<_, std::fmt::Error>(())
    };
    // Writing to a text cannot fail.
    let _ = write();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
