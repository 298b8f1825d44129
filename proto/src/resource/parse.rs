//! Reading documents: YAML or JSON in, objects or precise errors out. Every document of an input is read, so that one
//! answer names every mistake.

use std::fmt;

use serde::Deserialize;

use super::{API_VERSION, Kind, Resource, check_scope};

/// Largest input, in bytes, over all its documents.
pub const INPUT_BYTES_MAX: usize = 16 << 20;
/// Most documents in one input.
pub const DOCUMENTS_MAX: usize = 10_000;
/// Deepest nesting of a document.
const DEPTH_MAX: usize = 32;
/// Longest part of a wrong value that a message repeats.
const ECHO_CHARS_MAX: usize = 80;

/// A mistake in a document: where it is, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Error {
    pub place: Place,
    pub problem: Problem,
}

/// Where a mistake is. Lines and columns count from 1; a line of 0 means the whole input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    pub line: u64,
    pub column: u64,
    /// Dotted path within the document; empty for the document itself.
    pub field: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        Ok(())
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Not YAML, or beyond a limit of the reader.
    Syntax(String),
    UnknownField {
        found: String,
        nearest: Option<&'static str>,
        expected: Vec<&'static str>,
    },
    UnknownValue {
        found: String,
        nearest: Option<&'static str>,
        expected: Vec<&'static str>,
    },
    MissingField(String),
    Invalid(String),
    /// The input as a whole is over a limit.
    TooLarge(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let choices = |f: &mut fmt::Formatter<'_>, nearest: &Option<&str>, expected: &[&str]| {
            if let Some(nearest) = nearest {
                write!(f, "; did you mean {nearest:?}?")?;
            }
            match expected {
                [only] => write!(f, " (expected {only})"),
                _ => write!(f, " (expected one of: {})", expected.join(", ")),
            }
        };
        match self {
            Self::Syntax(message) | Self::Invalid(message) | Self::TooLarge(message) => f.write_str(message),
            Self::UnknownField { found, expected, .. } if expected.is_empty() => {
                write!(f, "unknown field {found:?}: no field is expected here")
            }
            Self::UnknownField { found, nearest, expected } => {
                write!(f, "unknown field {found:?}")?;
                choices(f, nearest, expected)
            }
            Self::UnknownValue { found, nearest, expected } => {
                write!(f, "unknown value {found:?}")?;
                choices(f, nearest, expected)
            }
            Self::MissingField(field) => write!(f, "the field {field:?} is missing"),
        }
    }
}

/// An object and the line on which its document begins.
pub type Parsed = (Resource, u64);

/// Reads every document of `text`; `file` is what messages call it. Either all documents are good, or every mistake is
/// told.
pub fn parse(file: &str, text: &str) -> Result<Vec<Parsed>, Vec<Error>> {
    let whole = |problem| {
        let place = Place { file: file.to_owned(), line: 0, column: 0, field: String::new() };
        vec![Error { place, problem }]
    };
    if text.len() > INPUT_BYTES_MAX {
        let message =
            format!("the input is {} bytes long; at most {INPUT_BYTES_MAX} are allowed", text.len());
        return Err(whole(Problem::TooLarge(message)));
    }
    let documents = split(text);
    if documents.len() > DOCUMENTS_MAX {
        let message =
            format!("the input has {} documents; at most {DOCUMENTS_MAX} are allowed", documents.len());
        return Err(whole(Problem::TooLarge(message)));
    }
    let (mut parsed, mut errors) = (Vec::new(), Vec::new());
    for (line, document) in documents {
        match read(file, line, document) {
            Ok(resource) => parsed.push((resource, line)),
            Err(error) => errors.push(*error),
        }
    }
    match errors.is_empty() {
        true => Ok(parsed),
        false => Err(errors),
    }
}

/// Reads a text that must hold exactly one document.
pub fn parse_one(file: &str, text: &str) -> Result<Resource, Vec<Error>> {
    let mut parsed = parse(file, text)?;
    match (parsed.pop(), parsed.is_empty()) {
        (Some((resource, _)), true) => Ok(resource),
        _ => {
            let place = Place { file: file.to_owned(), line: 0, column: 0, field: String::new() };
            let problem = Problem::Invalid("expected exactly one document".to_owned());
            Err(vec![Error { place, problem }])
        }
    }
}

/// The documents of a stream, each with the line on which it begins, less those without content. In YAML a line that
/// begins with `---` or `...` is a marker wherever it stands, even within a block of text.
fn split(text: &str) -> Vec<(u64, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    let marker = |line: &str, mark: &str| {
        line.strip_prefix(mark)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    for (number, line) in (1u64..).zip(text.split_inclusive('\n')) {
        let (begins, ends) = (marker(line, "---"), marker(line, "..."));
        if begins || ends {
            documents.push((start_line, &text[start..at]));
            // What follows `---` on its line belongs to the new document; nothing may follow `...`.
            start = if begins { at } else { at + line.len() };
            start_line = if begins { number } else { number + 1 };
        }
        at += line.len();
    }
    documents.push((start_line, &text[start..]));
    documents.retain(|(_, document)| has_content(document));
    documents
}

fn has_content(document: &str) -> bool {
    let bare = document.strip_prefix("---").unwrap_or(document);
    bare.lines().any(|line| {
        let line = line.trim_matches(['\u{feff}', ' ', '\t', '\r']);
        !line.is_empty() && !line.starts_with('#')
    })
}

/// The part of a document that says how to read the rest.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "apiVersion")]
    api_version: Option<serde_saphyr::Spanned<String>>,
    kind: Option<serde_saphyr::Spanned<String>>,
}

