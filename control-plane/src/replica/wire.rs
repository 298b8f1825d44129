//! Pieces of a store as messages, and back. What does not read is refused: the other end is as careful, or it is broken.

use std::str::FromStr as _;

use jiff::Timestamp;
use weft_proto::pb::weft::replica::v1 as pb;
use weft_proto::pb::weft::replica::v1::change::Change as PbChange;
use weft_proto::pb::weft::replica::v1::told::Says;

use crate::store::replicated::{Epoch, Piece, Position};
use crate::store::{Change, Count, Entry, Event, Head, Key, LeaseId, Revision, audit};

/// What of a message does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {0} of what was told does not read")]
pub struct Unreadable(&'static str);

impl Unreadable {
    pub(super) const fn new(what: &'static str) -> Self {
        Self(what)
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    Piece(Piece),
    BeginAnew,
    UpToDate,
    /// The other end is there.
    Life,
}

pub(super) fn position(position: &Position) -> pb::Position {
    pb::Position {
        epochs: position.epochs.iter().map(epoch).collect(),
        revision: position.head.revision.0,
        oldest: position.head.oldest.0,
        audited: position.audited,
        leased: position.leased,
    }
}

pub(super) fn read_position(position: pb::Position) -> Position {
    let head = Head { revision: Revision(position.revision), oldest: Revision(position.oldest) };
    let epochs = position.epochs.into_iter().map(read_epoch).collect();
    Position { epochs, head, audited: position.audited, leased: position.leased }
}

/// A piece as it travels.
pub(super) fn says(piece: Piece) -> Says {
    match piece {
        Piece::Base(entries) => Says::Base(pb::Base { entries: entries.into_iter().map(entry).collect() }),
        Piece::Epochs(epochs) => Says::Epochs(pb::Epochs { epochs: epochs.iter().map(epoch).collect() }),
        Piece::Events(events) => Says::Events(pb::Events { events: events.into_iter().map(event).collect() }),
        Piece::Oldest(oldest) => Says::Oldest(oldest.0),
        Piece::AllCounts { after, up_to, counts } => {
            let name = |key: Option<Key>| key.map(String::from).unwrap_or_default();
            let counts = counts.into_iter().map(count).collect();
            Says::AllCounts(pb::AllCounts { after: name(after), up_to: name(up_to), counts })
        }
        Piece::Counts(counts) => Says::Counts(pb::Counts { counts: counts.into_iter().map(count).collect() }),
        Piece::Audit(entries) => {
            Says::Audit(pb::Audit { records: entries.into_iter().map(record).collect() })
        }
        Piece::AllLeases { running, last } => {
            Says::AllLeases(pb::AllLeases { running: running.into_iter().map(lease).collect(), last })
        }
        Piece::Leases { began, ended } => Says::Leases(pb::Leases {
            began: began.into_iter().map(lease).collect(),
            ended: ended.into_iter().map(|lease| lease.0).collect(),
        }),
    }
}

/// What was told.
pub(super) fn read(says: Option<Says>) -> Result<Said, Unreadable> {
    let piece = match says {
        None => return Ok(Said::Life),
        Some(Says::BeginAnew(_)) => return Ok(Said::BeginAnew),
        Some(Says::UpToDate(_)) => return Ok(Said::UpToDate),
        Some(Says::Base(base)) => Piece::Base(all(base.entries, read_entry)?),
        Some(Says::Epochs(epochs)) => Piece::Epochs(epochs.epochs.into_iter().map(read_epoch).collect()),
        Some(Says::Events(events)) => Piece::Events(all(events.events, read_event)?),
        Some(Says::Oldest(oldest)) => Piece::Oldest(Revision(oldest)),
        Some(Says::AllCounts(pb::AllCounts { after, up_to, counts })) => {
            let name = |text: String| if text.is_empty() { Ok(None) } else { key(text).map(Some) };
            Piece::AllCounts { after: name(after)?, up_to: name(up_to)?, counts: all(counts, read_count)? }
        }
        Some(Says::Counts(counts)) => Piece::Counts(all(counts.counts, read_count)?),
        Some(Says::Audit(audit)) => Piece::Audit(all(audit.records, read_record)?),
        Some(Says::AllLeases(pb::AllLeases { running, last })) => {
            Piece::AllLeases { running: running.iter().map(read_lease).collect(), last }
        }
        Some(Says::Leases(pb::Leases { began, ended })) => Piece::Leases {
            began: began.iter().map(read_lease).collect(),
            ended: ended.into_iter().map(LeaseId).collect(),
        },
    };
    Ok(Said::Piece(piece))
}

fn all<T, U>(them: Vec<T>, read: impl Fn(T) -> Result<U, Unreadable>) -> Result<Vec<U>, Unreadable> {
    them.into_iter().map(read).collect()
}

fn key(text: String) -> Result<Key, Unreadable> {
    Key::new(text).map_err(|_| Unreadable("key"))
}

fn time(micros: i64) -> Result<Timestamp, Unreadable> {
    Timestamp::from_microsecond(micros).map_err(|_| Unreadable("time"))
}

const fn epoch(&Epoch { name, after, audited }: &Epoch) -> pb::Epoch {
    pb::Epoch { name, after: after.0, audited }
}

const fn read_epoch(pb::Epoch { name, after, audited }: pb::Epoch) -> Epoch {
    Epoch { name, after: Revision(after), audited }
}

fn entry(Entry { key, value, created, modified, lease }: Entry) -> pb::Entry {
    let lease = lease.map(|lease| lease.0);
    pb::Entry { key: key.into(), value, created: created.0, modified: modified.0, lease }
}

fn read_entry(
    pb::Entry { key: name, value, created, modified, lease }: pb::Entry,
) -> Result<Entry, Unreadable> {
    let (created, modified, lease) = (Revision(created), Revision(modified), lease.map(LeaseId));
    Ok(Entry { key: key(name)?, value, created, modified, lease })
}

fn event(Event { revision, at, author, reason, changes }: Event) -> pb::Event {
    let change = |change| match change {
        Change::Put(put) => PbChange::Put(entry(put)),
        Change::Delete(key) => PbChange::Delete(key.into()),
    };
    let changes = changes.into_iter().map(|it| pb::Change { change: Some(change(it)) }).collect();
    pb::Event { revision: revision.0, at_micros: at.as_microsecond(), author, reason, changes }
}

fn read_event(event: pb::Event) -> Result<Event, Unreadable> {
    let pb::Event { revision, at_micros, author, reason, changes } = event;
    let changes = all(changes, |change| match change.change {
        Some(PbChange::Put(put)) => read_entry(put).map(Change::Put),
        Some(PbChange::Delete(name)) => key(name).map(Change::Delete),
        None => Err(Unreadable("change")),
    })?;
    Ok(Event { revision: Revision(revision), at: time(at_micros)?, author, reason, changes })
}

fn count(Count { name, ends, milli }: Count) -> pb::Count {
    pb::Count { name: name.into(), ends, milli }
}

fn read_count(pb::Count { name, ends, milli }: pb::Count) -> Result<Count, Unreadable> {
    Ok(Count { name: key(name)?, ends, milli })
}

fn record(audit::Entry { sequence, at, revision, record }: audit::Entry) -> pb::Record {
    pb::Record {
        sequence,
        at_micros: at.as_microsecond(),
        revision: revision.map(|it| it.0),
        who: record.who,
        peer: record.from.map(|peer| peer.to_string()).unwrap_or_default(),
        action: record.action,
        object: record.object,
        outcome: record.outcome.name().to_owned(),
        reason: record.reason,
        details: record.details.to_string(),
    }
}

fn read_record(told: pb::Record) -> Result<audit::Entry, Unreadable> {
    let from = match told.peer.as_str() {
        "" => None,
        peer => Some(std::net::SocketAddr::from_str(peer).map_err(|_| Unreadable("peer"))?),
    };
    let record = audit::Record {
        who: told.who,
        from,
        action: told.action,
        object: told.object,
        outcome: audit::Outcome::find(&told.outcome).ok_or(Unreadable("outcome"))?,
        reason: told.reason,
        details: serde_json::from_str(&told.details).map_err(|_| Unreadable("details"))?,
    };
    let (at, revision) = (time(told.at_micros)?, told.revision.map(Revision));
    Ok(audit::Entry { sequence: told.sequence, at, revision, record })
}

const fn lease((LeaseId(lease), ttl_millis): (LeaseId, u64)) -> pb::Lease {
    pb::Lease { lease, ttl_millis }
}

const fn read_lease(&pb::Lease { lease, ttl_millis }: &pb::Lease) -> (LeaseId, u64) {
    (LeaseId(lease), ttl_millis)
}
