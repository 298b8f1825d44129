//! The control plane of a benchmark, in its own process. It says on its output where it is, and ends with its input.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use weft_control_plane::app::{self, Config};
use weft_control_plane::identity::{Rate, Settings};
use weft_proto::name::TrustDomain;

/// Runs the control plane until standard input ends.
pub(crate) async fn run(folder: PathBuf, sidecars_at: SocketAddr) -> anyhow::Result<()> {
    let free = Rate { burst: 1e9, per_second: 1e9 };
    let mut config = Config::local(folder);
    config.trust_domain = Some(TrustDomain::parse("bench.test")?);
    config.sidecars = sidecars_at;
    config.identity = Settings { per_address: free, per_identity: free, ..Settings::default() };
    // All of them come from one address of this machine.
    config.sidecar_limits.strangers_per_network_max = 100_000;
    config.sidecar_limits.stranger_age_max = Duration::from_secs(600);
    // Every simulated sidecar is an instance that stays one over a restart of the benchmark's control plane.
    config.xds.gone_grace = Duration::from_secs(600);
    let running = app::start(config).await?;
    running.ready().await;
    let roots = weft_certs::pem::encode(running.trust.signer().bundle().roots());
    let line = serde_json::json!({
        "sidecars": running.sidecars.to_string(),
        "operators": running.operators.to_string(),
        "health": running.health.to_string(),
        "admin": running.admin_token.as_ref().map(ToString::to_string),
        "roots": roots,
    });
    writeln!(std::io::stdout(), "{line}")?;
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    running.stop().await;
    Ok(())
}

/// A running child.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    process: Child,
    pub(crate) sidecars: SocketAddr,
    pub(crate) operators: SocketAddr,
    pub(crate) roots: String,
    pub(crate) admin: Option<String>,
}

impl ControlPlane {
    pub(crate) async fn start(folder: &std::path::Path, sidecars_at: SocketAddr) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--child")
            .arg(folder)
            .arg("--sidecars-at")
            .arg(sidecars_at.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = process.stdout.take().context("the child has an output")?;
        let line =
            BufReader::new(output).lines().next_line().await?.context("the control plane did not start")?;
        let said: serde_json::Value = serde_json::from_str(&line)?;
        let text = |field: &str| said[field].as_str().map(str::to_owned);
        let address = |field: &str| anyhow::Ok(text(field).context("an address is missing")?.parse()?);
        Ok(Self {
            process,
            sidecars: address("sidecars")?,
            operators: address("operators")?,
            roots: text("roots").context("the roots are missing")?,
            admin: text("admin"),
        })
    }

    /// Kills the process outright.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill().await?;
        Ok(())
    }

    /// Resident memory, in bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<usize> {
        let pid = self.process.id().context("the process is gone")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: usize = line.split_whitespace().nth(1).context("no figure")?.parse()?;
        Ok(kib * 1024)
    }

    /// Processor time used so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let pid = self.process.id().context("the process is gone")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("odd stat")?.1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10))
    }
}
