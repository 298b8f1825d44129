//! The access log: one line of JSON for each request. Writing never holds a request up: lines gather in a bounded
//! buffer that a thread of its own empties now and then, and what finds no room is counted instead.
//!
//! Waking that thread for every line would cost more than the line, so it is woken for the first one, waits for others,
//! and writes them together.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::authorize::Decided;
use crate::metrics::{METHODS, Metrics};
use crate::record::Event;

/// Bytes of lines that may wait to be written.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Longest that a line waits for others to be written with.
const WRITE_AFTER: Duration = Duration::from_millis(100);
/// Bytes that are not kept waiting for more.
const WRITE_BYTES: usize = 64 << 10;
/// Longest text of a caller's choice that is written, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// Where the access log goes.
#[derive(Clone, Debug, Default)]
pub enum Sink {
    Off,
    #[default]
    Stdout,
    /// A file that is appended to.
    File(PathBuf),
    /// Somebody in this process.
    Told(Told),
}

/// Who is told of each request that ended, in the thread that served it: it must not wait for anything.
#[derive(Clone)]
pub struct Told(Arc<dyn Fn(&Event) + Send + Sync>);

/// A handle to the log; clones write to the same.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(To);

#[derive(Clone, Debug, Default)]
enum To {
    #[default]
    Nobody,
    Lines(Arc<Shared>),
    Told(Told),
}

#[derive(Debug)]
struct Shared {
    lines: Arc<Lines>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: Mutex<Waiting>,
    /// Told of the first line, of enough bytes, and of the end.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Nothing more will come.
    closed: bool,
    /// Everything that came was written.
    done: bool,
}

