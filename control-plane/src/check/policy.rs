//! Checks of who may call what: policies that say nothing, too much, or what nobody looks at any more.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use weft_proto::compile::{Concern, Snapshot};
use weft_proto::name::SpiffeId;
use weft_proto::policy::Caller;
use weft_proto::policy::access::review::{Flaw, may_be_about, review};
use weft_proto::resource::Kind;
use weft_proto::resource::kinds::{AccessPolicy, Action, DefaultAction, Location};
use weft_proto::wire::Object;

use super::said::{named, span};
use super::{Facts, Verdict};
use crate::api::judged_tool;

/// A policy in shadow that nobody changed for this long was probably forgotten.
const SHADOW_SECS_MAX: i64 = 14 * 86_400;
/// Comparisons of rules with each other; the policies of further servers are not looked at.
const COMPARISONS_MAX: usize = 20_000_000;
/// Identities that rules are held against; where there are more, that is not done.
const IDENTITIES_MAX: usize = 2000;

pub(super) fn select_something(facts: &Facts) -> Verdict {
    let idle = facts.objects.snapshot.warnings.iter().filter(|it| it.concern == Concern::SelectsNothing);
    match named(idle.map(|it| format!("{} {}", it.ty, it.object))) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("every policy selects a server"),
    }
}

/// Unknown trust domains are told with trust, and what the snapshot knows of those is not whole here.
pub(super) fn contradictions(facts: &Facts) -> Verdict {
    let warnings = facts
        .objects
        .snapshot
        .warnings
        .iter()
        .filter(|it| !matches!(it.concern, Concern::SelectsNothing | Concern::UnknownTrustDomain(_)));
    match named(warnings) {
        Some(told) => Verdict::warning(told),
        None => Verdict::ok("no object contradicts another"),
    }
}

/// What is odd about rules at every server that their policies select.
#[derive(Debug, Default)]
pub(super) struct Reviewed {
    in_vain: Vec<String>,
    of_nobody: Vec<String>,
    to_everybody: Vec<String>,
    /// Whether the policies of every server were looked at.
    whole: bool,
}

impl Reviewed {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut sets = HashSet::new();
        let (mut selected, mut flawed) = (HashMap::<_, usize>::new(), BTreeMap::<_, (usize, _)>::new());
        let (mut compared, mut whole) = (0, true);
        for entry in snapshot.servers.values() {
            let set: Vec<*const Object<AccessPolicy>> = entry.access.iter().map(Arc::as_ptr).collect();
            if !sets.insert(set.clone()) {
                continue;
            }
            let rules: usize = entry.access.iter().map(|policy| policy.spec.rules.len()).sum();
            compared += rules.saturating_mul(rules);
            if compared > COMPARISONS_MAX {
                whole = false;
                continue;
            }
            for policy in set {
                *selected.entry(policy).or_default() += 1;
            }
            for it in review(&entry.access) {
                let rule = (Arc::as_ptr(it.rule.policy), it.rule.index);
                flawed.entry(rule).or_insert((0, (it.rule, it.flaw))).0 += 1;
            }
        }
        let mut found = Self { whole, ..Self::default() };
        for ((policy, _), (times, (rule, flaw))) in flawed {
            // What is in vain at one server may be needed at another.
            if selected.get(&policy) != Some(&times) {
                continue;
            }
            match flaw {
                Flaw::Denied(_) | Flaw::Said(_) => found.in_vain.push(format!("{rule} {flaw}")),
                Flaw::OfNobody => found.of_nobody.push(format!("{rule} {flaw}")),
                Flaw::ToEverybody => found.to_everybody.push(rule.to_string()),
            }
        }
        for list in [&mut found.in_vain, &mut found.of_nobody, &mut found.to_everybody] {
            list.sort();
        }
        found
    }

    fn verdict(&self, list: &[String], ok: &str) -> Verdict {
        match (named(list), self.whole) {
            (Some(told), _) => Verdict::warning(told),
            (None, true) => Verdict::ok(ok),
            (None, false) => Verdict::skipped("there are more rules than are compared with each other"),
        }
    }
}

pub(super) fn in_vain(facts: &Facts) -> Verdict {
    let reviewed = facts.objects.reviewed();
    reviewed.verdict(&reviewed.in_vain, "every rule says something that no other one says or takes back")
}

pub(super) fn to_everybody(facts: &Facts) -> Verdict {
    let reviewed = facts.objects.reviewed();
    reviewed.verdict(&reviewed.to_everybody, "no rule allows everything to everybody")
}

