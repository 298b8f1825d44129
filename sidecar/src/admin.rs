//! The two doors for whoever runs the sidecar: health and metrics, which show no secrets and change nothing, and
//! administration, on loopback only. Small enough for hyper alone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use bytes::Bytes;

use crate::probes::{self, Prober};

/// Connections to one of these doors at once.
const CONNECTIONS_MAX: usize = 64;
/// Age of a connection, besides the time that a probe may take: whoever asks here proves nothing, so nobody keeps a place for
/// long.
const AGE_MAX: Duration = Duration::from_secs(60);

/// What the doors show and do.
pub trait Shown: Send + Sync + 'static {
    /// That calls can be served, with what there is to say besides; or why not.
    fn ready(&self) -> Result<String, String>;
    fn metrics(&self) -> String;
    /// The configuration in force, without secrets.
    fn config_dump(&self) -> Value;
    /// The certificates in use.
    fn certificates(&self) -> Value;
    /// Changes what is logged.
    fn set_logging(&self, filter: &str) -> Result<(), String>;
    /// Begins to drain; the sidecar ends afterwards if `quit`.
    fn drain(&self, quit: bool);
}

/// Which door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Health,
    Admin,
}

/// Serves a door until it is told to stop.
///
/// `probes` are those that are made for whoever asks at the health door.
pub async fn serve(
    door: Door,
    listener: TcpListener,
    shown: Arc<dyn Shown>,
    probes: Arc<Prober>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let age_max = AGE_MAX + probes.longest();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (shown, probes, stop) = (Arc::clone(&shown), Arc::clone(&probes), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (shown, probes) = (Arc::clone(&shown), Arc::clone(&probes));
                async move {
                    let probe = request.uri().path().strip_prefix(probes::PATH);
                    Ok::<_, Infallible>(match probe {
                        Some(probe) if door == Door::Health => probed(request.method(), probe, &probes).await,
                        Some(_) | None => answer(door, &request, &*shown),
                    })
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = tokio::time::timeout(age_max, connection) => {}
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(door: Door, request: &Request<Incoming>, shown: &dyn Shown) -> Answer {
    let host = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
    // A page in a browser must not reach the door through a name that resolves to loopback.
    if door == Door::Admin && !host.is_some_and(crate::receive::is_loopback) {
        return text(StatusCode::FORBIDDEN, "this host is not served here\n");
    }
    let from_page = request.headers().contains_key(http::header::ORIGIN);
    let (method, path) = (request.method(), request.uri().path());
    match (door, path) {
        (_, "/healthz/live") => reading(method, || text(StatusCode::OK, "alive\n")),
        (_, "/healthz/ready") => reading(method, || match shown.ready() {
            Ok(said) => text(StatusCode::OK, format!("{said}\n")),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        }),
        (_, "/metrics" | "/stats/prometheus") => reading(method, || {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            typed(StatusCode::OK, kind, shown.metrics())
        }),
        (Door::Admin, "/config_dump") => reading(method, || document(&shown.config_dump())),
        (Door::Admin, "/certs") => reading(method, || document(&shown.certificates())),
        (Door::Admin, _) if from_page => text(StatusCode::FORBIDDEN, "pages may not do this\n"),
        (Door::Admin, "/logging") => changing(method, || match level(request.uri().query()) {
            Some(level) => match shown.set_logging(&level) {
                Ok(()) => text(StatusCode::OK, format!("logging {level}\n")),
                Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
            },
            None => text(StatusCode::BAD_REQUEST, "say ?level=, such as ?level=info,weft_sidecar=debug\n"),
        }),
        (Door::Admin, "/drain") => changing(method, || {
            shown.drain(false);
            text(StatusCode::ACCEPTED, "draining\n")
        }),
        (Door::Admin, "/quitquitquit") => changing(method, || {
            shown.drain(true);
            text(StatusCode::ACCEPTED, "draining, then ending\n")
        }),
        _ => text(StatusCode::NOT_FOUND, "there is nothing at this path\n"),
    }
}

/// What the kubelet is told of a container. What the container said is left out: the door is open to everyone.
async fn probed(method: &Method, probe: &str, probes: &Prober) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return not_allowed("GET");
    }
    match probes.ask(probe).await {
        Some(Ok(_)) => text(StatusCode::OK, "well\n"),
        Some(Err(_)) => text(StatusCode::SERVICE_UNAVAILABLE, "not well; the sidecar's log says why\n"),
        None => text(StatusCode::NOT_FOUND, "there is no such probe\n"),
    }
}

fn reading(method: &Method, answer: impl FnOnce() -> Answer) -> Answer {
    match *method {
        Method::GET | Method::HEAD => answer(),
        _ => not_allowed("GET"),
    }
}

fn changing(method: &Method, answer: impl FnOnce() -> Answer) -> Answer {
    if *method == Method::POST { answer() } else { not_allowed("POST") }
}

fn not_allowed(allow: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allow} is allowed here\n"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

/// The value of `level`, with the escapes that filters need.
fn level(query: Option<&str>) -> Option<String> {
    let value = query?.split('&').find_map(|pair| pair.strip_prefix("level="))?;
    let value = value.replace("%2C", ",").replace("%2c", ",").replace("%3D", "=").replace("%3d", "=");
    (!value.is_empty() && value.len() <= 1024).then_some(value)
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", text)
}

fn document(value: &Value) -> Answer {
    typed(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// A sidecar's certificate as it is shown: nothing that is secret.
pub fn certificate(leaf: &weft_certs::svid::Leaf) -> Value {
    let at = |time| jiff::Timestamp::try_from(time).map(|at| at.to_string()).unwrap_or_default();
    json!({
        "spiffeId": leaf.spiffe_id.as_str(),
        "serial": leaf.serial.as_str(),
        "notBefore": at(leaf.not_before),
        "notAfter": at(leaf.not_after),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_from_its_query() {
        assert_eq!(level(Some("level=debug")), Some("debug".to_owned()));
        assert_eq!(level(Some("x=1&level=info%2Ca%3Ddebug")), Some("info,a=debug".to_owned()));
        assert_eq!(level(Some("level=")), None);
        assert_eq!(level(None), None);
    }
}
