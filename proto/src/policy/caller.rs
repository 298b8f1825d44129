//! Whether a caller is the one that a rule speaks of.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::mcp::{self, Raw};
use crate::name::{SpiffeId, Workload};
use crate::resource::kinds::{CallerMatch, Patterns};

/// The claims that a token's scopes are in, by the names that issuers have for them.
const SCOPES: [&str; 2] = ["scope", "scp"];

/// Deepest nesting of claims.
const CLAIMS_DEPTH_MAX: usize = 32;

/// What an identity alone says about a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Likeness {
    No,
    /// The identity fits; tenant or claims, which are not known before there is a call, decide.
    Perhaps,
    Yes,
}

/// A caller of this mesh, taken apart once for many matches: kept as long as what proved it. Clones are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(Arc<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    workload: Workload,
    id: SpiffeId,
    qualified_account: String,
    tenant: Option<Box<str>>,
    /// An object as JSON text that was scanned.
    claims: Option<Box<str>>,
}

impl Caller {
    /// A workload that speaks for itself: of no tenant, and with no claims.
    pub fn new(workload: Workload) -> Self {
        let qualified_account = format!("{}/{}", workload.namespace, workload.account);
        Self(Arc::new(Parts { id: workload.id(), workload, qualified_account, tenant: None, claims: None }))
    }

    /// The same, of a tenant.
    pub fn of_tenant(mut self, tenant: &str) -> Self {
        Arc::make_mut(&mut self.0).tenant = Some(tenant.into());
        self
    }

    /// The same, with the claims of a token that was verified: a JSON object, of which a text that two readers could
    /// understand differently is refused.
    pub fn with_claims(mut self, json: &str) -> Result<Self, mcp::Error> {
        let claims = Raw::scan(json, CLAIMS_DEPTH_MAX)?;
        if !claims.is_object() {
            return Err(mcp::Error::NotAMessage { at: 0, what: "claims are an object".into() });
        }
        Arc::make_mut(&mut self.0).claims = Some(claims.get().into());
        Ok(self)
    }

    pub fn workload(&self) -> &Workload {
        &self.0.workload
    }

    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    pub fn tenant(&self) -> Option<&str> {
        self.0.tenant.as_deref()
    }

