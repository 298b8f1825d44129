//! Whether a caller whom rules refuse would be allowed with one more scope in its token: what a gateway tells a client,
//! so that it asks for more and comes again.
//!
//! Nothing but the name of that scope leaves here. Not here: how it is told, and to whom.

use std::collections::HashMap;

use crate::policy::Caller;
use crate::resource::kinds::{AccessRule, Action};

use super::{Call, View, is_general};

/// Scopes that are tried.
const SCOPES_TRIED_MAX: usize = 8;
/// Rules about one call that are looked at. Where there are more, nobody is told: to be refused must not cost more than
/// to be let in.
const RULES_MAX: usize = 512;
/// Scopes that lists of one server are looked at with.
const SCOPES_LISTED_MAX: usize = 32;
/// Longest scope that is told, in bytes.
pub const SCOPE_BYTES_MAX: usize = 128;

/// One caller with one more scope each, found once for the lists of many servers.
#[derive(Debug)]
pub struct WithScope {
    can_ask: bool,
    known: HashMap<String, Option<Caller>>,
}

impl WithScope {
    /// `can_ask` is whether the caller could come again with another token.
    pub fn new(can_ask: bool) -> Self {
        Self { can_ask, known: HashMap::new() }
    }

    fn with(&mut self, caller: &Caller, claim: &str, scope: &str) -> Option<Caller> {
        let make = || caller.with_scope(claim, scope);
        self.known.entry(format!("{scope} {claim}")).or_insert_with(make).clone()
    }
}

impl View {
    /// A scope that the caller's token lacks and with which the call, refused as it is, would be allowed: the first that
    /// is named, in the order of conflicts. Scopes are named by rules that allow, as exact texts of the claims `scope` and
    /// `scp`; what conditions say of them counts, and names none. Only for calls that name what they are about: that a
    /// whole server may not be used is for the scopes that every token needs.
    pub fn scope_for(&self, call: Call<'_>) -> Option<&str> {
        if call.target.is_none() || is_general(call.method) || self.caller().claims().is_none() {
            return None;
        }
        let about = self.about(call);
        if about.len() > RULES_MAX {
            return None;
        }
        let mut tried = Vec::new();
        for (claim, scope) in about.iter().flat_map(|(_, rule)| self.lacking(rule)) {
            if tried.contains(&(claim, scope)) {
                continue;
            }
            if tried.len() == SCOPES_TRIED_MAX {
                return None;
            }
            tried.push((claim, scope));
            let caller = self.caller().with_scope(claim, scope)?;
            if self.would_allow(caller, &about, call) {
                return Some(scope);
            }
        }
        None
    }

    /// What the same caller could with one more scope, for each that [`View::scope_for`] could tell of some call. No more
    /// than a few are looked at: what others would open is not listed.
    pub(super) fn with_each_scope(&self, callers: &mut WithScope) -> Vec<Self> {
        let mut scopes = Vec::new();
        if callers.can_ask && self.caller().claims().is_some() {
            let unspoken = self.enforced().filter(|(speaks, _)| !speaks);
            for scope in unspoken.flat_map(|(_, rule)| self.lacking(rule)) {
                if scopes.len() < SCOPES_LISTED_MAX && !scopes.contains(&scope) {
                    scopes.push(scope);
                }
            }
        }
        let with = |(claim, scope)| callers.with(self.caller(), claim, scope);
        scopes.into_iter().filter_map(with).map(|caller| self.of_another(caller)).collect()
    }

    /// The scopes that a rule that allows names as exact texts and for want of which alone it does not speak of the
    /// caller, each with its claim.
    fn lacking<'r>(&self, rule: &'r AccessRule) -> impl Iterator<Item = (&'r str, &'r str)> {
        let named = rule.from.iter().flatten().filter(|_| rule.action == Action::Allow);
        let lacking = named.filter_map(|wanted| self.caller().lacks_scope(wanted));
        let scopes = lacking.flat_map(|(claim, values)| values.iter().map(move |scope| (claim, scope)));
        scopes.filter_map(|(claim, scope)| Some((claim, scope.exact().filter(|it| is_scope(it))?)))
    }
}

/// Whether a text is a scope as RFC 6749 writes one, so that it cannot end the text in which it is told.
pub fn is_scope(text: &str) -> bool {
    (1..=SCOPE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}
