//! A sidecar in a process of its own, to be starved, stopped and killed.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::agent;
use crate::mesh::Mesh;
use crate::pair::{self, Answer};

/// Far beyond what anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    pid: Pid,
    addresses: Value,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts a sidecar from its file and waits until it is ready.
    pub(crate) async fn start(folder: &Path, bootstrap: &Value) -> Self {
        Self::under(folder, bootstrap, &[]).await
    }

    /// The same, by a command that becomes the sidecar, such as `prlimit`.
    pub(crate) async fn under(folder: &Path, bootstrap: &Value, starter: &[&str]) -> Self {
        let (file, log) = (folder.join("sidecar.yaml"), folder.join("log"));
        std::fs::write(&file, bootstrap.to_string()).unwrap();
        let mut words = starter.to_vec();
        words.extend([env!("CARGO_BIN_EXE_weft-tests-sidecar"), "run", "--access-log", "off", "--config"]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(&file).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(std::fs::File::create(&log).unwrap()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(PATIENCE, lines.next_line()).await;
        let told = first.ok().and_then(|line| line.unwrap());
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let addresses = serde_json::from_str(&told.unwrap_or_else(|| panic!("it is not ready: {}", said())));
        Self { child, pid, addresses: addresses.unwrap(), log }
    }

    fn address(&self, door: &str) -> SocketAddr {
        self.addresses[door].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn inbound(&self) -> SocketAddr {
        self.address("inbound")
    }

    /// Asks the health or the admin door something.
    pub(crate) async fn ask(&self, door: &str, path: &str) -> Answer {
        let request = http::Request::get(path).body(http_body_util::Full::default()).unwrap();
        let asked = async { Answer::read(agent::send(self.address(door), request).await.unwrap()).await };
        timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{door} does not answer"))
    }

    /// Tells the admin door to do something.
    pub(crate) async fn order(&self, path: &str) -> Answer {
        let request = http::Request::post(path).body(http_body_util::Full::default()).unwrap();
        let told = async { Answer::read(agent::send(self.address("admin"), request).await.unwrap()).await };
        timeout(PATIENCE, told).await.expect("the admin door answers")
    }

    /// How it ends, by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap()
    }

    /// How it ended, if it did.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The value of a series, named with its labels.
    pub(crate) async fn metric(&self, series: &str) -> i64 {
        let text = String::from_utf8(self.ask("health", "/metrics").await.body.to_vec()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix("weft_sidecar_")?.strip_prefix(series));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) const fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Changes how many files it may have open from now on.
    pub(crate) fn limit_open_files(&self, soft: usize) {
        let arguments = [format!("--pid={}", self.pid()), format!("--nofile={soft}:")];
        assert!(std::process::Command::new("prlimit").args(arguments).status().unwrap().success());
    }

    /// Lets it take so many bytes of addresses more than it has, from now on.
    pub(crate) fn limit_memory(&self, more_bytes: u64) {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let has = line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10;
        let arguments = [format!("--pid={}", self.pid()), format!("--as={}", has + more_bytes)];
        assert!(std::process::Command::new("prlimit").args(arguments).status().unwrap().success());
    }

    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    /// The most that it ever had.
    pub(crate) fn resident_peak_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    /// Processor time that it has used.
    pub(crate) fn processor_time(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // Linux counts in hundredths of a second towards programs.
        Duration::from_millis(ticks * 10)
    }
}

#[allow(clippy::print_stdout, reason = "of a test that fails, this is what a reader needs")]
impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("its log:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// The file of a sidecar beside `research/files`, with a token for so many starts.
pub(crate) async fn file_of(mesh: &Mesh, folder: &Path, starts: u32) -> Value {
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
    let mut file = pair::joining(mesh, "research", "files", listen, json!({})).await;
    let token = mesh.token("research", "files", starts).await;
    file["source"]["controlPlane"]["proof"] = json!({ "joinToken": token });
    file["stateDir"] = json!(folder.join("state"));
    file
}

/// Waits until something holds that can only be asked for, with a limit far beyond what it takes.
pub(crate) async fn at_last<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let waited = timeout(PATIENCE, async {
        loop {
            looks.tick().await;
            if holds().await {
                break;
            }
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}
