//! What the policies of a server say about one of its tools.
//!
//! Of several policies that speak about a tool, this order holds: the more specific selector of servers, then the
//! narrower pattern for the tool, then as everywhere a policy of the server's namespace before one of the root
//! namespace, the older one, the name. Each field is settled on its own, by the first policy that says something about
//! it; what is left at its default says nothing. Three fields are of all policies together: definitions are pinned as
//! the strictest of them wants, so that nobody in a namespace weakens what is held for the whole mesh; an approval is
//! looked for in each; and what any of them redacts is redacted.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use crate::compile::{Precision, ServerEntry, Snapshot, Subject, specificity};
use crate::name::{Digest, Namespace};
use crate::resource::kinds::{ResponseCache, RetryClass, Strictness, ToolPolicy};
use crate::resource::units::Delay;
use crate::wire::Object;

use super::Redaction;

/// The policies that speak about a tool, in order.
#[derive(Clone, Debug)]
pub struct Speaking<'p> {
    policies: Vec<&'p Arc<Object<ToolPolicy>>>,
}

/// How calls of a tool are treated.
#[derive(Clone, Debug, PartialEq)]
pub struct Treatment<'p> {
    pub timeout: Option<Duration>,
    pub validate: Strictness,
    pub pin: Pin<'p>,
    pub result_bytes_max: Option<u64>,
    pub cache: Option<ResponseCache>,
    pub retry: RetryClass,
    /// When another instance is asked as well; only where that does no harm.
    pub hedge_after: Option<Delay>,
    pub trust_hints: bool,
    pub redaction: Redaction,
}

/// What is asked of a tool's definition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pin<'p> {
    pub strictness: Strictness,
    pub approved: Vec<&'p Digest>,
}

/// How a tool is treated, and how it would be if policies in shadow were enforced too.
#[derive(Clone, Debug, PartialEq)]
pub struct Treatments<'p> {
    pub enforced: Treatment<'p>,
    /// None where no policy in shadow speaks about the tool.
    pub shadow: Option<Treatment<'p>>,
}

impl Pin<'_> {
    /// Whether a definition is one that was approved. One that has no digest never is.
    pub fn approves(&self, digest: Option<&Digest>) -> bool {
        digest.is_some_and(|digest| self.approved.contains(&digest))
    }

    /// Whether a definition may be seen and called.
    pub fn shows(&self, digest: Option<&Digest>) -> bool {
        self.strictness != Strictness::Enforce || self.approves(digest)
    }
}

impl<'p> Speaking<'p> {
    pub fn of(entry: &'p ServerEntry, root: &Namespace, tool: &str) -> Self {
        let server = Subject::from(&entry.server.meta);
        let ranked = entry.tools.iter().filter_map(|policy| {
            let precision = precision(&policy.spec, tool)?;
            let specificity = specificity(&policy.spec.servers, &policy.meta.namespace, root, server);
            Some(((Reverse(specificity), Reverse(precision)), policy))
        });
        let mut ranked: Vec<_> = ranked.collect();
        // Stable: among equals the order of conflicts, in which they came, holds.
        ranked.sort_by_key(|(rank, _)| *rank);
        Self { policies: ranked.into_iter().map(|(_, policy)| policy).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    pub fn policies(&self) -> &[&'p Arc<Object<ToolPolicy>>] {
        &self.policies
    }

    /// The policy that settles whether definitions are pinned: the first of the strictest.
    pub fn pinning(&self) -> Option<&'p Arc<Object<ToolPolicy>>> {
        let strictest = self.policies.iter().map(|policy| policy.spec.pin).max()?;
        let mut policies = self.policies.iter().copied();
        policies.find(|policy| policy.spec.pin == strictest && strictest != Strictness::Off)
    }

    pub fn treatments(&self, tool: &str) -> Treatments<'p> {
        let in_shadow = self.policies.iter().any(|policy| policy.spec.shadow);
        Treatments {
            enforced: self.treatment(tool, |policy| !policy.shadow),
            shadow: in_shadow.then(|| self.treatment(tool, |_| true)),
        }
    }

