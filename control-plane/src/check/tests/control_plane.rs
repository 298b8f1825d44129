//! Checks of the control plane itself, and of the cluster that it is in.

use super::*;

pub(super) const CASES: &[Case] = &[
    (
        "published revision",
        |it| it.revisions.published = 6,
        Failed,
        "the newest change is 7, but 6 is published",
    ),
    ("published revision", |it| it.revisions.published = 9, Well, "9, with every change up to 7"),
    ("readable objects", unreadable, Failed, "mcpservers/research/files"),
    (
        "objects kept out",
        |it| {
            let key = "quotapolicies/research/fair".parse().unwrap();
            let why = "spec.limits[0].rate: no rate".to_owned();
            observed(it, |cluster| cluster.kept_out.push(KeptOut { key, why }));
        },
        Failed,
        "quotapolicies/research/fair (spec.limits[0].rate: no rate)",
    ),
    ("objects kept out", |it| it.cluster = None, Skipped, "in no Kubernetes cluster"),
    (
        "pods without a sidecar",
        |it| without(it, &["shop/app-1", "shop/app-2"], false),
        Failed,
        "shop/app-1, shop/app-2",
    ),
    ("pods without a sidecar", |it| without(it, &["shop/app-1"], true), Failed, "shop/app-1; there are more"),
    ("pods without a sidecar", |it| without(it, &[], true), Warning, "more pods than are looked at"),
    ("pods without a sidecar", |it| observed(it, |it| it.pods = Pods::Unread), Skipped, "are not read"),
    (
        "pods without a sidecar",
        |it| observed(it, |it| it.pods = Pods::NotInjected),
        Skipped,
        "puts no sidecars into pods",
    ),
    ("pods without a sidecar", |it| it.cluster = None, Skipped, "in no Kubernetes cluster"),
    ("standbys", |it| it.standbys.clear(), Failed, "none keeps up: weft-control-plane-1 (does not follow)"),
    (
        "standbys",
        |it| it.standbys = vec![standby("weft-control-plane-1", false)],
        Failed,
        "none keeps up: weft-control-plane-1 (3 revisions behind, for 1 min)",
    ),
    (
        "standbys",
        |it| it.standbys.push(standby("weft-control-plane-2", false)),
        Warning,
        "1 keep up, but not weft-control-plane-2 (3 revisions behind, for 1 min)",
    ),
    (
        "standbys",
        |it| observed(it, |it| it.control_planes.as_mut().unwrap().push("weft-control-plane-2".to_owned())),
        Warning,
        "1 keep up, but not weft-control-plane-2 (does not follow)",
    ),
    (
        "standbys",
        |it| {
            it.standbys.clear();
            observed(it, |it| it.control_planes = Some(Vec::new()));
        },
        Well,
        "there is no other control plane",
    ),
    (
        "standbys",
        |it| {
            it.standbys.clear();
            observed(it, |it| it.control_planes = None);
        },
        Skipped,
        "are not read",
    ),
    ("standbys", |it| observed(it, |it| it.control_planes = None), Well, "1 keep up"),
    ("standbys", |it| it.cluster = None, Skipped, "in no Kubernetes cluster"),
    ("size of the mesh", |it| large(it, 129), Warning, "129 MiB of at most 256 MiB"),
    ("size of the mesh", |it| large(it, 232), Failed, "232 MiB"),
    (
        "room on disk",
        |it| it.disk = Some(Disk { bytes_free: 9, bytes_total: 100 }),
        Warning,
        "9 bytes of 100",
    ),
    ("room on disk", |it| it.disk = Some(Disk { bytes_free: 1, bytes_total: 100 }), Failed, "1 bytes"),
    ("room on disk", |it| it.disk = Some(Disk { bytes_free: 10, bytes_total: 100 }), Well, "10 bytes"),
    (
        "room on disk",
        |it| it.disk = Some(Disk { bytes_free: 4 << 30, bytes_total: 1 << 40 }),
        Well,
        "4 GiB of 1024 GiB",
    ),
    ("room on disk", |it| it.disk = None, Skipped, "the system does not say"),
    ("signing queue", |it| it.signing_queue = 101, Warning, "101 requests"),
    ("signing queue", |it| it.signing_queue = 100, Well, "100 requests"),
    ("panics", |it| it.panics = 1, Failed, "1 since"),
    ("admin keys", |it| it.keys[0].scope = Scope::Operator, Failed, "there is none"),
    ("admin keys", |it| it.keys[0].expires_at = Some(at(-1)), Failed, "there is none"),
    ("admin keys", |it| it.keys[0].expires_at = Some(at(3 * DAY)), Warning, "ends in 3 days"),
    ("admin keys", |it| it.keys[0].expires_at = Some(at(30 * DAY)), Well, "ends in 30 days"),
];
