//! The sidecar's command line: `weft-sidecar run` and, under it, `weft sidecar`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, reload};
use weft_telemetry::recent::Recent;

use crate::access_log::Sink;
use crate::app::{self, Running, Surroundings};
use crate::bootstrap::{Bootstrap, FILE_BYTES_MAX};
use crate::capture::{self, Capture};
use crate::copy;
use crate::descriptors;
use crate::logging::Logging;
use crate::stdio::SAID_BY_SERVERS;
use crate::stdio::launch::{Launcher, first};

const EXAMPLES: &str = "\
Examples:
  weft-sidecar run --config /etc/weft/sidecar.yaml
  weft-sidecar run --config sidecar.yaml --access-log off --log-level debug
  weft-sidecar check --config sidecar.yaml
  WEFT_SIDECAR_YAML=\"$(cat sidecar.yaml)\" weft-sidecar run
  weft-sidecar run --config sidecar.yaml -- npx -y some-server";

const RUN_EXAMPLES: &str = "\
Examples:
  weft sidecar run --config /etc/weft/sidecar.yaml
  weft sidecar run --config sidecar.yaml --access-log off --log-level debug";

const CHECK_EXAMPLES: &str = "\
Examples:
  weft sidecar check --config sidecar.yaml";

const COPY_EXAMPLES: &str = "\
Examples:
  weft sidecar copy /weft/bin/weft-sidecar";

const CAPTURE_EXAMPLES: &str = "\
Examples:
  weft sidecar capture --port 9000 --to 7443 --uid 7443
  weft sidecar capture --port 9000,9001 --print";

/// The sidecar of a Weft mesh: stands next to an MCP server or an agent
#[derive(Debug, Parser)]
#[command(name = "weft-sidecar", version, after_help = EXAMPLES, max_term_width = 110)]
#[command(arg_required_else_help = true, subcommand_required = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Runs a sidecar until it is asked to stop
    ///
    /// Prints one line of JSON with its addresses when it is ready. SIGTERM and SIGINT drain it: no new connections,
    /// what is in flight finishes, streams end properly, and what is left after the drain timeout is cut.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Says whether a file could be run
    #[command(after_help = CHECK_EXAMPLES)]
    Check(FileArgs),
    /// Copies this program to a path, for another container to run
    ///
    /// Folders on the way are made, everyone may run the copy, and it takes the place of what was there at once.
    #[command(after_help = COPY_EXAMPLES)]
    Copy {
        /// Where the copy is to be
        path: PathBuf,
    },
    /// Makes ports lead to the sidecar, whoever connects to them from elsewhere
    ///
    /// Sets rules of nftables in the network namespace that it runs in, in place of those that it set before: TCP to the
    /// ports goes to the sidecar's own, UDP to them is dropped. Loopback, and the sidecar's user, still reach what
    /// listens there. Takes the capability NET_ADMIN; ends when the rules are set.
    #[command(after_help = CAPTURE_EXAMPLES)]
    Capture(CaptureArgs),
}

#[derive(Clone, Debug, Args)]
pub struct CaptureArgs {
    /// The ports, with commas between or each with a flag of its own; at most 16
    #[arg(long = "port", value_name = "PORT", required = true, value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,
    /// The sidecar's port for callers
    #[arg(long, value_name = "PORT", default_value = "7443", value_parser = clap::value_parser!(u16).range(1..))]
    pub to: u16,
    /// The user id that the sidecar runs with
    #[arg(long, value_name = "UID", default_value = "7443")]
    pub uid: u32,
    /// Only show the rules, as nft does
    #[arg(long)]
    pub print: bool,
}

#[derive(Clone, Debug, Args)]
pub struct FileArgs {
    /// The sidecar's file, in YAML; if not given, WEFT_SIDECAR_YAML holds all of it
    #[arg(long, short, value_name = "FILE", env = "WEFT_SIDECAR_CONFIG", hide_env_values = true)]
    #[arg(required_unless_present = "yaml")]
    pub config: Option<PathBuf>,
    /// All of the file. For the environment: whoever sees the processes of a machine sees their arguments.
    #[arg(long, hide = true, value_name = "TEXT", env = YAML, hide_env_values = true)]
    pub yaml: Option<Yaml>,
}

/// The variable that may hold all of the file.
const YAML: &str = "WEFT_SIDECAR_YAML";

/// A sidecar's file itself. It may hold a token, so that it does not show what it holds.
#[derive(Clone)]
pub struct Yaml(String);

impl From<String> for Yaml {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Yaml {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Yaml(…)")
    }
}

