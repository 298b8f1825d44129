//! The questions that readers ask. Each is asked of one committed state.

use std::str::FromStr;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, Rows, params};

use super::schema::{At, Unsigned, integer};
use crate::store::audit;
use crate::store::error::{Error, Result};
use crate::store::limits::{self, BEYOND_KEYS, KEYS_SHOWN_MAX, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX};
use crate::store::replicated::{Epoch, Position};
use crate::store::types::{
    Change, Count, Diff, Entry, Event, Head, Key, LeaseId, Listing, Page, Prefix, Revision, RevisionDiff,
    RevisionInfo,
};

/// Most revisions that are read ahead for a watcher.
const EVENTS_MAX: usize = 256;
/// Bytes after which no further revision is read ahead for a watcher.
const EVENTS_BYTES_MAX: usize = 1024 * 1024;

pub(super) fn head(connection: &Connection) -> rusqlite::Result<Head> {
    let sql = "SELECT (SELECT max(revision) FROM revision), (SELECT min(revision) FROM revision)";
    connection.query_row(sql, (), |row| {
        let revision = row.get::<_, Option<_>>(0)?.unwrap_or(Revision::ZERO);
        Ok(Head { revision, oldest: row.get::<_, Option<_>>(1)?.unwrap_or(Revision(1)) })
    })
}

pub(super) fn entry(connection: &Connection, key: &Key) -> Result<Option<Entry>> {
    let sql = "SELECT entry.key, change.value, entry.created, entry.modified, entry.lease
               FROM entry JOIN change ON change.key = entry.key AND change.revision = entry.modified
               WHERE entry.key = ?";
    Ok(connection.query_row(sql, [key], entry_of).optional()?)
}

pub(super) fn list(
    connection: &Connection,
    prefix: &Prefix,
    at: Option<Revision>,
    page: &Page,
) -> Result<Listing> {
    let head = head(connection)?;
    let revision = at.unwrap_or(head.revision);
    check_state_known(head, revision)?;
    let (from, to) = range(prefix, page.after.as_ref());
    let (entries, more) = if revision == head.revision {
        let sql = "SELECT entry.key, change.value, entry.created, entry.modified, entry.lease
                   FROM entry JOIN change ON change.key = entry.key AND change.revision = entry.modified
                   WHERE entry.key >= ? AND entry.key < ? ORDER BY entry.key";
        let mut query = connection.prepare(sql)?;
        take(query.query([from, to])?, page.limit, entry_of, Entry::bytes)?
    } else {
        let sql = "SELECT key, value, created, revision, lease FROM change INDEXED BY change_by_key
                   WHERE key >= ?1 AND key < ?2 AND value IS NOT NULL AND revision =
                       (SELECT max(revision) FROM change AS last WHERE last.key = change.key AND revision <= ?3)
                   ORDER BY key";
        let mut query = connection.prepare(sql)?;
        take(query.query(params![from, to, revision])?, page.limit, entry_of, Entry::bytes)?
    };
    let next = if more { entries.last().map(|entry| entry.key.clone()) } else { None };
    Ok(Listing { revision, entries, next })
}

pub(super) fn history(
    connection: &Connection,
    prefix: &Prefix,
    before: Option<Revision>,
    limit: usize,
) -> Result<Vec<RevisionInfo>> {
    let (from, to) = range(prefix, None);
    let sql = "SELECT revision, at_us, author, reason, changes FROM revision
               WHERE revision < ?1 AND EXISTS (
                   SELECT 1 FROM change INDEXED BY change_by_revision
                   WHERE change.revision = revision.revision AND key >= ?2 AND key < ?3)
               ORDER BY revision DESC";
    let mut query = connection.prepare(sql)?;
    let rows = query.query(params![before.unwrap_or(Revision(u64::MAX)), from, to])?;
    let (mut revisions, _) = take(rows, limit, info_of, |_| 0)?;

    let sql = "SELECT key FROM change INDEXED BY change_by_revision
               WHERE revision = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?";
    let mut query = connection.prepare(sql)?;
    for info in &mut revisions {
        let keys = query.query_map(params![info.revision, from, to, KEYS_SHOWN_MAX as i64], |row| row.get(0));
        info.keys = keys?.collect::<rusqlite::Result<_>>()?;
    }
    Ok(revisions)
}

