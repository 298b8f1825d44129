//! The systems that are compared: how each is configured, started, known to be ready, and ended.
//!
//! Each does what an operator would have it do in front of an MCP server, on one core, with its defaults unless they
//! would break the comparison; what differs between them is said in [`System::does`].

mod contextforge;
mod envoy;
mod gateway;
mod haproxy;
mod mcp_proxy;
mod mesh;
mod nginx;
mod weft;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::certs::Files;
use crate::http1::Conn;
use crate::message::{self, Place, Shape};
use crate::process;

pub(crate) use weft::{Behind, config as weft_config, program};

/// Longest that anything may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum System {
    Direct,
    Nginx,
    Haproxy,
    Envoy,
    McpProxy,
    ContextForge,
    Relay,
    Weft,
    /// Weft with every kind of policy.
    WeftPolicies,
    /// Weft that records nothing but metrics.
    WeftQuiet,
    /// Weft that traces one call of a hundred.
    WeftSampled,
    /// Weft that traces every call.
    WeftTraced,
    /// Weft that writes every call into its audit trail.
    WeftAudited,
    /// Two sidecars, at the address of the one server.
    WeftTwo,
    /// Two sidecars, at the one address for all servers.
    WeftVirtual,
    /// A gateway that checks the token of each call, and the sidecar beside the server.
    WeftGateway,
    /// The same with a key instead of a token.
    WeftGatewayKey,
}

impl System {
    pub(crate) const ALL: [Self; 17] = [
        Self::Direct,
        Self::Relay,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::McpProxy,
        Self::ContextForge,
        Self::Weft,
        Self::WeftPolicies,
        Self::WeftQuiet,
        Self::WeftSampled,
        Self::WeftTraced,
        Self::WeftAudited,
        Self::WeftTwo,
        Self::WeftVirtual,
        Self::WeftGateway,
        Self::WeftGatewayKey,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::McpProxy => "mcp-proxy",
            Self::ContextForge => "contextforge",
            Self::Relay => "relay",
            Self::Weft => "weft",
            Self::WeftPolicies => "weft-policies",
            Self::WeftQuiet => "weft-quiet",
            Self::WeftSampled => "weft-sampled",
            Self::WeftTraced => "weft-traced",
            Self::WeftAudited => "weft-audited",
            Self::WeftTwo => "weft-two",
            Self::WeftVirtual => "weft-virtual",
            Self::WeftGateway => "weft-gateway",
            Self::WeftGatewayKey => "weft-gateway-key",
        }
    }

    /// What it does for each call.
    pub(crate) fn does(self) -> &'static str {
        match self {
            Self::Direct => "no proxy, plain HTTP, on the generator's core",
            Self::Nginx => "mTLS reverse proxy, kept upstream connections, no policy, no log",
            Self::Haproxy => "mTLS reverse proxy, kept upstream connections, no policy, no log",
            Self::Envoy => {
                "mTLS, `mcp` filter (headers verified against the body), RBAC on identity and tool, local rate limit, \
                 access log"
            }
            Self::McpProxy => "**plain HTTP** (it has no mTLS), JSON-RPC parsed and routed by tool",
            Self::ContextForge => {
                "**plain HTTP and the legacy era** (it has no other), token of the caller checked, tool found by name, one process, rate limits off"
            }
            Self::Relay => "mTLS relay written by hand for this benchmark; heads parsed, nothing else",
            Self::Weft => "mTLS, message parsed and checked, identity × tool policy, metrics, access log",
            Self::WeftPolicies => {
                "the same with 20 policies, one of which looks at arguments, 4 limits, arguments held against the \
                 schema, redaction and a cap on results"
            }
            Self::WeftQuiet => "as `weft`, without an access log",
            Self::WeftSampled => {
                "as `weft`, with 1 % of the calls and every failed one traced, spans sent to a collector"
            }
            Self::WeftTraced => "as `weft`, with every call traced, spans sent to a collector",
            Self::WeftAudited => {
                "as `weft`, with every call in the audit trail, with digests of arguments and answer"
            }
            Self::WeftTwo => {
                "plain HTTP to the agent's sidecar, mTLS to the server's, which does as `weft` without an access log: one core for \
                 both"
            }
            Self::WeftVirtual => {
                "the same at `/mcp`, where tools of all servers are: found by name, and renamed"
            }
            Self::WeftGateway => {
                "TLS without a client's certificate and a token (JWT, ES256) checked at the gateway, mTLS to the server's sidecar, \
                 where policy speaks of a claim; both as `weft`, each with an access log: one core for both"
            }
            Self::WeftGatewayKey => {
                "the same with an API key instead of the token, and no claim in the policy"
            }
        }
    }

    fn program(self, site: &Site) -> anyhow::Result<PathBuf> {
        match self {
            Self::Direct | Self::Relay => Ok(std::env::current_exe()?),
            Self::Nginx => Ok("/usr/sbin/nginx".into()),
            Self::Haproxy => Ok("/usr/sbin/haproxy".into()),
            Self::Envoy => envoy::program(site),
            Self::McpProxy => Ok(site.cache.join("mcp-proxy/bin/mcp-proxy")),
            Self::ContextForge => Ok(contextforge::program(site)),
            Self::WeftTwo | Self::WeftVirtual => mesh::program(),
            _ => program(),
        }
    }

    /// What the program says of its version; nothing of those that are this program.
    pub(crate) fn version(self, site: &Site) -> Option<String> {
        if self == Self::ContextForge {
            return contextforge::version(site);
        }
        let flag = match self {
            Self::Direct | Self::Relay => return None,
            Self::Nginx | Self::Haproxy => "-v",
            _ => "--version",
        };
        let output = std::process::Command::new(self.program(site).ok()?).arg(flag).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        // The first word with a number that has dots in it.
        let said = String::from_utf8_lossy(&said);
        let numbers = said.split(|letter: char| letter.is_whitespace() || letter == '/');
        let mut dotted =
            numbers.filter(|word| word.contains('.') && word.starts_with(|it: char| it.is_ascii_digit()));
        dotted.next().map(str::to_owned)
    }

    pub(crate) fn encrypted(self) -> bool {
        !matches!(
            self,
            Self::Direct | Self::McpProxy | Self::ContextForge | Self::WeftTwo | Self::WeftVirtual
        )
    }

    /// Whether callers show it a certificate, too.
    pub(crate) fn mutual(self) -> bool {
        self.encrypted() && !matches!(self, Self::WeftGateway | Self::WeftGatewayKey)
    }

    /// Whether it holds event streams open for a subscription.
    pub(crate) fn streams(self) -> bool {
        matches!(
            self,
            Self::Nginx | Self::Haproxy | Self::Envoy | Self::Relay | Self::Weft | Self::WeftVirtual
        )
    }
}

