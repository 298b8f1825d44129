//! What `kubectl get` shows of each kind.

use serde_json::{Value, json};
use weft_proto::resource::Kind;

/// The columns of one kind: first what matters of it, then what became of it, then its age.
pub(super) fn of(kind: Kind) -> Value {
    let own: &[(&str, &str, &str)] = match kind {
        Kind::McpServer => &[("Account", "string", ".spec.serviceAccount")],
        Kind::VirtualServer => &[("Mode", "string", ".spec.mode"), ("Prefix", "string", ".spec.prefix")],
        Kind::Route => &[("Server", "string", ".spec.server")],
        Kind::AccessPolicy | Kind::QuotaPolicy => &[("Shadow", "boolean", ".spec.shadow")],
        Kind::ToolPolicy => &[("Pin", "string", ".spec.pin"), ("Shadow", "boolean", ".spec.shadow")],
        Kind::Authentication | Kind::Telemetry => &[],
        Kind::Trust => {
            &[("Domain", "string", ".spec.trustDomain"), ("Default", "string", ".spec.defaultAction")]
        }
    };
    let condition = |name: &str, part: &str| format!(".status.conditions[?(@.type==\"{name}\")].{part}");
    let mut columns: Vec<Value> = own.iter().map(|(name, ty, path)| column(name, ty, path, 0)).collect();
    columns.extend([
        column("Accepted", "string", &condition("Accepted", "status"), 0),
        column("Programmed", "string", &condition("Programmed", "status"), 0),
        column("Sidecars", "string", ".status.sidecars", 0),
        column("Age", "date", ".metadata.creationTimestamp", 0),
        column("Reason", "string", &condition("Programmed", "message"), 1),
    ]);
    columns.into()
}

fn column(name: &str, ty: &str, path: &str, priority: u32) -> Value {
    json!({ "name": name, "type": ty, "jsonPath": path, "priority": priority })
}
