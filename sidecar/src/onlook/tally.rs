//! An onlooker that counts calls and how long they took: all that end while it looks on, none left out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_proto::pb::weft::ask::v1 as pb;
use weft_proto::spread::Spread;

use super::{Error, Onlooker, Outcome, Patterns, clipped};
use crate::record::Event;

/// Rows that are kept apart.
const ROWS_MAX: usize = 1000;

/// What is counted in one row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Of {
    server: Arc<str>,
    target: Option<Box<str>>,
    caller: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Row {
    calls: u64,
    refused: u64,
    failed: u64,
    left: u64,
    took: Spread,
}

#[derive(Debug, Default)]
struct Counted {
    rows: HashMap<Of, Row>,
    crowded: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Tally {
    servers: Patterns,
    by_target: bool,
    by_caller: bool,
    counted: Mutex<Counted>,
}

impl Tally {
    pub fn new(wanted: &pb::Tally) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            servers: Patterns::read(wanted.servers.clone())?,
            by_target: wanted.by_target,
            by_caller: wanted.by_caller,
            counted: Mutex::default(),
        }))
    }

    /// What was counted until now, and how many calls found no row of their own.
    pub fn take(&self) -> (Vec<pb::Row>, u64) {
        let Counted { rows, crowded } = std::mem::take(&mut *self.lock());
        let mut rows: Vec<_> = rows.into_iter().map(|(of, row)| told(&of, &row)).collect();
        rows.sort_by(|a, b| (&a.server, &a.target, &a.caller).cmp(&(&b.server, &b.target, &b.caller)));
        (rows, crowded)
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Onlooker for Tally {
    fn ended(&self, event: &Event, outcome: Outcome) {
        if !self.servers.matches(&event.server) {
            return;
        }
        let of = Of {
            server: Arc::clone(&event.server),
            target: event.target.as_deref().filter(|_| self.by_target).map(|text| clipped(text).into()),
            caller: self.by_caller.then(|| Arc::clone(&event.caller)),
        };
        let micros = event.duration.as_micros().try_into().unwrap_or(u64::MAX);
        let mut counted = self.lock();
        let row = counted.row(of);
        row.calls += 1;
        match outcome {
            Outcome::Answered => {}
            Outcome::Refused => row.refused += 1,
            Outcome::Failed => row.failed += 1,
            Outcome::Left => row.left += 1,
        }
        row.took.add(micros);
    }
}

impl Counted {
    /// The row, or where there are as many as are kept, one that is less exact.
    fn row(&mut self, of: Of) -> &mut Row {
        let has_room = self.rows.len() < ROWS_MAX || self.rows.contains_key(&of);
        self.crowded += u64::from(!has_room);
        let vague = Of { server: Arc::clone(&of.server), ..Of::default() };
        let of = match () {
            () if has_room => of,
            // One for each server that has rows; beyond that, one for everything.
            () if self.rows.len() < 2 * ROWS_MAX || self.rows.contains_key(&vague) => vague,
            () => Of::default(),
        };
        self.rows.entry(of).or_default()
    }
}

fn told(of: &Of, row: &Row) -> pb::Row {
    let (places, counts) =
        row.took.occupied().map(|(place, count)| (u32::try_from(place).unwrap_or(u32::MAX), count)).unzip();
    pb::Row {
        server: of.server.to_string(),
        target: of.target.as_deref().unwrap_or_default().to_owned(),
        caller: of.caller.as_deref().unwrap_or_default().to_owned(),
        calls: row.calls,
        refused: row.refused,
        failed: row.failed,
        left: row.left,
        places,
        counts,
    }
}
