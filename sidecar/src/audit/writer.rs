//! The thread that writes the trail: lines gather, are written together, and are on disk before anybody is told so.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use weft_certs::audit as seals;
use weft_certs::tls::LiveIdentity;
use weft_proto::audit::{Call, Cursor, Dropped, Seal, What};

use super::Shared;
use super::folder::{self, Found, Held};
use super::queue::{Job, Lack, Next, OWN_BYTES};
use crate::clock;

/// How long a line waits for others to be written with.
const GATHER: Duration = Duration::from_millis(10);
/// How often the disk is tried again.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) struct Writer {
    shared: Arc<Shared>,
    folder: PathBuf,
    identity: LiveIdentity,
    cursor: Cursor,
    /// Where the trail ends on disk, and how many lines of the present round are there.
    durable: (Cursor, usize),
    at_job: usize,
    /// None before the first line, and after a failure.
    file: Option<File>,
    goes_on: bool,
    /// When the present segment began in this run, and the last seal was made.
    began: Instant,
    sealed: Instant,
    /// The number of the line after the last seal.
    sealed_to: u64,
    dropped_since: Option<SystemTime>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, folder: PathBuf, identity: LiveIdentity, found: Found) -> Self {
        let Found { cursor, resumed, goes_on, .. } = found;
        if let Some(cut) = resumed {
            let job = Job { at: clock::now(), is: What::Resumed(cut), done: None, _place: None };
            shared.queue.add(job);
        }
        let now = Instant::now();
        let sealed_to = cursor.next();
        let durable = (cursor.clone(), 0);
        Self {
            shared,
            folder,
            identity,
            cursor,
            durable,
            at_job: 0,
            file: None,
            goes_on,
            began: now,
            sealed: now,
            sealed_to,
            dropped_since: None,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let pause = match self.shared.queue.failing.load(Ordering::Relaxed) {
                true => AGAIN,
                false => (*self.shared.limits.audit_seal_every).min(Duration::from_secs(1)),
            };
            match self.shared.queue.next(pause, GATHER) {
                Next::Write(jobs) => self.round(jobs, false),
                Next::Idle => self.round(Vec::new(), false),
                Next::End(jobs) => return self.round(jobs, true),
            }
        }
    }

    /// Writes all of it for good, or keeps all of it for later.
    fn round(&mut self, jobs: Vec<Job>, is_end: bool) {
        let dropped = self.shared.queue.take_dropped();
        if dropped.is_empty() {
            self.dropped_since = None;
        } else {
            self.dropped_since.get_or_insert_with(clock::now);
        }
        self.at_job = 0;
        self.durable.1 = 0;
        let before = self.durable.0.next();
        let written = self.write(&jobs, &dropped, is_end);
        let mut jobs = jobs;
        let rest = jobs.split_off(self.durable.1.min(jobs.len()));
        let next = self.durable.0.next();
        self.shared.grown.send_if_modified(|grown| std::mem::replace(grown, next) != next);
        self.shared.show_lag();
        for job in jobs {
            // Whoever does not wait any more does not need to know.
            let _ = job.done.map(|done| done.send(()));
        }
        let Err(error) = written else { return self.shared.queue.failing.store(false, Ordering::Relaxed) };
        if !self.shared.queue.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the audit trail cannot be written");
        }
        self.shared.failed("write");
        if next == before {
            self.shared.queue.put_dropped_back(&dropped);
        }
        self.undo();
        if is_end {
            return tracing::error!(records = rest.len(), "records of the audit trail are lost");
        }
        self.shared.queue.put_back(rest);
        std::thread::sleep(AGAIN);
    }

    fn write(&mut self, jobs: &[Job], dropped: &[(Lack, u64)], is_end: bool) -> io::Result<()> {
        let mut bytes = Vec::new();
        let (now, mut records) = (clock::now(), 0);
        if !jobs.is_empty() || !dropped.is_empty() {
            self.make_room();
        }
        for (lack, count) in dropped {
            let since = stamp(self.dropped_since.unwrap_or(now));
            let is = What::Dropped(Dropped { count: *count, reason: lack.word().to_owned(), since });
            self.line(now, is, &mut bytes)?;
        }
        for (at, job) in jobs.iter().enumerate() {
            self.at_job = at;
            self.line(job.at, job.is.clone(), &mut bytes)?;
            records += u64::from(matches!(job.is, What::Call(_) | What::Begun(_)));
        }
        self.at_job = jobs.len();
        let has_unsealed = self.cursor.is_open() && self.cursor.next() > self.sealed_to;
        let is_due = has_unsealed && self.sealed.elapsed() >= *self.shared.limits.audit_seal_every;
        let is_old = has_unsealed && self.began.elapsed() >= *self.shared.limits.audit_segment_age;
        // A segment that is left open is one whose writer was killed.
        if is_due || is_old || is_end && self.cursor.is_open() {
            if self.file.is_none() {
                self.open(now, &mut bytes)?;
            }
            self.seal(is_old || is_end, now, &mut bytes);
        }
        self.flush(&mut bytes)?;
        self.shared.metrics.audit_records.inc_by(records);
        Ok(())
    }

    /// Adds a line, in a new segment if it is time for one.
    fn line(&mut self, at: SystemTime, is: What, bytes: &mut Vec<u8>) -> io::Result<()> {
        let held = self.segment_bytes() + bytes.len() as u64;
        if self.file.is_some() && self.cursor.is_open() && held >= self.shared.limits.audit_segment_bytes_max
        {
            self.seal(true, at, bytes);
            self.flush(bytes)?;
            self.file = None;
            self.goes_on = false;
        }
        if self.file.is_none() || !self.cursor.is_open() {
            self.flush(bytes)?;
            self.open(at, bytes)?;
        }
        let bytes_max = self.shared.limits.audit_record_bytes_max;
        let line = self.cursor.write_within(bytes_max, stamp(at), is, without_values);
        bytes.extend_from_slice(&line);
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        self.shared.segments().last().map_or(0, |last| last.bytes)
    }

    /// Goes on in the last file, or begins a new one.
    fn open(&mut self, at: SystemTime, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.began = Instant::now();
        if std::mem::take(&mut self.goes_on) && self.cursor.is_open() {
            let path = folder::path_of(&self.folder, self.cursor.segment());
            self.file = Some(OpenOptions::new().append(true).open(path)?);
            return Ok(());
        }
        let number = self.cursor.segment() + 1;
        self.file = Some(folder::create(&self.folder, number)?);
        let path = folder::path_of(&self.folder, number);
        let first = Some(self.cursor.next());
        self.shared.segments().push(Held { path, number, first, bytes: 0 });
        bytes.extend_from_slice(&self.cursor.begin_segment(stamp(at)));
        Ok(())
    }

    /// Signs what there is. Without an identity it waits for one: what follows is linked to it all the same.
    fn seal(&mut self, closes: bool, at: SystemTime, bytes: &mut Vec<u8>) {
        let Some(identity) = self.identity.load() else { return self.shared.failed("no_identity") };
        let certificates = seals::certificates(&identity);
        if self.cursor.certificates() != certificates {
            bytes.extend_from_slice(&self.cursor.write(stamp(at), What::Certificate(certificates)));
        }
        let statement = self.cursor.statement(stamp(at), closes);
        let Some(signature) = seals::sign(&identity, &statement) else { return self.shared.failed("seal") };
        let seal = Seal {
            segment: statement.segment,
            count: statement.count,
            before: statement.before,
            closes,
            signature,
        };
        bytes.extend_from_slice(&self.cursor.write(statement.at, What::Seal(seal)));
        self.sealed = Instant::now();
        self.sealed_to = self.cursor.next();
        self.shared.metrics.audit_seals.inc();
    }

    /// Puts what was added so far on disk.
    fn flush(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("no segment is open"))?;
        file.write_all(bytes)?;
        file.sync_data()?;
        let mut segments = self.shared.segments();
        if let Some(last) = segments.last_mut() {
            last.bytes += bytes.len() as u64;
        }
        self.shared.count(&segments);
        drop(segments);
        bytes.clear();
        self.durable = (self.cursor.clone(), self.at_job);
        Ok(())
    }

    /// After a failure: what was half written is cut off, and a file that was just begun is no segment.
    fn undo(&mut self) {
        self.file = None;
        self.cursor = self.durable.0.clone();
        let mut segments = self.shared.segments();
        segments.retain(|held| held.bytes > 0 || std::fs::remove_file(&held.path).is_err());
        let cut = segments.last().map(|last| {
            let file = OpenOptions::new().write(true).open(&last.path)?;
            file.set_len(last.bytes)?;
            file.sync_all()
        });
        self.goes_on = matches!(cut, Some(Ok(())));
    }

    /// Clears the oldest segments away that the control plane has, where their room is needed.
    fn make_room(&self) {
        let limits = &self.shared.limits;
        let needed = limits.audit_segment_bytes_max.max(self.shared.queue.needed()) + OWN_BYTES;
        let shipped = self.shared.shipped.load(Ordering::Relaxed);
        let mut segments = self.shared.segments();
        while segments.len() > 1
            && segments.iter().map(|it| it.bytes).sum::<u64>() + needed > limits.audit_disk_bytes_max
        {
            let is_shipped = segments[1].first.is_some_and(|next| next <= shipped);
            if !is_shipped || std::fs::remove_file(&segments[0].path).is_err() {
                break;
            }
            segments.remove(0);
        }
        self.shared.count(&segments);
    }
}

fn stamp(at: SystemTime) -> Timestamp {
    // Only a clock that is off by millennia cannot be written down.
    let at = Timestamp::try_from(at).unwrap_or_default();
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or_default()
}

/// What is too long is kept by its digest alone.
fn without_values(is: What) -> What {
    let less = |mut call: Box<Call>| {
        call.asked.arguments = None;
        call.result = None;
        call
    };
    match is {
        What::Call(call) => What::Call(less(call)),
        What::Begun(call) => What::Begun(less(call)),
        other => other,
    }
}
