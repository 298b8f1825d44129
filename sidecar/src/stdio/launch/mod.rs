//! The launcher: a small process between the sidecar and a command, so that nothing the command started outlives it.
//!
//! It is the sidecar's own program under a hidden subcommand, in two steps. The first *keeps*: it leads a session of its
//! own, inherits every orphan below it, watches the sidecar, and ends whatever is left once either is gone. The second
//! *runs*: it binds itself to the sandbox and becomes the command. A process that forks from many threads, as the
//! sidecar is, could do neither safely between fork and exec.
//!
//! The command's environment goes through under a prefix: what is meant for the command (`LD_PRELOAD`, say) must not
//! reach the launcher, which is outside the sandbox.
//!
//! Whoever kills the launcher itself, with the one signal that it cannot catch, kills the command; what the command forked
//! off into sessions of its own is then left to the system. The sidecar never does, but as the last resort.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};
use weft_proto::resource::kinds::Stdio;

pub mod first;
mod keep;
mod run;
mod sandbox;

pub use sandbox::Bounds;

/// The subcommand under which a program that embeds the launcher calls [`main`].
pub const SUBCOMMAND: &str = "launch";

const ENV_PREFIX: &[u8] = b"WEFT_CHILD_";

/// Exits of the launcher itself, as shells have them.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// How to start the launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    pub program: PathBuf,
    /// What leads to [`main`], before the arguments for it.
    pub args: Vec<String>,
}

impl Default for Launcher {
    fn default() -> Self {
        Self::own()
    }
}

const ITSELF: &str = "/proc/self/exe";

/// What the launcher is told, in one argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    /// The process without which nothing is to go on.
    parent: i32,
    /// What leads to [`main`].
    args: Vec<String>,
    working_directory: Option<PathBuf>,
    bounds: Bounds,
}

impl Launcher {
    /// This very program, even if its file was replaced meanwhile: the two must agree on the arguments.
    pub fn own() -> Self {
        Self { program: PathBuf::from(ITSELF), args: vec![SUBCOMMAND.to_owned()] }
    }

    /// The command that starts the launcher for `stdio`, with this environment for what it starts.
    pub(super) fn command<'a>(
        &self,
        stdio: &Stdio,
        env: impl IntoIterator<Item = (&'a OsStr, &'a OsStr)>,
    ) -> Command {
        let plan = Plan {
            parent: rustix::process::getpid().as_raw_nonzero().get(),
            args: self.args.clone(),
            working_directory: stdio.working_directory.as_ref().map(|path| PathBuf::from(path.as_str())),
            bounds: Bounds::of(&stdio.sandbox),
        };
        let mut command = Command::new(&self.program);
        command.args(&self.args).arg("keep").arg(plan.written());
        command.arg(stdio.command.as_str()).args(stdio.args.iter().map(|arg| arg.as_str()));
        command.env_clear().envs(env.into_iter().map(|(name, value)| (prefixed(name), value)));
        command.current_dir("/");
        command
    }
}

impl Plan {
    fn written(&self) -> String {
        serde_json::to_string(self).expect("a plan has only texts for keys")
    }
}

fn prefixed(name: &OsStr) -> OsString {
    OsString::from_vec([ENV_PREFIX, name.as_bytes()].concat())
}

/// The environment of the command, out of the launcher's own.
fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.as_bytes().strip_prefix(ENV_PREFIX)?;
        Some((OsString::from_vec(name.to_vec()), value))
    })
}

/// What the hidden subcommand does. Returns the command's own exit code, or 128 and the signal that ended it.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let [step, plan, command, args @ ..] = args.as_slice() else {
        return failed(CANNOT_RUN, "this is started by the sidecar only");
    };
    let plan: Plan = match serde_json::from_slice(plan.as_bytes()) {
        Ok(plan) => plan,
        Err(error) => return failed(CANNOT_RUN, error),
    };
    match step.as_bytes() {
        b"keep" => keep::keep(plan, command, args),
        b"run" => run::run(&plan, command, args),
        _ => failed(CANNOT_RUN, "no such step"),
    }
}

/// Says what went wrong, where the sidecar reads the command's standard error.
fn failed(code: u8, problem: impl Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "weft launcher: {problem}");
    ExitCode::from(code)
}
