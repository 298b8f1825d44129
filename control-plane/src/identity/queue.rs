//! Who is signed for first. Signing is the only costly step, so it happens on threads of its own, most urgent first,
//! behind a queue of bounded length: a storm of renewals never keeps a new workload from its first certificate.

use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::oneshot;

/// How urgent a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A renewal with time to spare.
    Renewal,
    /// A renewal whose certificate ends soon.
    Ending,
    /// A workload without a certificate.
    First,
}

impl Priority {
    /// How long the queue may be for one more: the last places are kept for whoever is worse off without them.
    const fn len_max(self, len_max: usize) -> usize {
        match self {
            Self::Renewal => len_max.div_ceil(2),
            Self::Ending => len_max.saturating_mul(3).div_ceil(4),
            Self::First => len_max,
        }
    }
}

type Work = Box<dyn FnOnce() + Send>;

struct Job {
    priority: Priority,
    number: u64,
    work: Work,
}

impl PartialEq for Job {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Job {}

impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Job {
    /// The most urgent first, and among equals whoever came first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.priority.cmp(&other.priority).then_with(|| other.number.cmp(&self.number))
    }
}

#[derive(Default)]
struct State {
    jobs: BinaryHeap<Job>,
    next: u64,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The queue and its threads, which end when it is dropped.
pub(super) struct Queue {
    shared: Arc<Shared>,
    len_max: usize,
}

/// The queue is full for a request of this priority.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).field("len_max", &self.len_max).finish()
    }
}

impl Queue {
    pub(super) fn start(threads: usize, len_max: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("signer-{number}")).spawn(move || work(&shared))?;
        }
        Ok(Self { shared, len_max })
    }

    pub(super) fn len(&self) -> usize {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).jobs.len()
    }

    /// Runs `work` when its turn comes. The receiver fails if the work panicked.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        priority: Priority,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, Full> {
        let (sender, receiver) = oneshot::channel();
        let work: Work = Box::new(move || {
            // Whoever asked may have gone; then nobody pays for the signature.
            if !sender.is_closed() {
                let _ = sender.send(work());
            }
        });
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.jobs.len() >= priority.len_max(self.len_max) {
            return Err(Full);
        }
        state.next += 1;
        let number = state.next;
        state.jobs.push(Job { priority, number, work });
        drop(state);
        self.shared.changed.notify_one();
        Ok(receiver)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.changed.notify_all();
    }
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = |state: &mut State| state.jobs.is_empty() && !state.closed;
            let mut state = shared.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
            match state.jobs.pop() {
                Some(job) => job,
                None => return,
            }
        };
        // One bad request must not take the signer with it.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job.work)).is_err() {
            tracing::error!("a signing request ended in a panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A queue whose only thread is held until the returned sender is used; the receiver waits for its answer.
    fn held(len_max: usize) -> (Queue, mpsc::Sender<()>, oneshot::Receiver<()>) {
        let queue = Queue::start(1, len_max).unwrap();
        let (release, gate) = mpsc::channel::<()>();
        let (started, starts) = mpsc::channel();
        let work = move || {
            started.send(()).unwrap();
            let _ = gate.recv();
        };
        let answer = queue.submit(Priority::First, work).unwrap();
        starts.recv().unwrap();
        (queue, release, answer)
    }

    #[test]
    fn the_most_urgent_is_served_first_and_equals_in_their_order() {
        let (queue, release, _answer) = held(16);
        let (sender, order) = mpsc::channel();
        let mut receivers = Vec::new();
        let jobs = [
            ("r1", Priority::Renewal),
            ("f1", Priority::First),
            ("e1", Priority::Ending),
            ("f2", Priority::First),
        ];
        for (name, priority) in jobs {
            let sender = sender.clone();
            receivers.push(queue.submit(priority, move || sender.send(name).unwrap()).unwrap());
        }
        release.send(()).unwrap();
        let served: Vec<_> = order.iter().take(4).collect();
        assert_eq!(served, ["f1", "f2", "e1", "r1"]);
    }

    #[test]
    fn a_full_queue_says_so_and_an_abandoned_request_is_skipped() {
        let (queue, release, _answer) = held(1);
        let (sender, ran) = mpsc::channel::<()>();
        drop(queue.submit(Priority::First, move || sender.send(()).unwrap()).unwrap());
        assert_eq!(queue.submit(Priority::First, || ()).err(), Some(Full));
        release.send(()).unwrap();
        assert!(ran.recv().is_err(), "nobody waits for the answer, so it is not made");
    }

    #[test]
    fn renewals_leave_places_to_the_more_urgent() {
        let (queue, _release, _answer) = held(8);
        let mut receivers = Vec::new();
        let mut fill = |priority, places| {
            for _ in 0..places {
                receivers.push(queue.submit(priority, || ()).unwrap());
            }
            assert_eq!(queue.submit(priority, || ()).err(), Some(Full), "{priority:?}");
        };
        fill(Priority::Renewal, 4);
        fill(Priority::Ending, 2);
        fill(Priority::First, 2);
    }

    #[test]
    fn a_panic_ends_one_request_only() {
        let queue = Queue::start(1, 4).unwrap();
        let bad = queue.submit(Priority::First, || panic!("made for this test")).unwrap();
        let good = queue.submit(Priority::First, || 7).unwrap();
        assert!(bad.blocking_recv().is_err());
        assert_eq!(good.blocking_recv(), Ok(7));
    }
}
