//! The first step: keeps the command and everything below it, and outlives neither.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::process::{self, Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::{CANNOT_RUN, ITSELF, Plan, environment, failed, prefixed};

/// How long what is left has to end by itself, once the sidecar is gone.
const ORPHANED_GRACE: Duration = Duration::from_millis(500);
/// How long processes that were killed are waited for. Longer only takes who hangs in the kernel.
const KILLED_WAIT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often the parent is looked for on a kernel that cannot tell of its end.
const PARENT_LOOK_EVERY: Duration = Duration::from_millis(100);
const WATCH_STACK_BYTES: usize = 64 << 10;

pub(super) fn keep(plan: Plan, command: &OsString, args: &[OsString]) -> ExitCode {
    // Only a leader of its group, started by hand from a shell, already leads a session or cannot.
    let _ = process::setsid();
    let _ = rustix::thread::set_name(c"weft-launch");
    let kept =
        process::set_child_subreaper(Some(process::getpid())).map_err(io::Error::from).and_then(|()| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            runtime.block_on(watch(plan, command, args))
        });
    kept.unwrap_or_else(|error| failed(CANNOT_RUN, error))
}

/// Starts the command and stays until it or the sidecar is gone; then ends whatever is left.
///
/// SIGTERM is passed on; SIGINT ends everything at once.
async fn watch(plan: Plan, command: &OsString, args: &[OsString]) -> io::Result<ExitCode> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut ended = signal(SignalKind::child())?;
    let mut orphaned = std::pin::pin!(orphaned(plan.parent));
    let child = start(plan, command, args)?;
    let mut deadline: Option<Instant> = None;
    let code = loop {
        tokio::select! {
            _ = ended.recv() => {
                if let Some(code) = reap(child) {
                    break code;
                }
            }
            () = orphaned.as_mut(), if deadline.is_none() => {
                signal_all(Signal::TERM);
                deadline = Some(Instant::now() + ORPHANED_GRACE);
            }
            _ = terminated.recv() => signal_all(Signal::TERM),
            _ = hung_up.recv() => signal_all(Signal::TERM),
            _ = interrupted.recv() => break exit_code_of(Signal::KILL),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                break exit_code_of(Signal::KILL);
            }
        }
    };
    end_all().await;
    Ok(ExitCode::from(code))
}

/// Starts the second step, in a group of its own. Its standard streams are the launcher's, which gives them up: whoever
/// reads them must see the end of the command's, not of the launcher's.
fn start(plan: Plan, command: &OsString, args: &[OsString]) -> io::Result<Pid> {
    let plan = Plan { parent: process::getpid().as_raw_nonzero().get(), ..plan };
    let child = Command::new(ITSELF)
        .args(&plan.args)
        .arg("run")
        .arg(plan.written())
        .arg(command)
        .args(args)
        .env_clear()
        .envs(environment().map(|(name, value)| (prefixed(&name), value)))
        .process_group(0)
        .spawn()?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    Ok(Pid::from_child(&child))
}

/// Returns once the sidecar is gone.
#[allow(deprecated, reason = "what replaces it is unsafe, and the descriptor is owned by what is registered")]
async fn orphaned(parent: i32) {
    let is_orphan = || process::getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent);
    let watched = process::getppid()
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| process::pidfd_open(pid, PidfdFlags::empty()));
    // Looked at only now: had it been gone before, the descriptor might be somebody else's.
    if is_orphan() {
        return;
    }
    if let Ok(watched) = watched
        && ended(watched).await.is_ok()
    {
        return;
    }
    while !is_orphan() {
        sleep(PARENT_LOOK_EVERY).await;
    }
}

/// Tells when a process has ended, by a thread that does nothing else.
fn ended(process: OwnedFd) -> oneshot::Receiver<()> {
    let (told, is_told) = oneshot::channel();
    let wait = move || {
        loop {
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], None) {
                Ok(1..) => {
                    let _ = told.send(());
                    return;
                }
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    };
    let _ = std::thread::Builder::new().stack_size(WATCH_STACK_BYTES).spawn(wait);
    is_told
}

/// Takes over from everyone who has ended. Returns the exit code of the command, if it is among them.
fn reap(command: Pid) -> Option<u8> {
    // All of them, whoever is found.
    let ended = reaped().filter(|(pid, _)| *pid == command).last();
    ended.map(|(_, status)| code_of(status))
}

/// Everyone who has ended and whom nobody has waited for.
pub(super) fn reaped() -> impl Iterator<Item = (Pid, WaitStatus)> {
    std::iter::from_fn(|| process::wait(WaitOptions::NOHANG).ok().flatten())
}

pub(super) fn code_of(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(CANNOT_RUN)
}

fn exit_code_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(CANNOT_RUN)
}

/// Kills everyone below, and who they forked meanwhile, until nobody is left.
async fn end_all() {
    let deadline = Instant::now() + KILLED_WAIT;
    while Instant::now() < deadline {
        signal_all(Signal::KILL);
        let none_left = loop {
            match process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if none_left {
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

fn signal_all(signal: Signal) {
    for pid in below(process::getpid()) {
        let _ = process::kill_process(pid, signal);
    }
}

/// Everyone below a process, whatever session and group they made for themselves.
fn below(root: Pid) -> Vec<Pid> {
    let parents: Vec<(Pid, Pid)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| Some((Pid::from_raw(pid)?, parent_of(pid)?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, it)| *it == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

fn parent_of(pid: i32) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parent_in(&stat)
}

/// The name of a program stands in parentheses and may hold any character, parentheses too.
fn parent_in(stat: &str) -> Option<Pid> {
    let (_, rest) = stat.rsplit_once(") ")?;
    Pid::from_raw(rest.split(' ').nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_any_name() {
        for name in ["sh", "a b", "a) S 7 (b", ") R 9 ", ""] {
            assert_eq!(parent_in(&format!("12 ({name}) S 4 12 12 0 -1")), Pid::from_raw(4), "{name}");
        }
        for broken in ["", "12", "12 (sh)", "12 (sh) S", "12 (sh) S x", "12 (sh) S 0 1"] {
            assert_eq!(parent_in(broken), None, "{broken}");
        }
    }

    #[test]
    fn what_is_below_a_process_is_found() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(below(process::getpid()).contains(&Pid::from_child(&child)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!below(process::getpid()).contains(&Pid::from_child(&child)));
    }
}