impl FileArgs {
    /// Reads what is given. A file that is named goes before a text.
    pub fn read(&self) -> anyhow::Result<Bootstrap> {
        match (&self.config, &self.yaml) {
            (Some(path), _) => read(path),
            (None, Some(Yaml(text))) => {
                anyhow::ensure!(
                    text.len() as u64 <= FILE_BYTES_MAX,
                    "{YAML} is larger than {FILE_BYTES_MAX} bytes"
                );
                parse(text, &YAML)
            }
            (None, None) => anyhow::bail!("neither --config nor {YAML} is given"),
        }
    }
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// Where the access log goes: stdout, off, or a file
    #[arg(
        long,
        value_name = "WHERE",
        default_value = "stdout",
        env = "WEFT_ACCESS_LOG",
        hide_env_values = true
    )]
    pub access_log: String,
    /// What is logged: error, warn, info, debug or trace, also per module as in info,weft_sidecar::control=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "WEFT_LOG", hide_env_values = true)]
    pub log_level: String,
    /// Write the log as JSON, an object per line
    #[arg(long)]
    pub log_json: bool,
    /// Threads for traffic; as many as there are processors if not given
    #[arg(long, value_name = "N", env = "WEFT_WORKERS", hide_env_values = true)]
    pub workers: Option<usize>,
    /// The command that the one server in node.servers is, with its arguments, in place of one in the file
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl RunArgs {
    fn read(&self) -> anyhow::Result<Bootstrap> {
        let bootstrap = self.file.read()?;
        match self.command.is_empty() {
            true => Ok(bootstrap),
            false => Ok(bootstrap.serving(&self.command)?),
        }
    }
}

/// From the command line to the exit code.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if words.nth(1).is_some_and(|word| word == "launch") {
        return crate::stdio::launch::main(words);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help that nobody reads is no error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    run(cli.command, Launcher::default())
}

/// Runs a command and says why, if it fails.
fn run(command: Command, launcher: Launcher) -> ExitCode {
    match try_run(command, launcher) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command, on threads of its own, and says how it ended.
pub fn try_run(command: Command, launcher: Launcher) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => return run_until_stopped(&args, launcher),
        Command::Check(args) => args.read().map(|_| say("the file can be run"))?,
        Command::Copy { path } => copy::itself(&path)?,
        Command::Capture(args) => {
            let rules = Capture::new(&args.ports, args.to, args.uid)?;
            match args.print {
                true => say(rules.to_string().trim_end()),
                false => capture::set(&rules)?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_until_stopped(args: &RunArgs, launcher: Launcher) -> anyhow::Result<ExitCode> {
    let bootstrap = args.read()?;
    // Commands may have orphans of any kind, and a container of its own has nothing that would see to them.
    if first::is_first() && !bootstrap.node.commands.is_empty() {
        return Ok(first::stay());
    }
    let logging = start_log(args)?;
    descriptors::raise();
    let workers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.workers.unwrap_or_else(processors).max(1))
        .thread_name("traffic")
        .enable_all()
        .build()
        .context("the threads for traffic cannot be started")?;
    let rest = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the thread for everything else cannot be started")?;
    let access_log = match args.access_log.as_str() {
        "off" => Sink::Off,
        "stdout" => Sink::Stdout,
        path => Sink::File(path.into()),
    };
    let around = Surroundings { workers: workers.handle().clone(), launcher, access_log, logging };
    rest.block_on(async {
        let running = Box::pin(app::start(bootstrap, around)).await?;
        {
            let asked = std::pin::pin!(until_asked_to_stop(&running));
            let told = async {
                running.ready().await;
                say(&addresses(&running));
                std::future::pending().await
            };
            tokio::select! {
                stopped = asked => stopped?,
                () = told => {}
            }
        }
        running.stop().await;
        anyhow::Ok(())
    })?;
    workers.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn addresses(running: &Running) -> String {
    let mut all = json!({
        "inbound": running.inbound,
        "outbound": running.outbound,
        "health": running.health,
        "admin": running.admin,
    });
    if let Some(gateway) = running.gateway {
        all["gateway"] = json!(gateway);
    }
    all.to_string()
}

/// The one line for whatever started the sidecar. A reader that left is no reason to end.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Reads a sidecar's file.
pub fn read(path: &Path) -> anyhow::Result<Bootstrap> {
    let shown = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("{shown} cannot be read"))?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, "{shown} is larger than {FILE_BYTES_MAX} bytes");
    let text = std::fs::read_to_string(path).with_context(|| format!("{shown} cannot be read"))?;
    parse(&text, &shown)
}

fn parse(text: &str, place: &dyn std::fmt::Display) -> anyhow::Result<Bootstrap> {
    serde_saphyr::from_str(text).with_context(|| format!("{place} is not a sidecar's file"))
}

fn start_log(args: &RunArgs) -> anyhow::Result<Logging> {
    let filter = EnvFilter::try_new(&args.log_level).context("--log-level")?;
    let (filter, handle) = reload::Layer::new(filter);
    let recent = Recent::default();
    let registry = tracing_subscriber::registry().with(filter).with(kept(recent.clone()));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match args.log_json {
        true => registry.with(lines.json().flatten_event(true)).try_init(),
        false => registry.with(lines.with_ansi(false)).try_init(),
    }
    .context("the log cannot be started")?;
    let set = move |level: &str| {
        let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    };
    Ok(Logging::new(&args.log_level, Arc::new(set)).keeping(recent))
}

/// Keeps the newest lines for operators, but for those that servers say: nobody knows what is in them.
pub fn kept<S>(recent: Recent) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'l> LookupSpan<'l>,
{
    let is_ours = filter_fn(|metadata| metadata.target() != SAID_BY_SERVERS);
    tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || recent.clone()).with_filter(is_ours)
}

