//! Why a request was not answered as it asked, and the one table that says how each reason is told.
//!
//! Two faces: the problem that the caller sees, and the source that only the log sees.

use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::name::NodeId;
use weft_proto::resource;

use crate::ask;
use crate::auth::{self, Denied, Scope};
use crate::{desired, store, tokens};

use super::trust;

/// Most mistakes that one answer tells.
const MISTAKES_SHOWN_MAX: usize = 1000;

macro_rules! codes {
    ($($code:ident = $word:literal, $status:literal, $title:literal;)*) => {
        /// The stable names of reasons. Each has its section in `docs/errors.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($code,)* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$code,)*];

            pub const fn word(self) -> &'static str {
                match self { $(Self::$code => $word,)* }
            }

            pub const fn status(self) -> u16 {
                match self { $(Self::$code => $status,)* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)* }
            }
        }
    };
}

codes! {
    BadBody = "bad-body", 400, "The body cannot be read";
    BadParameter = "bad-parameter", 400, "A parameter is wrong";
    Unauthenticated = "unauthenticated", 401, "No valid key was given";
    Forbidden = "forbidden", 403, "The key does not allow this";
    NotFound = "not-found", 404, "There is no such thing";
    UnknownRevision = "unknown-revision", 404, "There is no such revision";
    UnknownRoute = "unknown-route", 404, "There is nothing at this path";
    MethodNotAllowed = "method-not-allowed", 405, "The path does not take this method";
    BodyTimeout = "body-timeout", 408, "The body took too long to arrive";
    Conflict = "conflict", 409, "The change is based on another version";
    LastAdminKey = "last-admin-key", 409, "The last admin key cannot be revoked";
    Managed = "managed", 409, "The objects are those of a Kubernetes cluster";
    NameTaken = "name-taken", 409, "The name is taken";
    RotationRefused = "rotation-refused", 409, "The rotation cannot take this step";
    Compacted = "compacted", 410, "That part of the history is gone";
    BodyTooLarge = "body-too-large", 413, "The body is too large";
    UnsupportedMediaType = "unsupported-media-type", 415, "The body's type is not taken";
    Invalid = "invalid", 422, "The documents have mistakes";
    LimitExceeded = "limit-exceeded", 422, "The request goes beyond a limit";
    SidecarRefused = "sidecar-refused", 422, "The sidecar will not do this";
    TooManyAttempts = "too-many-attempts", 429, "Too many attempts failed";
    Internal = "internal", 500, "The control plane failed";
    SidecarUnasked = "sidecar-unasked", 501, "The sidecar takes no questions";
    Contended = "contended", 503, "Others kept changing the same things";
    Overloaded = "overloaded", 503, "Too many requests are in flight";
    SidecarAway = "sidecar-away", 503, "The sidecar is not connected";
    StoreUnavailable = "store-unavailable", 503, "The store takes no requests";
    TimedOut = "timed-out", 503, "The answer took too long";
    TooManyQuestions = "too-many-questions", 503, "Too many questions to sidecars are open";
    TooManyWatchers = "too-many-watchers", 503, "Too many watchers are connected";
    SidecarSilent = "sidecar-silent", 504, "The sidecar does not answer";
    StoreFull = "store-full", 507, "The store is full";
}