impl Told {
    pub fn new(tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

impl AccessLog {
    pub const fn off() -> Self {
        Self(To::Nobody)
    }

    /// Opens the sink and starts the thread that writes. It ends when the last handle is gone.
    pub fn start(sink: &Sink, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let out: Box<dyn Write + Send> = match sink {
            Sink::Off => return Ok(Self::off()),
            Sink::Stdout => Box::new(io::stdout()),
            Sink::File(path) => Box::new(std::fs::File::options().create(true).append(true).open(path)?),
            Sink::Told(told) => return Ok(Self(To::Told(told.clone()))),
        };
        let lines = Arc::new(Lines::default());
        let written = Arc::clone(&lines);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || written.write_all(out))?;
        Ok(Self(To::Lines(Arc::new(Shared { lines, metrics: Arc::clone(metrics) }))))
    }

    pub fn write(&self, event: &Event) {
        let shared = match &self.0 {
            To::Nobody => return,
            To::Told(told) => return (told.0)(event),
            To::Lines(shared) => shared,
        };
        let room = SCRATCH.with_borrow_mut(|scratch| shared.lines.add(scratch.line(event)));
        if !room {
            shared.metrics.access_log_dropped.inc();
        }
    }

    /// Takes no more lines, and waits a while until those that came are written.
    pub fn close(&self, patience: Duration) {
        let To::Lines(shared) = &self.0 else { return };
        shared.lines.close();
        let waiting = shared.lines.lock();
        // Whether in time or not, there is nothing left to do.
        drop(shared.lines.changed.wait_timeout_while(waiting, patience, |waiting| !waiting.done));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.lines.close();
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if there is no room.
    fn add(&self, line: &str) -> bool {
        let mut waiting = self.lock();
        let before = waiting.bytes.len();
        let after = before + line.len();
        if waiting.closed || after > WAITING_BYTES_MAX {
            return false;
        }
        waiting.bytes.extend_from_slice(line.as_bytes());
        drop(waiting);
        if before == 0 || (before < WRITE_BYTES && after >= WRITE_BYTES) {
            self.changed.notify_all();
        }
        true
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Writes until the end. A sink that fails loses lines and nothing else.
    fn write_all(&self, mut out: Box<dyn Write + Send>) {
        let mut taken = Vec::new();
        while self.take(&mut taken) {
            let _ = out.write_all(&taken).and_then(|()| out.flush());
            taken.clear();
            // What one burst needed is not kept for good.
            taken.shrink_to(2 * WRITE_BYTES);
        }
        self.lock().done = true;
        self.changed.notify_all();
    }

    /// Waits for lines and swaps them for the empty buffer. False when there will be none.
    fn take(&self, into: &mut Vec<u8>) -> bool {
        let idle = |waiting: &mut Waiting| waiting.bytes.is_empty() && !waiting.closed;
        let few = |waiting: &mut Waiting| waiting.bytes.len() < WRITE_BYTES && !waiting.closed;
        let waiting = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, WRITE_AFTER, few)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.bytes, into);
        !(into.is_empty() && waiting.closed)
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a thread writes its lines with.
#[derive(Debug, Default)]
struct Scratch {
    line: String,
    /// The second that was last written, and how.
    second: Option<u64>,
    stamp: String,
    written: String,
}

impl Scratch {
    /// The event as one line. Written by hand: it is made for every request.
    fn line(&mut self, event: &Event) -> &str {
        self.line.clear();
        self.line.push_str("{\"at\":\"");
        self.at(event.at);
        let line = &mut self.line;
        for (name, value) in [
            ("\",\"listener\":\"", event.listener),
            ("\",\"reason\":\"", event.reason),
            ("\",\"method\":\"", METHODS[event.method]),
            ("\",\"era\":\"", event.era),
        ] {
            line.push_str(name);
            line.push_str(value);
        }
        line.push_str("\",\"status\":");
        number(line, event.status.into());
        line.push_str(",\"requestBytes\":");
        number(line, event.request_bytes);
        line.push_str(",\"responseBytes\":");
        number(line, event.response_bytes);
        line.push_str(",\"durationMs\":");
        let micros = u64::try_from(event.duration.as_micros()).unwrap_or(u64::MAX);
        number(line, micros / 1000);
        line.push('.');
        digits(line, micros % 1000, 3);
        text(line, "http", Some(event.http_method.as_str()));
        text(line, "caller", Some(&event.caller));
        text(line, "server", Some(&event.server));
        text(line, "target", event.target.as_deref());
        text(line, "id", event.rpc_id.as_deref());
        let Decided { rule, audit, shadow } = &event.decided;
        if let Some(rule) = rule {
            text(line, "rule", Some(written(&mut self.written, rule)));
        }
        if let Some(shadow) = shadow {
            text(line, "shadow", Some(written(&mut self.written, shadow)));
        }
        if audit.is_marked() {
            line.push_str(",\"audit\":true");
        }
        text(line, "limit", event.limit.as_deref());
        text(line, "shadowLimit", event.shadow_limit.as_deref());
        text(line, "tools", event.tools.as_deref());
        text(line, "detail", event.detail.as_deref());
        line.push_str("}\n");
        line
    }

    /// A time, to the microsecond. Everything but the microseconds is the same for many lines.
    fn at(&mut self, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since.as_secs();
        if self.second != Some(second) {
            let time = i64::try_from(second).ok().and_then(|it| jiff::Timestamp::from_second(it).ok());
            self.stamp =
                time.unwrap_or(jiff::Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%S.").to_string();
            self.second = Some(second);
        }
        self.line.push_str(&self.stamp);
        digits(&mut self.line, since.subsec_micros().into(), 6);
        self.line.push('Z');
    }
}

fn written<'s>(scratch: &'s mut String, value: &impl fmt::Display) -> &'s str {
    scratch.clear();
    // Writing to a text cannot fail.
    let _ = write!(scratch, "{value}");
    scratch
}

fn number(line: &mut String, number: u64) {
    line.push_str(itoa::Buffer::new().format(number));
}

/// A number with leading zeros.
fn digits(line: &mut String, number: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let number = buffer.format(number);
    line.extend(std::iter::repeat_n('0', width.saturating_sub(number.len())));
    line.push_str(number);
}

fn text(line: &mut String, name: &str, value: Option<&str>) {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return };
    let value = &value[..value.floor_char_boundary(TEXT_BYTES_MAX)];
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":");
    if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        line.push('"');
        line.push_str(value);
        line.push('"');
    } else {
        // A text can always be written as JSON.
        line.push_str(&serde_json::to_string(value).unwrap_or_default());
    }
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
            decided: Decided::default(),
            limit: None,
            shadow_limit: None,
            tools: None,
            request_bytes: 1,
            response_bytes: 2,
            duration: Duration::from_micros(1500),
            listens: false,
            is_unwritten: false,
        }
    }

    #[test]
    fn a_line_is_one_json_object_whatever_callers_choose() {
        for target in ["echo", "a\"b\\c\n\u{1}", &"ü".repeat(500)] {
            let mut scratch = Scratch::default();
            let line = scratch.line(&event(target));
            assert_eq!(line.matches('\n').count(), 1);
            let read: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(read["durationMs"], 1.5);
            assert_eq!(read["at"], "1970-01-01T00:00:00.000000Z");
            let written = read["target"].as_str().unwrap();
            assert!(target.starts_with(written) && written.len() <= TEXT_BYTES_MAX);
        }
    }

    #[test]
    fn a_method_of_a_callers_making_does_not_fill_the_log() {
        let method = http::Method::from_bytes(&[b'X'; 60_000]).unwrap();
        let mut scratch = Scratch::default();
        let line = scratch.line(&Event { http_method: method, ..event("a") });
        assert!(line.len() < 1024, "{}", line.len());
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(line).unwrap()["http"],
            "X".repeat(TEXT_BYTES_MAX)
        );
    }

    #[test]
    fn times_are_written_to_the_microsecond() {
        let mut scratch = Scratch::default();
        let mut at = |micros| {
            scratch.line.clear();
            scratch.at(SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
            scratch.line.clone()
        };
        assert_eq!(at(1_795_737_600_000_001), "2026-11-27T00:00:00.000001Z");
        assert_eq!(at(1_795_737_600_999_999), "2026-11-27T00:00:00.999999Z");
        assert_eq!(at(1_795_737_601_000_000), "2026-11-27T00:00:01.000000Z");
    }

    #[test]
    fn lines_are_in_the_file_once_the_log_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::start(&Sink::File(path.clone()), &Arc::new(Metrics::new())).unwrap();
        let long = "x".repeat(TEXT_BYTES_MAX);
        for _ in 0..1000 {
            log.write(&event(&long));
        }
        log.close(Duration::from_secs(20));
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(written.lines().filter(|line| line.ends_with('}') && line.starts_with('{')).count(), 1000);
    }

    #[test]
    fn the_last_handle_takes_what_waits_with_it() {
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

    #[test]
    fn somebody_in_this_process_is_told_of_each_request_that_ended() {
        let (sender, told) = std::sync::mpsc::channel();
        let sink = Sink::Told(Told::new(move |event| sender.send(event.target.clone()).unwrap()));
        let log = AccessLog::start(&sink, &Arc::new(Metrics::new())).unwrap();
        log.write(&event("a"));
        log.write(&event("b"));
        log.close(Duration::ZERO);
        assert_eq!(told.try_iter().flatten().collect::<Vec<_>>(), ["a".into(), "b".into()]);
    }

    #[test]
    fn a_sink_that_takes_nothing_costs_lines_and_no_time() {
        let (reader, writer) = io::pipe().unwrap();
        let metrics = Arc::new(Metrics::new());
        let lines = Arc::new(Lines::default());
        let written = Arc::clone(&lines);
        let thread = std::thread::spawn(move || written.write_all(Box::new(writer)));
        let log = AccessLog(To::Lines(Arc::new(Shared { lines, metrics: Arc::clone(&metrics) })));
        let long = "x".repeat(TEXT_BYTES_MAX);
        while metrics.access_log_dropped.get() == 0 {
            log.write(&event(&long));
        }
        drop(reader);
        drop(log);
        thread.join().unwrap();
    }
}
