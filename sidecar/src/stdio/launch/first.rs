//! The first process of a container: it starts the sidecar, passes on what it is asked, takes over from orphans, and ends
//! as the sidecar ended.
//!
//! Whoever is first inherits every orphan of the container, and one that nobody waits for stays in the table of
//! processes for good. The sidecar cannot wait for just anybody: it would take the ends of its own children from those who
//! wait for them. Nor does a first process end by a signal that it does not ask for, as SIGTERM is.

use std::io;
use std::process::{Command, ExitCode};

use rustix::process::{self, Pid, Signal};
use tokio::signal::unix::{SignalKind, signal};

use super::keep::{code_of, reaped};
use super::{CANNOT_RUN, ITSELF, failed};

/// Whether this process is the first one of a container.
pub fn is_first() -> bool {
    process::getpid().is_init()
}

/// Starts this very program once more, with the same words, and stays until it has ended. To be called before there are
/// threads.
pub fn stay() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let ended = runtime.and_then(|runtime| runtime.block_on(watch()));
    ended.map_or_else(|error| failed(CANNOT_RUN, error), ExitCode::from)
}

async fn watch() -> io::Result<u8> {
    let mut ended = signal(SignalKind::child())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    let sidecar = Command::new(ITSELF).args(std::env::args_os().skip(1)).spawn()?;
    let sidecar = Pid::from_child(&sidecar);
    loop {
        let passed_on = tokio::select! {
            _ = ended.recv() => {
                if let Some((_, status)) = reaped().filter(|(pid, _)| *pid == sidecar).last() {
                    return Ok(code_of(status));
                }
                continue;
            }
            _ = terminated.recv() => Signal::TERM,
            _ = interrupted.recv() => Signal::INT,
            _ = hung_up.recv() => Signal::HUP,
            _ = quit.recv() => Signal::QUIT,
        };
        let _ = process::kill_process(sidecar, passed_on);
    }
}
