use http::{HeaderValue, Method};
use weft_proto::resource::kinds::Era;

use super::*;
use crate::body::Body;
use crate::exchange::http::fake::*;

const DISCOVERED: &str = r#"{"supportedVersions":["2025-06-18","2026-07-28"],"capabilities":{}}"#;
const INITIALIZED: &str = r#"{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{}}"#;
const ENDPOINT: &str = "event: endpoint\ndata: /messages\n\n";

fn error(seen: &Seen, code: i64) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":{code},"message":"no"}}}}"#, seen.body["id"])
}

async fn outcome(
    script: impl Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
) -> (Fake, Result<Spoken, Error>) {
    let fake = Fake::start(script).await;
    let found = probe(&fake.http(), &fake.target(), &settings(), Transports::Any, PATIENCE).await;
    (fake, found)
}

/// A server of the legacy era, but for how it answers to discovery.
fn legacy(seen: &Seen, discovery: impl FnOnce(&Seen) -> Response<Body>) -> Response<Body> {
    match (seen.rpc(), &seen.method) {
        ("server/discover", _) => discovery(seen),
        ("initialize", _) => {
            let mut answer = json(200, result(&seen.body["id"], INITIALIZED));
            answer.headers_mut().insert("mcp-session-id", HeaderValue::from_static("s"));
            answer
        }
        (_, &Method::DELETE) => status(200),
        _ => status(400),
    }
}

