//! The tables of the trails, and the questions that are asked of them.

use std::ops::RangeInclusive;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use weft_proto::audit::{Anchor, Cursor, Line, Operator, Outcome, Taken, What};

use super::{Error, Found, Head, Known, Segment, Settings, Wanted, WantedTrails};

/// Most records in one answer.
const RECORDS_MAX: usize = 1000;
/// Most bytes of the records in one answer.
const RECORDS_BYTES_MAX: usize = 8 << 20;

/// Anchors are added, and moved forward while their segment is open; nothing else may become of them, as long as anything
/// of their trail is here.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS trail (
        id INTEGER PRIMARY KEY,
        node TEXT NOT NULL,
        name TEXT NOT NULL,
        identity TEXT NOT NULL,
        heard_us INTEGER NOT NULL,
        UNIQUE (node, name)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS segment (
        trail INTEGER NOT NULL REFERENCES trail (id),
        number INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        closed INTEGER NOT NULL,
        newest_us INTEGER NOT NULL,
        PRIMARY KEY (trail, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS line (
        place INTEGER PRIMARY KEY AUTOINCREMENT,
        trail INTEGER NOT NULL REFERENCES trail (id),
        segment INTEGER NOT NULL,
        n INTEGER NOT NULL,
        at_us INTEGER NOT NULL,
        is_record INTEGER NOT NULL,
        caller TEXT,
        server TEXT,
        tool TEXT,
        outcome TEXT,
        text BLOB NOT NULL,
        UNIQUE (trail, n)
    ) STRICT;
    CREATE INDEX IF NOT EXISTS line_by_caller ON line (caller, place) WHERE is_record = 1;
    CREATE INDEX IF NOT EXISTS line_by_server ON line (server, place) WHERE is_record = 1;
    CREATE INDEX IF NOT EXISTS line_by_segment ON line (trail, segment, n);
    CREATE TABLE IF NOT EXISTS anchor (
        trail INTEGER NOT NULL REFERENCES trail (id),
        segment INTEGER NOT NULL,
        first INTEGER NOT NULL,
        n INTEGER NOT NULL,
        head TEXT NOT NULL,
        closed INTEGER NOT NULL,
        sealed_us INTEGER NOT NULL,
        received_us INTEGER NOT NULL,
        signer TEXT NOT NULL,
        PRIMARY KEY (trail, segment)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS trail_by_identity ON trail (identity);
    DROP TRIGGER IF EXISTS anchor_stays;
    CREATE TRIGGER anchor_stays BEFORE DELETE ON anchor
        WHEN EXISTS (SELECT 1 FROM segment WHERE trail = OLD.trail)
        BEGIN SELECT RAISE(ABORT, 'anchors stay'); END;
    CREATE TRIGGER IF NOT EXISTS anchor_moves_on BEFORE UPDATE ON anchor
        WHEN NEW.n <= OLD.n OR OLD.closed = 1 OR NEW.trail <> OLD.trail OR NEW.segment <> OLD.segment
        BEGIN SELECT RAISE(ABORT, 'anchors only move forward'); END;";

pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    connection.execute_batch(TABLES)
}

/// A trail that is written to.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) id: i64,
    /// None before its first line.
    pub(super) cursor: Option<Cursor>,
}

/// Finds a trail, or makes room for it, and says where it is.
pub(super) fn open(
    connection: &mut Connection,
    named: (&str, &str, &str),
    settings: &Settings,
    now: Timestamp,
) -> Result<Open, Error> {
    let transaction = connection.transaction()?;
    let id = place(&transaction, named, settings, now)?;
    let cursor = resume(&transaction, id)?;
    transaction.commit()?;
    Ok(Open { id, cursor })
}

/// Finds a trail, or makes room for it.
pub(super) fn place(
    transaction: &Transaction<'_>,
    (node, name, identity): (&str, &str, &str),
    settings: &Settings,
    now: Timestamp,
) -> Result<i64, Error> {
    let sql = "SELECT id, identity FROM trail WHERE node = ? AND name = ?";
    let known = transaction
        .query_row(sql, [node, name], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    match known {
        Some((_, owner)) if owner != identity => {
            Err(Error::Refused(format!("the trail {name} of {node} is of {owner}, not of {identity}")))
        }
        Some((id, _)) => Ok(id),
        None => {
            check_room(transaction, node, identity, settings)?;
            let sql = "INSERT INTO trail (node, name, identity, heard_us) VALUES (?, ?, ?, ?)";
            transaction.execute(sql, params![node, name, identity, now.as_microsecond()])?;
            Ok(transaction.last_insert_rowid())
        }
    }
}

/// Refuses one trail more than there may be: of an identity, of its namespace, or of all.
fn check_room(connection: &Connection, node: &str, identity: &str, settings: &Settings) -> Result<(), Error> {
    let Settings { trails_max, trails_per_identity_max, trails_per_namespace_max, .. } = *settings;
    let namespace = node.split_once('/').map_or(node, |(namespace, _)| namespace);
    // The character after the slash ends what begins with the namespace.
    let (from, to) = (format!("{namespace}/"), format!("{namespace}0"));
    let limits = [
        (
            "SELECT count(*) FROM trail WHERE identity = ?1 OR ?2 IS NULL",
            [identity, ""],
            trails_per_identity_max,
        ),
        ("SELECT count(*) FROM trail WHERE node >= ?1 AND node < ?2", [&from, &to], trails_per_namespace_max),
        ("SELECT count(*) FROM trail WHERE ?1 = ?2 OR TRUE", ["", ""], trails_max),
    ];
    let of = [format!(" of {identity}"), format!(" of the namespace {namespace}"), String::new()];
    for ((sql, arguments, max), of) in limits.into_iter().zip(of) {
        let trails: i64 = connection.query_row(sql, arguments, |row| row.get(0))?;
        if trails >= integer(max) {
            return Err(Error::Refused(format!(
                "{trails} trails{of} are known already, and no more are taken"
            )));
        }
    }
    Ok(())
}

/// The newest trail of a node.
pub(super) fn newest(connection: &Connection, node: &str) -> Result<Option<String>, Error> {
    let sql = "SELECT name FROM trail WHERE node = ? ORDER BY id DESC LIMIT 1";
    Ok(connection.query_row(sql, [node], |row| row.get(0)).optional()?)
}

/// Goes through the newest segment again: what is stored is what counts.
pub(super) fn resume(connection: &Connection, trail: i64) -> Result<Option<Cursor>, Error> {
    let sql = "SELECT text FROM line WHERE trail = ?1 AND segment =
                   (SELECT max(number) FROM segment WHERE trail = ?1) ORDER BY n";
    let mut query = connection.prepare(sql)?;
    let mut rows = query.query([trail])?;
    let mut cursor: Option<Cursor> = None;
    while let Some(row) = rows.next()? {
        let text: Vec<u8> = row.get(0)?;
        let damaged = |why: String| Error::Refused(format!("what is stored of the trail is damaged: {why}"));
        let mut at = match cursor.take() {
            Some(at) => at,
            None => Line::parse(&text)
                .ok()
                .as_ref()
                .and_then(Cursor::before_segment)
                .ok_or_else(|| damaged("it does not begin with a segment".to_owned()))?,
        };
        at.take(&text).map_err(|broken| damaged(broken.to_string()))?;
        cursor = Some(at);
    }
    Ok(cursor)
}

/// A line that was checked, and its seal, if it has one that holds.
pub(super) struct Checked {
    pub(super) taken: Taken,
    pub(super) text: Vec<u8>,
    pub(super) segment: u64,
    pub(super) first: u64,
    pub(super) signer: Option<String>,
}

/// Stores lines that follow each other, all or none.
pub(super) fn store(
    connection: &mut Connection,
    trail: i64,
    lines: &[Checked],
    now: Timestamp,
) -> Result<(), Error> {
    let transaction = connection.transaction()?;
    for line in lines {
        add_line(&transaction, trail, line)?;
        if let (What::Seal(seal), Some(signer)) = (&line.taken.line.is, &line.signer) {
            let sql = "INSERT INTO anchor VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                       ON CONFLICT (trail, segment) DO UPDATE SET n = excluded.n, head = excluded.head,
                       closed = excluded.closed, sealed_us = excluded.sealed_us,
                       received_us = excluded.received_us, signer = excluded.signer";
            transaction.prepare(sql)?.execute(params![
                trail,
                integer(line.segment),
                integer(line.first),
                integer(line.taken.line.n),
                line.taken.digest.to_string(),
                seal.closes,
                line.taken.line.at.as_microsecond(),
                now.as_microsecond(),
                signer,
            ])?;
        }
    }
    transaction
        .execute("UPDATE trail SET heard_us = ? WHERE id = ?", params![now.as_microsecond(), trail])?;
    transaction.commit()?;
    Ok(())
}

pub(super) fn add_line(transaction: &Transaction<'_>, trail: i64, checked: &Checked) -> rusqlite::Result<()> {
    let Line { n, at, is, .. } = &checked.taken.line;
    let (bytes, at_us) = (integer(checked.text.len() as u64 + 1), at.as_microsecond());
    let facts = Facts::of(is);
    let sql = "INSERT INTO line (trail, segment, n, at_us, is_record, caller, server, tool, outcome, text)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    transaction.prepare(sql)?.execute(params![
        trail,
        integer(checked.segment),
        integer(*n),
        at_us,
        facts.is_record,
        facts.caller,
        facts.server,
        facts.tool,
        facts.outcome.map(Outcome::word),
        checked.text,
    ])?;
    let closes = matches!(is, What::Seal(seal) if seal.closes);
    let sql = "INSERT INTO segment VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6)
               ON CONFLICT (trail, number) DO UPDATE SET last = excluded.last, bytes = bytes + excluded.bytes,
               closed = excluded.closed, newest_us = max(newest_us, excluded.newest_us)";
    let row = params![trail, integer(checked.segment), integer(*n), bytes, closes, at_us];
    transaction.prepare(sql)?.execute(row).map(|_| ())
}