fn read(file: &str, first_line: u64, document: &str) -> Result<Resource, Box<Error>> {
    let place =
        |field: &str| Place { file: file.to_owned(), line: first_line, column: 1, field: field.to_owned() };
    let header: Header =
        deserialize(document, |de| Header::deserialize(de)).map_err(|raw| raw.locate(file, first_line))?;
    let missing = |field: &str| {
        Box::new(Error { place: place(field), problem: Problem::MissingField(field.to_owned()) })
    };
    let unknown = |field: &str, found: &serde_saphyr::Spanned<String>, expected: Vec<&'static str>| {
        let (line, column) =
            (first_line + found.referenced.line().max(1) - 1, found.referenced.column().max(1));
        let place = Place { line, column, ..place(field) };
        let nearest = nearest(&found.value, &expected);
        let problem = Problem::UnknownValue { found: clip(&found.value), nearest, expected };
        Box::new(Error { place, problem })
    };
    let version = header.api_version.ok_or_else(|| missing("apiVersion"))?;
    if version.value != API_VERSION {
        return Err(unknown("apiVersion", &version, vec![API_VERSION]));
    }
    let name = header.kind.ok_or_else(|| missing("kind"))?;
    let kind = Kind::ALL.iter().copied().find(|kind| kind.name() == name.value);
    let kind =
        kind.ok_or_else(|| unknown("kind", &name, Kind::ALL.iter().map(|kind| kind.name()).collect()))?;
    let resource = deserialize(document, |de| kind.read(de)).map_err(|raw| raw.locate(file, first_line))?;
    check_scope(&resource)
        .map_err(|(field, message)| Error { place: place(field), problem: Problem::Invalid(message) })?;
    Ok(resource)
}

/// A mistake as the reader reports it, relative to its document.
struct RawError {
    error: serde_saphyr::Error,
    path: String,
}

impl RawError {
    fn locate(self, file: &str, first_line: u64) -> Box<Error> {
        let error = self.error.without_snippet();
        let (line, column) = match error.location() {
            Some(at) if at.line() > 0 => (first_line + at.line() - 1, at.column()),
            _ => (first_line, 1),
        };
        let field = if self.path == "." { String::new() } else { self.path };
        let place = Place { file: file.to_owned(), line, column, field };
        Box::new(Error { place, problem: problem(error) })
    }
}

fn deserialize<T>(
    document: &str,
    read: impl for<'a, 'b, 'de, 'e> Fn(
        serde_path_to_error::Deserializer<'a, 'b, serde_saphyr::Deserializer<'de, 'e>>,
    ) -> Result<T, serde_saphyr::Error>,
) -> Result<T, Box<RawError>> {
    let mut path = String::new();
    let result = serde_saphyr::with_deserializer_from_str_with_options(document, options(), |de| {
        let mut track = serde_path_to_error::Track::new();
        let result = read(serde_path_to_error::Deserializer::new(de, &mut track));
        if result.is_err() {
            path = track.path().to_string();
        }
        result
    });
    result.map_err(|error| Box::new(RawError { error, path }))
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_documents: 1,
            max_aliases: 0,
            max_anchors: 0,
            max_nodes: 100_000,
        },
        strict_booleans: true,
        with_snippet: false,
    }
}

fn problem(error: &serde_saphyr::Error) -> Problem {
    use serde_saphyr::Error as Yaml;
    match error {
        Yaml::SerdeUnknownField { field, expected, .. } => Problem::UnknownField {
            found: clip(field),
            nearest: nearest(field, expected),
            expected: expected.clone(),
        },
        Yaml::SerdeUnknownVariant { variant, expected, .. } => Problem::UnknownValue {
            found: clip(variant),
            nearest: nearest(variant, expected),
            expected: expected.clone(),
        },
        Yaml::SerdeMissingField { field, .. } => Problem::MissingField((*field).to_owned()),
        Yaml::SerdeInvalidType { unexpected, expected, .. }
        | Yaml::SerdeInvalidValue { unexpected, expected, .. } => {
            Problem::Invalid(format!("found {}, expected {expected}", clip(unexpected)))
        }
        Yaml::Message { msg, .. } => Problem::Invalid(msg.clone()),
        Yaml::DuplicateMappingKey { key, .. } => {
            let key =
                key.as_deref().map_or_else(|| "a key".to_owned(), |key| format!("the field {:?}", clip(key)));
            Problem::Invalid(format!("{key} is given twice"))
        }
        other => Problem::Syntax(one_line(&other.to_string())),
    }
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(ECHO_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The likeliest intended name, if one is near enough to be worth suggesting.
pub(crate) fn nearest(found: &str, expected: &[&'static str]) -> Option<&'static str> {
    let found = clip(found).to_lowercase();
    let distance = |name: &&str| strsim::damerau_levenshtein(&found, &name.to_lowercase());
    let best = expected.iter().min_by_key(|name| distance(name))?;
    // Two slips, or a third of the word.
    (distance(best) <= 2.max(best.len() / 3)).then_some(*best)
}

#[cfg(test)]
mod tests;
