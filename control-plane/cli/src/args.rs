//! The command line: its flags, its commands and their help.
//!
//! The arguments of a command stand beside what it does, in `commands`; here is what they have in common.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use weft_proto::resource::units::Span;

use crate::client::Endpoint;
use crate::commands::{
    apply, audit, check, completion, config, delete, diff, explain, get, history, inject, install, key, logs,
    policy, quota, rollback, stat, status, support_bundle, tap, token, tools, trust, uninject, version,
    who_can,
};
use crate::credentials::Secret;
use crate::serve;
use crate::terminal::Color;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: it cannot be done, a file has mistakes, or a check found something wrong
  2  usage: the command line is wrong, such as an unknown flag or kind, or a file that is not there
  3  refused: by policy (credentials, scope, file modes, limits) or by another change in between
  4  unreachable: no control plane answers, or it does not prove to be the one that is meant

Examples:
  weft up                                   start a mesh in this folder
  weft apply -f deploy/                     say what should be
  weft get mcpservers -A                    see what is
  weft status                               see whether every sidecar follows
  weft check                                see whether all is well";

/// Operates a Weft mesh: says what should be, shows what is.
#[derive(Debug, Parser)]
#[command(name = "weft", version, after_help = EXIT_CODES, max_term_width = 110)]
#[command(arg_required_else_help = true, subcommand_required = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// The control plane's address, such as https://127.0.0.1:7501, instead of the one in operator.json
    #[arg(long, global = true, value_name = "URL", env = "WEFT_SERVER", hide_env_values = true)]
    pub(crate) server: Option<Endpoint>,
    /// The token to prove oneself with; other users of this machine can see a command line, so prefer operator.json or
    /// the environment
    #[arg(long, global = true, value_name = "TOKEN", env = "WEFT_TOKEN", hide_env_values = true)]
    #[arg(value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Secret::from(text)))]
    pub(crate) token: Option<Secret>,
    /// The certificates to believe, in PEM, instead of those beside operator.json; needs a token of its own
    #[arg(long, global = true, value_name = "FILE", env = "WEFT_CA_FILE", hide_env_values = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Where the files of the mesh are: the nearest .weft of this folder and those above it, else
    /// $XDG_DATA_HOME/weft
    #[arg(long, global = true, value_name = "FOLDER", env = "WEFT_HOME", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,
    /// Longest wait for an answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s")]
    pub(crate) timeout: Span,
    /// When to colour; NO_COLOR is honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    /// Say on stderr what is asked of the control plane
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
}

const SIDECAR_EXAMPLES: &str = "\
Examples:
  weft sidecar run --config /etc/weft/sidecar.yaml
  weft sidecar check --config sidecar.yaml";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(serve::UpArgs),
    ControlPlane(serve::ControlPlaneArgs),
    /// Runs a sidecar: the data plane, beside a server or an agent
    #[command(subcommand, after_help = SIDECAR_EXAMPLES)]
    Sidecar(weft_sidecar::cli::Command),
    Apply(apply::ApplyArgs),
    Diff(diff::DiffArgs),
    Get(get::GetArgs),
    Delete(delete::DeleteArgs),
    History(history::HistoryArgs),
    Rollback(rollback::RollbackArgs),
    Status(status::StatusArgs),
    Check(check::CheckArgs),
    Inject(inject::InjectArgs),
    Uninject(uninject::UninjectArgs),
    Tap(tap::TapArgs),
    Stat(stat::StatArgs),
    Top(stat::TopArgs),
    Config(config::ConfigArgs),
    Logs(logs::LogsArgs),
    Explain(explain::ExplainArgs),
    WhoCan(who_can::WhoCanArgs),
    Policy(policy::PolicyArgs),
    Tools(tools::ToolsArgs),
    Quota(quota::QuotaArgs),
    Trust(trust::TrustArgs),
    Token(token::TokenArgs),
    Key(key::KeyArgs),
    Audit(audit::AuditArgs),
    SupportBundle(support_bundle::SupportBundleArgs),
    Install(install::InstallArgs),
    Upgrade(install::UpgradeArgs),
    Uninstall(install::UninstallArgs),
    Version(version::VersionArgs),
    Completion(completion::CompletionArgs),
}
