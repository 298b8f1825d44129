//! Trails on their way from the control plane that leads to those that stand by: what one reads, and what the other
//! takes.
//!
//! Lines are told in the order in which they arrived, each trail's anchors with the lines that they are of. Whoever takes
//! them links each line to the one before, but believes the leader about seals: who may sign changes, and it was there.
//! The control plane's own trails stay where they are, for each writes its own of the same acts. Not here: how they
//! travel (`replica`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use weft_proto::audit::{Anchor, Cursor, Trail};

use super::database::{self, Checked, add_line, integer, time, unsigned};
use super::service::check;
use super::{Error, Settings, Trails, own};

/// Trails in one page.
pub const TRAILS_PAGE: usize = 500;
/// Bytes of lines after which no further line is read at once.
pub const LINES_BYTES_MAX: usize = 512 << 10;
/// Most lines that are read at once.
pub const LINES_MAX: usize = 4096;
/// Most anchors of segments that are cleared away which are read at once, the newest: who comes anew gets no others.
pub const CLEARED_ANCHORS_MAX: usize = 4096;
/// Most trails of which it is kept in memory where they are.
const CURSORS_MAX: usize = 1024;
/// Most trails of which it is remembered that they were told to be left out.
const TOLD_MAX: usize = 1024;

/// A trail, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Far {
    pub number: u64,
    pub node: String,
    pub name: String,
    /// The number of the last line that was there, be it here or cleared away.
    pub last: u64,
}

/// Lines of one trail that follow each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub node: String,
    pub trail: Trail,
    pub identity: String,
    pub heard_at: Timestamp,
    pub lines: Bytes,
    pub anchors: Vec<Anchor>,
}

/// What arrived after a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Runs {
    pub runs: Vec<Run>,
    /// Up to which place these are all.
    pub place: u64,
    /// The place of the newest line.
    pub newest: u64,
}

/// What is kept in memory while trails are copied.
#[derive(Debug, Default)]
pub struct Copying {
    /// Where trails are, by their numbers here.
    cursors: HashMap<i64, Cursor>,
    /// Trails that are left out, as they were told.
    told: BTreeSet<(String, Trail)>,
}

impl Trails {
    /// Trails after one, and the place of the newest line of all.
    pub async fn far(&self, after: u64) -> Result<(Vec<Far>, u64), Error> {
        self.with(move |connection| Ok((far(connection, after)?, newest(connection)?))).await
    }

    /// The first place of a line that somebody lacks who wants these trails from these lines on; 0 if there is none.
    pub async fn first_lacking(&self, lacking: Vec<(u64, u64)>) -> Result<u64, Error> {
        self.with(move |connection| first_lacking(connection, &lacking)).await
    }

    /// What arrived after a place, or the beginning of it.
    pub async fn runs(&self, after: u64) -> Result<Runs, Error> {
        self.with(move |connection| runs(connection, after)).await
    }

    /// Of these trails, the number of the line that would come next.
    pub async fn next_of(&self, trails: Vec<(String, String)>) -> Result<Vec<u64>, Error> {
        self.with(move |connection| {
            trails.iter().map(|(node, name)| next_of(connection, node, name)).collect()
        })
        .await
    }

    /// Takes what another has. What is here already is passed over, and so is a trail that is another one here.
    pub async fn take(&self, mut copying: Copying, runs: Vec<Run>) -> Result<Copying, Error> {
        // Whose they are was judged where they were delivered.
        let settings = Settings {
            trails_per_identity_max: u64::MAX,
            trails_per_namespace_max: u64::MAX,
            ..self.0.settings
        };
        self.with(move |connection| {
            // One wait for the disk for all of them.
            let transaction = connection.transaction()?;
            for run in runs {
                match take(&transaction, &mut copying, &run, &settings) {
                    Ok(()) => {}
                    Err(Error::Refused(why)) => copying.leave_out(&run, &why),
                    Err(error) => return Err(error),
                }
            }
            transaction.commit()?;
            Ok(copying)
        })
        .await
    }
}

