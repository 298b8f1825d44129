//! Containers that are well, and those that are not, each behind a port of its own.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;

fn prober(port: u16, yaml: &str) -> Prober {
    let yaml = format!("{{ app/liveness: {} }}", yaml.replace("PORT", &port.to_string()));
    Prober::new(&serde_saphyr::from_str(&yaml).unwrap(), None)
}

/// A container that answers by path: with the status, and a header if one is named.
async fn container(ip: &str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            let service = service_fn(move |request: Request<Incoming>| {
                counted.fetch_add(1, Ordering::Relaxed);
                async move { Ok::<_, Infallible>(answer(&request, port)) }
            });
            let serving = async move {
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            };
            tokio::spawn(serving);
        }
    });
    (port, asked)
}

fn answer(request: &Request<Incoming>, port: u16) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers().get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let path = request.uri().path();
    let (status, location) = match path.split('/').nth(1).unwrap_or_default() {
        "own" => (302, format!("http://localhost:{port}/200")),
        "other" => (302, format!("http://localhost:{}/200", port.wrapping_add(1))),
        "loop" => (302, "/loop".to_owned()),
        "own-broken" => (302, "/500".to_owned()),
        "named" if header("host") == format!("localhost:{port}") => (200, String::new()),
        "agent" if header("user-agent").starts_with("kube-probe/") && header("accept") == "*/*" => {
            (200, String::new())
        }
        "dressed"
            if header("host") == "a.example" && header("x-a") == "b" && header("user-agent") == "me" =>
        {
            (200, String::new())
        }
        status => (status.parse().unwrap_or(418), String::new()),
    };
    let response = Response::builder().status(status);
    let response = if location.is_empty() { response } else { response.header("location", location) };
    response.body(Full::from(vec![b'x'; 100_000])).unwrap()
}

async fn http(path: &str, more: &str) -> Outcome {
    let (port, _) = container("127.0.0.1").await;
    let probe = format!("{{ httpGet: {{ port: PORT, path: {path} {more} }}, timeoutSeconds: 20 }}");
    prober(port, &probe).ask("app/liveness").await.unwrap()
}

#[tokio::test]
async fn what_counts_of_http_is_the_status() {
    for well in ["/200", "/204", "/399", "/own", "/named", "/agent"] {
        assert!(http(well, "").await.is_ok(), "{well}");
    }
    for (broken, why) in [
        ("/400", "status 400"),
        ("/503", "status 503"),
        ("/own-broken", "status 500"),
        ("/loop", "more than 10 times"),
    ] {
        let told = http(broken, "").await.unwrap_err();
        assert!(told.contains(why), "{broken}: {told}");
    }
}

#[tokio::test]
async fn a_redirect_to_another_port_is_an_answer_and_leads_nowhere() {
    let but = http("/other", "").await.unwrap().unwrap();
    assert!(but.contains("not followed"), "{but}");
}

#[tokio::test]
async fn headers_are_those_of_the_probe() {
    let headers = ", httpHeaders: [{ name: Host, value: a.example }, { name: X-A, value: b }, { name: User-Agent, value: me }]";
    assert!(http("/dressed", headers).await.is_ok());
    assert!(http("/dressed", "").await.is_err());
}

#[tokio::test]
async fn a_port_that_takes_connections_is_well() {
    let (port, _) = container("127.0.0.1").await;
    assert_eq!(prober(port, "{ tcpSocket: { port: PORT } }").ask("app/liveness").await.unwrap(), Ok(None));
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let told = prober(free, "{ tcpSocket: { port: PORT } }").ask("app/liveness").await.unwrap().unwrap_err();
    assert!(told.contains("refused"), "{told}");
}

#[tokio::test]
async fn a_container_is_heard_wherever_it_listens() {
    let own = HostPort::parse("127.9.9.9:7443").unwrap();
    assert_eq!(addresses(Some(&own)), addresses(None), "loopback is asked in any case");
    let own = HostPort::parse("[fd00::5]:7443").unwrap();
    assert_eq!(addresses(Some(&own))[0], "fd00::5".parse::<IpAddr>().unwrap());
    let (port, _) = container("::1").await;
    assert!(
        prober(port, "{ httpGet: { port: PORT, path: /200 } }").ask("app/liveness").await.unwrap().is_ok()
    );
}

#[tokio::test]
async fn a_container_that_says_nothing_fails_in_its_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    for probe in ["{ httpGet: { port: PORT } }", "{ grpc: { port: PORT } }"] {
        let told = prober(port, probe).ask("app/liveness").await.unwrap().unwrap_err();
        assert!(told.contains("did not answer within 1 s"), "{probe}: {told}");
    }
}

