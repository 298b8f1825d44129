//! Event streams on their way: held open by a story, kept alive by the sidecar, and ended when they are silent for too
//! long.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::pair::{Caller, PATH, Pair, modern};
use super::upstream::{self, Asked, Upstream};

/// Sends a request whose answer is an event stream, and answers with one.
pub(crate) async fn stream(
    caller: &mut Caller,
    request: Request<Full<Bytes>>,
    asked: &mut mpsc::Receiver<Asked>,
) -> (Response<Incoming>, mpsc::Sender<Bytes>) {
    let given = async {
        let (sender, response) = upstream::events();
        asked.recv().await.unwrap().answer.send(response).unwrap();
        sender
    };
    let (response, sender) = tokio::join!(caller.send(request), given);
    assert_eq!(response.status(), 200);
    (response, sender)
}

pub(crate) fn call() -> Request<Full<Bytes>> {
    modern("tools/call", "slow", json!({ "name": "slow", "arguments": {} }))
}

pub(crate) fn listen() -> Request<Full<Bytes>> {
    modern("subscriptions/listen", "", json!({ "notifications": { "toolsListChanged": true } }))
}

pub(crate) fn legacy_listen() -> Request<Full<Bytes>> {
    let request = Request::get(PATH).header("host", "files.research").header("accept", "text/event-stream");
    request.header("mcp-protocol-version", "2025-11-25").body(Full::default()).unwrap()
}

/// What is left of a stream, and whether it ended as it should.
pub(crate) async fn rest(response: Response<Incoming>) -> (String, bool) {
    let (mut body, mut text) = (response.into_body(), String::new());
    let all = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        }
        true
    };
    let ended = timeout(Duration::from_secs(20), all).await.expect("the stream ends");
    (text, ended)
}

/// Reads on until a stream has said so much.
pub(crate) async fn until(response: &mut Response<Incoming>, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let read = async {
        while !enough(&text) {
            let frame = response.body_mut().frame().await.expect("the stream goes on").unwrap();
            text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        }
    };
    timeout(Duration::from_secs(20), read).await.expect("the stream says more");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_is_kept_alive_by_comments_between_events_and_nowhere_else() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::with(upstream, json!({ "keepAliveCommentEvery": "50ms" })).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let (mut response, said) = stream(&mut caller, call(), &mut asked).await;
    let twice = |text: &str| text.matches(": keep-alive\n\n").count() >= 2;
    until(&mut response, twice).await;
    said.send("data: 1\n\n".into()).await.unwrap();
    let text = until(&mut response, twice).await;
    assert!(text.replace(": keep-alive\n\n", "") == "data: 1\n\n", "{text:?}");
    said.send("data: ha".into()).await.unwrap();
    until(&mut response, |text| text.ends_with("data: ha")).await;
    let silence = timeout(Duration::from_millis(300), response.body_mut().frame()).await;
    assert!(silence.is_err(), "nothing is said within an event, but {silence:?}");
    said.send("lf\n\n".into()).await.unwrap();
    let text = until(&mut response, twice).await;
    assert!(text.starts_with("lf\n\n: keep-alive\n\n"), "{text:?}");
    drop(said);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_silent_for_too_long_is_ended_and_a_listener_is_not() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::serving(upstream, "timeouts: { idle: 200ms }", json!({})).await;
    let (mut calling, mut listening) =
        (pair.caller("agents", "calling").await, pair.caller("agents", "listening").await);
    let (mut listened, said) = stream(&mut listening, listen(), &mut asked).await;
    let (called, silent) = stream(&mut calling, call(), &mut asked).await;
    silent.send("data: 1\n\n".into()).await.unwrap();
    // Far before the next comment would be due, which is another clock.
    let ended = timeout(Duration::from_secs(5), rest(called)).await.expect("the limit is this stream's own");
    assert_eq!(ended, ("data: 1\n\n".to_owned(), false));
    timeout(Duration::from_secs(5), silent.closed()).await.expect("the server is told");
    said.send("data: 2\n\n".into()).await.unwrap();
    assert_eq!(until(&mut listened, |text| text.len() >= 9).await, "data: 2\n\n");
    pair.stop().await;
}
