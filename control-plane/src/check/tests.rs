use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use weft_proto::name::{NodeId, SpiffeId, TrustDomain};
use weft_proto::policy::quota::lease::Part;
use weft_proto::resource::parse_one;
use weft_proto::wire::ResourceType;

use super::*;
use crate::api::trust::{Gate, Issuer, IssuerKind, Root, Rotation, RotationStep, TrustStatus, Waiting};
use crate::audit::Head;
use crate::auth::{Key, Scope};
use crate::catalog::{self, Advertised, Replica, Tool};
use crate::desired::{self, Present};
use crate::quota::{Standing, Totals};
use crate::replica::Standby;
use crate::reports::{Grown, Health, Report, Served};
use crate::store::{Entry, Revision};
use crate::tokens::{State, Token};
use crate::xds::{ClientStatus, NackStatus, TypeStatus};

const NOW_SECS: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(NOW_SECS + secs).unwrap()
}

fn moment(secs: i64) -> SystemTime {
    at(secs).into()
}

fn domain() -> TrustDomain {
    "corp.example".parse().unwrap()
}

/// Documents, each as kind, name and spec in the namespace `research` unless the name has another.
fn objects(documents: &[(&str, &str, &str)]) -> Objects {
    let entries = documents.iter().map(|(kind, name, spec)| {
        let (namespace, name) = name.split_once('/').unwrap_or(("research", name));
        let text = format!(
            "{{apiVersion: weft.dev/v1alpha1, kind: {kind}, metadata: {{namespace: {namespace}, name: {name}}}, spec: {spec}}}"
        );
        let resource = parse_one("f", &text).unwrap();
        let (created, modified) = (Revision(1), Revision(2));
        let value = Bytes::from(resource.canonical());
        Entry { key: desired::store_key(&resource.key()), value, created, modified, lease: None }
    });
    let present = Present::read(Revision(7), &entries.collect::<Vec<_>>());
    Objects::new(&domain(), Arc::new(present)).unwrap()
}

const FILES: (&str, &str, &str) = ("McpServer", "files", "{stdio: {command: x}, serviceAccount: files}");
const GATEWAYS: (&str, &str, &str) = (
    "Trust",
    "weft-system/mesh",
    "{trustDomain: corp.example, gateways: ['spiffe://corp.example/ns/edge/sa/*']}",
);
const READERS: (&str, &str, &str) = (
    "AccessPolicy",
    "readers",
    "{servers: {names: [files]}, rules: [{action: allow, from: [{namespaces: [research]}], to: [{tools: [read]}]}]}",
);

fn with(facts: &mut Facts, more: &[(&str, &str, &str)]) {
    facts.objects = objects(&[&[FILES, READERS], more].concat());
}

/// An `Authentication` with a key for each end.
fn keys_until(ends: &[i64]) -> String {
    let digest = format!("sha256:{}", "a".repeat(64));
    let keys = ends.iter().enumerate().map(|(number, secs)| {
        format!("{{name: key-{number}, digest: '{digest}', notAfter: '{}'}}", at(*secs))
    });
    format!("{{apiKeys: [{}]}}", keys.collect::<Vec<_>>().join(", "))
}

fn report() -> Report {
    let served =
        Served { health: Health::Serving, detail: String::new(), in_flight: 0, exposed_at: Vec::new() };
    Report {
        at: moment(-5),
        clock: Some(moment(-5)),
        losses: crate::reports::Losses::default(),
        grown: Grown::default(),
        room: Some((50, 100)),
        version: "0.1.0".to_owned(),
        uptime: Duration::from_secs(60),
        inbound_address: Some("10.0.0.5:7443".parse().unwrap()),
        servers: [("research/files".parse().unwrap(), served)].into(),
    }
}

fn advertised(definition: &str) -> Arc<Advertised> {
    let digest = weft_proto::policy::tools::digest(definition).unwrap();
    let tool = Tool { digest, definition: Some(definition.into()) };
    Arc::new(Advertised { at: moment(-5), tools: [("read".parse().unwrap(), tool)].into() })
}

fn offer() -> catalog::Entry {
    let replica = |node: &str| Replica {
        node: NodeId::parse(node).unwrap(),
        at: moment(-5),
        items: 1,
        agrees: Some(true),
        differs: Vec::new(),
    };
    catalog::Entry {
        server: "research/files".parse().unwrap(),
        known: None,
        away_since: None,
        replicas: vec![replica("research/a"), replica("research/b")],
    }
}