/// Why a request was not answered as it asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is nothing at this path; the paths are listed in /openapi.json")]
    UnknownRoute,
    #[error("this path does not take this method; the header `allow` says which it takes")]
    MethodNotAllowed,
    #[error("{name}: {problem}")]
    BadParameter { name: &'static str, problem: String },
    #[error("{problem}")]
    BadBody { problem: String, line: u64, column: u64 },
    #[error("the body has more than the {bytes_max} bytes that are taken here")]
    BodyTooLarge { bytes_max: usize },
    #[error("the body's type {found:?} is not one of {expected}")]
    UnsupportedMediaType { found: String, expected: &'static str },
    #[error("the body did not arrive within {} s", .after.as_secs())]
    BodyTimeout { after: Duration },

    #[error("{why}; send `Authorization: Bearer <key>` with a valid key")]
    Unauthenticated { why: Denied },
    #[error("too many attempts from this address failed; come back in {} s", seconds(*.retry_after))]
    TooManyAttempts { retry_after: Duration },
    #[error("this takes the scope {}, but the key has {}", .needed.word(), .held.word())]
    Forbidden { needed: Scope, held: Scope },

    #[error("there is no {what}")]
    NotFound { what: String },
    #[error("there is no {what}")]
    NotInRegistry { what: String },
    #[error("{0}")]
    UnknownRevision(String),
    #[error("history before revision {oldest} has been compacted; start from a fresh list")]
    Compacted { oldest: u64 },

    #[error("{} mistakes; nothing was changed", .0.len())]
    Invalid(Vec<FieldError>),
    #[error("{0}; nothing was changed")]
    Conflict(String),
    #[error("{0}")]
    NameTaken(auth::Error),
    #[error("{0}")]
    LastAdminKey(auth::Error),
    #[error(
        "this mesh takes its objects from its Kubernetes cluster; change them there, with `kubectl apply` or whatever \
         deploys to it; a dry run here still shows what would come of it"
    )]
    Managed,
    #[error("{0}")]
    RotationRefused(String),
    #[error("{0}")]
    LimitExceeded(String),
    #[error("{node}: {source}")]
    Sidecar { node: NodeId, source: ask::Error },

    #[error("{in_flight_max} requests are in flight; try again")]
    Overloaded { in_flight_max: usize },
    #[error("{watchers_max} watchers are connected; try again later or look at another replica")]
    TooManyWatchers { watchers_max: usize },
    #[error("others kept changing the same things; nothing was changed, try again")]
    Contended,
    #[error("the answer took more than {} s; what was asked for may still be done", .after.as_secs())]
    TimedOut { after: Duration },
    #[error("the store has no room left; nothing was changed")]
    StoreFull,
    #[error("the store takes no requests now")]
    StoreUnavailable(#[source] store::Error),
    #[error("something failed that should not; the log of the control plane has it under this request's id")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("a handler panicked; the log of the control plane has it under this request's id")]
    Panicked,
}

/// A mistake in a body, as answers tell it. Lines count from 1; 0 means the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    pub line: u64,
    pub column: u64,
    /// Dotted path within the document; empty for the document itself.
    pub field: String,
    pub message: String,
}

