//! What `weft up` begins with when it is given nothing: the resources of `deploy/quickstart`.

use std::path::Path;

use crate::files::File;

/// The command of the example server, as the resources name it.
const COMMAND: &str = "command: weft,";

/// The resources of a mesh that is given nothing else. The example server is this very program, wherever it lies.
pub(crate) fn quickstart(program: &Path) -> Vec<File> {
    let text = include_str!("../../../deploy/quickstart/quickstart.yaml");
    let program = serde_json::Value::from(program.to_string_lossy());
    let text = text.replace(COMMAND, &format!("command: {program},"));
    vec![File { name: "quickstart.yaml".to_owned(), text }]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use weft_proto::resource::{Kind, Spec, parse};

    use weft_proto::name::TrustDomain;

    use super::*;
    use crate::files::check;

    macro_rules! examples {
        ($($name:literal),* $(,)?) => {
            /// Name and text of each file, in order.
            const FILES: &[(&str, &str)] =
                &[$(($name, include_str!(concat!("../../../deploy/examples/", $name)))),*];
        };
    }

    examples![
        "01-files-server.yaml",
        "02-access.yaml",
        "03-quotas.yaml",
        "04-tools-and-telemetry.yaml",
        "05-routes-and-virtual-server.yaml",
        "06-gateway-and-trust.yaml",
    ];

    /// The line by which the examples name the trust domain of a mesh that was made without further flags.
    const TRUST_DOMAIN_LINE: &str = "trustDomain: weft.local";

    /// The examples, for a mesh of this trust domain.
    fn files(trust_domain: &TrustDomain) -> Vec<File> {
        let line = format!("trustDomain: {trust_domain}");
        let file = |(name, text): &(&str, &str)| File {
            name: format!("examples/{name}"),
            text: text.replace(TRUST_DOMAIN_LINE, &line),
        };
        FILES.iter().map(file).collect()
    }

    fn domain(text: &str) -> TrustDomain {
        TrustDomain::parse(text).unwrap()
    }

    #[test]
    fn what_a_mesh_begins_with_is_good_and_starts_this_program() {
        let files = quickstart(Path::new("/opt/a \"b\"/weft"));
        let keys = check(&files).unwrap();
        assert_eq!(keys.len(), 2);
        assert!(files[0].text.contains(r#"command: "/opt/a \"b\"/weft","#));
    }

    #[test]
    fn the_examples_are_good_and_show_every_kind() {
        let keys = check(&files(&domain("weft.local"))).unwrap();
        let kinds: BTreeSet<_> = keys.iter().map(|key| key.kind).collect();
        assert_eq!(kinds, Kind::ALL.iter().copied().collect());
        let namespaces: BTreeSet<_> = keys.iter().map(|key| key.namespace.as_str()).collect();
        assert_eq!(namespaces, BTreeSet::from(["edge", "research", "weft-system"]));
    }

    #[test]
    fn every_file_of_the_folder_is_built_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/examples");
        let entries = std::fs::read_dir(folder).unwrap();
        let mut found: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        found.retain(|name| name.ends_with(".yaml"));
        found.sort();
        assert_eq!(found, FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn the_examples_fit_a_mesh_of_any_trust_domain() {
        let objects =
            files(&domain("corp.example")).into_iter().flat_map(|file| parse("f", &file.text).unwrap());
        let domains: Vec<_> = objects
            .filter_map(|(object, _)| match object.spec {
                Spec::Trust(trust) => Some(trust.trust_domain.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(domains, ["corp.example"]);
    }

    #[test]
    fn what_the_examples_refer_to_is_among_them() {
        let objects: Vec<_> =
            files(&domain("weft.local")).iter().flat_map(|file| parse("f", &file.text).unwrap()).collect();
        let servers: BTreeSet<_> = objects
            .iter()
            .filter(|(object, _)| object.kind() == Kind::McpServer)
            .map(|(object, _)| format!("{}/{}", object.metadata.namespace, object.metadata.name))
            .collect();
        for (object, _) in &objects {
            let named: Vec<_> = match &object.spec {
                Spec::VirtualServer(it) => it.members.iter().map(|member| &member.server).collect(),
                Spec::Route(route) => {
                    let to = route.rules.iter().flat_map(|rule| rule.to.iter().map(|to| &to.server));
                    to.chain([&route.server]).collect()
                }
                _ => Vec::new(),
            };
            for server in named {
                assert!(servers.contains(&server.to_string()), "{server} of {}", object.key());
            }
        }
    }
}