/// What a line is found by.
#[derive(Default)]
struct Facts<'a> {
    is_record: bool,
    caller: Option<&'a str>,
    server: Option<&'a str>,
    tool: Option<&'a str>,
    outcome: Option<Outcome>,
}

impl<'a> Facts<'a> {
    fn of(is: &'a What) -> Self {
        match is {
            What::Begun(call) | What::Call(call) => Self {
                is_record: true,
                caller: Some(&call.caller),
                server: Some(&call.server),
                tool: call.asked.tool.as_deref(),
                outcome: Some(call.outcome),
            },
            What::Operator(act) => {
                let Operator { who, action, outcome, .. } = &**act;
                Self {
                    is_record: true,
                    caller: Some(who),
                    server: Some("control-plane"),
                    tool: Some(action),
                    outcome: Some(*outcome),
                }
            }
            What::Dropped(_) | What::Resumed(_) | What::Later(_) => {
                Self { is_record: true, ..Self::default() }
            }
            What::Segment(_) | What::Certificate(_) | What::Seal(_) => Self::default(),
        }
    }
}

pub(super) fn records(connection: &Connection, wanted: &Wanted) -> Result<Vec<Found>, Error> {
    let sql = "SELECT place, node, name, segment, text FROM line JOIN trail ON trail.id = line.trail
               WHERE is_record = 1 AND place < ?1 AND at_us >= ?2 AND at_us < ?3
                 AND (?4 IS NULL OR node = ?4) AND (?5 IS NULL OR caller GLOB ?5)
                 AND (?6 IS NULL OR server GLOB ?6) AND (?7 IS NULL OR tool GLOB ?7)
                 AND (?8 IS NULL OR outcome = ?8)
               ORDER BY place DESC LIMIT ?9";
    let mut query = connection.prepare(sql)?;
    let mut rows = query.query(params![
        integer(wanted.before.unwrap_or(u64::MAX)),
        wanted.since.map_or(i64::MIN, |it| it.as_microsecond()),
        wanted.until.map_or(i64::MAX, |it| it.as_microsecond()),
        wanted.node,
        wanted.caller.as_deref().map(glob),
        wanted.server.as_deref().map(glob),
        wanted.tool.as_deref().map(glob),
        wanted.outcome,
        integer(wanted.limit.clamp(1, RECORDS_MAX) as u64),
    ])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let text: Vec<u8> = row.get(4)?;
        bytes += text.len();
        // What was altered where it lies is for `verify` to tell.
        let (Ok(line), Ok(text)) = (Line::parse(&text), serde_json::from_slice(&text)) else { continue };
        found.push(Found {
            place: unsigned(row.get(0)?),
            node: row.get(1)?,
            trail: row.get(2)?,
            segment: unsigned(row.get(3)?),
            line,
            text,
        });
        if bytes > RECORDS_BYTES_MAX {
            break;
        }
    }
    Ok(found)
}

