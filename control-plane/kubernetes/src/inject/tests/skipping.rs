use super::*;

#[track_caller]
fn chosen(of_namespace: &[(&str, &str)], of_pod: &[(&str, &str)], expected: Result<(), &str>) {
    let pod = with(pod(), "/metadata/labels", serde_json::to_value(labels(of_pod)).unwrap());
    let found = inject(&pod, &facts(&labels(of_namespace)), &settings());
    assert_eq!(found.map(|_| ()).map_err(|skip| skip.word()), expected, "{of_namespace:?} {of_pod:?}");
}

#[test]
fn a_sidecar_is_asked_for_by_label_and_the_pods_counts() {
    const ON: (&str, &str) = ("weft.dev/inject", "enabled");
    const OFF: (&str, &str) = ("weft.dev/inject", "disabled");
    const CANARY: (&str, &str) = ("weft.dev/revision", "canary");
    const DEFAULT: (&str, &str) = ("weft.dev/revision", "default");
    chosen(&[], &[], Err("not-asked"));
    chosen(&[ON], &[], Ok(()));
    chosen(&[], &[ON], Ok(()));
    chosen(&[ON], &[OFF], Err("disabled"));
    chosen(&[OFF], &[ON], Ok(()));
    chosen(&[OFF], &[], Err("disabled"));
    chosen(&[ON], &[CANARY], Err("other-revision"));
    chosen(&[CANARY], &[], Err("other-revision"));
    chosen(&[CANARY], &[DEFAULT], Ok(()));
    chosen(&[DEFAULT], &[], Ok(()));
    chosen(&[ON, CANARY], &[DEFAULT], Ok(()));
    chosen(&[("weft.dev/inject", "true")], &[], Err("mistake"));
    chosen(&[OFF], &[("weft.dev/inject", "yes")], Err("mistake"));
}

#[test]
fn where_the_namespace_is_not_known_whoever_asks_asks_for_a_sidecar() {
    let facts = Facts { door: Door::Admission, namespace: Some("research"), labels: None };
    assert!(inject(&pod(), &facts, &settings()).is_ok());
    let file = Facts { door: Door::File, namespace: None, labels: None };
    assert!(inject(&pod(), &file, &settings()).is_ok());
    let canary = Settings { revision: Revision::parse("canary").unwrap(), ..settings() };
    assert!(inject(&pod(), &file, &canary).is_ok());
    let other = with(pod(), "/metadata/labels/weft.dev~1revision", json!("other"));
    assert_eq!(inject(&other, &file, &canary).unwrap_err().word(), "other-revision");
}

#[test]
fn the_control_planes_own_namespace_and_those_of_kubernetes_are_never_matched() {
    let asks = labels(&[("weft.dev/inject", "enabled")]);
    let asking = with(pod(), "/metadata/labels/weft.dev~1inject", json!("enabled"));
    for (namespace, word) in [
        ("weft-system", "own-namespace"),
        ("kube-system", "system-namespace"),
        ("kube-public", "system-namespace"),
        ("kube-node-lease", "system-namespace"),
    ] {
        for door in [Door::Admission, Door::File] {
            let facts = Facts { door, namespace: Some(namespace), labels: Some(&asks) };
            assert_eq!(inject(&asking, &facts, &settings()).unwrap_err().word(), word);
        }
    }
}

#[test]
fn pods_that_cannot_have_a_sidecar_are_told_why() {
    let check = |at: &str, value: Value, expected: &str| {
        let skip = skipped(&with(pod(), at, value));
        assert_eq!(skip.weight(), Weight::Told);
        assert!(skip.to_string().contains(expected), "{skip}");
    };
    check("/spec/hostNetwork", json!(true), "hostNetwork");
    check("/spec/os", json!({ "name": "windows" }), "Windows");
    check("/spec/nodeSelector", json!({ "kubernetes.io/os": "windows" }), "Windows");
    check("/metadata/annotations", json!({ "kubernetes.io/config.mirror": "abc" }), "mirror");
    check("/metadata/annotations", json!({ "kubernetes.io/config.source": "file" }), "mirror");
    check("/spec/serviceAccountName", json!(""), "no service account");
    check("/spec/serviceAccountName", Value::Null, "no service account");
    check("/spec/securityContext", json!({ "runAsUser": 7443 }), "server runs as user 7443");
    check("/spec/containers/0/securityContext", json!({ "runAsUser": 7443 }), "server runs as user 7443");
    check(
        "/spec/containers/1",
        json!({ "name": "weft-sidecar", "image": "mine" }),
        "called weft-sidecar of its own",
    );
    check("/spec/initContainers", json!([{ "name": "weft-copy" }]), "called weft-copy of its own");
    check("/spec/initContainers", json!([{ "name": "weft-capture" }]), "called weft-capture of its own");
    check(
        "/spec/containers/0/ports",
        json!([{ "containerPort": 7401 }]),
        "port 7401, which is the sidecar's",
    );
}

