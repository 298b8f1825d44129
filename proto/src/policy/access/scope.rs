//! Whether a caller whom rules refuse would be allowed with one more scope in its token: what a gateway tells a client,
//! so that it asks for more and comes again.
//!
//! Nothing but the name of that scope leaves here. Not here: how it is told, and to whom.

use crate::resource::kinds::Action;

use super::{Call, View, is_general};

/// Scopes that are tried.
const SCOPES_TRIED_MAX: usize = 8;
/// Rules about one call that are looked at. Where there are more, nobody is told: to be refused must not cost more than
/// to be let in.
const RULES_MAX: usize = 512;
/// Longest scope that is told, in bytes.
pub const SCOPE_BYTES_MAX: usize = 128;

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
        let allowing = about.iter().filter(|(_, rule)| rule.action == Action::Allow);
        let named = allowing.flat_map(|(_, rule)| rule.from.iter().flatten());
        let lacking = named.filter_map(|wanted| self.caller().lacks_scope(wanted));
        let scopes = lacking.flat_map(|(claim, values)| values.iter().map(move |scope| (claim, scope)));
        let exact =
            scopes.filter_map(|(claim, scope)| Some((claim, scope.exact().filter(|it| is_scope(it))?)));
        let mut tried = Vec::new();
        for (claim, scope) in exact {
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
}

/// Whether a text is a scope as RFC 6749 writes one, so that it cannot end the text in which it is told.
pub fn is_scope(text: &str) -> bool {
    (1..=SCOPE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}
