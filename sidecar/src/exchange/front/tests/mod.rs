mod bridged;
mod extension;
mod input;
mod legacy;
mod listening;
mod modern;
mod resuming;
mod sessions;
mod subscriptions;
mod tasks;

use std::sync::Mutex;

use http_body_util::BodyExt as _;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

use super::*;
use crate::admit::Places;
use crate::classify::Kind;
use crate::exchange::{Aside, Ask, Asker, BoxFuture, Introduction, Reply, Said};
use crate::metrics::Counted;

const CALL_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const PATIENCE: Patience = Patience { call: CALL_TIMEOUT, idle: Some(IDLE_TIMEOUT), result_bytes_max: None };
const INITIALIZE_RESULT: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"logging":{}},"serverInfo":{"name":"s","version":"1"}}"#;
const DISCOVER_RESULT: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true},"logging":{}},"ttlMs":1000,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"m","version":"1"}}}"#;

/// A server that does what the test says.
#[derive(Debug)]
struct Fake {
    introduction: Mutex<Result<Arc<Introduction>, Refusal>>,
    calls: mpsc::UnboundedSender<Called>,
    told: mpsc::UnboundedSender<Told>,
    asides: broadcast::Sender<Aside>,
}

/// A call that has arrived at the server.
struct Called {
    asker: Asker,
    message: String,
    reply: mpsc::Sender<Result<Said, Refusal>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Notified(Asker, String),
    Answered(Asker, String),
    Ended(Asker),
}

impl Peer for Fake {
    fn introduction(&self) -> BoxFuture<'_, Result<Arc<Introduction>, Refusal>> {
        let introduction = self.introduction.lock().unwrap().clone();
        Box::pin(async { introduction })
    }

    fn call(&self, ask: Ask) -> BoxFuture<'_, Result<Reply, Refusal>> {
        let (reply, receiver) = mpsc::channel(1);
        let message = String::from_utf8(ask.message.to_vec()).unwrap();
        self.calls.send(Called { asker: ask.asker, message, reply }).unwrap();
        Box::pin(async { Ok(Reply(receiver)) })
    }

    fn notify(&self, asker: &Asker, message: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        self.tell(Told::Notified(asker.clone(), String::from_utf8(message.to_vec()).unwrap()))
    }

    fn answer(&self, asker: &Asker, message: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        self.tell(Told::Answered(asker.clone(), String::from_utf8(message.to_vec()).unwrap()))
    }

    fn asides(&self, _asker: &Asker) -> broadcast::Receiver<Aside> {
        self.asides.subscribe()
    }

    fn end(&self, asker: &Asker) {
        drop(self.tell(Told::Ended(asker.clone())));
    }
}

fn here() -> Place {
    let node = weft_proto::name::NodeId::parse("research/files").unwrap();
    let ring = Ring::own(&crate::session_id::Key::new(&[7; crate::session_id::KEY_LEN]));
    Place { here: Whence::of(&node), ring, scope: "research/files".into() }
}

impl Fake {
    fn tell(&self, told: Told) -> BoxFuture<'_, Result<(), Refusal>> {
        _ = self.told.send(told);
        Box::pin(async { Ok(()) })
    }
}

impl Called {
    async fn note(&self, json: &str) {
        self.reply.send(Ok(Said::Note(json.to_owned().into()))).await.unwrap();
    }

    async fn ask(&self, json: &str) {
        self.reply.send(Ok(Said::Request(json.to_owned().into()))).await.unwrap();
    }

    async fn respond(self, json: &str) {
        self.reply.send(Ok(Said::Response(json.to_owned().into()))).await.unwrap();
    }
}

/// A front, the server behind it, and callers.
struct Stage {
    front: Arc<Front>,
    peer: Arc<Fake>,
    calls: mpsc::UnboundedReceiver<Called>,
    told: mpsc::UnboundedReceiver<Told>,
    drain: CancellationToken,
    /// What calls are admitted with.
    admitted: Admitted,
}

type Answered = JoinHandle<Result<Response<Body>, Refusal>>;

fn legacy() -> Stage {
    Stage::new(Era::Legacy, &Limits::default())
}

fn modern() -> Stage {
    Stage::new(Era::Modern, &Limits::default())
}

