//! Files of many documents, in YAML or JSON: those in which nothing changes keep every byte, comments included.
//!
//! A document that changes is written anew, behind the comments that stood before it.

use serde_json::Value;

use super::workload::{Fate, Task, change};

/// Largest input, in bytes.
pub const INPUT_BYTES_MAX: usize = 32 << 20;
/// Documents of one input.
pub const DOCUMENTS_MAX: usize = 10_000;
const DEPTH_MAX: usize = 100;
/// Anchors and aliases, of which each repeats what stands elsewhere.
const ALIASES_MAX: usize = 1000;
const NODES_MAX: usize = 2_000_000;

/// Why nothing was changed at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the input is longer than {INPUT_BYTES_MAX} bytes")]
    TooLong,
    #[error("the input has more than {DOCUMENTS_MAX} documents")]
    TooMany,
    #[error("the document that begins at line {line} cannot be read: {why}")]
    Syntax { line: usize, why: String },
    #[error("the document that begins at line {line} cannot be written: {why}")]
    Written { line: usize, why: String },
}

/// The text after a task, and what became of each object, with the line at which its document begins.
#[derive(Debug)]
pub struct Changed {
    pub text: String,
    pub fates: Vec<(usize, Fate)>,
}

/// Does a task with every document of a text.
pub fn run(text: &str, task: Task<'_>) -> Result<Changed, Error> {
    if text.len() > INPUT_BYTES_MAX {
        return Err(Error::TooLong);
    }
    let (mut changed, mut fates) = (String::with_capacity(text.len()), Vec::new());
    for Document { text, line } in split(text)? {
        let mut object = read(text, line)?;
        let found = match object {
            Value::Null => Vec::new(),
            _ => change(&mut object, task),
        };
        match found.iter().any(|fate| fate.outcome.is_changed()) {
            true => written(text, &object, &mut changed).map_err(|why| Error::Written { line, why })?,
            false => changed.push_str(text),
        }
        fates.extend(found.into_iter().map(|fate| (line, fate)));
    }
    Ok(Changed { text: changed, fates })
}

/// A document with the marker before it, and the number of its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Document<'a> {
    text: &'a str,
    line: usize,
}

/// Whether a line begins a document. At the beginning of a line, three dashes can be nothing else.
fn begins(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn ends(line: &str) -> bool {
    line.strip_prefix("...").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Cuts a text into documents; put together they are the text. Directives stand before the marker of theirs.
fn split(text: &str) -> Result<Vec<Document<'_>>, Error> {
    let (mut documents, mut from, mut first, mut at) = (Vec::new(), 0, 1, 0);
    // Whether the marker of the document has been, or any of its content.
    let mut is_open = false;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let cut = is_open && (begins(line) || text[from..at].lines().next_back().is_some_and(ends));
        if cut {
            documents.push(Document { text: &text[from..at], line: first });
            (from, first, is_open) = (at, number, false);
        }
        let is_blank = line.trim().is_empty() || line.starts_with(['#', '%']);
        is_open |= begins(line) || !is_blank;
        at += line.len();
        if documents.len() >= DOCUMENTS_MAX {
            return Err(Error::TooMany);
        }
    }
    if from < text.len() {
        documents.push(Document { text: &text[from..], line: first });
    }
    Ok(documents)
}

fn read(text: &str, line: usize) -> Result<Value, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if is_json(text)
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        let why = error.to_string().lines().next().unwrap_or_default().to_owned();
        Error::Syntax { line, why }
    })
}

fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// As `kubectl` reads: `0644` is octal, `yes` is true.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_documents: 1,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_nodes: NODES_MAX,
        },
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// Writes a changed document in the form that it had.
fn written(was: &str, object: &Value, out: &mut String) -> Result<(), String> {
    if is_json(was.strip_prefix('\u{feff}').unwrap_or(was)) {
        out.push_str(&format!("{object:#}\n"));
        return Ok(());
    }
    let (mut before, mut at) = (0, 0);
    for line in was.split_inclusive('\n') {
        let plain = line.trim_start_matches('\u{feff}');
        let is_marker =
            begins(plain) && matches!(plain[3..].trim_start().as_bytes().first(), None | Some(b'#'));
        if !(is_marker || plain.trim().is_empty() || plain.starts_with(['#', '%'])) {
            break;
        }
        at += line.len();
        before = at;
    }
    out.push_str(&was[..before]);
    // Content may follow on the marker's own line.
    if was[before..].lines().next().is_some_and(begins) {
        out.push_str("---\n");
    }
    out.push_str(&yaml(object)?);
    let end = was.split_inclusive('\n').next_back().filter(|line| ends(line));
    out.push_str(end.unwrap_or_default());
    Ok(())
}

/// An object as YAML which is read back as the same. What the writer of YAML does not get right is JSON, which is YAML.
fn yaml(object: &Value) -> Result<String, String> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(object, options).map_err(|error| error.to_string())?;
    let text = if text.ends_with('\n') { text } else { text + "\n" };
    match read(&text, 0) {
        Ok(again) if again == *object => Ok(text),
        _ => Ok(format!("{object:#}\n")),
    }
}
