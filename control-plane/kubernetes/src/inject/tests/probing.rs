use super::*;

fn probed(probes: Value) -> Injected {
    let mut pod = pod();
    let server = pod["spec"]["containers"][0].as_object_mut().unwrap();
    for (field, probe) in probes.as_object().unwrap() {
        server.insert(field.clone(), probe.clone());
    }
    put(&pod)
}

fn server(injected: &Injected) -> &Value {
    &injected.pod["spec"]["containers"][0]
}

#[test]
fn probes_of_every_kind_are_made_by_the_sidecar() {
    let injected = probed(json!({
        "livenessProbe": { "httpGet": { "path": "/live?a=b", "port": "mcp", "scheme": "HTTPS",
            "httpHeaders": [{ "name": "X", "value": "$(Y)" }] }, "timeoutSeconds": 5, "periodSeconds": 7 },
        "readinessProbe": { "tcpSocket": { "port": 9001 }, "failureThreshold": 9 },
        "startupProbe": { "grpc": { "port": 9002, "service": "files" }, "terminationGracePeriodSeconds": 3 },
    }));
    let server = server(&injected);
    let at = |kind: &str| json!({ "path": format!("/app-probes/server/{kind}"), "port": 7401 });
    assert_eq!(
        server["livenessProbe"],
        json!({ "httpGet": at("liveness"), "timeoutSeconds": 5, "periodSeconds": 7 })
    );
    assert_eq!(server["readinessProbe"], json!({ "httpGet": at("readiness"), "failureThreshold": 9 }));
    assert_eq!(
        server["startupProbe"],
        json!({ "httpGet": at("startup"), "terminationGracePeriodSeconds": 3 })
    );
    assert_eq!(
        file_of(sidecar(&injected.pod))["probes"],
        json!({
            "server/liveness": { "httpGet": { "path": "/live?a=b", "port": 9000, "scheme": "HTTPS",
                "httpHeaders": [{ "name": "X", "value": "$(Y)" }] }, "timeoutSeconds": 5 },
            "server/readiness": { "tcpSocket": { "port": 9001 } },
            "server/startup": { "grpc": { "port": 9002, "service": "files" } },
        })
    );
}

#[test]
fn probes_of_all_containers_are_rewritten_also_of_init_containers() {
    let probe = json!({ "tcpSocket": { "port": 80 } });
    let pod =
        with(pod(), "/spec/containers/1", json!({ "name": "second", "image": "s", "livenessProbe": probe }));
    let early = json!([{ "name": "early", "image": "e", "restartPolicy": "Always", "startupProbe": probe }]);
    let injected = put(&with(pod, "/spec/initContainers", early));
    let probes = file_of(sidecar(&injected.pod))["probes"].clone();
    assert_eq!(probes.as_object().unwrap().keys().collect::<Vec<_>>(), ["early/startup", "second/liveness"]);
    assert_eq!(injected.pod["spec"]["initContainers"][1]["startupProbe"]["httpGet"]["port"], 7401);
}

#[test]
fn commands_and_other_hosts_are_probed_as_before() {
    let probes = json!({
        "livenessProbe": { "exec": { "command": ["true"] } },
        "readinessProbe": { "httpGet": { "host": "10.0.0.9", "port": 80 } },
        "startupProbe": { "tcpSocket": { "host": "127.0.0.1", "port": 80 } },
    });
    let injected = probed(probes.clone());
    for (field, probe) in probes.as_object().unwrap() {
        assert_eq!(server(&injected)[field], *probe);
    }
    assert_eq!(file_of(sidecar(&injected.pod)).get("probes"), None);
    assert!(injected.warnings.is_empty());
}

#[test]
fn a_probe_of_a_port_that_is_nowhere_stays_and_is_warned_of() {
    for port in [json!("nowhere"), json!(0), json!(70_000), json!(null), json!([])] {
        let injected = probed(json!({ "livenessProbe": { "httpGet": { "port": port } } }));
        assert_eq!(server(&injected)["livenessProbe"]["httpGet"]["port"], port);
        assert!(injected.warnings[0].starts_with("the liveness probe of server stays as it is: its port"));
    }
    let injected =
        probed(json!({ "livenessProbe": { "httpGet": 7 }, "readinessProbe": 7, "startupProbe": null }));
    assert_eq!(server(&injected)["livenessProbe"], json!({ "httpGet": 7 }));
}

#[test]
fn a_pod_may_keep_its_probes() {
    let probe = json!({ "tcpSocket": { "port": 80 } });
    let pod = with(pod(), "/spec/containers/0/livenessProbe", probe.clone());
    let injected = put(&annotated(pod, json!({ "weft.dev/rewrite-probes": "disabled" })));
    assert_eq!(server(&injected)["livenessProbe"], probe);
}

/// The sidecar reads its file strictly: what it would not take must not come into it.
#[test]
fn a_probe_that_the_sidecar_would_not_read_stays_and_is_warned_of() {
    for get in [
        json!({ "port": 80, "scheme": "ftp" }),
        json!({ "port": 80, "path": 7 }),
        json!({ "port": 80, "path": "/x".repeat(3000) }),
        json!({ "port": 80, "httpHeaders": { "X": "y" } }),
        json!({ "port": 80, "httpHeaders": [{ "name": "a b", "value": "y" }] }),
        json!({ "port": 80, "httpHeaders": [{ "name": "X", "value": "a\nb" }] }),
        json!({ "port": 80, "httpHeaders": [{ "name": "X", "value": "y".repeat(17_000) }] }),
    ] {
        let injected = probed(json!({ "livenessProbe": { "httpGet": get } }));
        assert_eq!(server(&injected)["livenessProbe"]["httpGet"], get);
        assert_eq!(injected.warnings.len(), 1);
    }
    for timeout in [json!(-1), json!("1"), json!(1_u64 << 40), json!(1.5)] {
        let injected =
            probed(json!({ "livenessProbe": { "tcpSocket": { "port": 80 }, "timeoutSeconds": timeout } }));
        assert_eq!(
            injected.warnings,
            ["the liveness probe of server stays as it is: its timeout is no number of seconds"]
        );
    }
    let many: Vec<_> = (0..200)
        .map(|n| json!({ "name": format!("c{n}"), "image": "i", "livenessProbe": { "tcpSocket": { "port": 80 } } }))
        .collect();
    let injected = put(&with(pod(), "/spec/containers", many.into()));
    assert_eq!(injected.warnings.len(), 8);
    assert_eq!(file_of(sidecar(&injected.pod))["probes"].as_object().unwrap().len(), 192);
}