pub(super) fn revision(connection: &Connection, revision: Revision, page: &Page) -> Result<RevisionDiff> {
    let head = head(connection)?;
    if revision < head.oldest {
        return Err(Error::Compacted { oldest: head.oldest });
    }
    let sql = "SELECT revision, at_us, author, reason, changes FROM revision WHERE revision = ?";
    let info = connection.query_row(sql, [revision], info_of).optional()?;
    let mut info = info.ok_or(Error::Future { head: head.revision })?;
    let sql = "SELECT key FROM change WHERE revision = ? ORDER BY key LIMIT ?";
    info.keys = connection
        .prepare(sql)?
        .query_map(params![revision, KEYS_SHOWN_MAX as i64], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;

    let sql = "SELECT after.key, after.value, after.created, after.revision, after.lease,
                      before.key, before.value, before.created, before.revision, before.lease
               FROM change AS after INDEXED BY change_by_revision
               LEFT JOIN change AS before ON before.key = after.key AND before.revision = after.previous
               WHERE after.revision = ? AND after.key >= ? AND after.key < ? ORDER BY after.key";
    let (from, to) = range(&Prefix::all(), page.after.as_ref());
    let mut query = connection.prepare(sql)?;
    let rows = query.query(params![revision, from, to])?;
    let weigh = |diff: &Diff| [&diff.before, &diff.after].into_iter().flatten().map(Entry::bytes).sum();
    let (diffs, more) = take(rows, page.limit, diff_of, weigh)?;
    let next = if more { diffs.last().map(|diff| diff.key.clone()) } else { None };
    Ok(RevisionDiff { info, diffs, next })
}

/// What a watcher has to be told next.
pub(super) struct Replay {
    pub(super) events: Vec<Event>,
    /// Everything up to here has been told then.
    pub(super) up_to: Revision,
}

pub(super) fn replay(connection: &Connection, prefix: &Prefix, after: Revision) -> Result<Replay> {
    let head = head(connection)?;
    check_state_known(head, after)?;
    let sql = "SELECT change.key, value, created, change.revision, lease, at_us, author, reason
               FROM change INDEXED BY change_by_revision
               JOIN revision ON revision.revision = change.revision
               WHERE change.revision > ? AND key >= ? AND key < ? ORDER BY change.revision, key";
    let (from, to) = range(prefix, None);
    let mut query = connection.prepare(sql)?;
    let mut rows = query.query(params![after, from, to])?;
    let (mut events, mut bytes) = (Vec::<Event>::new(), 0);
    while let Some(row) = rows.next()? {
        let revision = row.get(3)?;
        let change = change_of(row)?;
        if let Some(event) = events.last_mut().filter(|event| event.revision == revision) {
            bytes += change.bytes();
            event.changes.push(change);
            continue;
        }
        if events.len() == EVENTS_MAX || bytes >= EVENTS_BYTES_MAX {
            let up_to = events.last().map_or(after, |event| event.revision);
            return Ok(Replay { events, up_to });
        }
        bytes += change.bytes();
        let (At(at), author, reason) = (row.get(5)?, row.get(6)?, row.get(7)?);
        events.push(Event { revision, at, author, reason, changes: vec![change] });
    }
    Ok(Replay { events, up_to: head.revision })
}

pub(super) fn audit(connection: &Connection, filter: &audit::Filter) -> Result<Vec<audit::Entry>> {
    let whose = if filter.who.is_some() { "who = ?1" } else { "?1 IS NULL" };
    let sql = format!(
        "SELECT sequence, at_us, revision, who, peer, action, object, outcome, reason, details FROM audit
         WHERE {whose} AND sequence < ?2 AND at_us >= ?3 AND at_us < ?4 ORDER BY sequence DESC"
    );
    let mut query = connection.prepare(&sql)?;
    let rows = query.query(params![
        filter.who,
        integer(filter.before.unwrap_or(u64::MAX)),
        filter.since.map_or(i64::MIN, |since| since.as_microsecond()),
        filter.until.map_or(i64::MAX, |until| until.as_microsecond()),
    ])?;
    Ok(take(rows, filter.limit, audit_of, |_| 0)?.0)
}

pub(super) fn counts(connection: &Connection, after: Option<&Key>) -> Result<Vec<Count>> {
    let mut query =
        connection.prepare("SELECT name, ends, milli FROM count WHERE name > ? ORDER BY name LIMIT ?")?;
    let count_of = |row: &Row<'_>| {
        let Unsigned(milli) = row.get(2)?;
        Ok(Count { name: row.get(0)?, ends: row.get(1)?, milli })
    };
    let after = after.map_or("", Key::as_str);
    let rows = query.query_map(params![after, integer(PAGE_ENTRIES_MAX as u64)], count_of)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn position(connection: &Connection) -> rusqlite::Result<Position> {
    let sql = "SELECT name, after_revision, after_audit FROM epoch ORDER BY number";
    let mut query = connection.prepare(sql)?;
    let epochs = query.query_map((), |row| {
        let (name, Unsigned(audited)) = (row.get::<_, i64>(0)?.cast_unsigned(), row.get(2)?);
        Ok(Epoch { name, after: row.get(1)?, audited })
    });
    Ok(Position {
        epochs: epochs?.collect::<rusqlite::Result<_>>()?,
        head: head(connection)?,
        audited: last_number(connection, "audit")?,
        leased: last_number(connection, "lease")?,
    })
}

/// The last number that was given to a row of a table, which may be gone.
pub(super) fn last_number(connection: &Connection, table: &str) -> rusqlite::Result<u64> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = ?";
    let found: Option<Unsigned> = connection.query_row(sql, [table], |row| row.get(0)).optional()?;
    Ok(found.map_or(0, |it| it.0))
}