async fn until_asked_to_stop(running: &Running) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be waited for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be waited for")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = running.asked_to_quit() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "{ node: { id: a/b }, source: { file: { resources: . } } }";

    fn file(words: &[&str]) -> Result<FileArgs, clap::Error> {
        let words = ["weft-sidecar", "check"].iter().chain(words);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Check(file) => file,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_file_may_stand_in_the_environment_and_is_held_to_the_same() {
        let read = file(&["--yaml", FILE]).unwrap().read().unwrap();
        assert_eq!(read.node.id.as_str(), "a/b");
        let wrong = file(&["--yaml", "{ node: { id: a/b }, sauce: {} }"]).unwrap().read().unwrap_err();
        let wrong = format!("{wrong:#}");
        assert!(wrong.starts_with("WEFT_SIDECAR_YAML is not a sidecar's file: "), "{wrong}");
        assert!(wrong.contains("sauce"), "{wrong}");
        let large = format!("{FILE}{}", " ".repeat(1 << 20));
        let large = file(&["--yaml", &large]).unwrap().read().unwrap_err().to_string();
        assert_eq!(large, "WEFT_SIDECAR_YAML is larger than 1048576 bytes");
    }

    #[test]
    fn a_file_that_is_named_goes_before_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidecar.yaml");
        std::fs::write(&path, FILE.replace("a/b", "a/named")).unwrap();
        let read = file(&["--yaml", FILE, "--config", path.to_str().unwrap()]).unwrap().read().unwrap();
        assert_eq!(read.node.id.as_str(), "a/named");
    }

    #[test]
    fn a_command_that_follows_is_the_one_server_of_the_file() {
        let read = |servers: &str, words: &[&str]| {
            let file = FILE.replace("id: a/b", &format!("id: a/b, {servers}"));
            let start = ["weft-sidecar", "run", "--yaml", &file];
            match Cli::try_parse_from(start.iter().chain(words)).unwrap().command {
                Command::Run(args) => args.read().map_err(|error| format!("{error:#}")),
                other => panic!("{other:?}"),
            }
        };
        let commands = read("servers: [a/notes]", &["--", "npx", "--config", "$HOME"]).unwrap().node.commands;
        let (server, command) = commands.iter().next().unwrap();
        assert_eq!((server.to_string().as_str(), command.command.as_str()), ("a/notes", "npx"));
        assert_eq!(command.args.iter().map(|it| it.as_str()).collect::<Vec<_>>(), ["--config", "$HOME"]);
        assert!(read("servers: [a/notes]", &[]).unwrap().node.commands.is_empty());
        let refused = |servers, words: &[&str]| read(servers, words).unwrap_err();
        assert!(refused("servers: []", &["--", "npx"]).ends_with("where there are 0"));
        assert!(refused("servers: [a/notes, a/files]", &["--", "npx"]).ends_with("where there are 2"));
        assert_eq!(
            refused("servers: [a/notes]", &["--", "npx", ""]),
            "the command that follows cannot be started: word 2: the text is empty; leave the field out instead"
        );
        let both = "servers: [a/notes], commands: { a/notes: { command: x } }";
        let twice = refused(both, &["--", "npx"]);
        assert_eq!(twice, "node.commands has a command for a/notes too");
    }

    #[test]
    fn a_sidecar_without_a_file_is_a_mistake_of_the_command_line() {
        let error = file(&[]).unwrap_err();
        assert!(error.to_string().contains("--config <FILE>"), "{error}");
    }

    #[test]
    fn a_file_in_the_environment_is_not_shown() {
        let shown = format!("{:?}", file(&["--yaml", "joinToken: secret"]).unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn lines_are_kept_for_operators_but_for_those_of_servers() {
        let recent = Recent::default();
        let subscriber =
            tracing_subscriber::registry().with(EnvFilter::new("info")).with(kept(recent.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(server = "a/b", "a server is ready");
            tracing::debug!("nobody wants to know");
            tracing::info!(target: SAID_BY_SERVERS, stderr = "key=hunter2", "a stdio server says");
        });
        let lines = recent.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains("INFO") && lines[0].ends_with("a server is ready server=\"a/b\""),
            "{lines:?}"
        );
    }
}
