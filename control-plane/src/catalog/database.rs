//! The catalogue on disk: what each server offered last, and which definitions there were before.
//!
//! A definition is one row for as long as it is the one: a row that is over is history, of which so much is kept for an
//! item, for a server, and in all, the newest. Not here: what is true now, which is in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use weft_proto::mcp::lists::Listed;
use weft_proto::name::ServerName;
use weft_proto::offer::{Introduction, Offer, Offered};
use weft_proto::policy::tools::Definition;

use super::aggregate::{Known, Since};
use super::report::{Digest, ItemKey};

/// Past definitions of one item that are kept.
pub const PAST_PER_ITEM_MAX: i64 = 32;
/// Past definitions of one server that are kept.
pub const PAST_PER_SERVER_MAX: i64 = 4096;
/// Bytes of all past definitions that are kept.
pub const PAST_BYTES_MAX: i64 = 512 << 20;
/// Rows that are cleared away at once.
const CLEARED_AT_ONCE: i64 = 1000;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS server (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        capabilities TEXT,
        info TEXT,
        instructions TEXT,
        revisions TEXT NOT NULL,
        left_out INTEGER NOT NULL,
        fingerprint BLOB NOT NULL,
        since_us INTEGER NOT NULL,
        heard_us INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS version (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        server INTEGER NOT NULL REFERENCES server (id) ON DELETE CASCADE,
        kind INTEGER NOT NULL,
        name TEXT NOT NULL,
        digest BLOB NOT NULL,
        approval TEXT,
        definition TEXT NOT NULL,
        from_us INTEGER NOT NULL,
        until_us INTEGER
    ) STRICT;
    CREATE INDEX IF NOT EXISTS version_now ON version (server) WHERE until_us IS NULL;
    CREATE INDEX IF NOT EXISTS version_of_item ON version (server, kind, name, id);
    CREATE INDEX IF NOT EXISTS version_approved ON version (approval) WHERE approval IS NOT NULL;
    CREATE INDEX IF NOT EXISTS version_past ON version (until_us, length(definition)) WHERE until_us IS NOT NULL;";

/// A definition that there was, or is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub digest: Digest,
    pub definition: String,
    pub from: SystemTime,
    /// None of the one that there is.
    pub until: Option<SystemTime>,
}

/// What was known of a server, and when it was last heard of.
pub(super) struct Remembered {
    pub(super) known: Arc<Known>,
    pub(super) heard: SystemTime,
}

pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA trusted_schema = OFF;
         PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 67108864;",
    )?;
    connection.execute_batch(TABLES)
}

/// Writes what a server offers, instead of what it offered; what is the same keeps its row.
pub(super) fn store(
    connection: &mut Connection,
    server: &ServerName,
    known: &Known,
    heard: SystemTime,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let id = store_server(&transaction, server, known, heard)?;
    let mut rows = HashMap::new();
    {
        let mut query = transaction
            .prepare("SELECT id, kind, name, digest FROM version WHERE server = ? AND until_us IS NULL")?;
        let mut found = query.query([id])?;
        while let Some(row) = found.next()? {
            let key = (row.get::<_, i64>(1)?, row.get::<_, String>(2)?);
            rows.insert(key, (row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(3)?));
        }
    }
    for ((listed, name), since) in &known.items {
        let Some(offered) = known.offer.find(*listed, name) else { continue };
        match rows.remove(&(number(*listed), name.to_string())) {
            Some((_, digest)) if digest == since.digest => continue,
            Some((row, _)) => end(&transaction, row, since.at)?,
            None => {}
        }
        begin(&transaction, id, offered, since)?;
        clear_item(&transaction, id, *listed, name)?;
    }
    for (row, _) in rows.into_values() {
        end(&transaction, row, known.since)?;
    }
    transaction.execute(
        "DELETE FROM version WHERE server = ?1 AND until_us IS NOT NULL AND id NOT IN
             (SELECT id FROM version WHERE server = ?1 AND until_us IS NOT NULL ORDER BY id DESC LIMIT ?2)",
        params![id, PAST_PER_SERVER_MAX],
    )?;
    transaction.commit()
}

