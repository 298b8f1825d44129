//! Whether a sidecar stands beside an instance of a server.

use std::collections::BTreeMap;

use crate::name::{ServerName, Workload};
use crate::resource::kinds::{Location, McpServer};

/// What a sidecar is and says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Proved.
    pub identity: &'a Workload,
    /// Labels of its workload.
    pub labels: &'a BTreeMap<String, String>,
    /// Servers that it says it stands beside, for servers that are not found by labels.
    pub claims: &'a [ServerName],
}

/// Whether a sidecar serves a server: one of its own namespace, for whose account the server is, and that finds its
/// instances by labels that the sidecar has, or that is not found by labels and which the sidecar claims. What a
/// sidecar says of itself so only ever chooses among what its identity allows.
pub fn serves(spec: &McpServer, name: &ServerName, place: Place<'_>) -> bool {
    let Place { identity, labels, claims } = place;
    if name.namespace != identity.namespace {
        return false;
    }
    if spec.service_account.as_ref().is_some_and(|account| *account != identity.account) {
        return false;
    }
    match &spec.location {
        Location::Workload(workload) => workload
            .labels
            .iter()
            .all(|(key, value)| labels.get(key.as_str()).is_some_and(|it| it == value.as_str())),
        Location::Endpoints(_) | Location::Stdio(_) | Location::External(_) => claims.contains(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::SpiffeId;
    use crate::resource::{Spec, parse_one};

    #[track_caller]
    fn check(spec: &str, labels: &[(&str, &str)], claims: &[&str], expected: bool) {
        let text = format!(
            "{{apiVersion: weft.dev/v1alpha1, kind: McpServer, metadata: {{namespace: tools, name: files}}, spec: {spec}}}"
        );
        let Spec::McpServer(spec) = parse_one("f", &text).unwrap().spec else { panic!("{text} is a server") };
        let identity = SpiffeId::parse("spiffe://d/ns/tools/sa/runner").unwrap().workload().unwrap();
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let claims: Vec<_> = claims.iter().map(|name| ServerName::parse(name).unwrap()).collect();
        let place = Place { identity: &identity, labels: &labels, claims: &claims };
        assert_eq!(serves(&spec, &ServerName::parse("tools/files").unwrap(), place), expected, "{text}");
        assert!(!serves(&spec, &ServerName::parse("other/files").unwrap(), place));
    }

    #[test]
    fn a_server_found_by_labels_is_served_by_whoever_has_them() {
        let spec = "{workload: {labels: {app: files, tier: x}}}";
        check(spec, &[("app", "files"), ("tier", "x"), ("more", "")], &[], true);
        check(spec, &[("app", "files")], &["tools/files"], false);
        check(spec, &[("app", "files"), ("tier", "y")], &[], false);
    }

    #[test]
    fn other_servers_are_served_by_whoever_claims_them() {
        for spec in ["{stdio: {command: x}}", "{endpoints: [{address: '127.0.0.1:1'}]}"] {
            check(spec, &[], &["tools/files"], true);
            check(spec, &[], &["tools/other", "other/files"], false);
            check(spec, &[], &[], false);
        }
    }

    #[test]
    fn a_server_of_another_account_is_not_served() {
        check("{stdio: {command: x}, serviceAccount: runner}", &[], &["tools/files"], true);
        check("{stdio: {command: x}, serviceAccount: other}", &[], &["tools/files"], false);
        check("{workload: {labels: {a: b}}, serviceAccount: other}", &[("a", "b")], &[], false);
    }
}
