use super::*;

fn speaks(container: Value) -> Value {
    let pod = with(pod(), "/spec/containers/0", container);
    let mut pod = pod;
    pod["spec"]["containers"].as_array_mut().unwrap().truncate(1);
    annotated(pod, json!({ "weft.dev/stdio": "notes", "weft.dev/servers": "notes" }))
}

#[test]
fn the_sidecar_takes_the_place_of_the_command() {
    let injected = put(&speaks(
        json!({ "name": "notes", "image": "n", "command": ["npx", "$(REGISTRY)"], "args": ["-y", "$(KEY)", "$$HOME"],
        "env": [{ "name": "KEY", "value": "v" }] }),
    ));
    let spec = &injected.pod["spec"];
    assert_eq!(spec["initContainers"].as_array().unwrap().len(), 1);
    assert_eq!(spec["initContainers"][0]["args"], json!(["copy", "/weft/bin/weft-sidecar"]));
    let notes = &spec["containers"][0];
    assert_eq!(notes["command"], json!(["/weft/bin/weft-sidecar", "run", "--", "npx", "$(REGISTRY)"]));
    // The cluster expands them where they are, as it would have.
    assert_eq!(notes["args"], json!(["-y", "$(KEY)", "$$HOME"]));
    assert_eq!(notes["env"][0], json!({ "name": "KEY", "value": "v" }));
    let file = file_of(notes);
    assert_eq!(file["node"]["servers"], json!(["research/notes"]));
    assert_eq!(file["node"].get("commands"), None);
    assert_eq!(notes["readinessProbe"]["httpGet"]["port"], 7401);
    let mounts: Vec<_> =
        notes["volumeMounts"].as_array().unwrap().iter().map(|it| it["mountPath"].clone()).collect();
    assert_eq!(mounts, ["/var/run/weft", "/var/lib/weft", "/weft/bin"]);
    assert_eq!(injected.pod["metadata"]["annotations"][SAFE_TO_EVICT], "weft-state,weft-nothing,weft-binary");
}

#[test]
fn the_command_may_be_said_where_the_image_has_it() {
    let mut pod = speaks(json!({ "name": "notes", "image": "n", "command": [], "args": null,
        "readinessProbe": { "exec": { "command": ["true"] } } }));
    pod["metadata"]["annotations"]["weft.dev/stdio-command"] = json!("[\"serve\", \"--stdio\"]");
    let injected = put(&pod);
    let notes = &injected.pod["spec"]["containers"][0];
    assert_eq!(notes["command"], json!(["/weft/bin/weft-sidecar", "run", "--", "serve", "--stdio"]));
    assert_eq!(notes.get("args"), None);
    assert_eq!(notes["readinessProbe"], json!({ "exec": { "command": ["true"] } }));
}

#[test]
fn what_cannot_be_taken_over_is_told() {
    let check = |container: Value, expected: &str| {
        let skip = skipped(&speaks(container));
        assert_eq!(skip.weight(), Weight::Mistake);
        assert!(skip.to_string().contains(expected), "{skip}");
    };
    check(json!({ "name": "other", "command": ["a"] }), "weft.dev/stdio: there is no container notes");
    check(json!({ "name": "notes" }), "weft.dev/stdio-command: is needed");
    check(json!({ "name": "notes", "args": ["a"] }), "weft.dev/stdio-command: is needed");
    check(json!({ "name": "notes", "command": ["a", ""] }), "has a word that no sidecar takes");
    check(json!({ "name": "notes", "command": "a" }), "the command of its container is no list of texts");
    check(json!({ "name": "notes", "command": [7] }), "the command of its container is no list of texts");
    check(
        json!({ "name": "notes", "command": ["a"], "env": [{ "name": "WEFT_LOG" }] }),
        "the name \"WEFT_LOG\" of a variable",
    );
    check(
        json!({ "name": "notes", "command": ["a"], "volumeMounts": [{ "name": "v", "mountPath": "/var/lib/weft/" }] }),
        "the name \"/var/lib/weft/\" of a mounted folder",
    );
    let command: Vec<_> = (0..300).map(|_| "x").collect();
    check(json!({ "name": "notes", "command": command }), "has 300 words; at most 256");
    for (command, expected) in [
        ("npx -y", "is no JSON array"),
        ("[]", "has no word"),
        ("[\"\"]", "has a first word"),
        ("[1]", "is no JSON"),
    ] {
        let mut pod = speaks(json!({ "name": "notes" }));
        pod["metadata"]["annotations"]["weft.dev/stdio-command"] = json!(command);
        assert!(skipped(&pod).to_string().contains(expected), "{}", skipped(&pod));
    }
}

#[test]
fn what_the_annotation_says_stands_for_all_words_and_goes_again() {
    let mut pod = speaks(json!({ "name": "notes", "image": "n", "command": ["old"], "args": ["older"] }));
    pod["metadata"]["annotations"]["weft.dev/stdio-command"] = json!("[\"serve\", \"$(KEY)\"]");
    let injected = put(&pod).pod;
    let notes = &injected["spec"]["containers"][0];
    assert_eq!(notes["command"], json!(["/weft/bin/weft-sidecar", "run", "--", "serve", "$(KEY)"]));
    assert_eq!(notes.get("args"), None);
    assert_eq!(uninject(&injected).unwrap(), pod);
}
