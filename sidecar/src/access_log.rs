//! The access log: one line for each request, see [`line`]. Writing never holds a request up: lines gather in a bounded
//! buffer that a thread of its own empties now and then, and what finds no room is counted instead.
//!
//! Waking that thread for every line would cost more than the line, so it is woken for the first one, waits for others,
//! and writes them together.

mod line;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weft_proto::resource::kinds::LogFormat;

use crate::metrics::Metrics;
use crate::record::Event;

/// Bytes of lines that may wait to be written.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Longest that a line waits for others to be written with.
const WRITE_AFTER: Duration = Duration::from_millis(100);
/// Bytes that are not kept waiting for more.
const WRITE_BYTES: usize = 64 << 10;

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

    pub fn write(&self, event: &Event, format: LogFormat) {
        let shared = match &self.0 {
            To::Nobody => return,
            To::Told(told) => return (told.0)(event),
            To::Lines(shared) => shared,
        };
        let room = line::with(event, format, |line| shared.lines.add(line));
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::authorize::Decided;
    use crate::metrics::method_index;

    pub(super) fn event(target: &str) -> Event {
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
        }
    }

    #[test]
    fn lines_are_in_the_file_once_the_log_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::start(&Sink::File(path.clone()), &Arc::new(Metrics::new())).unwrap();
        let long = "x".repeat(256);
        for _ in 0..1000 {
            log.write(&event(&long), LogFormat::Json);
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
        log.write(&event("a"), LogFormat::Json);
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
        log.write(&event("a"), LogFormat::Json);
        log.write(&event("b"), LogFormat::Json);
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
        let long = "x".repeat(256);
        while metrics.access_log_dropped.get() == 0 {
            log.write(&event(&long), LogFormat::Json);
        }
        drop(reader);
        drop(log);
        thread.join().unwrap();
    }
}
