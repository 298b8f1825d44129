//! What all replicas of a control plane share, in Secrets of its namespace: the issuer, the admin token, and the secret that
//! keys of sessions are made of.
//!
//! Whichever replica is first makes what is missing; the API server settles who that is, and the others take what they
//! find. An issuer that cert-manager or an operator put there is used as it is and never written to. Our own has its root
//! beside it, which signs the next intermediate when half of the present one's life is over.
//!
//! Not here: signing (`weft_certs::ca`), and what the secrets are for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;
use tokio::time::timeout;
use weft_certs::ca::external::{self, Files};
use weft_certs::ca::founding::{self, Pair};
use weft_certs::{ca, pem, x509};
use weft_control_plane::auth;
use weft_control_plane::identity::{SessionSecret, SessionsError};
use weft_proto::name::TrustDomain;
use zeroize::Zeroizing;

use crate::MANAGER;

/// The issuer: `tls.crt`, `tls.key` and `ca.crt`.
pub const ISSUER: &str = "weft-issuer";
/// The root of an issuer that we made: `tls.crt` and `tls.key`. Only renewing the issuer needs it.
pub const ROOT: &str = "weft-root";
/// The admin token: `token`.
pub const ADMIN: &str = "weft-admin";
/// What keys of sessions are made of: `secret`.
pub const SESSIONS: &str = "weft-sessions";

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";
const TOKEN: &str = "token";
const SECRET: &str = "secret";

/// The annotation that says which mesh something was made for.
const TRUST_DOMAIN: &str = "weft.dev/trust-domain";
/// The label of what we made.
const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", MANAGER);

