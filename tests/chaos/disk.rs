//! A state folder that nothing can be written to.

use serde_json::json;

use crate::mesh::Mesh;
use crate::pair::{self, Caller};
use crate::process::{Process, at_last, file_of};
use crate::upstream::Upstream;

/// Becomes the sidecar in a mount namespace of its own, where the state folder is made into a small disk, as the first
/// word says.
const ON_A_DISK: &str = "mount -t tmpfs -o size=4k none \"$1\" && eval \"$0\" && shift && exec \"$@\"";
const FULL: &str = "head -c 4096 /dev/zero > \"$1/filler\"";
const READ_ONLY: &str = "mount -o remount,ro \"$1\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_or_read_only_keeps_no_sidecar_from_starting_and_serving() {
    let upstream = Upstream::echo().await;
    let mesh = Mesh::start().await;
    mesh.apply(&pair::server(upstream.address, "")).await;
    for disk in [FULL, READ_ONLY] {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let file = file_of(&mesh, folder.path(), 1).await;
        let state = state.to_str().unwrap();
        let starter = ["unshare", "--mount", "--map-root-user", "sh", "-c", ON_A_DISK, disk, state];
        let sidecar = Process::under(folder.path(), &file, &starter).await;
        let mut caller = Caller::connect(sidecar.inbound(), mesh.workload("agents", "reviewer").await).await;
        assert_eq!(caller.call("echo", json!({})).await.status, 200, "{disk}");
        at_last("it says that it cannot keep its configuration", async || {
            let told = sidecar.ask("admin", "/config_dump").await.json();
            told["control"]["storeError"]["message"].is_string()
        })
        .await;
        assert_eq!(sidecar.ask("health", "/healthz/ready").await.status, 200, "{disk}");
    }
    mesh.stop().await;
}
