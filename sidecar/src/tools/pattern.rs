//! How heavy a pattern of a schema is. Patterns are matched in linear time, but at every byte of a text all of a
//! pattern's states may have to be looked at, and a few characters can say thousands of them.

use jsonschema_regex::to_rust_regex;
use regex_automata::nfa::thompson::NFA;

use super::schema::Unusable;

/// Bytes of a pattern's automaton.
pub(super) const AUTOMATON_BYTES_MAX: usize = 256 << 10;
/// Bytes of what matching keeps of a pattern, to be faster with the next text.
pub(super) const CACHE_BYTES_MAX: usize = 64 << 10;
/// What one state takes of that, about.
const CACHE_BYTES_PER_STATE: usize = 256;
/// An automaton is held forwards, backwards and for where more than one reads it at once.
const COPIES: usize = 4;
/// Caches are held forwards, and of two at once.
const CACHES: usize = 2;

/// What a pattern takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heft {
    /// Looked at with each byte of a text, at most.
    pub(super) states: u64,
    pub(super) bytes: usize,
}

pub(super) fn heft(pattern: &str) -> Result<Heft, Unusable> {
    let invalid = || Unusable::Invalid(format!("the pattern {}", super::schema::clip(pattern)));
    let translated = to_rust_regex(pattern).map_err(|()| invalid())?;
    let config = NFA::config().nfa_size_limit(Some(AUTOMATON_BYTES_MAX));
    // What it says beyond that it is too large or none tells nobody more than the pattern.
    let automaton = NFA::compiler().configure(config).build(&translated).map_err(|_| invalid())?;
    let states = automaton.states().len();
    let cache = CACHE_BYTES_MAX.min(states.saturating_mul(CACHE_BYTES_PER_STATE));
    Ok(Heft { states: states as u64, bytes: automaton.memory_usage() * COPIES + cache * CACHES })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_as_heavy_as_if_it_were_written_out() {
        let states = |pattern: &str| heft(pattern).unwrap().states;
        assert!(states("^/data/") < 30);
        assert!(states("^[a-z0-9-]{1,63}$") < 200);
        assert!(states("(a|b)*a(a|b){1000}") > 1000);
        assert!(heft("(a{1000}){1000}").is_err());
        assert!(heft("(?=x)y").is_err());
        assert!(heft("[a-z]{1,500}").unwrap().bytes > heft("[a-z]").unwrap().bytes);
    }
}
