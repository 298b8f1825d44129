//! Which server takes a call that is addressed to another, as a `Route` says.
//!
//! Not here: what is known of servers' instances, sessions, which stay where they were opened, and sending.

mod copies;

use crate::name::ServerName;
use crate::resource::kinds::{Mirror, Patterns, Route, RouteMatch, RouteRule, WeightedServer};

use super::Caller;

pub use copies::{Single, is_harmless, mirrored};

/// Whether any value of a header is as a test wants it. Names come as the rule has them.
pub type Headers<'a> = dyn Fn(&str, &dyn Fn(&str) -> bool) -> bool + 'a;

/// What rules ask about a call.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub method: &'a str,
    /// The tool that is called.
    pub tool: Option<&'a str>,
    pub header: &'a Headers<'a>,
    /// Whoever proved who they are.
    pub caller: Option<&'a Caller>,
}

impl std::fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts")
            .field("method", &self.method)
            .field("tool", &self.tool)
            .finish_non_exhaustive()
    }
}

/// The first rule that matches, with its place among the rules. Without one the server itself is called.
pub fn decide<'r>(route: &'r Route, facts: &Facts<'_>) -> Option<(usize, &'r RouteRule)> {
    let mut rules = route.rules.iter().enumerate();
    rules.find(|(_, rule)| rule.matches.as_ref().is_none_or(|wanted| facts.fit(wanted)))
}

/// What a rule may ask of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    Methods,
    Tools,
    Headers,
    Claims,
}

impl Asks {
    const ALL: [Self; 4] = [Self::Methods, Self::Tools, Self::Headers, Self::Claims];

    /// As the field of `match` is called.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Methods => "methods",
            Self::Tools => "tools",
            Self::Headers => "headers",
            Self::Claims => "claims",
        }
    }
}

/// What a rule asks for that a call has not.
pub fn missed(rule: &RouteRule, facts: &Facts<'_>) -> Vec<Asks> {
    let Some(wanted) = &rule.matches else { return Vec::new() };
    Asks::ALL.into_iter().filter(|asks| !facts.meet(*asks, wanted)).collect()
}

impl Facts<'_> {
    /// Every part that is given must match.
    fn fit(&self, wanted: &RouteMatch) -> bool {
        Asks::ALL.into_iter().all(|asks| self.meet(asks, wanted))
    }

    /// Of callers who proved nothing, no claim matches.
    fn meet(&self, asks: Asks, wanted: &RouteMatch) -> bool {
        let RouteMatch { headers, claims, methods, tools } = wanted;
        let says = |name: &str, values: &Patterns| (self.header)(name, &|it| super::any(values, it));
        let claimed = |claim: &str, values: &Patterns| {
            self.caller.is_some_and(|caller| caller.claims_any(claim, values))
        };
        match asks {
            Asks::Methods => methods.as_ref().is_none_or(|list| super::any(list, self.method)),
            Asks::Tools => {
                tools.as_ref().is_none_or(|list| self.tool.is_some_and(|tool| super::any(list, tool)))
            }
            Asks::Headers => headers.iter().all(|(name, values)| says(name.as_str(), values)),
            Asks::Claims => claims.iter().all(|(claim, values)| claimed(claim.as_str(), values)),
        }
    }
}

/// The servers that a call by this rule tries, in order, each once. One of those in `to` that are available is drawn by
/// weight; the others of them follow, then the available ones in `fallback`, and last, in the same order, those that are
/// not. What weighs nothing gets nothing. Over `draw`s that are spread evenly, shares are as the weights say.
pub fn order(rule: &RouteRule, draw: u64, is_available: impl Fn(&ServerName) -> bool) -> Vec<&ServerName> {
    let weighing = || rule.to.iter().filter(|it| weight(it) > 0);
    let (there, away): (Vec<_>, Vec<_>) = weighing().partition(|it| is_available(&it.server));
    let fallback = || rule.fallback.iter().flatten();
    let mut order = drawn_first(there, draw);
    order.extend(fallback().filter(|server| is_available(server)));
    order.extend(drawn_first(away, draw));
    order.extend(fallback());
    let mut seen: Vec<&ServerName> = Vec::with_capacity(order.len());
    order.retain(|server| {
        let is_new = !seen.contains(server);
        seen.push(*server);
        is_new
    });
    order
}

fn drawn_first(servers: Vec<&WeightedServer>, draw: u64) -> Vec<&ServerName> {
    let total: u64 = servers.iter().map(|it| weight(it)).sum();
    let mut place = draw.checked_rem(total).unwrap_or(0);
    let drawn = servers.iter().position(|it| match place.checked_sub(weight(it)) {
        Some(rest) => {
            place = rest;
            false
        }
        None => true,
    });
    let mut order: Vec<_> = servers.into_iter().map(|it| &it.server).collect();
    if let Some(drawn) = drawn {
        order[..=drawn].rotate_right(1);
    }
    order
}

/// What a server's share is against the others'.
pub fn weight(it: &WeightedServer) -> u64 {
    it.weight.map_or(1, |weight| weight.get().into())
}

/// Whether the mirror gets a copy of a call that it may have.
pub fn is_copied(mirror: &Mirror, draw: u64) -> bool {
    draw % 100 < mirror.percent.map_or(100, |percent| percent.get().into())
}

#[cfg(test)]
mod tests;
