//! A mesh in which all is well, and what can be made of it.

use super::*;

pub(super) const NOW_SECS: i64 = 1_800_000_000;
pub(super) const DAY: i64 = 86_400;

pub(super) fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(NOW_SECS + secs).unwrap()
}

pub(super) fn moment(secs: i64) -> SystemTime {
    at(secs).into()
}

pub(super) fn domain() -> TrustDomain {
    "corp.example".parse().unwrap()
}

/// Documents, each as kind, name and spec in the namespace `research` unless the name has another.
pub(super) fn objects(documents: &[(&str, &str, &str)]) -> Objects {
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

pub(super) const FILES: (&str, &str, &str) =
    ("McpServer", "files", "{stdio: {command: x}, serviceAccount: files}");
pub(super) const GATEWAYS: (&str, &str, &str) = (
    "Trust",
    "weft-system/mesh",
    "{trustDomain: corp.example, gateways: ['spiffe://corp.example/ns/edge/sa/*']}",
);
pub(super) const READERS: (&str, &str, &str) = (
    "AccessPolicy",
    "readers",
    "{servers: {names: [files]}, rules: [{action: allow, from: [{namespaces: [research]}], to: [{tools: [read]}]}]}",
);

pub(super) fn with(facts: &mut Facts, more: &[(&str, &str, &str)]) {
    facts.objects = objects(&[&[FILES, READERS], more].concat());
}

/// An `Authentication` with a key for each end.
pub(super) fn keys_until(ends: &[i64]) -> String {
    let digest = format!("sha256:{}", "a".repeat(64));
    let keys = ends.iter().enumerate().map(|(number, secs)| {
        format!("{{name: key-{number}, digest: '{digest}', notAfter: '{}'}}", at(*secs))
    });
    format!("{{apiKeys: [{}]}}", keys.collect::<Vec<_>>().join(", "))
}

pub(super) fn report() -> Report {
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

pub(super) fn advertised(definition: &str) -> Arc<Advertised> {
    let digest = weft_proto::policy::tools::digest(definition).unwrap();
    let tool = Tool { digest, definition: Some(definition.into()) };
    Arc::new(Advertised { at: moment(-5), tools: [("read".parse().unwrap(), tool)].into() })
}

pub(super) fn offer() -> catalog::Entry {
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

pub(super) fn sidecar(instance: &str) -> ClientStatus {
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

pub(super) fn standing(is_budget: bool) -> Standing {
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

pub(super) fn root(fingerprint: &str, days: i64) -> Root {
    Root {
        fingerprint: fingerprint.to_owned(),
        not_before: at(-DAY),
        not_after: at(days * DAY),
        issuing: fingerprint == "aa",
        generation: 1,
    }
}

pub(super) fn token() -> Token {
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

pub(super) fn standby(name: &str, keeps_up: bool) -> Standby {
    Standby { name: name.to_owned(), keeps_up, behind_revisions: 3, behind_secs: 90 }
}

/// A mesh in which all is well.
pub(super) fn well() -> Facts {
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

pub(super) fn reported(facts: &mut Facts, change: impl FnOnce(&mut Report)) {
    let mut report = report();
    change(&mut report);
    facts.sidecars[1].report = Some(Arc::new(report));
}

pub(super) fn observed(facts: &mut Facts, change: impl FnOnce(&mut Cluster)) {
    change(facts.cluster.as_mut().unwrap());
}

pub(super) fn without(facts: &mut Facts, pods: &[&str], beyond: bool) {
    let pods = pods.iter().map(|it| (*it).to_owned()).collect();
    observed(facts, |cluster| cluster.pods = Pods::Without { pods, beyond });
}

pub(super) fn federated(roots: &str) -> String {
    format!("{{trustDomain: corp.example, federated: [{{trustDomain: other.example, roots: {roots:?}}}]}}")
}

pub(super) fn testing_root() -> String {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

/// What the stored bytes of an object say cannot be read.
pub(super) fn unreadable(facts: &mut Facts) {
    let key = desired::store_key(&"mcpservers/research/files".parse().unwrap());
    let value = Bytes::from_static(b"{}");
    let entry = Entry { key, value, created: Revision(1), modified: Revision(2), lease: None };
    facts.objects = Objects::new(&domain(), Arc::new(Present::read(Revision(7), &[entry]))).unwrap();
}

pub(super) fn large(facts: &mut Facts, mebibytes: usize) {
    let key = desired::store_key(&"mcpservers/research/files".parse().unwrap());
    let value = Bytes::from(vec![b' '; mebibytes << 20]);
    let entry = Entry { key, value, created: Revision(1), modified: Revision(2), lease: None };
    facts.objects = Objects::new(&domain(), Arc::new(Present::read(Revision(7), &[entry]))).unwrap();
}
