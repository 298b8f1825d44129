//! What was set aside of budgets, on disk: a count that is written here is written for good once [`Journal::append`] says
//! so, and a sidecar that is killed goes on from it.
//!
//! The file is a list of records, of which the last of a count holds. One that is cut off at its end was never answered
//! for and is passed over. Where more is damaged than that, nobody knows what was spent: budgets that the file does not
//! tell of count as spent until their windows end.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

/// The file's name within the state folder.
const FILE: &str = "budgets";
const FILE_NEW: &str = "budgets.new";
const HEAD: &[u8; 16] = b"weft budgets v1\n";
const RECORD_BYTES: usize = 48;
const FACTS_BYTES: usize = 32;
/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Records beyond twice the counts after which the file is written anew.
const SLACK_RECORDS: usize = 4096;
/// For how long a count is kept after its window: a clock that is set back must not give it anew.
const KEPT_AFTER_SECS: i64 = 3 * 86_400;
/// Longer than any window that began before the loss.
const LOST_FOR_SECS: i64 = 32 * 86_400;
/// Stands for the moment since which budgets that are not told of are unknown.
const LOST: Id = [0xff; 16];

/// What tells a count from all others, in every run.
pub(super) type Id = [u8; 16];

/// What counts as spent of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) ends: i64,
    pub(super) milli: u64,
}

/// Why budgets cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be {done}", path.display())]
pub struct Error {
    path: PathBuf,
    done: &'static str,
    #[source]
    source: io::Error,
}

impl Error {
    /// Whether it is full, or may not be written to.
    pub fn is_about_the_disk(&self) -> bool {
        crate::session_id::is_about_the_disk(&self.source)
    }
}

#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    /// None after a failure: then everything is written anew.
    file: Option<File>,
    records: usize,
    kept: HashMap<Id, Kept>,
}

impl Journal {
    pub(super) fn open(folder: &Path, now_secs: i64) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let failed = |done| {
            let path = path.clone();
            move |source| Error { path, done, source }
        };
        let found = match File::open(&path) {
            Ok(file) => read(file).map_err(failed("read"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::default(),
            Err(source) => return Err(failed("read")(source)),
        };
        let mut kept = found.kept;
        if found.is_damaged {
            tracing::error!(
                path = %path.display(),
                "the file of budgets is damaged: those that it does not tell of count as spent until their windows end"
            );
            kept.insert(LOST, Kept { ends: now_secs, milli: 0 });
        }
        let mut journal = Self { folder: folder.to_owned(), file: None, records: 0, kept };
        journal.rewrite(now_secs).map_err(failed("written"))?;
        Ok(journal)
    }

    /// What counts as spent of a budget.
    pub(super) fn get(&self, id: &Id) -> Option<Kept> {
        self.kept.get(id).copied()
    }

    /// When it was lost what counts as spent of budgets that are not told of.
    pub(super) fn lost_at(&self) -> Option<i64> {
        self.kept.get(&LOST).map(|lost| lost.ends)
    }

    /// Writes counts down, all for good or none.
    pub(super) fn append(&mut self, counts: &[(Id, Kept)], now_secs: i64) -> io::Result<()> {
        let before: Vec<_> = counts.iter().map(|(id, _)| (*id, self.kept.get(id).copied())).collect();
        self.kept.extend(counts.iter().copied());
        let written = match self.file.take() {
            Some(file) if self.records + counts.len() <= 2 * self.kept.len() + SLACK_RECORDS => {
                self.write(file, counts)
            }
            Some(_) | None => self.rewrite(now_secs),
        };
        if written.is_err() {
            // In their order backwards, for a count may be there twice.
            for (id, kept) in before.into_iter().rev() {
                match kept {
                    Some(kept) => _ = self.kept.insert(id, kept),
                    None => _ = self.kept.remove(&id),
                }
            }
        }
        written
    }

    /// So that the next writing is one of the whole file.
    #[cfg(test)]
    pub(super) fn lose_file(&mut self) {
        self.file = None;
    }

    fn write(&mut self, mut file: File, counts: &[(Id, Kept)]) -> io::Result<()> {
        let bytes: Vec<u8> = counts.iter().flat_map(|(id, kept)| record(id, *kept)).collect();
        file.write_all(&bytes)?;
        file.sync_data()?;
        self.records += counts.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes the file anew, without what is long over.
    fn rewrite(&mut self, now_secs: i64) -> io::Result<()> {
        self.kept.retain(|id, kept| {
            let after = if *id == LOST { LOST_FOR_SECS } else { KEPT_AFTER_SECS };
            now_secs < kept.ends.saturating_add(after)
        });
        let (path, new) = (self.folder.join(FILE), self.folder.join(FILE_NEW));
        let records = self.kept.iter().flat_map(|(id, kept)| record(id, *kept));
        let bytes: Vec<u8> = HEAD.iter().copied().chain(records).collect();
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(&self.folder)?.sync_all()?;
        file.seek(SeekFrom::End(0))?;
        self.records = self.kept.len();
        self.file = Some(file);
        Ok(())
    }
}

#[derive(Default)]
struct Found {
    kept: HashMap<Id, Kept>,
    is_damaged: bool,
}

fn read(file: File) -> io::Result<Found> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let Some(records) = bytes.strip_prefix(HEAD) else {
        // It is renamed to its place only when it is whole.
        return Ok(Found { is_damaged: true, ..Found::default() });
    };
    let mut found = Found { is_damaged: bytes.len() as u64 > FILE_BYTES_MAX, ..Found::default() };
    let mut is_cut_off = false;
    for bytes in records.chunks(RECORD_BYTES) {
        match parse(bytes) {
            // What was cut off is followed by nothing.
            Some((id, kept)) => {
                found.is_damaged |= is_cut_off;
                found.kept.insert(id, kept);
            }
            None => is_cut_off = true,
        }
    }
    Ok(found)
}

fn record(id: &Id, kept: Kept) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..16].copy_from_slice(id);
    record[16..24].copy_from_slice(&kept.ends.to_be_bytes());
    record[24..FACTS_BYTES].copy_from_slice(&kept.milli.to_be_bytes());
    let digest = digest::digest(&digest::SHA256, &record[..FACTS_BYTES]);
    record[FACTS_BYTES..].copy_from_slice(&digest.as_ref()[..RECORD_BYTES - FACTS_BYTES]);
    record
}