#[tokio::test]
async fn a_probe_that_the_file_does_not_have_is_none() {
    let prober = prober(1, "{ tcpSocket: { port: PORT } }");
    for name in ["app/readiness", "app", "", "../admin", "other/liveness", "app/liveness/"] {
        assert!(prober.ask(name).await.is_none(), "{name}");
    }
}

#[tokio::test]
async fn whoever_asks_meanwhile_is_told_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = Arc::new(Notify::new());
    let (told, answers) = (Arc::clone(&accepted), Arc::new(Notify::new()));
    let release = Arc::clone(&answers);
    let connections = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        told.notify_one();
        release.notified().await;
        stream.writable().await.unwrap();
        stream.try_write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        // Nobody else comes, however many ask.
        let more = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
        more.is_err()
    });
    let prober = prober(port, "{ httpGet: { port: PORT }, timeoutSeconds: 30 }");
    let first = prober.ask("app/liveness");
    let others = async {
        accepted.notified().await;
        let mut all = tokio::task::JoinSet::new();
        let asked = &prober.probes["app/liveness"];
        for _ in 0..100 {
            let mut told = asked.begun();
            all.spawn(async move { told.wait_for(Option::is_some).await.unwrap().clone() });
        }
        answers.notify_one();
        all.join_all().await
    };
    let (first, others) = tokio::join!(first, others);
    assert_eq!(first, Some(Ok(None)));
    assert_eq!(others.len(), 100);
    assert!(others.iter().all(|it| *it == Some(Ok(None))));
    assert!(connections.await.unwrap(), "one connection is made");
}

#[tokio::test]
async fn a_probe_is_made_anew_once_it_is_over() {
    let (port, asked) = container("127.0.0.1").await;
    let prober = prober(port, "{ httpGet: { port: PORT, path: /200 } }");
    for times in 1..=3 {
        assert_eq!(prober.ask("app/liveness").await, Some(Ok(None)));
        assert_eq!(asked.load(Ordering::Relaxed), times);
    }
}

#[tokio::test]
async fn a_certificate_proves_nothing_to_a_probe_and_need_not() {
    let signed = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
    let key = signed.signing_key.serialize_der();
    let config = rustls::ServerConfig::builder_with_provider(weft_certs::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key.try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = service_fn(move |it| async move { Ok::<_, Infallible>(answer(&it, port)) });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    });
    let https = prober(port, "{ httpGet: { port: PORT, path: /200, scheme: HTTPS }, timeoutSeconds: 20 }");
    assert_eq!(https.ask("app/liveness").await, Some(Ok(None)));
    let plain = prober(port, "{ httpGet: { port: PORT, path: /200 }, timeoutSeconds: 20 }");
    let told = plain.ask("app/liveness").await.unwrap().unwrap_err();
    assert!(told.contains("no HTTP"), "{told}");
    serving.abort();
}

/// What a server of the health protocol says of `files`, and of everything else.
async fn health(
    request: Request<Incoming>,
) -> Response<http_body_util::combinators::BoxBody<Bytes, Infallible>> {
    use http_body_util::BodyExt as _;
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(
        (&request.headers()["te"], &request.headers()["content-type"]),
        (&"trailers".parse().unwrap(), &"application/grpc".parse().unwrap())
    );
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let (status, message): (&str, &'static [u8]) = match &asked[5..] {
        b"" => ("0", &[0, 0, 0, 0, 2, 8, 1]),
        b"\x0a\x05files" => ("0", &[0, 0, 0, 0, 2, 8, 2]),
        _ => ("5", &[]),
    };
    let mut trailers = ::http::HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    let body = Full::from(message).with_trailers(async move { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
}

#[tokio::test]
async fn what_counts_of_grpc_is_that_the_container_says_it_serves() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(async |it| Ok::<_, Infallible>(health(it).await));
            let _ = auto::Builder::new(TokioExecutor::new())
                .http2_only()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    });
    for (service, expected) in [
        ("", Ok(())),
        ("files", Err("it says that it is not serving")),
        ("unknown", Err("it answered with gRPC status 5")),
    ] {
        let probe = format!("{{ grpc: {{ port: PORT, service: '{service}' }}, timeoutSeconds: 20 }}");
        let told = prober(port, &probe).ask("app/liveness").await.unwrap();
        assert_eq!(
            told.map(drop).map_err(|why| why.to_string()),
            expected.map_err(str::to_owned),
            "{service}"
        );
    }
    serving.abort();
}
