//! Checks of what policies say together.

use super::*;

pub(super) const CASES: &[Case] = &[
    (
        "instances",
        |it| with(it, &[("McpServer", "lonely", "{stdio: {command: x}}")]),
        Warning,
        "research/lonely",
    ),
    (
        "selections",
        |it| with(it, &[("QuotaPolicy", "idle", "{servers: {names: [gone]}, limits: [{rate: 1/s}]}")]),
        Warning,
        "research/idle",
    ),
    (
        "contradictions",
        |it| with(it, &[("McpServer", "other", "{stdio: {command: x}, aliases: [files]}")]),
        Warning,
        "cannot be called research/files",
    ),
    (
        "rules in vain",
        |it| with(it, &[("AccessPolicy", "shut", "{rules: [{action: deny}]}")]),
        Warning,
        "research/readers#0 is denied by research/shut#0",
    ),
    (
        "rules in vain",
        |it| {
            // Denied at one server, and not at another.
            let both = "{rules: [{action: allow, from: [{namespaces: [research]}], to: [{tools: [list]}]}]}";
            with(
                it,
                &[
                    ("McpServer", "other", "{stdio: {command: x}}"),
                    ("AccessPolicy", "both", both),
                    ("AccessPolicy", "shut", "{servers: {names: [other]}, rules: [{action: deny}]}"),
                ],
            );
        },
        Well,
        "every rule says something",
    ),
    (
        "rules about nobody",
        |it| with(it, &[("AccessPolicy", "few", "{rules: [{action: allow, from: [{tenants: [t]}]}]}")]),
        Warning,
        "research/few#0 speaks only of claims or tenants",
    ),
    (
        "rules about nobody",
        |it| {
            let policy = "{rules: [{action: allow, from: [{tenants: [t]}]}]}";
            with(it, &[GATEWAYS, ("AccessPolicy", "few", policy)]);
        },
        Well,
        "speaks of somebody",
    ),
    (
        "rules about nobody",
        |it| with(it, &[("AccessPolicy", "few", "{rules: [{action: allow, from: [{namespaces: [gone]}]}]}")]),
        Warning,
        "research/few#0 speaks of no identity that was seen",
    ),
    (
        "rules for everybody",
        |it| with(it, &[("AccessPolicy", "all", "{rules: [{action: allow}]}")]),
        Warning,
        "research/all#0",
    ),
    (
        "open servers",
        |it| with(it, &[("McpServer", "open", "{stdio: {command: x}}")]),
        Warning,
        "research/open",
    ),
    (
        "open servers",
        |it| {
            let trust = "{trustDomain: corp.example, defaultAction: deny}";
            with(it, &[("McpServer", "open", "{stdio: {command: x}}"), ("Trust", "weft-system/mesh", trust)]);
        },
        Well,
        "what no rule allows is denied",
    ),
    ("policies in shadow", in_shadow, Warning, "accesspolicies/research/trial (for longer than"),
    (
        "policies in shadow",
        |it| {
            in_shadow(it);
            it.objects.changed_at.insert("accesspolicies/research/trial".parse().unwrap(), at(-15 * DAY));
        },
        Warning,
        "(for 15 days)",
    ),
    (
        "policies in shadow",
        |it| {
            in_shadow(it);
            it.objects.changed_at.insert("accesspolicies/research/trial".parse().unwrap(), at(-DAY));
        },
        Well,
        "1 are tried out",
    ),
    (
        "tool definitions",
        |it| with(it, &[("ToolPolicy", "pinned", "{pin: enforce}")]),
        Warning,
        "read of research/files (new, withheld)",
    ),
    (
        "agreement",
        |it| it.offers[0].replicas[1].agrees = Some(false),
        Warning,
        "research/files (other than most: research/b)",
    ),
    (
        "effect",
        |it| with(it, &[("Authentication", "outside", "{federatedDomains: [other.example]}")]),
        Warning,
        "authentications/research/outside",
    ),
    (
        "effect",
        |it| with(it, &[GATEWAYS, ("Authentication", "outside", "{federatedDomains: [other.example]}")]),
        Well,
        "every object is followed",
    ),
];

fn in_shadow(facts: &mut Facts) {
    with(facts, &[("AccessPolicy", "trial", "{shadow: true, rules: [{action: deny}]}")]);
}
