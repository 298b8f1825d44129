//! The program, copied to where another container finds it: `weft-sidecar copy`.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// This program, even if its file was replaced meanwhile.
const ITSELF: &str = "/proc/self/exe";
/// Everyone may run the copy: the container that does has a user of its own.
const MODE: u32 = 0o755;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} is no file that could be written", .0.display())]
    NoFile(PathBuf),
    #[error("{what} {}", .path.display())]
    Write {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Copies this program. The copy is there whole or not at all, and goes in the place of one that was there before.
pub fn itself(to: &Path) -> Result<(), Error> {
    let name = to.file_name().ok_or_else(|| Error::NoFile(to.to_owned()))?;
    if to.is_dir() {
        return Err(Error::NoFile(to.to_owned()));
    }
    let folder = to.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { what, path, source }
    };
    let made = std::fs::DirBuilder::new().recursive(true).mode(MODE).create(folder);
    made.map_err(failed("this folder cannot be made:", folder))?;
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = folder.join(unfinished);
    let written = write(&unfinished).and_then(|()| std::fs::rename(&unfinished, to));
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written.map_err(failed("the program cannot be copied to", to))
}

fn write(path: &Path) -> io::Result<()> {
    let mut program = File::open(ITSELF)?;
    let mut copy = File::options().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    io::copy(&mut program, &mut copy)?;
    copy.flush()?;
    // What the creation mask took away.
    copy.set_permissions(Permissions::from_mode(MODE))?;
    copy.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_program_and_can_be_run_by_everyone() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("deep/down/weft-sidecar");
        for _ in 0..2 {
            itself(&to).unwrap();
            assert!(std::fs::read(&to).unwrap() == std::fs::read(ITSELF).unwrap());
            assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, MODE);
        }
        let found = std::fs::read_dir(to.parent().unwrap()).unwrap();
        assert_eq!(found.count(), 1, "nothing unfinished is left");
    }

    #[test]
    fn a_copy_takes_the_place_of_one_that_runs() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("sleep");
        std::fs::copy("/bin/sleep", &to).unwrap();
        let mut running = std::process::Command::new(&to).arg("60").spawn().unwrap();
        itself(&to).unwrap();
        assert!(to.metadata().unwrap().len() == Path::new(ITSELF).metadata().unwrap().len());
        running.kill().unwrap();
        running.wait().unwrap();
    }

    #[test]
    fn a_folder_is_no_place_for_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), Path::new("/"), Path::new("..")] {
            assert!(matches!(itself(path), Err(Error::NoFile(_))), "{}", path.display());
        }
        let below_a_file = Path::new("/etc/hostname/weft-sidecar");
        assert!(matches!(itself(below_a_file), Err(Error::Write { .. })));
    }
}
