//! `weft up` and `weft control-plane`: the commands that run a control plane in this process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use weft_control_plane::audit;
use weft_proto::name::TrustDomain;
use weft_proto::resource::units::{ByteSize, Span};
use weft_sidecar::stdio::launch::Launcher;

use crate::app::Context;
use crate::credentials::{LOCAL_HOME, user_data};
use crate::examples;
use crate::failure::{ExitCode, Failure};
use crate::files::{self, File};
use crate::in_cluster::ClusterArgs;
use crate::running;
use crate::up::agents::Agent;
use crate::up::desktop;

const UP_EXAMPLES: &str = "\
Examples:
  weft up                                   a mesh in ./.weft with a small server to try it with
  weft up -f mesh/                          … with the resources of a folder
  weft up -f claude_desktop_config.json     … with the servers of a desktop client
  weft up --agent cleaner=127.0.0.1:7410    … with a second agent, local/cleaner, at an address of its own
  weft up --listen-operators 127.0.0.1:0    … with a port of the system's choice";

const CONTROL_PLANE_EXAMPLES: &str = "\
Examples:
  weft control-plane --data-dir /var/lib/weft --trust-domain corp.example \\
      --ca-key-file /etc/weft/ca.key --public-host weft.corp.example
  WEFT_CA_KEY=… weft control-plane --data-dir /var/lib/weft --issuer-dir /etc/weft/issuer
  weft control-plane --kubernetes --data-dir /var/lib/weft --trust-domain corp.example
                                            one of several in a cluster
  weft control-plane --data-dir /var/lib/weft --audit-size-max 20GiB --audit-age-max 90d
                                            audit trails: 20 GiB of lines, and none older than 90 days";

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people
    #[default]
    Text,
    /// A JSON object per line
    Json,
}

/// The log of a control plane.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogArgs {
    /// How the log is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace, also per module as in info,weft_control_plane::xds=debug; if
    /// not given, info, or warn where the table of `weft up` shares the terminal with the log
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
}

/// How much of the audit trails is kept.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Audit trails")]
pub(crate) struct AuditArgs {
    /// Lines of audit trails that are kept: beyond, the oldest segments go
    #[arg(long = "audit-size-max", value_name = "SIZE", default_value = "4GiB")]
    pub(crate) size_max: ByteSize,
    /// Segments whose newest line is older go. A trail of which nothing was heard for twice as long is forgotten
    #[arg(long = "audit-age-max", value_name = "DURATION", default_value = "365d")]
    pub(crate) age_max: Span,
    /// Audit trails that are kept apart. A sidecar that keeps its folder has one; each start without begins another
    #[arg(long = "audit-trails-max", value_name = "COUNT", default_value_t = 100_000)]
    pub(crate) trails_max: u64,
    /// Of these, the ones of a namespace
    #[arg(long = "audit-trails-per-namespace-max", value_name = "COUNT", default_value_t = 20_000)]
    pub(crate) trails_per_namespace_max: u64,
    /// Of these, the ones of an identity
    #[arg(long = "audit-trails-per-identity-max", value_name = "COUNT", default_value_t = 5000)]
    pub(crate) trails_per_identity_max: u64,
}

impl From<AuditArgs> for audit::Settings {
    fn from(args: AuditArgs) -> Self {
        let AuditArgs { size_max, age_max, trails_max, trails_per_namespace_max, trails_per_identity_max } =
            args;
        Self {
            lines_bytes_max: size_max.bytes(),
            age_max: age_max.duration(),
            trails_max,
            trails_per_identity_max,
            trails_per_namespace_max,
        }
    }
}

