//! Clearing the trails away that are too old, or too much.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::database::unsigned;
use super::{Error, Settings, own};

/// What was cleared away, and what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Retained {
    pub(super) segments: u64,
    pub(super) trails: u64,
    /// Of lines that are left.
    pub(super) bytes: u64,
}

/// Clears whole segments away, the oldest first. The newest of a trail stays as long as its node may come back: until
/// nothing was heard of it for as long as lines are kept. Once all are gone, the trail is forgotten with its anchors
/// after the same time again.
pub(super) fn retain(
    connection: &mut Connection,
    settings: Settings,
    now: Timestamp,
) -> Result<Retained, Error> {
    let age_us = i64::try_from(settings.age_max.as_micros()).unwrap_or(i64::MAX);
    let oldest = now.as_microsecond().saturating_sub(age_us);
    let mut retained = Retained::default();
    loop {
        let transaction = connection.transaction()?;
        let sum = "SELECT coalesce(sum(bytes), 0) FROM segment";
        retained.bytes = unsigned(transaction.query_row(sum, (), |row| row.get(0))?);
        let sql =
            "SELECT it.trail, it.number, it.newest_us FROM segment AS it JOIN trail ON trail.id = it.trail
                   WHERE it.number < (SELECT max(number) FROM segment WHERE trail = it.trail)
                      OR (trail.heard_us < ?1 AND it.newest_us < ?1 AND trail.node <> ?2)
                   ORDER BY it.newest_us LIMIT 1";
        let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        // The control plane goes on with its own, however long nobody does anything.
        let first = transaction.query_row(sql, params![oldest, own::NODE], read).optional()?;
        let due = first.filter(|(.., newest)| retained.bytes > settings.lines_bytes_max || *newest < oldest);
        let Some((trail, number, _)) = due else { break };
        transaction.execute("DELETE FROM line WHERE trail = ? AND segment = ?", [trail, number])?;
        transaction.execute("DELETE FROM segment WHERE trail = ? AND number = ?", [trail, number])?;
        transaction.commit()?;
        retained.segments += 1;
    }
    retained.trails = forget(connection, oldest.saturating_sub(age_us))?;
    Ok(retained)
}

/// Forgets trails of which nothing is left and was heard since.
fn forget(connection: &mut Connection, since_us: i64) -> Result<u64, Error> {
    let transaction = connection.transaction()?;
    let gone = "SELECT id FROM trail WHERE heard_us < ?1 AND node <> ?2
                AND NOT EXISTS (SELECT 1 FROM segment WHERE segment.trail = trail.id)";
    transaction
        .execute(&format!("DELETE FROM anchor WHERE trail IN ({gone})"), params![since_us, own::NODE])?;
    let trails = transaction
        .execute(&format!("DELETE FROM trail WHERE id IN ({gone})"), params![since_us, own::NODE])?;
    transaction.commit()?;
    Ok(trails as u64)
}
