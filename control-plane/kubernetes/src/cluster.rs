//! Whom a service account token belongs to, as the API server says.
//!
//! A thousand pods that start at once ask a thousand times, so what is asked of the API server is bounded: so many
//! questions at once, so many a second, and what it said of a token holds for a few seconds. Whoever gets no turn is told to
//! come back, each at another moment; that is the identity service's. What cannot be a token for us is not shown to the
//! API server at all. Not here: what an answer must say to prove anything (`identity::kubernetes`).

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use weft_control_plane::clock;
use weft_control_plane::identity::kubernetes::{Cluster, Review};

/// What is asked of the API server at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Questions at once.
    pub at_once_max: usize,
    /// Questions a second, after a burst of as many.
    pub per_second_max: u32,
    /// How long a question may wait for its turn.
    pub turn_timeout: Duration,
    /// How long the API server may take.
    pub answer_timeout: Duration,
    /// Answers that are remembered.
    pub remembered_max: usize,
    /// For how long.
    pub remembered_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            at_once_max: 32,
            per_second_max: 200,
            turn_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(5),
            remembered_max: 10_000,
            remembered_for: Duration::from_secs(10),
        }
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;
type Digest = [u8; 32];

/// The API server, as whom tokens are shown to.
pub struct Accounts {
    client: Client,
    limits: Limits,
    turns: Semaphore,
    pace: Mutex<Pace>,
    remembered: Mutex<HashMap<Digest, (Instant, Review)>>,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Accounts {
    pub fn new(client: Client, limits: Limits) -> Self {
        Self {
            client,
            turns: Semaphore::new(limits.at_once_max),
            pace: Mutex::new(Pace { left: f64::from(limits.per_second_max), at: Instant::now() }),
            remembered: Mutex::default(),
            limits,
        }
    }

    async fn ask(&self, token: &str, audience: &str) -> Result<Review, String> {
        if let Err(why) = could_be_ours(token, audience, clock::now()) {
            return Ok(Review { error: why.to_owned(), ..Review::default() });
        }
        let key = digest_of(token, audience);
        if let Some(review) = self.recall(&key, Instant::now()) {
            return Ok(review);
        }
        let _turn = self.turn().await?;
        // Whoever came with the same token while this one waited may have asked.
        if let Some(review) = self.recall(&key, Instant::now()) {
            return Ok(review);
        }
        let asked = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![audience.to_owned()]) },
            status: None,
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answered = self.answer(api.create(&params, &asked)).await?;
        let review = read(answered.status.unwrap_or_default());
        self.remember(key, review.clone(), Instant::now());
        Ok(review)
    }

    async fn uid(&self, namespace: &str, pod: &str) -> Result<Option<String>, String> {
        let _turn = self.turn().await?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let found = self.answer(api.get_opt(pod)).await?;
        Ok(found.filter(may_run).and_then(|pod| pod.metadata.uid))
    }

    /// Waits for a turn, so long as it may come in time.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, String> {
        let until = Instant::now() + self.limits.turn_timeout;
        let overdue = || "too many questions wait for the API server".to_owned();
        let wait = self.pace().take(f64::from(self.limits.per_second_max), Instant::now());
        if Instant::now() + wait > until {
            self.pace().give_back();
            return Err(overdue());
        }
        tokio::time::sleep(wait).await;
        match tokio::time::timeout_at(until, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(overdue()),
        }
    }

    async fn answer<T>(&self, asked: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
        match timeout(self.limits.answer_timeout, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the API server did not answer about a token"
                );
                // What the API server says is for our log: whoever asks has proved nothing yet.
                Err("the API server refused the question or could not be reached".to_owned())
            }
            Err(_) => Err("the API server did not answer in time".to_owned()),
        }
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, key: &Digest, now: Instant) -> Option<Review> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, review) = remembered.get(key)?;
        (now.duration_since(*at) < self.limits.remembered_for).then(|| review.clone())
    }

    /// Where there is no room, nothing new is remembered: whoever floods gains nothing by pushing others out.
    fn remember(&self, key: Digest, review: Review, now: Instant) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= self.limits.remembered_max {
            remembered.retain(|_, (at, _)| now.duration_since(*at) < self.limits.remembered_for);
        }
        if remembered.len() < self.limits.remembered_max {
            remembered.insert(key, (now, review));
        }
    }
}

impl Cluster for Accounts {
    fn review<'a>(&'a self, token: &'a str, audience: &'a str) -> Answer<'a, Review> {
        Box::pin(self.ask(token, audience))
    }

    fn pod_uid<'a>(&'a self, namespace: &'a str, pod: &'a str) -> Answer<'a, Option<String>> {
        Box::pin(self.uid(namespace, pod))
    }
}

/// So many questions a second, each of which waits for its place in the row.
#[derive(Debug)]
struct Pace {
    /// Below nothing, as many wait.
    left: f64,
    at: Instant,
}

impl Pace {
    /// Takes a place, and says how long to wait for it.
    fn take(&mut self, per_second: f64, now: Instant) -> Duration {
        let earned = now.duration_since(self.at).as_secs_f64() * per_second;
        self.left = (self.left + earned).min(per_second) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.left).max(0.0) / per_second)
    }

    fn give_back(&mut self) {
        self.left += 1.0;
    }
}

/// What a token says of itself; nobody has checked it.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audiences,
    exp: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
    #[default]
    None,
}

/// Whether a token could be one for us: what the API server would refuse anyway is not shown to it. A token for somebody
/// else is not shown to it either, so that nobody can have us try tokens that they found.
fn could_be_ours(token: &str, audience: &str, now: SystemTime) -> Result<(), &'static str> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("it is no service account token");
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| "it is no service account token")?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| "it is no service account token")?;
    let is_for_us = match &claims.aud {
        Audiences::One(one) => one == audience,
        Audiences::Many(many) => many.iter().any(|it| it == audience),
        Audiences::None => false,
    };
    if !is_for_us {
        return Err("it is for another audience");
    }
    let secs = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    match claims.exp {
        Some(ends) if ends.saturating_add(60) < secs => Err("it has expired"),
        _ => Ok(()),
    }
}

fn digest_of(token: &str, audience: &str) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(audience.len() as u64).to_be_bytes());
    context.update(audience.as_bytes());
    context.update(token.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

fn read(status: TokenReviewStatus) -> Review {
    let user = status.user.unwrap_or_default();
    Review {
        authenticated: status.authenticated.unwrap_or_default(),
        error: status.error.unwrap_or_default(),
        audiences: status.audiences.unwrap_or_default(),
        username: user.username.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }
}

/// A pod that ended runs no more, although it can still be looked at.
fn may_run(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests;
