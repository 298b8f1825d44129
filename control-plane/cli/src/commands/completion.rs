//! `weft completion`: teaches a shell to complete commands and flags.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::app::Context;
use crate::args::Cli;
use crate::failure::{ExitCode, Failure};

const EXAMPLES: &str = "\
Examples:
  weft completion bash > ~/.local/share/bash-completion/completions/weft
  weft completion zsh > ~/.zfunc/_weft
  weft completion fish > ~/.config/fish/completions/weft.fish";

/// Prints a script that teaches a shell to complete commands and flags
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs, context: &Context) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "weft", &mut script);
    context.terminal.print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Done)
}