pub(super) fn of_nobody(facts: &Facts) -> Verdict {
    let reviewed = facts.objects.reviewed();
    let identities: BTreeSet<&SpiffeId> = facts.sidecars.iter().map(|it| &it.identity).collect();
    let callers: Vec<_> = identities.into_iter().filter_map(SpiffeId::workload).map(Caller::new).collect();
    // Claims and tenants are those of callers for whom gateways call.
    let mut told = if has_gateways(facts) { Vec::new() } else { reviewed.of_nobody.clone() };
    if (1..=IDENTITIES_MAX).contains(&callers.len()) {
        told.extend(about_nobody_known(&facts.objects.snapshot, &callers));
    }
    reviewed.verdict(&told, "every rule that allows speaks of somebody")
}

fn about_nobody_known(snapshot: &Snapshot, callers: &[Caller]) -> BTreeSet<String> {
    let mut seen = HashSet::new();
    let policies = snapshot.servers.values().flat_map(|entry| entry.access.iter());
    let enforced = policies.filter(|policy| !policy.spec.shadow && seen.insert(Arc::as_ptr(policy)));
    let unheard = enforced.flat_map(|policy| {
        let rules = policy.spec.rules.iter().enumerate();
        let allowing = rules.filter(|(_, rule)| rule.action == Action::Allow);
        let of_nobody = allowing.filter(|(_, rule)| !callers.iter().any(|caller| may_be_about(rule, caller)));
        of_nobody.map(|(index, rule)| {
            let name = rule.name.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
            format!("{}#{name} speaks of no identity that was seen", policy.meta.full_name())
        })
    });
    unheard.collect()
}

pub(super) fn open_servers(facts: &Facts) -> Verdict {
    let snapshot = &facts.objects.snapshot;
    if snapshot.default_action() == DefaultAction::Deny {
        return Verdict::ok("what no rule allows is denied");
    }
    let is_open = |policies: &[Arc<Object<AccessPolicy>>]| {
        let enforced = policies.iter().filter(|policy| !policy.spec.shadow);
        !enforced.flat_map(|policy| policy.spec.rules.iter()).any(|rule| rule.action == Action::Allow)
    };
    let open = snapshot.servers.iter().filter(|(_, entry)| is_open(&entry.access));
    match named(open.map(|(name, _)| name)) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("some rule says who may call each server"),
    }
}

pub(super) fn shadows(facts: &Facts) -> Verdict {
    let old = facts.objects.in_shadow().filter_map(|key| match facts.objects.changed_at.get(key) {
        None => Some(format!("{key} (for longer than the history goes back)")),
        Some(at) => {
            let secs = facts.now.as_second() - at.as_second();
            (secs > SHADOW_SECS_MAX).then(|| format!("{key} (for {})", span(secs)))
        }
    });
    match named(old) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok(format!("{} are tried out", facts.objects.in_shadow().count())),
    }
}

pub(super) fn definitions(facts: &Facts) -> Verdict {
    let mut unapproved = BTreeSet::new();
    for (server, advertised) in facts.sidecars.iter().flat_map(|it| &it.tools) {
        for (name, tool) in &advertised.tools {
            let judged = judged_tool(server, name, tool, &facts.objects.snapshot);
            if judged.pin != "off" && judged.state != "approved" {
                let withheld = if judged.pin == "enforce" { ", withheld" } else { "" };
                unapproved.insert(format!("{name} of {server} ({}{withheld})", judged.state));
            }
        }
    }
    match named(unapproved) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("what is advertised and pinned is approved"),
    }
}

pub(super) fn agreement(facts: &Facts) -> Verdict {
    let differ = facts.offers.iter().filter_map(|offer| {
        let odd = offer.replicas.iter().filter(|replica| replica.agrees == Some(false));
        let odd: Vec<_> = odd.map(|replica| replica.node.to_string()).collect();
        (!odd.is_empty()).then(|| format!("{} (other than most: {})", offer.server, odd.join(", ")))
    });
    match named(differ) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("instances of a server offer the same"),
    }
}

/// Whether the mesh names gateways, whose callers have claims and tenants.
pub(super) fn has_gateways(facts: &Facts) -> bool {
    facts.objects.trust().is_some_and(|trust| !trust.gateways.is_empty())
}

pub(super) fn effect(facts: &Facts) -> Verdict {
    let idle = facts.objects.readable().filter(|(key, _)| {
        let is_external = |name| {
            let entry = facts.objects.snapshot.server(&name);
            entry.is_some_and(|entry| matches!(entry.server.spec.location, Location::External(_)))
        };
        match key.kind {
            Kind::Authentication => !has_gateways(facts),
            Kind::McpServer => is_external(weft_proto::name::ServerName {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
            }),
            _ => false,
        }
    });
    match named(idle.map(|(key, _)| key)) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("every object is followed"),
    }
}
