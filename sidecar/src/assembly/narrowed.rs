//! What of an assembly each of those is shown for whom a gateway calls: what it may use, or could with a scope that it can
//! ask for, by the policies of the virtual server and of its members.
//!
//! Found once for what a gateway says of a caller, and kept until there is another drawing. Not here: whether a call may be
//! made. A call of what is not shown goes to the sidecar beside its server like any other, and is decided there.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;
use weft_proto::mcp::lists::Listed;
use weft_proto::name::ServerName;
use weft_proto::policy::Caller;
use weft_proto::policy::access::{Listing, WithScope};
use weft_proto::roster::{Roster, Shown};

use crate::gateway::known::{Known, digest};
use crate::gateway::{Guest, is_of_token};

use super::drawn::Drawn;

/// Callers of whom is kept what they are shown: of 20,000 tools it takes 2.5 KB each.
const CALLERS_MAX: usize = 1024;

/// What each caller is shown.
#[derive(Debug)]
pub(super) struct Kept(Known<Arc<Narrowed>>);

impl Default for Kept {
    fn default() -> Self {
        Self(Known::new(CALLERS_MAX))
    }
}

/// What one caller is shown of a roster: of each kind, one bit for each item in the roster's order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Narrowed([Box<[u64]>; Listed::ALL.len()]);

impl Kept {
    /// What somebody is shown of whom a gateway says this.
    pub(super) fn of(&self, drawn: &Drawn, said: &HeaderValue) -> Arc<Narrowed> {
        let key = digest(said);
        if let Some(known) = self.0.find(&key) {
            return known;
        }
        // Not while others wait: two may find out the same.
        let guest = Guest::read(said, drawn.workload().clone(), usize::MAX);
        // This gateway said it itself, so that it can be read.
        let narrowed = guest.map(|guest| Narrowed::new(drawn, &guest.caller)).unwrap_or_default();
        let narrowed = Arc::new(narrowed);
        self.0.keep(key, Arc::clone(&narrowed));
        narrowed
    }
}

impl Narrowed {
    fn new(drawn: &Drawn, guest: &Caller) -> Self {
        let mut with_scope = WithScope::new(is_of_token(guest));
        let mut listing = |view| Listing::new(Arc::new(view), &mut with_scope);
        let whole = drawn.view_of(guest).map(&mut listing);
        let members: HashMap<&ServerName, Listing> =
            drawn.judged().views(guest).map(|(server, view)| (server, listing(view))).collect();
        // Rules of a virtual server speak of tools and prompts by the names that are shown.
        let shows = |kind: Listed, it: &Shown| {
            let name = match kind {
                Listed::Tool | Listed::Prompt => &it.name,
                Listed::Resource | Listed::ResourceTemplate => &it.own.name,
            };
            whole.as_ref().is_none_or(|whole| whole.shows(kind, name))
        };
        let mut last: Option<(&ServerName, Option<&Listing>)> = None;
        Self(Listed::ALL.map(|kind| {
            let all = drawn.roster.of(kind);
            let mut bits = vec![0_u64; all.len().div_ceil(64)].into_boxed_slice();
            for (at, it) in all.iter().enumerate() {
                // What is of one member mostly stands together.
                let member = match last {
                    Some((server, member)) if *server == it.server => member,
                    _ => members.get(&it.server),
                };
                last = Some((&it.server, member));
                if shows(kind, it) && member.is_none_or(|member| member.shows(kind, &it.own.name)) {
                    bits[at / 64] |= 1 << (at % 64);
                }
            }
            bits
        }))
    }

    /// Whether something is shown, by its place in the roster.
    pub(super) fn has(&self, kind: Listed, at: usize) -> bool {
        self.0[kind as usize].get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Whether a tool is shown, by its name.
    pub(super) fn has_tool(&self, roster: &Roster, name: &str) -> bool {
        let found = roster.of(Listed::Tool).binary_search_by(|it| (*it.name).cmp(name));
        found.is_ok_and(|at| self.has(Listed::Tool, at))
    }

    pub(super) fn tools(&self) -> usize {
        self.0[Listed::Tool as usize].iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests;
