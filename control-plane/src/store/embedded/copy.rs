//! The tables of a store that follows another: what it is told is written down as it is.

use rusqlite::params;

use super::ledger::{Fault, Ledger};
use super::query;
use super::schema::{At, integer, signed};
use crate::store::audit;
use crate::store::error::Error;
use crate::store::replicated::{EPOCHS_MAX, Epoch, Piece, Position};
use crate::store::types::{Change, Count, Entry, Event, Key, LeaseId, Revision};

type Result<T, E = Fault> = std::result::Result<T, E>;

impl Ledger<'_> {
    pub(super) fn position(&self) -> Result<Position> {
        Ok(query::position(self.connection)?)
    }

    /// Begins an epoch.
    pub(super) fn begin_epoch(&self, name: u64) -> Result<()> {
        let Position { head, audited, .. } = self.position()?;
        self.add_epoch(Epoch { name, after: head.revision, audited })?;
        let sql = "DELETE FROM epoch WHERE number <= (SELECT max(number) FROM epoch) - ?";
        self.connection.execute(sql, [integer(EPOCHS_MAX as u64)])?;
        Ok(())
    }

    fn add_epoch(&self, Epoch { name, after, audited }: Epoch) -> rusqlite::Result<()> {
        let sql = "INSERT INTO epoch (name, after_revision, after_audit) VALUES (?, ?, ?)";
        self.connection.execute(sql, params![signed(name), after, integer(audited)]).map(drop)
    }

    /// Takes a piece whose revisions come after `head`, and answers with what watchers are told of it.
    pub(super) fn take(&mut self, piece: Piece, head: Revision) -> Result<Vec<Event>> {
        match piece {
            Piece::Base(entries) => self.take_base(&entries, head)?,
            Piece::Epochs(epochs) => {
                self.connection.execute("DELETE FROM epoch", ())?;
                let newest = epochs.len().saturating_sub(EPOCHS_MAX);
                epochs.into_iter().skip(newest).try_for_each(|epoch| self.add_epoch(epoch))?;
            }
            Piece::Events(events) => return self.take_events(events, head),
            // No further than there are revisions: the rest is forgotten when it is told again.
            Piece::Oldest(oldest) => self.compact(oldest.min(head))?,
            Piece::AllCounts { after, up_to, counts } => self.take_all_counts(after, up_to, &counts)?,
            Piece::Counts(counts) => self.set_counts(&counts)?,
            Piece::Audit(entries) => self.take_audit(&entries)?,
            Piece::AllLeases { running, last } => self.take_all_leases(&running, last)?,
            Piece::Leases { began, ended } => self.take_leases(&began, &ended)?,
        }
        Ok(Vec::new())
    }

    fn take_base(&mut self, entries: &[Entry], head: Revision) -> Result<()> {
        if head != Revision::ZERO {
            return Err(Error::OutOfOrder { head }.into());
        }
        for entry in entries {
            let Entry { key, value, created, modified, lease } = entry;
            let nothing = Revision::ZERO;
            self.add_change.execute(params![modified, key, nothing, created, lease, value.as_ref()])?;
            self.set_entry.execute(params![key, created, modified, lease])?;
        }
        Ok(())
    }

    fn take_events(&mut self, events: Vec<Event>, mut head: Revision) -> Result<Vec<Event>> {
        // The first revision of a copy is the oldest that the leader had; from then on there are no gaps. All is judged
        // before anything is written.
        let mut last = head;
        for event in &events {
            let is_next = event.revision == last.next() || (last == Revision::ZERO && event.revision > last);
            if !is_next || event.changes.is_empty() {
                return Err(Error::OutOfOrder { head }.into());
            }
            last = event.revision;
        }
        for event in &events {
            head = event.revision;
            let count = integer(event.changes.len() as u64);
            self.add_revision.execute(params![head, At(event.at), event.author, event.reason, count])?;
            for change in &event.changes {
                self.take_change(change, head)?;
            }
        }
        Ok(events)
    }

    fn take_change(&mut self, change: &Change, revision: Revision) -> Result<()> {
        let found = self.find(change.key())?;
        let previous = found.as_ref().map_or(Revision::ZERO, |found| found.modified);
        match change {
            Change::Put(Entry { key, value, created, lease, .. }) => {
                self.add_change.execute(params![revision, key, previous, created, lease, value.as_ref()])?;
                self.set_entry.execute(params![key, created, revision, lease])?;
            }
            Change::Delete(key) => {
                let (created, nothing) =
                    (found.map_or(revision, |found| found.created), rusqlite::types::Null);
                self.add_change.execute(params![revision, key, previous, created, nothing, nothing])?;
                self.drop_entry.execute([key])?;
            }
        }
        Ok(())
    }

    fn take_all_counts(&mut self, after: Option<Key>, up_to: Option<Key>, counts: &[Count]) -> Result<()> {
        let after = after.as_ref().map_or("", Key::as_str);
        match up_to {
            Some(up_to) => self
                .connection
                .execute("DELETE FROM count WHERE name > ? AND name <= ?", params![after, up_to])?,
            None => self.connection.execute("DELETE FROM count WHERE name > ?", [after])?,
        };
        self.set_counts(counts)
    }

    fn take_audit(&mut self, entries: &[audit::Entry]) -> Result<()> {
        let mut known = query::last_number(self.connection, "audit")?;
        for audit::Entry { sequence, at, revision, record } in entries {
            if *sequence > known {
                known = self.write_audit(Some(*sequence), record, *revision, *at)?;
            }
        }
        Ok(())
    }

    fn take_all_leases(&self, running: &[(LeaseId, u64)], last: u64) -> Result<()> {
        // Set by a row that is deleted at once, the number is never given again.
        self.connection.execute("DELETE FROM lease", ())?;
        if last > query::last_number(self.connection, "lease")? {
            self.connection.execute("INSERT INTO lease VALUES (?, 0)", [integer(last)])?;
            self.connection.execute("DELETE FROM lease", ())?;
        }
        self.take_leases(running, &[])
    }

    fn take_leases(&self, began: &[(LeaseId, u64)], ended: &[LeaseId]) -> Result<()> {
        for (lease, ttl_ms) in began {
            let sql = "INSERT OR REPLACE INTO lease VALUES (?, ?)";
            self.connection.execute(sql, params![lease, integer(*ttl_ms)])?;
        }
        for lease in ended {
            self.connection.execute("DELETE FROM lease WHERE lease = ?", [lease])?;
        }
        Ok(())
    }

    /// Forgets everything.
    pub(super) fn wipe(&self) -> Result<()> {
        for table in ["revision", "change", "entry", "lease", "audit", "count", "epoch"] {
            self.connection.execute(&format!("DELETE FROM {table}"), ())?;
        }
        self.connection.execute("DELETE FROM sqlite_sequence", ())?;
        Ok(())
    }
}
