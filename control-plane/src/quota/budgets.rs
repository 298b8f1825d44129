//! Budgets of the mesh. How much of one is lent to whom is [`Ledger`]'s to say; here are the ledgers of all of them, and
//! what counts as spent is in the store before anybody is told of a loan.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;
use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::policy::quota::lease::{Ledger, Loan, Part, Told};
use weft_proto::policy::quota::{Calendar, Gauge, Limit};

use super::lender::{KeyOf, Standing};
use super::lent::Totals;
use crate::store::{self, Count, Key, Store, limits};

/// What sums of budgets are called in the store, before the digest of what tells one from all others.
const PREFIX: &str = "budgets/";

/// Whoever asks for a share of a budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) node: u64,
    pub(super) holder: u64,
}

/// Why nothing is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unlent {
    /// What was spent before this run is not known yet.
    NotRead,
    KeysOfNode,
    Keys,
}

#[derive(Debug)]
pub(super) struct Budgets {
    inner: Mutex<Inner>,
    /// One writing at a time, so that an older sum never comes over a newer one.
    writes: tokio::sync::Mutex<()>,
    keys_max: usize,
    keys_per_node_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    books: HashMap<KeyOf, Book>,
    /// Of which something else counts as spent than is written down.
    changed: HashSet<KeyOf>,
    /// What earlier runs wrote down, by its name in the store; nothing before that was read.
    kept: Option<HashMap<Key, Sum>>,
    /// How many budgets each node named.
    named: HashMap<u64, usize>,
}

/// What counts as spent of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sum {
    ends: i64,
    milli: u64,
}

/// One budget in its present window.
#[derive(Debug)]
struct Book {
    ledger: Ledger,
    /// In the store.
    at: Key,
    written: Option<Sum>,
    name: Arc<str>,
    amount: String,
    users: HashMap<u64, User>,
}

#[derive(Debug, Default)]
struct User {
    holder: u64,
    totals: Totals,
    released: bool,
}

impl Budgets {
    pub(super) fn new(keys_max: usize, keys_per_node_max: usize) -> Self {
        Self { inner: Mutex::default(), writes: tokio::sync::Mutex::default(), keys_max, keys_per_node_max }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().books.len()
    }

    /// Reads what counts as spent. Until then nothing is lent.
    pub(super) async fn read(&self, store: &dyn Store) -> store::Result<()> {
        let mut kept = HashMap::new();
        let mut after = None;
        loop {
            let page = store.counts(after).await?;
            after = page.last().map(|count| count.name.clone());
            kept.extend(page.into_iter().map(|it| (it.name, Sum { ends: it.ends, milli: it.milli })));
            if after.is_none() {
                break;
            }
        }
        self.lock().kept = Some(kept);
        Ok(())
    }

    /// Takes what a holder says of a budget. Its answer may be given once [`Self::write`] was called after.
    pub(super) fn report(
        &self,
        who: Who,
        key: &KeyOf,
        limit: &Limit,
        (sequence, demand): (u64, &pb::LeaseDemand),
        now_secs: i64,
    ) -> Result<Option<pb::Lease>, Unlent> {
        let Gauge::Budget { amount_milli, calendar } = &limit.gauge else { return Ok(None) };
        let mut inner = self.lock();
        self.has_room(&inner, who.node, key)?;
        let Inner { books, changed, kept: Some(kept), named } = &mut *inner else {
            return Err(Unlent::NotRead);
        };
        let book = books
            .entry(key.clone())
            .or_insert_with(|| Book::begin(key, limit, *amount_milli, calendar, kept, now_secs));
        book.turn(*amount_milli, calendar, now_secs);
        book.amount = limit.amount();
        let user = book.users.entry(who.node).or_insert_with(|| {
            *named.entry(who.node).or_default() += 1;
            User { holder: who.holder, ..User::default() }
        });
        if user.holder != who.holder {
            // The node began anew: whatever its earlier run had is spent.
            book.ledger.forget(user.holder);
            *user = User { holder: who.holder, ..User::default() };
        }
        (user.totals, user.released) = (Totals::of(demand), demand.release);
        let loan = book.ledger.report(who.holder, told(sequence, demand));
        if demand.release {
            book.ledger.forget(who.holder);
        }
        if book.written != Some(book.sum()) {
            changed.insert(key.clone());
        }
        Ok(loan.map(|loan| lease(demand.handle, loan)))
    }

    fn has_room(&self, inner: &Inner, node: u64, key: &KeyOf) -> Result<(), Unlent> {
        let known = inner.books.get(key);
        if known.is_some_and(|book| book.users.contains_key(&node)) {
            return Ok(());
        }
        if inner.named.get(&node).is_some_and(|named| *named >= self.keys_per_node_max) {
            return Err(Unlent::KeysOfNode);
        }
        match known.is_none() && inner.books.len() >= self.keys_max {
            true => Err(Unlent::Keys),
            false => Ok(()),
        }
    }

