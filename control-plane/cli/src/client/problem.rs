//! What the control plane says when it says no: `application/problem+json`.

use std::fmt;

use hyper::StatusCode;
use serde::Deserialize;

/// How much of an answer that is no problem document is repeated.
const ECHO_CHARS_MAX: usize = 200;

/// What the control plane says when it says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// Stable, for scripts; empty if the answer has none.
    pub(crate) code: String,
    pub(crate) detail: String,
    pub(crate) errors: Vec<Mistake>,
    pub(crate) request_id: Option<String>,
    pub(crate) retry_after: Option<String>,
}

/// A mistake in a document, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Mistake {
    pub(crate) file: Option<String>,
    /// From 1; 0 means the whole file.
    pub(crate) line: u64,
    pub(crate) column: u64,
    pub(crate) field: String,
    pub(crate) message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    title: String,
    code: String,
    detail: String,
    errors: Vec<Mistake>,
}

impl Problem {
    /// Reads an answer; whatever it is, something can be said about it.
    pub(crate) fn read(status: StatusCode, body: &[u8]) -> Self {
        let document: Document = serde_json::from_slice(body).unwrap_or_else(|_| Document {
            detail: String::from_utf8_lossy(body).trim().chars().take(ECHO_CHARS_MAX).collect(),
            ..Document::default()
        });
        let Document { title, code, detail, errors } = document;
        let detail = if detail.is_empty() { title } else { detail };
        Self { status, code, detail, errors, request_id: None, retry_after: None }
    }

    /// What went wrong, in one line.
    pub(crate) fn headline(&self) -> String {
        let status = || self.status.canonical_reason().unwrap_or("no reason given").to_lowercase();
        let detail = if self.detail.is_empty() { status() } else { self.detail.clone() };
        match self.code.is_empty() {
            true => format!("{detail} (HTTP {})", self.status.as_u16()),
            false => format!("{detail} ({})", self.code),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
            if self.line > 0 {
                write!(f, ":{}:{}", self.line, self.column)?;
            }
            f.write_str(": ")?;
        } else if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_problem_document_is_still_told() {
        let check = |status: u16, body: &str, expected: &str| {
            let problem = Problem::read(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(problem.headline(), expected);
        };
        check(502, "<html>upstream</html>\n", "<html>upstream</html> (HTTP 502)");
        check(404, "", "not found (HTTP 404)");
        check(409, r#"{"title":"Conflict","code":"version-conflict"}"#, "Conflict (version-conflict)");
        check(500, &"x".repeat(5000), &format!("{} (HTTP 500)", "x".repeat(200)));
    }
}
