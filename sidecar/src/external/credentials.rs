//! What requests that leave the mesh take along, and what they do not. Values come from the environment, as it was when the
//! sidecar began, or from files, which are read again when they may have changed.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{
    ALT_SVC, AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHENTICATE,
    SET_COOKIE, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::exchange::{self, Exchange};
use crate::headers::CALLER;

/// How long a file is believed without another look.
const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// Largest value, in bytes.
const VALUE_BYTES_MAX: u64 = 16 << 10;

/// What callers would prove themselves by, or be known by.
const OF_CALLERS: [HeaderName; 2] = [AUTHORIZATION, COOKIE];

/// What a server would say to whoever it thinks it speaks with.
const OF_SERVERS: [HeaderName; 5] = [WWW_AUTHENTICATE, PROXY_AUTHENTICATE, SET_COOKIE, ALT_SVC, LOCATION];

/// Where the value of a header is from. Exactly one of `file` and `env`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Source {
    place: Place,
    /// What stands before it, as `Bearer `.
    prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Env(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    file: Option<PathBuf>,
    #[serde(default)]
    env: Option<String>,
    #[serde(default)]
    prefix: String,
}

impl TryFrom<Raw> for Source {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, &'static str> {
        let place = match (raw.file, raw.env) {
            (Some(file), None) => Place::File(file),
            (None, Some(env)) => Place::Env(env),
            _ => return Err("exactly one of file and env says where the value is"),
        };
        Ok(Self { place, prefix: raw.prefix })
    }
}

/// Why there is no value. Never tells the value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the variable {0} is not set")]
    NoVariable(String),
    #[error("the file {} cannot be read: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(
        "the value of the header {0} is none: it is empty, too long, or has characters that no header has"
    )]
    NoValue(HeaderName),
    #[error(transparent)]
    Exchange(#[from] exchange::Failure),
}

impl Error {
    /// Whether it is for the caller that there are no credentials, rather than for all.
    pub(crate) const fn is_of_caller(&self) -> bool {
        matches!(self, Self::Exchange(_))
    }
}

/// What a request takes along.
#[derive(Debug)]
pub(crate) struct Dress {
    headers: Vec<(HeaderName, Value)>,
    /// Where the token of each caller is from, if each has one.
    exchange: Option<Exchange>,
}

/// In whose name a request left, where that makes a difference.
#[derive(Debug)]
pub(crate) struct Worn(Option<String>);

#[derive(Debug)]
pub(super) enum Value {
    Fixed(HeaderValue),
    File { path: PathBuf, prefix: String, read: Mutex<Option<(Instant, HeaderValue)>> },
}

impl Dress {
    /// What is in the environment is looked up now; files are read when they are needed.
    pub(crate) fn new<'s>(
        headers: impl Iterator<Item = (HeaderName, &'s Source)>,
        exchange: Option<Exchange>,
    ) -> Result<Self, Error> {
        let value = |(name, source): (HeaderName, &Source)| source.value(&name).map(|value| (name, value));
        let headers = headers.map(value).collect::<Result<_, _>>()?;
        Ok(Self { headers, exchange })
    }

    /// Makes the headers of a request those that may leave.
    pub(crate) async fn put_on(&self, headers: &mut HeaderMap) -> Result<Worn, Error> {
        // Said by this sidecar: nobody else can.
        let caller = headers.get(CALLER).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        let worn = Worn(caller.filter(|_| self.exchange.is_some()));
        let ours = |name: &&HeaderName| {
            let name = name.as_str();
            name.starts_with("weft") || name == "baggage"
        };
        let ours: Vec<_> = headers.keys().filter(ours).cloned().collect();
        for name in ours.iter().chain(&OF_CALLERS) {
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.get(name).await?);
        }
        if let Some(exchange) = &self.exchange {
            headers.insert(AUTHORIZATION, exchange.token(worn.0.as_deref()).await?);
        }
        Ok(worn)
    }

    /// Makes an answer one that may be told. What the server thinks of the credentials is between it and this sidecar, and
    /// so is where else it would have them sent.
    pub(crate) fn take_off<B>(&self, worn: &Worn, response: &mut Response<B>) {
        for name in &OF_SERVERS {
            response.headers_mut().remove(name);
        }
        let status = response.status();
        if let Some(exchange) = self.exchange.as_ref().filter(|_| status == StatusCode::UNAUTHORIZED) {
            exchange.forget(worn.0.as_deref());
        }
        if status == StatusCode::UNAUTHORIZED || status.is_redirection() {
            tracing::warn!(
                status = status.as_u16(),
                "a server outside of the mesh does not want what it is sent"
            );
            *response.status_mut() = StatusCode::BAD_GATEWAY;
        }
    }
}

impl Source {
    pub(super) fn value(&self, name: &HeaderName) -> Result<Value, Error> {
        let prefix = self.prefix.clone();
        Ok(match &self.place {
            Place::File(path) => Value::File { path: path.clone(), prefix, read: Mutex::default() },
            Place::Env(variable) => {
                let text = std::env::var(variable).map_err(|_| Error::NoVariable(variable.clone()))?;
                Value::Fixed(header(name, &prefix, &text)?)
            }
        })
    }
}

impl Value {
    /// The value where it is not sent as it is.
    pub(super) async fn text(&self, name: &HeaderName) -> Result<String, Error> {
        let value = self.get(name).await?;
        value.to_str().map(ToOwned::to_owned).map_err(|_| Error::NoValue(name.clone()))
    }

    async fn get(&self, name: &HeaderName) -> Result<HeaderValue, Error> {
        let (path, prefix, read) = match self {
            Self::Fixed(value) => return Ok(value.clone()),
            Self::File { path, prefix, read } => (path, prefix, read),
        };
        let known = read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, value)) = known.filter(|(since, _)| since.elapsed() < BELIEVED_FOR) {
            return Ok(value);
        }
        let value = header(name, prefix, &text(path).await?)?;
        *read.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), value.clone()));
        Ok(value)
    }
}

async fn text(path: &Path) -> Result<String, Error> {
    use tokio::io::AsyncReadExt as _;
    let failed = |source| Error::File { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut text = String::new();
    // One byte more, so that what is too long is seen to be.
    file.take(VALUE_BYTES_MAX + 1).read_to_string(&mut text).await.map_err(failed)?;
    Ok(text)
}

/// Files end with a line's end, which no value has.
fn header(name: &HeaderName, prefix: &str, text: &str) -> Result<HeaderValue, Error> {
    let text = text.trim_end_matches(['\r', '\n']);
    let none = || Error::NoValue(name.clone());
    if text.is_empty() || text.len() as u64 > VALUE_BYTES_MAX {
        return Err(none());
    }
    let mut value = HeaderValue::from_str(&format!("{prefix}{text}")).map_err(|_| none())?;
    value.set_sensitive(true);
    Ok(value)
}
