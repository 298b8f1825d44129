//! Checks of roots, certificates and tokens.

use super::*;

pub(super) const CASES: &[Case] = &[
    ("root certificates", |it| it.trust.roots.clear(), Failed, "no root is trusted"),
    ("root certificates", |it| it.trust.roots.push(root("bb", 59)), Warning, "bb expires in 59 days"),
    ("root certificates", |it| it.trust.roots.push(root("bb", -3)), Failed, "bb expired 3 days ago"),
    ("issuer certificate", |it| it.trust.issuer.not_after = at(7200), Warning, "built in expires in 2 h"),
    ("issuer certificate", |it| it.trust.issuer.not_after = at(0), Failed, "expired"),
    (
        "rotation",
        |it| {
            let waiting_for = vec![Waiting { node: "a/b".to_owned(), why: "slow".to_owned() }];
            let gate = Gate { waiting_for, ..Gate::default() };
            it.trust.rotation = Rotation { step: RotationStep::Adding, since: Some(at(-8 * DAY)), gate };
        },
        Warning,
        "for 8 days, waits for a/b",
    ),
    (
        "rotation",
        |it| {
            let (step, since) = (RotationStep::Adding, Some(at(-DAY)));
            it.trust.rotation = Rotation { step, since, gate: Gate::default() };
        },
        Well,
        "for 24 h",
    ),
    (
        "federated roots",
        |it| with(it, &[("Trust", "weft-system/mesh", &federated("no root"))]),
        Failed,
        "other.example",
    ),
    (
        "federated domains",
        |it| with(it, &[("Authentication", "outside", "{federatedDomains: [other.example]}")]),
        Warning,
        "other.example (authentications/research/outside)",
    ),
    (
        "keys of callers",
        |it| with(it, &[("Authentication", "outside", &keys_until(&[14 * DAY - 1, -3600, 14 * DAY]))]),
        Warning,
        "key-0 of research/outside expires in 13 days, key-1 of research/outside expired 1 h ago",
    ),
    (
        "keys of callers",
        |it| with(it, &[("Authentication", "outside", &keys_until(&[14 * DAY]))]),
        Well,
        "none ends soon",
    ),
    ("certificate lifetime", |it| it.trust.svid_lifetime = "200h".to_owned(), Warning, "200h"),
    ("certificate lifetime", |it| it.trust.svid_lifetime = "168h".to_owned(), Well, "168h"),
    ("certificate lifetime", |it| it.trust.svid_lifetime = "long".to_owned(), Skipped, "cannot be read"),
    (
        "join tokens",
        |it| it.tokens[0].expires_at = at(31 * DAY),
        Warning,
        "research/files (for 31 days, 1 uses",
    ),
    ("join tokens", |it| it.tokens[0].uses_left = 1001, Warning, "1001 uses"),
    (
        "join tokens",
        |it| (it.tokens[0].uses_left, it.tokens[0].state) = (1001, State::Revoked),
        Well,
        "0 can be used",
    ),
];

#[test]
fn a_federated_root_that_can_be_read_has_an_end() {
    let roots = testing_root();
    let mut facts = well();
    with(&mut facts, &[("Trust", "weft-system/mesh", &federated(&roots))]);
    let found = run(&facts, Some(Group::Trust)).into_iter().find(|it| it.name == "federated roots").unwrap();
    assert!(found.detail.contains("other.example expire"), "{found:?}");
}
