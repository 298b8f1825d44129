//! What one endpoint shows that is made of many servers: the tools, prompts, resources and templates of all members, each
//! under a name of its own, and the way back from a name to its server.
//!
//! Names are found in a fixed order, members as they are ranked and the items of each by name, so that everyone who knows
//! the same offers shows the same. Not here: who may use what, and what a call means.

mod names;
mod page;
mod uris;
mod whole;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::mcp::lists::Listed;
use crate::name::{ServerName, ToolName};
use crate::offer::{Offer, Offered};
use crate::resource::kinds::{Member, Patterns, Prefixing};

pub use page::{Page, PageLimits};
pub use uris::own as own_uri;

use names::Taken;

/// Between prefix and name, if nothing else is said.
pub const SEPARATOR: &str = "_";

/// Servers of one roster.
pub const MEMBERS_MAX: usize = 16_384;

/// How names are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming<'a> {
    pub prefix: Prefixing,
    pub separator: &'a str,
}

impl Default for Naming<'_> {
    fn default() -> Self {
        Self { prefix: Prefixing::Always, separator: SEPARATOR }
    }
}

/// A server among the members. The first to claim a name keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub offer: &'a Offer,
    /// In front of the names of its tools and prompts.
    pub prefix: &'a str,
    /// Which of its tools; all if not given.
    pub tools: Option<&'a Patterns>,
    /// Other names for tools, which are shown as they are given.
    pub rename: Option<&'a BTreeMap<ToolName, ToolName>>,
}

impl<'a> Part<'a> {
    pub fn of(member: &'a Member, offer: &'a Offer) -> Self {
        let prefix = member.prefix.as_ref().map_or(offer.server.name.as_str(), |prefix| prefix.as_str());
        Self { offer, prefix, tools: member.tools.as_ref(), rename: Some(&member.rename) }
    }
}

/// Something as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The name, URI or URI template by which it is asked for.
    pub name: Box<str>,
    pub server: ServerName,
    /// As the server calls it.
    pub own: Arc<Offered>,
}

impl Shown {
    /// The definition under the name that is shown.
    pub fn write(&self, to: &mut String) {
        match self.name == self.own.name {
            true => to.push_str(&self.own.definition),
            false => self.own.write_as(&self.name, to),
        }
    }
}

/// Everything that is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roster {
    /// By kind, each in the order of the names that are shown.
    shown: [Vec<Shown>; Listed::ALL.len()],
    /// Of each kind what is not shown, because its name is another's.
    hidden: [usize; Listed::ALL.len()],
    uris: uris::Ways,
}

impl Roster {
    /// `may_show` has the last word on what is shown: tools and prompts by the names that are shown, resources and
    /// templates by those that their servers have for them, whatever they are shown as.
    pub fn new<'a>(
        parts: impl IntoIterator<Item = Part<'a>>,
        naming: Naming<'_>,
        mut may_show: impl FnMut(Listed, &str) -> bool,
    ) -> Self {
        let parts: Vec<_> = parts.into_iter().take(MEMBERS_MAX).collect();
        let mut roster = Self::default();
        for kind in [Listed::Tool, Listed::Prompt] {
            let mut taken = Taken::new(naming, kind, &parts);
            for part in &parts {
                for own in part.offer.of(kind) {
                    if !part.takes(own) {
                        continue;
                    }
                    match taken.name(naming, part, own) {
                        Some(name) if !may_show(kind, &name) => {}
                        Some(name) => roster.show(name, part, own),
                        None => roster.hidden[kind as usize] += 1,
                    }
                }
            }
        }
        let mut taken = HashMap::new();
        for kind in [Listed::Resource, Listed::ResourceTemplate] {
            for part in &parts {
                for own in part.offer.of(kind) {
                    let uri = uris::shown(&mut taken, &part.offer.server, &own.name);
                    if may_show(kind, &own.name) {
                        roster.show(uri, part, own);
                    }
                }
            }
        }
        for shown in &mut roster.shown {
            shown.sort_by(|a, b| a.name.cmp(&b.name));
        }
        roster.uris = uris::Ways::new(parts.iter().map(|part| part.offer));
        roster
    }

    fn show(&mut self, name: Box<str>, part: &Part<'_>, own: &Arc<Offered>) {
        let shown = Shown { name, server: part.offer.server.clone(), own: Arc::clone(own) };
        self.shown[own.kind as usize].push(shown);
    }

    /// What of a kind is shown, in the order of names.
    pub fn of(&self, kind: Listed) -> &[Shown] {
        &self.shown[kind as usize]
    }

    /// How much of a kind is not shown, because its name is another's.
    pub const fn hidden(&self, kind: Listed) -> usize {
        self.hidden[kind as usize]
    }

    pub fn find(&self, kind: Listed, name: &str) -> Option<&Shown> {
        let shown = self.of(kind);
        shown.binary_search_by(|it| (*it.name).cmp(name)).ok().map(|at| &shown[at])
    }

    /// Where a URI leads, and what it is called there; none where nobody offers anything like it.
    pub fn resource<'u>(&self, uri: &'u str) -> Option<(&ServerName, &'u str)> {
        // What is listed is listed under one name, and the server's own may be another. A template is named as it is
        // written where its variables are to be completed.
        let listed = self.find(Listed::Resource, uri).or_else(|| self.find(Listed::ResourceTemplate, uri));
        if let Some(shown) = listed {
            return Some((&shown.server, if *shown.own.name == *uri { uri } else { uris::own(uri) }));
        }
        self.uris.lead(uri, self.of(Listed::ResourceTemplate))
    }

    /// How a URI of a server is shown to whoever asks here.
    pub fn uri_shown(&self, server: &ServerName, own: &str) -> Option<String> {
        let leads_back = |uri: &str| self.resource(uri) == Some((server, own));
        (!leads_back(own)).then(|| uris::wrapped(server, own))
    }
}

impl Part<'_> {
    fn takes(&self, own: &Offered) -> bool {
        own.kind != Listed::Tool
            || self.tools.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(&own.name)))
    }

    /// The name that is shown instead of a tool's own.
    fn renamed(&self, own: &Offered) -> Option<&str> {
        if own.kind != Listed::Tool {
            return None;
        }
        let own = ToolName::parse(&own.name).ok()?;
        self.rename?.get(&own).map(ToolName::as_str)
    }
}

#[cfg(test)]
mod tests;
