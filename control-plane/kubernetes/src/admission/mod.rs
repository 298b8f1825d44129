//! What an API server asks before it keeps an object: `/inject` puts sidecars into pods, `/validate` judges resources.
//!
//! The doors are here, with their limits; what is answered is pure and beside them. Every question is answered within a
//! deadline that is shorter than the API server's, and whatever goes wrong is an answer that says so: what becomes of the
//! object then is for the webhook's `failurePolicy` to say.

pub mod mutate;
pub mod patch;
pub mod review;
#[cfg(test)]
mod tests;
pub mod validate;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::Value;
use tokio::sync::Semaphore;
use tracing::{debug, warn};
use weft_control_plane::metrics::{Metrics, ReasonLabel};

use crate::inject::Settings;
use mutate::{Labels, Outcome, Told};
use review::{Answer, BODY_BYTES_MAX};

/// The labels of a namespace, as far as they are known. Asked for each pod, so that it must not wait for anything.
pub type Namespaces = Arc<dyn Fn(&str) -> Option<Labels> + Send + Sync>;
/// Who wants to know what became of a pod.
pub type Listener = Arc<dyn Fn(Told) + Send + Sync>;
/// Judges the `request` of a review.
pub type Judge = Arc<dyn Fn(&Value) -> Answer + Send + Sync>;

/// What the doors go by.
#[derive(Clone)]
pub struct Deps {
    /// For `/inject`, which is not there without.
    pub settings: Option<Arc<Settings>>,
    pub namespaces: Namespaces,
    /// Is told what became of each pod, but for dry runs.
    pub told: Listener,
    /// For `/validate`, which is not there without.
    pub judge: Option<Judge>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps")
            .field("settings", &self.settings)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What the doors allow.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte of a question to its answer. The API server waits for five seconds.
    pub deadline: Duration,
    /// Questions that are being read at once. Others wait.
    pub in_flight_max: usize,
    /// Questions that are being thought about at once.
    pub working_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(4), in_flight_max: 64, working_max: 4 }
    }
}

#[derive(Debug)]
struct Doors {
    deps: Deps,
    in_flight: Semaphore,
    working: Arc<Semaphore>,
}

/// The doors for the API server.
pub fn router(deps: Deps) -> Router {
    let (settings, validates) = (deps.settings.clone(), deps.judge.is_some());
    let Limits { in_flight_max, working_max, .. } = deps.limits;
    let doors = Doors {
        deps,
        in_flight: Semaphore::new(in_flight_max),
        working: Arc::new(Semaphore::new(working_max)),
    };
    let router = match settings {
        Some(settings) => Router::new().route("/inject", post(|doors, asked| put_in(doors, settings, asked))),
        None => Router::new(),
    };
    let router = if validates { router.route("/validate", post(judge)) } else { router };
    router.with_state(Arc::new(doors))
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the question could not be read: at most {BODY_BYTES_MAX} bytes are")]
    Unread,
    #[error("no answer was found within {0:?}")]
    TimedOut(Duration),
    #[error("finding an answer went wrong; the log of the control plane has it")]
    Panicked,
}

impl Error {
    const fn word(&self) -> &'static str {
        match self {
            Self::Unread => "unread",
            Self::TimedOut(_) => "timed-out",
            Self::Panicked => "panicked",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Unread => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TimedOut(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

async fn put_in(State(doors): State<Arc<Doors>>, settings: Arc<Settings>, request: Request) -> Response {
    let deps = doors.deps.clone();
    let work = move |body: Bytes| {
        let answered = mutate::answer(&body, &settings, |namespace| (deps.namespaces)(namespace));
        tell(&deps, answered.told);
        answered.body
    };
    doors.answer(request, work).await
}

/// Counts what became of a pod and tells whoever wants to know. A dry run leaves no trace.
fn tell(deps: &Deps, told: Told) {
    if told.dry_run {
        return;
    }
    deps.count(told.outcome.word());
    let Told { namespace, name, outcome, .. } = &told;
    let reason = outcome.word();
    match outcome {
        Outcome::Misunderstood(why) => warn!(why, "a question of the API server could not be understood"),
        Outcome::Skipped(skip) => debug!(namespace, name, reason, why = %skip, "pod left without a sidecar"),
        Outcome::Injected | Outcome::Other => debug!(namespace, name, reason, "pod answered for"),
    }
    (deps.told)(told);
}

async fn judge(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let deps = doors.deps.clone();
    let work = move |body: Bytes| {
        let (uid, answer, dry_run) = match review::whole(&body) {
            Ok((uid, request)) => {
                let judged = deps.judge.as_ref().map_or_else(Answer::allowed, |judge| judge(&request));
                (uid, judged, request.get("dryRun") == Some(&Value::Bool(true)))
            }
            Err(error) => (String::new(), Answer::refused(400, error.to_string()), false),
        };
        if !dry_run {
            deps.count(if answer.refused.is_some() { "invalid" } else { "valid" });
        }
        answer.written(&uid)
    };
    doors.answer(request, work).await
}

impl Deps {
    fn count(&self, reason: &'static str) {
        self.metrics.admissions.get_or_create(&ReasonLabel { reason }).inc();
    }
}

impl Doors {
    async fn answer(
        &self,
        request: Request,
        work: impl FnOnce(Bytes) -> Vec<u8> + Send + 'static,
    ) -> Response {
        let started = Instant::now();
        let Deps { limits, metrics, .. } = &self.deps;
        let found = tokio::time::timeout(limits.deadline, self.find(request, work)).await;
        let found = found.unwrap_or(Err(Error::TimedOut(limits.deadline)));
        metrics.admission_seconds.observe(started.elapsed().as_secs_f64());
        match found {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => {
                self.deps.count(error.word());
                warn!(%error, "a question of the API server was not answered");
                (error.status(), format!("{error}\n")).into_response()
            }
        }
    }

    async fn find(
        &self,
        request: Request<Body>,
        work: impl FnOnce(Bytes) -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<u8>, Error> {
        // Neither is ever closed.
        let _room = self.in_flight.acquire().await.map_err(|_| Error::Panicked)?;
        let body =
            axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| Error::Unread)?;
        let turn = Arc::clone(&self.working).acquire_owned().await.map_err(|_| Error::Panicked)?;
        // What panics ends there, and what takes long keeps no other question waiting.
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(body)
        });
        done.await.map_err(|_| {
            self.deps.metrics.panics.inc();
            Error::Panicked
        })
    }
}