/// A pattern with `*` alone, as SQLite has it, where more characters mean something.
fn glob(pattern: &str) -> String {
    pattern.replace('[', "[[]").replace('?', "[?]")
}

pub(super) fn known(connection: &Connection, wanted: &WantedTrails) -> Result<Vec<Known>, Error> {
    let sql = "SELECT id, node, name, identity, heard_us FROM trail
               WHERE id > ?1 AND (?2 IS NULL OR node = ?2) ORDER BY id LIMIT ?3";
    let mut query = connection.prepare(sql)?;
    let limit = integer(wanted.limit.clamp(1, RECORDS_MAX) as u64);
    let trails = query.query_map(params![integer(wanted.after.unwrap_or(0)), wanted.node, limit], |row| {
        let known = Known {
            place: unsigned(row.get(0)?),
            node: row.get(1)?,
            trail: row.get(2)?,
            identity: row.get(3)?,
            heard_at: time(row.get(4)?),
            segments: Vec::new(),
            anchors: Vec::new(),
        };
        Ok((row.get::<_, i64>(0)?, known))
    })?;
    let mut found = Vec::new();
    for trail in trails {
        let (id, mut known) = trail?;
        let sql = "SELECT number, first, last, bytes, closed FROM segment WHERE trail = ? ORDER BY number";
        let segments = |row: &Row<'_>| {
            Ok(Segment {
                number: unsigned(row.get(0)?),
                first: unsigned(row.get(1)?),
                last: unsigned(row.get(2)?),
                bytes: unsigned(row.get(3)?),
                closed: row.get(4)?,
            })
        };
        let mut query = connection.prepare(sql)?;
        known.segments = query.query_map([id], segments)?.collect::<rusqlite::Result<_>>()?;
        known.anchors = anchors(connection, id, (&known.node, &known.trail), 0..=i64::MAX)?;
        found.push(known);
    }
    Ok(found)
}

