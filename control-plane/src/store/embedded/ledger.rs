//! The tables as the writer sees them: judging a transaction, then writing it down. Nothing is written before everything
//! is judged, so that a refusal leaves no trace; if the engine fails, the whole group of transactions is given up.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::query::{check_state_known, head, range};
use super::schema::{At, Unsigned, integer};
use crate::store::audit;
use crate::store::error::Error;
use crate::store::limits::{COUNT_KEPT_AFTER_SECS, LEASE_KEYS_MAX, Violation};
use crate::store::types::{
    Change, Count, Entry, Event, Expect, Head, Key, LeaseId, Revision, Txn, UnchangedSince, Write,
};

/// How often sums are forgotten whose windows are long over.
const COUNTS_DROPPED_EVERY_SECS: i64 = 3600;
/// The author of the revisions that leases make.
const LEASE_AUTHOR: &str = "lease";

/// Why something was not written.
pub(super) enum Fault {
    /// It must not be: the caller's affair.
    Refused(Error),
    /// It could not be: the affair of everybody in the group.
    Engine(rusqlite::Error),
}

impl From<Error> for Fault {
    fn from(refusal: Error) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Violation> for Fault {
    fn from(violation: Violation) -> Self {
        Self::Refused(violation.into())
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(error)
    }
}

type Result<T, E = Fault> = std::result::Result<T, E>;

/// The place that a transaction would take in the log.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) revision: Revision,
    pub(super) at: Timestamp,
}

/// A key's row in `entry`.
pub(super) struct Found {
    pub(super) created: Revision,
    pub(super) modified: Revision,
    lease: Option<LeaseId>,
}

/// A write that makes a difference.
struct Planned<'t> {
    write: &'t Write,
    created: Revision,
    /// What it replaces; zero if the key is absent.
    previous: Revision,
}

/// The statements that every transaction needs, prepared once.
pub(super) struct Ledger<'c> {
    pub(super) connection: &'c Connection,
    pub(super) audit_records_max: u64,
    find: Statement<'c>,
    has_value: Statement<'c>,
    pub(super) add_revision: Statement<'c>,
    pub(super) add_change: Statement<'c>,
    pub(super) set_entry: Statement<'c>,
    pub(super) drop_entry: Statement<'c>,
    find_lease: Statement<'c>,
    add_audit: Statement<'c>,
    drop_audit: Statement<'c>,
    set_count: Statement<'c>,
    drop_counts: Statement<'c>,
    /// When sums were forgotten last, in seconds since 1970.
    counts_dropped: i64,
}

