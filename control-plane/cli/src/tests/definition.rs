//! The definition of the command line.

use clap::error::ErrorKind;
use clap::{Command, CommandFactory, Parser};

use crate::app;
use crate::args::Cli;
use crate::failure::ExitCode;

/// Every command with the words that lead to it.
pub(super) fn commands() -> Vec<(String, Command)> {
    fn walk(prefix: &str, command: &Command, found: &mut Vec<(String, Command)>) {
        let name = format!("{prefix}{}", command.get_name());
        found.push((name.clone(), command.clone()));
        command.get_subcommands().for_each(|below| walk(&format!("{name} "), below, found));
    }
    let mut found = Vec::new();
    let mut root = Cli::command();
    root.build();
    walk("", &root, &mut found);
    found
}

#[test]
fn the_definition_does_not_contradict_itself() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_of_every_command_has_an_example_that_is_understood() {
    for (name, command) in commands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let (_, examples) =
            help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name} has no examples"));
        let shown = examples.lines().filter(|line| line.contains("weft ")).count();
        assert!(shown > 0, "{name} shows no call of itself");
        for line in examples.lines().map_while(|line| line.strip_prefix("  weft ")) {
            let words = example_words(line);
            match Cli::try_parse_from(["weft".to_owned()].iter().chain(&words)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::DisplayHelp => {}
                Err(error) => panic!("{name}: {line}\n{error}"),
            }
        }
    }
}

/// The words of an example, without what explains it or is for the shell.
fn example_words(line: &str) -> Vec<String> {
    let command = line.split("  ").next().unwrap_or_default();
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in command.trim_end_matches('\\').chars().chain([' ']) {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(c),
        }
    }
    let shell = words.iter().position(|word| [">", "&&", "|"].contains(&word.as_str()));
    words.truncate(shell.unwrap_or(words.len()));
    words
}

#[test]
fn every_command_and_every_flag_says_what_it_is_for() {
    for (name, command) in commands() {
        assert!(command.get_about().is_some(), "{name}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name} {}", argument.get_id());
        }
    }
}

#[test]
fn the_help_of_the_whole_documents_every_exit_code() {
    let help = Cli::command().render_long_help().to_string();
    for line in ["0  done", "1  failed", "2  usage", "3  refused", "4  unreachable"] {
        assert!(help.contains(line), "{help}");
    }
}

#[test]
fn secrets_of_the_environment_are_never_in_the_help() {
    for (name, command) in commands() {
        for argument in command.get_arguments().filter(|argument| argument.get_env().is_some()) {
            assert!(argument.is_hide_env_values_set(), "{name} {}", argument.get_id());
        }
    }
}

#[tokio::test]
async fn a_wrong_command_line_ends_with_the_code_for_usage_and_help_with_none() {
    let check = async |words: &[&str], expected| {
        let words = ["weft"].iter().chain(words).map(Into::into);
        assert_eq!(app::main(words).await, expected);
    };
    check(&["frobnicate"], ExitCode::Usage).await;
    check(&["apply"], ExitCode::Usage).await;
    check(&["get", "servers", "--server", "http://plain"], ExitCode::Usage).await;
    check(&["status", "a/b", "--wait", "1s"], ExitCode::Usage).await;
    check(&["trust", "rotate", "--start", "--abort"], ExitCode::Usage).await;
    check(&["quota", "status", "--every", "1s"], ExitCode::Usage).await;
    check(&["trust", "rotate", "--force"], ExitCode::Usage).await;
    check(&["--help"], ExitCode::Done).await;
    check(&["--version"], ExitCode::Done).await;
}

#[test]
fn a_token_on_the_command_line_is_not_in_debug_output() {
    let cli = Cli::try_parse_from(["weft", "--token", "weft_hidden", "version"]).unwrap();
    assert!(!format!("{cli:?}").contains("weft_hidden"));
}