#[test]
fn another_user_of_a_container_than_of_its_pod_counts() {
    let pod = with(pod(), "/spec/securityContext", json!({ "runAsUser": 7443 }));
    put(&with(pod, "/spec/containers/0/securityContext", json!({ "runAsUser": 1000 })));
}

#[test]
fn a_server_that_speaks_udp_alone_is_told() {
    let udp = with(pod(), "/spec/containers/0/ports", json!([{ "containerPort": 53, "protocol": "UDP" }]));
    let asks = json!({ "weft.dev/servers": "dns", "weft.dev/port": "53" });
    assert_eq!(skipped(&annotated(udp.clone(), asks.clone())), Skip::Udp(53));
    // Another port of the pod may be what it likes.
    put(&udp);
    let both = with(udp, "/spec/containers/0/ports/1", json!({ "containerPort": 53 }));
    put(&annotated(both, asks));
}

#[test]
fn pods_that_end_get_a_native_sidecar_or_none() {
    for policy in ["Never", "OnFailure"] {
        let ends = with(pod(), "/spec/restartPolicy", json!(policy));
        put(&ends);
        let settings = Settings { native: false, ..settings() };
        let asks = labels(&[("weft.dev/inject", "enabled")]);
        assert_eq!(inject(&ends, &facts(&asks), &settings), Err(Skip::NeverEnds));
    }
}

#[test]
fn every_mistake_in_annotations_is_told_with_its_name() {
    let check = |annotations: Value, expected: &[&str]| {
        let skip = skipped(&annotated(pod(), annotations.clone()));
        assert_eq!(skip.weight(), Weight::Mistake);
        let Skip::Mistakes(mistakes) = &skip else { panic!("{skip:?}") };
        let told: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), expected.len(), "{annotations}: {told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told:?} is not {expected:?}");
        }
    };
    check(json!({ "weft.dev/capture": "on" }), &["weft.dev/capture: \"on\" is neither enabled nor disabled"]);
    check(
        json!({ "weft.dev/port": "http", "weft.dev/cpu-limit": "lots", "weft.dev/image": "a b" }),
        &[
            "weft.dev/cpu-limit: \"lots\" is no amount",
            "weft.dev/image: \"a b\" is no image",
            "weft.dev/port: \"http\" holds no port",
        ],
    );
    check(json!({ "weft.dev/port": "+80" }), &["weft.dev/port: \"+80\" holds no port"]);
    check(json!({ "weft.dev/port": "80" }), &["weft.dev/port: whose port it is must be said too"]);
    check(json!({ "weft.dev/port": "a=80", "weft.dev/servers": "b" }), &["weft.dev/port: names a server"]);
    check(
        json!({ "weft.dev/port": "7443", "weft.dev/servers": "b" }),
        &["weft.dev/port: \"7443\" holds 7443, a port of"],
    );
    check(json!({ "weft.dev/port": "a=1,a=2" }), &["weft.dev/port: \"a=1,a=2\" gives a server two ports"]);
    check(json!({ "weft.dev/servers": "a,,b" }), &["weft.dev/servers: \"a,,b\" holds no name"]);
    check(json!({ "weft.dev/servers": "a,a" }), &["weft.dev/servers: \"a,a\" names a twice"]);
    check(json!({ "weft.dev/servers": "other/a" }), &["weft.dev/servers: \"other/a\" holds no name"]);
    let many = (0..17).map(|n| format!("s{n}")).collect::<Vec<_>>().join(",");
    check(json!({ "weft.dev/servers": many }), &["weft.dev/servers: \"s0,s1"]);
    check(json!({ "weft.dev/capture": "enabled" }), &["weft.dev/capture: which ports"]);
    check(
        json!({ "weft.dev/capture": "enabled", "weft.dev/port": "80", "weft.dev/rewrite-probes": "disabled" }),
        &["weft.dev/rewrite-probes: probes of a captured port"],
    );
    check(
        json!({ "weft.dev/stdio": "server" }),
        &["weft.dev/stdio: weft.dev/servers must name the one server"],
    );
    check(json!({ "weft.dev/stdio-command": "[\"a\"]" }), &["weft.dev/stdio-command: whose command"]);
    check(
        json!({ "weft.dev/memory-limit": "1Mi" }),
        &["resources: the sidecar's request for memory, 64Mi, is more than its limit, 1Mi"],
    );
    check(json!({ "weft.dev/drain": "soon" }), &["weft.dev/drain: \"soon\" "]);
    check(json!({ "weft.dev/native": "" }), &["weft.dev/native: \"\" is neither"]);
    check(json!({ "weft.dev/log-level": "$(X)" }), &["weft.dev/log-level: \"$(X)\" is no level"]);
    check(json!({ "weft.dev/servers": "x".repeat(20_000) }), &["weft.dev/servers: is 20000 bytes long"]);
}