impl Copying {
    fn leave_out(&mut self, run: &Run, why: &str) {
        let trail = (run.node.clone(), run.trail.clone());
        if self.told.len() < TOLD_MAX && self.told.insert(trail) {
            let Run { node, trail, .. } = run;
            tracing::warn!(node, trail = trail.as_str(), why, "an audit trail of the leader is not copied");
        }
    }

    fn keep(&mut self, trail: i64, cursor: Cursor) {
        if self.cursors.len() >= CURSORS_MAX && !self.cursors.contains_key(&trail) {
            self.cursors.clear();
        }
        self.cursors.insert(trail, cursor);
    }
}

fn newest(connection: &Connection) -> Result<u64, Error> {
    let place: Option<i64> = connection.query_row("SELECT max(place) FROM line", (), |row| row.get(0))?;
    Ok(unsigned(place.unwrap_or(0)))
}

/// The last line of a trail, in SQL.
const LAST: &str = "max(coalesce((SELECT max(last) FROM segment WHERE trail = id), 0),
                        coalesce((SELECT max(n) FROM anchor WHERE trail = id), 0))";

fn far(connection: &Connection, after: u64) -> Result<Vec<Far>, Error> {
    let sql =
        format!("SELECT id, node, name, {LAST} FROM trail WHERE id > ? AND node <> ? ORDER BY id LIMIT ?");
    let mut query = connection.prepare(&sql)?;
    let found = query.query_map(params![integer(after), own::NODE, integer(TRAILS_PAGE as u64)], |row| {
        Ok(Far {
            number: unsigned(row.get(0)?),
            node: row.get(1)?,
            name: row.get(2)?,
            last: unsigned(row.get(3)?),
        })
    })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn next_of(connection: &Connection, node: &str, name: &str) -> Result<u64, Error> {
    let sql = format!("SELECT {LAST} FROM trail WHERE node = ? AND name = ?");
    let last: Option<i64> = connection.query_row(&sql, [node, name], |row| row.get(0)).optional()?;
    Ok(unsigned(last.unwrap_or(0)) + 1)
}

fn first_lacking(connection: &Connection, lacking: &[(u64, u64)]) -> Result<u64, Error> {
    // Of one trail, later lines have later places.
    let sql = "SELECT place FROM line WHERE trail = ? AND n >= ? ORDER BY n LIMIT 1";
    let mut query = connection.prepare(sql)?;
    let mut first: Option<i64> = None;
    for (trail, next) in lacking {
        let place = query.query_row([integer(*trail), integer(*next)], |row| row.get(0)).optional()?;
        first = first.into_iter().chain(place).min();
    }
    Ok(unsigned(first.unwrap_or(0)))
}

/// Lines of one trail, and the numbers of the first and the last.
struct Gathered {
    from: i64,
    to: i64,
    lines: Vec<u8>,
}

fn runs(connection: &mut Connection, after: u64) -> Result<Runs, Error> {
    // Lines and anchors of one moment.
    let transaction = connection.transaction()?;
    let (mut place, mut bytes) = (after, 0);
    let mut gathered = BTreeMap::<i64, Gathered>::new();
    let sql = "SELECT place, trail, n, text, node = ?1 FROM line JOIN trail ON trail.id = line.trail
               WHERE place > ?2 ORDER BY place LIMIT ?3";
    let mut query = transaction.prepare(sql)?;
    let mut rows = query.query(params![own::NODE, integer(after), integer(LINES_MAX as u64)])?;
    while let Some(row) = rows.next()?
        && bytes < LINES_BYTES_MAX
    {
        place = unsigned(row.get(0)?);
        if row.get(4)? {
            continue;
        }
        let (n, text): (i64, Vec<u8>) = (row.get(2)?, row.get(3)?);
        let new = || Gathered { from: n, to: n, lines: Vec::new() };
        let run = gathered.entry(row.get(1)?).or_insert_with(new);
        run.to = n;
        bytes += text.len() + 1;
        run.lines.extend(text);
        run.lines.push(b'\n');
    }
    let mut room = CLEARED_ANCHORS_MAX;
    let runs = gathered.into_iter().map(|(trail, lines)| run(&transaction, trail, lines, &mut room));
    let runs = runs.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    Ok(Runs { runs, place, newest: newest(&transaction)? })
}

/// None of a trail whose name does not read, which is none. There is `room` for so many anchors of what is cleared away.
fn run(connection: &Connection, id: i64, gathered: Gathered, room: &mut usize) -> Result<Option<Run>, Error> {
    let Gathered { from, to, lines } = gathered;
    let sql = "SELECT node, name, identity, heard_us, (SELECT min(first) FROM segment WHERE trail = id)
               FROM trail WHERE id = ?";
    let read = |row: &rusqlite::Row<'_>| {
        let named: (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((named, time(row.get(3)?), row.get::<_, Option<i64>>(4)?))
    };
    let ((node, name, identity), heard_at, oldest) = connection.query_row(sql, [id], read)?;
    // Whoever has nothing before the oldest line has not what was anchored before it either.
    let mut anchors = Vec::new();
    if oldest == Some(from) {
        anchors = database::anchors(connection, id, (&node, &name), 0..=from.saturating_sub(1))?;
        anchors.drain(..anchors.len().saturating_sub(*room));
        *room -= anchors.len();
    }
    anchors.extend(database::anchors(connection, id, (&node, &name), from..=to)?);
    let Ok(trail) = name.parse() else { return Ok(None) };
    Ok(Some(Run { node, trail, identity, heard_at, lines: lines.into(), anchors }))
}

fn take(
    transaction: &Transaction<'_>,
    copying: &mut Copying,
    run: &Run,
    settings: &Settings,
) -> Result<(), Error> {
    let Run { node, trail, identity, heard_at, lines, anchors } = run;
    let named = (node.as_str(), trail.as_str(), identity.as_str());
    let id = database::place(transaction, named, settings, *heard_at)?;
    let cursor = match copying.cursors.remove(&id) {
        Some(cursor) => Some(cursor),
        None => database::resume(transaction, id)?,
    };
    let name = (node.clone(), trail.clone());
    let (cursor, checked, _) =
        check(cursor, &name, lines, None).map_err(|broken| Error::Refused(broken.to_string()))?;
    store(transaction, id, (&checked, anchors), *heard_at)?;
    if let Some(cursor) = cursor {
        copying.keep(id, cursor);
    }
    Ok(())
}

fn store(
    transaction: &Transaction<'_>,
    trail: i64,
    (lines, anchors): (&[Checked], &[Anchor]),
    heard_at: Timestamp,
) -> Result<(), Error> {
    for line in lines {
        add_line(transaction, trail, line)?;
    }
    for anchor in anchors {
        let sql = "INSERT INTO anchor VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT (trail, segment) DO UPDATE SET n = excluded.n, head = excluded.head,
                   closed = excluded.closed, sealed_us = excluded.sealed_us,
                   received_us = excluded.received_us, signer = excluded.signer
                   WHERE excluded.n > n AND closed = 0";
        transaction.prepare(sql)?.execute(params![
            trail,
            integer(anchor.segment),
            integer(anchor.first),
            integer(anchor.n),
            anchor.head.to_string(),
            anchor.closed,
            anchor.sealed_at.as_microsecond(),
            anchor.received_at.as_microsecond(),
            anchor.signer,
        ])?;
    }
    let heard = params![heard_at.as_microsecond(), trail];
    transaction.execute("UPDATE trail SET heard_us = max(heard_us, ?) WHERE id = ?", heard)?;
    Ok(())
}
