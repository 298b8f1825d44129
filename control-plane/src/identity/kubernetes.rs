//! Projected service account tokens: what a TokenReview must say before a token proves anything.
//!
//! Pure, but for the client behind `Cluster`, which is the API server's and comes with the Kubernetes parts.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use weft_proto::name::{Namespace, ServiceAccount, TrustDomain, Workload};

/// Longest accepted token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const ACCOUNTS_GROUP: &str = "system:serviceaccounts";
const USER_PREFIX: &str = "system:serviceaccount:";

/// The parts of a TokenReview's status that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    pub authenticated: bool,
    pub error: String,
    pub audiences: Vec<String>,
    pub username: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// The questions that are asked of a cluster.
pub trait Cluster: Send + Sync + std::fmt::Debug {
    /// Reviews a token for an audience.
    fn review<'a>(&'a self, token: &'a str, audience: &'a str) -> Answer<'a, Review>;
    /// The UID of a live pod, if there is one of this name.
    fn pod_uid<'a>(&'a self, namespace: &'a str, pod: &'a str) -> Answer<'a, Option<String>>;
}

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the token is {len} bytes long; at most {TOKEN_BYTES_MAX} are allowed")]
    TooLong { len: usize },
    #[error("the token is not valid: {0}")]
    NotAuthenticated(String),
    #[error("the token is for {found:?}, not for {expected:?}")]
    Audience { found: Vec<String>, expected: String },
    #[error("{0:?} is not a service account")]
    NotAnAccount(String),
    #[error("the token is bound to no pod")]
    NotBound,
    #[error("the pod {pod} that the token is bound to is gone or another one now")]
    PodGone { pod: String },
    #[error("the cluster could not be asked: {0}")]
    Unavailable(String),
}

/// Finds out who holds a token.
pub async fn attest(
    cluster: &dyn Cluster,
    token: &str,
    audience: &str,
    trust_domain: &TrustDomain,
) -> Result<Workload, Error> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Error::TooLong { len: token.len() });
    }
    let review = cluster.review(token, audience).await.map_err(Error::Unavailable)?;
    let (namespace, account) = account(&review, audience)?;
    let one = |key: &str| review.extra.get(key).and_then(|values| <&[String; 1]>::try_from(&values[..]).ok());
    let (Some([pod]), Some([uid])) = (one(POD_NAME), one(POD_UID)) else { return Err(Error::NotBound) };
    // A token outlives its pod; the pod's name may live on in another pod.
    let live = cluster.pod_uid(namespace.as_str(), pod).await.map_err(Error::Unavailable)?;
    if live.as_ref() != Some(uid) {
        return Err(Error::PodGone { pod: format!("{namespace}/{pod}") });
    }
    Ok(Workload { trust_domain: trust_domain.clone(), namespace, account })
}

fn account(review: &Review, audience: &str) -> Result<(Namespace, ServiceAccount), Error> {
    if !review.authenticated {
        return Err(Error::NotAuthenticated(review.error.clone()));
    }
    // An authenticator that knows nothing of audiences ignores ours; then the list does not hold it.
    if !review.audiences.iter().any(|found| found == audience) {
        return Err(Error::Audience { found: review.audiences.clone(), expected: audience.to_owned() });
    }
    let not_an_account = || Error::NotAnAccount(review.username.clone());
    if !review.groups.iter().any(|group| group == ACCOUNTS_GROUP) {
        return Err(not_an_account());
    }
    let name = review.username.strip_prefix(USER_PREFIX).ok_or_else(not_an_account)?;
    let (namespace, account) = name.split_once(':').ok_or_else(not_an_account)?;
    let namespace = Namespace::parse(namespace).map_err(|_| not_an_account())?;
    Ok((namespace, ServiceAccount::parse(account).map_err(|_| not_an_account())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fake {
        review: Result<Review, String>,
        pod: Option<String>,
    }

    impl Cluster for Fake {
        fn review<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, Review> {
            Box::pin(async { self.review.clone() })
        }

        fn pod_uid<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, Option<String>> {
            Box::pin(async { Ok(self.pod.clone()) })
        }
    }

    fn good() -> Review {
        Review {
            authenticated: true,
            audiences: vec!["weft.example".to_owned()],
            username: "system:serviceaccount:research:files".to_owned(),
            groups: vec!["system:serviceaccounts".to_owned()],
            extra: [(POD_NAME, "files-1"), (POD_UID, "u-1")]
                .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]))
                .into(),
            ..Review::default()
        }
    }

    async fn ask(review: Result<Review, String>, pod: Option<&str>) -> Result<String, Error> {
        let cluster = Fake { review, pod: pod.map(str::to_owned) };
        let domain = TrustDomain::parse("corp.example").unwrap();
        attest(&cluster, "token", "weft.example", &domain).await.map(|workload| workload.to_string())
    }

    #[tokio::test]
    async fn a_bound_token_for_us_proves_its_account() {
        let found = ask(Ok(good()), Some("u-1")).await;
        assert_eq!(found.as_deref(), Ok("spiffe://corp.example/ns/research/sa/files"));
    }

    #[tokio::test]
    async fn every_other_token_proves_nothing() {
        let check = async |change: fn(&mut Review), why: &str| {
            let mut review = good();
            change(&mut review);
            let error = ask(Ok(review), Some("u-1")).await.unwrap_err().to_string();
            assert!(error.contains(why), "{error:?} should contain {why:?}");
        };
        check(|it| it.authenticated = false, "not valid").await;
        check(|it| it.audiences.clear(), "not for \"weft.example\"").await;
        check(|it| it.audiences = vec!["https://kubernetes.default.svc".to_owned()], "not for").await;
        check(|it| it.groups.clear(), "not a service account").await;
        check(|it| it.username = "system:node:n1".to_owned(), "not a service account").await;
        check(|it| it.username = "system:serviceaccount:research".to_owned(), "not a service account").await;
        check(|it| it.username = "system:serviceaccount:research:a:b".to_owned(), "not a service account")
            .await;
        check(|it| it.extra.clear(), "bound to no pod").await;
        check(|it| it.extra.get_mut(POD_UID).unwrap().push("u-2".to_owned()), "bound to no pod").await;
        assert!(matches!(ask(Ok(good()), None).await, Err(Error::PodGone { .. })));
        assert!(matches!(ask(Ok(good()), Some("u-2")).await, Err(Error::PodGone { .. })));
        assert!(matches!(ask(Err("down".to_owned()), None).await, Err(Error::Unavailable(_))));
    }
}