fn store_server(
    transaction: &Transaction<'_>,
    server: &ServerName,
    known: &Known,
    heard: SystemTime,
) -> rusqlite::Result<i64> {
    let Introduction { capabilities, server_info, instructions } = &known.offer.introduction;
    let sql = "INSERT INTO server (name, capabilities, info, instructions, revisions, left_out, fingerprint,
                   since_us, heard_us)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
               ON CONFLICT (name) DO UPDATE SET capabilities = excluded.capabilities, info = excluded.info,
               instructions = excluded.instructions, revisions = excluded.revisions,
               left_out = excluded.left_out, fingerprint = excluded.fingerprint, since_us = excluded.since_us,
               heard_us = excluded.heard_us
               RETURNING id";
    transaction.prepare(sql)?.query_row(
        params![
            server.to_string(),
            capabilities.as_deref(),
            server_info.as_deref(),
            instructions.as_deref(),
            known.revisions.join("\n"),
            known.left_out,
            known.fingerprint,
            micros(known.since),
            micros(heard),
        ],
        |row| row.get(0),
    )
}

fn begin(
    transaction: &Transaction<'_>,
    server: i64,
    offered: &Offered,
    since: &Since,
) -> rusqlite::Result<()> {
    let approval = (offered.kind == Listed::Tool)
        .then(|| Definition::read(&offered.definition).ok())
        .flatten()
        .map(|definition| definition.digest().to_string());
    let sql = "INSERT INTO version (server, kind, name, digest, approval, definition, from_us)
               VALUES (?, ?, ?, ?, ?, ?, ?)";
    let row = params![
        server,
        number(offered.kind),
        &*offered.name,
        since.digest,
        approval,
        &*offered.definition,
        micros(since.at),
    ];
    transaction.prepare(sql)?.execute(row).map(|_| ())
}

fn end(transaction: &Transaction<'_>, row: i64, at: SystemTime) -> rusqlite::Result<()> {
    let sql = "UPDATE version SET until_us = max(?, from_us) WHERE id = ?";
    transaction.prepare(sql)?.execute(params![micros(at), row]).map(|_| ())
}

fn clear_item(
    transaction: &Transaction<'_>,
    server: i64,
    listed: Listed,
    name: &str,
) -> rusqlite::Result<()> {
    let sql = "DELETE FROM version WHERE server = ?1 AND kind = ?2 AND name = ?3 AND until_us IS NOT NULL
                   AND id NOT IN (SELECT id FROM version WHERE server = ?1 AND kind = ?2 AND name = ?3
                       AND until_us IS NOT NULL ORDER BY id DESC LIMIT ?4)";
    let row = params![server, number(listed), name, PAST_PER_ITEM_MAX];
    transaction.prepare(sql)?.execute(row).map(|_| ())
}

/// Writes when a server was last heard of.
pub(super) fn heard(connection: &Connection, server: &ServerName, at: SystemTime) -> rusqlite::Result<()> {
    let sql = "UPDATE server SET heard_us = ? WHERE name = ?";
    connection.execute(sql, params![micros(at), server.to_string()]).map(|_| ())
}

pub(super) fn forget(connection: &Connection, server: &ServerName) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM server WHERE name = ?", [server.to_string()]).map(|_| ())
}

/// Clears away the oldest of what is past, until all of it has room.
pub(super) fn clear(connection: &Connection, bytes_max: i64) -> rusqlite::Result<()> {
    loop {
        let sql = "SELECT coalesce(sum(length(definition)), 0) FROM version WHERE until_us IS NOT NULL";
        let bytes: i64 = connection.query_row(sql, [], |row| row.get(0))?;
        if bytes <= bytes_max {
            return Ok(());
        }
        let sql = "DELETE FROM version WHERE id IN
                       (SELECT id FROM version WHERE until_us IS NOT NULL ORDER BY until_us LIMIT ?)";
        connection.execute(sql, [CLEARED_AT_ONCE])?;
    }
}

