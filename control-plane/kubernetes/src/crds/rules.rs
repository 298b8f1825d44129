//! What an API server can see for itself of what the parts of an object must have to do with each other, in the words
//! that whoever reads documents has for it. The rest is said behind the webhook.

use serde_json::{Value, json};
use weft_proto::resource::Kind;

const SERVER: &[Rule] = &[
    Rule {
        path: &["spec"],
        rule: "[has(self.workload), has(self.endpoints), has(self.external), has(self.stdio)].filter(it, it).size() == 1",
        message: "exactly one of workload, endpoints, external and stdio must be given",
    },
    Rule {
        path: &["spec"],
        rule: "!has(self.stdio) || !(has(self.path) || has(self.protocol))",
        message: "path and protocol say nothing about a stdio server; leave them out",
    },
    Rule {
        path: &["spec"],
        rule: "!has(self.path) || self.path.startsWith('/')",
        message: "path must start with a slash",
    },
    Rule {
        path: &["spec", "workload"],
        rule: "self.labels.size() > 0",
        message: "at least one label is needed to find the instances",
    },
    Rule {
        path: &["spec", "workload"],
        rule: "!(has(self.port) && has(self.unixSocket))",
        message: "a workload's server listens on a port or on a unixSocket, not on both",
    },
];
const ACCESS: &[Rule] = &[
    Rule {
        path: &["spec", "rules", "[]", "from", "[]"],
        rule: "has(self.identities) || has(self.namespaces) || has(self.serviceAccounts) || has(self.tenants) \
               || (has(self.claims) && self.claims.size() > 0)",
        message: "an empty match would be everyone; leave `from` out to mean that",
    },
    Rule {
        path: &["spec", "rules", "[]", "to", "[]"],
        rule: "has(self.methods) || has(self.tools) || has(self.prompts) || has(self.resources)",
        message: "an empty match would be everything; leave `to` out to mean that",
    },
];
const QUOTA: &[Rule] = &[
    Rule {
        path: &["spec", "limits", "[]"],
        rule: "[has(self.rate), has(self.budget), has(self.concurrency)].filter(it, it).size() == 1",
        message: "exactly one of rate, budget and concurrency must be given",
    },
    Rule {
        path: &["spec", "limits", "[]"],
        rule: "!has(self.burst) || has(self.rate)",
        message: "burst belongs to a rate",
    },
    Rule {
        path: &["spec", "limits", "[]"],
        rule: "!has(self.zone) || has(self.budget)",
        message: "zone belongs to a budget",
    },
];
const AUTHENTICATION: &[Rule] = &[Rule {
    path: &["spec", "jwt", "[]"],
    rule: "has(self.jwksUrl) != has(self.jwks)",
    message: "exactly one of jwksUrl and jwks must be given",
}];
const TRUST: &[Rule] = &[
    Rule {
        path: &[],
        rule: "self.metadata.name == 'mesh'",
        message: "the one Trust object is weft-system/mesh",
    },
    Rule {
        path: &["spec", "trustDomain"],
        rule: "self == oldSelf",
        message: "the trust domain was chosen when the mesh was made and cannot change",
    },
];

/// One rule, and where it is said. `[]` stands for the items of a list.
#[derive(Debug)]
struct Rule {
    path: &'static [&'static str],
    rule: &'static str,
    message: &'static str,
}

/// Says the rules of a kind in its schema.
pub(super) fn add(kind: Kind, schema: &mut Value) {
    let rules = match kind {
        Kind::McpServer => SERVER,
        Kind::AccessPolicy => ACCESS,
        Kind::QuotaPolicy => QUOTA,
        Kind::Authentication => AUTHENTICATION,
        Kind::Trust => TRUST,
        Kind::VirtualServer | Kind::Route | Kind::ToolPolicy | Kind::Telemetry => &[],
    };
    for Rule { path, rule, message } in rules {
        let place = path.iter().fold(&mut *schema, |place, part| match *part {
            "[]" => &mut place["items"],
            field => &mut place["properties"][field],
        });
        // What is not there cannot be ruled; the test of the drafts sees that nothing was made up.
        let place = place.as_object_mut().expect("rules are said of what the schema has");
        let said = place.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
        if let Some(said) = said.as_array_mut() {
            said.push(json!({ "rule": rule, "message": message }));
        }
    }
}
