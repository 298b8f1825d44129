use std::time::Duration;

use weft_proto::pb::weft::ask::v1::{HoldsWhat, Logs, Tap, Tapped};

use super::*;

fn whom(name: &str) -> Whom {
    let identity = SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap();
    (identity, NodeId::parse(&format!("research/{name}")).unwrap())
}

struct Sidecar {
    whom: Whom,
    line: Arc<Line>,
    questions: mpsc::Receiver<Result<Question, Status>>,
}

fn listens(lines: &Lines, name: &str) -> Sidecar {
    let (sender, questions) = mpsc::channel(OUTGOING_MAX);
    let line = lines.listens(whom(name), sender, CancellationToken::new());
    Sidecar { whom: whom(name), line, questions }
}

fn holds_what() -> Asks {
    Asks::HoldsWhat(HoldsWhat::default())
}

fn logs(id: u64, last: bool) -> Answer {
    Answer { id, last, says: Some(Says::Logs(Logs::default())), ..Answer::default() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

#[tokio::test]
async fn a_question_is_answered_by_whoever_it_was_asked_until_the_last_answer() {
    let lines = Lines::default();
    assert_eq!(lines.ask(&whom("a"), holds_what()).unwrap_err(), Error::Unasked);
    let mut sidecar = listens(&lines, "a");
    let mut answers = lines.ask(&sidecar.whom, holds_what()).unwrap();
    let id = sidecar.questions.try_recv().unwrap().unwrap().id;
    assert!(!sidecar.line.answered(logs(id + 1, true)), "nothing else was asked");
    assert!(sidecar.line.answered(logs(id, false)) && sidecar.line.answered(logs(id, true)));
    assert!(!sidecar.line.answered(logs(id, true)), "the last answer was the last");
    assert!(answers.next(soon()).await.unwrap().is_some() && answers.next(soon()).await.unwrap().is_some());
    assert_eq!(answers.next(soon()).await, Ok(None));
    drop(answers);
    assert!(sidecar.questions.try_recv().is_err(), "there is nothing to stop");
}

#[tokio::test]
async fn a_sidecar_that_refuses_is_quoted() {
    let lines = Lines::default();
    let mut sidecar = listens(&lines, "a");
    let mut answers = lines.ask(&sidecar.whom, holds_what()).unwrap();
    let id = sidecar.questions.try_recv().unwrap().unwrap().id;
    sidecar.line.answered(Answer {
        id,
        last: true,
        failure: "no such filter".to_owned(),
        ..Answer::default()
    });
    assert_eq!(answers.next(soon()).await, Err(Error::Refused("no such filter".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_sidecar_that_hangs_for_longer_than_they_said() {
    let lines = Lines::default();
    let sidecar = listens(&lines, "a");
    let mut answers = lines.ask(&sidecar.whom, holds_what()).unwrap();
    let began = Instant::now();
    assert_eq!(answers.next(soon()).await, Err(Error::Silent));
    assert_eq!(began.elapsed(), Duration::from_secs(1));
}

#[tokio::test]
async fn a_sidecar_that_takes_no_questions_is_found_out_without_waiting_and_the_number_of_questions_is_bounded()
 {
    let lines = Lines::default();
    let sidecar = listens(&lines, "a");
    let ask = || lines.ask(&sidecar.whom, holds_what());
    let open: Vec<_> = (0..QUESTIONS_PER_SIDECAR_MAX).map(|_| ask().unwrap()).collect();
    assert_eq!(ask().unwrap_err(), Error::Busy);
    drop(open);
    // Each of them was stopped; nobody took any of it.
    assert_eq!(ask().unwrap_err(), Error::Silent);
}

#[tokio::test]
async fn whoever_wants_no_more_says_so() {
    let lines = Lines::default();
    let mut sidecar = listens(&lines, "a");
    drop(lines.ask(&sidecar.whom, Asks::Tap(Tap::default())).unwrap());
    let asked = sidecar.questions.try_recv().unwrap().unwrap();
    let stopped = sidecar.questions.try_recv().unwrap().unwrap();
    assert_eq!((stopped.id, stopped.asks), (asked.id, Some(Asks::Stop(Stop {}))));
}

#[tokio::test]
async fn calls_that_come_faster_than_they_are_taken_are_counted_and_other_answers_end_the_question() {
    let lines = Lines::default();
    let mut sidecar = listens(&lines, "a");
    let tap = lines.ask(&sidecar.whom, Asks::Tap(Tap::default())).unwrap();
    let id = sidecar.questions.try_recv().unwrap().unwrap().id;
    for _ in 0..ANSWERS_MAX + 10 {
        let tapped = Tapped { calls: vec![Default::default(); 3], lost: 1 };
        assert!(sidecar.line.answered(Answer { id, says: Some(Says::Tapped(tapped)), ..Answer::default() }));
    }
    let lost = 4 * (ANSWERS_MAX + 10 - TAPPED_MAX) as u64;
    assert_eq!((tap.take_lost(), tap.take_lost()), (lost, 0));
    let mut long = lines.ask(&sidecar.whom, holds_what()).unwrap();
    let id = sidecar.questions.try_recv().unwrap().unwrap().id;
    let taken = (0..ANSWERS_MAX + 10).take_while(|_| sidecar.line.answered(logs(id, false))).count();
    assert_eq!(taken, ANSWERS_MAX + 1);
    let mut told = 0;
    let end = loop {
        match long.next(soon()).await {
            Ok(Some(_)) => told += 1,
            end => break end,
        }
    };
    assert_eq!((told, end), (ANSWERS_MAX, Err(Error::TooLong)));
}

#[tokio::test]
async fn answers_have_a_limit_in_bytes_too() {
    let lines = Lines::default();
    let mut sidecar = listens(&lines, "a");
    let mut answers = lines.ask(&sidecar.whom, holds_what()).unwrap();
    let id = sidecar.questions.try_recv().unwrap().unwrap().id;
    let long = || {
        let logs = Logs { filter: "x".repeat(ANSWER_BYTES_MAX), ..Logs::default() };
        Answer { id, says: Some(Says::Logs(logs)), ..Answer::default() }
    };
    let taken = (0..ANSWERS_MAX).take_while(|_| sidecar.line.answered(long())).count();
    assert_eq!(taken, ANSWERS_BYTES_MAX / ANSWER_BYTES_MAX);
    for _ in 1..taken {
        assert!(answers.next(soon()).await.unwrap().is_some());
    }
    assert_eq!(answers.next(soon()).await, Err(Error::TooLong));
}

#[tokio::test]
async fn who_waits_for_a_sidecar_that_leaves_is_told() {
    let lines = Lines::default();
    let sidecar = listens(&lines, "a");
    let mut answers = lines.ask(&sidecar.whom, holds_what()).unwrap();
    sidecar.line.over.cancel();
    lines.left(&sidecar.whom, &sidecar.line);
    assert_eq!(answers.next(soon()).await, Err(Error::Left));
    assert_eq!(lines.ask(&sidecar.whom, holds_what()).unwrap_err(), Error::Unasked);
}

#[tokio::test]
async fn a_newer_stream_takes_over_and_the_end_of_the_older_takes_nothing_away() {
    let lines = Lines::default();
    let former = listens(&lines, "a");
    let mut newer = listens(&lines, "a");
    assert!(former.line.over.is_cancelled());
    lines.left(&former.whom, &former.line);
    let _answers = lines.ask(&newer.whom, holds_what()).unwrap();
    assert!(newer.questions.try_recv().is_ok());
}
