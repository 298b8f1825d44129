use std::collections::BTreeMap;
use std::fmt::Write;

use weft_proto::name::{HostPort, NodeId, ServerName, SpiffeId, TrustDomain};
use weft_proto::resource::{Key, parse};
use weft_proto::wire::ResourceType;

use super::*;

mod offers;

/// A world with the objects of a YAML text, created in their order.
pub(crate) fn world(yaml: &str) -> World {
    let mut world = World::new(TrustDomain::parse("mesh.test").unwrap());
    put(&mut world, yaml);
    world
}

/// Applies the objects of a YAML text and tells what they touched.
pub(crate) fn put(world: &mut World, yaml: &str) -> Vec<Touched> {
    let parsed = parse("test.yaml", yaml).unwrap_or_else(|errors| panic!("{errors:?}"));
    let revision = world.revision() + 1;
    let changes = parsed
        .into_iter()
        .map(|(resource, _)| Change::Put { resource: Box::new(resource), created_revision: revision });
    let changes = changes.collect();
    world.apply(Update { revision, changes })
}

pub(crate) fn delete(world: &mut World, key: &str) -> Vec<Touched> {
    let key: Key = key.parse().unwrap();
    let revision = world.revision() + 1;
    world.apply(Update { revision, changes: vec![Change::Delete { key }] })
}

pub(crate) fn object(kind: &str, name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: {kind}\nmetadata: {{ namespace: {namespace}, name: {name} }}\nspec: {spec}\n"
    )
}

pub(crate) fn server(name: &str) -> String {
    let (_, short) = name.split_once('/').unwrap();
    object("McpServer", name, &format!("{{ workload: {{ labels: {{ app: {short} }} }} }}"))
}

fn speaker(number: u16, stream: u64) -> Speaker {
    let identity = SpiffeId::parse("spiffe://mesh.test/ns/research/sa/files").unwrap();
    Speaker { identity, node: NodeId::parse(&format!("research/files-{number}")).unwrap(), stream }
}

/// What is seen of an instance of `research/files`.
pub(crate) fn announced(number: u16, stream: u64) -> Observation {
    let by = speaker(number, stream);
    let instance = Instance {
        node: by.node.clone(),
        address: HostPort::parse(&format!("10.0.0.{number}:7443")).unwrap(),
        identity: by.identity.clone(),
        locality: None,
    };
    let servers = vec![ServerName::parse("research/files").unwrap()];
    Observation::Announced { by, instance: Some(instance), servers }
}