impl Stage {
    fn new(era: Era, limits: &Limits) -> Self {
        let (revision, result) = match era {
            Era::Legacy => ("2025-11-25", INITIALIZE_RESULT),
            Era::Modern => ("2026-07-28", DISCOVER_RESULT),
        };
        let introduction = Introduction { era, revision: revision.to_owned(), result: result.into() };
        let ((calls, called), (told, telling)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let peer = Arc::new(Fake {
            introduction: Mutex::new(Ok(Arc::new(introduction))),
            calls,
            told,
            asides: broadcast::channel(64).0,
        });
        let drain = CancellationToken::new();
        let front = Front::new(Arc::<Fake>::clone(&peer), limits, drain.clone(), here());
        Self { front, peer, calls: called, told: telling, drain, admitted: Places::exempt() }
    }

    /// What a caller sends, as it goes on.
    fn send(&self, caller: &str, era: Era, method: &str, headers: &[(&str, &str)], body: &str) -> Answered {
        let mut request = http::Request::builder().method(method).uri("/mcp");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let (front, caller): (_, Arc<str>) = (Arc::clone(&self.front), caller.into());
        let (body, bounds) = (Bytes::copy_from_slice(body.as_bytes()), front.settings.bounds);
        let (method, admitted) = (method.to_owned(), self.admitted.clone());
        tokio::spawn(async move {
            let kind = match method.as_str() {
                "GET" => Kind::Listen,
                "DELETE" => Kind::End,
                _ => match mcp::parse(&body, bounds).unwrap() {
                    mcp::Body::One(message) => Kind::Message(message),
                    mcp::Body::Batch(messages) => Kind::Batch(messages),
                },
            };
            let incoming = Incoming {
                caller: &caller,
                said: None,
                head: &head,
                body: &body,
                patience: PATIENCE,
                admitted: &admitted,
            };
            let answer = front.serve(incoming, &Call { era, kind }).await;
            drop(admitted);
            answer
        })
    }

    fn modern(&self, body: &str) -> Answered {
        self.send("caller", Era::Modern, "POST", &[], body)
    }

    fn legacy(&self, session: &str, body: &str) -> Answered {
        self.send("caller", Era::Legacy, "POST", &[("mcp-session-id", session)], body)
    }

    fn get(&self, session: &str, last_event: Option<&str>) -> Answered {
        let mut headers = vec![("mcp-session-id", session), ("accept", "text/event-stream")];
        headers.extend(last_event.map(|id| ("last-event-id", id)));
        self.send("caller", Era::Legacy, "GET", &headers, "")
    }

    /// A new session.
    async fn open(&self, revision: &str) -> String {
        let opened = self.send("caller", Era::Legacy, "POST", &[], &initialize(revision)).await.unwrap();
        opened.unwrap().headers()["mcp-session-id"].to_str().unwrap().to_owned()
    }

    async fn called(&mut self) -> Called {
        self.calls.recv().await.unwrap()
    }
}

fn initialize(revision: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{{}},"clientInfo":{{"name":"c","version":"1"}}}}}}"#
    )
}

fn call(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"t"}}}}"#)
}

fn result(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)
}

fn note(n: u32) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":1,"progress":{n}}}}}"#
    )
}

fn event(id: Option<&str>, message: &str) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("{id}event: message\ndata: {message}\n\n")
}

/// The answer, which must be one.
async fn answered(answered: Answered) -> Response<Body> {
    answered.await.unwrap().unwrap()
}

async fn refused(answered: Answered) -> Refusal {
    answered.await.unwrap().unwrap_err()
}

/// The whole of an answer that must be JSON.
async fn json(response: Response<Body>) -> String {
    assert_eq!(response.headers()["content-type"], "application/json");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The body of an answer that must be a stream.
fn stream(response: Response<Body>) -> Body {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response.into_body()
}

/// The next that is said on a stream; nothing once it has ended.
async fn next(body: &mut Body) -> Option<String> {
    let frame = body.frame().await?.unwrap();
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}

/// Whether something is said at once.
async fn is_silent(body: &mut Body) -> bool {
    tokio::time::timeout(Duration::from_millis(1), body.frame()).await.is_err()
}

/// Lets time pass, and everything happen that happens meanwhile.
async fn pass(time: Duration) {
    tokio::time::timeout(time, std::future::pending::<()>()).await.unwrap_err();
}
