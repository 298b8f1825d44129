//! Children that are asked how they are.

use weft_sidecar::health::check::Probe as _;
use weft_sidecar::stdio::check::StdioProbe;

use super::*;

/// What a check that has all the time it needs finds.
async fn found(probe: &mut StdioProbe) -> Option<Result<(), String>> {
    timeout(PATIENCE, probe.ask()).await.expect("no check takes that long")
}

#[tokio::test]
async fn a_child_is_asked_what_its_era_has_for_that_and_one_that_says_nothing_is_asked_once() {
    for (era, question) in [("legacy", "ping"), ("modern", "server/discover")] {
        let peer = start(&[era], json!({}), &Limits::default());
        peer.introduction().await.unwrap();
        let mut probe = StdioProbe::new(Arc::clone(&peer));
        assert_eq!(found(&mut probe).await, Some(Ok(())));
        call(&peer, "mute", json!({})).await;
        for _ in 0..3 {
            let asked = timeout(Duration::from_millis(50), probe.ask()).await;
            assert!(asked.is_err(), "{asked:?}");
        }
        assert_eq!(call(&peer, "held", json!({})).await, json!([question]));
        call(&peer, "unmute", json!({})).await;
        assert_eq!(found(&mut probe).await, Some(Ok(())), "the late answer is one");
        assert_eq!(found(&mut probe).await, Some(Ok(())), "and then it is asked again");
        peer.stop(Duration::from_secs(3)).await;
        assert_eq!(found(&mut probe).await, None, "a child that is gone says nothing");
    }
}

#[tokio::test]
async fn a_question_that_the_child_did_not_live_to_answer_counts_as_a_bad_answer() {
    let peer = legacy();
    peer.introduction().await.unwrap();
    let mut probe = StdioProbe::new(Arc::clone(&peer));
    call(&peer, "mute", json!({})).await;
    assert!(timeout(Duration::from_millis(50), probe.ask()).await.is_err());
    end(&peer, "a", &calling(1, "exit", json!({}))).await.unwrap_err();
    let told = found(&mut probe).await.unwrap().unwrap_err();
    assert!(told.contains("exited with code 3"), "{told}");
    until("another child is there", || matches!(peer.state().phase, Phase::Ready(_))).await;
    assert_eq!(found(&mut probe).await, Some(Ok(())));
}