/// Audit records after one, the oldest first.
pub(super) fn audited_after(connection: &Connection, sequence: u64) -> Result<Vec<audit::Entry>> {
    let sql =
        "SELECT sequence, at_us, revision, who, peer, action, object, outcome, reason, details FROM audit
               WHERE sequence > ? ORDER BY sequence";
    let mut query = connection.prepare(sql)?;
    let rows = query.query([integer(sequence)])?;
    Ok(take(rows, PAGE_ENTRIES_MAX, audit_of, |_| 0)?.0)
}

/// All leases that run, with the milliseconds that they run for.
pub(super) fn leases(connection: &Connection) -> Result<Vec<(LeaseId, u64)>> {
    let mut query = connection.prepare("SELECT lease, ttl_ms FROM lease ORDER BY lease")?;
    let rows = query.query_map((), |row| Ok((row.get(0)?, row.get::<_, Unsigned>(1)?.0)));
    Ok(rows?.collect::<rusqlite::Result<_>>()?)
}

/// The state at a revision can be told if the revision has been made, and nothing since has been forgotten.
pub(super) fn check_state_known(head: Head, revision: Revision) -> Result<()> {
    if revision > head.revision {
        Err(Error::Future { head: head.revision })
    } else if revision.next() < head.oldest {
        Err(Error::Compacted { oldest: head.oldest })
    } else {
        Ok(())
    }
}

/// The first key of a range, and the first one behind it. No key contains the characters that the two end with.
pub(super) fn range(prefix: &Prefix, after: Option<&Key>) -> (String, String) {
    let behind = after.map(|key| format!("{}\u{1}", key.as_str())).unwrap_or_default();
    (behind.max(prefix.as_str().to_owned()), format!("{}{BEYOND_KEYS}", prefix.as_str()))
}

/// Takes as many rows as fit into one answer, and tells whether there are more.
fn take<T>(
    mut rows: Rows<'_>,
    limit: usize,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    weigh: impl Fn(&T) -> usize,
) -> rusqlite::Result<(Vec<T>, bool)> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        if taken.len() >= limit.clamp(1, PAGE_ENTRIES_MAX) || bytes >= PAGE_BYTES_MAX {
            return Ok((taken, true));
        }
        let item = read(row)?;
        bytes += weigh(&item);
        taken.push(item);
    }
    Ok((taken, false))
}

fn entry_of(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        value: Bytes::from(row.get::<_, Vec<u8>>(1)?),
        created: row.get(2)?,
        modified: row.get(3)?,
        lease: row.get(4)?,
    })
}

fn change_of(row: &Row<'_>) -> rusqlite::Result<Change> {
    match row.get::<_, Option<Vec<u8>>>(1)? {
        None => Ok(Change::Delete(row.get(0)?)),
        Some(value) => Ok(Change::Put(Entry {
            key: row.get(0)?,
            value: value.into(),
            created: row.get(2)?,
            modified: row.get(3)?,
            lease: row.get(4)?,
        })),
    }
}

fn diff_of(row: &Row<'_>) -> rusqlite::Result<Diff> {
    let side = |first: usize| {
        let value: Option<Vec<u8>> = row.get(first + 1)?;
        let Some(value) = value else { return Ok(None) };
        Ok::<_, rusqlite::Error>(Some(Entry {
            key: row.get(first)?,
            value: value.into(),
            created: row.get(first + 2)?,
            modified: row.get(first + 3)?,
            lease: row.get(first + 4)?,
        }))
    };
    Ok(Diff { key: row.get(0)?, before: side(5)?, after: side(0)? })
}

fn info_of(row: &Row<'_>) -> rusqlite::Result<RevisionInfo> {
    Ok(RevisionInfo {
        revision: row.get(0)?,
        at: row.get::<_, At>(1)?.0,
        author: row.get(2)?,
        reason: row.get(3)?,
        changes: usize::try_from(row.get::<_, Unsigned>(4)?.0).unwrap_or(limits::TXN_WRITES_MAX),
        keys: Vec::new(),
    })
}

fn audit_of(row: &Row<'_>) -> rusqlite::Result<audit::Entry> {
    let parsed = |column: usize, value: Option<_>| {
        let kind = rusqlite::types::Type::Text;
        value.ok_or_else(|| rusqlite::Error::InvalidColumnType(column, "audit".to_owned(), kind))
    };
    let peer: Option<String> = row.get(4)?;
    let details: String = row.get(9)?;
    Ok(audit::Entry {
        sequence: row.get::<_, Unsigned>(0)?.0,
        at: row.get::<_, At>(1)?.0,
        revision: row.get(2)?,
        record: audit::Record {
            who: row.get(3)?,
            from: peer.and_then(|peer| FromStr::from_str(&peer).ok()),
            action: row.get(5)?,
            object: row.get(6)?,
            outcome: parsed(7, audit::Outcome::find(&row.get::<_, String>(7)?))?,
            reason: row.get(8)?,
            details: serde_json::from_str(&details).unwrap_or(serde_json::Value::String(details)),
        },
    })
}