fn sidecar(instance: &str) -> ClientStatus {
    ClientStatus {
        node: NodeId::parse(&format!("research/{instance}")).unwrap(),
        identity: SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap(),
        version: "0.1.0".to_owned(),
        peer: "10.0.0.5:1".to_owned(),
        connected: true,
        connected_at: moment(-3600),
        disconnected_at: None,
        serves: vec!["research/files".parse().unwrap()],
        seen_revision: 7,
        told_revision: 7,
        types: [(ResourceType::Server, TypeStatus::default())].into(),
        certificate_serial: "1".to_owned(),
        certificate_expires: moment(DAY / 2),
        certificate_root: "aa".to_owned(),
        trust_bundle: None,
        report: Some(Arc::new(report())),
        tools: [("research/files".parse().unwrap(), advertised(r#"{"name":"read"}"#))].into(),
    }
}

fn standing(is_budget: bool) -> Standing {
    Standing {
        policy: "research/fair".to_owned(),
        limit: "calls".into(),
        amount: "10/min".to_owned(),
        parts: vec![("caller".to_owned(), Some("a/b".to_owned()))],
        whole: Part { capacity: 10_000, burst: 0 },
        lent: Part { capacity: 1000, burst: 0 },
        holders: 1,
        totals: Totals::default(),
        used_milli: 5000,
        learns: false,
        is_budget,
        overdue: 0,
    }
}

fn root(fingerprint: &str, days: i64) -> Root {
    Root {
        fingerprint: fingerprint.to_owned(),
        not_before: at(-DAY),
        not_after: at(days * DAY),
        issuing: fingerprint == "aa",
        generation: 1,
    }
}

fn token() -> Token {
    Token {
        id: "t1".to_owned(),
        namespace: "research".parse().unwrap(),
        account: "files".parse().unwrap(),
        uses: 1,
        uses_left: 1,
        created_at: at(-60),
        created_by: "admin".to_owned(),
        expires_at: at(3600),
        description: None,
        state: State::Active,
    }
}

fn standby(name: &str, keeps_up: bool) -> Standby {
    Standby { name: name.to_owned(), keeps_up, behind_revisions: 3, behind_secs: 90 }
}

/// A mesh in which all is well.
fn well() -> Facts {
    Facts {
        now: at(0),
        version: "0.1.0",
        revisions: Revisions { changed: 7, published: 7 },
        signing_queue: 0,
        panics: 0,
        disk: Some(Disk { bytes_free: 50 << 30, bytes_total: 100 << 30 }),
        keys: vec![Key {
            id: "k1".to_owned(),
            name: "admin".to_owned(),
            scope: Scope::Admin,
            created_at: at(-60),
            created_by: "bootstrap".to_owned(),
            expires_at: None,
            last_used_at: None,
        }],
        tokens: vec![token()],
        trust: TrustStatus {
            trust_domain: "corp.example".to_owned(),
            svid_lifetime: "24h".to_owned(),
            sequence: 1,
            roots: vec![root("aa", 3000)],
            issuer: Issuer {
                kind: IssuerKind::Builtin,
                not_after: at(90 * DAY),
                fingerprint: "aa".to_owned(),
            },
            rotation: Rotation { step: RotationStep::Stable, since: None, gate: Gate::default() },
            revoked_serials: Vec::new(),
        },
        sidecars: vec![sidecar("files-0"), sidecar("files-1")],
        objects: objects(&[FILES, READERS]),
        limits: vec![standing(true), standing(false)],
        leases: Leases { keys: 10, keys_max: 1000 },
        offers: vec![offer()],
        cluster: Some(Cluster {
            kept_out: Vec::new(),
            pods: Pods::Without { pods: Vec::new(), beyond: false },
            control_planes: Some(vec!["weft-control-plane-1".to_owned()]),
        }),
        standbys: vec![standby("weft-control-plane-1", true)],
        audit: Audit {
            heads: vec![Head {
                node: "research/files-0".to_owned(),
                trail: "t".to_owned(),
                identity: "spiffe://corp.example/ns/research/sa/files".to_owned(),
                heard_at: at(-10),
                last_line: 9,
                sealed_line: 9,
            }],
            trails_max: 1000,
            bytes: 1 << 20,
            bytes_max: 1 << 30,
            refused: 0,
            unbelieved: 0,
        },
    }
}

fn reported(facts: &mut Facts, change: impl FnOnce(&mut Report)) {
    let mut report = report();
    change(&mut report);
    facts.sidecars[1].report = Some(Arc::new(report));
}

fn observed(facts: &mut Facts, change: impl FnOnce(&mut Cluster)) {
    change(facts.cluster.as_mut().unwrap());
}

fn without(facts: &mut Facts, pods: &[&str], beyond: bool) {
    let pods = pods.iter().map(|it| (*it).to_owned()).collect();
    observed(facts, |cluster| cluster.pods = Pods::Without { pods, beyond });
}

fn federated(roots: &str) -> String {
    format!("{{trustDomain: corp.example, federated: [{{trustDomain: other.example, roots: {roots:?}}}]}}")
}

fn testing_root() -> String {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

/// What the stored bytes of an object say cannot be read.
fn unreadable(facts: &mut Facts) {
    let key = desired::store_key(&"mcpservers/research/files".parse().unwrap());
    let value = Bytes::from_static(b"{}");
    let entry = Entry { key, value, created: Revision(1), modified: Revision(2), lease: None };
    facts.objects = Objects::new(&domain(), Arc::new(Present::read(Revision(7), &[entry]))).unwrap();
}

fn large(facts: &mut Facts, mebibytes: usize) {
    let key = desired::store_key(&"mcpservers/research/files".parse().unwrap());
    let value = Bytes::from(vec![b' '; mebibytes << 20]);
    let entry = Entry { key, value, created: Revision(1), modified: Revision(2), lease: None };
    facts.objects = Objects::new(&domain(), Arc::new(Present::read(Revision(7), &[entry]))).unwrap();
}

type Case = (&'static str, fn(&mut Facts), Outcome, &'static str);

use Outcome::{Failed, Ok as Well, Skipped, Warning};

/// For each check what makes it not pass, and at its edge what still does.
const CASES: &[Case] = &[
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

fn in_shadow(facts: &mut Facts) {
    with(facts, &[("AccessPolicy", "trial", "{shadow: true, rules: [{action: deny}]}")]);
}

fn lost(facts: &mut Facts, change: fn(&mut Grown, Option<SystemTime>)) {
    reported(facts, |report| {
        (report.losses.spans_dropped, report.losses.audit_dropped, report.losses.audit_failures) = (3, 4, 5);
        change(&mut report.grown, Some(moment(-10)));
    });
}

#[test]
fn each_check_comes_out_as_the_facts_are() {
    for (name, change, expected, said) in CASES {
        let mut facts = well();
        change(&mut facts);
        let found = run(&facts, None).into_iter().find(|it| it.name == *name).unwrap();
        assert_eq!(found.outcome, *expected, "{found:?}");
        assert!(found.detail.contains(said), "{said:?} is not in {found:?}");
        let needs_words = matches!(expected, Warning | Failed);
        assert_eq!(needs_words, !found.why.is_empty() && !found.remedy.is_empty(), "{found:?}");
    }
}

#[test]
fn every_check_has_a_case_in_which_it_does_not_pass_and_passes_where_all_is_well() {
    let bad = CASES.iter().filter(|(.., expected, _)| matches!(expected, Warning | Failed));
    let covered: BTreeSet<&str> = bad.map(|(name, ..)| *name).collect();
    let all: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(covered, all);
    assert_eq!(all.len(), CHECKS.len(), "each has a name of its own");
    let found = run(&well(), None);
    let odd: Vec<_> = found.iter().filter(|it| it.outcome != Well).collect();
    assert!(odd.is_empty(), "{odd:#?}");
}

#[test]
fn one_group_is_made_alone_and_groups_come_in_their_order() {
    for group in Group::ALL {
        let found = run(&well(), Some(group));
        assert!(!found.is_empty() && found.iter().all(|it| it.group == group), "{group:?}");
    }
    let order: Vec<_> = run(&well(), None).iter().map(|it| it.group).collect();
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn a_federated_root_that_can_be_read_has_an_end() {
    let roots = testing_root();
    let mut facts = well();
    with(&mut facts, &[("Trust", "weft-system/mesh", &federated(&roots))]);
    let found = run(&facts, Some(Group::Trust)).into_iter().find(|it| it.name == "federated roots").unwrap();
    assert!(found.detail.contains("other.example expire"), "{found:?}");
}
