//! The files of a trail: one for each segment, named by its number, in a folder that is nobody else's to read.
//!
//! A file that nobody closed may end within a line: the sidecar was killed while it wrote. That is cut off and said in
//! the trail. Whatever else does not hold together is left as it is, for whoever examines it, and the trail goes on in
//! a new file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use weft_proto::audit::{Cursor, Cut, Line, Trail};

/// The folder's name within the state folder.
pub(super) const FOLDER: &str = "audit";
const SUFFIX: &str = ".jsonl";
/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why there is no trail to write.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} cannot be {done}", path.display())]
    Io {
        path: PathBuf,
        done: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the trail in {} is of the node {found}, and this is {node}: move it away", path.display())]
    AnotherNode { path: PathBuf, found: String, node: String },
}

impl Error {
    /// Whether it is full, or may not be written to.
    pub fn is_about_the_disk(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::session_id::is_about_the_disk(source))
    }
}

/// A segment on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) path: PathBuf,
    pub(super) number: u64,
    /// The number of its first line; none where that cannot be read.
    pub(super) first: Option<u64>,
    pub(super) bytes: u64,
}

/// Where a trail goes on.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) segments: Vec<Held>,
    pub(super) cursor: Cursor,
    /// What there is to say of how it ended.
    pub(super) resumed: Option<Cut>,
    /// Whether its last file can be gone on with.
    pub(super) goes_on: bool,
}

pub(super) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}{SUFFIX}"))
}

/// Opens the folder, and finds where the trail in it goes on.
pub(super) fn open(folder: &Path, node: &str, random: u128) -> Result<Found, Error> {
    let failed = |done| move |source| Error::Io { path: folder.to_owned(), done, source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("made"))?;
    let mut segments = list(folder).map_err(failed("read"))?;
    let Some(last) = segments.last_mut() else {
        let cursor = Cursor::new(node, Trail::from_random(random));
        return Ok(Found { segments, cursor, resumed: None, goes_on: false });
    };
    let path = last.path.clone();
    let bytes = read(&path).map_err(failed("read"))?;
    let Some(state) = follow(&bytes) else {
        // Not even its beginning was written: it never was one.
        fs::remove_file(&path).map_err(failed("cleared"))?;
        return open(folder, node, random);
    };
    let Followed { cursor, whole, torn, damaged } = state;
    if cursor.node() != node {
        let found = cursor.node().to_owned();
        return Err(Error::AnotherNode { path: folder.to_owned(), found, node: node.to_owned() });
    }
    let goes_on = cursor.is_open() && !damaged;
    if torn > 0 && !damaged {
        let file = OpenOptions::new().write(true).open(&path).map_err(failed("opened"))?;
        file.set_len(whole).and_then(|()| file.sync_all()).map_err(failed("cut"))?;
        last.bytes = whole;
    }
    let unclean = cursor.is_open() || torn > 0 || damaged;
    let resumed = unclean.then_some(Cut { torn_bytes: torn, damaged });
    Ok(Found { segments, cursor, resumed, goes_on })
}

/// The segments in a folder, the oldest first.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Held>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
        let Some(number) = number else { continue };
        let path = entry.path();
        let first = first_line(&path).map(|line| line.n);
        found.push(Held { path, number, first, bytes: entry.metadata()?.len() });
    }
    found.sort_by_key(|it| it.number);
    Ok(found)
}

fn first_line(path: &Path) -> Option<Line> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(4096).read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().position(|it| *it == b'\n')?;
    Line::parse(&bytes[..end]).ok()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

struct Followed {
    cursor: Cursor,
    /// Bytes of the lines that follow each other.
    whole: u64,
    /// Bytes of what comes after them.
    torn: u64,
    damaged: bool,
}

/// Goes through a file as far as its lines follow each other. None where not even the first can be read.
fn follow(bytes: &[u8]) -> Option<Followed> {
    let first = bytes.split_inclusive(|it| *it == b'\n').next()?;
    let line = Line::parse(first.strip_suffix(b"\n")?).ok()?;
    let mut cursor = Cursor::before_segment(&line)?;
    let mut whole = 0;
    for line in bytes.split_inclusive(|it| *it == b'\n') {
        let Some(text) = line.strip_suffix(b"\n") else { break };
        if cursor.take(text).is_err() {
            break;
        }
        whole += line.len();
    }
    let rest = &bytes[whole..];
    // What a killed writer leaves has no end, or is no line: blocks that were never written read as zeros.
    let damaged = rest.split(|it| *it == b'\n').any(|line| Line::parse(line).is_ok());
    Some(Followed { cursor, whole: whole as u64, torn: rest.len() as u64, damaged })
}

/// Makes the file of a segment, so that it is there after a crash.
pub(super) fn create(folder: &Path, number: u64) -> io::Result<File> {
    let path = path_of(folder, number);
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}
