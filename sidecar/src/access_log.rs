//! The access log: one line of JSON for each request. Writing never holds a request up: lines go through a bounded
//! queue to a thread of their own, and what finds no room is counted instead.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::Deserialize;

use crate::metrics::{METHODS, Metrics};
use crate::record::Event;

/// Lines that may wait to be written.
const LINES_MAX: usize = 8192;
/// Longest text of a caller's choice that is written, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sink {
    Off,
    #[default]
    Stdout,
    /// A file that is appended to.
    File(PathBuf),
}

/// A handle to the log; clones write to the same.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    lines: SyncSender<String>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    pub const fn off() -> Self {
        Self(None)
    }

    /// Opens the sink and starts the thread that writes. It ends when the last handle is gone.
    pub fn start(sink: &Sink, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let out: Box<dyn Write + Send> = match sink {
            Sink::Off => return Ok(Self::off()),
            Sink::Stdout => Box::new(io::stdout()),
            Sink::File(path) => Box::new(std::fs::File::options().create(true).append(true).open(path)?),
        };
        let (lines, waiting) = sync_channel(LINES_MAX);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_all(&waiting, out))?;
        Ok(Self(Some(Arc::new(Shared { lines, metrics: Arc::clone(metrics) }))))
    }

    pub fn write(&self, event: &Event) {
        let Some(shared) = &self.0 else { return };
        if shared.lines.try_send(line(event)).is_err() {
            shared.metrics.access_log_dropped.inc();
        }
    }
}

/// Writes until nobody sends any more. A sink that fails loses lines and nothing else.
fn write_all(lines: &Receiver<String>, out: Box<dyn Write + Send>) {
    let mut out = io::BufWriter::with_capacity(64 << 10, out);
    while let Ok(line) = lines.recv() {
        let _ = out.write_all(line.as_bytes());
        for line in lines.try_iter().take(1024) {
            let _ = out.write_all(line.as_bytes());
        }
        let _ = out.flush();
    }
}

/// The event as one line. Written by hand: it is made for every request.
fn line(event: &Event) -> String {
    let mut line = String::with_capacity(512);
    let at = jiff::Timestamp::try_from(event.at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    // Writing to a text cannot fail.
    let _ = write!(
        line,
        "{{\"at\":\"{at:.6}\",\"listener\":\"{}\",\"http\":\"{}\",\"status\":{},\"reason\":\"{}\",\"method\":\"{}\",\
         \"era\":\"{}\",\"requestBytes\":{},\"responseBytes\":{},\"durationMs\":{:.3}",
        event.listener,
        event.http_method,
        event.status,
        event.reason,
        METHODS[event.method],
        event.era,
        event.request_bytes,
        event.response_bytes,
        event.duration.as_secs_f64() * 1000.0
    );
    text(&mut line, "caller", Some(&event.caller));
    text(&mut line, "server", Some(&event.server));
    text(&mut line, "target", event.target.as_deref());
    text(&mut line, "id", event.rpc_id.as_deref());
    text(&mut line, "rule", event.rule.as_deref());
    text(&mut line, "detail", event.detail.as_deref());
    line.push_str("}\n");
    line
}

fn text(line: &mut String, name: &str, value: Option<&str>) {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return };
    let end = (0..=TEXT_BYTES_MAX.min(value.len())).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
    let _ = write!(line, ",\"{name}\":");
    // A text can always be written as JSON.
    line.push_str(&serde_json::to_string(&value[..end]).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::metrics::method_index;

    fn event(target: &str) -> Event {
        Event {
            at: SystemTime::UNIX_EPOCH,
            listener: "inbound",
            caller: "spiffe://mesh.test/ns/agents/sa/a".into(),
            server: "research/files".into(),
            http_method: http::Method::POST,
            method: method_index("tools/call"),
            target: Some(target.into()),
            rpc_id: Some("7".into()),
            era: "modern",
            status: 200,
            reason: "ok",
            detail: None,
            rule: None,
            request_bytes: 1,
            response_bytes: 2,
            duration: Duration::from_micros(1500),
            listens: false,
        }
    }

    #[test]
    fn a_line_is_one_json_object_whatever_callers_choose() {
        for target in ["echo", "a\"b\\c\n\u{1}", &"ü".repeat(500)] {
            let line = line(&event(target));
            assert_eq!(line.matches('\n').count(), 1);
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["durationMs"], 1.5);
            assert_eq!(read["at"], "1970-01-01T00:00:00.000000Z");
            let written = read["target"].as_str().unwrap();
            assert!(target.starts_with(written) && written.len() <= TEXT_BYTES_MAX);
        }
    }

    #[test]
    fn lines_reach_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::start(&Sink::File(path.clone()), &Arc::new(Metrics::new())).unwrap();
        log.write(&event("a"));
        drop(log);
        let began = std::time::Instant::now();
        while std::fs::read_to_string(&path).unwrap().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
    }
}
