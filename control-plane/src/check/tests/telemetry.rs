//! Checks of audit trails and of what sidecars lost.

use super::*;

pub(super) const CASES: &[Case] = &[
    ("trails that follow", |it| it.audit.refused = 2, Failed, "2 times"),
    ("seals", |it| it.audit.unbelieved = 1, Failed, "1 seals"),
    (
        "sealed ends",
        |it| (it.audit.heads[0].sealed_line, it.audit.heads[0].heard_at) = (7, at(-901)),
        Warning,
        "research/files-0 (the last 2 lines)",
    ),
    ("sealed ends", |it| it.audit.heads[0].sealed_line = 7, Well, "all 1 trails"),
    ("room of the trails", |it| it.audit.bytes = 950 << 20, Warning, "950 MiB of 1 GiB"),
    ("number of trails", |it| it.audit.trails_max = 1, Warning, "1 of 1"),
    (
        "records",
        |it| lost(it, |grown, when| grown.audit_dropped = when),
        Warning,
        "(4 calls since it began, the last 10 s ago)",
    ),
    ("writing of trails", |it| lost(it, |grown, when| grown.audit_failures = when), Warning, "(5 failures"),
    ("spans", |it| lost(it, |grown, when| grown.spans_dropped = when), Warning, "research/files-1 (3 spans"),
    (
        "spans",
        |it| reported(it, |report| report.grown.spans_dropped = Some(moment(-3601))),
        Well,
        "nothing within 1 h",
    ),
    (
        "shipping of trails",
        |it| reported(it, |report| report.losses.audit_unshipped = 10_001),
        Warning,
        "(10001 lines)",
    ),
    (
        "marked calls",
        |it| {
            with(
                it,
                &[
                    ("AccessPolicy", "marks", "{rules: [{action: audit}]}"),
                    ("Telemetry", "quiet", "{audit: none}"),
                ],
            )
        },
        Warning,
        "research/files",
    ),
    (
        "marked calls",
        |it| {
            with(
                it,
                &[
                    ("AccessPolicy", "weft-system/marks", "{rules: [{action: audit}]}"),
                    ("Telemetry", "quiet", "{audit: none}"),
                ],
            )
        },
        Well,
        "what is marked is recorded",
    ),
];

fn lost(facts: &mut Facts, change: fn(&mut Grown, Option<SystemTime>)) {
    reported(facts, |report| {
        (report.losses.spans_dropped, report.losses.audit_dropped, report.losses.audit_failures) = (3, 4, 5);
        change(&mut report.grown, Some(moment(-10)));
    });
}