    fn treatment(&self, tool: &str, counts: fn(&ToolPolicy) -> bool) -> Treatment<'p> {
        let specs = || self.policies.iter().map(|policy| &policy.spec).filter(|spec| counts(spec));
        let validate = specs().map(|spec| spec.validate_arguments).find(|it| *it != Strictness::Off);
        let pinned = specs().map(|spec| spec.pin).max();
        let approved = specs().filter_map(|spec| {
            spec.approved.iter().find(|(name, _)| name.as_str() == tool).map(|(_, digest)| digest)
        });
        // What is in shadow hides nothing from callers, but from logs it may.
        let redacted = self.policies.iter().flat_map(|policy| policy.spec.redact.iter());
        let retry = specs().map(|spec| spec.retry).find(|it| *it != RetryClass::Never).unwrap_or_default();
        let hedge_after = specs().find_map(|spec| spec.hedge_after);
        let trust_hints = specs().any(|spec| spec.trust_hints);
        Treatment {
            timeout: specs().find_map(|spec| spec.timeout).map(|it| it.duration()),
            validate: validate.unwrap_or_default(),
            pin: Pin { strictness: pinned.unwrap_or_default(), approved: approved.collect() },
            result_bytes_max: specs().find_map(|spec| spec.result_max).map(|it| it.bytes()),
            cache: specs().find_map(|spec| spec.cache),
            retry,
            hedge_after: hedge_after.filter(|_| retry != RetryClass::Never || trust_hints),
            trust_hints,
            redaction: Redaction::new(redacted.map(|path| path.as_str())),
        }
    }
}

impl Snapshot {
    /// What is asked of the definition of one of a server's tools.
    pub fn pin_of<'p>(&'p self, entry: &'p ServerEntry, tool: &str) -> Pin<'p> {
        Speaking::of(entry, &self.root_namespace(), tool).treatments(tool).enforced.pin
    }
}

