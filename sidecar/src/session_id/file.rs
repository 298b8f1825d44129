//! The key in a file, which outlives the process.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{KEY_LEN, Key};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the key of sessions {path} cannot be read or made")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} holds no key of {KEY_LEN} bytes")]
    Form { path: PathBuf },
    #[error("{path} can be read by others than its owner (mode {mode:o})")]
    Permissions { path: PathBuf, mode: u32 },
}

impl Error {
    /// Whether only the disk is to blame, and the key would be kept if it could.
    pub fn is_about_the_disk(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_about_the_disk(source))
    }
}

/// Whether nothing can be written at the moment, whatever it is.
pub(crate) fn is_about_the_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | ReadOnlyFilesystem | QuotaExceeded)
}

impl Key {
    /// Reads the key, or makes one if there is none. Of several that make it at once, one wins and all have its key.
    pub fn open_or_create(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        match read(path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let fresh = path.with_extension(format!("{:016x}", rand::random::<u64>()));
        let made = write(&fresh, &rand::random()).and_then(|()| fs::hard_link(&fresh, path));
        fs::remove_file(&fresh).ok();
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io(error)),
            Ok(()) | Err(_) => read(path),
        }
    }
}

fn write(path: &Path, secret: &[u8; KEY_LEN]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret)?;
    file.sync_all()
}

fn read(path: &Path) -> Result<Key, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = fs::File::open(path).map_err(io)?;
    // Asked of the open file, not of the path, which may point elsewhere by then.
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Permissions { path: path.to_owned(), mode });
    }
    let mut secret = [0; KEY_LEN];
    let form = |_| Error::Form { path: path.to_owned() };
    file.read_exact(&mut secret).map_err(form)?;
    match file.read(&mut [0]).map_err(io)? {
        0 => Ok(Key::new(&secret)),
        _ => Err(Error::Form { path: path.to_owned() }),
    }
}
