//! Checks of limits and budgets.

use super::*;

pub(super) const CASES: &[Case] = &[
    (
        "budgets",
        |it| it.limits[0].used_milli = 9000,
        Warning,
        "research/fair#calls caller=a/b (90 % of 10/min used)",
    ),
    ("budgets", |it| it.limits[0].used_milli = 8999, Well, "no budget"),
    ("limits", |it| it.limits[1].used_milli = 12_000, Warning, "(120 % of 10/min used)"),
    ("overdue shares", |it| it.limits[1].overdue = 2, Warning, "(2 sidecars)"),
    ("learning", |it| it.limits[1].learns = true, Warning, "research/fair#calls"),
    (
        "fallback",
        |it| {
            with(
                it,
                &[(
                    "QuotaPolicy",
                    "strict",
                    "{limits: [{name: l, rate: 1/s, scope: mesh, whenUnavailable: deny}]}",
                )],
            )
        },
        Warning,
        "research/strict#l",
    ),
    (
        "fallback",
        |it| {
            with(it, &[("QuotaPolicy", "strict", "{limits: [{name: l, rate: 1/s, scope: mesh, floor: 0}]}")])
        },
        Warning,
        "research/strict#l",
    ),
    (
        "fallback",
        |it| with(it, &[("QuotaPolicy", "mild", "{limits: [{name: l, rate: 1/s, scope: mesh}]}")]),
        Well,
        "lets something pass",
    ),
    (
        "claims",
        |it| with(it, &[("QuotaPolicy", "p", "{limits: [{name: l, rate: 1/s, per: ['claim:sub']}]}")]),
        Warning,
        "research/p#l",
    ),
    ("room for counts", |it| it.leases.keys = 900, Warning, "900 of 1000"),
];
