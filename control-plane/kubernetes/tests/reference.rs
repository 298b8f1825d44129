//! `docs/injection.md` of the control plane is made from the tables in the code, so that it cannot say anything else.
//! `WEFT_BLESS=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a reference that cannot be made is broken")]

use std::fmt::Write as _;
use std::path::Path;

use weft_kubernetes::admission::Limits;
use weft_kubernetes::admission::review::BODY_BYTES_MAX;
use weft_kubernetes::inject::settings::{NATIVE_SINCE_MINOR, Settings, TEXT_BYTES_MAX};
use weft_kubernetes::inject::{
    self, ROOTS, SIDECAR_USER, SYSTEM_NAMESPACES, Skip, Weight, annotations, documents,
};

const INTRO: &str = "\
# Sidecars in pods

What asks for a sidecar in Kubernetes, what a pod may say about it, and why a pod gets none. This page is made from the
code by `control-plane/kubernetes/tests/reference.rs`. The control plane injects when a pod is created; `weft inject` and
`weft uninject` change manifests by the same code, see [the commands' reference](../cli/docs/commands.md).

## What is put in

| what | where | for |
|---|---|---|
| `weft-sidecar` | first of the init containers, with `restartPolicy: Always`; first of the containers where the cluster has no native sidecars | the sidecar. With `weft.dev/stdio` there is none; the container with the command gets its variables, ports and folders |
| `weft-copy` | init container, with `weft.dev/stdio` | copies the sidecar to `/weft/bin` |
| `weft-capture` | very first init container, with `weft.dev/capture` | makes ports lead to the sidecar |
| `weft-identity` | volume at `/var/run/weft` | a service account token of an hour, with an audience of its own, and the mesh's roots |
| `weft-state` | volume at `/var/lib/weft` | the last configuration and the audit trail; no keys |
| `weft-nothing` | volume over the folder of the account's token for the API server | is empty: the sidecar is not given that token |
| `weft-binary` | volume at `/weft/bin`, with `weft.dev/stdio` | the sidecar's program |
| `WEFT_SIDECAR_YAML` | variable | the sidecar's file; the cluster fills in `WEFT_POD_NAME`, `WEFT_POD_NAMESPACE` and `WEFT_POD_IP` |
| `WEFT_LOG`, `WEFT_ACCESS_LOG`, `WEFT_WORKERS` | variables | what is logged, and the threads for traffic where there is a limit |
| 7443, 7401 | ports `weft-mtls` and `weft-health` | other sidecars; the kubelet and metrics. 7400 and 7402 are on loopback |
| `kubectl.kubernetes.io/default-container` | annotation, unless it is there | `kubectl logs` shows the pod's own first container |
| `cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes` | annotation, unless it is there | the sidecar's folder keeps no node from being scaled away |

Probes of other containers over HTTP, TCP and gRPC become probes of the sidecar, at `/app-probes/<container>/<liveness, readiness
or startup>` of port 7401, which makes them in the kubelet's stead. Probes that run a command, and those of another `host`,
stay as they are; so does one that the sidecar could not make, with a warning. Containers of a sidecar run as user and group
7443, never as root, on a read-only file system, without capabilities, with the runtime's seccomp profile.

";

fn settings(page: &mut String) {
    let example =
        "trustDomain: corp.example\ncontrolPlane: weft-control-plane.weft-system.svc:7500\nimage: i\n";
    let Settings {
        namespace,
        revision,
        drain,
        state_size,
        log_level,
        access_log,
        on_mistake,
        ip_family,
        resources,
        ..
    } = Settings::parse(example).unwrap();
    let rows = [
        ("trustDomain", "needed", "The mesh's trust domain. Tokens of sidecars are for the audience `weft.<trustDomain>`.".to_owned()),
        ("controlPlane", "needed", "Where sidecars find the control plane, `host:port`.".to_owned()),
        ("image", "needed", "The sidecar's image.".to_owned()),
        ("imagePullPolicy", "what Kubernetes takes", "`Always`, `IfNotPresent` or `Never`.".to_owned()),
        ("namespace", namespace.as_str(), "The control plane's own namespace, in which nothing is injected.".to_owned()),
        ("revision", revision.as_str(), "The revision that this control plane injects for.".to_owned()),
        ("nativeSidecars", "true", format!("Whether the cluster has native sidecars: Kubernetes 1.{NATIVE_SINCE_MINOR} and later.")),
        ("ipFamily", ip_family.word(), "The addresses of pods: `ipv4`, `ipv6` or `dual`.".to_owned()),
        ("resources.cpuRequest", resources.cpu_request.as_str(), "Processors that a sidecar asks for.".to_owned()),
        ("resources.memoryRequest", resources.memory_request.as_str(), "Memory that a sidecar asks for.".to_owned()),
        ("resources.cpuLimit", "none", "Processors that a sidecar may use.".to_owned()),
        ("resources.memoryLimit", "none", "Memory that a sidecar may use.".to_owned()),
        ("drainTimeout", &drain.to_string(), "Longest that a sidecar drains; never longer than its pod's grace period less 10 s.".to_owned()),
        ("stateSize", state_size.as_str(), "Size of the folder of a sidecar's configuration and audit trail, which has half of it.".to_owned()),
        ("logLevel", log_level.as_str(), "What sidecars log.".to_owned()),
        ("accessLog", access_log.word(), "`stdout` or `off`.".to_owned()),
        ("onMistake", on_mistake.word(), "What becomes of a pod that asks for a sidecar and makes a mistake in it: `refuse`, so that it is not created and whoever creates it is told why, or `skip`, so that it is created without one, with a warning.".to_owned()),
    ];
    page.push_str("## Settings\n\nOf the control plane, in YAML, the same for every pod.\n\n| setting | if not given | means |\n|---|---|---|\n");
    for (name, default, means) in rows {
        writeln!(page, "| `{name}` | {default} | {means} |").unwrap();
    }
}

fn reasons(page: &mut String) {
    page.push_str(
        "\n## Reasons\n\nWhy a pod gets no sidecar. The word is the label `reason` of the metric `weft_admissions_total` and of the log; events have the sentence. \
         Where a sidecar was asked for, whoever creates the pod is warned; a mistake is handled as the setting `onMistake` says.\n\n\
         | word | says, for example | is |\n|---|---|---|\n",
    );
    for skip in Skip::examples() {
        let weight = match skip.weight() {
            Weight::Quiet => "said to nobody",
            Weight::Told => "a warning",
            Weight::Mistake => "a mistake",
        };
        writeln!(page, "| `{}` | {skip} | {weight} |", skip.word()).unwrap();
    }
}

fn limits(page: &mut String) {
    let Limits { deadline, in_flight_max, working_max } = Limits::default();
    page.push_str("\n## Limits\n\n| what | value |\n|---|---|\n");
    for (what, value) in [
        ("a question of the API server", format!("{} MiB", BODY_BYTES_MAX >> 20)),
        ("nesting of a question", "128".to_owned()),
        ("a question is answered within", format!("{deadline:?}")),
        ("questions that are read at once; others wait", in_flight_max.to_string()),
        ("questions that are thought about at once", working_max.to_string()),
        ("the sidecar's file in a pod", format!("{} KiB", inject::TEXT_BYTES_MAX >> 10)),
        ("settings", format!("{} KiB", TEXT_BYTES_MAX >> 10)),
        ("one file of `weft inject`", format!("{} MiB", documents::INPUT_BYTES_MAX >> 20)),
        ("documents of one file", documents::DOCUMENTS_MAX.to_string()),
        ("user and group of a sidecar", SIDECAR_USER.to_string()),
        (
            "ConfigMap with the mesh's roots, in every namespace with sidecars",
            format!("`{ROOTS}`, key `ca.crt`"),
        ),
        (
            "namespaces that are never looked at, besides the control plane's own",
            SYSTEM_NAMESPACES.map(|it| format!("`{it}`")).join(", "),
        ),
    ] {
        writeln!(page, "| {what} | {value} |").unwrap();
    }
}

fn page() -> String {
    let mut page = INTRO.to_owned();
    write!(page, "{}", annotations::reference()).unwrap();
    page.push('\n');
    settings(&mut page);
    reasons(&mut page);
    limits(&mut page);
    page
}

#[test]
fn the_page_says_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/injection.md");
    let made = page();
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == made, "{} differs from the code; run with WEFT_BLESS=1", path.display());
}
