//! `docs/commands.md`: every command and flag, made from the definition of the command line; and `docs/checks.md`: every
//! check of `weft check`, made from the lists that it goes by.
//!
//! `WEFT_BLESS=1 cargo test -p weft` writes it afresh.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};

use weft_control_plane::check::CHECKS;

use super::definition::commands;
use crate::commands::check::Group;

const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");
const CHECKS_PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/checks.md");

const CHECKS_INTRO: &str = "\
# What `weft check` looks at

Made from the lists that it goes by (`WEFT_BLESS=1 cargo test -p weft`); changes by hand are lost. What only a client can
see, it finds out itself; the rest the control plane judges, `GET /v1/checks`. A check that cannot be made is skipped, and
says why. `weft check` exits with 1 if one fails, and with `--strict` for warnings too.
";

fn page() -> String {
    let mut page = "\
# Commands

Made from the definition of the command line (`WEFT_BLESS=1 cargo test -p weft`); changes by hand are lost.
"
    .to_owned();
    let (root, below) = commands().split_first().map(|(root, below)| (root.clone(), below.to_vec())).unwrap();
    section(&mut page, &root.0, &root.1, |_| true);
    for (name, command) in below {
        // What every command takes is told once.
        section(&mut page, &name, &command, |argument| !argument.is_global_set());
    }
    page
}

fn section(page: &mut String, name: &str, command: &Command, wanted: impl Fn(&Arg) -> bool) {
    let about =
        command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let _ = write!(page, "\n## `{name}`\n\n{about}\n\n```text\n{usage}\n```\n");
    let arguments = command.get_arguments().filter(|argument| wanted(argument) && !is_help(argument));
    let rows: String = arguments.map(row).collect();
    if !rows.is_empty() {
        let _ = write!(page, "\n| | |\n|---|---|\n{rows}");
    }
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let _ = write!(page, "\n```text\n{help}\n```\n");
}

fn is_help(argument: &Arg) -> bool {
    matches!(
        argument.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    )
}

fn row(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>"));
    let values: Vec<_> = if argument.get_action().takes_values() { values.collect() } else { Vec::new() };
    let names =
        [argument.get_short().map(|c| format!("-{c}")), argument.get_long().map(|name| format!("--{name}"))];
    let names = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let name =
        [names, values.join(" ")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    let mut text = argument.get_help().map(ToString::to_string).unwrap_or_default();
    if argument.get_action().takes_values() {
        let choices: Vec<_> =
            argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        if !choices.is_empty() {
            let _ = write!(text, "; one of {}", choices.join(", "));
        }
        if let [default] = argument.get_default_values() {
            let _ = write!(text, "; by default `{}`", default.display());
        }
    }
    if let Some(variable) = argument.get_env() {
        let _ = write!(text, "; also `{}`", variable.display());
    }
    format!("| `{name}` | {} |\n", text.replace('|', "\\|"))
}

fn checks() -> String {
    let mut page = CHECKS_INTRO.to_owned();
    for group in Group::ALL {
        let _ = write!(page, "\n## {}\n\n| check | passes if | else |\n|---|---|---|\n", group.word());
        for (name, passes) in group.checks() {
            let judged = CHECKS.iter().find(|it| it.group.word() == group.word() && it.name == name);
            let why = judged.map(|it| format!("{}: {}", it.why, it.remedy)).unwrap_or_default();
            let _ = writeln!(page, "| {name} | {passes} | {why} |");
        }
    }
    page
}

#[test]
fn the_page_of_checks_is_what_the_lists_say() {
    let expected = checks();
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::write(CHECKS_PLACE, &expected).unwrap();
    }
    let found = std::fs::read_to_string(CHECKS_PLACE).unwrap_or_default();
    assert!(
        found == expected,
        "docs/checks.md has drifted; WEFT_BLESS=1 cargo test -p weft writes it afresh"
    );
}

/// Whatever a check says to do can be done: the commands that it names are there.
#[test]
fn remedies_name_commands_that_there_are() {
    let known: Vec<String> = commands().into_iter().map(|(name, _)| name).collect();
    for check in CHECKS {
        for named in check.remedy.split("weft ").skip(1) {
            let mut words =
                named.split(|c: char| !c.is_ascii_lowercase() && c != '-').filter(|word| !word.is_empty());
            let (first, second) = (words.next().unwrap(), words.next().unwrap_or_default());
            let is_known = |name: String| known.contains(&name);
            let one = format!("weft {first}");
            assert!(is_known(one.clone()), "{one:?} of {:?}", check.name);
            let has_more = known.iter().any(|name| name.starts_with(&format!("{one} ")));
            let is_whole = !has_more || second.is_empty() || is_known(format!("{one} {second}"));
            assert!(is_whole, "{one} {second} of {:?}", check.name);
        }
    }
}

#[test]
fn the_reference_is_what_the_definition_says() {
    let expected = page();
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::create_dir_all(std::path::Path::new(PLACE).parent().unwrap()).unwrap();
        std::fs::write(PLACE, &expected).unwrap();
    }
    let found = std::fs::read_to_string(PLACE).unwrap_or_default();
    assert!(
        found == expected,
        "docs/commands.md has drifted; WEFT_BLESS=1 cargo test -p weft writes it afresh"
    );
}
