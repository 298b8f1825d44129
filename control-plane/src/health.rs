//! Whether the control plane lives, is ready, and what it counts. Plain HTTP, without secrets, apart from everything else.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::app::Standing;
use crate::metrics::Metrics;
use crate::xds::Hub;

#[derive(Clone, Debug)]
struct Deps {
    hub: Arc<Hub>,
    standing: Standing,
    metrics: Arc<Metrics>,
}

/// The health port.
pub(crate) fn router(hub: Arc<Hub>, standing: Standing, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz/live", get(async || "alive\n"))
        .route("/healthz/ready", get(ready))
        .route("/metrics", get(text))
        .with_state(Deps { hub, standing, metrics })
}

async fn ready(State(deps): State<Deps>) -> (StatusCode, &'static str) {
    match deps.hub.is_ready() {
        true if deps.standing.leads_now() => (StatusCode::OK, "ready\n"),
        _ if deps.standing.stands_by() => (StatusCode::OK, "standing by for another that leads\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the store is still being read\n"),
    }
}

async fn text(State(deps): State<Deps>) -> impl IntoResponse {
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media_type)], deps.metrics.text())
}