/// What a caller is told (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Where the code is explained.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// The stable name of the reason.
    pub code: String,
    /// What is wrong with this request.
    pub detail: String,
    /// The same again where clients of an MCP registry look for it: of servers and versions that are not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The request's id, as in the header `weft-request-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl Error {
    /// The one place where reasons get their codes.
    pub const fn code(&self) -> Code {
        match self {
            Self::UnknownRoute => Code::UnknownRoute,
            Self::MethodNotAllowed => Code::MethodNotAllowed,
            Self::BadParameter { .. } => Code::BadParameter,
            Self::BadBody { .. } => Code::BadBody,
            Self::BodyTooLarge { .. } => Code::BodyTooLarge,
            Self::UnsupportedMediaType { .. } => Code::UnsupportedMediaType,
            Self::BodyTimeout { .. } => Code::BodyTimeout,
            Self::Unauthenticated { .. } => Code::Unauthenticated,
            Self::TooManyAttempts { .. } => Code::TooManyAttempts,
            Self::Forbidden { .. } => Code::Forbidden,
            Self::NotFound { .. } | Self::NotInRegistry { .. } => Code::NotFound,
            Self::UnknownRevision(_) => Code::UnknownRevision,
            Self::Compacted { .. } => Code::Compacted,
            Self::Invalid(_) => Code::Invalid,
            Self::Conflict(_) => Code::Conflict,
            Self::NameTaken(_) => Code::NameTaken,
            Self::LastAdminKey(_) => Code::LastAdminKey,
            Self::Managed => Code::Managed,
            Self::RotationRefused(_) => Code::RotationRefused,
            Self::LimitExceeded(_) => Code::LimitExceeded,
            Self::Sidecar { source, .. } => match source {
                ask::Error::Away | ask::Error::Left => Code::SidecarAway,
                ask::Error::Unasked => Code::SidecarUnasked,
                ask::Error::Busy => Code::TooManyQuestions,
                ask::Error::Silent => Code::SidecarSilent,
                ask::Error::TooLong | ask::Error::Refused(_) => Code::SidecarRefused,
            },
            Self::Overloaded { .. } => Code::Overloaded,
            Self::TooManyWatchers { .. } => Code::TooManyWatchers,
            Self::Contended => Code::Contended,
            Self::TimedOut { .. } => Code::TimedOut,
            Self::StoreFull => Code::StoreFull,
            Self::StoreUnavailable(_) => Code::StoreUnavailable,
            Self::Internal(_) | Self::Panicked => Code::Internal,
        }
    }

    /// Whether a refusal that was meant to change something belongs in the audit trail. What is refused without looking
    /// at it does not: whoever floods the door must not be able to flood the trail.
    pub(super) const fn is_audited(&self) -> bool {
        !matches!(
            self,
            Self::TooManyAttempts { .. }
                | Self::Overloaded { .. }
                | Self::StoreUnavailable(_)
                | Self::StoreFull
                | Self::TimedOut { .. }
        )
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyAttempts { retry_after } => Some(*retry_after),
            Self::Overloaded { .. } | Self::Contended => Some(Duration::from_secs(1)),
            Self::TooManyWatchers { .. } | Self::StoreUnavailable(_) => Some(Duration::from_secs(5)),
            _ => None,
        }
    }

    /// The problem as the caller sees it.
    pub(super) fn problem(&self, request_id: &str) -> Problem {
        let code = self.code();
        Problem {
            kind: format!("https://weft.dev/errors/{}", code.word()),
            title: code.title().to_owned(),
            status: code.status(),
            code: code.word().to_owned(),
            detail: self.to_string(),
            error: matches!(self, Self::NotInRegistry { .. }).then(|| self.to_string()),
            instance: Some(format!("urn:weft:request:{request_id}")),
            errors: match self {
                Self::Invalid(errors) => errors.iter().take(MISTAKES_SHOWN_MAX).cloned().collect(),
                Self::BadBody { problem, line, column } if *line > 0 => {
                    let (line, column, message) = (*line, *column, problem.clone());
                    vec![FieldError { line, column, message, ..FieldError::default() }]
                }
                _ => Vec::new(),
            },
        }
    }

    pub(super) fn answer(&self, request_id: &str) -> Response {
        let status = StatusCode::from_u16(self.code().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self.problem(request_id))).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, kind);
        if let Some(after) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds(after).into());
        }
        if matches!(self, Self::Unauthenticated { .. }) {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"weft\""));
        }
        response
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        use store::Error as Store;
        match error {
            Store::Conflict { .. } | Store::Moved { .. } => Self::Contended,
            Store::Invalid(violation) => Self::LimitExceeded(violation.to_string()),
            Store::Compacted { oldest } => Self::Compacted { oldest: oldest.0 },
            Store::Future { head } => Self::UnknownRevision(format!("the newest revision is {head}")),
            Store::Full => Self::StoreFull,
            Store::ReadOnly { .. }
            | Store::Closed
            | Store::Follows
            | Store::Leads
            | Store::OutOfOrder { .. } => Self::StoreUnavailable(error),
            Store::NoLease { .. } | Store::Failed(_) => Self::Internal(Box::new(error)),
        }
    }
}

impl From<Denied> for Error {
    fn from(why: Denied) -> Self {
        match why {
            Denied::Missing | Denied::Unknown | Denied::Expired => Self::Unauthenticated { why },
            Denied::Throttled { retry_after } => Self::TooManyAttempts { retry_after },
            Denied::Store(error) => error.into(),
        }
    }
}