/// How narrowly a policy speaks about a tool; none if it does not.
fn precision(policy: &ToolPolicy, tool: &str) -> Option<Precision> {
    let Some(patterns) = &policy.tools else { return Some(Precision::Any) };
    let matching = patterns.iter().filter(|pattern| pattern.matches(tool));
    let of = |pattern: &crate::name::Glob| match pattern.exact() {
        Some(_) => Precision::Exact,
        None if pattern.is_any() => Precision::Any,
        None => Precision::Pattern,
    };
    matching.map(of).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::compile;
    use crate::resource::parse_one;
    use crate::wire::{self, Part};

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn part(kind: &str, name: &str, spec: &str, revision: u64) -> Part {
        let (namespace, name) = name.split_once('/').unwrap();
        let text = format!(
            "{{apiVersion: weft.dev/v1alpha1, kind: {kind}, metadata: {{namespace: {namespace}, name: {name}}}, spec: {spec}}}"
        );
        let encoded = wire::encode(&parse_one("f", &text).unwrap(), revision).unwrap();
        wire::decode(encoded.ty, &encoded.bytes).unwrap()
    }

    /// Of a mesh with the server `research/files` and these policies, by their full names, the older first.
    fn snapshot(policies: &[(&str, &str)]) -> Snapshot {
        let policies =
            policies.iter().zip(2..).map(|((name, spec), revision)| part("ToolPolicy", name, spec, revision));
        let server = part("McpServer", "research/files", "{stdio: {command: x}}", 1);
        compile(&policies.chain([server]).collect())
    }

    fn with<T>(policies: &[(&str, &str)], tool: &str, look: impl FnOnce(Treatments<'_>) -> T) -> T {
        let snapshot = snapshot(policies);
        let entry = snapshot.server(&"research/files".parse().unwrap()).unwrap();
        look(Speaking::of(entry, &snapshot.root_namespace(), tool).treatments(tool))
    }

    #[track_caller]
    fn check(policies: &[(&str, &str)], tool: &str, timeout_secs: Option<u64>) {
        let timeout = with(policies, tool, |it| it.enforced.timeout);
        assert_eq!(timeout.map(|it| it.as_secs()), timeout_secs, "{tool}");
    }

    #[test]
    fn the_more_specific_policy_speaks_first() {
        let (any, pattern, exact) =
            ("{timeout: 1s}", "{tools: ['read_*'], timeout: 2s}", "{tools: [read_file], timeout: 3s}");
        let policies = [("research/a", any), ("research/b", pattern), ("research/c", exact)];
        check(&policies, "write", Some(1));
        check(&policies, "read_dir", Some(2));
        check(&policies, "read_file", Some(3));
        // How the server is named weighs more than how the tool is.
        let named = "{servers: {names: [files]}, timeout: 4s}";
        check(&[("research/c", exact), ("research/d", named)], "read_file", Some(4));
        check(&[("research/c", exact)], "write", None);
    }

    #[test]
    fn among_equals_the_namespace_comes_before_the_root_and_the_older_before_the_younger() {
        check(&[("weft-system/a", "{timeout: 1s}"), ("research/b", "{timeout: 2s}")], "x", Some(2));
        check(&[("research/z", "{timeout: 1s}"), ("research/a", "{timeout: 2s}")], "x", Some(1));
        check(&[("other/z", "{timeout: 1s}")], "x", None);
    }

    #[test]
    fn each_field_is_settled_by_the_first_that_says_something_about_it() {
        let policies = [
            ("research/a", "{servers: {names: [files]}, validateArguments: warn, redact: [a.b]}"),
            ("research/b", "{validateArguments: enforce, retry: idempotent, redact: [c]}"),
        ];
        with(&policies, "x", |it| {
            assert_eq!((it.enforced.validate, it.enforced.retry), (Strictness::Warn, RetryClass::Idempotent));
            assert_eq!(it.enforced.redaction, Redaction::new(["a.b", "c"]));
            assert_eq!(it.shadow, None);
        });
    }

    #[test]
    fn the_strictest_pin_holds_however_narrowly_a_milder_one_is_said() {
        let root = ("weft-system/a", "{pin: enforce}");
        let narrow = ("research/b", "{servers: {names: [files]}, tools: [x], pin: warn}");
        let (in_shadow, off) = (("research/c", "{shadow: true, pin: enforce}"), ("research/d", "{pin: off}"));
        let check = |policies: &[(&str, &str)], expected: Strictness, by: Option<&str>| {
            let snapshot = snapshot(policies);
            let entry = snapshot.server(&"research/files".parse().unwrap()).unwrap();
            let speaking = Speaking::of(entry, &snapshot.root_namespace(), "x");
            assert_eq!(speaking.treatments("x").enforced.pin.strictness, expected, "{policies:?}");
            let pinning = speaking.pinning().map(|policy| policy.meta.full_name().to_string());
            assert_eq!(pinning.as_deref(), by, "{policies:?}");
        };
        check(&[root, narrow], Strictness::Enforce, Some("weft-system/a"));
        check(&[narrow, root], Strictness::Enforce, Some("weft-system/a"));
        check(&[off, root], Strictness::Enforce, Some("weft-system/a"));
        check(&[narrow, off], Strictness::Warn, Some("research/b"));
        check(&[narrow, in_shadow], Strictness::Warn, Some("research/c"));
        check(&[off], Strictness::Off, None);
    }

    #[test]
    fn without_an_approval_a_pinned_tool_is_withheld() {
        let digest = |text: &str| Digest::parse(text).unwrap();
        let shows = |policies: &[(&str, &str)], tool: &str, found: Option<&str>| {
            let found = found.map(digest);
            with(policies, tool, |it| it.enforced.pin.shows(found.as_ref()))
        };
        let approving = format!("{{approved: {{x: '{A}'}}}}");
        let policies =
            [("research/a", "{servers: {names: [files]}, pin: enforce}"), ("research/b", &*approving)];
        assert!(shows(&policies, "x", Some(A)));
        assert!(!shows(&policies, "x", Some(B)));
        assert!(!shows(&policies, "y", Some(A)));
        assert!(!shows(&policies, "x", None), "what has no digest cannot be approved");
        assert!(!shows(&policies[..1], "x", Some(A)));
        assert!(shows(&[("research/a", "{pin: warn}")], "x", None));
        assert!(shows(&[], "x", None));
    }

    #[test]
    fn a_policy_in_shadow_changes_nothing_but_what_would_be() {
        let policies = [("research/a", "{shadow: true, pin: enforce, timeout: 1s, redact: [a]}")];
        with(&policies, "x", |it| {
            assert_eq!((it.enforced.pin.strictness, it.enforced.timeout), (Strictness::Off, None));
            assert_eq!(it.enforced.redaction, Redaction::new(["a"]));
            let shadow = it.shadow.unwrap();
            assert_eq!((shadow.pin.strictness, shadow.timeout.unwrap().as_secs()), (Strictness::Enforce, 1));
        });
    }
}