#[tokio::test]
async fn a_modern_server_discovers_itself() {
    let (fake, found) = outcome(|seen| Some(json(200, result(&seen.body["id"], DISCOVERED)))).await;
    let expected =
        Introduction { era: Era::Modern, revision: "2026-07-28".to_owned(), result: Bytes::from(DISCOVERED) };
    assert_eq!(found, Ok(Spoken::Modern(Some(expected.clone()))));
    let seen = fake.next(|_| true).await;
    assert_eq!(seen.header("mcp-method"), "server/discover");
    assert_eq!(seen.header("mcp-protocol-version"), "2026-07-28");
    assert_eq!(seen.body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert!(fake.so_far().await.is_empty(), "one question is enough");
    let (_fake, found) = outcome(|seen| Some(events(&event(&result(&seen.body["id"], DISCOVERED))))).await;
    assert_eq!(found, Ok(Spoken::Modern(Some(expected))));
}

#[tokio::test]
async fn an_error_that_only_a_modern_server_knows_proves_one() {
    for (status, code) in [(400, -32020), (400, -32021), (400, -32022), (200, -32022), (500, -32020)] {
        let (_fake, found) = outcome(move |seen| Some(json(status, error(seen, code)))).await;
        assert_eq!(found, Ok(Spoken::Modern(None)), "{status} {code}");
    }
}

#[tokio::test]
async fn whatever_else_a_legacy_server_says_to_discovery_it_is_asked_for_a_handshake() {
    type Answer = fn(&Seen) -> Response<Body>;
    let answers: [Answer; 12] = [
        |_| status(400),
        |_| status(404),
        |_| status(405),
        |_| status(413),
        |_| status(401),
        |_| status(500),
        |_| status(202),
        |seen| json(200, error(seen, -32601)),
        |seen| json(404, error(seen, -32601)),
        |seen| json(400, error(seen, -32000)),
        |seen| json(200, result(&seen.body["id"], r#"{"supportedVersions":["2025-11-25"]}"#)),
        |_| json(200, "<html>"),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let (fake, found) = outcome(move |seen| Some(legacy(seen, answer))).await;
        let Ok(Spoken::LegacyStreamable(introduction)) = found else { panic!("{number}: {found:?}") };
        assert_eq!(
            (introduction.revision.as_str(), &*introduction.result),
            ("2025-06-18", INITIALIZED.as_bytes())
        );
        let ended = fake.next(|seen| seen.method == Method::DELETE).await;
        assert_eq!(ended.header("mcp-session-id"), "s");
    }
}

#[tokio::test]
async fn a_handshake_may_be_answered_by_a_stream() {
    let (_fake, found) = outcome(|seen| {
        Some(match seen.rpc() {
            "initialize" => events(&event(&result(&seen.body["id"], INITIALIZED))),
            _ => status(400),
        })
    })
    .await;
    assert!(matches!(found, Ok(Spoken::LegacyStreamable(_))), "{found:?}");
}

#[tokio::test]
async fn what_is_temporary_proves_nothing() {
    for code in [429, 502, 503, 504] {
        let (fake, found) = outcome(move |seen| Some(legacy(seen, |_| status(code)))).await;
        assert!(matches!(found, Err(Error::NotReady(_))), "{code}: {found:?}");
        assert_eq!(fake.so_far().await, ["POST server/discover"], "no handshake is tried");
        let (_fake, found) = outcome(move |seen| {
            Some(match seen.rpc() {
                "server/discover" => status(400),
                _ => status(code),
            })
        })
        .await;
        assert!(matches!(found, Err(Error::NotReady(_))), "{code}: {found:?}");
    }
}

#[tokio::test]
async fn the_oldest_transport_is_found_by_its_stream() {
    for code in [400, 404, 405] {
        let (_fake, found) = outcome(move |seen| {
            Some(match seen.method {
                Method::GET => events(ENDPOINT),
                _ => status(code),
            })
        })
        .await;
        assert_eq!(found, Ok(Spoken::HttpSse), "{code}");
    }
}

#[tokio::test]
async fn what_speaks_nothing_known_is_said_to() {
    for code in [200, 400, 404, 405, 500] {
        let (fake, found) = outcome(move |_| Some(status(code))).await;
        assert!(matches!(found, Err(Error::Unknown(_))), "{code}: {found:?}");
        assert_eq!(fake.so_far().await, ["POST server/discover", "POST initialize", "GET "]);
    }
    let (_fake, found) = outcome(|_| Some(events("data: {}\n\n"))).await;
    assert!(matches!(found, Err(Error::Unknown(_))), "{found:?}");
    for code in [401, 403] {
        let (_fake, found) = outcome(move |_| Some(status(code))).await;
        assert_eq!(
            found.unwrap_err().to_string(),
            Error::Unauthorized(StatusCode::from_u16(code).unwrap()).to_string()
        );
    }
}

#[tokio::test]
async fn a_question_that_is_not_answered_is_given_up() {
    let fake = Fake::start(|seen| match seen.rpc() {
        "server/discover" => None,
        _ => Some(legacy(seen, |_| status(400))),
    })
    .await;
    let found =
        probe(&fake.http(), &fake.target(), &settings(), Transports::Any, Duration::from_millis(200)).await;
    assert!(matches!(found, Ok(Spoken::LegacyStreamable(_))), "{found:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let fake = Fake::start(|_| None).await;
    let (http, target, address) = (fake.http(), fake.target(), fake.host());
    drop(fake);
    within(async { while tokio::net::TcpStream::connect(&address).await.is_ok() {} }).await;
    let found = probe(&http, &target, &settings(), Transports::Any, PATIENCE).await;
    assert!(matches!(found, Err(Error::Unreachable(_))), "{found:?}");
}

#[tokio::test]
async fn the_oldest_transport_is_not_asked_for_where_it_is_not_to_be_spoken() {
    let fake =
        Fake::start(|seen| Some(if seen.method == Method::GET { events(ENDPOINT) } else { status(404) }))
            .await;
    let ask = async |transports| probe(&fake.http(), &fake.target(), &settings(), transports, PATIENCE).await;
    assert_eq!(ask(Transports::Any).await, Ok(Spoken::HttpSse));
    fake.so_far().await;
    let found = ask(Transports::Streamable).await;
    assert!(matches!(found, Err(Error::Unknown(_))), "{found:?}");
    assert!(fake.so_far().await.iter().all(|seen| !seen.starts_with("GET ")));
}
