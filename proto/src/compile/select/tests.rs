use super::*;

fn selector(text: &str) -> ServerSelector {
    let text = format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: Telemetry, metadata: {{namespace: weft-system, name: t}}, \
         spec: {{servers: {text}}}}}"
    );
    match crate::resource::parse_one("f", &text).unwrap().spec {
        crate::resource::Spec::Telemetry(it) => it.servers,
        other => panic!("{other:?} is no telemetry"),
    }
}

/// What a selector in an object of `namespace` makes of the server `research/files` with the labels `team: papers`
/// and `tier: "1"`.
fn found(namespace: &str, text: &str) -> Option<Specificity> {
    let labels = BTreeMap::from([("team", "papers"), ("tier", "1")]);
    let labels = labels.into_iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap()));
    let labels = Labels::new(labels.collect()).unwrap();
    let (server, name) = (Namespace::parse("research").unwrap(), ObjectName::parse("files").unwrap());
    let subject = Subject { namespace: &server, name: &name, labels: &labels };
    let (namespace, root) = (Namespace::parse(namespace).unwrap(), Namespace::parse("weft-system").unwrap());
    specificity(&selector(text), &namespace, &root, subject)
}

#[test]
fn every_part_of_a_selector_must_match() {
    let check = |text: &str, expected: bool| {
        assert_eq!(found("research", text).is_some(), expected, "{text}");
        assert_eq!(found("weft-system", text).is_some(), expected, "{text}");
    };
    check("{}", true);
    check("{names: [files]}", true);
    check("{names: [web, fi*]}", true);
    check("{names: [file]}", false);
    check("{labels: {team: papers}}", true);
    check("{labels: {team: papers, tier: '2'}}", false);
    check("{labels: {zone: a}}", false);
    check("{names: [files], labels: {team: other}}", false);
    check("{namespaces: [research]}", true);
    check("{namespaces: ['re*']}", true);
    check("{namespaces: [other]}", false);
}

#[test]
fn only_the_root_namespace_reaches_beyond_its_own() {
    assert!(found("other", "{}").is_none());
    assert!(found("other", "{names: [files]}").is_none());
    assert!(found("other", "{namespaces: [research]}").is_none());
    assert!(found("weft-system", "{}").is_some());
}

#[test]
fn names_are_more_specific_than_patterns_than_labels_than_everything() {
    let descending = [
        ("research", "{names: [files], labels: {team: papers}}"),
        ("research", "{names: ['fi*', files]}"),
        ("weft-system", "{names: [files]}"),
        ("research", "{names: ['fi*'], labels: {team: papers}}"),
        ("research", "{names: ['fi*']}"),
        ("weft-system", "{names: ['fi*']}"),
        ("research", "{labels: {team: papers, tier: '1'}}"),
        ("weft-system", "{labels: {team: papers, tier: '1'}}"),
        ("research", "{labels: {team: papers}}"),
        ("research", "{}"),
        ("weft-system", "{namespaces: ['re*']}"),
        ("weft-system", "{}"),
    ];
    let found: Vec<_> = descending.iter().map(|(namespace, text)| found(namespace, text).unwrap()).collect();
    assert!(found.is_sorted_by(|a, b| a > b), "{found:#?}");
}

#[test]
fn a_star_alone_and_one_s_own_namespace_say_nothing_more() {
    assert_eq!(found("research", "{names: ['*']}"), found("research", "{}"));
    assert_eq!(found("weft-system", "{namespaces: ['*']}"), found("weft-system", "{}"));
    assert_eq!(found("weft-system", "{namespaces: [research]}"), found("research", "{}"));
}