impl<'c> Ledger<'c> {
    pub(super) fn prepare(connection: &'c Connection, audit_records_max: u64) -> rusqlite::Result<Self> {
        Ok(Self {
            connection,
            audit_records_max,
            find: connection.prepare("SELECT created, modified, lease FROM entry WHERE key = ?")?,
            has_value: connection
                .prepare("SELECT value = ?3 FROM change WHERE key = ?1 AND revision = ?2")?,
            add_revision: connection.prepare("INSERT INTO revision VALUES (?, ?, ?, ?, ?)")?,
            add_change: connection.prepare(
                "INSERT INTO change (revision, key, previous, created, lease, value) VALUES (?, ?, ?, ?, ?, ?)",
            )?,
            set_entry: connection.prepare("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?)")?,
            drop_entry: connection.prepare("DELETE FROM entry WHERE key = ?")?,
            find_lease: connection.prepare("SELECT ttl_ms FROM lease WHERE lease = ?")?,
            add_audit: connection.prepare("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?,
            drop_audit: connection.prepare("DELETE FROM audit WHERE sequence <= ?")?,
            set_count: connection.prepare("INSERT OR REPLACE INTO count VALUES (?, ?, ?)")?,
            drop_counts: connection.prepare("DELETE FROM count WHERE ends <= ?")?,
            counts_dropped: i64::MIN,
        })
    }

    /// Starts a group.
    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    /// Ends a group: once this returns, it is on disk.
    pub(super) fn commit_group(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("COMMIT")
    }

    /// Gives a group up.
    pub(super) fn abandon_group(&self) -> rusqlite::Result<()> {
        // Some failures have ended the transaction already.
        if self.connection.is_autocommit() { Ok(()) } else { self.connection.execute_batch("ROLLBACK") }
    }

    pub(super) fn head(&self) -> rusqlite::Result<Head> {
        head(self.connection)
    }

    /// Writes a transaction into a slot of the log, unless it is refused or changes nothing.
    pub(super) fn commit(&mut self, txn: &Txn, slot: Slot) -> Result<Option<Event>> {
        if let Some(guard) = &txn.guard {
            self.check_unchanged(guard)?;
        }
        for (key, expected) in &txn.conditions {
            self.check_condition(key, *expected)?;
        }
        let planned = self.plan(&txn.writes, slot)?;
        let revision = (!planned.is_empty()).then_some(slot.revision);
        if let Some(record) = &txn.audit {
            self.append_audit(record, revision, slot.at)?;
        }
        if planned.is_empty() {
            return Ok(None);
        }
        let count = integer(planned.len() as u64);
        self.add_revision.execute(params![slot.revision, At(slot.at), txn.author, txn.reason, count])?;
        let changes =
            planned.iter().map(|planned| self.write(planned, slot.revision)).collect::<Result<_, _>>()?;
        let (author, reason) = (txn.author.clone(), txn.reason.clone());
        Ok(Some(Event { revision: slot.revision, at: slot.at, author, reason, changes }))
    }

    fn check_unchanged(&self, guard: &UnchangedSince) -> Result<()> {
        check_state_known(self.head()?, guard.since)?;
        let (from, to) = range(&guard.prefix, None);
        let sql = "SELECT revision FROM change INDEXED BY change_by_revision
                   WHERE revision > ? AND key >= ? AND key < ? ORDER BY revision DESC LIMIT 1";
        let last = self.connection.query_row(sql, params![guard.since, from, to], |row| row.get(0));
        match last.optional()? {
            None => Ok(()),
            Some(found) => {
                Err(Error::Moved { prefix: guard.prefix.clone(), since: guard.since, found }.into())
            }
        }
    }

    fn check_condition(&mut self, key: &Key, expected: Expect) -> Result<()> {
        let found = self.find(key)?.map(|found| found.modified);
        if expected.holds(found) {
            return Ok(());
        }
        Err(Error::Conflict { key: key.clone(), expected, found }.into())
    }

    /// The writes that make a difference, in key order.
    fn plan<'t>(&mut self, writes: &'t [Write], slot: Slot) -> Result<Vec<Planned<'t>>> {
        let mut attached = BTreeMap::<LeaseId, usize>::new();
        let mut planned = Vec::with_capacity(writes.len());
        for write in writes {
            let found = self.find(write.key())?;
            if let Write::Put { lease: Some(lease), .. } = write {
                let newly = found.as_ref().is_none_or(|found| found.lease != Some(*lease));
                *attached.entry(*lease).or_default() += usize::from(newly);
            }
            if self.makes_no_difference(write, found.as_ref())? {
                continue;
            }
            let created = found.as_ref().map_or(slot.revision, |found| found.created);
            let previous = found.map_or(Revision::ZERO, |found| found.modified);
            planned.push(Planned { write, created, previous });
        }
        for (lease, keys) in attached {
            self.check_attachable(lease, keys)?;
        }
        planned.sort_unstable_by_key(|planned| planned.write.key());
        Ok(planned)
    }

    fn makes_no_difference(&mut self, write: &Write, found: Option<&Found>) -> Result<bool> {
        match (write, found) {
            (Write::Delete { .. }, found) => Ok(found.is_none()),
            (Write::Put { .. }, None) => Ok(false),
            (Write::Put { key, value, lease }, Some(found)) if found.lease == *lease => {
                let parameters = params![key, found.modified, value.as_ref()];
                Ok(self.has_value.query_row(parameters, |row| row.get(0))?)
            }
            (Write::Put { .. }, Some(_)) => Ok(false),
        }
    }

    fn check_attachable(&mut self, lease: LeaseId, keys: usize) -> Result<()> {
        self.lease_ttl(lease)?;
        let sql = "SELECT count(*) FROM entry WHERE lease = ?";
        let attached: i64 = self.connection.query_row(sql, [lease], |row| row.get(0))?;
        match keys + usize::try_from(attached).unwrap_or(LEASE_KEYS_MAX) {
            keys if keys > LEASE_KEYS_MAX => Err(Violation::TooManyLeaseKeys { lease, keys }.into()),
            _ => Ok(()),
        }
    }

    fn write(&mut self, planned: &Planned<'_>, revision: Revision) -> rusqlite::Result<Change> {
        let Planned { write, created, previous } = *planned;
        match write {
            Write::Put { key, value, lease } => {
                self.add_change.execute(params![revision, key, previous, created, lease, value.as_ref()])?;
                self.set_entry.execute(params![key, created, revision, lease])?;
                let (key, value, lease) = (key.clone(), value.clone(), *lease);
                Ok(Change::Put(Entry { key, value, created, modified: revision, lease }))
            }
            Write::Delete { key } => {
                let nothing = rusqlite::types::Null;
                self.add_change.execute(params![revision, key, previous, created, nothing, nothing])?;
                self.drop_entry.execute([key])?;
                Ok(Change::Delete(key.clone()))
            }
        }
    }

    pub(super) fn find(&mut self, key: &Key) -> rusqlite::Result<Option<Found>> {
        let found = self.find.query_row([key], |row| {
            Ok(Found { created: row.get(0)?, modified: row.get(1)?, lease: row.get(2)? })
        });
        found.optional()
    }

    pub(super) fn keep_counts(&mut self, counts: &[Count], at: Timestamp) -> Result<(), Fault> {
        self.set_counts(counts)?;
        // Which reads all of them, so not each time.
        if at.as_second() >= self.counts_dropped.saturating_add(COUNTS_DROPPED_EVERY_SECS) {
            self.counts_dropped = at.as_second();
            self.drop_counts.execute([at.as_second().saturating_sub(COUNT_KEPT_AFTER_SECS)])?;
        }
        Ok(())
    }

    pub(super) fn set_counts(&mut self, counts: &[Count]) -> Result<(), Fault> {
        for count in counts {
            self.set_count.execute(params![count.name, count.ends, integer(count.milli)])?;
        }
        Ok(())
    }

    pub(super) fn append_audit(
        &mut self,
        record: &audit::Record,
        revision: Option<Revision>,
        at: Timestamp,
    ) -> Result<u64> {
        self.write_audit(None, record, revision, at)
    }

    /// Writes a record under its number, or under the next one if it has none.
    pub(super) fn write_audit(
        &mut self,
        sequence: Option<u64>,
        record: &audit::Record,
        revision: Option<Revision>,
        at: Timestamp,
    ) -> Result<u64> {
        self.add_audit.execute(params![
            sequence.map(integer),
            At(at),
            revision,
            record.who,
            record.from.map(|peer| peer.to_string()),
            record.action,
            record.object,
            record.outcome.name(),
            record.reason,
            record.details.to_string(),
        ])?;
        let sequence = self.connection.last_insert_rowid().unsigned_abs();
        self.drop_audit.execute([integer(sequence.saturating_sub(self.audit_records_max))])?;
        Ok(sequence)
    }

    pub(super) fn add_lease(&self, ttl_ms: u64) -> Result<LeaseId> {
        self.connection.execute("INSERT INTO lease (ttl_ms) VALUES (?)", [integer(ttl_ms)])?;
        Ok(LeaseId(self.connection.last_insert_rowid().unsigned_abs()))
    }

    pub(super) fn lease_ttl(&mut self, lease: LeaseId) -> Result<Duration> {
        let ttl_ms: Option<Unsigned> = self.find_lease.query_row([lease], |row| row.get(0)).optional()?;
        ttl_ms.map(|ttl_ms| Duration::from_millis(ttl_ms.0)).ok_or(Fault::Refused(Error::NoLease { lease }))
    }

    pub(super) fn leases(&self) -> rusqlite::Result<Vec<(LeaseId, Duration)>> {
        let mut query = self.connection.prepare("SELECT lease, ttl_ms FROM lease")?;
        let rows =
            query.query_map((), |row| Ok((row.get(0)?, Duration::from_millis(row.get::<_, Unsigned>(1)?.0))));
        rows?.collect()
    }

    /// Ends a lease and deletes its keys.
    pub(super) fn end_lease(&mut self, lease: LeaseId, how: &str, slot: Slot) -> Result<Option<Event>> {
        self.lease_ttl(lease)?;
        let mut query = self.connection.prepare("SELECT key FROM entry WHERE lease = ?")?;
        let writes = query.query_map([lease], |row| Ok(Write::Delete { key: row.get(0)? }))?;
        let writes = writes.collect::<rusqlite::Result<_>>()?;
        let event =
            self.commit(&Txn { writes, ..Txn::new(LEASE_AUTHOR, format!("lease {lease} {how}")) }, slot)?;
        self.connection.execute("DELETE FROM lease WHERE lease = ?", [lease])?;
        Ok(event)
    }

    /// Forgets the revisions before one, but not the changes that the state just before it consists of: it is what that
    /// revision is compared with. Revisions before it that an earlier compaction left are the only ones looked at.
    pub(super) fn compact(&self, keep_from: Revision) -> Result<()> {
        let superseded = "DELETE FROM change WHERE id IN (
            SELECT replaced.id FROM change AS later INDEXED BY change_by_revision
            JOIN change AS replaced ON replaced.key = later.key AND replaced.revision = later.previous
            WHERE later.revision >= (SELECT min(revision) FROM revision) AND later.revision < ?)";
        let deletions = "DELETE FROM change INDEXED BY change_by_revision
            WHERE value IS NULL AND revision >= (SELECT min(revision) FROM revision) AND revision < ?";
        for sql in [superseded, deletions, "DELETE FROM revision WHERE revision < ?"] {
            self.connection.execute(sql, [keep_from])?;
        }
        Ok(())
    }
}
