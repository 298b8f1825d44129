use tokio::time::Instant;

use super::*;

const SUBSCRIPTION: &str = r#""_meta":{"io.modelcontextprotocol/subscriptionId":"l"}"#;

fn listen(notifications: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}},"notifications":{notifications}}}}}"#
    )
}

fn acknowledged(notifications: &str) -> String {
    let method = "notifications/subscriptions/acknowledged";
    let message = format!(
        r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{SUBSCRIPTION},"notifications":{notifications}}}}}"#
    );
    event(None, &message)
}

fn told(method: &str, more: &str) -> String {
    event(None, &format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{SUBSCRIPTION}{more}}}}}"#))
}

fn say(stage: &Stage, message: &str) {
    stage.peer.asides.send(Aside::Note(message.to_owned().into())).unwrap();
}

fn changed(what: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/{what}/list_changed"}}"#)
}

fn updated(uri: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"{uri}"}}}}"#)
}

const TOOLS: &str = "notifications/tools/list_changed";

#[tokio::test(start_paused = true)]
async fn first_it_is_said_what_will_be_told_and_then_only_that() {
    let mut stage = modern();
    let wanted = r#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":false}"#;
    let mut body = stream(answered(stage.modern(&listen(wanted))).await);
    assert_eq!(next(&mut body).await.unwrap(), acknowledged(r#"{"toolsListChanged":true}"#));
    say(&stage, &changed("prompts"));
    say(&stage, &changed("resources"));
    say(&stage, &updated("a"));
    say(&stage, &note(1));
    say(&stage, &changed("tools"));
    assert_eq!(next(&mut body).await.unwrap(), told(TOOLS, ""));
    assert_eq!(next(&mut body).await.unwrap(), ":\n\n");
    assert!(stage.calls.try_recv().is_err(), "the server is asked once for all");
}

#[tokio::test(start_paused = true)]
async fn what_changes_often_is_told_once() {
    let stage = modern();
    let mut body = stream(answered(stage.modern(&listen(r#"{"toolsListChanged":true}"#))).await);
    next(&mut body).await.unwrap();
    let begun = Instant::now();
    for _ in 0..50 {
        say(&stage, &changed("tools"));
        pass(Duration::from_millis(1)).await;
    }
    assert_eq!(next(&mut body).await.unwrap(), told(TOOLS, ""));
    assert!(begun.elapsed() < Duration::from_millis(200));
    assert_eq!(next(&mut body).await.unwrap(), ":\n\n");
    say(&stage, &changed("tools"));
    assert_eq!(next(&mut body).await.unwrap(), told(TOOLS, ""));
}

#[tokio::test(start_paused = true)]
async fn who_missed_something_is_told_that_everything_changed() {
    let stage = modern();
    let mut body = stream(answered(stage.modern(&listen(r#"{"toolsListChanged":true}"#))).await);
    next(&mut body).await.unwrap();
    // All at once, so that nobody can take any.
    for n in 0..100 {
        say(&stage, &note(n));
    }
    assert_eq!(next(&mut body).await.unwrap(), told(TOOLS, ""));
}

#[tokio::test(start_paused = true)]
async fn on_a_drain_it_ends_in_good_order() {
    let stage = modern();
    let mut body = stream(answered(stage.modern(&listen(r#"{"toolsListChanged":true}"#))).await);
    next(&mut body).await.unwrap();
    say(&stage, &changed("tools"));
    tokio::task::yield_now().await;
    stage.drain.cancel();
    assert_eq!(next(&mut body).await.unwrap(), told(TOOLS, ""));
    let end = format!(r#"{{"jsonrpc":"2.0","id":"l","result":{{"resultType":"complete",{SUBSCRIPTION}}}}}"#);
    assert_eq!(next(&mut body).await.unwrap(), event(None, &end));
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_must_be_said() {
    let stage = modern();
    for bad in ["null", r#"{"toolsListChanged":1}"#] {
        let refusal = refused(stage.modern(&listen(bad))).await;
        assert_eq!((refusal.told().status, refusal.told().code), (400, -32602), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_modern_server_tells_of_single_resources_on_a_stream_of_its_own() {
    let mut stage = modern();
    let wanted = r#"{"toolsListChanged":true,"resourceSubscriptions":["b","a"]}"#;
    let answer = stage.modern(&listen(wanted));
    let upstream = stage.called().await;
    assert!(upstream.message.contains(r#""notifications":{"resourceSubscriptions":["a","b"]}}"#));
    assert!(!upstream.message.contains(r#""id":"l""#));
    let agreed = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"other"},"notifications":{"resourceSubscriptions":["a"]}}}"#;
    upstream.note(agreed).await;
    let mut body = stream(answered(answer).await);
    let expected = r#"{"toolsListChanged":true,"resourceSubscriptions":["a"]}"#;
    assert_eq!(next(&mut body).await.unwrap(), acknowledged(expected));
    upstream
        .note(r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"other"},"uri":"a"}}"#)
        .await;
    assert_eq!(next(&mut body).await.unwrap(), told("notifications/resources/updated", r#","uri":"a""#));
    say(&stage, &updated("a"));
    say(&stage, &changed("tools"));
    assert_eq!(next(&mut body).await.unwrap(), told(TOOLS, ""), "each change is told once");
    let left = Instant::now();
    drop(body);
    upstream.reply.closed().await;
    assert_eq!(left.elapsed(), Duration::ZERO);

    let answer = stage.modern(&listen(wanted));
    let upstream = stage.called().await;
    upstream.note(agreed).await;
    let mut body = stream(answered(answer).await);
    next(&mut body).await.unwrap();
    drop(upstream);
    assert!(next(&mut body).await.unwrap().contains(r#""resultType":"complete""#), "no half stream goes on");
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_legacy_server_is_asked_for_each_resource_and_asked_to_stop_with_the_last_stream() {
    let mut stage = legacy();
    let wanted = r#"{"resourceSubscriptions":["a","b"]}"#;
    let answer = stage.modern(&listen(wanted));
    let (one, other) = (stage.called().await, stage.called().await);
    let asks = |called: &Called, method: &str, uri: &str| {
        let expected = format!(r#""method":"{method}","params":{{"uri":"{uri}"}}}}"#);
        assert!(called.message.ends_with(&expected), "{}", called.message);
    };
    asks(&one, "resources/subscribe", "a");
    asks(&other, "resources/subscribe", "b");
    one.respond(&result("0")).await;
    other.respond(r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32002,"message":"m"}}"#).await;
    let mut body = stream(answered(answer).await);
    assert_eq!(next(&mut body).await.unwrap(), acknowledged(r#"{"resourceSubscriptions":["a"]}"#));
    say(&stage, &updated("b"));
    say(&stage, &updated("a"));
    assert_eq!(next(&mut body).await.unwrap(), told("notifications/resources/updated", r#","uri":"a""#));

    let again = stage.modern(&listen(r#"{"resourceSubscriptions":["a"]}"#));
    stage.called().await.respond(&result("0")).await;
    let second = stream(answered(again).await);
    drop(body);
    pass(Duration::from_millis(1)).await;
    assert!(stage.calls.try_recv().is_err(), "one stream is left");
    drop(second);
    asks(&stage.called().await, "resources/unsubscribe", "a");
}