/// Where everything is for one run.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Configurations and logs.
    pub(crate) folder: PathBuf,
    pub(crate) certs: Files,
    pub(crate) certs_folder: PathBuf,
    /// Programs that were installed for the benchmark.
    pub(crate) cache: PathBuf,
    pub(crate) upstream: SocketAddr,
    /// Where spans go.
    pub(crate) collector: SocketAddr,
    pub(crate) proxy_core: usize,
    pub(crate) load_core: usize,
}

/// A running system.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) system: System,
    pub(crate) address: SocketAddr,
    pub(crate) place: Place,
    /// What its log is called.
    log: &'static str,
    child: Option<Child>,
}

/// A free port of loopback. Another process may take it before it is used; then the system does not start, and says so.
pub(crate) fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A command on one core.
pub(crate) fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program).kill_on_drop(true).stdin(Stdio::null());
    // What goes wrong is told in one line.
    command.env("RUST_BACKTRACE", "0");
    command
}

impl Site {
    /// Starts a system and waits until it takes connections.
    pub(crate) async fn start(&self, system: System) -> anyhow::Result<Running> {
        let address = if system == System::Direct { self.upstream } else { free_port()? };
        let command = match system {
            System::Direct => None,
            System::Nginx => Some(nginx::command(self, address)?),
            System::Haproxy => Some(haproxy::command(self, address)?),
            System::Envoy => Some(envoy::command(self, address)?),
            System::McpProxy => Some(mcp_proxy::command(self, address)?),
            System::ContextForge => Some(contextforge::command(self, address)?),
            System::Relay => Some(self.relay(address)?),
            System::Weft
            | System::WeftPolicies
            | System::WeftQuiet
            | System::WeftSampled
            | System::WeftTraced
            | System::WeftAudited => Some(weft::command(self, address, &Behind::Http(system))?),
            System::WeftTwo | System::WeftVirtual => Some(mesh::command(self, address, system.name())?),
            System::WeftGateway | System::WeftGatewayKey => Some(gateway::command(self, address, system)?),
        };
        let (path, prefix) = match system {
            System::McpProxy => ("/", "bench/"),
            System::ContextForge => ("/mcp/", "bench-"),
            System::WeftTwo => ("/servers/bench/server/mcp", ""),
            System::WeftVirtual => ("/mcp", "server_"),
            System::WeftGateway | System::WeftGatewayKey => (gateway::PATH, ""),
            _ => ("/mcp", ""),
        };
        let mut place = Place::at(path, prefix);
        if system == System::ContextForge {
            contextforge::REVISION.clone_into(&mut place.revision);
        }
        if matches!(system, System::WeftGateway | System::WeftGatewayKey) {
            place.bearer = Some(gateway::brought(self, system)?);
        }
        let child = command.map(|command| self.spawn(system.name(), command)).transpose()?;
        let mut running = Running { system, address, place, log: system.name(), child };
        running.ready(self).await.with_context(|| format!("{} does not start", system.name()))?;
        Ok(running)
    }

