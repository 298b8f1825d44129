//! Arguments held against the schema that a tool advertises for them.
//!
//! Schemas are those of JSON Schema 2020-12, or of an older draft from 6 on where they say so. Nothing is ever fetched,
//! patterns are matched in linear time (those that need more are refused), and `format` is a remark, not a rule. A
//! schema that would be too much work is not used: see `work`.
//!
//! Where a schema compares numbers, whole numbers beyond ±2^53 are refused: readers that keep numbers as floating point
//! see others than those that do not, and what is judged here must be what the server sees.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::Value;
use weft_proto::policy::tools::Redaction;

use super::pattern::{AUTOMATON_BYTES_MAX, CACHE_BYTES_MAX};
use super::work::{self, Work};

/// Bytes of arguments of which more than one problem is told.
const SEVERAL_BYTES_MAX: usize = 4 << 10;
/// Problems that are told of one call.
const PROBLEMS_MAX: usize = 5;
/// Characters of one text out of a schema or a call.
const TEXT_CHARS_MAX: usize = 120;
/// Bytes of arguments times looks at each value.
const BYTE_LOOKS_MAX: u64 = 1 << 28;
/// Values in arguments times looks at each.
const VALUE_LOOKS_MAX: u64 = 1 << 24;
/// Up to here every whole number is one of floating point's.
const EXACT_MAX: u64 = 1 << 53;

/// What bounds schemas. Clones share the memory for all of them together.
#[derive(Clone, Debug)]
pub struct Limits {
    schema_bytes_max: usize,
    held_bytes_max: usize,
    held: Arc<AtomicUsize>,
}

impl Limits {
    pub fn new(schema_bytes_max: usize, held_bytes_max: usize) -> Self {
        Self { schema_bytes_max, held_bytes_max, held: Arc::default() }
    }

    pub fn of(limits: &crate::limits::Limits) -> Self {
        Self::new(limits.schema_bytes_max, limits.schemas_bytes_max)
    }

    /// Takes so much of the memory for compiled schemas.
    fn hold(&self, bytes: usize) -> Result<Held, Unusable> {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { of: Arc::clone(&self.held), bytes };
        // Refused, it is given back as `held` is dropped.
        if before + bytes > self.held_bytes_max { Err(Unusable::NoRoom) } else { Ok(held) }
    }
}

/// Memory that a schema takes, until it is dropped.
#[derive(Debug)]
struct Held {
    of: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Why nobody can be judged by a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("the tool has no input schema")]
    Missing,
    #[error("the tool is advertised twice")]
    AdvertisedTwice,
    #[error("its input schema is larger than {max} bytes")]
    TooLarge { max: usize },
    #[error("its input schema is of a draft that is not known: {0}")]
    Draft(String),
    #[error("its input schema leads elsewhere: {0}")]
    Elsewhere(String),
    #[error("its input schema refers to itself without end")]
    Circular,
    #[error("its input schema is too much work")]
    TooComplex,
    #[error("the schemas of the server's tools take too much memory together")]
    NoRoom,
    #[error("its input schema is none: {0}")]
    Invalid(String),
}

/// What is wrong with arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// As `a.b[0]`; empty for the arguments as a whole.
    pub place: String,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.is_empty() {
            true => f.write_str(&self.what),
            false => write!(f, "{}: {}", self.place, self.what),
        }
    }
}

/// A schema that arguments are held against.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    work: Work,
    #[expect(dead_code, reason = "held until dropped")]
    held: Held,
}

impl Schema {
    pub fn compile(text: &str, limits: &Limits) -> Result<Self, Unusable> {
        if text.len() > limits.schema_bytes_max {
            return Err(Unusable::TooLarge { max: limits.schema_bytes_max });
        }
        let invalid = |error: &dyn fmt::Display| Unusable::Invalid(clip(&error.to_string()));
        let mut schema: Value = serde_json::from_str(text).map_err(|error| invalid(&error))?;
        let draft = draft_of(&schema)?;
        if let Value::Object(members) = &mut schema {
            // References are within the schema; what it calls itself must not make them lead anywhere else.
            members.remove("$id");
            members.remove("$schema");
        }
        let work = work::measure(&schema)?;
        let held = limits.hold(work.bytes)?;
        let patterns =
            PatternOptions::regex().size_limit(AUTOMATON_BYTES_MAX).dfa_size_limit(CACHE_BYTES_MAX);
        let validator = jsonschema::options()
            .with_draft(draft)
            .with_pattern_options(patterns)
            .should_validate_formats(false)
            .without_content_media_type_support("application/json")
            .without_content_encoding_support("base64")
            .offline()
            .build(&schema)
            .map_err(|error| invalid(&error))?;
        Ok(Self { validator, work, held })
    }

