//! The tables, and how values look in them.

use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::store::types::{Key, LeaseId, Revision};

/// Marks the file as ours: "WEFT".
pub(super) const APPLICATION_ID: i64 = 0x5745_4654;
/// The version of the tables below.
pub(super) const VERSION: i64 = 1;

/// `change` is the log, and the only place where values are kept. A value is NULL where a key was deleted. `previous` is
/// the revision of the change that it replaced, or 0 if the key was absent. Compaction removes what `revision` forgets,
/// except for the changes that the state just before the oldest revision consists of.
///
/// `entry` is the present state: an index into the log.
pub(super) const TABLES: &str = "
    CREATE TABLE revision (
        revision INTEGER PRIMARY KEY,
        at_us    INTEGER NOT NULL,
        author   TEXT    NOT NULL,
        reason   TEXT    NOT NULL,
        changes  INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE change (
        id       INTEGER PRIMARY KEY,
        revision INTEGER NOT NULL,
        key      TEXT    NOT NULL,
        previous INTEGER NOT NULL,
        created  INTEGER NOT NULL,
        lease    INTEGER,
        value    BLOB
    ) STRICT;
    CREATE UNIQUE INDEX change_by_revision ON change (revision, key);
    CREATE UNIQUE INDEX change_by_key ON change (key, revision);

    CREATE TABLE entry (
        key      TEXT    PRIMARY KEY,
        created  INTEGER NOT NULL,
        modified INTEGER NOT NULL,
        lease    INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX entry_by_lease ON entry (lease) WHERE lease IS NOT NULL;

    CREATE TABLE lease (
        lease    INTEGER PRIMARY KEY AUTOINCREMENT,
        ttl_ms   INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE audit (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        at_us    INTEGER NOT NULL,
        revision INTEGER,
        who      TEXT    NOT NULL,
        peer     TEXT,
        action   TEXT    NOT NULL,
        object   TEXT    NOT NULL,
        outcome  TEXT    NOT NULL,
        reason   TEXT    NOT NULL,
        details  TEXT    NOT NULL
    ) STRICT;
    CREATE INDEX audit_by_who ON audit (who, sequence);
";

/// Sums without a history. Made wherever it is missing: whoever does not know of it loses nothing by that.
pub(super) const COUNTS: &str = "
    CREATE TABLE IF NOT EXISTS count (
        name  TEXT    PRIMARY KEY,
        ends  INTEGER NOT NULL,
        milli INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// Which leaders the store had; see [`crate::store::replicated::Epoch`]. Made wherever it is missing.
pub(super) const EPOCHS: &str = "
    CREATE TABLE IF NOT EXISTS epoch (
        number         INTEGER PRIMARY KEY,
        name           INTEGER NOT NULL,
        after_revision INTEGER NOT NULL,
        after_audit    INTEGER NOT NULL
    ) STRICT;
";

/// A number of which all 64 bits are used.
pub(super) const fn signed(number: u64) -> i64 {
    number.cast_signed()
}

/// SQLite's integers are signed; no revision, lease or sequence number comes near the end of them, but a number that
/// a caller asks for may.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that was written by [`integer`].
pub(super) struct Unsigned(pub(super) u64);

impl FromSql for Unsigned {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u64::try_from(number).map(Self).map_err(|_| FromSqlError::OutOfRange(number))
    }
}

impl ToSql for Revision {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(integer(self.0).into())
    }
}

impl FromSql for Revision {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Unsigned::column_result(value).map(|number| Self(number.0))
    }
}

impl ToSql for LeaseId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(integer(self.0).into())
    }
}

impl FromSql for LeaseId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Unsigned::column_result(value).map(|number| Self(number.0))
    }
}

impl ToSql for Key {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for Key {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::new(value.as_str()?).map_err(|violation| FromSqlError::Other(Box::new(violation)))
    }
}

/// A time, in whole microseconds.
pub(super) struct At(pub(super) Timestamp);

impl ToSql for At {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.as_microsecond().into())
    }
}

impl FromSql for At {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let at_us = value.as_i64()?;
        Timestamp::from_microsecond(at_us).map(Self).map_err(|_| FromSqlError::OutOfRange(at_us))
    }
}