/// A sidecar of the account `sa` whose workload carries the label `app`.
pub(crate) fn viewer(namespace: &str, app: &str, stances: Stances) -> Viewer {
    let identity = SpiffeId::parse(&format!("spiffe://mesh.test/ns/{namespace}/sa/{app}")).unwrap();
    Viewer {
        identity: identity.workload().unwrap(),
        node: NodeId::parse(&format!("{namespace}/{app}-1")).unwrap(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        claims: Vec::new(),
        stances,
    }
}

pub(crate) const INBOUND: Stances = Stances { inbound: true, outbound: false, gateway: false };
pub(crate) const OUTBOUND: Stances = Stances { inbound: false, outbound: true, gateway: false };

/// Everything that concerns a viewer, type by type, as a text.
fn sight(world: &World, viewer: &Viewer) -> String {
    let served = world.served_by(viewer);
    let mut text = String::new();
    for ty in ResourceType::ALL {
        let names: Vec<_> = world
            .concerning(viewer, &served, ty)
            .iter()
            .map(|published| published.name.to_string())
            .collect();
        if !names.is_empty() {
            writeln!(text, "{ty}: {}", names.join(" ")).unwrap();
        }
    }
    text
}

#[track_caller]
fn sees(world: &World, viewer: &Viewer, expected: &[&str]) {
    assert_eq!(sight(world, viewer).lines().collect::<Vec<_>>(), expected);
}

const POLICY: &str =
    "{ servers: { names: [files] }, rules: [{ action: allow, from: [{ namespaces: [agents] }] }] }";

fn research() -> World {
    let mut yaml = server("research/files") + &server("research/search") + &server("payments/ledger");
    yaml += &object("AccessPolicy", "research/readers", POLICY);
    yaml += &object("QuotaPolicy", "research/all", "{ limits: [{ rate: 5/s }] }");
    yaml += &object("ToolPolicy", "weft-system/mesh-wide", "{ timeout: 5s }");
    world(&yaml)
}

#[test]
fn an_inbound_sidecar_is_told_of_its_own_server_and_what_governs_it() {
    let world = research();
    let files = [
        "Mesh: mesh",
        "AccessPolicy: research/readers",
        "QuotaPolicy: research/all",
        "ToolPolicy: weft-system/mesh-wide",
        "Server: research/files",
    ];
    sees(&world, &viewer("research", "files", INBOUND), &files);
    let search = [
        "Mesh: mesh",
        "QuotaPolicy: research/all",
        "ToolPolicy: weft-system/mesh-wide",
        "Server: research/search",
    ];
    sees(&world, &viewer("research", "search", INBOUND), &search);
    sees(&world, &viewer("research", "other", INBOUND), &["Mesh: mesh"]);
    let ledger = ["Mesh: mesh", "ToolPolicy: weft-system/mesh-wide", "Server: payments/ledger"];
    sees(&world, &viewer("payments", "ledger", INBOUND), &ledger);
}

#[test]
fn the_same_labels_in_another_namespace_serve_nothing_there() {
    sees(&research(), &viewer("payments", "files", INBOUND), &["Mesh: mesh"]);
}

#[test]
fn an_outbound_sidecar_is_told_of_the_servers_that_it_may_reach() {
    let world = research();
    let agents = [
        "Mesh: mesh",
        "ToolPolicy: weft-system/mesh-wide",
        "Server: payments/ledger research/files research/search",
        "Endpoints: payments/ledger research/files research/search",
    ];
    sees(&world, &viewer("agents", "bot", OUTBOUND), &agents);
    let others = [
        "Mesh: mesh",
        "ToolPolicy: weft-system/mesh-wide",
        "Server: payments/ledger research/search",
        "Endpoints: payments/ledger research/search",
    ];
    sees(&world, &viewer("payments", "ledger", OUTBOUND), &others);
}

#[test]
fn a_stricter_default_hides_every_server_that_no_rule_allows() {
    let mut world = research();
    let deny = object("Trust", "weft-system/mesh", "{ trustDomain: mesh.test, defaultAction: deny }");
    let touched = put(&mut world, &deny);
    assert!(touched.iter().any(|it| &*it.name == "payments/ledger" && it.audience == Audience::Calling));
    let agents = [
        "Mesh: mesh",
        "ToolPolicy: weft-system/mesh-wide",
        "Server: research/files",
        "Endpoints: research/files",
    ];
    sees(&world, &viewer("agents", "bot", OUTBOUND), &agents);
    delete(&mut world, "trusts/weft-system/mesh");
    assert!(sight(&world, &viewer("agents", "bot", OUTBOUND)).contains("payments/ledger"));
}

#[test]
fn callers_are_told_how_to_call_the_tools_that_they_may_reach_and_nothing_else_about_tools() {
    let mut world = research();
    delete(&mut world, "toolpolicies/weft-system/mesh-wide");
    put(&mut world, &object("ToolPolicy", "research/pins", "{ pin: warn, redact: [a] }"));
    put(&mut world, &object("ToolPolicy", "research/shadow", "{ shadow: true, retry: idempotent }"));
    let (bot, ledger) = (viewer("agents", "bot", OUTBOUND), viewer("payments", "ledger", OUTBOUND));
    assert!(!sight(&world, &bot).contains("ToolPolicy"));
    let tells = |touched: &[Touched]| {
        let mut policies = touched.iter().filter(|it| it.ty == ResourceType::ToolPolicy);
        policies.any(|it| &*it.name == "research/again" && it.audience == Audience::Calling)
    };
    let again = object("ToolPolicy", "research/again", "{ servers: { names: [files] }, retry: idempotent }");
    assert!(tells(&put(&mut world, &again)));
    assert!(sight(&world, &bot).contains("ToolPolicy: research/again\n"));
    assert!(!sight(&world, &ledger).contains("ToolPolicy"), "it may not reach the server");
    let others = object("AccessPolicy", "research/readers", &POLICY.replace("agents", "payments"));
    assert!(tells(&put(&mut world, &others)), "who may reach the server has changed");
    assert!(!sight(&world, &bot).contains("ToolPolicy"));
    assert!(sight(&world, &ledger).contains("ToolPolicy: research/again\n"));
    delete(&mut world, "toolpolicies/research/again");
    assert!(!sight(&world, &ledger).contains("ToolPolicy"));
    put(
        &mut world,
        &object("ToolPolicy", "research/hints", "{ servers: { names: [files] }, trustHints: true }"),
    );
    assert!(sight(&world, &ledger).contains("ToolPolicy: research/hints\n"));
}

#[test]
fn a_server_with_an_account_is_served_only_by_that_account() {
    let pinned = "{ workload: { labels: { app: files } }, serviceAccount: keeper }";
    let world = world(&object("McpServer", "research/files", pinned));
    let mut files = viewer("research", "files", INBOUND);
    assert!(world.served_by(&files).is_empty());
    files.identity = SpiffeId::parse("spiffe://mesh.test/ns/research/sa/keeper").unwrap().workload().unwrap();
    assert_eq!(world.served_by(&files).len(), 1);
}

#[test]
fn a_claim_counts_for_servers_that_labels_do_not_find() {
    let world = world(&object("McpServer", "research/files", "{ stdio: { command: x } }"));
    let mut files = viewer("research", "files", INBOUND);
    assert!(world.served_by(&files).is_empty());
    files.claims = vec![ServerName::parse("research/files").unwrap()];
    assert_eq!(world.served_by(&files).len(), 1);
}

#[test]
fn a_change_touches_what_it_changes_and_nothing_else() {
    let mut world = research();
    let touched =
        put(&mut world, &object("AccessPolicy", "research/readers", &POLICY.replace("agents", "others")));
    let policies: Vec<_> = touched.iter().filter(|it| it.ty == ResourceType::AccessPolicy).collect();
    assert!(policies.iter().all(|it| &*it.name == "research/readers"));
    let files = Audience::Serving(vec![ServerName::parse("research/files").unwrap()]);
    assert!(policies.iter().any(|it| it.audience == files));
    assert!(!touched.iter().any(|it| &*it.name == "payments/ledger"));
    assert!(!touched.iter().any(|it| it.audience == Audience::Everyone));
}

#[test]
fn versions_follow_the_content() {
    let mut world = research();
    let files = viewer("research", "files", INBOUND);
    let served = world.served_by(&files);
    let version = |world: &World| {
        let of = world.concerning(&files, &served, ResourceType::AccessPolicy);
        of[0].version.to_string()
    };
    let first = version(&world);
    put(&mut world, &object("AccessPolicy", "research/readers", &POLICY.replace("agents", "others")));
    let second = version(&world);
    assert_ne!(first, second);
    assert_eq!(first.len(), 16);
}

#[test]
fn endpoints_follow_what_is_seen_and_what_is_given() {
    let mut world = research();
    let bot = viewer("agents", "bot", OUTBOUND);
    let version = |world: &World| match world.lookup(&bot, &[], ResourceType::Endpoints, "research/files") {
        Lookup::Found(published) => published.version.to_string(),
        other => panic!("{other:?}"),
    };
    let none = version(&world);
    let instance = Instance {
        node: NodeId::parse("research/files-1").unwrap(),
        address: HostPort::parse("10.0.0.5:7443").unwrap(),
        identity: SpiffeId::parse("spiffe://mesh.test/ns/research/sa/files").unwrap(),
        locality: Some("eu/a".parse().unwrap()),
    };
    let files = ServerName::parse("research/files").unwrap();
    let by = |stream| Speaker { identity: instance.identity.clone(), node: instance.node.clone(), stream };
    let announced = |stream, instance: Option<&Instance>| {
        let (instance, servers) = (instance.cloned(), vec![files.clone()]);
        Observation::Announced { by: by(stream), instance, servers }
    };
    let seen = announced(2, Some(&instance));
    let observe = |world: &mut World, it: &Observation| {
        world.apply(Update { revision: 0, changes: vec![Change::Observed(it.clone())] })
    };
    assert_eq!(observe(&mut world, &seen).len(), 1);
    assert_ne!(version(&world), none);
    assert!(observe(&mut world, &seen).is_empty(), "the same again changes nothing");
    let mut other = by(9);
    other.identity = SpiffeId::parse("spiffe://mesh.test/ns/research/sa/other").unwrap();
    for not_heard in [Observation::Gone { by: by(1) }, announced(1, None), Observation::Gone { by: other }] {
        assert!(
            observe(&mut world, &not_heard).is_empty(),
            "{not_heard:?} speaks for somebody else or too late"
        );
    }
    observe(&mut world, &announced(3, None));
    assert_eq!(version(&world), none, "a newer stream without an address serves nobody");
    observe(&mut world, &announced(4, Some(&instance)));
    assert_ne!(version(&world), none);
    observe(&mut world, &Observation::Gone { by: by(4) });
    assert_eq!(version(&world), none);
    delete(&mut world, "mcpservers/research/files");
    assert!(matches!(world.lookup(&bot, &[], ResourceType::Endpoints, "research/files"), Lookup::Denied));
}

#[test]
fn names_are_answered_by_what_the_viewer_may_know() {
    let world = research();
    let files = viewer("research", "files", INBOUND);
    let served = world.served_by(&files);
    let look = |ty, name: &str| match world.lookup(&files, &served, ty, name) {
        Lookup::Found(_) => "found",
        Lookup::Missing => "missing",
        Lookup::Denied => "denied",
    };
    assert_eq!(look(ResourceType::Server, "research/files"), "found");
    assert_eq!(look(ResourceType::Server, "research/nothing"), "missing");
    assert_eq!(look(ResourceType::Server, "payments/nothing"), "denied");
    assert_eq!(look(ResourceType::Server, "payments/ledger"), "found", "the default lets the mesh call it");
    assert_eq!(look(ResourceType::AccessPolicy, "research/readers"), "found");
    let ledger = viewer("payments", "ledger", INBOUND);
    let served = world.served_by(&ledger);
    for name in ["research/readers", "research/nothing"] {
        let found = world.lookup(&ledger, &served, ResourceType::AccessPolicy, name);
        assert!(matches!(found, Lookup::Denied), "{name} must look the same whether it exists or not");
    }
}

#[test]
fn an_alias_finds_the_server_and_yields_to_a_real_name() {
    let aliased = "{ workload: { labels: { app: files } }, aliases: [documents] }";
    let mut world = world(&object("McpServer", "research/files", aliased));
    let bot = viewer("agents", "bot", OUTBOUND);
    let canonical = |world: &World| match world.lookup(&bot, &[], ResourceType::Server, "research/documents")
    {
        Lookup::Found(published) => published.name.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(canonical(&world), "research/files");
    put(&mut world, &server("research/documents"));
    assert_eq!(canonical(&world), "research/documents");
    delete(&mut world, "mcpservers/research/documents");
    assert_eq!(canonical(&world), "research/files");
    delete(&mut world, "mcpservers/research/files");
    assert_eq!(canonical(&world), "Denied");
}

/// Three instances of `research/files`, as they are told to callers.
struct Instances {
    world: World,
    bot: Viewer,
}

impl Instances {
    fn new(spec: &str) -> Self {
        let world = world(&object("McpServer", "research/files", spec));
        let mut instances = Self { world, bot: viewer("agents", "bot", OUTBOUND) };
        for number in 1..=3 {
            instances.announce(number, 1);
        }
        instances
    }

    fn by(number: u16, stream: u64) -> Speaker {
        speaker(number, stream)
    }

    fn announce(&mut self, number: u16, stream: u64) -> usize {
        self.observe(announced(number, stream))
    }

    fn report(&mut self, number: u16, stream: u64, unfit: &[&str]) -> usize {
        let unfit = unfit.iter().map(|name| ServerName::parse(name).unwrap()).collect();
        self.observe(Observation::Reported { by: Self::by(number, stream), unfit })
    }

    /// How much is published anew.
    fn observe(&mut self, it: Observation) -> usize {
        self.world.apply(Update { revision: 0, changes: vec![Change::Observed(it)] }).len()
    }

    #[track_caller]
    fn are(&self, expected: &[u16]) {
        let found = self.world.lookup(&self.bot, &[], ResourceType::Endpoints, "research/files");
        let Lookup::Found(published) = found else { panic!("{found:?}") };
        let text = String::from_utf8_lossy(&published.bytes);
        let told: Vec<_> = (1..=9).filter(|n| text.contains(&format!("10.0.0.{n}:7443"))).collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn an_instance_that_says_that_it_does_not_serve_is_left_out_until_it_does_again() {
    let mut instances = Instances::new("{ workload: { labels: { app: files } } }");
    instances.are(&[1, 2, 3]);
    assert_eq!(instances.report(2, 1, &["research/files", "research/others"]), 1);
    instances.are(&[1, 3]);
    assert_eq!(instances.report(2, 1, &["research/files"]), 0, "the same again is no news");
    assert_eq!(instances.report(1, 1, &["research/others"]), 0, "it serves this server");
    assert_eq!(instances.report(3, 0, &["research/files"]), 0, "an older stream is not heard");
    assert_eq!(instances.report(3, 2, &["research/files"]), 0, "nor one that was never announced");
    instances.are(&[1, 3]);
    assert_eq!(instances.report(2, 1, &[]), 1);
    instances.are(&[1, 2, 3]);
    instances.report(2, 1, &["research/files"]);
    instances.announce(2, 5);
    instances.are(&[1, 2, 3]);
}

#[test]
fn the_last_instances_are_told_whatever_they_say_and_one_that_is_away_vouches_for_nothing() {
    let mut instances = Instances::new("{ workload: { labels: { app: files } } }");
    instances.report(1, 1, &["research/files"]);
    instances.report(2, 1, &["research/files"]);
    instances.are(&[3]);
    instances.report(3, 1, &["research/files"]);
    instances.are(&[1, 2, 3]);
    instances.report(3, 1, &[]);
    instances.are(&[3]);
    instances.observe(Observation::Away { by: Instances::by(3, 0) });
    instances.are(&[3]);
    instances.observe(Observation::Away { by: Instances::by(3, 1) });
    instances.are(&[1, 2, 3]);
    instances.report(1, 1, &[]);
    instances.are(&[1, 3]);
    instances.observe(Observation::Gone { by: Instances::by(1, 1) });
    instances.are(&[2, 3]);
}

#[test]
fn a_given_address_of_an_instance_that_does_not_serve_is_left_out_as_long_as_another_is_given() {
    let given = |numbers: &[u16]| {
        let all = numbers.iter().map(|n| format!("{{ address: '10.0.0.{n}:7443' }}")).collect::<Vec<_>>();
        format!("{{ endpoints: [{}] }}", all.join(", "))
    };
    let mut instances = Instances::new(&given(&[1, 2, 9]));
    instances.are(&[1, 2, 9]);
    instances.report(1, 1, &["research/files"]);
    instances.are(&[2, 9]);
    put(&mut instances.world, &object("McpServer", "research/files", &given(&[1])));
    instances.are(&[1]);
}

#[test]
fn how_callers_are_known_is_told_to_the_gateways_that_the_mesh_names() {
    let key = format!("sha256:{}", "0a".repeat(32));
    let told =
        object("Authentication", "edge/public", &format!("{{ apiKeys: [{{ name: a, digest: '{key}' }}] }}"));
    let mut world = world(&told);
    let gateway = Stances { inbound: false, outbound: false, gateway: true };
    let knows = |world: &World, app: &str, stances| {
        !world.concerning(&viewer("edge", app, stances), &[], ResourceType::Authentication).is_empty()
    };
    assert!(knows(&world, "gate", gateway) && !knows(&world, "gate", OUTBOUND), "by its own word");
    let trust = "{ trustDomain: mesh.test, gateways: ['spiffe://mesh.test/ns/edge/sa/gate'] }";
    let touched = put(&mut world, &object("Trust", "weft-system/mesh", trust));
    assert!(touched.iter().any(|it| it.ty == ResourceType::Authentication));
    assert!(knows(&world, "gate", gateway) && !knows(&world, "other", gateway));
    assert!(!knows(&world, "gate", OUTBOUND));
}
