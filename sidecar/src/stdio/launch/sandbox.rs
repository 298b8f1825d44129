//! What the command is bound by: privileges, resources, and the paths it may reach.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use weft_proto::resource::kinds::Sandbox;
use weft_proto::resource::units::ByteSize;

/// What a program needs to read to run at all. Folders that a system does not have are left out.
const SYSTEM: [&str; 10] = [
    "/bin",
    "/sbin",
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc",
    "/proc",
    "/nix/store",
    "/sys/devices/system/cpu",
];
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// The newest set of rights that is asked for. An older kernel enforces those of them that it knows.
const RIGHTS: ABI = ABI::V6;

/// A sandbox in plain values, as it goes from the sidecar to the launcher.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    allow_new_privileges: bool,
    memory_bytes_max: Option<u64>,
    processes_max: Option<u64>,
    open_files_max: Option<u64>,
    cpu_seconds_max: Option<u64>,
    read_only_paths: Vec<PathBuf>,
    read_write_paths: Vec<PathBuf>,
}

/// Why a command cannot be bound.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("privileges cannot be given up: {0}")]
    Privileges(#[source] rustix::io::Errno),
    #[error("{0:?} cannot be limited: {1}")]
    Limit(Resource, #[source] rustix::io::Errno),
    #[error("the path {0:?} of the sandbox cannot be opened: {1}")]
    Path(PathBuf, String),
    #[error("the paths cannot be restricted: {0}")]
    Rules(String),
    #[error("the paths cannot be restricted: this kernel has no Landlock, or has it switched off")]
    NoLandlock,
}

impl Bounds {
    pub fn of(sandbox: &Sandbox) -> Self {
        let paths = |paths: &[_]| paths.iter().map(|path: &_| path_of(path)).collect();
        Self {
            allow_new_privileges: sandbox.allow_new_privileges,
            memory_bytes_max: sandbox.memory_max.map(ByteSize::bytes),
            processes_max: sandbox.processes_max.map(|count| count.get().into()),
            open_files_max: sandbox.open_files_max.map(|count| count.get().into()),
            cpu_seconds_max: sandbox.cpu_seconds_max.map(|count| count.get().into()),
            read_only_paths: paths(&sandbox.read_only_paths),
            read_write_paths: paths(&sandbox.read_write_paths),
        }
    }

    /// Binds this process, and whatever it becomes and starts. There is no way back.
    pub(super) fn apply(&self, program: Option<&Path>) -> Result<(), Error> {
        if !self.allow_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(Error::Privileges)?;
        }
        self.restrict_paths(program)?;
        limit(Resource::Nofile, self.open_files_max)?;
        limit(Resource::Nproc, self.processes_max)?;
        limit(Resource::Cpu, self.cpu_seconds_max)?;
        // Last: what is done until the command runs needs memory too. Address space would be the wrong measure, since
        // runtimes reserve far more of it than they use.
        limit(Resource::Data, self.memory_bytes_max)
    }

    fn restrict_paths(&self, program: Option<&Path>) -> Result<(), Error> {
        let reading = !self.read_only_paths.is_empty();
        if !reading && self.read_write_paths.is_empty() {
            return Ok(());
        }
        let (all, read) = (AccessFs::from_all(RIGHTS), AccessFs::from_read(RIGHTS));
        let handled = if reading { all } else { AccessFs::from_write(RIGHTS) };
        // Without the scope, the command could still kill the sidecar.
        let ruleset = Ruleset::default().handle_access(handled).and_then(|it| it.scope(Scope::Signal));
        let mut rules = ruleset.and_then(Ruleset::create).map_err(told)?;
        if reading {
            let system = SYSTEM.iter().map(Path::new).chain(program);
            rules = rules.add_rules(path_beneath_rules(system, read)).map_err(told)?;
            rules = beneath(rules, &self.read_only_paths, read)?;
        }
        rules = rules.add_rules(path_beneath_rules(DEVICES, all & handled)).map_err(told)?;
        rules = beneath(rules, &self.read_write_paths, all & handled)?;
        match rules.restrict_self().map_err(told)?.ruleset {
            RulesetStatus::NotEnforced => Err(Error::NoLandlock),
            RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
        }
    }
}

fn path_of<const MAX: usize>(path: &weft_proto::resource::bounded::Text<MAX>) -> PathBuf {
    PathBuf::from(path.as_str())
}

/// Unlike the system's own, a path that was asked for must be there: who misspelt it would only find that nothing works.
fn beneath(
    mut rules: RulesetCreated,
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Error> {
    for path in paths {
        let fd = PathFd::new(path).map_err(|error| Error::Path(path.clone(), error.to_string()))?;
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(RIGHTS) };
        rules = rules.add_rule(PathBeneath::new(fd, access)).map_err(told)?;
    }
    Ok(rules)
}

fn told(error: impl Display) -> Error {
    Error::Rules(error.to_string())
}

/// Never above what this process itself is bound by.
fn limit(resource: Resource, max: Option<u64>) -> Result<(), Error> {
    let Some(max) = max else { return Ok(()) };
    let max = getrlimit(resource).maximum.map_or(max, |hard| hard.min(max));
    setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) })
        .map_err(|error| Error::Limit(resource, error))
}