    /// The claims as a JSON object; none for whoever brought no token.
    pub fn claims(&self) -> Option<Raw<'_>> {
        self.0.claims.as_deref().map(Raw::scanned)
    }

    /// The scopes of which a match wants one and the caller has none, where all else of it fits; and in which claim.
    pub(super) fn lacks_scope<'m>(&self, wanted: &'m CallerMatch) -> Option<(&'m str, &'m Patterns)> {
        let mut lacking =
            wanted.claims.iter().filter(|(claim, values)| !self.claims_any(claim.as_str(), values));
        let (claim, values) = lacking.next().filter(|(claim, _)| SCOPES.contains(&claim.as_str()))?;
        let is_all = lacking.next().is_none() && self.misses_besides_claims(wanted).is_none();
        is_all.then_some((claim.as_str(), values))
    }

    /// The same caller with one more scope; none of whoever has no claims.
    pub(super) fn with_scope(&self, claim: &str, scope: &str) -> Option<Self> {
        let mut claims: serde_json::Map<_, _> = serde_json::from_str(self.claims()?.get()).ok()?;
        let had = claims.entry(claim).or_insert_with(|| Value::Array(Vec::new()));
        match had {
            Value::Array(all) => all.push(scope.into()),
            one => *one = Value::Array(vec![one.take(), scope.into()]),
        }
        self.clone().with_claims(&Value::from(claims).to_string()).ok()
    }

    /// Whether the caller is one of several; everyone is where none are given.
    pub(super) fn is_one_of<'m>(&self, matches: Option<impl IntoIterator<Item = &'m CallerMatch>>) -> bool {
        matches.is_none_or(|matches| matches.into_iter().any(|it| self.misses(it).is_none()))
    }

    /// A claim that is one text.
    pub fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        let exactly = |(key, value): (Raw<'_>, _)| (key.text()? == name).then_some(value);
        self.claims()?.parts().find_map(exactly)?.text()
    }

    /// How the caller is like any one of several, by its identity alone.
    pub(super) fn is_like_any<'m>(
        &self,
        matches: Option<impl IntoIterator<Item = &'m CallerMatch>>,
    ) -> Likeness {
        let like = |wanted: &CallerMatch| match self.misses_by_identity(wanted) {
            Some(_) => Likeness::No,
            None if wanted.tenants.is_some() || !wanted.claims.is_empty() => Likeness::Perhaps,
            None => Likeness::Yes,
        };
        let Some(matches) = matches else { return Likeness::Yes };
        matches.into_iter().map(like).max().unwrap_or(Likeness::No)
    }

    /// The first part of a match that does not fit, by the name of its field: every part that is given must.
    pub(super) fn misses(&self, wanted: &CallerMatch) -> Option<&'static str> {
        let claimed = || wanted.claims.iter().all(|(claim, values)| self.claims_any(claim.as_str(), values));
        self.misses_besides_claims(wanted).or_else(|| (!claimed()).then_some("claims"))
    }

    fn misses_besides_claims(&self, wanted: &CallerMatch) -> Option<&'static str> {
        let is_of = |tenants: &Patterns| self.tenant().is_some_and(|tenant| any(tenants, tenant));
        let tenant = || (!wanted.tenants.as_ref().is_none_or(is_of)).then_some("tenants");
        self.misses_by_identity(wanted).or_else(tenant)
    }

    fn misses_by_identity(&self, wanted: &CallerMatch) -> Option<&'static str> {
        let CallerMatch { identities, namespaces, service_accounts, tenants: _, claims: _ } = wanted;
        let workload = self.workload();
        if identities.as_ref().is_some_and(|list| !list.iter().any(|it| it.matches(self.id()))) {
            Some("identities")
        } else if namespaces.as_ref().is_some_and(|list| !any(list, workload.namespace.as_str())) {
            Some("namespaces")
        } else if service_accounts.as_ref().is_some_and(|list| !self.has_account(list)) {
            Some("serviceAccounts")
        } else {
            None
        }
    }

    /// A claim is a text, or a list of which any text counts. Others match no pattern.
    pub(super) fn claims_any(&self, claim: &str, wanted: &Patterns) -> bool {
        let exactly = |(key, value): (Raw<'_>, _)| (key.text()? == claim).then_some(value);
        let Some(value) = self.claims().and_then(|claims| claims.parts().find_map(exactly)) else {
            return false;
        };
        let is_wanted = |it: Raw<'_>| it.text().is_some_and(|text| any(wanted, &text));
        is_wanted(value) || !value.is_object() && value.parts().any(|(_, it)| is_wanted(it))
    }

    /// A pattern with a slash speaks of `<namespace>/<account>`, one without of the account in any namespace.
    fn has_account(&self, patterns: &Patterns) -> bool {
        patterns.iter().any(|pattern| match pattern.as_str().contains('/') {
            true => pattern.matches(&self.0.qualified_account),
            false => pattern.matches(self.workload().account.as_str()),
        })
    }
}

pub(super) fn any(patterns: &Patterns, text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller::new(SpiffeId::parse("spiffe://d/ns/agents/sa/reviewer").unwrap().workload().unwrap())
    }

    #[track_caller]
    fn check(caller: &Caller, wanted: &str, expected: Option<&str>) {
        let wanted: CallerMatch = serde_json::from_str(wanted).unwrap();
        assert_eq!(caller.misses(&wanted), expected, "{wanted:?}");
    }

    #[test]
    fn a_workload_alone_is_of_no_tenant_and_claims_nothing() {
        check(&caller(), r#"{"namespaces": ["agents"]}"#, None);
        check(&caller(), r#"{"namespaces": ["agents"], "tenants": ["*"]}"#, Some("tenants"));
        check(&caller(), r#"{"claims": {"groups": ["*"]}}"#, Some("claims"));
    }

    #[test]
    fn every_claim_must_fit_by_any_of_its_texts() {
        let caller = caller().of_tenant("acme");
        let caller =
            caller.with_claims(r#"{"groups": ["dev", 7], "s\u0075b": "ann", "n": 5, "o": {"a": "x"}}"#);
        let caller = caller.unwrap();
        check(&caller, r#"{"tenants": ["b", "ac*"]}"#, None);
        check(&caller, r#"{"tenants": ["b"]}"#, Some("tenants"));
        check(&caller, r#"{"claims": {"groups": ["ops", "de*"], "sub": ["ann"]}}"#, None);
        check(&caller, r#"{"claims": {"groups": ["dev"], "sub": ["bob"]}}"#, Some("claims"));
        for (claim, pattern) in [("groups", "7"), ("n", "*"), ("o", "*"), ("Groups", "*"), ("absent", "*")] {
            check(&caller, &format!(r#"{{"claims": {{"{claim}": ["{pattern}"]}}}}"#), Some("claims"));
        }
    }

    #[test]
    fn claims_that_two_readers_could_understand_differently_are_refused() {
        for json in [r#"{"a": 1, "\u0061": 2}"#, "[]", "{} {}", r#"{"a": "\ud800"}"#, ""] {
            assert!(caller().with_claims(json).is_err(), "{json}");
        }
    }
}
