use super::*;
use crate::inject::Skip;
use crate::inject::annotations::Mistake;

fn told(outcome: Outcome, owner: Option<(&str, &str)>) -> Told {
    let owner = owner.map(|(kind, name)| Owner {
        api_version: "apps/v1".to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: "0a1b".to_owned(),
    });
    let (namespace, name) = ("shop".to_owned(), "web-".to_owned());
    Told { namespace, name, outcome, dry_run: false, owner }
}

fn check(told: &Told, on_mistake: OnMistake, expected: Option<(&str, &str, &str)>) {
    let event = of(told, on_mistake);
    let found = event.as_ref().map(|it| (it.reason.word(), it.about.kind.as_str(), it.note.as_str()));
    assert_eq!(found, expected, "{told:?}");
}

#[test]
fn what_became_of_a_pod_is_told_of_its_owner_and_else_of_its_namespace() {
    let owner = Some(("ReplicaSet", "web-5c"));
    let (refuse, skip) = (OnMistake::Refuse, OnMistake::Skip);
    check(
        &told(Outcome::Injected, owner),
        refuse,
        Some(("Injected", "ReplicaSet", "a pod of it got its sidecar")),
    );
    check(
        &told(Outcome::Injected, None),
        refuse,
        Some(("Injected", "Namespace", "the pod web- got its sidecar")),
    );
    let windows = "a pod of it is made without its sidecar: it is a pod for Windows";
    check(
        &told(Outcome::Skipped(Skip::Windows), owner),
        refuse,
        Some(("InjectionSkipped", "ReplicaSet", windows)),
    );
    let wrong = Mistake { name: "weft.dev/port".to_owned(), why: "no port".to_owned() };
    let wrong = told(Outcome::Skipped(Skip::Mistakes(vec![wrong])), owner);
    let refused = "a pod of it was refused, as it cannot have its sidecar: weft.dev/port: no port";
    check(&wrong, refuse, Some(("InjectionRefused", "ReplicaSet", refused)));
    let skipped = "a pod of it is made without its sidecar: weft.dev/port: no port";
    check(&wrong, skip, Some(("InjectionSkipped", "ReplicaSet", skipped)));
}

#[test]
fn nobody_is_told_where_nobody_asked() {
    for outcome in [
        Outcome::Skipped(Skip::NotAsked),
        Outcome::Skipped(Skip::Disabled),
        Outcome::Skipped(Skip::AlreadyInjected),
        Outcome::Other,
        Outcome::Misunderstood("x".to_owned()),
    ] {
        check(&told(outcome, None), OnMistake::Refuse, None);
    }
}

#[test]
fn what_is_no_name_of_an_object_is_repeated_nowhere() {
    let forged = |kind: &str, name: &str| told(Outcome::Injected, Some((kind, name)));
    for hostile in
        [forged("Replica Set", "a"), forged("ReplicaSet", "../a"), forged("ReplicaSet", ""), forged("", "a")]
    {
        check(&hostile, OnMistake::Refuse, Some(("Injected", "Namespace", "the pod web- got its sidecar")));
    }
    let mut hostile = told(Outcome::Injected, None);
    hostile.name = "\u{1b}[31m".to_owned();
    check(&hostile, OnMistake::Refuse, Some(("Injected", "Namespace", "a pod got its sidecar")));
    for namespace in ["", "../kube-system", "A", "a/b"] {
        namespace.clone_into(&mut hostile.namespace);
        check(&hostile, OnMistake::Refuse, None);
    }
    let long = Skip::NameTaken("x".repeat(5000));
    let event = of(&told(Outcome::Skipped(long), None), OnMistake::Skip).unwrap();
    assert!(event.note.len() <= NOTE_BYTES_MAX);
}

fn event(namespace: usize, note: usize) -> Event {
    let namespace = Namespace::parse(&format!("n{namespace}")).unwrap();
    Event::new(namespace.clone(), About::namespace(&namespace), Reason::Injected, &note.to_string())
}

