//! Places, by who gets them.

use std::collections::HashMap;

use proptest::prelude::*;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;

fn take_all(fair: &Fair, caller: &str) -> Vec<Taken> {
    let caller = caller.into();
    std::iter::from_fn(|| fair.take(&caller).ok()).collect()
}

fn has(waits: &mut Waits) -> Option<Taken> {
    match waits.place.try_recv() {
        Ok(taken) => Some(taken),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Closed) => panic!("a call in the queue was forgotten"),
    }
}

fn is_as_new(fair: &Fair, places: u32, queue: u32) -> bool {
    let state = fair.lock();
    let nobody = state.places.held.is_empty() && state.queue.held.is_empty() && state.lines.is_empty();
    nobody && (state.places.free, state.queue.free) == (places, queue)
}

#[test]
fn one_caller_leaves_an_eighth_two_leave_a_fifteenth_and_of_eight_places_one_may_have_all() {
    for (places, left) in [(1, 0), (8, 0), (9, 1), (256, 31), (10_000, 1249)] {
        let fair = Fair::new(places, 0);
        let held = take_all(&fair, "a");
        assert_eq!(held.len() as u32, places - left, "{places}");
        assert_eq!(fair.take(&"a".into()).unwrap_err(), if left == 0 { Full::All } else { Full::Share });
    }
    let fair = Fair::new(256, 0);
    let mut held = Vec::new();
    while let (Ok(one), Ok(two)) = (fair.take(&"a".into()), fair.take(&"b".into())) {
        held.extend([one, two]);
    }
    assert_eq!(256 - held.len(), 16);
    fair.take(&"c".into()).expect("a third finds a place");
    drop(held);
    assert!(is_as_new(&fair, 256, 0));
}

#[test]
fn a_place_that_is_free_again_goes_to_whoever_waits_by_turns_of_callers() {
    let fair = Fair::new(3, 100);
    let mut held = take_all(&fair, "busy");
    let mut many: Vec<_> = (0..50).map(|_| fair.wait(&"greedy".into()).unwrap()).collect();
    let mut single = fair.wait(&"modest".into()).unwrap();
    let mut got = Vec::new();
    held.pop();
    got.push(has(&mut many[0]).expect("who came first has the first place"));
    held.pop();
    got.push(has(&mut single).expect("the second is another caller's"));
    assert!(has(&mut many[1]).is_none());
    held.pop();
    got.push(has(&mut many[1]).expect("and then it goes on"));
    drop((single, many, got));
    assert!(is_as_new(&fair, 3, 100));
}

#[test]
fn one_caller_does_not_fill_the_queue() {
    let fair = Fair::new(1, 80);
    let _held = fair.take(&"busy".into()).unwrap();
    let mut waiting = Vec::new();
    let full = loop {
        match fair.wait(&"greedy".into()) {
            Ok(waits) => waiting.push(waits),
            Err(full) => break full,
        }
    };
    assert_eq!((full, waiting.len()), (Full::Share, 71));
    fair.wait(&"modest".into()).expect("others may wait");
}

#[test]
fn whoever_leaves_the_queue_is_passed_over_even_with_a_place_already_given() {
    let fair = Fair::new(1, 3);
    let held = fair.take(&"a".into()).unwrap();
    let [gone, given, mut last] = [(); 3].map(|()| fair.wait(&"b".into()).unwrap());
    drop(gone);
    drop(held);
    assert!(has(&mut last).is_none(), "it is the second's");
    drop(given);
    let taken = has(&mut last).expect("what the second did not use");
    drop((taken, last));
    assert!(is_as_new(&fair, 1, 3));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Call(usize),
    End(usize),
    Leave(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4_usize).prop_map(Step::Call),
        2 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Leave),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Whatever happens: no more places than there are, none lost, and nobody waits who could have one.
    #[test]
    fn places_are_neither_lost_nor_made_and_nobody_waits_in_vain(places in 1_u32..40, queue in 0_u32..20, steps in steps()) {
        let fair = Fair::new(places, queue);
        let (mut taken, mut waiting) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Call(who) => {
                    let caller: Arc<str> = format!("caller-{who}").into();
                    match fair.take(&caller) {
                        Ok(place) => taken.push(place),
                        Err(_) => waiting.extend(fair.wait(&caller).ok()),
                    }
                }
                Step::End(at) if !taken.is_empty() => drop(taken.swap_remove(at % taken.len())),
                Step::Leave(at) if !waiting.is_empty() => drop(waiting.swap_remove(at % waiting.len())),
                Step::End(_) | Step::Leave(_) => {}
            }
            let mut still = Vec::new();
            for mut waits in waiting {
                match has(&mut waits) {
                    Some(place) => taken.push(place),
                    None => still.push(waits),
                }
            }
            waiting = still;
            let state = fair.lock();
            prop_assert_eq!(taken.len() + state.places.free as usize, places as usize);
            prop_assert_eq!(waiting.len() + state.queue.free as usize, queue as usize);
            let mut held: HashMap<Arc<str>, u32> = HashMap::new();
            taken.iter().for_each(|it| *held.entry(Arc::clone(&it.caller)).or_default() += 1);
            prop_assert_eq!(&held, &state.places.held);
            for waits in &waiting {
                prop_assert!(state.places.may(&waits.caller).is_err(), "{} waits in vain", waits.caller);
            }
        }
        drop((taken, waiting));
        prop_assert!(is_as_new(&fair, places, queue));
    }
}
