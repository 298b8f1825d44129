//! A request that was let in, taken apart; and answers put together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;
use crate::auth::{Actor, Principal};

/// What a document may be sent as.
const DOCUMENT_TYPES: &[&str] =
    &["application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "application/json"];
const JSON_TYPES: &[&str] = &["application/json"];

/// A request that was let in.
#[derive(Debug)]
pub(super) struct Call {
    /// None where no key is needed.
    pub(super) principal: Option<Principal>,
    pub(super) from: Option<SocketAddr>,
    pub(super) uri: Uri,
    pub(super) path: BTreeMap<String, String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn actor(&self) -> Actor {
        let name = self.principal.as_ref().map_or_else(|| ANONYMOUS.to_owned(), |it| it.name.clone());
        Actor { name, from: self.from }
    }

    /// A part of the path, read as what it is.
    pub(super) fn part<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &'static str,
    ) -> Result<T, Error> {
        let text = self.path.get(name).map_or("", String::as_str);
        text.parse().map_err(|error: T::Err| Error::BadParameter { name, problem: error.to_string() })
    }

    /// The query; parameters that it does not name are refused.
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let read = Query::<T>::try_from_uri(&self.uri);
        read.map(|Query(query)| query).map_err(|rejection| {
            let text = rejection.body_text();
            let problem =
                text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text).to_owned();
            Error::BadParameter { name: "query", problem }
        })
    }

    /// Refuses every parameter.
    pub(super) fn no_query(&self) -> Result<(), Error> {
        self.query::<NoQuery>().map(|_| ())
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| Error::BadBody {
            problem: error.to_string(),
            line: error.line() as u64,
            column: error.column() as u64,
        })
    }
}

/// How the audit trail calls whoever showed no key.
pub(super) const ANONYMOUS: &str = "anonymous";

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NoQuery {}

/// What a request may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Nothing,
    Json,
    Documents,
}

/// Reads a body, refusing what is too large before and while it arrives.
pub(super) async fn receive(
    content: Content,
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    timeout: Duration,
) -> Result<Bytes, Error> {
    let types = match content {
        Content::Nothing => return Ok(Bytes::new()),
        Content::Json => JSON_TYPES,
        Content::Documents => DOCUMENT_TYPES,
    };
    check_type(headers, types)?;
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(Error::BodyTooLarge { bytes_max });
    }
    match tokio::time::timeout(timeout, Limited::new(body, bytes_max).collect()).await {
        Err(_) => Err(Error::BodyTimeout { after: timeout }),
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Error::BodyTooLarge { bytes_max }),
        Ok(Err(_)) => Err(Error::BadBody {
            problem: "the body ended before it was whole".to_owned(),
            line: 0,
            column: 0,
        }),
    }
}

fn check_type(headers: &HeaderMap, types: &[&str]) -> Result<(), Error> {
    let Some(found) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let found = String::from_utf8_lossy(found.as_bytes());
    let (essence, parameters) = found.split_once(';').unwrap_or((&found, ""));
    let known = types.iter().any(|known| known.eq_ignore_ascii_case(essence.trim()));
    let parameters = parameters.trim().to_ascii_lowercase();
    if known && matches!(parameters.as_str(), "" | "charset=utf-8" | "charset=\"utf-8\"") {
        return Ok(());
    }
    let expected = if types.len() == 1 { "application/json" } else { "application/yaml, application/json" };
    Err(Error::UnsupportedMediaType { found: found.chars().take(100).collect(), expected })
}

pub(super) fn json<T: Serialize>(value: &T) -> Response {
    axum::Json(value).into_response()
}

pub(super) fn created<T: Serialize>(value: &T) -> Response {
    (StatusCode::CREATED, axum::Json(value)).into_response()
}

pub(super) fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