    /// The sidecar before a stdio server.
    pub(crate) async fn start_stdio(&self) -> anyhow::Result<Running> {
        let address = free_port()?;
        let command = weft::command(self, address, &Behind::Stdio { core: self.load_core })?;
        let log = "weft-stdio";
        let child = Some(self.spawn(log, command)?);
        let place = Place::at("/mcp", "");
        let mut running = Running { system: System::Weft, address, place, log, child };
        running.ready(self).await.context("weft does not start with a stdio server")?;
        Ok(running)
    }

    fn relay(&self, address: SocketAddr) -> anyhow::Result<Command> {
        let mut command = pinned(self.proxy_core, &std::env::current_exe()?);
        command.args(["relay", "--listen", &address.to_string(), "--upstream", &self.upstream.to_string()]);
        command.arg("--certs").arg(&self.certs_folder);
        Ok(command)
    }

    fn spawn(&self, name: &str, mut command: Command) -> anyhow::Result<Child> {
        let log = std::fs::File::create(self.log(name))?;
        command.stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("{name} cannot be run"))
    }

    fn access_log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-access.log"))
    }

    /// Frees what access logs hold; those who wrote them have ended.
    pub(crate) fn forget_access_logs(&self) {
        for system in System::ALL {
            // Most have none.
            let _ = std::fs::remove_file(self.access_log(system.name()));
            let _ = std::fs::remove_file(self.access_log(&format!("{}-sidecar", system.name())));
            let _ = std::fs::remove_dir_all(self.audit(system.name()));
        }
    }

    fn audit(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-audit"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// A file of a system's configuration.
    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

impl Running {
    /// The process that was started; `None` if there is none between.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    pub(crate) fn memory(&self) -> process::Memory {
        let pids = self.pid().map(process::tree).unwrap_or_default();
        process::memory(&pids).unwrap_or_default()
    }

    async fn ready(&mut self, site: &Site) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("it ended with {status}; {}", tail(&site.log(self.log)));
            }
            if self.says_so(site) {
                if self.system == System::ContextForge {
                    self.place.bearer = Some(contextforge::token(site)?);
                }
                if self.answers().await {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("nothing answers at {}; {}", self.address, tail(&site.log(self.log)))
    }

    /// Whether it takes connections, and calls, as far as these can be made without a certificate.
    async fn answers(&self) -> bool {
        let Ok(stream) = TcpStream::connect(self.address).await else { return false };
        if self.system.encrypted() {
            return true;
        }
        let call = message::http(Shape::Small, &self.place, &self.address.to_string(), 1);
        let answer = tokio::time::timeout(PATIENCE, Conn::new(stream).exchange(&call)).await;
        matches!(answer, Ok(Ok((200, _))))
    }

    /// The sidecar listens before it is ready, and says when it is. The others say nothing.
    fn says_so(&self, site: &Site) -> bool {
        let said = || std::fs::read_to_string(site.log(self.log)).unwrap_or_default();
        // The sidecar's line is JSON with its addresses.
        match self.system {
            System::ContextForge => said().lines().any(|line| line == contextforge::REGISTERED),
            System::WeftTwo | System::WeftVirtual => true,
            _ => {
                let addresses = |line: &&str| line.starts_with('{') && line.contains("\"inbound\":");
                let sidecars = match self.system {
                    System::WeftGateway | System::WeftGatewayKey => 2,
                    _ => 1,
                };
                !self.log.starts_with("weft") || said().lines().filter(addresses).count() >= sidecars
            }
        }
    }

    /// Asks it to end, and ends it if it does not.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        for pid in child.id().map(process::tree).into_iter().flatten() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        if tokio::time::timeout(Duration::from_secs(3), child.wait()).await.is_err() {
            child.kill().await?;
        }
        Ok(())
    }
}

/// The end of a log, for a message.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    format!("its log ends with: {}", lines.into_iter().rev().collect::<Vec<_>>().join(" | "))
}
