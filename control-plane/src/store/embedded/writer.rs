//! The thread that writes. It gathers requests into groups, makes each group durable with one commit, and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, broadcast, oneshot, watch};

use super::COMPACT_STEP_REVISIONS;
use super::leases::Deadlines;
use super::ledger::{Fault, Ledger, Slot};
use super::tail::Tail;
use crate::store::Clock;
use crate::store::audit;
use crate::store::error::{Error, Result};
use crate::store::limits::{LEASES_MAX, TXN_BYTES_MAX, Violation};
use crate::store::replicated::{Beside, Piece};
use crate::store::types::{Committed, Count, Event, LeaseId, Revision, Txn};

/// Most requests in one group.
const GROUP_REQUESTS_MAX: usize = 256;
/// Bytes after which a group takes no further request.
const GROUP_BYTES_MAX: usize = TXN_BYTES_MAX;
/// Most leases that lapse in one group.
const GROUP_LAPSES_MAX: usize = 64;
/// How long lapses wait after they could not be written.
const LAPSE_RETRY: Duration = Duration::from_secs(1);

pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// Something to write, and its share of the queue.
pub(super) struct Request {
    pub(super) op: Op,
    pub(super) permit: OwnedSemaphorePermit,
}

pub(super) enum Op {
    Commit(Txn, Reply<Committed>),
    Audit(audit::Record, Reply<u64>),
    Count(Vec<Count>, Reply<()>),
    Compact(Revision, Reply<Revision>),
    Grant(u64, Reply<LeaseId>),
    KeepAlive(LeaseId, Reply<Duration>),
    Revoke(LeaseId, Reply<()>),
    Lead(u64, Reply<()>),
    Take(Box<Piece>, Reply<()>),
    Wipe(Reply<()>),
}

impl Op {
    fn refuse(self, error: Error) {
        fn send<T>(reply: Reply<T>, error: Error) {
            // Whoever does not wait any more does not need an answer.
            let _ = reply.send(Err(error));
        }
        match self {
            Self::Commit(_, reply) => send(reply, error),
            Self::Audit(_, reply) => send(reply, error),
            Self::Count(_, reply) => send(reply, error),
            Self::Compact(_, reply) => send(reply, error),
            Self::Grant(_, reply) => send(reply, error),
            Self::KeepAlive(_, reply) => send(reply, error),
            Self::Revoke(_, reply) | Self::Lead(_, reply) | Self::Take(_, reply) | Self::Wipe(reply) => {
                send(reply, error);
            }
        }
    }
}

/// An answer that waits for the group to be durable; if that fails, for the error.
type Answer = Box<dyn FnOnce(Option<&Error>)>;

/// What a group comes to once it is durable.
struct Group {
    head: Revision,
    events: Vec<Event>,
    answers: Vec<Answer>,
    granted: Vec<(LeaseId, Duration)>,
    ended: Vec<LeaseId>,
    beside: Beside,
    /// Whether it is the first of those that lead.
    leads: bool,
}

/// Whom the writer tells of what is on disk.
pub(super) struct Told {
    pub(super) tail: Arc<Tail>,
    pub(super) head: watch::Sender<Revision>,
    pub(super) beside: broadcast::Sender<Arc<Beside>>,
    /// The number of the last thing beside revisions.
    pub(super) number: Arc<AtomicU64>,
}

impl Group {
    /// Keeps an answer back. A refusal is an answer; an engine's failure is the end of the group.
    fn answer<T: 'static>(&mut self, reply: Reply<T>, outcome: Result<T, Fault>) -> rusqlite::Result<()> {
        let (outcome, failure) = match outcome {
            Ok(answer) => (Ok(answer), Ok(())),
            Err(Fault::Refused(error)) => (Err(error), Ok(())),
            Err(Fault::Engine(failure)) => (Err(Error::Closed), Err(failure)),
        };
        self.answers.push(Box::new(move |failed| {
            let _ = reply.send(failed.map_or(outcome, |error| Err(error.clone())));
        }));
        failure
    }
}

pub(super) struct Writer<'c> {
    ledger: Ledger<'c>,
    requests: Receiver<Request>,
    told: Told,
    clock: Clock,
    /// Whether it takes what another wrote, and nothing else.
    follows: bool,
    deadlines: Deadlines,
    /// Lapses are not tried before.
    lapses_from: Instant,
    /// Why nothing may be written any more.
    broken: Option<Arc<str>>,
}

impl<'c> Writer<'c> {
    pub(super) fn new(
        ledger: Ledger<'c>,
        requests: Receiver<Request>,
        told: Told,
        clock: Clock,
        follows: bool,
    ) -> rusqlite::Result<Self> {
        let (now, deadlines) = (Instant::now(), Deadlines::default());
        told.head.send_replace(ledger.head()?.revision);
        let mut writer =
            Self { ledger, requests, told, clock, follows, deadlines, lapses_from: now, broken: None };
        if !follows {
            writer.start_leases()?;
        }
        Ok(writer)
    }

