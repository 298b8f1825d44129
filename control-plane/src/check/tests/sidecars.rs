//! Checks of sidecars.

use super::*;

pub(super) const CASES: &[Case] = &[
    ("connected", |it| it.sidecars.clear(), Warning, "no sidecar"),
    ("connected", |it| it.sidecars[1].connected = false, Failed, "disconnected: research/files-1"),
    ("synced", |it| it.sidecars[1].seen_revision = 6, Warning, "behind: research/files-1"),
    (
        "accepted",
        |it| {
            let nack = Some(NackStatus { at: moment(-1), message: "unknown field".to_owned() });
            it.sidecars[1].types.insert(ResourceType::Server, TypeStatus { nack, ..TypeStatus::default() });
        },
        Failed,
        "research/files-1 (Server: unknown field)",
    ),
    (
        "certificates",
        |it| it.sidecars[1].certificate_expires = moment(3600),
        Warning,
        "end within 1 h: research/files-1",
    ),
    ("certificates", |it| it.sidecars[1].certificate_expires = moment(3601), Well, "all are good"),
    (
        "certificates",
        |it| it.sidecars[1].certificate_expires = moment(0),
        Failed,
        "expired: research/files-1",
    ),
    (
        "certificates",
        |it| {
            // Short ones are never far from their end.
            it.trust.svid_lifetime = "30s".to_owned();
            for sidecar in &mut it.sidecars {
                sidecar.certificate_expires = moment(15);
            }
        },
        Well,
        "all are good",
    ),
    (
        "roots of certificates",
        |it| it.sidecars[1].certificate_root = "cc".to_owned(),
        Failed,
        "not trusted: research/files-1",
    ),
    (
        "roots of certificates",
        |it| {
            it.trust.roots.push(root("bb", 3000));
            it.sidecars[1].certificate_root = "bb".to_owned();
        },
        Warning,
        "issues no more: research/files-1",
    ),
    ("versions", |it| it.sidecars[1].version = "0.3.0".to_owned(), Warning, "research/files-1 (0.3.0)"),
    ("versions", |it| it.sidecars[1].version = "0.2.7".to_owned(), Well, "2 of 2"),
    ("reports", |it| it.sidecars[1].report = None, Warning, "research/files-1"),
    (
        "reports",
        |it| (it.sidecars[1].report, it.sidecars[1].connected_at) = (None, moment(-10)),
        Well,
        "2 of 2",
    ),
    (
        "health",
        |it| {
            let served = Served {
                health: Health::Degraded,
                detail: "disk full".to_owned(),
                in_flight: 0,
                exposed_at: Vec::new(),
            };
            reported(it, |report| report.servers = [("research/files".parse().unwrap(), served)].into());
        },
        Warning,
        "research/files at research/files-1 (degraded: disk full)",
    ),
    (
        "exposure",
        |it| {
            reported(it, |report| {
                let served = report.servers.values_mut().next().unwrap();
                served.exposed_at = ["0.0.0.0:9000", "[::]:9000"].map(|at| at.parse().unwrap()).into();
            });
        },
        Failed,
        "research/files at research/files-1 (0.0.0.0:9000, [::]:9000)",
    ),
    ("addresses", |it| reported(it, |report| report.inbound_address = None), Failed, "research/files-1"),
    (
        "clocks",
        |it| reported(it, |report| report.clock = Some(moment(20))),
        Warning,
        "research/files-1 (+25 s)",
    ),
    ("clocks", |it| reported(it, |report| report.clock = Some(moment(-66))), Warning, "(-1 min)"),
    ("clocks", |it| reported(it, |report| report.clock = Some(moment(5))), Well, "2 of 2"),
    (
        "clocks",
        |it| {
            it.sidecars.truncate(1);
            it.sidecars[0].report = None;
        },
        Skipped,
        "no sidecar tells its time",
    ),
    (
        "state folders",
        |it| reported(it, |report| report.room = Some((9, 100))),
        Warning,
        "(9 bytes of 100 bytes free)",
    ),
    (
        "node names",
        |it| {
            it.sidecars[1].node = it.sidecars[0].node.clone();
            it.sidecars[1].identity = SpiffeId::parse("spiffe://corp.example/ns/research/sa/other").unwrap();
        },
        Warning,
        "research/files-0",
    ),
    (
        "served servers",
        |it| it.sidecars[1].serves.push("research/gone".parse().unwrap()),
        Warning,
        "research/gone (research/files-1)",
    ),
];
