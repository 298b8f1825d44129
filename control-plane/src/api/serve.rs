//! A request's life: identified by its key, held against the operation's scope, received, run, and recorded.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use axum::RequestPartsExt;
use axum::extract::{Path, Request};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use tracing::{Instrument, info, info_span, warn};

use super::call::{ANONYMOUS, Call, Content, receive};
use super::operations::Operation;
use super::{Api, Error};
use crate::auth::Principal;
use crate::metrics::ApiLabels;
use crate::peer::Peer;
use crate::store::audit::{Outcome, Record};
use crate::store::limits::AUDIT_FIELD_BYTES_MAX;

/// Says which request an answer belongs to; the log names it too.
pub(super) const REQUEST_ID: &str = "weft-request-id";

/// Answers one request. The work runs as a task of its own: a caller that hangs up does not leave a change half
/// recorded, and a panic ends nothing but its request.
pub(super) async fn serve(api: Arc<Api>, operation: &'static Operation, request: Request) -> Response {
    let started = Instant::now();
    let id = format!("{:016x}", rand::random::<u64>());
    let span = info_span!("api.request", request.id = %id, operation = operation.id);
    let work = tokio::spawn(work(Arc::clone(&api), operation, request).instrument(span.clone()));
    let after = api.deps.limits.request_timeout;
    let outcome = match tokio::time::timeout(after, work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => {
            api.deps.metrics.panics.inc();
            Err(Error::Panicked)
        }
        Err(_) => Err(Error::TimedOut { after }),
    };
    let code = outcome.as_ref().err().map_or("", |error| error.code().word());
    let mut response = outcome.unwrap_or_else(|error| {
        if error.code().status() >= 500 {
            let source = std::error::Error::source(&error).map(|source| format!("{source}: {source:?}"));
            span.in_scope(|| warn!(error = %error, source, "request failed"));
        }
        error.answer(&id)
    });
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("-")));
    // What may be kept says so itself.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let (status, seconds) = (response.status().as_u16(), started.elapsed().as_secs_f64());
    api.deps.metrics.api_requests.get_or_create(&ApiLabels { operation: operation.id, status }).inc();
    api.deps.metrics.api_seconds.observe(seconds);
    span.in_scope(|| info!(status, code, seconds, "request answered"));
    response
}

/// Who asks for what, as far as it is known.
struct Seen {
    who: Option<String>,
    from: Option<std::net::SocketAddr>,
    path: String,
}

async fn work(api: Arc<Api>, operation: &'static Operation, request: Request) -> Result<Response, Error> {
    let from = request.extensions().get::<Peer>().map(|peer| peer.address);
    let mut seen = Seen { who: None, from, path: request.uri().path().to_owned() };
    let outcome = attempt(&api, operation, request, &mut seen).await;
    if let (Some(action), Err(error)) = (operation.audited, &outcome)
        && error.is_audited()
        && let Err(failure) = api.deps.store.append_audit(refusal(action, &seen, error)).await
    {
        warn!(error = %failure, "a refusal could not be recorded");
    }
    outcome
}

async fn attempt(
    api: &Arc<Api>,
    operation: &'static Operation,
    request: Request,
    seen: &mut Seen,
) -> Result<Response, Error> {
    let in_flight_max = api.deps.limits.in_flight_max;
    let _room = api.in_flight.try_acquire().map_err(|_| Error::Overloaded { in_flight_max })?;
    let (mut parts, body) = request.into_parts();
    let principal = identify(api, operation, &parts.headers, seen).await?;
    permit(operation, principal.as_ref())?;
    let Path(path) = parts.extract().await.map_err(|_| Error::UnknownRoute)?;
    let limits = &api.deps.limits;
    let bytes_max = match operation.content {
        Content::Documents => limits.documents_bytes_max,
        Content::Json | Content::Nothing => limits.body_bytes_max,
    };
    let body = receive(operation.content, &parts.headers, body, bytes_max, limits.body_timeout).await?;
    let call = Call { principal, from: seen.from, uri: parts.uri, path, headers: parts.headers, body };
    (operation.run)(Arc::clone(api), call).await
}

async fn identify(
    api: &Api,
    operation: &Operation,
    headers: &HeaderMap,
    seen: &mut Seen,
) -> Result<Option<Principal>, Error> {
    if operation.scope.is_none() {
        return Ok(None);
    }
    let from = seen.from.map(|address| address.ip());
    let principal = api.deps.keys.authenticate(bearer(headers), from, api.now()).await?;
    seen.who = Some(principal.name.clone());
    Ok(Some(principal))
}

/// The key in the one `Authorization` header, if there is one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn permit(operation: &Operation, principal: Option<&Principal>) -> Result<(), Error> {
    match (operation.scope, principal) {
        (Some(needed), Some(principal)) if principal.scope < needed => {
            Err(Error::Forbidden { needed, held: principal.scope })
        }
        _ => Ok(()),
    }
}

fn refusal(action: &str, seen: &Seen, error: &Error) -> Record {
    let outcome = if error.code().status() < 500 { Outcome::Refused } else { Outcome::Failed };
    let who = seen.who.as_deref().unwrap_or(ANONYMOUS);
    let first = match error {
        Error::Invalid(errors) => errors.first().map(|it| format!(" ({}: {})", it.field, it.message)),
        _ => None,
    };
    let reason = format!("{}: {error}{}", error.code().word(), first.unwrap_or_default());
    Record {
        from: seen.from,
        reason: clip(&reason, AUDIT_FIELD_BYTES_MAX),
        ..Record::new(who, action, clip(&seen.path, AUDIT_FIELD_BYTES_MAX), outcome)
    }
}

/// At most so many bytes of a text.
pub(super) fn clip(text: &str, bytes_max: usize) -> String {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

impl Api {
    /// Runs what takes a processor for long, a few at a time.
    pub(super) async fn heavy<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.heavy).acquire_owned().await;
        let permit = permit.map_err(|error| Error::Internal(Box::new(error)))?;
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        match work.await {
            Ok(done) => Ok(done),
            Err(failure) if failure.is_panic() => resume_unwind(failure.into_panic()),
            Err(failure) => Err(Error::Internal(Box::new(failure))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bearer_header_is_a_key() {
        let check = |values: &[&str], expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(bearer(&headers), expected, "{values:?}");
        };
        check(&[], None);
        check(&["Bearer abc"], Some("abc"));
        check(&["bearer  abc "], Some("abc"));
        check(&["Basic abc"], None);
        check(&["Bearer"], None);
        check(&["Bearer abc", "Bearer def"], None);
    }

    #[test]
    fn texts_are_clipped_between_characters() {
        assert_eq!(clip("aé", 2), "a");
        assert_eq!(clip("aé", 3), "aé");
    }
}
