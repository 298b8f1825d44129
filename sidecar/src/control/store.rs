//! The last good configuration on disk, so that a sidecar that starts while the control plane is away serves as before,
//! and one that starts while it is there need not be told everything again.
//!
//! What is stored are resources as they were accepted. Keys and certificates never are. A file that is damaged, from
//! another node or of a later version is as good as none: it is told of and passed over.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use bytes::Bytes;
use prost::Message as _;
use weft_proto::wire::ResourceType;

use super::session::{Accepted, BYTES_MAX};

/// Largest file, in bytes: as much as a session holds, and the names.
pub const FILE_BYTES_MAX: u64 = (BYTES_MAX + (64 << 20)) as u64;
/// The file's name within the state folder.
pub const FILE: &str = "configuration.snapshot";
const FILE_NEW: &str = "configuration.snapshot.new";

const MAGIC: &[u8; 8] = b"weftconf";
/// The version of the format that is written and read.
pub const FORMAT: u32 = 1;
const DIGEST_BYTES: usize = 32;
/// Magic, format, length of the body, digest of all of these and the body.
const HEAD_BYTES: usize = 8 + 4 + 8 + DIGEST_BYTES;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} cannot be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("it is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is not a stored configuration")]
    NotOurs,
    #[error("it is of format {found}; this version reads format {FORMAT}")]
    Format { found: u32 },
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// What is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Whose configuration it is: another node's would be shown servers that it may not know.
    pub node: String,
    /// The identity that it was told to.
    pub identity: String,
    pub at: SystemTime,
    pub resources: Vec<Accepted>,
}

/// The body of the file.
#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(string, tag = "2")]
    identity: String,
    #[prost(uint64, tag = "3")]
    at_secs: u64,
    #[prost(message, repeated, tag = "4")]
    resources: Vec<Entry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(bytes = "bytes", tag = "4")]
    bytes: Bytes,
}

/// The file's bytes.
pub fn encode(stored: &Stored) -> Vec<u8> {
    let entry = |it: &Accepted| Entry {
        type_url: it.ty.type_url().to_owned(),
        name: it.name.to_string(),
        version: it.version.to_string(),
        bytes: it.bytes.clone(),
    };
    let at = stored.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let body = Body {
        node: stored.node.clone(),
        identity: stored.identity.clone(),
        at_secs: at.as_secs(),
        resources: stored.resources.iter().map(entry).collect(),
    };
    seal(&body.encode_to_vec())
}

/// Puts the head before a body.
pub fn seal(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u64).to_be_bytes();
    let mut file = [MAGIC, &FORMAT.to_be_bytes()[..], &length, &[0; DIGEST_BYTES], body].concat();
    let digest = digest_of(&file);
    file[HEAD_BYTES - DIGEST_BYTES..HEAD_BYTES].copy_from_slice(&digest);
    file
}

/// Reads the file's bytes. Resources of types that this version does not know are left out.
pub fn decode(file: &[u8]) -> Result<Stored, Error> {
    if file.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::TooLarge);
    }
    if !file.starts_with(MAGIC) {
        return Err(Error::NotOurs);
    }
    let (format, length) = (number::<4>(file, 8), number::<8>(file, 12));
    let (Some(format), Some(length)) = (format, length) else {
        return Err(Error::Damaged("its head is cut off"));
    };
    let format = u32::try_from(format).unwrap_or(u32::MAX);
    if format != FORMAT {
        return Err(Error::Format { found: format });
    }
    if file.len() < HEAD_BYTES || (file.len() - HEAD_BYTES) as u64 != length {
        return Err(Error::Damaged("its length is not what it says"));
    }
    if file[HEAD_BYTES - DIGEST_BYTES..HEAD_BYTES] != digest_of(file) {
        return Err(Error::Damaged("its checksum is wrong"));
    }
    let body = Body::decode(&file[HEAD_BYTES..]).map_err(|_| Error::Damaged("its content cannot be read"))?;
    let known = body.resources.into_iter().filter_map(|entry| {
        let ty = ResourceType::from_type_url(&entry.type_url)?;
        let Entry { name, version, bytes, .. } = entry;
        Some(Accepted { ty, name: name.into(), version: version.into(), bytes })
    });
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(body.at_secs));
    Ok(Stored {
        node: body.node,
        identity: body.identity,
        at: at.ok_or(Error::Damaged("its time is out of range"))?,
        resources: known.collect(),
    })
}

fn number<const N: usize>(file: &[u8], at: usize) -> Option<u64> {
    let bytes = file.get(at..at + N)?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Of everything but the digest itself.
fn digest_of(file: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&file[..HEAD_BYTES - DIGEST_BYTES]);
    context.update(&file[HEAD_BYTES..]);
    let mut bytes = [0; DIGEST_BYTES];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// Loads what is stored; none if nothing is.
pub fn load(folder: &Path) -> Result<Option<Stored>, Error> {
    let path = folder.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let mut bytes = Vec::new();
    match file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes) {
        Ok(_) => decode(&bytes).map(Some),
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// Stores it in place of what was stored before: whoever reads finds the one or the other, whole, even after a power
/// cut. The folder is made if it is not there.
pub fn save(folder: &Path, stored: &Stored) -> Result<(), Error> {
    let bytes = encode(stored);
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::TooLarge);
    }
    let (path, beside) = (folder.join(FILE), folder.join(FILE_NEW));
    let written = write(folder, &beside, &path, &bytes);
    written.map_err(|source| {
        // Half a file helps nobody, and takes room on a disk that may be full.
        let _ = std::fs::remove_file(&beside);
        Error::Write { path, source }
    })
}

fn write(folder: &Path, beside: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match std::fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(beside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
