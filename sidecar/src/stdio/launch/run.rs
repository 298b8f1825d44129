//! The second step: binds this process to the sandbox and becomes the command.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::process::{self, Signal};

use super::{CANNOT_RUN, NOT_FOUND, Plan, environment, failed};

/// Returns only if the command cannot be run.
pub(super) fn run(plan: &Plan, command: &OsStr, args: &[OsString]) -> ExitCode {
    if let Err(error) = tie_to_launcher(plan) {
        return failed(CANNOT_RUN, error);
    }
    let env: Vec<(OsString, OsString)> = environment().collect();
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_os_str());
    let program = program(command, path, plan.working_directory.as_deref());
    let mut becoming = Command::new(command);
    becoming.args(args).env_clear().envs(env);
    if let Some(folder) = &plan.working_directory {
        becoming.current_dir(folder);
    }
    if let Err(error) = plan.bounds.apply(program.as_deref()) {
        return failed(CANNOT_RUN, error);
    }
    let error = becoming.exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN };
    failed(code, format_args!("{} cannot be run: {error}", command.display()))
}

/// Whoever kills the launcher kills the command. The tie holds across exec.
fn tie_to_launcher(plan: &Plan) -> io::Result<()> {
    process::set_parent_process_death_signal(Some(Signal::KILL))?;
    match process::getppid() {
        Some(pid) if pid.as_raw_nonzero().get() == plan.parent => Ok(()),
        _ => Err(io::Error::other("the launcher is gone")),
    }
}

/// The file that a command names, so that a sandbox does not keep it from being read.
fn program(command: &OsStr, path: Option<&OsStr>, folder: Option<&Path>) -> Option<PathBuf> {
    let named = Path::new(command);
    let candidates: Vec<PathBuf> = if command.as_encoded_bytes().contains(&b'/') {
        vec![folder.map_or_else(|| named.to_owned(), |folder| folder.join(named))]
    } else {
        std::env::split_paths(path?).map(|folder| folder.join(named)).collect()
    };
    candidates.into_iter().find(|candidate| candidate.is_file())?.canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_as_the_system_finds_it() {
        let found = |command: &str, path: &str, folder: Option<&str>| {
            program(command.as_ref(), Some(path.as_ref()), folder.map(Path::new)).is_some()
        };
        assert!(found("sh", "/nowhere:/bin", None));
        assert!(found("/bin/sh", "", None));
        assert!(found("./sh", "", Some("/bin")));
        assert!(!found("sh", "/nowhere", None));
        assert!(!found("./sh", "/bin", Some("/nowhere")));
    }
}