pub(super) fn heads(connection: &Connection, trails_max: u64) -> Result<Vec<Head>, Error> {
    let sql = "SELECT node, name, identity, heard_us,
                   coalesce((SELECT max(last) FROM segment WHERE trail = id), 0),
                   coalesce((SELECT max(n) FROM anchor WHERE trail = id), 0)
               FROM trail ORDER BY node, id LIMIT ?";
    let mut query = connection.prepare(sql)?;
    let heads = query.query_map([integer(trails_max)], |row| {
        Ok(Head {
            node: row.get(0)?,
            trail: row.get(1)?,
            identity: row.get(2)?,
            heard_at: time(row.get(3)?),
            last_line: unsigned(row.get(4)?),
            sealed_line: unsigned(row.get(5)?),
        })
    })?;
    Ok(heads.collect::<rusqlite::Result<_>>()?)
}

/// The anchors of a trail at the lines of these numbers.
pub(super) fn anchors(
    connection: &Connection,
    id: i64,
    (node, trail): (&str, &str),
    at: RangeInclusive<i64>,
) -> Result<Vec<Anchor>, Error> {
    let sql = "SELECT segment, first, n, head, closed, sealed_us, received_us, signer FROM anchor
               WHERE trail = ? AND n BETWEEN ? AND ? ORDER BY segment";
    let mut query = connection.prepare(sql)?;
    let mut rows = query.query([id, *at.start(), *at.end()])?;
    let mut anchors = Vec::new();
    while let Some(row) = rows.next()? {
        let head: String = row.get(3)?;
        let (Ok(head), Ok(trail)) = (head.parse(), trail.parse()) else { continue };
        anchors.push(Anchor {
            node: node.to_owned(),
            trail,
            segment: unsigned(row.get(0)?),
            first: unsigned(row.get(1)?),
            n: unsigned(row.get(2)?),
            head,
            closed: row.get(4)?,
            sealed_at: time(row.get(5)?),
            received_at: time(row.get(6)?),
            signer: row.get(7)?,
        });
    }
    Ok(anchors)
}

pub(super) fn segment(
    connection: &Connection,
    node: &str,
    trail: &str,
    number: u64,
) -> Result<Option<Vec<u8>>, Error> {
    let sql = "SELECT text FROM line JOIN trail ON trail.id = line.trail
               WHERE node = ? AND name = ? AND segment = ? ORDER BY n";
    let mut query = connection.prepare(sql)?;
    let mut rows = query.query(params![node, trail, integer(number)])?;
    let mut lines = None;
    while let Some(row) = rows.next()? {
        let lines: &mut Vec<u8> = lines.get_or_insert_default();
        lines.extend(row.get::<_, Vec<u8>>(0)?);
        lines.push(b'\n');
    }
    Ok(lines)
}

/// The number of the operators' act that a trail has told of last.
pub(super) fn last_act(connection: &Connection, trail: i64) -> Result<u64, Error> {
    let sql = "SELECT text FROM line WHERE trail = ? AND server = 'control-plane' ORDER BY n DESC LIMIT 1";
    let text: Option<Vec<u8>> = connection.query_row(sql, [trail], |row| row.get(0)).optional()?;
    let line = text.and_then(|text| Line::parse(&text).ok());
    Ok(match line.map(|line| line.is) {
        Some(What::Operator(act)) => act.sequence,
        _ => 0,
    })
}

pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn time(us: i64) -> Timestamp {
    Timestamp::from_microsecond(us).unwrap_or_default()
}
