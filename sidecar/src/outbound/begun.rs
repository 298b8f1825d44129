//! Where tasks, and calls that ask for more before they go on, began: what comes next about them goes to the instance that
//! knows them. Answers say it, and it is remembered for a while.
//!
//! Bounded: the oldest are forgotten, as they are after a restart. What is forgotten goes where it would have gone anyway.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use memchr::memmem::Finder;
use weft_proto::mcp::{self, Body, Message, Outcome};
use weft_proto::name::ServerName;

use super::Outbound;
use crate::heard;
use crate::session_id::Tag;

/// How many a generation holds. There are two, the younger of which becomes the older when it is full.
const GENERATION_MAX: usize = 4096;

/// Largest piece of an answer that is looked into.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// The words that an answer must have to begin something.
static WORDS: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| ["\"taskId\"", "\"requestState\""].map(Finder::new));

/// By a hash of the server that was addressed and of what names the task or the state.
#[derive(Debug, Default)]
pub(super) struct Begun {
    hasher: RandomState,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Tag>,
    old: HashMap<u64, Tag>,
}

impl Begun {
    fn learn(&self, addressed: &ServerName, name: &str, instance: Tag) {
        let key = self.hasher.hash_one((addressed, name));
        let mut generations = self.lock();
        if generations.young.len() >= GENERATION_MAX {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, instance);
    }

    fn find(&self, addressed: &ServerName, name: &str) -> Option<Tag> {
        let key = self.hasher.hash_one((addressed, name));
        let generations = self.lock();
        generations.young.get(&key).or_else(|| generations.old.get(&key)).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever reads an answer for what begins with it.
#[derive(Debug)]
pub struct Learning {
    to: Arc<Outbound>,
    addressed: ServerName,
    instance: Tag,
}

impl Learning {
    /// Looks into a piece of an answer, if that holds whole messages, as nearly all do.
    pub fn hear(&self, piece: &[u8]) {
        let is_worth_it = piece.len() <= PIECE_BYTES_MAX && WORDS.iter().any(|it| it.find(piece).is_some());
        for message in heard::messages(piece).filter(|_| is_worth_it) {
            let Ok(Body::One(Message::Response(response))) = mcp::parse(message, heard::BOUNDS) else {
                continue;
            };
            if let Outcome::Result(result) = response.outcome
                && let Some(name) = result.goes_on_by()
            {
                self.to.begun.learn(&self.addressed, &name, self.instance);
            }
        }
    }
}

impl Outbound {
    /// Reads an answer to what was addressed to a server.
    pub fn learning(self: &Arc<Self>, addressed: &ServerName, instance: Tag) -> Learning {
        Learning { to: Arc::clone(self), addressed: addressed.clone(), instance }
    }

    /// What began at an instance, as somebody knows who was told.
    pub fn remember(&self, addressed: &ServerName, name: &str, instance: Tag) {
        self.begun.learn(addressed, name, instance);
    }

    /// Where a task, or a call that goes on with a state, began, as far as that is remembered and still there.
    pub fn began(&self, addressed: &ServerName, name: &str) -> Option<(ServerName, Tag)> {
        let instance = self.begun.find(addressed, name)?;
        Some((self.home(addressed, instance).ok()?, instance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session_id::Key;

    #[test]
    fn what_began_lately_is_known_by_the_server_that_was_addressed() {
        let (begun, key) = (Begun::default(), Key::random());
        let [a, b]: [ServerName; 2] = ["n/a", "n/b"].map(|name| name.parse().unwrap());
        begun.learn(&a, "1", key.tag("x"));
        begun.learn(&b, "1", key.tag("y"));
        assert_eq!((begun.find(&a, "1"), begun.find(&b, "1")), (Some(key.tag("x")), Some(key.tag("y"))));
        assert_eq!(begun.find(&a, "2"), None);
        for task in 0..GENERATION_MAX {
            begun.learn(&b, &format!("t{task}"), key.tag("z"));
        }
        assert!(begun.find(&a, "1").is_some());
        for task in 0..10 * GENERATION_MAX {
            begun.learn(&b, &format!("t{task}"), key.tag("z"));
        }
        assert_eq!(begun.find(&a, "1"), None);
        let generations = begun.lock();
        assert!(generations.young.len() <= GENERATION_MAX && generations.old.len() <= GENERATION_MAX);
    }
}
