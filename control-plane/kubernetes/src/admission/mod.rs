//! What an API server asks before it keeps an object: `/inject` puts sidecars into pods, `/validate` judges resources.
//!
//! The doors are here, with their limits; what is answered is pure and beside them. Every question is answered within a
//! deadline that is shorter than the API server's, and whatever goes wrong is an answer that says so: what becomes of the
//! object then is for the webhook's `failurePolicy` to say.

pub mod mutate;
pub mod namespaces;
pub mod patch;
pub mod review;
#[cfg(test)]
mod tests;
pub mod validate;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
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
    pub injector: Option<Injector>,
    /// For `/validate`, which is not there without.
    pub judge: Option<Judge>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps")
            .field("injector", &self.injector)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// How pods get their sidecars.
#[derive(Clone)]
pub struct Injector {
    pub settings: Arc<Settings>,
    pub namespaces: Namespaces,
    /// Is told what became of each pod, but for dry runs.
    pub told: Listener,
}

impl fmt::Debug for Injector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injector").field("settings", &self.settings).finish_non_exhaustive()
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

/// What every question goes through.
#[derive(Debug)]
struct Door {
    metrics: Arc<Metrics>,
    deadline: Duration,
    in_flight: Semaphore,
    working: Arc<Semaphore>,
}

/// The doors for the API server.
pub fn router(deps: Deps) -> Router {
    let Deps { injector, judge, metrics, limits: Limits { deadline, in_flight_max, working_max } } = deps;
    let (in_flight, working) = (Semaphore::new(in_flight_max), Arc::new(Semaphore::new(working_max)));
    let door = Arc::new(Door { metrics, deadline, in_flight, working });
    let mut router = Router::new();
    if let Some(injector) = injector {
        let door = Arc::clone(&door);
        router = router.route("/inject", post(|request| put_in(door, injector, request)));
    }
    if let Some(judge) = judge {
        router = router.route("/validate", post(|request| validate(door, judge, request)));
    }
    router
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

async fn put_in(door: Arc<Door>, injector: Injector, request: Request) -> Response {
    let counting = Arc::clone(&door);
    let work = move |body: Bytes| {
        let Injector { settings, namespaces, told: listener } = injector;
        let answered = mutate::answer(&body, &settings, |namespace| namespaces(namespace));
        // A dry run leaves no trace.
        if !answered.told.dry_run {
            counting.count(answered.told.outcome.word());
            log(&answered.told);
            listener(answered.told);
        }
        answered.body
    };
    door.answer(request, work).await
}

fn log(told: &Told) {
    let Told { namespace, name, outcome, .. } = told;
    let reason = outcome.word();
    match outcome {
        Outcome::Misunderstood(why) => warn!(why, "a question of the API server could not be understood"),
        Outcome::Skipped(skip) => debug!(namespace, name, reason, why = %skip, "pod left without a sidecar"),
        Outcome::Injected | Outcome::Other => debug!(namespace, name, reason, "pod answered for"),
    }
}

async fn validate(door: Arc<Door>, judge: Judge, request: Request) -> Response {
    let counting = Arc::clone(&door);
    let work = move |body: Bytes| {
        let (uid, answer, dry_run) = match review::whole(&body) {
            Ok((uid, request)) => (uid, judge(&request), request.get("dryRun") == Some(&Value::Bool(true))),
            Err(error) => (String::new(), Answer::refused(400, error.to_string()), false),
        };
        if !dry_run {
            counting.count(if answer.refused.is_some() { "invalid" } else { "valid" });
        }
        answer.written(&uid)
    };
    door.answer(request, work).await
}

impl Door {
    fn count(&self, reason: &'static str) {
        self.metrics.admissions.get_or_create(&ReasonLabel { reason }).inc();
    }

    async fn answer(
        &self,
        request: Request,
        work: impl FnOnce(Bytes) -> Vec<u8> + Send + 'static,
    ) -> Response {
        let started = Instant::now();
        let found = tokio::time::timeout(self.deadline, self.find(request, work)).await;
        let found = found.unwrap_or(Err(Error::TimedOut(self.deadline)));
        self.metrics.admission_seconds.observe(started.elapsed().as_secs_f64());
        match found {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => {
                self.count(error.word());
                warn!(%error, "a question of the API server was not answered");
                (error.status(), format!("{error}\n")).into_response()
            }
        }
    }

    async fn find(
        &self,
        request: Request,
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
            self.metrics.panics.inc();
            Error::Panicked
        })
    }
}
