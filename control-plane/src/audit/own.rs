//! The control plane's own trail: what operators did and were refused, taken from the store, where each act is written
//! with the change that it made, and chained and sealed like what sidecars ship.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use weft_certs::audit as seals;
use weft_certs::tls::LiveIdentity;
use weft_proto::audit::{Cursor, Operator, Outcome, Seal, TEXT_BYTES_MAX, Trail, What, clip};

use super::database::{self, Checked, Open};
use super::{Error, Settings, Trails, stamp};
use crate::store::limits::PAGE_ENTRIES_MAX;
use crate::store::{Store, audit};

/// As which node the control plane writes.
pub(super) const NODE: &str = "weft-system/control-plane";
/// How often the store is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Longest that acts go without a seal.
const SEAL_EVERY: Duration = Duration::from_secs(10);
/// Lines of a segment after which the next one begins.
const SEGMENT_LINES: u64 = 10_000;
/// Most acts that are taken over at once; older ones are not, should there ever be so many.
const ACTS_MAX: usize = 100_000;
/// Largest details of an act that are taken over, in bytes.
const DETAILS_BYTES_MAX: usize = 16 << 10;

/// Who writes the trail.
#[derive(Debug)]
pub struct Own {
    trails: Trails,
    store: Arc<dyn Store>,
    identity: LiveIdentity,
}

/// What is written to.
struct At {
    open: Open,
    cursor: Cursor,
    /// The last act that was taken over.
    last: u64,
    sealed: Instant,
    sealed_to: u64,
}

impl Own {
    pub fn new(trails: Trails, store: Arc<dyn Store>, identity: LiveIdentity) -> Self {
        Self { trails, store, identity }
    }

    /// Follows the store until the stop, and seals what there is then.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut at = None;
        loop {
            let is_end = shutdown.is_cancelled();
            if let Err(error) = self.round(&mut at, is_end).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "acts of operators could not be added to the audit trail");
                // What is stored is what counts.
                at = None;
            }
            if is_end {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn round(&self, at: &mut Option<At>, is_end: bool) -> Result<(), Error> {
        let mut here = match at.take() {
            Some(here) => here,
            None => match self.open().await? {
                Some(here) => here,
                None => return Ok(()),
            },
        };
        let acts = self.acts(here.last).await?;
        let mut checked = Vec::new();
        for entry in acts {
            let sequence = entry.sequence;
            let at = entry.at;
            if here.cursor.is_open() && here.cursor.next() - here.cursor.first() >= SEGMENT_LINES {
                self.seal(&mut here, true, &mut checked);
            }
            if !here.cursor.is_open() {
                add(&mut here.cursor, None, at, &mut checked);
            }
            add(&mut here.cursor, Some(What::Operator(Box::new(act(entry)))), at, &mut checked);
            here.last = sequence;
        }
        let has_unsealed = here.cursor.is_open() && here.cursor.next() > here.sealed_to;
        if has_unsealed && (is_end || here.sealed.elapsed() >= SEAL_EVERY) {
            self.seal(&mut here, false, &mut checked);
        }
        if !checked.is_empty() {
            let id = here.open.id;
            self.trails.with(move |connection| database::store(connection, id, &checked, stamp())).await?;
        }
        *at = Some(here);
        Ok(())
    }

    /// Takes the trail up, or begins one. None as long as there is no identity to write as.
    async fn open(&self) -> Result<Option<At>, Error> {
        let Some(identity) = self.identity.leaf().map(|leaf| leaf.spiffe_id.to_string()) else {
            return Ok(None);
        };
        // Whatever others take, there is room for this one.
        let settings = Settings {
            trails_max: u64::MAX,
            trails_per_identity_max: u64::MAX,
            trails_per_namespace_max: u64::MAX,
            ..self.trails.0.settings
        };
        let opened = self.trails.with(move |connection| {
            let name = database::newest(connection, NODE)?.and_then(|name| name.parse().ok());
            let name: Trail = name.unwrap_or_else(|| Trail::from_random(rand::random()));
            let named = (NODE, name.as_str(), &*identity);
            let open = database::open(connection, named, &settings, stamp())?;
            let last = database::last_act(connection, open.id)?;
            Ok((open, name, last))
        });
        let (open, name, last) = opened.await?;
        let cursor = open.cursor.clone().unwrap_or_else(|| Cursor::new(NODE, name));
        let sealed_to = cursor.next();
        Ok(Some(At { open, cursor, last, sealed: Instant::now(), sealed_to }))
    }

    /// The acts after one, the oldest first.
    async fn acts(&self, last: u64) -> Result<Vec<audit::Entry>, Error> {
        let (mut acts, mut before) = (Vec::new(), None);
        loop {
            let filter = audit::Filter { before, limit: PAGE_ENTRIES_MAX, ..audit::Filter::default() };
            let page = self.store.audit(filter).await.map_err(|error| Error::Refused(error.to_string()))?;
            let is_last = page.len() < PAGE_ENTRIES_MAX || page.iter().any(|it| it.sequence <= last);
            before = page.last().map(|it| it.sequence);
            acts.extend(page.into_iter().filter(|it| it.sequence > last));
            if is_last || acts.len() >= ACTS_MAX {
                acts.reverse();
                return Ok(acts);
            }
        }
    }

    fn seal(&self, here: &mut At, closes: bool, checked: &mut Vec<Checked>) {
        let Some(identity) = self.identity.load() else { return };
        let certificates = seals::certificates(&identity);
        if here.cursor.certificates() != certificates {
            add(&mut here.cursor, Some(What::Certificate(certificates)), stamp(), checked);
        }
        let statement = here.cursor.statement(stamp(), closes);
        let Some(signature) = seals::sign(&identity, &statement) else { return };
        let seal = Seal {
            segment: statement.segment,
            count: statement.count,
            before: statement.before,
            closes,
            signature,
        };
        add(&mut here.cursor, Some(What::Seal(seal)), statement.at, checked);
        if let Some(last) = checked.last_mut() {
            last.signer = Some(identity.leaf().spiffe_id.to_string());
        }
        (here.sealed, here.sealed_to) = (Instant::now(), here.cursor.next());
    }
}

/// Adds a line, or the beginning of a segment.
fn add(cursor: &mut Cursor, is: Option<What>, at: jiff::Timestamp, checked: &mut Vec<Checked>) {
    let mut before = cursor.clone();
    let mut text = match is {
        Some(is) => cursor.write(at, is),
        None => cursor.begin_segment(at),
    };
    text.pop();
    // What cannot be read back would end the trail.
    let taken = before.take(&text).expect("what was written follows");
    let (segment, first) = (cursor.segment(), cursor.first());
    checked.push(Checked { taken, text, segment, first, signer: None });
}

fn act(entry: audit::Entry) -> Operator {
    let audit::Entry { sequence, revision, record, .. } = entry;
    let text = |text: &str| clip(text, TEXT_BYTES_MAX).to_owned();
    let details = record.details;
    let is_short = details.is_null() || details.to_string().len() <= DETAILS_BYTES_MAX;
    Operator {
        sequence,
        who: text(&record.who),
        from: record.from.map(|from| from.to_string()),
        action: text(&record.action),
        object: text(&record.object),
        outcome: match record.outcome {
            audit::Outcome::Done => Outcome::Done,
            audit::Outcome::Refused => Outcome::Refused,
            audit::Outcome::Failed => Outcome::Failed,
        },
        reason: text(&record.reason),
        revision: revision.map(|it| it.0),
        details: if is_short { details } else { serde_json::Value::String("too long".to_owned()) },
    }
}
