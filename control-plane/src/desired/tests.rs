use weft_proto::resource::parse;

use super::*;
use crate::store::Entry;

fn mesh() -> Mesh {
    Mesh { trust_domain: TrustDomain::parse("corp.example").unwrap() }
}

fn documents(text: &str) -> Vec<(Resource, u64)> {
    parse("test.yaml", text).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The state at revision 9, each object last changed in revision 5.
fn present(text: &str) -> Present {
    let entries: Vec<Entry> = documents(text)
        .into_iter()
        .map(|(resource, _)| Entry {
            key: store_key(&resource.key()),
            value: resource.canonical().into(),
            created: Revision(2),
            modified: Revision(5),
            lease: None,
        })
        .collect();
    Present::read(Revision(9), &entries)
}

fn document(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    let metadata = format!("metadata: {{ namespace: {namespace}, name: {name} }}");
    format!("---\napiVersion: weft.dev/v1alpha1\nkind: {kind}\n{metadata}\nspec: {spec}\n")
}

fn server(name: &str, aliases: &str) -> String {
    document(
        "McpServer",
        "a",
        name,
        &format!("{{ external: {{ url: 'https://x.example/' }}, aliases: [{aliases}] }}"),
    )
}

fn apply(before: &str, text: &str) -> Result<Changes, Error> {
    plan_apply(&mesh(), &present(before), "test.yaml", documents(text))
}

fn actions(changes: &Changes) -> Vec<Action> {
    changes.outcomes.iter().map(|outcome| outcome.action).collect()
}

#[track_caller]
fn mistakes(result: Result<Changes, Error>) -> Vec<(u64, String, String)> {
    match result {
        Err(Error::Invalid(mistakes)) => {
            mistakes.into_iter().map(|it| (it.place.line, it.place.field, it.message)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn objects_are_created_changed_or_left_alone() {
    let before = server("kept", "") + &server("edited", "");
    let changes =
        apply(&before, &(server("new", "") + &server("edited", "old") + &server("kept", ""))).unwrap();
    assert_eq!(actions(&changes), [Action::Created, Action::Changed, Action::Unchanged]);
    let keys: Vec<_> = changes.writes.iter().map(|write| write.key().as_str()).collect();
    assert_eq!(keys, ["resources/mcpservers/a/new", "resources/mcpservers/a/edited"]);
    assert!(changes.outcomes[1].diff.contains("\n+  - old\n"), "{}", changes.outcomes[1].diff);
    assert_eq!(changes.outcomes[2].diff, "");
    assert_eq!(changes.transaction("me", "why").guard.unwrap().since, Revision(9));
}

#[test]
fn an_object_that_is_given_twice_is_refused() {
    let found = mistakes(apply("", &(server("x", "") + &server("y", "") + &server("x", "z"))));
    let message = "mcpservers/a/x is given already on line 1";
    assert_eq!(found, [(11, "metadata.name".to_owned(), message.to_owned())]);
}

#[test]
fn a_change_based_on_another_version_is_refused_and_names_both() {
    let versioned = |version: &str| {
        let mut documents = documents(&server("x", "z"));
        documents[0].0.metadata.resource_version = Some(version.parse().unwrap());
        documents
    };
    let before = present(&server("x", ""));
    let changes = plan_apply(&mesh(), &before, "f", versioned("5")).unwrap();
    assert_eq!(actions(&changes), [Action::Changed]);
    let error = plan_apply(&mesh(), &before, "f", versioned("4")).unwrap_err();
    let Error::Stale(stale) = &error else { panic!("{error:?}") };
    assert_eq!(stale[0].to_string(), "mcpservers/a/x is at version 5, but the change is based on version 4");
    let error = plan_apply(&mesh(), &present(""), "f", versioned("4")).unwrap_err();
    assert!(error.to_string().contains("is absent"), "{error}");
}

#[test]
fn the_version_is_not_stored_and_makes_no_difference() {
    let mut documents = documents(&server("x", ""));
    documents[0].0.metadata.resource_version = Some(ResourceVersion(5));
    let changes = plan_apply(&mesh(), &present(&server("x", "")), "f", documents).unwrap();
    assert_eq!(actions(&changes), [Action::Unchanged]);
}

#[test]
fn the_trust_domain_cannot_be_changed() {
    let trust =
        |domain: &str| document("Trust", "weft-system", "mesh", &format!("{{ trustDomain: {domain} }}"));
    assert!(apply("", &trust("corp.example")).is_ok());
    let found = mistakes(apply("", &trust("other.example")));
    assert_eq!((found[0].0, found[0].1.as_str()), (1, "spec.trustDomain"));
}

#[test]
fn two_servers_of_a_namespace_cannot_be_called_the_same() {
    let check = |before: &str, text: &str, field: &str, message: &str| {
        let found = mistakes(apply(before, text));
        assert_eq!(found, [(1, field.to_owned(), message.to_owned())]);
    };
    check(&server("x", ""), &server("y", "x"), "spec.aliases[0]", "mcpservers/a/x is called \"x\" already");
    check(&server("x", "y"), &server("y", ""), "metadata.name", "mcpservers/a/x is called \"y\" already");
    check(
        &server("x", "o"),
        &server("y", "n, o"),
        "spec.aliases[1]",
        "mcpservers/a/x is called \"o\" already",
    );
    assert!(apply(&server("x", ""), &server("x", "y, x")).is_ok());
    let elsewhere = server("y", "x").replace("namespace: a", "namespace: b");
    assert!(apply(&server("x", ""), &elsewhere).is_ok());
    assert!(apply(&server("x", "o"), &(server("x", "") + &server("y", "o"))).is_ok(), "handed over at once");
}

#[test]
fn probable_mistakes_are_warned_of() {
    let check = |before: &str, text: &str, expected: &[&str]| {
        let changes = apply(before, text).unwrap();
        assert_eq!(changes.outcomes.last().unwrap().warnings, expected, "{text}");
    };
    let policy = |names: &str| {
        document(
            "AccessPolicy",
            "a",
            "p",
            &format!("{{ servers: {{ names: [{names}] }}, rules: [{{ action: deny }}] }}"),
        )
    };
    check(&server("x", ""), &policy("y"), &["it selects no server that exists"]);
    check(&server("x", ""), &policy("'*'"), &[]);
    check("", &(server("y", "") + &policy("y")), &[]);
    let members = document(
        "VirtualServer",
        "a",
        "v",
        "{ members: [{ server: a/x }, { server: a/old }, { server: a/z }] }",
    );
    check(&server("x", "old"), &members, &["there is no server a/z"]);
    let route = document("Route", "a", "r", "{ server: a/x, rules: [{ to: [{ server: a/y }] }] }");
    check(&server("x", ""), &route, &["there is no server a/y"]);
    let federated = document("Authentication", "a", "g", "{ federatedDomains: [far.example] }");
    let warning = "trust domain far.example is not federated in Trust, so that nobody of it is let in";
    check("", &federated, &[warning]);
}

#[test]
fn deleting_a_server_that_is_still_named_is_warned_of() {
    let route = document("Route", "a", "r", "{ server: a/x, rules: [{ to: [{ server: a/x }] }] }");
    let before = present(&(server("x", "") + &route));
    let changes = plan_delete(&mesh(), &before, "f", documents(&server("x", ""))).unwrap();
    assert_eq!(actions(&changes), [Action::Deleted]);
    assert_eq!(changes.outcomes[0].warnings, ["it is still named by routes/a/r"]);
    let changes = plan_delete(&mesh(), &before, "f", documents(&(server("x", "") + &route))).unwrap();
    assert_eq!(changes.outcomes[0].warnings, [""; 0]);
    let changes = plan_delete(&mesh(), &before, "f", documents(&server("y", ""))).unwrap();
    assert_eq!(actions(&changes), [Action::Unchanged]);
    assert!(changes.writes.is_empty());
}

#[test]
fn rolling_back_speaks_only_of_what_differs() {
    let past = present(&(server("kept", "") + &server("edited", "old") + &server("gone", "")));
    let now = present(&(server("kept", "") + &server("edited", "new") + &server("extra", "")));
    let changes = plan_rollback(&mesh(), &now, &past).unwrap();
    let told: Vec<_> = changes.outcomes.iter().map(|it| (it.key.name.as_str(), it.action)).collect();
    let expected = [("edited", Action::Changed), ("gone", Action::Created), ("extra", Action::Deleted)];
    assert_eq!(told, expected);
}

#[test]
fn an_object_that_cannot_be_read_can_be_replaced_and_deleted() {
    let mut entry = Entry {
        key: store::Key::new("resources/mcpservers/a/x").unwrap(),
        value: "{\"from\": \"the future\"}".into(),
        created: Revision(1),
        modified: Revision(1),
        lease: None,
    };
    let present = Present::read(Revision(1), std::slice::from_ref(&entry));
    let changes = plan_apply(&mesh(), &present, "f", documents(&server("x", ""))).unwrap();
    assert_eq!(actions(&changes), [Action::Changed]);
    assert!(changes.outcomes[0].diff.contains("the future"));
    let changes = plan_delete(&mesh(), &present, "f", documents(&server("x", ""))).unwrap();
    assert_eq!(actions(&changes), [Action::Deleted]);
    entry.value = server("y", "").into();
    assert!(Present::read(Revision(1), &[entry]).objects().values().all(|it| it.resource.is_err()));
}

#[test]
fn what_is_known_is_not_read_again() {
    let before = present(&(server("x", "") + &server("y", "")));
    let entries: Vec<_> = before
        .objects()
        .iter()
        .map(|(key, object)| Entry {
            key: store_key(key),
            value: object.value.clone(),
            created: object.created,
            modified: if key.name.as_str() == "x" { object.modified } else { Revision(10) },
            lease: None,
        })
        .collect();
    let after = before.follow(Revision(10), &entries);
    let same = |name: &str| {
        let key = format!("mcpservers/a/{name}").parse().unwrap();
        let resource = |it: &Present| it.object(&key).unwrap().resource.clone().unwrap();
        std::sync::Arc::ptr_eq(&resource(&before), &resource(&after))
    };
    assert!(same("x"));
    assert!(!same("y"));
    assert_eq!(after.revision(), Revision(10));
}

/// Objects by a digit: servers with an alias each, some of which cannot be read.
fn entry(n: u8, revision: u64) -> Entry {
    let name = ["x", "y", "z"][usize::from(n % 3)];
    let alias = ["", "o", "x", "n"][usize::from(n % 4)];
    let (resource, _) = documents(&server(name, alias)).remove(0);
    let value = if n % 7 == 6 { "{}".into() } else { resource.canonical().into() };
    let (created, modified) = (Revision(1), Revision(revision));
    Entry { key: store_key(&resource.key()), value, created, modified, lease: None }
}

proptest::proptest! {
    /// What follows change by change knows what one knows who reads it all at the end.
    #[test]
    fn following_is_the_same_as_reading(steps in proptest::collection::vec((0..84u8, proptest::bool::ANY), 0..20)) {
        let mut followed = Present::default();
        let mut entries = BTreeMap::new();
        for (revision, (n, put)) in (1..).zip(steps) {
            let entry = entry(n, revision);
            let key = entry.key.clone();
            let change = match put {
                true => {
                    entries.insert(key, entry.clone());
                    store::Change::Put(entry)
                }
                false => {
                    entries.remove(&key);
                    store::Change::Delete(key)
                }
            };
            let (at, author, reason) = (Timestamp::default(), String::new(), String::new());
            followed.advance(&store::Event { revision: Revision(revision), at, author, reason, changes: vec![change] });
        }
        let entries: Vec<_> = entries.into_values().collect();
        let read = Present::read(followed.revision(), &entries);
        proptest::prop_assert_eq!(format!("{followed:?}"), format!("{read:?}"));
    }
}

#[test]
fn more_than_a_control_plane_can_read_when_it_starts_is_refused_and_less_is_not() {
    let written = |bytes: usize| Write::Put {
        key: store::Key::new("resources/mcpservers/a/n").unwrap(),
        value: vec![b'x'; bytes].into(),
        lease: None,
    };
    let at_most = limits::STATE_BYTES_MAX - "resources/mcpservers/a/n".len();
    assert_eq!(refuse_too_large(&Present::default(), &[written(at_most)]), Ok(()));
    let bytes = limits::STATE_BYTES_MAX + 1;
    assert_eq!(
        refuse_too_large(&Present::default(), &[written(at_most + 1)]),
        Err(Error::TooLarge { bytes })
    );
    // A store that is too large already can be made smaller, and not larger.
    let entry = |value: Vec<u8>| Entry { value: value.into(), ..entry(0, 1) };
    let large = Present::read(Revision(1), &[entry(vec![b'x'; bytes])]);
    let x = entry(Vec::new()).key;
    assert_eq!(refuse_too_large(&large, &[Write::Delete { key: x.clone() }]), Ok(()));
    let put = |bytes: usize| Write::Put { key: x.clone(), value: vec![b'x'; bytes].into(), lease: None };
    assert_eq!(refuse_too_large(&large, &[put(bytes - 1)]), Ok(()));
    assert!(refuse_too_large(&large, &[put(bytes + 1)]).is_err());
}

#[test]
fn what_comes_from_elsewhere_has_its_age_from_there() {
    let check = |annotations: &str, expected: u64| {
        let text = document("McpServer", "a", "s", "{ external: { url: 'https://x.example/' } }");
        let text = text.replace("name: s }", &format!("name: s, annotations: {{ {annotations} }} }}"));
        let (resource, _) = documents(&text).pop().unwrap();
        assert_eq!(age(&resource, Revision(7)), expected, "{annotations}");
    };
    check("weft.dev/made-at: '2026-11-28T03:00:00Z'", 1_795_834_800);
    check("weft.dev/made-at: 'long ago'", 7);
    check("weft.dev/made-at: '1960-01-01T00:00:00Z'", 7);
    check("other: '2026-11-28T03:00:00Z'", 7);
}

#[test]
fn what_is_applied_keeps_the_age_that_it_has_from_elsewhere() {
    let spec = "{ external: { url: 'https://x.example/' } }";
    let text = document("McpServer", "a", "s", spec);
    let aged =
        text.replace("name: s }", "name: s, annotations: { weft.dev/made-at: '2026-11-28T03:00:00Z' } }");
    assert_eq!(actions(&apply(&aged, &text).unwrap()), [Action::Unchanged]);
    let changed = text.replace("x.example", "y.example");
    let changes = apply(&aged, &changed).unwrap();
    assert_eq!(actions(&changes), [Action::Changed]);
    assert!(!changes.outcomes[0].diff.contains("-  annotations"), "{}", changes.outcomes[0].diff);
}
