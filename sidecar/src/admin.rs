//! The two doors for whoever runs the sidecar: health and metrics, which show no secrets and change nothing, and
//! administration, on loopback only. Small enough for hyper alone.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
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
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use bytes::Bytes;

use crate::probes::{self, Prober};

/// Connections to one of these doors at once. Of the address that has most of them, the longest makes place for another: who
/// holds all of them must not keep a kubelet from its answer.
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
    let mut open: Vec<(IpAddr, AbortHandle)> = Vec::with_capacity(CONNECTIONS_MAX);
    let age_max = AGE_MAX + probes.longest();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        open.retain(|(_, connection)| !connection.is_finished());
        if open.len() == CONNECTIONS_MAX {
            let (_, longest) = open.remove(longest_of_most(open.iter().map(|(address, _)| *address)));
            longest.abort();
        }
        let (shown, probes, stop) = (Arc::clone(&shown), Arc::clone(&probes), stop.clone());
        let connection = tokio::spawn(async move {
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
        });
        open.push((from.ip(), connection.abort_handle()));
    }
}

/// Which connection is the first of the address that has most of them.
fn longest_of_most(open: impl Iterator<Item = IpAddr>) -> usize {
    let mut of_each: HashMap<IpAddr, (usize, usize)> = HashMap::new();
    for (at, address) in open.enumerate() {
        let (_, count) = of_each.entry(address).or_insert((at, 0));
        *count += 1;
    }
    let most = of_each.into_values().max_by_key(|(first, count)| (*count, Reverse(*first)));
    most.map_or(0, |(first, _)| first)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    #[test]
    fn a_level_is_read_from_its_query() {
        assert_eq!(level(Some("level=debug")), Some("debug".to_owned()));
        assert_eq!(level(Some("x=1&level=info%2Ca%3Ddebug")), Some("info,a=debug".to_owned()));
        assert_eq!(level(Some("level=")), None);
        assert_eq!(level(None), None);
    }

    #[test]
    fn whoever_has_most_connections_makes_place() {
        let longest =
            |addresses: &[u8]| longest_of_most(addresses.iter().map(|last| IpAddr::from([10, 0, 0, *last])));
        assert_eq!(longest(&[1, 2, 2, 3]), 1);
        assert_eq!(longest(&[3, 1, 1, 3]), 0, "of equals, who has been there for longest");
    }

    #[derive(Debug)]
    struct Nothing;

    impl Shown for Nothing {
        fn ready(&self) -> Result<String, String> {
            Ok("ready".to_owned())
        }

        fn metrics(&self) -> String {
            String::new()
        }

        fn config_dump(&self) -> Value {
            Value::Null
        }

        fn certificates(&self) -> Value {
            Value::Null
        }

        fn set_logging(&self, _: &str) -> Result<(), String> {
            Ok(())
        }

        fn drain(&self, _: bool) {}
    }

    #[tokio::test]
    async fn whoever_holds_every_place_keeps_nobody_from_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let door = serve(Door::Health, listener, Arc::new(Nothing), Arc::default(), stop.clone());
        let door = tokio::spawn(door);
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            held.push(TcpStream::connect(at).await.unwrap());
        }
        let mut asking = TcpStream::connect(at).await.unwrap();
        asking
            .write_all(b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert_eq!(held[0].read(&mut [0]).await.unwrap(), 0, "the longest made place");
        stop.cancel();
        door.await.unwrap();
    }
}