    /// Writes down what counts as spent now. Whatever was reported before may be answered after.
    pub(super) async fn write(&self, store: &dyn Store) -> store::Result<()> {
        let _one = self.writes.lock().await;
        let changed: Vec<(KeyOf, Count)> = {
            let Inner { books, changed, .. } = &mut *self.lock();
            changed.retain(|key| books.contains_key(key));
            changed.iter().filter_map(|key| Some((key.clone(), books.get(key)?.count()))).collect()
        };
        for counts in changed.chunks(limits::COUNTS_MAX) {
            store.keep_counts(counts.iter().map(|(_, count)| count.clone()).collect()).await?;
            let Inner { books, changed, .. } = &mut *self.lock();
            for (key, count) in counts {
                let Some(book) = books.get_mut(key) else { continue };
                let written = Sum { ends: count.ends, milli: count.milli };
                book.written = Some(written);
                // Otherwise it became another meanwhile, and whoever did that writes it down.
                if book.sum() == written {
                    changed.remove(key);
                }
            }
        }
        Ok(())
    }

    /// Forgets budgets whose windows are over.
    pub(super) fn sweep(&self, now_secs: i64) {
        let mut inner = self.lock();
        let Inner { books, named, .. } = &mut *inner;
        books.retain(|_, book| {
            let goes_on = now_secs < book.ledger.ends();
            if !goes_on {
                for node in book.users.keys() {
                    if let Some(count) = named.get_mut(node) {
                        *count = count.saturating_sub(1);
                    }
                }
            }
            goes_on
        });
        named.retain(|_, count| *count > 0);
    }

    /// How every budget stands that somebody asked for in its present window.
    pub(super) fn standing(
        &self,
        wanted: impl Fn(&str, &[(String, Option<String>)]) -> bool,
    ) -> Vec<Standing> {
        let inner = self.lock();
        let wanted = inner.books.iter().filter(|(key, _)| wanted(&key.policy, &key.parts));
        wanted.map(|(key, book)| book.standing(key)).collect()
    }
}

impl Book {
    fn begin(
        key: &KeyOf,
        limit: &Limit,
        amount: u64,
        calendar: &Calendar,
        kept: &mut HashMap<Key, Sum>,
        now_secs: i64,
    ) -> Self {
        let at = key.name_in_store();
        // A window that began ends at its time, whatever the clock says meanwhile.
        let written = kept.remove(&at).filter(|sum| now_secs < sum.ends);
        let ledger = match written {
            Some(sum) => Ledger::new(sum.ends, amount, sum.milli),
            None => Ledger::new(calendar.at(now_secs).ends, amount, 0),
        };
        let (name, users) = (Arc::clone(&limit.name), HashMap::new());
        Self { ledger, at, written, name, amount: limit.amount(), users }
    }

    /// Goes over to the window that a moment lies in, and to an amount that may be another.
    fn turn(&mut self, amount: u64, calendar: &Calendar, now_secs: i64) {
        if self.ledger.ends() <= now_secs {
            self.ledger = Ledger::new(calendar.at(now_secs).ends, amount, 0);
        }
        self.ledger.change(amount);
    }

    const fn sum(&self) -> Sum {
        Sum { ends: self.ledger.ends(), milli: self.ledger.committed() }
    }

    fn count(&self) -> Count {
        let Sum { ends, milli } = self.sum();
        Count { name: self.at.clone(), ends, milli }
    }

    fn standing(&self, key: &KeyOf) -> Standing {
        let used = self.ledger.spent();
        let part = |capacity| Part { capacity, burst: 0 };
        Standing {
            policy: key.policy.clone(),
            limit: Arc::clone(&self.name),
            amount: self.amount.clone(),
            parts: key.parts.clone(),
            whole: part(self.ledger.amount()),
            lent: part(self.ledger.committed().saturating_sub(used)),
            holders: self.users.values().filter(|user| !user.released).count(),
            totals: self.users.values().fold(Totals::default(), |sum, user| sum.and(user.totals)),
            used_milli: used,
            learns: false,
            is_budget: true,
            overdue: 0,
        }
    }
}

impl KeyOf {
    fn name_in_store(&self) -> Key {
        let parts = self
            .parts
            .iter()
            .map(|(dimension, value)| pb::KeyPart { dimension: dimension.clone(), value: value.clone() });
        let key =
            pb::LimitKey { policy: self.policy.clone(), limit: self.limit.clone(), parts: parts.collect() };
        let digest = digest::digest(&digest::SHA256, &prost::Message::encode_to_vec(&key));
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Key::new(format!("{PREFIX}{hex}")).expect("a digest is a key")
    }
}

const fn told(sequence: u64, demand: &pb::LeaseDemand) -> Told {
    Told {
        sequence,
        ends: demand.window_ends,
        number: demand.number,
        has: demand.has_milli,
        spent: demand.spent_milli,
        wants: demand.wants_milli,
        needs: demand.needs_milli,
    }
}

fn lease(handle: u64, loan: Loan) -> pb::Lease {
    let Loan { ends, may, number, is_last } = loan;
    pb::Lease { handle, number, capacity_milli: may, window_ends: ends, is_last, ..pb::Lease::default() }
}

#[cfg(test)]
mod tests;