/// Everything that was known last. What cannot be read any more is as if it were not there.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<(ServerName, Remembered)>> {
    let mut servers = connection.prepare("SELECT * FROM server ORDER BY name")?;
    let mut items = connection.prepare(
        "SELECT kind, digest, definition, from_us FROM version WHERE server = ? AND until_us IS NULL",
    )?;
    let mut found = Vec::new();
    let mut rows = servers.query([])?;
    while let Some(row) = rows.next()? {
        let Ok(name) = row.get::<_, String>("name")?.parse::<ServerName>() else { continue };
        let mut kept = BTreeMap::<ItemKey, Since>::new();
        let mut offered = Vec::new();
        let mut of_server = items.query([row.get::<_, i64>("id")?])?;
        while let Some(row) = of_server.next()? {
            let Some((item, since)) = read(row)? else { continue };
            kept.insert((item.kind, item.name.clone()), since);
            offered.push(Arc::new(item));
        }
        let text = |column: &str| row.get::<_, Option<String>>(column).map(|it| it.map(Into::into));
        let introduction = Introduction {
            capabilities: text("capabilities")?,
            server_info: text("info")?,
            instructions: text("instructions")?,
        };
        let Ok(offer) = Offer::new(name.clone(), introduction, offered) else { continue };
        let revisions: String = row.get("revisions")?;
        let known = Known {
            offer: Arc::new(offer),
            revisions: revisions.lines().map(str::to_owned).collect(),
            left_out: row.get("left_out")?,
            items: kept,
            fingerprint: row.get::<_, Vec<u8>>("fingerprint")?.try_into().unwrap_or_default(),
            since: time(row.get("since_us")?),
        };
        found.push((name, Remembered { known: Arc::new(known), heard: time(row.get("heard_us")?) }));
    }
    Ok(found)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Option<(Offered, Since)>> {
    let listed = Listed::ALL.into_iter().find(|listed| Ok(number(*listed)) == row.get(0));
    let (Some(listed), Ok(digest)) = (listed, row.get::<_, Vec<u8>>(1)?.try_into()) else { return Ok(None) };
    let offered = Offered::parse(listed, row.get::<_, String>(2)?.into());
    Ok(offered.ok().map(|offered| (offered, Since { digest, at: time(row.get(3).unwrap_or_default()) })))
}

/// The definitions of an item, the newest first.
pub(super) fn versions(
    connection: &Connection,
    server: &ServerName,
    (listed, name): &ItemKey,
) -> rusqlite::Result<Vec<Version>> {
    let sql = "SELECT digest, definition, from_us, until_us FROM version
               WHERE server = (SELECT id FROM server WHERE name = ?) AND kind = ? AND name = ?
               ORDER BY id DESC LIMIT ?";
    let mut query = connection.prepare(sql)?;
    let row = params![server.to_string(), number(*listed), &**name, PAST_PER_ITEM_MAX + 1];
    let versions = query.query_map(row, |row| {
        Ok(Version {
            digest: row.get::<_, Vec<u8>>(0)?.try_into().unwrap_or_default(),
            definition: row.get(1)?,
            from: time(row.get(2)?),
            until: row.get::<_, Option<i64>>(3)?.map(time),
        })
    })?;
    versions.collect()
}

/// A definition of a tool of a server, by the digest that it is approved by.
pub(super) fn approved(
    connection: &Connection,
    server: &ServerName,
    approval: &str,
) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT definition FROM version
               WHERE approval = ? AND server = (SELECT id FROM server WHERE name = ?) ORDER BY id DESC LIMIT 1";
    connection.query_row(sql, [approval, &server.to_string()], |row| row.get(0)).optional()
}

const fn number(listed: Listed) -> i64 {
    match listed {
        Listed::Tool => 1,
        Listed::Prompt => 2,
        Listed::Resource => 3,
        Listed::ResourceTemplate => 4,
    }
}

fn micros(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn time(micros: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}
