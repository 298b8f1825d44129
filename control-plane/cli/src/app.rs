//! From the command line to the exit code.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use jiff::Timestamp;

use crate::args::{Cli, Command, Globals};
use crate::client::Client;
use crate::commands::{
    apply, audit, check, completion, config, delete, diff, explain, get, history, inject, install, key, logs,
    policy, quota, rollback, stat, status, support_bundle, tap, token, tools, trust, uninject, version,
    who_can,
};
use crate::credentials::{Given, find_home, user_data};
use crate::failure::{ExitCode, Failure};
use crate::serve;
use crate::terminal::Terminal;

/// What every command works with.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) terminal: Arc<Terminal>,
    pub(crate) given: Given,
    /// Longest wait for an answer.
    pub(crate) patience: Duration,
}

impl Context {
    fn new(globals: Globals, command: &Command) -> Self {
        let start = std::env::current_dir().unwrap_or_default();
        let home = match command {
            Command::Up(args) => serve::up_home(args, globals.home.as_deref()),
            _ => find_home(globals.home.as_deref(), &start, &user_data()),
        };
        Self {
            terminal: Arc::new(Terminal::real(globals.color, globals.verbose)),
            given: Given { home, server: globals.server, ca_file: globals.ca_file, token: globals.token },
            patience: globals.timeout.duration(),
        }
    }

    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.given.load()?, self.patience, Arc::clone(&self.terminal)))
    }

    /// The one clock of the command.
    #[expect(
        clippy::unused_self,
        reason = "a context is what knows the time, so that commands do not ask the system"
    )]
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

pub(crate) async fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Cli { globals, command } = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help that nobody reads is no error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Done };
        }
    };
    let context = Context::new(globals, &command);
    run(command, &context).await
}

/// Runs a command and says why, if it ends without success.
pub(crate) async fn run(command: Command, context: &Context) -> ExitCode {
    let result = Box::pin(dispatch(command, context)).await;
    result.unwrap_or_else(|failure| {
        context.terminal.complain(&failure);
        failure.code()
    })
}

async fn dispatch(command: Command, context: &Context) -> Result<ExitCode, Failure> {
    match command {
        Command::Up(args) => serve::up(args, context).await,
        Command::ControlPlane(args) => serve::control_plane(args, context).await,
        Command::Sidecar(command) => serve::sidecar(command).await,
        Command::Apply(args) => apply::run(args, context).await,
        Command::Diff(args) => diff::run(args, context).await,
        Command::Get(args) => get::run(args, context).await,
        Command::Delete(args) => delete::run(args, context).await,
        Command::History(args) => history::run(args, context).await,
        Command::Rollback(args) => rollback::run(args, context).await,
        Command::Status(args) => status::run(args, context).await,
        Command::Check(args) => check::run(args, context).await,
        Command::Inject(args) => inject::run(&args, context),
        Command::Uninject(args) => uninject::run(&args, context),
        Command::Tap(args) => tap::run(args, context).await,
        Command::Stat(args) => stat::run(args, context).await,
        Command::Top(args) => stat::top(args, context).await,
        Command::Config(args) => config::run(args, context).await,
        Command::Logs(args) => logs::run(args, context).await,
        Command::Explain(args) => explain::run(args, context).await,
        Command::WhoCan(args) => who_can::run(args, context).await,
        Command::Policy(args) => policy::run(&args, context),
        Command::Tools(args) => tools::run(args, context).await,
        Command::Quota(args) => quota::run(args, context).await,
        Command::Trust(args) => trust::run(args, context).await,
        Command::Token(args) => token::run(args, context).await,
        Command::Key(args) => key::run(args, context).await,
        Command::Audit(args) => audit::run(args, context).await,
        Command::SupportBundle(args) => support_bundle::run(args, context).await,
        Command::Version(args) => version::run(args, context).await,
        Command::Install(args) => install::run(args, context),
        Command::Upgrade(args) => install::upgrade(args, context),
        Command::Uninstall(args) => install::uninstall(args, context),
        Command::Completion(args) => completion::run(&args, context),
    }
}