fn parse(bytes: &[u8]) -> Option<(Id, Kept)> {
    let (id, rest) = bytes.split_first_chunk::<16>()?;
    let (ends, rest) = rest.split_first_chunk::<8>()?;
    let (milli, _) = rest.split_first_chunk::<8>()?;
    let kept = Kept { ends: i64::from_be_bytes(*ends), milli: u64::from_be_bytes(*milli) };
    (record(id, kept) == bytes).then_some((*id, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn kept(milli: u64) -> Kept {
        Kept { ends: NOW + 1000, milli }
    }

    fn id(n: u8) -> Id {
        [n; 16]
    }

    #[test]
    fn what_was_written_is_there_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), NOW).unwrap();
        journal.append(&[(id(1), kept(1)), (id(2), kept(2))], NOW).unwrap();
        journal.append(&[(id(1), kept(5))], NOW).unwrap();
        // It is not closed.
        let again = Journal::open(folder.path(), NOW).unwrap();
        assert_eq!(
            (again.get(&id(1)), again.get(&id(2)), again.get(&id(3))),
            (Some(kept(5)), Some(kept(2)), None)
        );
        assert_eq!(again.lost_at(), None);
    }

    #[test]
    fn a_record_that_is_cut_off_was_never_answered_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), NOW).unwrap();
        journal.append(&[(id(1), kept(1))], NOW).unwrap();
        journal.append(&[(id(1), kept(9))], NOW).unwrap();
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..RECORD_BYTES {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let again = Journal::open(folder.path(), NOW).unwrap();
            assert_eq!((again.get(&id(1)), again.lost_at()), (Some(kept(1)), None));
        }
    }

    #[test]
    fn after_damage_budgets_that_are_not_told_of_are_unknown_since_then() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), NOW).unwrap();
        journal.append(&[(id(1), kept(1)), (id(2), kept(2))], NOW).unwrap();
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for at in [0, HEAD.len(), HEAD.len() + 20, HEAD.len() + 40] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            for later in [0, 100] {
                let again = Journal::open(folder.path(), NOW + later).unwrap();
                assert_eq!((again.get(&id(1)), again.lost_at()), (None, Some(NOW)), "{at}");
            }
        }
    }

    #[test]
    fn the_file_does_not_grow_with_what_is_over_or_was_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), NOW).unwrap();
        for milli in 0..3 * SLACK_RECORDS as u64 {
            // Without waiting for the disk each time.
            journal.records += 1;
            journal.kept.insert(id(1), kept(milli));
        }
        journal.append(&[(id(1), kept(7))], NOW).unwrap();
        assert_eq!(
            std::fs::metadata(folder.path().join(FILE)).unwrap().len() as usize,
            HEAD.len() + RECORD_BYTES
        );
        let later = kept(0).ends + KEPT_AFTER_SECS;
        assert!(Journal::open(folder.path(), later - 1).unwrap().get(&id(1)).is_some());
        assert!(Journal::open(folder.path(), later).unwrap().get(&id(1)).is_none());
    }

    #[test]
    fn what_could_not_be_written_holds_not_and_the_next_is_written_with_all_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), NOW).unwrap();
        journal.append(&[(id(1), kept(1))], NOW).unwrap();
        let moved = folder.path().with_extension("moved");
        std::fs::rename(folder.path(), &moved).unwrap();
        journal.lose_file();
        journal.append(&[(id(1), kept(2)), (id(1), kept(3)), (id(2), kept(2))], NOW).unwrap_err();
        assert_eq!((journal.get(&id(1)), journal.get(&id(2))), (Some(kept(1)), None));
        std::fs::rename(&moved, folder.path()).unwrap();
        journal.append(&[(id(2), kept(4))], NOW).unwrap();
        let again = Journal::open(folder.path(), NOW).unwrap();
        assert_eq!((again.get(&id(1)), again.get(&id(2))), (Some(kept(1)), Some(kept(4))));
    }
}
