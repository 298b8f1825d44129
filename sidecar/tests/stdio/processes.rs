//! Processes: that they come back, and that none is left.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio as Stream};

use super::*;

#[tokio::test]
async fn calls_under_way_are_told_when_the_server_ends_and_it_comes_back() {
    let peer = legacy();
    let mut waiting = ask(&peer, "b", &calling(1, "never", json!({}))).await.unwrap();
    let refusal = end(&peer, "a", &calling(1, "exit", json!({}))).await.unwrap_err();
    let Refusal::ChildExited(reason) = &refusal else { panic!("{refusal:?}") };
    assert_eq!(reason, "it exited with code 3; it said last: Error: asked to");
    assert!(matches!(all(&mut waiting).await[..], [Err(Refusal::ChildExited(_))]));
    assert_eq!(call(&peer, "echo", json!({"n": 1})).await["arguments"]["n"], 1);
    assert_eq!(peer.state().restarts, 1);
}

#[tokio::test]
async fn an_answer_without_its_line_end_is_one_if_nothing_more_comes() {
    let peer = legacy();
    let response = end(&peer, "a", &calling(1, "cut", json!({}))).await.unwrap();
    assert_eq!(response["result"]["cut"], true);
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_said_to_be_none() {
    let stdio: Stdio = serde_json::from_value(json!({"command": "weft-no-such-command"})).unwrap();
    let peer = StdioPeer::start(&stdio, ServerName::parse("t/s").unwrap(), &Limits::default(), launcher());
    let refusal = ask(&peer, "a", &calling(1, "echo", json!({}))).await.unwrap_err();
    let Refusal::ChildBusy(reason) = refusal else { panic!("{refusal:?}") };
    assert!(reason.contains("it exited with code 127") && reason.contains("cannot be run"), "{reason}");
    peer.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_stubborn_server_and_all_that_it_started_are_ended() {
    let peer = start(&["legacy", "stubborn"], json!({}), &Limits::default());
    let below = pids(&call(&peer, "fork", json!({})).await);
    let launchers = peer.state().pids;
    assert!(below.iter().chain(&launchers).all(|pid| is_alive(*pid)));
    timeout(PATIENCE, peer.stop(Duration::from_millis(300))).await.unwrap();
    assert!(below.iter().chain(&launchers).all(|pid| !is_alive(*pid)));
    assert!(matches!(ask(&peer, "a", &calling(1, "echo", json!({}))).await, Err(Refusal::Draining)));
}

#[tokio::test]
async fn what_a_server_left_behind_ends_with_it() {
    let peer = legacy();
    let below = pids(&call(&peer, "fork", json!({})).await);
    let _ = end(&peer, "a", &calling(1, "exit", json!({}))).await;
    assert!(below.iter().all(|pid| !is_alive(*pid)));
}

#[tokio::test]
async fn a_peer_that_is_dropped_leaves_nothing() {
    let peer = start(&["legacy", "stubborn"], json!({}), &Limits::default());
    let below = pids(&call(&peer, "fork", json!({})).await);
    drop(peer);
    until("everyone is gone", || below.iter().all(|pid| !is_alive(*pid))).await;
}

#[tokio::test]
async fn a_killed_launcher_takes_the_command_with_it() {
    let peer = legacy();
    let command = pids(&call(&peer, "pid", json!({})).await)[0];
    kill(peer.state().pids[0]);
    until("the command is gone", || !is_alive(command)).await;
    until("it is started again", || peer.state().restarts == 1).await;
    assert_eq!(call(&peer, "echo", json!({"n": 1})).await["arguments"]["n"], 1);
}

#[tokio::test]
async fn a_server_that_comes_back_in_another_era_is_not_sent_what_was_meant_for_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let era = folder.path().join("era");
    std::fs::write(&era, "modern").unwrap();
    let peer = start(&[era.to_str().unwrap()], json!({}), &Limits::default());
    let introduction = timeout(PATIENCE, peer.introduction()).await.unwrap().unwrap();
    assert_eq!(introduction.era, Era::Modern);
    std::fs::write(&era, "legacy").unwrap();
    kill(peer.state().pids[0]);
    until("the end is noticed", || !matches!(*peer.phase().borrow(), Phase::Ready(_))).await;
    // It waits for the next process, which turns out to be another.
    let refusal = ask(&peer, "a", &enveloped(calling(1, "echo", json!({})))).await.unwrap_err();
    assert!(matches!(&refusal, Refusal::ChildBusy(why) if why.contains("another era")), "{refusal:?}");
    assert_eq!(call(&peer, "echo", json!({"n": 1})).await["arguments"]["n"], 1);
}

const MIDDLE: &str = "WEFT_TEST_MIDDLE";

/// No test, unless it is the process that the next one kills.
#[tokio::test]
async fn the_process_in_the_middle() {
    let Some(file) = std::env::var_os(MIDDLE) else { return };
    let peer = start(&["legacy", "stubborn"], json!({}), &Limits::default());
    let mut below = pids(&call(&peer, "fork", json!({})).await);
    below.extend(peer.state().pids);
    let written = PathBuf::from(file);
    std::fs::write(written.with_extension("new"), json!(below).to_string()).unwrap();
    std::fs::rename(written.with_extension("new"), written).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_sidecar_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let mut middle = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::the_process_in_the_middle"])
        .env(MIDDLE, &file)
        .stdout(Stream::null())
        .spawn()
        .unwrap();
    until("the process in the middle has started everyone", || file.exists()).await;
    let below = pids(&serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap());
    assert!(below.len() == 3 && below.iter().all(|pid| is_alive(*pid)));
    middle.kill().unwrap();
    assert_eq!(middle.wait().unwrap().signal(), Some(9));
    until("everyone is gone", || below.iter().all(|pid| !is_alive(*pid))).await;
}

fn kill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}