    /// Gives every lease its whole time. Those of a store that follows never lapse.
    fn start_leases(&mut self) -> rusqlite::Result<()> {
        let now = Instant::now();
        for (lease, ttl) in self.ledger.leases()? {
            self.deadlines.start(lease, ttl, now);
        }
        Ok(())
    }

    /// Works until nobody can ask for anything any more.
    pub(super) fn run(mut self) {
        while let Some(requests) = self.gather() {
            match self.broken.clone() {
                None => self.write(requests),
                Some(cause) => {
                    for request in requests {
                        request.op.refuse(Error::ReadOnly { cause: Arc::clone(&cause) });
                    }
                }
            }
        }
    }

    /// Waits for a request or a lapse, and takes whatever else has queued up. Lapses alone make an empty group.
    fn gather(&self) -> Option<Vec<Request>> {
        let first = match self.next_lapse() {
            None => Some(self.requests.recv().ok()?),
            Some(at) => match self.requests.recv_timeout(at.saturating_duration_since(Instant::now())) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut requests = Vec::from_iter(first);
        let mut bytes: usize = requests.iter().map(|request| request.permit.num_permits()).sum();
        while requests.len() < GROUP_REQUESTS_MAX
            && bytes < GROUP_BYTES_MAX
            && let Ok(request) = self.requests.try_recv()
        {
            bytes += request.permit.num_permits();
            requests.push(request);
        }
        Some(requests)
    }

    fn next_lapse(&self) -> Option<Instant> {
        let next = self.deadlines.next().filter(|_| self.broken.is_none())?;
        Some(next.max(self.lapses_from))
    }

    fn write(&mut self, requests: Vec<Request>) {
        // The requests' shares of the queue are given back only when the group is done.
        let (ops, _permits): (Vec<_>, Vec<_>) =
            requests.into_iter().map(|request| (request.op, request.permit)).unzip();
        let mut group = Group {
            head: *self.told.head.borrow(),
            events: Vec::new(),
            answers: Vec::with_capacity(ops.len()),
            granted: Vec::new(),
            ended: Vec::new(),
            beside: Beside::default(),
            leads: false,
        };
        let mut ops = ops.into_iter();
        let written = self
            .ledger
            .begin()
            .and_then(|()| ops.try_for_each(|op| self.perform(op, &mut group)))
            .and_then(|()| self.lapse(&mut group))
            .and_then(|()| self.ledger.commit_group());
        match written {
            Ok(()) => self.publish(group),
            Err(failure) => {
                let error = self.fail(failure);
                group.answers.into_iter().for_each(|answer| answer(Some(&error)));
                ops.for_each(|op| op.refuse(error.clone()));
            }
        }
    }

    fn perform(&mut self, op: Op, group: &mut Group) -> rusqlite::Result<()> {
        let follows = self.follows && !group.leads;
        match op {
            Op::Lead(epoch, reply) => {
                let outcome = if follows { self.ledger.begin_epoch(epoch) } else { Ok(()) };
                group.leads |= outcome.is_ok() && follows;
                group.answer(reply, outcome)
            }
            Op::Take(_, reply) | Op::Wipe(reply) if !follows => {
                let _ = reply.send(Err(Error::Leads));
                Ok(())
            }
            Op::Take(piece, reply) => {
                let outcome = self.take(*piece, group);
                group.answer(reply, outcome)
            }
            Op::Wipe(reply) => {
                let outcome = self.ledger.wipe();
                group.head = Revision::ZERO;
                group.answer(reply, outcome)
            }
            op if follows => {
                op.refuse(Error::Follows);
                Ok(())
            }
            op => self.write_own(op, group),
        }
    }

    /// Takes a piece, all of it or nothing.
    fn take(&mut self, piece: Piece, group: &mut Group) -> Result<(), Fault> {
        for event in self.ledger.take(piece, group.head)? {
            append(Some(event), group);
        }
        Ok(())
    }

    /// What a store does that is nobody's copy.
    fn write_own(&mut self, op: Op, group: &mut Group) -> rusqlite::Result<()> {
        match op {
            Op::Commit(txn, reply) => {
                let outcome = self.commit(&txn, group);
                group.answer(reply, outcome)
            }
            Op::Audit(record, reply) => {
                let outcome = self.ledger.append_audit(&record, None, self.now());
                group.beside.audited = true;
                group.answer(reply, outcome)
            }
            Op::Count(counts, reply) => {
                let outcome = self.ledger.keep_counts(&counts, self.now());
                group.beside.counts.extend(counts);
                group.answer(reply, outcome)
            }
            Op::Compact(keep_from, reply) => {
                let outcome = self.compact(keep_from);
                group.beside.oldest = outcome.as_ref().ok().copied().or(group.beside.oldest);
                group.answer(reply, outcome)
            }
            Op::Grant(ttl_ms, reply) => {
                let outcome = self.grant(ttl_ms, group);
                group.answer(reply, outcome)
            }
            Op::KeepAlive(lease, reply) => {
                let outcome = self.ledger.lease_ttl(lease);
                // Not undone if the group fails: that a holder is alive stays true.
                self.deadlines.renew(lease, Instant::now());
                group.answer(reply, outcome)
            }
            Op::Revoke(lease, reply) => {
                let outcome = self.end_lease(lease, "was revoked", group);
                group.answer(reply, outcome)
            }
            // Done before anybody comes here.
            Op::Lead(_, reply) | Op::Take(_, reply) | Op::Wipe(reply) => {
                let _ = reply.send(Err(Error::Leads));
                Ok(())
            }
        }
    }

    fn commit(&mut self, txn: &Txn, group: &mut Group) -> Result<Committed, Fault> {
        let made = self.ledger.commit(txn, self.slot(group))?;
        group.beside.audited |= txn.audit.is_some();
        Ok(match append(made, group) {
            true => Committed::New(group.head),
            false => Committed::Unchanged(group.head),
        })
    }

    /// One step of a compaction.
    fn compact(&self, keep_from: Revision) -> Result<Revision, Fault> {
        let head = self.ledger.head()?;
        if keep_from > head.revision {
            return if keep_from <= head.oldest {
                Ok(head.oldest)
            } else {
                Err(Error::Future { head: head.revision }.into())
            };
        }
        if keep_from <= head.oldest {
            return Ok(head.oldest);
        }
        let step = keep_from.min(Revision(head.oldest.0 + COMPACT_STEP_REVISIONS));
        self.ledger.compact(step)?;
        Ok(step)
    }

    fn grant(&self, ttl_ms: u64, group: &mut Group) -> Result<LeaseId, Fault> {
        if self.deadlines.len() + group.granted.len() >= LEASES_MAX {
            return Err(Violation::TooManyLeases.into());
        }
        let lease = self.ledger.add_lease(ttl_ms)?;
        group.granted.push((lease, Duration::from_millis(ttl_ms)));
        group.beside.began.push((lease, ttl_ms));
        Ok(lease)
    }

    fn end_lease(&mut self, lease: LeaseId, how: &str, group: &mut Group) -> Result<(), Fault> {
        let made = self.ledger.end_lease(lease, how, self.slot(group))?;
        append(made, group);
        group.ended.push(lease);
        group.beside.ended.push(lease);
        Ok(())
    }

    /// Ends the leases whose time is over. Those kept alive within this group are not among them.
    fn lapse(&mut self, group: &mut Group) -> rusqlite::Result<()> {
        let now = Instant::now();
        if now < self.lapses_from || self.follows {
            return Ok(());
        }
        for lease in self.deadlines.lapsed(now, GROUP_LAPSES_MAX) {
            match self.end_lease(lease, "lapsed", group) {
                Ok(()) => {}
                // Revoked within this group.
                Err(Fault::Refused(_)) => group.ended.push(lease),
                Err(Fault::Engine(failure)) => return Err(failure),
            }
        }
        Ok(())
    }

    fn slot(&self, group: &Group) -> Slot {
        Slot { revision: group.head.next(), at: self.now() }
    }

    fn now(&self) -> Timestamp {
        // Only a clock that is off by millennia cannot be written down.
        Timestamp::try_from((self.clock)()).unwrap_or_default()
    }

    /// Tells everybody about a group that is on disk.
    fn publish(&mut self, group: Group) {
        let now = Instant::now();
        group.granted.into_iter().for_each(|(lease, ttl)| self.deadlines.start(lease, ttl, now));
        group.ended.into_iter().for_each(|lease| self.deadlines.end(lease));
        let head = group.head;
        if head < *self.told.head.borrow() {
            // It was wiped.
            self.told.tail.clear();
        }
        group.events.into_iter().for_each(|event| self.told.tail.push(Arc::new(event)));
        // Watchers look into the tail once they hear of the head.
        self.told.head.send_replace(head);
        if !group.beside.is_nothing() {
            let number = self.told.number.fetch_add(1, Ordering::AcqRel) + 1;
            // Nobody may be there to hear it.
            let _ = self.told.beside.send(Arc::new(Beside { number, ..group.beside }));
        }
        if group.leads {
            self.follows = false;
            if let Err(failure) = self.start_leases() {
                tracing::error!(error = %failure, "leases do not lapse: the store cannot read them");
            }
        }
        group.answers.into_iter().for_each(|answer| answer(None));
    }

    /// Judges a failure of the engine. Without room, or when some other program holds the file, the store is as it was.
    /// After any other failure nobody knows what is on disk: a second attempt may seem to succeed and still be lost.
    fn fail(&mut self, failure: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull};
        let abandoned = self.ledger.abandon_group();
        let harmless = matches!(failure.sqlite_error_code(), Some(DiskFull | DatabaseBusy | DatabaseLocked));
        if !harmless || abandoned.is_err() {
            tracing::error!(error = %failure, "the store takes no more writes");
            self.broken = Some(failure.to_string().into());
        } else {
            tracing::warn!(error = %failure, "the store could not write");
        }
        self.lapses_from = Instant::now() + LAPSE_RETRY;
        failure.into()
    }
}

/// Adds a revision to the group, if one was made.
fn append(made: Option<Event>, group: &mut Group) -> bool {
    let Some(event) = made else { return false };
    group.head = event.revision;
    group.events.push(event);
    true
}