    /// Holds arguments, as JSON text, against the schema. Of what is redacted nothing is told but that it is wrong.
    pub fn check(&self, arguments: &str, redaction: &Redaction) -> Result<(), Vec<Problem>> {
        let whole = |what: &str| vec![Problem { place: String::new(), what: what.to_owned() }];
        if is_too_much(arguments, self.work.looks) {
            return Err(whole("they are too large to be held against this schema"));
        }
        if self.work.compares_numbers && has_inexact_number(arguments) {
            return Err(whole("a whole number is beyond ±2^53, where not every reader sees the same"));
        }
        let value: Value = serde_json::from_str(arguments).map_err(|_| whole("a number is out of range"))?;
        let Err(first) = self.validator.validate(&value) else { return Ok(()) };
        // All of the problems are found before the first of them is given, and a caller makes as many as it likes.
        if arguments.len() > SEVERAL_BYTES_MAX {
            return Err(vec![told(&first, redaction)]);
        }
        let all = self.validator.iter_errors(&value);
        let mut problems: Vec<_> = all.take(PROBLEMS_MAX).map(|error| told(&error, redaction)).collect();
        problems.dedup();
        Err(problems)
    }
}

fn is_too_much(arguments: &str, looks: u64) -> bool {
    let byte_looks = looks.saturating_mul(arguments.len() as u64);
    // Each value is at least a byte: of most arguments, none has to be counted.
    byte_looks > BYTE_LOOKS_MAX
        || byte_looks > VALUE_LOOKS_MAX && looks.saturating_mul(values(arguments)) > VALUE_LOOKS_MAX
}

/// How many values there are, keys among them.
fn values(json: &str) -> u64 {
    let bytes = json.as_bytes();
    let (mut at, mut values) = (0, 1);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = past_string(bytes, at),
            b',' | b':' | b'[' | b'{' => (at, values) = (at + 1, values + 1),
            _ => at += 1,
        }
    }
    values
}

fn draft_of(schema: &Value) -> Result<Draft, Unusable> {
    let Some(named) = schema.get("$schema") else { return Ok(Draft::Draft202012) };
    let named = named.as_str().unwrap_or_default();
    let bare = named.trim_end_matches('#').trim_end_matches('/');
    let bare = bare.strip_prefix("https://").or_else(|| bare.strip_prefix("http://")).unwrap_or(bare);
    match bare {
        "json-schema.org/draft/2020-12/schema" => Ok(Draft::Draft202012),
        "json-schema.org/draft/2019-09/schema" => Ok(Draft::Draft201909),
        "json-schema.org/draft-07/schema" => Ok(Draft::Draft7),
        "json-schema.org/draft-06/schema" => Ok(Draft::Draft6),
        _ => Err(Unusable::Draft(clip(named))),
    }
}