#[test]
fn a_message_repeats_no_more_than_a_line_of_a_value() {
    let skip = skipped(&annotated(pod(), json!({ "weft.dev/capture": "ä".repeat(5000) })));
    assert!(skip.to_string().len() < 300, "{skip}");
}

#[test]
fn volumes_of_the_sidecars_names_are_a_clash() {
    for name in ["weft-identity", "weft-state", "weft-nothing", "weft-binary"] {
        let skip = skipped(&with(pod(), "/spec/volumes", json!([{ "name": name, "emptyDir": {} }])));
        assert_eq!(skip, Skip::Clash { what: "a volume", name: name.to_owned() });
    }
}

#[test]
fn what_has_not_the_form_of_a_pod_is_told_and_not_mangled() {
    let check = |pod: Value| assert_eq!(skipped(&pod).word(), "malformed", "{pod}");
    for value in [json!(null), json!(7), json!("pod"), json!([]), json!({}), json!({ "spec": [] })] {
        check(value);
    }
    for (at, value) in [
        ("/metadata", json!("m")),
        ("/metadata/labels", json!({ "a": 1 })),
        ("/metadata/annotations", json!([])),
        ("/spec/containers", json!({})),
        ("/spec/containers", json!([])),
        ("/spec/containers", json!(["server"])),
        ("/spec/containers/0", json!({ "image": "no name" })),
        ("/spec/containers/0", json!({ "name": "a/b" })),
        ("/spec/containers/0", json!({ "name": "server" })),
        ("/spec/initContainers", json!([{ "name": "server" }])),
        ("/spec/volumes", json!("v")),
        ("/spec/volumes", json!([null])),
    ] {
        check(with(pod(), at, value));
    }
    let many: Vec<_> = (0..300).map(|n| json!({ "name": format!("c{n}") })).collect();
    check(with(pod(), "/spec/containers", many.into()));
}

#[test]
fn what_did_not_ask_is_never_told_that_it_is_malformed() {
    let nobody = labels(&[]);
    for value in [json!(7), json!({}), json!({ "metadata": 7, "spec": 7 })] {
        assert_eq!(inject(&value, &facts(&nobody), &settings()), Err(Skip::NotAsked));
    }
}

#[test]
fn what_is_more_than_a_container_can_be_told_is_told() {
    let long: Vec<_> = (0..200)
        .map(|n| {
            let headers: Vec<_> = (0..10).map(|_| json!({ "name": "X", "value": "y".repeat(60) })).collect();
            let probe = json!({ "httpGet": { "port": 80, "path": "/x".repeat(20), "httpHeaders": headers } });
            json!({ "name": format!("c{n}"), "image": "i", "livenessProbe": probe })
        })
        .collect();
    let skip = skipped(&with(pod(), "/spec/containers", long.into()));
    assert!(matches!(skip, Skip::TooLarge { max: TEXT_BYTES_MAX, .. }), "{skip:?}");
    // An object of Kubernetes holds so many bytes of annotations, whatever of them are ours.
    let full = annotated(pod(), json!({ "example.com/note": "x".repeat(ANNOTATIONS_BYTES_MAX - 100) }));
    assert!(matches!(skipped(&full), Skip::TooLarge { max: ANNOTATIONS_BYTES_MAX, .. }));
}

#[test]
fn every_reason_has_its_word_in_the_list() {
    assert_eq!(Skip::examples().map(|reason| reason.word()), Skip::WORDS);
}