fn next(queue: &mut Queue, now: Instant) -> (Arc<Event>, Series) {
    match queue.next(now) {
        Step::Write(event, series) => (event, series),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_happens_again_is_counted_and_is_one_event() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let after = |secs| now + Duration::from_secs(secs);
    assert_eq!(queue.next(now), Step::Nothing);
    for _ in 0..3 {
        assert!(queue.push(event(1, 1)));
    }
    let (written, first) = next(&mut queue, now);
    assert_eq!((first.count, first.is_known), (3, false));
    let said = super::written(&written, &first, "me", Some(MicroTime(Timestamp::UNIX_EPOCH)));
    assert_eq!((said.series.unwrap().count, said.type_.unwrap()), (3, "Normal".to_owned()));
    queue.wrote(written, first.clone());
    queue.push(event(1, 1));
    queue.push(event(2, 1));
    // What was written a moment ago lets others go first, and waits.
    let (other, _) = next(&mut queue, after(1));
    assert_eq!(*other, event(2, 1));
    assert_eq!(queue.next(after(1)), Step::Later);
    let (again, second) = next(&mut queue, after(6));
    assert_eq!((second.count, second.is_known, &second.name), (4, true, &first.name));
    // One that is gone is written anew; so is one after a long time.
    queue.forget(&again);
    queue.push(event(1, 1));
    let (written, third) = next(&mut queue, after(7));
    assert!(!third.is_known && third.name != first.name && third.count == 1);
    queue.wrote(written, third);
    queue.push(event(1, 1));
    assert!(!next(&mut queue, after(8 + 360)).1.is_known);
}

#[test]
fn one_namespace_does_not_take_the_room_of_others() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let taken = (0..100).filter(|note| queue.push(event(1, *note))).count();
    assert_eq!(taken, queue::NAMESPACE_WAITING_MAX);
    assert!(queue.push(event(2, 0)) && queue.push(event(1, 0)), "what waits is counted");
    next(&mut queue, now);
    assert!(queue.push(event(1, 200)) && !queue.push(event(1, 201)));
    let all = (0..3000).filter(|it| queue.push(event(10 + it, 0))).count();
    assert_eq!(all + queue::NAMESPACE_WAITING_MAX + 1, queue::WAITING_MAX);
}

#[test]
fn what_is_remembered_is_bounded() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    for it in 0..queue::KNOWN_MAX + 1 {
        assert!(queue.push(event(it, 0)));
        let (event, series) = next(&mut queue, now);
        queue.wrote(event, series);
    }
    queue.push(event(queue::KNOWN_MAX, 0));
    assert!(next(&mut queue, now + Duration::from_secs(6)).1.is_known);
    queue.push(event(0, 0));
    assert!(!next(&mut queue, now + Duration::from_secs(6)).1.is_known);
}

#[test]
fn names_of_events_are_names() {
    let mut queue = Queue::default();
    let namespace: Namespace = "shop".parse().unwrap();
    let about = About::parse("v1", "Pod", &format!("{}.{}", "a".repeat(229), "b".repeat(23)), "").unwrap();
    queue.push(Event::new(namespace, about, Reason::SidecarMissing, "n"));
    let (event, series) = next(&mut queue, Instant::now());
    assert!(
        series.name.len() <= 253 && is_name(&series.name) && !series.name.contains(".."),
        "{}",
        series.name
    );
    assert_eq!(written(&event, &series, "me", None).type_.unwrap(), "Warning");
}

#[tokio::test]
async fn telling_counts_what_it_drops_and_never_waits() {
    let events = Events::new(Arc::new(Metrics::new()));
    for note in 0..queue::NAMESPACE_WAITING_MAX + 7 {
        events.tell(event(1, note));
    }
    let dropped = events.metrics.cluster_events.get_or_create(&ReasonLabel { reason: "dropped" }).get();
    assert_eq!(dropped, 7);
}
