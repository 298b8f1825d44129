//! Documents from files, folders and stdin: gathering them, reading them as the control plane would, and sending many
//! files as one input without losing where each line came from.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use weft_proto::resource::{self, INPUT_BYTES_MAX, Key};

use crate::client::Mistake;
use crate::columns::clip;
use crate::failure::Failure;
use crate::names::display_key;
use crate::terminal::Terminal;

/// What stdin is called.
const STDIN: &str = "-";
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
const FILES_MAX: usize = 10_000;
const FOLDER_DEPTH_MAX: usize = 32;
const LABEL_CHARS_MAX: usize = 200;

/// A file, and what messages call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Reads what `-f` names: files, folders with everything below them in order, and `-` for stdin.
pub(crate) fn gather(paths: &[PathBuf], terminal: &Terminal) -> Result<Vec<File>, Failure> {
    let (mut files, mut bytes_left, mut stdin_read) = (Vec::new(), INPUT_BYTES_MAX, false);
    for path in paths {
        if path.as_os_str() == STDIN {
            if std::mem::replace(&mut stdin_read, true) {
                return Err(Failure::usage("`-f -` is given twice, but there is only one stdin"));
            }
            let bytes = terminal.read_input(bytes_left).map_err(|error| unreadable("stdin", &error))?;
            files.push(file("stdin".to_owned(), bytes, &mut bytes_left)?);
            continue;
        }
        let mut found = Vec::new();
        list(path, 0, &mut found)?;
        if found.is_empty() {
            let what = format!("there are no resources in the folder {}", path.display());
            return Err(Failure::usage(what).because("only files named *.yaml, *.yml and *.json are read"));
        }
        for path in found {
            let bytes =
                read(&path, bytes_left).map_err(|error| unreadable(&path.display().to_string(), &error))?;
            files.push(file(path.display().to_string(), bytes, &mut bytes_left)?);
        }
    }
    Ok(files)
}

/// A path itself if it is a file, else the resource files below it. Hidden ones are left out: Kubernetes keeps older
/// copies of mounted files in them.
fn list(path: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let name = path.display();
    let failure = |error: &io::Error| unreadable(&name.to_string(), error);
    if !fs::metadata(path).map_err(|error| failure(&error))?.is_dir() {
        found.push(path.to_owned());
        return match found.len() > FILES_MAX {
            true => {
                Err(Failure::failed(format!("more than {FILES_MAX} files are more than one command takes")))
            }
            false => Ok(()),
        };
    }
    if depth == FOLDER_DEPTH_MAX {
        let what = format!("{name} is more than {FOLDER_DEPTH_MAX} folders deep");
        return Err(Failure::failed(what).then("is there a link to a folder above?"));
    }
    let entries = fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut paths: Vec<_> =
        entries.map_err(|error| failure(&error))?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let known = || {
            let extension = path.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
        };
        if !hidden && (path.is_dir() || known()) {
            list(&path, depth + 1, found)?;
        }
    }
    Ok(())
}

fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn file(name: String, bytes: Vec<u8>, bytes_left: &mut usize) -> Result<File, Failure> {
    *bytes_left = bytes_left.checked_sub(bytes.len()).ok_or_else(|| {
        Failure::failed(format!("the input is longer than {INPUT_BYTES_MAX} bytes, counted up to {name}"))
            .then("apply it in several parts")
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        Failure::failed(format!("{name} is not text in UTF-8")).because(error.utf8_error())
    })?;
    Ok(File { name, text })
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::usage(format!("there is no file or folder {name}")),
        _ => Failure::failed(format!("{name} cannot be read")).because(error),
    }
}

/// Reads every document as the control plane would, so that mistakes are told before anything is sent. Answers the
/// objects in order.
pub(crate) fn check(files: &[File]) -> Result<Vec<Key>, Failure> {
    let (mut mistakes, mut places, mut keys) = (Vec::new(), BTreeMap::new(), Vec::new());
    for file in files {
        match resource::parse(&file.name, &file.text) {
            Ok(parsed) => {
                for (object, line) in parsed {
                    let (key, place) = (object.key(), format!("{}:{line}", file.name));
                    if let Some(first) = places.insert(key.clone(), place.clone()) {
                        let key = display_key(&key);
                        mistakes.push(format!("{place}:1: metadata.name: {key} is given already at {first}"));
                    }
                    keys.push(key);
                }
            }
            Err(errors) => mistakes.extend(errors.iter().map(ToString::to_string)),
        }
    }
    if !mistakes.is_empty() {
        let what = match mistakes.len() {
            1 => "there is a mistake in the resources".to_owned(),
            count => format!("there are {count} mistakes in the resources"),
        };
        return Err(Failure::failed(what)
            .at(mistakes)
            .then("mend the places named above, and repeat; nothing was sent"));
    }
    match keys.is_empty() {
        true => {
            Err(Failure::usage("there is no resource in the input")
                .because("it holds only comments and blanks"))
        }
        false => Ok(keys),
    }
}

/// Many files as one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The file's name, or how many files there are.
    name: String,
    pub(crate) text: String,
    /// Each file with the line of the input before its first: the one that joins it to the file before.
    starts: Vec<(u64, String)>,
}

impl Joined {
    pub(crate) fn new(files: Vec<File>) -> Self {
        let name = match &*files {
            [only] => only.name.clone(),
            _ => format!("{} files", files.len()),
        };
        let (mut text, mut lines, mut starts) = (String::new(), 0, Vec::new());
        let several = files.len() > 1;
        for file in files {
            if several {
                text.push_str("---\n");
                lines += 1;
            }
            starts.push((lines, file.name));
            // A mark at the start of a file would be a stray character within the input.
            let content = file.text.strip_prefix('\u{feff}').unwrap_or(&file.text);
            text.push_str(content);
            lines += content.matches('\n').count() as u64;
            if !content.ends_with('\n') {
                text.push('\n');
                lines += 1;
            }
        }
        Self { name, text, starts }
    }

    /// The file that a line of the input is in, and its number there. A line that joins belongs to the file below it:
    /// that is where a document begins.
    fn locate(&self, line: u64) -> Option<(&str, u64)> {
        let index = self.starts.partition_point(|(before, _)| *before <= line).checked_sub(1)?;
        let (before, name) = &self.starts[index];
        Some((name, (line - before).max(1)))
    }

    /// Turns a place in the input, whatever the control plane called it, into one in a file.
    pub(crate) fn translate(&self, mistake: &mut Mistake) {
        if let Some((file, line)) = self.locate(mistake.line).filter(|_| mistake.line > 0) {
            (mistake.file, mistake.line) = (Some(file.to_owned()), line);
        }
    }

    /// What the input is called when it is sent.
    pub(crate) fn label(&self) -> String {
        clip(&self.name, LABEL_CHARS_MAX)
    }
}

#[cfg(test)]
#[path = "tests/files.rs"]
mod tests;
