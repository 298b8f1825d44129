//! Whether a caller is the one that a rule speaks of, as far as its identity tells.

use crate::name::{SpiffeId, Workload};
use crate::resource::kinds::{CallerMatch, Patterns};

/// What an identity alone says about a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Likeness {
    No,
    /// The identity fits; tenant or claims, which only a call brings, decide.
    Perhaps,
    Yes,
}

/// A caller of this mesh, taken apart once for many matches: kept as long as the connection that proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    workload: Workload,
    id: SpiffeId,
    qualified_account: String,
}

impl Caller {
    pub fn new(workload: Workload) -> Self {
        let qualified_account = format!("{}/{}", workload.namespace, workload.account);
        Self { id: workload.id(), workload, qualified_account }
    }

    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// How the caller is like any one of several; everyone where none are given.
    pub(super) fn is_like_any<'m>(
        &self,
        matches: Option<impl IntoIterator<Item = &'m CallerMatch>>,
    ) -> Likeness {
        let Some(matches) = matches else { return Likeness::Yes };
        matches.into_iter().map(|it| self.is_like(it)).max().unwrap_or(Likeness::No)
    }

    /// Every part that is given must match.
    fn is_like(&self, wanted: &CallerMatch) -> Likeness {
        let CallerMatch { identities, namespaces, service_accounts, tenants, claims } = wanted;
        let known = identities.as_ref().is_none_or(|list| list.iter().any(|it| it.matches(&self.id)))
            && namespaces.as_ref().is_none_or(|list| any(list, self.workload.namespace.as_str()))
            && service_accounts.as_ref().is_none_or(|list| self.has_account(list));
        match (known, tenants.is_some() || !claims.is_empty()) {
            (false, _) => Likeness::No,
            (true, true) => Likeness::Perhaps,
            (true, false) => Likeness::Yes,
        }
    }

    /// A pattern with a slash speaks of `<namespace>/<account>`, one without of the account in any namespace.
    fn has_account(&self, patterns: &Patterns) -> bool {
        patterns.iter().any(|pattern| match pattern.as_str().contains('/') {
            true => pattern.matches(&self.qualified_account),
            false => pattern.matches(self.workload.account.as_str()),
        })
    }
}

fn any(patterns: &Patterns, text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}
