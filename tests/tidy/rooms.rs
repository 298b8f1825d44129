//! The rooms of the house: which crate may know which, and what all crates share.

use crate::tree::Member;

/// Every crate, with those that it may depend on. The two planes never see each other.
const ROOMS: [(&str, &[&str]); 10] = [
    ("weft-proto", &[]),
    ("weft-certs", &["weft-proto"]),
    ("weft-telemetry", &["weft-proto"]),
    ("weft-sidecar", &["weft-proto", "weft-certs", "weft-telemetry"]),
    ("weft-control-plane", &["weft-proto", "weft-certs", "weft-telemetry"]),
    ("weft-kubernetes", &["weft-proto", "weft-certs", "weft-control-plane"]),
    ("weft", PLANES),
    ("weft-tests", PLANES),
    ("weft-fuzz", PLANES),
    (
        "weft-benches",
        &["weft-proto", "weft-certs", "weft-sidecar", "weft-control-plane", "weft-kubernetes", "weft-tests"],
    ),
];

const PLANES: &[&str] =
    &["weft-proto", "weft-certs", "weft-telemetry", "weft-sidecar", "weft-control-plane", "weft-kubernetes"];

/// What every crate takes from the workspace.
const SHARED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];

pub(crate) fn wrong_direction(members: &[Member]) -> Vec<String> {
    let mut wrong = Vec::new();
    for Member { name, needs, .. } in members {
        let Some((_, may)) = ROOMS.iter().find(|(room, _)| room == name) else {
            wrong.push(format!("{name} has no room: say in the tidy tier what it may depend on"));
            continue;
        };
        let beyond = needs.iter().filter(|need| !may.contains(&need.as_str()));
        wrong.extend(beyond.map(|need| format!("{name} depends on {need}")));
    }
    wrong
}

/// What is in a sidecar and must not be. Each line is a package with its version, its place and its features.
pub(crate) fn beyond_a_sidecar(parts: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in parts.lines() {
        let (package, rest) = line.split_once(' ').unwrap_or((line, ""));
        let features = rest.rsplit_once('[').map_or("", |(_, features)| features);
        let features = features.split_once(']').map_or(features, |(features, _)| features);
        if package == "weft-certs" && features.split(',').any(|feature| feature == "ca") {
            wrong.push("weft-certs with its feature `ca`".to_owned());
        }
        if package == "weft-control-plane" {
            wrong.push("weft-control-plane".to_owned());
        }
    }
    wrong
}

pub(crate) fn own_ways(path: &str, manifest: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for key in SHARED {
        if !manifest.lines().any(|line| line == format!("{key}.workspace = true")) {
            wrong.push(format!("{path}: {key} is not the workspace's"));
        }
    }
    if !manifest.contains("\n[lints]\nworkspace = true\n") {
        wrong.push(format!("{path}: the lints are not the workspace's"));
    }
    wrong
}

pub(crate) fn unsafe_is_allowed(manifest: &str) -> Vec<String> {
    let lints = manifest.split_once("[workspace.lints.rust]\n").map_or("", |(_, lints)| lints);
    let lints = lints.split("\n[").next().unwrap_or_default();
    match lints.lines().any(|line| line == "unsafe_code = \"forbid\"") {
        true => Vec::new(),
        false => vec!["[workspace.lints.rust] does not say unsafe_code = \"forbid\"".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, needs: &[&str]) -> Member {
        let needs = needs.iter().map(|need| (*need).to_owned()).collect();
        Member { name: name.to_owned(), manifest: String::new(), needs }
    }

    #[test]
    fn a_plane_that_sees_the_other_is_noticed() {
        let good = [member("weft-certs", &["weft-proto"]), member("weft", PLANES)];
        assert!(wrong_direction(&good).is_empty());
        let bad = [
            member("weft-sidecar", &["weft-proto", "weft-control-plane"]),
            member("weft-proto", &["weft-certs"]),
        ];
        let expected = ["weft-sidecar depends on weft-control-plane", "weft-proto depends on weft-certs"];
        assert_eq!(wrong_direction(&bad), expected);
        assert_eq!(wrong_direction(&[member("weft-new", &[])]).len(), 1);
    }

    #[test]
    fn a_sidecar_that_could_sign_is_noticed() {
        let good = "weft-sidecar v0.1.0 (/w/sidecar) []\nweft-certs v0.1.0 (/w/certs) []\nca v1.0.0 [ca]";
        assert!(beyond_a_sidecar(good).is_empty());
        let bad =
            "weft-certs v0.1.0 (/w/certs) [ca,default] (*)\nweft-control-plane v0.1.0 (/w/control-plane) []";
        assert_eq!(beyond_a_sidecar(bad), ["weft-certs with its feature `ca`", "weft-control-plane"]);
    }

    #[test]
    fn a_crate_with_its_own_lints_is_noticed() {
        let mut good: String = SHARED.map(|key| format!("{key}.workspace = true\n")).concat();
        good += "\n[lints]\nworkspace = true\n";
        assert!(own_ways("m", &good).is_empty());
        assert_eq!(
            own_ways("m", &good.replace("[lints]", "[lints.rust]")),
            ["m: the lints are not the workspace's"]
        );
        let older = good.replace("edition.workspace = true", "edition = \"2021\"");
        assert_eq!(own_ways("m", &older), ["m: edition is not the workspace's"]);
    }

    #[test]
    fn a_workspace_that_merely_warns_of_unsafe_code_is_noticed() {
        assert!(unsafe_is_allowed("[workspace.lints.rust]\nunsafe_code = \"forbid\"\n\n[x]\n").is_empty());
        assert_eq!(unsafe_is_allowed("[workspace.lints.rust]\nunsafe_code = \"warn\"\n").len(), 1);
        assert_eq!(
            unsafe_is_allowed("[workspace.lints.rust]\n\n[other]\nunsafe_code = \"forbid\"\n").len(),
            1
        );
    }
}