/// Starts a whole mesh in this folder: control plane, a sidecar beside each server, and an endpoint for the agent
///
/// Servers that are commands are started and supervised by their sidecars. Between the agent's sidecar and theirs is
/// mutual TLS, with certificates of the mesh's own authority. A server that is applied later gets its sidecar, and one
/// that is deleted loses it, without a restart; there are at most 64. A table shows how each server stands and what
/// became of calls; without a terminal, or with TERM=dumb, each change is a line. Your agent calls as local/agent; with
/// --agent there are others, up to 8 in all, who may be allowed other things.
///
/// The files of the mesh are kept in .weft of this folder. At first start the authority and an admin token are made, and
/// operator.json is written, so that every other command works in this folder without further flags. Where each sidecar
/// serves health, metrics and administration stands in .weft/sidecars.json.
#[derive(Clone, Debug, Args)]
#[command(after_help = UP_EXAMPLES)]
pub(crate) struct UpArgs {
    /// Keep the files in $XDG_DATA_HOME/weft instead of .weft in this folder
    #[arg(long)]
    pub(crate) global: bool,
    /// Resources to apply at start: a file or a folder, or a file with `mcpServers` as desktop clients have it; a small
    /// server to try the mesh with, at the very first start, if not given
    #[arg(long = "file", short = 'f', value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The mesh's trust domain; decided at first start
    #[arg(long, value_name = "DOMAIN", default_value = "weft.local")]
    pub(crate) trust_domain: TrustDomain,
    /// Where sidecars connect; port 0 means a port of the system's choice
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7500")]
    pub(crate) listen_sidecars: SocketAddr,
    /// Where operators connect: API and pages
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7501")]
    pub(crate) listen_operators: SocketAddr,
    /// Where health and metrics are served, without TLS
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7502")]
    pub(crate) listen_health: SocketAddr,
    /// Where the agent on this machine reaches the servers
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7400")]
    pub(crate) listen_agent: SocketAddr,
    /// A further agent, with an identity and an endpoint of its own, as NAME or NAME=ADDRESS; repeatable
    #[arg(long = "agent", value_name = "AGENT")]
    pub(crate) agents: Vec<Agent>,
    /// Start the control plane alone
    #[arg(long)]
    pub(crate) no_sidecars: bool,
    /// Tell changes line by line, as is done without a terminal, instead of drawing a table
    #[arg(long)]
    pub(crate) no_table: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Runs a control plane as a service
///
/// In contrast to `weft up`, it listens on every address, applies no resources of its own, and takes the key that its
/// authority's keys rest under from a place that is kept apart from its data.
#[derive(Clone, Debug, Args)]
#[command(after_help = CONTROL_PLANE_EXAMPLES)]
pub(crate) struct ControlPlaneArgs {
    /// Where the store and the authority are kept
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data_dir: PathBuf,
    /// The mesh's trust domain; required at first start, and must agree later
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<TrustDomain>,
    /// Where sidecars connect
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7500")]
    pub(crate) listen_sidecars: SocketAddr,
    /// Where operators connect: API and pages
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7501")]
    pub(crate) listen_operators: SocketAddr,
    /// Where health and metrics are served, without TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7502")]
    pub(crate) listen_health: SocketAddr,
    /// File with the key that the authority's keys rest under; the value of WEFT_CA_KEY if not given
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_key_file: Option<PathBuf>,
    /// Folder with tls.crt, tls.key and ca.crt of an intermediate that something else keeps and renews
    #[arg(long, value_name = "FOLDER")]
    pub(crate) issuer_dir: Option<PathBuf>,
    /// A DNS name or IP address under which this control plane is reached, for its certificate; repeatable
    #[arg(long = "public-host", value_name = "HOST")]
    pub(crate) public_hosts: Vec<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) audit: AuditArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Where `weft up` keeps its files: in this folder, unless something else is said.
pub(crate) fn up_home(args: &UpArgs, given: Option<&Path>) -> PathBuf {
    match given.filter(|given| !given.as_os_str().is_empty()) {
        Some(given) => given.to_owned(),
        None if args.global => user_data(),
        None => PathBuf::from(LOCAL_HOME),
    }
}

/// Starts a mesh in `context.given.home` and serves it until it is stopped.
pub(crate) async fn up(args: UpArgs, context: &Context) -> Result<ExitCode, Failure> {
    let resources = up_resources(&args, context)?;
    // Mistakes are told before anything is started.
    files::check(&resources)?;
    Box::pin(running::up(args, resources, context)).await
}

/// Serves a control plane until it is stopped.
pub(crate) async fn control_plane(args: ControlPlaneArgs, context: &Context) -> Result<ExitCode, Failure> {
    Box::pin(running::control_plane(args, &context.terminal)).await
}

/// Runs a command of the sidecar. It has threads of its own, for traffic and for the rest.
pub(crate) async fn sidecar(command: weft_sidecar::cli::Command) -> Result<ExitCode, Failure> {
    let running =
        tokio::task::spawn_blocking(move || weft_sidecar::cli::try_run(command, Launcher::default()));
    let outcome =
        running.await.map_err(|error| Failure::failed(format!("the sidecar broke off: {error}")))?;
    let code = outcome.map_err(|error| Failure::failed(format!("{error:#}")))?;
    Ok(if code == std::process::ExitCode::SUCCESS { ExitCode::Done } else { ExitCode::Failed })
}

/// A file of a desktop client as resources; any other file as it is.
fn from_desktop(file: File) -> Result<File, Failure> {
    let is_one = serde_json::from_str::<serde_json::Value>(&file.text)
        .is_ok_and(|it| it.get("mcpServers").or_else(|| it.get("servers")).is_some());
    if !is_one {
        return Ok(file);
    }
    let found =
        desktop::read(&file.text).map_err(|error| Failure::failed(format!("{}: {error}", file.name)))?;
    for why in &found.left_out {
        tracing::warn!(file = file.name, "left out: {why}");
    }
    let text = found.objects.iter().map(|object| format!("{object}\n---\n")).collect();
    Ok(File { text, ..file })
}

/// What to apply at start: what was named, or the examples.
fn up_resources(args: &UpArgs, context: &Context) -> Result<Vec<File>, Failure> {
    match args.files.is_empty() {
        true => {
            let program = std::env::current_exe()
                .map_err(|error| Failure::failed(format!("where this program lies is not known: {error}")))?;
            Ok(examples::quickstart(&program))
        }
        false => files::gather(&args.files, &context.terminal)?.into_iter().map(from_desktop).collect(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        audit: AuditArgs,
    }

    #[test]
    fn without_flags_as_much_of_the_trails_is_kept_as_the_control_plane_keeps_by_itself() {
        let of = |words: &[&str]| audit::Settings::from(Alone::try_parse_from(words).unwrap().audit);
        assert_eq!(of(&["weft"]), audit::Settings::default());
        let given = of(&[
            "weft",
            "--audit-size-max",
            "1MiB",
            "--audit-age-max",
            "1h",
            "--audit-trails-per-identity-max",
            "3",
        ]);
        assert_eq!(
            (given.lines_bytes_max, given.age_max.as_secs(), given.trails_per_identity_max),
            (1 << 20, 3600, 3)
        );
    }
}
