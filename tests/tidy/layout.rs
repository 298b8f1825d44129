//! What lies where.

use std::collections::BTreeSet;

use crate::tree::File;

/// What may lie at the top of the tree. A new name needs a reason that a newcomer understands.
const TOP: [&str; 20] = [
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".gitignore",
    ".typos.toml",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "benches",
    "certs",
    "control-plane",
    "deny.toml",
    "deploy",
    "docs",
    "proto",
    "rustfmt.toml",
    "sidecar",
    "tests",
];

/// What must lie there.
const NEEDED: [&str; 4] = ["Cargo.toml", "README.md", "deny.toml", "rustfmt.toml"];

/// How one begins, as the README has it.
pub(crate) const COMMANDS: [&str; 2] = ["cargo run --release -- up", "./tests/run"];

/// References that are made from the code or compared with it, each by a test beside what it describes.
const GENERATED: [&str; 9] = [
    "control-plane/cli/docs/commands.md",
    "control-plane/docs/errors.md",
    "control-plane/docs/injection.md",
    "control-plane/docs/objects.md",
    "control-plane/docs/metrics.md",
    "control-plane/docs/reference.md",
    "control-plane/openapi.json",
    "proto/docs/resources.md",
    "sidecar/docs/reference.md",
];

pub(crate) fn out_of_place(names: &BTreeSet<String>) -> Vec<String> {
    let strays = names.iter().filter(|name| !TOP.contains(&name.as_str()));
    let missing = NEEDED.iter().filter(|name| !names.contains(**name));
    let strays = strays.map(|name| format!("{name} does not belong there"));
    strays.chain(missing.map(|name| format!("{name} is missing"))).collect()
}

pub(crate) fn missing(paths: &BTreeSet<String>) -> Vec<String> {
    GENERATED.iter().filter(|path| !paths.contains(**path)).map(|path| (*path).to_owned()).collect()
}

/// Links in documents that lead to nothing in the tree.
pub(crate) fn dead_links(files: &[File]) -> Vec<String> {
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let leads = |path: &str| {
        let folder = format!("{}/", path.trim_end_matches('/'));
        paths.contains(path) || paths.iter().any(|found| found.starts_with(&folder))
    };
    let mut dead = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let targets = file.text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        for (target, _) in targets {
            let target = target.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !leads(&resolved(folder, target)) {
                dead.push(format!("{}: {target}", file.path));
            }
        }
    }
    dead
}

fn resolved(folder: &str, target: &str) -> String {
    let mut parts = Vec::new();
    for part in folder.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The names that a text does not have as words of their own.
pub(crate) fn unmentioned(names: &BTreeSet<String>, text: &str) -> Vec<String> {
    names.iter().filter(|name| !mentions(text, name)).cloned().collect()
}

fn mentions(text: &str, name: &str) -> bool {
    let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        !part_of_name(before.chars().next_back()) && !part_of_name(after.chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_stray_at_the_top_is_noticed_and_so_is_a_gap() {
        assert!(out_of_place(&set(&TOP)).is_empty());
        assert_eq!(
            out_of_place(&set(&[TOP.as_slice(), &["notes.txt"]].concat())),
            ["notes.txt does not belong there"]
        );
        assert_eq!(
            out_of_place(&set(&["Cargo.toml", "README.md", "deny.toml"])),
            ["rustfmt.toml is missing"]
        );
    }

    #[test]
    fn a_reference_that_was_never_made_is_noticed() {
        assert!(missing(&set(&GENERATED)).is_empty());
        assert_eq!(missing(&set(&GENERATED[1..])), [GENERATED[0]]);
    }

    #[test]
    fn a_link_to_nothing_is_noticed() {
        let file =
            |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned(), test: false };
        let good = "[a](../b/c.md#d) [e](#f) [g](https://h.example/i) [j](../b/) [k](c.md)";
        let mut files = vec![file("a/docs/c.md", ""), file("a/b/c.md", ""), file("a/docs/l.md", good)];
        assert!(dead_links(&files).is_empty());
        files.push(file("m.md", "[n](a/b/o.md)"));
        assert_eq!(dead_links(&files), ["m.md: a/b/o.md"]);
    }

    #[test]
    fn a_name_counts_as_mentioned_only_as_a_word_of_its_own() {
        let names = set(&["WEFT_HOME", "weft", "7500"]);
        assert!(unmentioned(&names, "`weft` reads $WEFT_HOME and listens on :7500.").is_empty());
        assert_eq!(
            unmentioned(&names, "weft-proto WEFT_HOME_DIR 17500 weft_x"),
            ["7500", "WEFT_HOME", "weft"]
        );
    }
}