impl From<auth::Error> for Error {
    fn from(error: auth::Error) -> Self {
        match error {
            auth::Error::NameTaken { .. } => Self::NameTaken(error),
            auth::Error::LastAdmin => Self::LastAdminKey(error),
            auth::Error::TooMany => Self::LimitExceeded(error.to_string()),
            auth::Error::NoSuchKey { id } => Self::NotFound { what: format!("key {id:?}") },
            auth::Error::Contended => Self::Contended,
            auth::Error::Random => Self::Internal(Box::new(error)),
            auth::Error::Store(error) => error.into(),
        }
    }
}

impl From<tokens::Error> for Error {
    fn from(error: tokens::Error) -> Self {
        use tokens::Error as Token;
        match error {
            Token::OutOfRange { .. } | Token::TooMany => Self::LimitExceeded(error.to_string()),
            Token::NoSuchToken { id } => Self::NotFound { what: format!("token {id:?}") },
            Token::Contended => Self::Contended,
            Token::Unknown | Token::Expired | Token::Used | Token::Revoked | Token::Random => {
                Self::Internal(Box::new(error))
            }
            Token::Store(error) => error.into(),
        }
    }
}

impl From<trust::Error> for Error {
    fn from(error: trust::Error) -> Self {
        match error {
            trust::Error::Refused(why) => Self::RotationRefused(why),
            trust::Error::Failed(source) => Self::Internal(source),
        }
    }
}

impl From<desired::Error> for Error {
    fn from(error: desired::Error) -> Self {
        match error {
            desired::Error::Invalid(mistakes) => {
                let told = mistakes.into_iter().map(|it| field_error(it.place, it.message));
                Self::Invalid(told.collect())
            }
            desired::Error::Stale(stale) => {
                let told: Vec<_> = stale.iter().take(10).map(ToString::to_string).collect();
                Self::Conflict(told.join("; "))
            }
            desired::Error::TooLarge { .. } => Self::LimitExceeded(error.to_string()),
        }
    }
}

impl From<Vec<resource::Error>> for Error {
    fn from(errors: Vec<resource::Error>) -> Self {
        Self::Invalid(errors.into_iter().map(|it| field_error(it.place, it.problem.to_string())).collect())
    }
}

fn field_error(place: resource::Place, message: String) -> FieldError {
    let resource::Place { file, line, column, field } = place;
    FieldError { file: Some(file), line, column, field, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_section_in_the_page_and_the_page_has_no_other() {
        let page = include_str!("../../docs/errors.md");
        let sections: Vec<_> = page.split("\n## ").skip(1).collect();
        let documented: Vec<_> = sections.iter().filter_map(|section| section.lines().next()).collect();
        let expected: Vec<_> = Code::ALL.iter().map(|code| format!("`{}`", code.word())).collect();
        assert_eq!(documented, expected);
        for (code, section) in Code::ALL.iter().zip(sections) {
            let status = format!("**{} {}.**", code.status(), code.title());
            for part in [status.as_str(), "*Why.*", "*What to do.*", "*Example.*"] {
                assert!(section.contains(part), "{}: {part} is missing", code.word());
            }
        }
    }

    #[test]
    fn words_are_distinct_kebab_case() {
        let words: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        assert!(words.iter().all(|word| word.bytes().all(|c| c.is_ascii_lowercase() || c == b'-')));
        assert!(Code::ALL.iter().all(|code| StatusCode::from_u16(code.status()).is_ok()));
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_rounded_up() {
        let error = Error::TooManyAttempts { retry_after: Duration::from_millis(1200) };
        assert_eq!(error.answer("id").headers()[RETRY_AFTER], "2");
    }

    #[test]
    fn sources_are_for_the_log_only() {
        let error = Error::Internal("secret path /var/lib".into());
        assert!(!serde_json::to_string(&error.problem("id")).unwrap().contains("/var/lib"));
    }
}
