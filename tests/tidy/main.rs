//! The rules of the house that no compiler knows: who may depend on whom, what source looks like, what lies where, and
//! that the reference names everything that there is to set or to watch.
//!
//! Each rule is a pure function from what is there to what is wrong with it, beside a test that shows it can fail. The
//! tests in this file apply the rules to the tree. Not here: what rustc, clippy, rustfmt or cargo-deny can check.

#![allow(clippy::unwrap_used, reason = "a rule that cannot be checked is broken")]

mod layout;
mod lexer;
mod reference;
mod rooms;
mod source;
mod tree;

use std::collections::BTreeSet;

use tree::File;

/// Fails with everything that is wrong.
#[track_caller]
fn nothing_wrong(rule: &str, wrong: impl IntoIterator<Item = String>) {
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{rule}:\n  {}\n", wrong.join("\n  "));
}

fn in_rust(files: &[File], rule: impl Fn(&File) -> Vec<String>) -> Vec<String> {
    files.iter().filter(|file| file.is_rust()).flat_map(rule).collect()
}

#[test]
fn crates_depend_on_each_other_in_one_direction() {
    nothing_wrong("a crate depends on what it must not know", rooms::wrong_direction(&tree::members()));
}

#[test]
fn a_sidecar_holds_no_code_that_signs() {
    for features in ["--all-features", "--no-default-features"] {
        let parts = tree::parts_of("weft-sidecar", features);
        nothing_wrong("the sidecar is built with what it must not have", rooms::beyond_a_sidecar(&parts));
    }
}

#[test]
fn every_crate_inherits_the_rules_of_the_workspace() {
    nothing_wrong("the workspace allows unsafe code", rooms::unsafe_is_allowed(&tree::read("Cargo.toml")));
    for member in tree::members() {
        let manifest = tree::read(&member.manifest);
        nothing_wrong("a crate goes its own way", rooms::own_ways(&member.manifest, &manifest));
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    nothing_wrong("a module does not begin with `//!`", in_rust(&tree::files(), source::silent));
}

#[test]
fn nothing_unfinished_is_left_in_the_source() {
    nothing_wrong(
        "source holds what was only meant for a while",
        in_rust(&tree::files(), source::unfinished),
    );
}

#[test]
fn tests_wait_for_what_happens_and_not_for_time_to_pass() {
    let files = tree::files();
    let asleep: Vec<_> = files.iter().filter_map(source::sleeps).collect();
    nothing_wrong("a test sleeps", source::not_excused(&asleep, source::SLEEPS));
}

#[test]
fn long_files_say_why_they_are_one_thing() {
    let files = tree::files();
    let long: Vec<_> = files.iter().filter_map(source::too_long).collect();
    nothing_wrong("a file is too long", source::not_excused(&long, source::LONG));
}

#[test]
fn the_tree_speaks_only_of_itself() {
    nothing_wrong("a file refers to what is not in the tree", tree::files().iter().flat_map(source::foreign));
}

#[test]
fn the_top_holds_only_what_belongs_there() {
    nothing_wrong("the top of the tree", layout::out_of_place(&tree::top()));
}

#[test]
fn the_readme_names_every_crate_and_how_to_begin() {
    let names = tree::members().into_iter().map(|member| member.name);
    let wanted = names.chain(layout::COMMANDS.map(str::to_owned)).collect();
    nothing_wrong("README.md does not mention", layout::unmentioned(&wanted, &tree::read("README.md")));
}

#[test]
fn links_in_documents_lead_somewhere() {
    nothing_wrong("a link leads nowhere", layout::dead_links(&tree::files()));
}

#[test]
fn generated_references_are_there() {
    let paths: BTreeSet<String> = tree::files().into_iter().map(|file| file.path).collect();
    nothing_wrong("a generated reference is missing", layout::missing(&paths));
}

#[test]
fn every_environment_variable_is_in_the_reference() {
    let files = tree::files();
    let names = in_rust(&files, reference::variables);
    nothing_wrong(
        "not in the reference",
        layout::unmentioned(&names.into_iter().collect(), &reference::text(&files)),
    );
}

#[test]
fn every_default_port_is_in_the_reference() {
    let files = tree::files();
    let ports = in_rust(&files, reference::ports);
    nothing_wrong(
        "not in the reference",
        layout::unmentioned(&ports.into_iter().collect(), &reference::text(&files)),
    );
}

#[test]
fn the_reference_of_metrics_is_as_the_code_has_it() {
    const PATH: &str = "control-plane/docs/metrics.md";
    let made = reference::metrics(&reference::metrics_shown());
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::write(tree::root().join(PATH), &made).unwrap();
    }
    assert_eq!(tree::read(PATH), made, "{PATH} is stale: run this test with WEFT_BLESS=1");
}

#[test]
fn every_metric_is_in_the_reference() {
    let declared = reference::declared(&tree::read("control-plane/src/metrics.rs"));
    assert!(!declared.is_empty(), "metrics are declared in another way: mend this test");
    let described = reference::described(&reference::metrics(&reference::metrics_shown()));
    let silent = declared.difference(&described).cloned();
    nothing_wrong("a family of metrics that `reference::metrics_shown` does not touch", silent);
}
