use super::*;
use crate::store::embedded::{EmbeddedStore, Options};

const START: SystemTime = SystemTime::UNIX_EPOCH;
const ROOT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

async fn tokens(directory: &tempfile::TempDir) -> Arc<Tokens> {
    let store = EmbeddedStore::open(Options::new(directory.path(), Arc::new(|| START))).await.unwrap();
    Arc::new(Tokens::new(Arc::new(store), TrustDomain::parse("corp.example").unwrap()))
}

fn wanted(uses: u32) -> Wanted {
    Wanted {
        namespace: Namespace::parse("research").unwrap(),
        account: ServiceAccount::parse("files").unwrap(),
        uses,
        expires_in: Duration::from_secs(3600),
        description: None,
    }
}

async fn create(tokens: &Tokens, uses: u32) -> JoinToken {
    let root = Fingerprint::parse(ROOT).unwrap();
    tokens.create(&wanted(uses), root, &Actor::system(), START).await.unwrap().0
}

fn states(tokens: &[Token]) -> Vec<(State, u32)> {
    tokens.iter().map(|token| (token.state, token.uses_left)).collect()
}

#[tokio::test]
async fn a_token_grants_its_identity_as_often_as_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = tokens(&directory).await;
    let token = create(&tokens, 2).await;
    let workload = tokens.redeem(&token, START).await.unwrap();
    assert_eq!(workload.to_string(), "spiffe://corp.example/ns/research/sa/files");
    assert_eq!(states(&tokens.list(START).await.unwrap()), [(State::Active, 1)]);
    tokens.redeem(&token, START).await.unwrap();
    assert!(matches!(tokens.redeem(&token, START).await, Err(Error::Used)));
    assert_eq!(states(&tokens.list(START).await.unwrap()), [(State::Used, 0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_redeem_at_once_only_as_many_as_there_are_uses_succeed() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = tokens(&directory).await;
    for (uses, at_once, granted) in [(1, 16, 1), (5, 16, 5), (32, 16, 16)] {
        let token = create(&tokens, uses).await;
        let tries = (0..at_once).map(|_| {
            let (tokens, token) = (Arc::clone(&tokens), token.clone());
            tokio::spawn(async move { tokens.redeem(&token, START).await })
        });
        let mut succeeded = 0;
        for outcome in futures_util::future::join_all(tries).await {
            match outcome.unwrap() {
                Ok(_) => succeeded += 1,
                Err(error) => assert!(matches!(error, Error::Used), "{error}"),
            }
        }
        assert_eq!(succeeded, granted);
    }
}

#[tokio::test]
async fn expired_revoked_and_foreign_tokens_grant_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = tokens(&directory).await;
    let token = create(&tokens, 1).await;
    let late = START + Duration::from_secs(3600);
    assert!(matches!(tokens.redeem(&token, late).await, Err(Error::Expired)));
    assert_eq!(states(&tokens.list(late).await.unwrap()), [(State::Expired, 1)]);
    let text = token.to_string();
    let stranger = JoinToken::mint(token.root()).unwrap();
    assert!(matches!(tokens.redeem(&stranger, START).await, Err(Error::Unknown)));
    let secret = stranger.to_string().split('.').nth(2).unwrap().to_owned();
    let forged = JoinToken::parse(&text.replace(text.split('.').nth(2).unwrap(), &secret)).unwrap();
    assert!(matches!(tokens.redeem(&forged, START).await, Err(Error::Unknown)));
    tokens.revoke(token.id(), &Actor::system()).await.unwrap();
    assert!(matches!(tokens.redeem(&token, START).await, Err(Error::Revoked)));
    assert!(matches!(tokens.revoke("nobody", &Actor::system()).await, Err(Error::NoSuchToken { .. })));
    assert!(matches!(tokens.revoke("a\0b", &Actor::system()).await, Err(Error::NoSuchToken { .. })));
}

#[tokio::test]
async fn tokens_that_expired_a_while_ago_are_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = tokens(&directory).await;
    create(&tokens, 1).await;
    let later = START + Duration::from_secs(3600) + EXPIRED_SHOWN;
    assert_eq!(tokens.sweep(later).await.unwrap(), 0);
    assert_eq!(tokens.sweep(later + Duration::from_secs(1)).await.unwrap(), 1);
    assert_eq!(tokens.list(later).await.unwrap(), []);
}

#[tokio::test]
async fn wishes_beyond_the_limits_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = tokens(&directory).await;
    let secs = Duration::from_secs;
    let bad = [
        Wanted { uses: 0, ..wanted(1) },
        Wanted { uses: USES_MAX + 1, ..wanted(1) },
        Wanted { expires_in: secs(59), ..wanted(1) },
        Wanted { expires_in: LIFE_MAX + secs(1), ..wanted(1) },
        Wanted { description: Some("x".repeat(257)), ..wanted(1) },
    ];
    for wanted in bad {
        let root = Fingerprint::parse(ROOT).unwrap();
        let error = tokens.create(&wanted, root, &Actor::system(), START).await.unwrap_err();
        assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_store_never_sees_a_secret() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = tokens(&directory).await;
    let token = create(&tokens, 1).await.to_string();
    let (_, entries) = list_all(&*tokens.store, &Prefix::all(), None).await.unwrap();
    let stored: String = entries.iter().map(|it| String::from_utf8_lossy(&it.value).into_owned()).collect();
    assert!(!stored.contains(token.split('.').nth(2).unwrap()));
}