/// Whether a whole number is written that floating point may not hold. Larger ones with a fraction or an exponent are
/// floating point for everyone.
fn has_inexact_number(json: &str) -> bool {
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = past_string(bytes, at),
            b'0'..=b'9' => {
                let rest = &bytes[at..];
                let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                let length = rest.iter().take_while(|byte| part(byte)).count();
                let digits = &json[at..at + length];
                let is_whole = digits.bytes().all(|byte| byte.is_ascii_digit());
                if is_whole && length >= 16 && digits.parse::<u64>().map_or(true, |it| it > EXACT_MAX) {
                    return true;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    false
}

/// Behind the string that begins here.
fn past_string(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(length) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        match bytes[at + length] {
            b'"' => return at + length + 1,
            _ => at += length + 2,
        }
    }
    bytes.len()
}

fn told(error: &ValidationError<'_>, redaction: &Redaction) -> Problem {
    let steps: Vec<String> = error.instance_path().as_str().split('/').skip(1).map(unescaped).collect();
    let is_index = |step: &str| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
    let keys = || steps.iter().map(String::as_str).filter(|step| !is_index(step));
    if let Some(shown) = redaction.hides(keys()) {
        let place = keys().take(shown).collect::<Vec<_>>().join(".");
        return Problem { place: clip(&place), what: "is not as the schema wants".to_owned() };
    }
    let mut place = String::new();
    for step in &steps {
        match is_index(step) {
            true => place.extend(["[", step, "]"]),
            false if place.is_empty() => place.push_str(step),
            false => place.extend([".", step]),
        }
    }
    let unexpected = |found: &[String]| {
        let mut shown = Vec::new();
        for key in found {
            let inner: Vec<&str> =
                steps.iter().chain([key]).map(String::as_str).filter(|step| !is_index(step)).collect();
            if shown.len() < PROBLEMS_MAX && redaction.hides(inner.iter().copied()).is_none() {
                shown.push(format!("{key:?}"));
            }
        }
        format!("has keys that are not known: {}", clip(&shown.join(", ")))
    };
    let what = match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected: found }
        | ValidationErrorKind::UnevaluatedProperties { unexpected: found } => unexpected(found),
        kind => expected(kind),
    };
    Problem { place: clip(&place), what }
}

/// What the schema wants, in words of the schema's; never anything of the arguments.
fn expected(kind: &ValidationErrorKind) -> String {
    match kind {
        ValidationErrorKind::Type { kind: TypeKind::Single(one) } => format!("is not of the type {one}"),
        ValidationErrorKind::Type { kind: TypeKind::Multiple(many) } => {
            let many: Vec<_> = many.iter().map(|it| it.to_string()).collect();
            format!("is of none of the types {}", many.join(", "))
        }
        ValidationErrorKind::Required { property } => format!("lacks {}", clip(&property.to_string())),
        ValidationErrorKind::Enum { options } => format!("is none of {}", clip_json(options)),
        ValidationErrorKind::Constant { expected_value } => {
            format!("is not {}", clip_json(expected_value))
        }
        ValidationErrorKind::Minimum { limit } => format!("is less than {}", clip(&limit.to_string())),
        ValidationErrorKind::Maximum { limit } => format!("is more than {}", clip(&limit.to_string())),
        ValidationErrorKind::ExclusiveMinimum { limit } => {
            format!("is not more than {}", clip(&limit.to_string()))
        }
        ValidationErrorKind::ExclusiveMaximum { limit } => {
            format!("is not less than {}", clip(&limit.to_string()))
        }
        ValidationErrorKind::MinLength { limit } => format!("is shorter than {limit} characters"),
        ValidationErrorKind::MaxLength { limit } => format!("is longer than {limit} characters"),
        ValidationErrorKind::MinItems { limit } => format!("has fewer than {limit} items"),
        ValidationErrorKind::MaxItems { limit } => format!("has more than {limit} items"),
        ValidationErrorKind::MinProperties { limit } => format!("has fewer than {limit} keys"),
        ValidationErrorKind::MaxProperties { limit } => format!("has more than {limit} keys"),
        ValidationErrorKind::MultipleOf { multiple_of } => format!("is no multiple of {multiple_of}"),
        ValidationErrorKind::Pattern { pattern } => format!("does not match the pattern {}", clip(pattern)),
        ValidationErrorKind::FalseSchema => "is not allowed".to_owned(),
        ValidationErrorKind::UniqueItems => "has an item twice".to_owned(),
        other => format!("is not as `{}` wants", other.keyword()),
    }
}

fn unescaped(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

/// The beginning of a value's text; the rest of it is not written.
fn clip_json(value: &Value) -> String {
    /// Bytes of as many characters and one more.
    const BYTES_MAX: usize = (TEXT_CHARS_MAX + 1) * 4;
    struct Beginning(Vec<u8>);
    impl io::Write for Beginning {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            if self.0.len() >= BYTES_MAX {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = text.len().min(BYTES_MAX - self.0.len());
            self.0.extend_from_slice(&text[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut beginning = Beginning(Vec::new());
    // It fails where there is more than is shown.
    let _ = serde_json::to_writer(&mut beginning, value);
    clip(&String::from_utf8_lossy(&beginning.0))
}

pub(super) fn clip(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests;