/// How long the API server may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often is looked again when others keep making and deleting.
const ATTEMPTS_MAX: usize = 8;
/// How often is looked for an issuer that somebody else is to make.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Why a secret is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the Secret {name} cannot be read or made")]
    Api {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("the API server did not answer in time about the Secret {name}")]
    Silent { name: String },
    #[error("the Secret {name} keeps being made and deleted by others")]
    Contended { name: String },
    #[error("the Secret {name} has no {key}")]
    Missing { name: String, key: &'static str },
    #[error("the Secret {name} was made for the trust domain {found:?}, not for {expected}")]
    OtherMesh { name: String, found: String, expected: TrustDomain },
    #[error("the Secret {name} holds what cannot be read: {why}")]
    Form { name: String, why: &'static str },
    #[error("an issuer could not be made")]
    Founding(#[from] founding::Error),
    #[error("the Secret {ROOT} does not sign what the roots in {ISSUER} vouch for")]
    Renewed(#[source] external::Error),
    #[error("the Secret {name} cannot be used", name = SESSIONS)]
    Sessions(#[source] SessionsError),
    #[error("no randomness is to be had")]
    Random,
}

/// The secrets of one mesh.
#[derive(Clone, Debug)]
pub struct Secrets {
    api: Api<Secret>,
    trust_domain: TrustDomain,
    /// Whether the issuer is made by something else.
    given: bool,
}

/// What is shared.
#[derive(Debug)]
pub struct Shared {
    pub issuer: Files,
    pub admin: auth::Secret,
    pub sessions: SessionSecret,
}

impl Secrets {
    pub const fn new(api: Api<Secret>, trust_domain: TrustDomain, issuer_is_given: bool) -> Self {
        Self { api, trust_domain, given: issuer_is_given }
    }

    /// Reads everything, and makes what is missing; of the issuer only if nobody else is to make it.
    pub async fn settle(&self, now: SystemTime) -> Result<Shared, Error> {
        let issuer = match self.given {
            true => self.await_issuer().await?,
            false => self.issuer(now).await?,
        };
        let admin = self.settled(ADMIN, || {
            let token = auth::Secret::mint().ok_or(Error::Random)?;
            Ok(BTreeMap::from([(TOKEN, token.to_string().into_bytes())]))
        });
        let admin = field(&admin.await?, TOKEN)?;
        let admin = std::str::from_utf8(&admin).ok().and_then(|text| auth::Secret::parse(text.trim()));
        let admin = admin.ok_or(Error::Form { name: ADMIN.to_owned(), why: "it is no token" })?;
        let sessions = self.settled(SESSIONS, || {
            let mut secret = vec![0; 32];
            aws_lc_rs::rand::fill(&mut secret).map_err(|_| Error::Random)?;
            Ok(BTreeMap::from([(SECRET, secret)]))
        });
        let sessions = field(&sessions.await?, SECRET)?;
        let sessions = SessionSecret::of(&sessions).map_err(Error::Sessions)?;
        Ok(Shared { issuer, admin, sessions })
    }

    /// Waits for an issuer that somebody else makes.
    async fn await_issuer(&self) -> Result<Files, Error> {
        loop {
            match self.find(ISSUER).await?.map(|secret| self.files(&secret)) {
                Some(Ok(files)) => return Ok(files),
                Some(Err(error @ Error::OtherMesh { .. })) => return Err(error),
                Some(Err(error)) => tracing::info!(%error, "waiting for the issuer"),
                None => tracing::info!(secret = ISSUER, "waiting for the issuer"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The issuer. A root and an intermediate are made if there is none.
    async fn issuer(&self, now: SystemTime) -> Result<Files, Error> {
        if let Some(found) = self.find(ISSUER).await? {
            return self.files(&found);
        }
        let root = self.root(now).await?;
        let made = self.settled(ISSUER, || {
            let issuer = founding::intermediate(&root, &self.trust_domain, now)?;
            Ok(written(&issuer, Some(&root)))
        });
        self.files(&made.await?)
    }

    async fn root(&self, now: SystemTime) -> Result<Pair, Error> {
        let found = self.settled(ROOT, || Ok(written(&founding::root(&self.trust_domain, now)?, None)));
        self.pair(&found.await?)
    }

    /// Keeps our own issuer alive, where there is none or where half of its life is over. Says whether it did anything.
    pub async fn renew(&self, now: SystemTime) -> Result<bool, Error> {
        if self.given {
            return Ok(false);
        }
        let Some(found) = self.find(ISSUER).await? else {
            self.issuer(now).await?;
            return Ok(true);
        };
        if !is_ours(&found) || !is_past_half(&self.files(&found)?, now) {
            return Ok(false);
        }
        let root = self.find(ROOT).await?.ok_or(Error::Missing { name: ROOT.to_owned(), key: KEY })?;
        let root = self.pair(&root)?;
        let issuer = founding::intermediate(&root, &self.trust_domain, now)?;
        let files = Files {
            certificate: issuer.certificate.clone().into_bytes(),
            key: Zeroizing::new(issuer.key.as_bytes().to_vec()),
            ..self.files(&found)?
        };
        external::load(&files, &self.trust_domain, ca::Limits::default(), now).map_err(Error::Renewed)?;
        // With the version that was read: if another was faster, it is that one's.
        let mut next = found.clone();
        let data = next.data.get_or_insert_default();
        data.extend(
            written(&issuer, None).into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))),
        );
        let params = PostParams::default();
        match answer(ISSUER, self.api.replace(ISSUER, &params, &next)).await {
            Ok(_) => Ok(true),
            Err(Error::Api { source: kube::Error::Api(status), .. }) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Hands the issuer on whenever it is another.
    pub async fn follow(self, issuer: watch::Sender<Arc<Files>>) {
        let seen = watcher::watch_object(self.api.clone(), ISSUER).default_backoff();
        self.follow_stream(seen, issuer).await;
    }

    async fn follow_stream(
        &self,
        seen: impl Stream<Item = Result<Option<Secret>, watcher::Error>>,
        issuer: watch::Sender<Arc<Files>>,
    ) {
        let mut seen = std::pin::pin!(seen);
        while let Some(event) = seen.next().await {
            let files = match event {
                Ok(Some(secret)) => self.files(&secret),
                Ok(None) => {
                    tracing::error!(
                        secret = ISSUER,
                        "the issuer's Secret is gone; the former issuer stays in use"
                    );
                    continue;
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the issuer's Secret is not seen"
                    );
                    continue;
                }
            };
            match files {
                Ok(files) => {
                    issuer.send_if_modified(|held| {
                        let is_other = **held != files;
                        *held = Arc::new(files);
                        is_other
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "the issuer's Secret is not taken on; the former issuer stays")
                }
            }
        }
    }

    fn files(&self, secret: &Secret) -> Result<Files, Error> {
        self.check_mesh(secret)?;
        Ok(Files {
            certificate: field(secret, CERTIFICATE)?.to_vec(),
            key: field(secret, KEY)?,
            roots: field(secret, ROOTS)?.to_vec(),
        })
    }

    fn pair(&self, secret: &Secret) -> Result<Pair, Error> {
        self.check_mesh(secret)?;
        let text = |key| {
            let bytes = field(secret, key)?;
            let text = std::str::from_utf8(&bytes).map(|text| Zeroizing::new(text.to_owned()));
            text.map_err(|_| Error::Form { name: ROOT.to_owned(), why: "it is no text" })
        };
        Ok(Pair { certificate: text(CERTIFICATE)?.to_string(), key: text(KEY)? })
    }

    /// What was made for another mesh would give everyone another name. What others made says nothing of it.
    fn check_mesh(&self, secret: &Secret) -> Result<(), Error> {
        let annotations = secret.metadata.annotations.as_ref();
        match annotations.and_then(|them| them.get(TRUST_DOMAIN)) {
            Some(found) if found != self.trust_domain.as_str() => {
                let expected = self.trust_domain.clone();
                Err(Error::OtherMesh { name: name_of(secret), found: found.clone(), expected })
            }
            _ => Ok(()),
        }
    }

    async fn find(&self, name: &str) -> Result<Option<Secret>, Error> {
        answer(name, self.api.get_opt(name)).await
    }

    /// Reads a secret, or makes it. If another was faster, it is that one's.
    async fn settled(
        &self,
        name: &str,
        make: impl Fn() -> Result<BTreeMap<&'static str, Vec<u8>>, Error>,
    ) -> Result<Secret, Error> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(found) = self.find(name).await? {
                return Ok(found);
            }
            let data = make()?.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value)));
            let made = Secret { data: Some(data.collect()), ..self.empty(name) };
            match answer(name, self.api.create(&PostParams::default(), &made)).await {
                Ok(made) => {
                    tracing::info!(secret = name, "made");
                    return Ok(made);
                }
                Err(Error::Api { source: kube::Error::Api(status), .. }) if status.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Contended { name: name.to_owned() })
    }

    fn empty(&self, name: &str) -> Secret {
        let is_pair = [ISSUER, ROOT].contains(&name);
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some([MADE_BY].map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
                annotations: Some([(TRUST_DOMAIN.to_owned(), self.trust_domain.to_string())].into()),
                ..ObjectMeta::default()
            },
            type_: Some(if is_pair { "kubernetes.io/tls" } else { "Opaque" }.to_owned()),
            ..Secret::default()
        }
    }
}

async fn answer<T>(name: &str, asked: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    let answered =
        timeout(ANSWER_TIMEOUT, asked).await.map_err(|_| Error::Silent { name: name.to_owned() })?;
    answered.map_err(|source| Error::Api { name: name.to_owned(), source })
}

fn written(pair: &Pair, root: Option<&Pair>) -> BTreeMap<&'static str, Vec<u8>> {
    let mut data = BTreeMap::from([
        (CERTIFICATE, pair.certificate.clone().into_bytes()),
        (KEY, pair.key.as_bytes().to_vec()),
    ]);
    data.extend(root.map(|root| (ROOTS, root.certificate.clone().into_bytes())));
    data
}

fn field(secret: &Secret, key: &'static str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.map(|value| Zeroizing::new(value.0.clone())).ok_or(Error::Missing { name: name_of(secret), key })
}

fn name_of(secret: &Secret) -> String {
    secret.metadata.name.clone().unwrap_or_default()
}

fn is_ours(secret: &Secret) -> bool {
    let labels = secret.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MADE_BY.0)).is_some_and(|value| value == MADE_BY.1)
}

/// Whether half of the issuer's life is over. One that cannot be read is left to whoever sees it.
fn is_past_half(files: &Files, now: SystemTime) -> bool {
    let text = std::str::from_utf8(&files.certificate).unwrap_or_default();
    let first = pem::certificates(text).ok().and_then(|all| all.into_iter().next());
    let Some(Ok((begins, ends))) = first.map(|certificate| x509::validity(&certificate)) else {
        return false;
    };
    now >= begins + ends.duration_since(begins).unwrap_or_default() / 2
}

#[cfg(test)]
mod tests;
