//! Who looks on as calls end: for as long as somebody asks for it, and at no cost while nobody does, for then a call that
//! ends reads one flag.
//!
//! Onlookers are told in the thread that served the call: they wait for nothing, and what they have no room for is
//! counted. They never see an argument or a result. Not here: who may ask, which the control plane decides.

mod outcome;
mod tally;
mod tap;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use weft_proto::name::{self, Glob};

use crate::record::Event;
pub use outcome::{Outcome, Outcomes, is_counted};
pub use tally::Tally;
pub use tap::Tap;

/// Onlookers at once.
pub const ONLOOKERS_MAX: usize = 16;
/// Patterns of one kind in what an onlooker wants.
const PATTERNS_MAX: usize = 16;
/// Longest text of a caller's choice that is passed on, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// Somebody who is told of each call that ended.
pub trait Onlooker: fmt::Debug + Send + Sync {
    fn ended(&self, event: &Event, outcome: Outcome);
}

/// Those who look on now; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Onlookers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether there are any.
    any: AtomicBool,
    all: ArcSwap<Vec<Arc<dyn Onlooker>>>,
    changing: Mutex<()>,
    outcomes: Outcomes,
}

/// Somebody who looks on, until this is dropped.
#[derive(Debug)]
pub struct Looking {
    at: Arc<Inner>,
    who: Arc<dyn Onlooker>,
}

/// Why a question about calls makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("at most {PATTERNS_MAX} patterns of one kind are taken")]
    TooManyPatterns,
    #[error("the pattern {text:?}: {source}")]
    Pattern {
        text: String,
        #[source]
        source: name::Error,
    },
}

impl Onlookers {
    /// Lets one more look on; none if as many do as may.
    pub fn add(&self, who: Arc<dyn Onlooker>) -> Option<Looking> {
        let _one_by_one = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::clone(&self.0.all.load());
        if all.len() >= ONLOOKERS_MAX {
            return None;
        }
        all.push(Arc::clone(&who));
        self.0.all.store(Arc::new(all));
        self.0.any.store(true, Ordering::Relaxed);
        Some(Looking { at: Arc::clone(&self.0), who })
    }

    /// Whether anybody looks on.
    pub fn is_looked_on(&self) -> bool {
        self.0.any.load(Ordering::Relaxed)
    }

    /// A request ended.
    pub fn ended(&self, event: &Event) {
        if self.is_looked_on() {
            self.0.tell(event);
        }
    }
}

impl Inner {
    fn tell(&self, event: &Event) {
        if !is_counted(event) {
            return;
        }
        let outcome = self.outcomes.of(event.reason);
        self.all.load().iter().for_each(|who| who.ended(event, outcome));
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        let _one_by_one = self.at.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::clone(&self.at.all.load());
        all.retain(|who| !Arc::ptr_eq(who, &self.who));
        self.at.any.store(!all.is_empty(), Ordering::Relaxed);
        self.at.all.store(Arc::new(all));
    }
}

/// Patterns, of which one must match; without any, everything does.
#[derive(Debug, Default)]
struct Patterns(Vec<Glob>);

impl Patterns {
    fn read(texts: Vec<String>) -> Result<Self, Error> {
        if texts.len() > PATTERNS_MAX {
            return Err(Error::TooManyPatterns);
        }
        let read = texts
            .into_iter()
            .map(|text| Glob::parse(&text).map_err(|source| Error::Pattern { text, source }));
        read.collect::<Result<_, _>>().map(Self)
    }

    fn matches(&self, text: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(text))
    }
}

fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests;
