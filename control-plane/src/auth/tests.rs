use std::sync::Arc;

use weft_proto::name::ObjectName;

use super::*;
use crate::store::embedded::{EmbeddedStore, Options};
use crate::store::{Prefix, Revision, Store, list_all};

const START: SystemTime = SystemTime::UNIX_EPOCH;

async fn open(directory: &tempfile::TempDir) -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::open(Options::new(directory.path(), Arc::new(|| START))).await.unwrap())
}

fn wanted(name: &str, scope: Scope, expires_in: Option<u64>) -> Wanted {
    Wanted { name: ObjectName::parse(name).unwrap(), scope, expires_in: expires_in.map(Duration::from_secs) }
}

fn actor() -> Actor {
    Actor { name: "admin".to_owned(), from: None }
}

#[tokio::test]
async fn the_admin_token_is_made_once_and_can_be_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let first = bootstrap(&*store, START).await.unwrap().unwrap().to_string();
    assert!(bootstrap(&*store, START).await.unwrap().is_none());
    let keys = Keys::new(Arc::clone(&store));
    let principal = keys.authenticate(Some(&first), None, START).await.unwrap();
    assert_eq!((principal.name.as_str(), principal.scope), ("admin", Scope::Admin));
    let second = reset(&*store, START).await.unwrap().to_string();
    assert!(matches!(keys.authenticate(Some(&first), None, START).await, Err(Denied::Unknown)));
    assert!(keys.authenticate(Some(&second), None, START).await.is_ok());
    assert!(!keys.still_holds(&principal, START).await.unwrap());
}

#[tokio::test]
async fn the_store_never_sees_a_secret() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let admin = bootstrap(&*store, START).await.unwrap().unwrap().to_string();
    let (_, entries) = list_all(&*store, &Prefix::all(), None).await.unwrap();
    let stored: String = entries.iter().map(|it| String::from_utf8_lossy(&it.value).into_owned()).collect();
    assert!(stored.contains("\"hash\""));
    assert!(!stored.contains(&admin[admin.len() - 43..]));
}

#[tokio::test]
async fn a_key_holds_until_it_expires_or_is_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let keys = Keys::new(Arc::clone(&store));
    let (secret, key) = keys.create(&wanted("ci", Scope::Operator, Some(60)), &actor(), START).await.unwrap();
    let (secret, later) = (secret.to_string(), START + Duration::from_secs(60));
    let principal = keys.authenticate(Some(&secret), None, START).await.unwrap();
    assert_eq!(principal.scope, Scope::Operator);
    assert!(matches!(keys.authenticate(Some(&secret), None, later).await, Err(Denied::Expired)));
    assert!(keys.still_holds(&principal, START).await.unwrap());
    assert!(!keys.still_holds(&principal, later).await.unwrap());
    keys.revoke(&key.id, &actor(), START).await.unwrap();
    assert!(matches!(keys.authenticate(Some(&secret), None, START).await, Err(Denied::Unknown)));
    assert!(matches!(keys.revoke(&key.id, &actor(), START).await, Err(Error::NoSuchKey { .. })));
    let audit = store.audit(store::audit::Filter { limit: 10, ..Default::default() }).await.unwrap();
    let actions: Vec<_> = audit.iter().map(|it| it.record.action.as_str()).collect();
    assert_eq!(actions, ["key.revoke", "key.create"]);
}

#[tokio::test]
async fn two_keys_cannot_have_one_name_even_when_made_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Arc::new(Keys::new(open(&directory).await));
    let made = (0..8).map(|_| {
        let keys = Arc::clone(&keys);
        tokio::spawn(
            async move { keys.create(&wanted("ci", Scope::Admin, None), &actor(), START).await.is_ok() },
        )
    });
    let made = futures_util::future::join_all(made).await;
    assert_eq!(made.into_iter().filter(|made| *made.as_ref().unwrap()).count(), 1);
    assert_eq!(keys.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_last_lasting_admin_key_stays() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(open(&directory).await);
    let (_, first) = keys.create(&wanted("a", Scope::Admin, None), &actor(), START).await.unwrap();
    keys.create(&wanted("b", Scope::Admin, Some(60)), &actor(), START).await.unwrap();
    assert!(matches!(keys.revoke(&first.id, &actor(), START).await, Err(Error::LastAdmin)));
    keys.create(&wanted("c", Scope::Admin, None), &actor(), START).await.unwrap();
    keys.revoke(&first.id, &actor(), START).await.unwrap();
}

#[tokio::test]
async fn keys_that_expired_long_ago_are_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(open(&directory).await);
    keys.create(&wanted("a", Scope::Readonly, Some(60)), &actor(), START).await.unwrap();
    let later = START + Duration::from_secs(8 * 86_400);
    keys.create(&wanted("a", Scope::Readonly, None), &actor(), later).await.unwrap();
    assert_eq!(keys.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn whoever_keeps_failing_is_told_to_wait_and_a_good_key_still_passes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let good = bootstrap(&*store, START).await.unwrap().unwrap().to_string();
    let keys = Keys::new(Arc::clone(&store));
    let from = Some([192, 0, 2, 1].into());
    for _ in 0..10 {
        assert!(matches!(keys.authenticate(Some("weft_x_y"), from, START).await, Err(Denied::Unknown)));
    }
    assert!(matches!(keys.authenticate(None, from, START).await, Err(Denied::Throttled { .. })));
    assert!(keys.authenticate(Some(&good), from, START).await.is_ok());
    assert_eq!(store.head().await.unwrap().revision, Revision(1), "authentication writes nothing");
}
