//! The comparison: every system in turn under every load, round after round, then what is measured once.
//!
//! A round starts all systems anew and takes each load to each of them, one right after the other and each round in
//! another order, so that what the machine does meanwhile does not fall on one of them. What is reported is the median
//! over the rounds, and for ratios the median of the rounds' ratios.

mod book;
mod held;
mod once;
mod report;
mod rounds;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::certs::Files;
use crate::drive::Outcome;
use crate::systems::{Running, Site, System, free_port, pinned};

use book::Book;

/// What a run of the generator may take beyond the time that it was given.
const SLACK: Duration = Duration::from_secs(90);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of each measured span.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Systems to compare; all if not given. `direct` always runs.
    #[arg(long, value_delimiter = ',')]
    only: Vec<System>,
    /// Loads to run, by what their names contain; all if not given.
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
    /// One short round, to see that everything runs.
    #[arg(long)]
    quick: bool,
    /// Leave out what is not a comparison of loads: streams, stdio, start, soak.
    #[arg(long)]
    loads_only: bool,
    /// Event streams held at once to see what each costs.
    #[arg(long, default_value_t = 2000)]
    streams: usize,
    /// Length of the soak, in seconds.
    #[arg(long, default_value_t = 20)]
    soak: u64,
    #[arg(long, default_value_t = 0)]
    proxy_core: usize,
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Folder of the peers that were installed for this.
    #[arg(long)]
    cache: PathBuf,
    /// Where the figures go as JSON.
    #[arg(long, default_value = "target/load.json")]
    json: PathBuf,
}

impl Args {
    fn span(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn warm_up(&self) -> f64 {
        (self.seconds / 3.0).min(1.0)
    }

    fn systems(&self) -> Vec<System> {
        let wanted =
            |system: &System| self.only.is_empty() || *system == System::Direct || self.only.contains(system);
        System::ALL.into_iter().filter(wanted).collect()
    }
}

pub(crate) async fn run(mut args: Args) -> anyhow::Result<()> {
    if args.quick {
        (args.rounds, args.seconds, args.soak) = (1, 1.0, args.soak.min(5));
        args.streams = args.streams.min(500);
    }
    let folder = tempfile::tempdir()?;
    let certs_folder = folder.path().join("certs");
    let certs = Files::create(&certs_folder)?;
    let server = Server::start(args.load_core, "upstream").await?;
    let collector = Server::start(args.load_core, "collector").await?;
    let site = Site {
        folder: folder.path().to_owned(),
        certs,
        certs_folder,
        cache: args.cache.clone(),
        upstream: server.address,
        collector: collector.address,
        proxy_core: args.proxy_core,
        load_core: args.load_core,
    };
    let mut bench = Bench { args, site, server, collector };
    let mut book = Book::default();
    // Whatever is asked of this process, its children end with it.
    let mut term = signal(SignalKind::terminate())?;
    let done = tokio::select! {
        done = bench.everything(&mut book) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = term.recv() => Err(anyhow::anyhow!("asked to stop")),
    };
    bench.server.child.kill().await?;
    bench.collector.child.kill().await?;
    book.save(&bench.args.json)?;
    report::print(&book, &bench.args, &bench.site)?;
    done
}

/// The parts that stay for the whole run.
struct Bench {
    args: Args,
    site: Site,
    server: Server,
    collector: Server,
}

impl Bench {
    async fn everything(&self, book: &mut Book) -> anyhow::Result<()> {
        rounds::run(self, book).await?;
        if self.args.loads_only {
            return Ok(());
        }
        held::run(self, book).await?;
        once::run(self, book).await
    }

    /// Runs the generator against a system, on its own core.
    async fn drive(&self, running: &Running, load: &[String], length: Duration) -> anyhow::Result<Outcome> {
        let mut command = pinned(self.site.load_core, &std::env::current_exe()?);
        command.args(["drive", "--target", &running.address.to_string()]);
        let place = &running.place;
        command.args(["--path", &place.path, "--prefix", &place.prefix, "--revision", &place.revision]);
        if let Some(token) = &place.bearer {
            command.args(["--bearer", token]);
        }
        if running.system.encrypted() {
            command.arg("--certs").arg(&self.site.certs_folder);
        }
        if let Some(pid) = running.pid() {
            command.args(["--watch", &pid.to_string()]);
        }
        command.args(["--behind", &self.server.pid()?.to_string()]).args(load);
        outcome(command, length + SLACK).await
    }
}

/// Runs a command that says its outcome as one line of JSON.
async fn outcome(mut command: Command, patience: Duration) -> anyhow::Result<Outcome> {
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = tokio::time::timeout(patience, output).await.context("the generator does not end")??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("{}", said.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A process beside all of them: the server behind them, or who takes their spans.
struct Server {
    child: Child,
    address: std::net::SocketAddr,
}

#[derive(Debug, Deserialize)]
struct Listening {
    listen: std::net::SocketAddr,
}

impl Server {
    async fn start(core: usize, role: &str) -> anyhow::Result<Self> {
        let address = free_port()?.to_string();
        let mut command = pinned(core, Path::new(&std::env::current_exe()?));
        let mut child = command.args([role, "--listen", &address]).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("the server has an output")?;
        let line = BufReader::new(output).lines().next_line().await?.context("the server does not start")?;
        let Listening { listen } = serde_json::from_str(&line)?;
        Ok(Self { child, address: listen })
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the server has ended")
    }
}

/// Tells whoever waits how far it is.
fn tell(what: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{what}");
}
