//! What of an assembly each of those is shown for whom a gateway calls: what it may use, or could with a scope that it can
//! ask for, by the policies of the virtual server and of its members.
//!
//! Found once for what a gateway says of a caller, and kept until there is another drawing. Not here: whether a call may be
//! made. A call of what is not shown goes to the sidecar beside its server like any other, and is decided there.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;
use weft_proto::mcp::lists::Listed;
use weft_proto::name::ServerName;
use weft_proto::policy::Caller;
use weft_proto::policy::access::{Listing, WithScope};
use weft_proto::roster::{Roster, Shown};

use crate::gateway::known::{Digest, Known, digest};
use crate::gateway::{Guest, is_of_token};

use super::drawn::Drawn;

/// Callers of whom is kept what they are shown: of 20,000 tools it takes 2.5 KB each.
const CALLERS_MAX: usize = 1024;

/// Sets of rules of which is kept what they show.
const RULES_MAX: usize = 64;

/// What each caller is shown.
#[derive(Debug)]
pub(super) struct Kept {
    /// By what is said of it.
    callers: Known<Arc<Narrowed>>,
    /// By the rules that speak of it, which are the same for many.
    by_rules: Known<Arc<Narrowed>>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { callers: Known::new(CALLERS_MAX), by_rules: Known::new(RULES_MAX) }
    }
}

/// What one caller is shown of a roster: of each kind, one bit for each item in the roster's order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Narrowed([Box<[u64]>; Listed::ALL.len()]);

impl Kept {
    /// What somebody is shown of whom a gateway says this.
    pub(super) fn of(&self, drawn: &Drawn, said: &HeaderValue) -> Arc<Narrowed> {
        let key = digest(said);
        if let Some(known) = self.callers.find(&key) {
            return known;
        }
        // Not while others wait: two may find out the same.
        let guest = Guest::read(said, drawn.workload().clone(), usize::MAX);
        // This gateway said it itself, so that it can be read.
        let narrowed = guest.map(|guest| self.found(drawn, &guest.caller)).unwrap_or_default();
        self.callers.keep(key, Arc::clone(&narrowed));
        narrowed
    }

    fn found(&self, drawn: &Drawn, guest: &Caller) -> Arc<Narrowed> {
        let listings = Listings::new(drawn, guest);
        let Some(key) = listings.decided_by() else { return Arc::new(listings.narrow(&drawn.roster)) };
        self.by_rules.find(&key).unwrap_or_else(|| {
            let narrowed = Arc::new(listings.narrow(&drawn.roster));
            self.by_rules.keep(key, Arc::clone(&narrowed));
            narrowed
        })
    }
}

/// What policies show one caller.
struct Listings<'d> {
    /// Those of the virtual server.
    whole: Option<Listing>,
    members: BTreeMap<&'d ServerName, Listing>,
}

impl<'d> Listings<'d> {
    fn new(drawn: &'d Drawn, guest: &Caller) -> Self {
        let mut with_scope = WithScope::new(is_of_token(guest));
        let mut listing = |view| Listing::new(Arc::new(view), &mut with_scope);
        let whole = drawn.view_of(guest).map(&mut listing);
        let members = drawn.judged().views(guest).map(|(server, view)| (server, listing(view)));
        Self { whole, members: members.collect() }
    }

    /// Known by this, another caller is shown the same of the same drawing; none where each is judged for itself.
    fn decided_by(&self) -> Option<Digest> {
        let mut rules = Vec::new();
        let mut all = self.whole.iter().chain(self.members.values());
        let can_be_said = all.all(|listing| listing.decided_by(&mut rules));
        let bytes = || rules.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        can_be_said.then(|| digest(bytes()))
    }

    fn narrow(&self, roster: &Roster) -> Narrowed {
        // Rules of a virtual server speak of tools and prompts by the names that are shown.
        let shows = |kind: Listed, it: &Shown| {
            let name = match kind {
                Listed::Tool | Listed::Prompt => &it.name,
                Listed::Resource | Listed::ResourceTemplate => &it.own.name,
            };
            self.whole.as_ref().is_none_or(|whole| whole.shows(kind, name))
        };
        let mut last: Option<(&ServerName, Option<&Listing>)> = None;
        Narrowed(Listed::ALL.map(|kind| {
            let all = roster.of(kind);
            let mut bits = vec![0_u64; all.len().div_ceil(64)].into_boxed_slice();
            for (at, it) in all.iter().enumerate() {
                // What is of one member mostly stands together.
                let member = match last {
                    Some((server, member)) if *server == it.server => member,
                    _ => self.members.get(&it.server),
                };
                last = Some((&it.server, member));
                if shows(kind, it) && member.is_none_or(|member| member.shows(kind, &it.own.name)) {
                    bits[at / 64] |= 1 << (at % 64);
                }
            }
            bits
        }))
    }
}

impl Narrowed {
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
