use super::*;

fn shelf(max: usize, per_caller_max: usize, bytes_max: usize) -> Shelf {
    let limits = Limits {
        tasks_max: max,
        tasks_per_caller_max: per_caller_max,
        tasks_bytes_max: bytes_max,
        ..Limits::default()
    };
    Shelf::new(&limits)
}

fn ann() -> Arc<str> {
    "ann".into()
}

fn result(text: &str) -> End {
    End::Result(text.to_owned())
}

fn begin(shelf: &Shelf, caller: &Arc<str>, id: &str) -> Result<(), Refusal> {
    shelf.reserve(caller).map(|place| place.begun(Begun { id: id.into(), own: id.into() }))
}

fn ids(shelf: &Shelf, caller: &str) -> Vec<String> {
    let all = shelf.of(caller).into_iter();
    all.map(|listed| match listed {
        Listed::There(begun) => begun.id.to_string(),
        Listed::Here(finished) => finished.id.clone(),
    })
    .collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_is_its_callers_alone_and_for_its_time() {
    let shelf = shelf(4, 4, 100);
    let place = shelf.reserve(&ann()).unwrap();
    let key = place.key;
    assert!(matches!(shelf.find("ann", key), Err(Refusal::TaskUnknown)), "nothing is there yet");
    place.keep("1".to_owned(), result("{}"), Some(Duration::from_secs(60)));
    assert_eq!(shelf.find("ann", key).unwrap().end, result("{}"));
    assert!(matches!(shelf.find("bob", key), Err(Refusal::TaskUnknown)));
    assert_eq!((ids(&shelf, "ann"), ids(&shelf, "bob")), (vec!["1".to_owned()], Vec::new()));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(matches!(shelf.find("ann", key), Err(Refusal::TaskUnknown)));
    assert!(shelf.of("ann").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_result_is_kept_no_longer_than_may_be_and_no_shorter_than_it_takes_to_ask() {
    let shelf = shelf(4, 4, 100);
    for (wanted, expected) in [(None, 300), (Some(86_400), 300), (Some(0), 10), (Some(20), 20)] {
        let place = shelf.reserve(&ann()).unwrap();
        let kept = place.keep("1".to_owned(), result("{}"), wanted.map(Duration::from_secs));
        let standing: serde_json::Value = serde_json::from_str(&kept.task().standing("1")).unwrap();
        assert_eq!(standing["ttl"], expected * 1000, "{wanted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn results_have_their_places_before_they_come_and_whoever_needs_one_more_is_refused() {
    let shelf = shelf(3, 2, 100);
    let places = [shelf.reserve(&ann()).unwrap(), shelf.reserve(&ann()).unwrap()];
    assert!(matches!(shelf.reserve(&ann()), Err(Refusal::TooManyTasks)), "as many as one caller may have");
    let other = shelf.reserve(&"bob".into()).unwrap();
    assert!(matches!(shelf.reserve(&"eve".into()), Err(Refusal::TooManyTasks)), "as many as there may be");
    drop(other);
    assert!(shelf.reserve(&"eve".into()).is_ok(), "what was not used is given back");
    drop(places);
    assert!(shelf.of("ann").is_empty());
}

#[tokio::test(start_paused = true)]
async fn tasks_that_their_server_holds_make_room_for_others_the_oldest_first() {
    let shelf = shelf(3, 2, 100);
    for id in ["1", "2", "3"] {
        begin(&shelf, &ann(), id).unwrap();
    }
    assert_eq!(ids(&shelf, "ann"), ["3", "2"]);
    begin(&shelf, &"bob".into(), "4").unwrap();
    begin(&shelf, &"bob".into(), "5").unwrap();
    assert_eq!(
        (ids(&shelf, "ann"), ids(&shelf, "bob")),
        (vec!["3".to_owned()], vec!["5".to_owned(), "4".to_owned()])
    );
    shelf.forget("4");
    assert_eq!(ids(&shelf, "bob"), ["5"]);
}

#[tokio::test(start_paused = true)]
async fn of_a_result_for_which_there_is_no_room_it_is_kept_that_it_was_lost() {
    let shelf = shelf(4, 4, 10);
    let keep = |text: &str| shelf.reserve(&ann()).unwrap().keep("1".to_owned(), result(text), None);
    assert_eq!(keep(r#"{"a":123}"#).end, result(r#"{"a":123}"#));
    let lost = keep("{}");
    let End::Error(error) = &lost.end else { panic!("{lost:?}") };
    assert!(error.contains("too_many_tasks") && error.contains("4296"), "{error}");
    assert_eq!(lost.task().status(), crate::bridge::tasks::Status::Failed);
}
