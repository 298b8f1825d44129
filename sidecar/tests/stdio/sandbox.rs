//! What a command may do.

use super::*;

#[tokio::test]
async fn a_command_has_its_own_environment_and_little_of_the_sidecars() {
    let peer =
        start(&["legacy"], json!({"env": {"TOKEN": "a=b\nc", "LC_ALL": "C.UTF-8"}}), &Limits::default());
    let env = call(&peer, "env", json!({})).await;
    assert_eq!((&env["TOKEN"], &env["LC_ALL"]), (&json!("a=b\nc"), &json!("C.UTF-8")));
    assert!(env["PATH"].is_string());
    assert!(env["CARGO_MANIFEST_DIR"].is_null(), "the tests have it, the command has not");
    assert!(!env.as_object().unwrap().keys().any(|name| name.starts_with("WEFT")));
}

#[tokio::test]
async fn a_command_is_bound_as_its_resource_says() {
    let sandbox =
        json!({"memoryMax": "512MiB", "processesMax": 1000, "openFilesMax": 64, "cpuSecondsMax": 60});
    let more = json!({"sandbox": sandbox, "workingDirectory": "/usr"});
    let peer = start(&["legacy"], more, &Limits::default());
    let bounds = call(&peer, "bounds", json!({})).await;
    assert_eq!(bounds, json!(["1", [512 << 20, 1000, 64, 60], "/usr"]));
    let free = start(&["legacy"], json!({"sandbox": {"allowNewPrivileges": true}}), &Limits::default());
    assert_eq!(call(&free, "bounds", json!({})).await[0], "0");
}

/// Whether this kernel can restrict paths; says so if not.
async fn landlock(peer: &StdioPeer) -> bool {
    match peer.introduction().await {
        Err(Refusal::ChildBusy(reason)) if reason.contains("no Landlock") => {
            eprintln!("this kernel has no Landlock: it was only seen that the command is not run without");
            false
        }
        other => other.is_ok(),
    }
}

#[tokio::test]
async fn a_command_writes_only_where_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("mine")).unwrap();
    std::fs::write(path("secret"), "").unwrap();
    let peer = start(&["legacy"], json!({"sandbox": {"readWritePaths": [path("mine")]}}), &Limits::default());
    if !landlock(&peer).await {
        return;
    }
    let paths = json!({"paths": [path("mine/new"), path("new"), path("secret"), "/dev/null"]});
    let denied = "Permission denied";
    assert_eq!(call(&peer, "write", paths).await, json!(["done", denied, denied, "done"]));
    assert_eq!(call(&peer, "read", json!({"paths": [path("secret")]})).await, json!(["done"]));
    let sidecar = json!({"pid": std::process::id()});
    let signalled = call(&peer, "kill", sidecar).await;
    assert!(["Operation not permitted", "done"].map(Value::from).contains(&signalled), "{signalled}");
    assert!(!Path::new(&path("new")).exists());
}

#[tokio::test]
async fn a_command_reads_only_where_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["open", "secret"] {
        std::fs::create_dir(path(name)).unwrap();
        std::fs::write(path(&format!("{name}/file")), "").unwrap();
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let sandbox = json!({"readOnlyPaths": [path("open"), tests.to_str().unwrap()]});
    let peer = start(&["legacy"], json!({"sandbox": sandbox}), &Limits::default());
    if !landlock(&peer).await {
        return;
    }
    let paths = json!({"paths": [path("open/file"), path("secret/file")]});
    assert_eq!(call(&peer, "read", paths).await, json!(["done", "Permission denied"]));
    assert_eq!(
        call(&peer, "write", json!({"paths": [path("open/file")]})).await,
        json!(["Permission denied"])
    );
}

#[tokio::test]
async fn a_path_that_is_not_there_keeps_the_command_from_running() {
    let sandbox = json!({"sandbox": {"readWritePaths": ["/weft/no/such/path"]}});
    let peer = start(&["legacy"], sandbox, &Limits::default());
    let Err(Refusal::ChildBusy(reason)) = peer.introduction().await else { panic!("it runs") };
    assert!(reason.contains("/weft/no/such/path"), "{reason}");
}
