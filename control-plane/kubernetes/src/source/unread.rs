//! What stands in for an object that does not read and of which nothing earlier is known: nobody gains from what could
//! not be read, be it a mistake or of a newer version.
//!
//! It says the least that an object of its kind can allow, about no more than what it may have been about, as far as
//! that reads. What was in shadow refuses nobody, and neither does what stands in for it.

use serde_json::{Value, json};
use weft_control_plane::desired::Mesh;
use weft_proto::resource::{Kind, Resource};

use super::read::{self, Seen};

/// The least that an object of a kind can allow.
struct Least {
    says: Value,
    /// Parts that narrow whom or what it is about, or that restrict by themselves: taken over if all of them read.
    keeps: &'static [&'static str],
    /// What is said beside where they do not.
    broadly: Value,
}

impl Least {
    /// None of a kind without whose objects nothing more is allowed.
    fn of(kind: Kind, mesh: &Mesh) -> Option<Self> {
        let (says, keeps): (_, &[_]) = match kind {
            Kind::AccessPolicy => {
                (json!({ "rules": [{ "action": "deny" }] }), &["servers", "virtualServers"])
            }
            // A call that is heavier than all there ever is.
            Kind::QuotaPolicy => {
                (json!({ "limits": [{ "name": "unread", "rate": "1/7d", "cost": "2" }] }), &["servers"])
            }
            // Withheld, as long as no other policy approves of them.
            Kind::ToolPolicy => (
                json!({ "pin": "enforce", "validateArguments": "enforce" }),
                &["servers", "tools", "redact", "resultMax"],
            ),
            // A key that nobody has, and that has ended.
            Kind::Authentication => {
                let digest = format!("sha256:{}", "0".repeat(64));
                let key = json!({ "name": "unread", "digest": digest, "notAfter": "1970-01-01T00:00:00Z" });
                (json!({ "apiKeys": [key] }), &["gateways"])
            }
            Kind::Trust => (
                json!({ "trustDomain": mesh.trust_domain, "defaultAction": "deny" }),
                &["svidLifetime", "federated", "gateways"],
            ),
            Kind::McpServer | Kind::VirtualServer | Kind::Route | Kind::Telemetry => return None,
        };
        let broadly = match kind {
            Kind::AccessPolicy => json!({ "virtualServers": ["*"] }),
            _ => json!({}),
        };
        Some(Self { says, keeps, broadly })
    }
}

/// What stands in for an object; none where nothing has to.
pub(super) fn stand_in(seen: &Seen, mesh: &Mesh) -> Option<Resource> {
    let Least { says, keeps, broadly } = Least::of(seen.key.kind, mesh)?;
    let spec = &seen.unread;
    let with = |more: &Value| {
        let mut says = says.clone();
        for (name, value) in more.as_object().into_iter().flatten() {
            says[name] = value.clone();
        }
        if spec["shadow"] == Value::Bool(true) {
            says["shadow"] = Value::Bool(true);
        }
        read::read(&seen.key, &json!({}), &says, Some(seen.made_at)).ok()
    };
    let kept = keeps.iter().filter(|part| !spec[**part].is_null());
    let kept: Value = kept.map(|part| ((*part).to_owned(), spec[*part].clone())).collect();
    with(&kept).or_else(|| with(&broadly))
}

#[cfg(test)]
mod tests {
    use weft_proto::name::TrustDomain;

    use super::*;

    fn check(kind: Kind, spec: Value, expected: Value) {
        let mesh = Mesh { trust_domain: TrustDomain::parse("corp.example").unwrap() };
        let (namespace, name) = if kind == Kind::Trust { ("weft-system", "mesh") } else { ("a", "p") };
        let object = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": kind.name(),
            "metadata": { "namespace": namespace, "name": name },
            "spec": spec,
        });
        let seen = read::seen(kind, serde_json::from_value(object).unwrap()).unwrap();
        assert!(seen.resource.is_err(), "it reads: {spec}");
        let said = stand_in(&seen, &mesh).map(|it| serde_json::to_value(&it.spec).unwrap());
        assert_eq!(said.unwrap_or_default(), expected, "{spec}");
    }

    #[test]
    fn what_stands_in_for_an_object_is_as_narrow_as_what_reads_of_it() {
        let rules = json!([{ "action": "deny" }]);
        let bad = json!([{ "action": "alow" }]);
        let files = json!({ "names": ["files"] });
        check(
            Kind::AccessPolicy,
            json!({ "servers": files, "rules": bad }),
            json!({ "servers": files, "rules": rules }),
        );
        check(
            Kind::AccessPolicy,
            json!({ "servers": { "names": 7 }, "rules": bad }),
            json!({ "virtualServers": ["*"], "rules": rules }),
        );
        let limits = json!([{ "name": "unread", "rate": "1/7d", "cost": "2" }]);
        check(
            Kind::QuotaPolicy,
            json!({ "servers": files, "limits": [{ "rate": "1/moon" }] }),
            json!({ "servers": files, "limits": limits }),
        );
        check(Kind::QuotaPolicy, json!({ "servers": 7 }), json!({ "limits": limits }));
        check(
            Kind::ToolPolicy,
            json!({ "tools": ["rm*"], "redact": ["path"], "later": 1 }),
            json!({ "tools": ["rm*"], "redact": ["path"], "pin": "enforce", "validateArguments": "enforce" }),
        );
        check(
            Kind::ToolPolicy,
            json!({ "tools": 7, "redact": ["path"] }),
            json!({ "pin": "enforce", "validateArguments": "enforce" }),
        );
        let digest = format!("sha256:{}", "0".repeat(64));
        let keys = json!([{ "name": "unread", "digest": digest, "notAfter": "1970-01-01T00:00:00Z" }]);
        check(
            Kind::Authentication,
            json!({ "gateways": { "app": "edge" }, "passkeys": true }),
            json!({ "gateways": { "app": "edge" }, "apiKeys": keys }),
        );
        check(
            Kind::Trust,
            json!({ "trustDomain": "corp.example", "defaultAction": "ask" }),
            json!({ "trustDomain": "corp.example", "defaultAction": "deny" }),
        );
    }

    #[test]
    fn what_only_watches_is_replaced_by_what_only_watches() {
        check(
            Kind::AccessPolicy,
            json!({ "shadow": true, "rules": 7 }),
            json!({ "shadow": true, "rules": [{ "action": "deny" }] }),
        );
        check(
            Kind::ToolPolicy,
            json!({ "shadow": true, "later": 1 }),
            json!({ "shadow": true, "pin": "enforce", "validateArguments": "enforce" }),
        );
    }

    #[test]
    fn nothing_stands_in_for_what_restricts_nobody() {
        for kind in [Kind::McpServer, Kind::VirtualServer, Kind::Route, Kind::Telemetry] {
            check(kind, json!(7), Value::Null);
        }
    }
}
