use weft_proto::policy::quota::{MILLI, Plan};
use weft_proto::resource::{Spec, parse_one};
use weft_proto::wire::{Meta, Object};

use super::*;
use crate::store::embedded::{EmbeddedStore, Options};

const NOW: i64 = 1_795_737_600;

fn limit(budget: &str) -> Limit {
    let text = format!(
        "{{ apiVersion: weft.dev/v1alpha1, kind: QuotaPolicy, metadata: {{ namespace: a, name: p }}, \
         spec: {{ limits: [{{ name: spend, budget: {budget}, scope: mesh }}] }} }}"
    );
    let resource = parse_one("p.yaml", &text).unwrap();
    let Spec::QuotaPolicy(spec) = resource.spec else { panic!("{text} is a quota policy") };
    let plan = Plan::new(&[Arc::new(Object { meta: Meta::new(&resource.metadata, 1), spec })]);
    plan.limits()[0].clone()
}

fn key(limit: &Limit) -> KeyOf {
    KeyOf { policy: "a/p".to_owned(), limit: limit.identity.to_string(), parts: Vec::new() }
}

async fn store(folder: &std::path::Path) -> EmbeddedStore {
    EmbeddedStore::open(Options::new(folder, Arc::new(crate::clock::now))).await.unwrap()
}

fn who(node: u64) -> Who {
    Who { node, holder: node }
}

/// A sidecar that asks for so many calls, having spent all that it has.
fn needs(loan: Option<&pb::Lease>, calls: u64) -> pb::LeaseDemand {
    let (ends, number, has) =
        loan.map_or((i64::MIN, 0, 0), |loan| (loan.window_ends, loan.number, loan.capacity_milli));
    pb::LeaseDemand {
        handle: 7,
        window_ends: ends,
        number,
        has_milli: has,
        spent_milli: has,
        needs_milli: calls * MILLI,
        wants_milli: calls * MILLI,
        ..pb::LeaseDemand::default()
    }
}

#[tokio::test]
async fn what_was_lent_before_a_restart_counts_as_spent_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let limit = limit("10/day");
    let key = key(&limit);
    {
        let (store, budgets) = (store(folder.path()).await, Budgets::new(10, 10));
        let asks = needs(None, 6);
        assert_eq!(budgets.report(who(1), &key, &limit, (1, &asks), NOW), Err(Unlent::NotRead));
        budgets.read(&store).await.unwrap();
        let loan = budgets.report(who(1), &key, &limit, (1, &asks), NOW).unwrap().unwrap();
        assert_eq!((loan.capacity_milli, loan.is_last), (6 * MILLI, false));
        budgets.write(&store).await.unwrap();
        // Nobody was told of this one.
        budgets.report(who(2), &key, &limit, (1, &needs(None, 1)), NOW).unwrap();
    }
    let (store, budgets) = (store(folder.path()).await, Budgets::new(10, 10));
    budgets.read(&store).await.unwrap();
    let loan = budgets.report(who(3), &key, &limit, (1, &needs(None, 9)), NOW + 60).unwrap().unwrap();
    assert_eq!((loan.capacity_milli, loan.is_last), (4 * MILLI, true));
    // A day later it is another window.
    let next =
        budgets.report(who(3), &key, &limit, (2, &needs(Some(&loan), 9)), NOW + 86_400).unwrap().unwrap();
    assert_eq!((next.capacity_milli, next.window_ends), (9 * MILLI, loan.window_ends + 86_400));
}

#[tokio::test]
async fn one_who_begins_anew_has_nothing_and_what_it_had_is_spent() {
    let folder = tempfile::tempdir().unwrap();
    let (store, budgets) = (store(folder.path()).await, Budgets::new(10, 10));
    budgets.read(&store).await.unwrap();
    let limit = limit("10/day");
    let key = key(&limit);
    budgets.report(who(1), &key, &limit, (5, &needs(None, 6)), NOW).unwrap();
    let again = Who { node: 1, holder: 100 };
    let loan = budgets.report(again, &key, &limit, (1, &needs(None, 9)), NOW).unwrap().unwrap();
    assert_eq!((loan.capacity_milli, loan.is_last), (4 * MILLI, true));
    let standing = budgets.standing(|policy, _| policy == "a/p");
    let [standing] = standing.as_slice() else { panic!("{standing:?}") };
    assert_eq!(
        (standing.whole.capacity, standing.used_milli, standing.lent.capacity),
        (10_000, 6_000, 4_000)
    );
    assert_eq!((standing.holders, &*standing.amount), (1, "10/day"));
}

#[tokio::test]
async fn nodes_name_no_more_budgets_than_they_may_until_windows_end() {
    let folder = tempfile::tempdir().unwrap();
    let (store, budgets) = (store(folder.path()).await, Budgets::new(3, 2));
    budgets.read(&store).await.unwrap();
    let limit = limit("10/day");
    let asks = |node, value: &str, now| {
        let key = KeyOf { parts: vec![("caller".to_owned(), Some(value.to_owned()))], ..key(&limit) };
        budgets
            .report(who(node), &key, &limit, (now as u64, &needs(None, 1)), now)
            .map(|lease| lease.is_some())
    };
    assert_eq!([asks(1, "a", NOW), asks(1, "b", NOW)], [Ok(true); 2]);
    assert_eq!(asks(1, "c", NOW), Err(Unlent::KeysOfNode));
    assert_eq!([asks(2, "a", NOW), asks(2, "c", NOW)], [Ok(true); 2]);
    assert_eq!(asks(3, "d", NOW), Err(Unlent::Keys));
    budgets.sweep(NOW + 1);
    assert_eq!((budgets.len(), asks(3, "d", NOW)), (3, Err(Unlent::Keys)));
    budgets.sweep(NOW + 86_400);
    assert_eq!((budgets.len(), asks(1, "c", NOW + 86_400)), (0, Ok(true)));
}
