//! What waits to be written, and how much may: a call that is to be recorded takes a place before it goes on, with the
//! room on disk that its record may need.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use weft_proto::audit::What;

use crate::limits::Limits;

/// Lines that a call makes, at most.
const LINES_PER_CALL_MAX: u64 = 2;
/// Room on disk that is left for what the trail itself has to say.
pub(super) const OWN_BYTES: u64 = 256 << 10;

/// Why a call has no place in the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// As many records wait as may.
    Queue,
    /// As much is on disk as may be.
    Space,
    /// The disk takes nothing.
    Disk,
    /// There is no folder to write to.
    Nowhere,
}

impl Lack {
    pub const ALL: [Self; 4] = [Self::Queue, Self::Space, Self::Disk, Self::Nowhere];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Queue => "queue_full",
            Self::Space => "disk_full",
            Self::Disk => "disk_failed",
            Self::Nowhere => "no_state_dir",
        }
    }
}

/// A line to be written.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) at: SystemTime,
    pub(super) is: What,
    /// Told once it is on disk.
    pub(super) done: Option<oneshot::Sender<()>>,
    pub(super) _place: Option<Arc<Place>>,
}

#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Calls that have a place, and the most of them.
    places: AtomicUsize,
    places_max: usize,
    record_bytes_max: u64,
    disk_bytes_max: u64,
    /// Bytes of the trail on disk.
    pub(super) used: AtomicU64,
    /// Whether the disk took nothing the last time.
    pub(super) failing: AtomicBool,
    /// By [`Lack`].
    dropped: [AtomicU64; Lack::ALL.len()],
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    is_urgent: bool,
    is_closed: bool,
}

/// A place among the calls that are recorded; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Queue>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the writer is to do.
pub(super) enum Next {
    Write(Vec<Job>),
    /// Nothing came for as long as was waited.
    Idle,
    /// Nothing more will come.
    End(Vec<Job>),
}

impl Queue {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            places: AtomicUsize::new(0),
            places_max: limits.audit_pending_max,
            record_bytes_max: limits.audit_record_bytes_max as u64,
            disk_bytes_max: limits.audit_disk_bytes_max,
            used: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            dropped: Default::default(),
        })
    }

    pub(super) fn place(self: &Arc<Self>) -> Result<Arc<Place>, Lack> {
        let taken = self.places.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Arc::new(Place(Arc::clone(self)));
        if taken > self.places_max {
            return Err(Lack::Queue);
        }
        let may_need = taken as u64 * LINES_PER_CALL_MAX * self.record_bytes_max;
        if self.used.load(Ordering::Relaxed) + may_need + OWN_BYTES > self.disk_bytes_max {
            return Err(Lack::Space);
        }
        match self.failing.load(Ordering::Relaxed) {
            true => Err(Lack::Disk),
            false => Ok(place),
        }
    }

    /// The room on disk that all calls may need that can have a place.
    pub(super) fn needed(&self) -> u64 {
        self.places_max as u64 * LINES_PER_CALL_MAX * self.record_bytes_max
    }

    /// Counts a call that is not recorded.
    pub(super) fn dropped(&self, lack: Lack) {
        self.dropped[lack as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what was counted of calls that are not recorded.
    pub(super) fn take_dropped(&self) -> Vec<(Lack, u64)> {
        let taken = Lack::ALL.map(|lack| (lack, self.dropped[lack as usize].swap(0, Ordering::Relaxed)));
        taken.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn put_dropped_back(&self, counts: &[(Lack, u64)]) {
        for (lack, count) in counts {
            self.dropped[*lack as usize].fetch_add(*count, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, job: Job) {
        let mut waiting = self.lock();
        let urgent = job.done.is_some();
        let wakes = waiting.jobs.is_empty() || urgent && !waiting.is_urgent;
        waiting.is_urgent |= urgent;
        waiting.jobs.push_back(job);
        drop(waiting);
        if wakes {
            self.changed.notify_one();
        }
    }

    /// What could not be written comes first again.
    pub(super) fn put_back(&self, jobs: Vec<Job>) {
        let mut waiting = self.lock();
        for job in jobs.into_iter().rev() {
            waiting.jobs.push_front(job);
        }
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits for lines, and a little for others to be written with them, unless somebody waits for one of them.
    pub(super) fn next(&self, idle_after: Duration, gather: Duration) -> Next {
        let idle = |waiting: &mut Waiting| waiting.jobs.is_empty() && !waiting.is_closed;
        let waited = self.changed.wait_timeout_while(self.lock(), idle_after, idle);
        let (waiting, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() && waiting.jobs.is_empty() {
            return Next::Idle;
        }
        let alone = |waiting: &mut Waiting| !waiting.is_urgent && !waiting.is_closed;
        let waited = self.changed.wait_timeout_while(waiting, gather, alone);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        waiting.is_urgent = false;
        let jobs = std::mem::take(&mut waiting.jobs).into();
        match waiting.is_closed {
            true => Next::End(jobs),
            false => Next::Write(jobs),
        }
    }
}
