//! Which way a request goes to a server that speaks HTTP: through, where the server speaks what the caller speaks, or
//! message by message. What a server speaks is learned by asking it, believed for a while, and asked again when the
//! server was away.

pub mod check;
pub mod list;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use weft_proto::resource::kinds::{Era, Protocol};

use crate::exchange::front::{Front, Place};
use crate::exchange::http::{AnswerBody, Http, LegacyHttp, ModernHttp, Settings, Target};
use crate::exchange::probe::{self, Spoken, Transports, probe};
use crate::exchange::sse_server::HttpSse;
use crate::exchange::{BoxFuture, Peer};
use crate::forward::refusal;
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::upstream::Pool;

/// For how long what was learned is believed without asking again.
const BELIEVED_FOR: Duration = Duration::from_secs(60);
/// Time for the answer to one question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(20);

/// Which way a request goes.
#[derive(Debug)]
pub enum Way {
    /// As it is.
    Through,
    /// As it is, by the transport of 2024-11-05.
    ThroughSse,
    /// Message by message.
    Exchange(Arc<Front>),
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoke {
    pub modern: bool,
    pub legacy: Option<Legacy>,
    /// Whether a server of the modern era was asked if it shakes hands as well. That is asked when a caller wants it:
    /// a server that has only modern callers is left alone with handshakes.
    pub legacy_asked: bool,
}

/// How a server speaks the legacy era.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legacy {
    Streamable,
    HttpSse,
}

impl std::fmt::Display for Spoke {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.modern, self.legacy) {
            (true, None) => "modern",
            (true, Some(_)) => "modern, legacy",
            (false, Some(Legacy::HttpSse)) => "2024-11-05",
            (false, _) => "legacy",
        })
    }
}

/// What was learned of a server, and the fronts for callers that speak something else.
#[derive(Debug)]
struct Learned {
    spoke: Spoke,
    at: Instant,
    front: Option<Arc<Front>>,
}

/// What a server is asked with, and what it was found to speak.
#[derive(Debug)]
pub struct Ways {
    http: Arc<dyn Http>,
    target: Target,
    settings: Settings,
    protocol: Protocol,
    limits: Arc<Limits>,
    drain: CancellationToken,
    place: Place,
    learned: ArcSwapOption<Learned>,
    /// One question at a time, and how the last one failed, if it did: whoever waited for it need not wait for another.
    asking: Mutex<Option<Failed>>,
}

/// A question that came to nothing.
#[derive(Debug)]
struct Failed {
    at: Instant,
    refusal: Refusal,
}

impl Ways {
    pub fn new(
        pool: &Pool,
        target: Target,
        protocol: Protocol,
        limits: &Arc<Limits>,
        (drain, place): (&CancellationToken, Place),
    ) -> Arc<Self> {
        Arc::new(Self {
            http: Arc::new(Pooled(pool.clone())),
            target,
            settings: Settings::of(limits),
            protocol,
            limits: Arc::clone(limits),
            drain: drain.clone(),
            place,
            learned: ArcSwapOption::empty(),
            asking: Mutex::new(None),
        })
    }

    /// The way of a request of this era, which is waited for no longer than for an answer. `oldest` says that it came by
    /// the transport of 2024-11-05.
    pub async fn of(self: &Arc<Self>, era: Era, oldest: bool, after: Duration) -> Result<Way, Refusal> {
        match timeout(after, self.find(era, oldest)).await {
            Ok(found) => found,
            Err(_) => {
                // A server that needs longer to say what it speaks is to be known to later callers all the same.
                self.ask_apart(era);
                Err(Refusal::TimedOut { after })
            }
        }
    }

    async fn find(self: &Arc<Self>, era: Era, oldest: bool) -> Result<Way, Refusal> {
        let learned = match self.learned.load_full() {
            Some(learned) => {
                self.ask_again();
                learned
            }
            // In boxes: they are rare and large, and every request carries the room.
            None => Box::pin(self.ask(None)).await?,
        };
        let learned = match (era, learned.spoke.legacy_asked) {
            (Era::Legacy, false) => Box::pin(self.ask_legacy()).await?,
            _ => learned,
        };
        let front = || match &learned.front {
            Some(front) => Way::Exchange(Arc::clone(front)),
            None => Way::Through,
        };
        Ok(match (era, learned.spoke) {
            (Era::Modern, Spoke { modern: true, .. }) => Way::Through,
            (Era::Legacy, Spoke { legacy: Some(Legacy::Streamable), .. }) => Way::Through,
            (Era::Legacy, Spoke { legacy: Some(Legacy::HttpSse), .. }) if oldest => Way::ThroughSse,
            _ => front(),
        })
    }

    /// What carries message by message for callers who speak something else, if anything does.
    pub fn front(&self) -> Option<Arc<Front>> {
        self.learned.load().as_ref().and_then(|learned| learned.front.clone())
    }

    /// What was learned, if anything was.
    pub fn spoke(&self) -> Option<Spoke> {
        self.learned.load().as_ref().map(|learned| learned.spoke)
    }

    /// Why it is not known what the server speaks. None if it is known, or nobody asked, or it is being asked.
    pub fn trouble(&self) -> Option<String> {
        if self.learned.load().is_some() {
            return None;
        }
        let last = self.asking.try_lock().ok()?;
        last.as_ref().map(|failed| failed.refusal.detail())
    }

    /// Asks what the server speaks, if that is not known, with nobody waiting for it.
    pub fn introduce(self: &Arc<Self>) {
        if self.learned.load().is_some() || self.asking.try_lock().is_err() {
            return;
        }
        let ways = Arc::clone(self);
        // What comes of it is kept.
        tokio::spawn(async move { drop(ways.ask(None).await) });
    }

    /// The server was away: what comes back may be another.
    pub fn doubt(&self) {
        self.learned.store(None);
    }

    /// Asks without anybody waiting for it, if what was learned is not to be believed any more.
    fn ask_again(self: &Arc<Self>) {
        if self.learned.load().as_ref().is_some_and(|learned| learned.at.elapsed() > BELIEVED_FOR) {
            self.ask_apart(Era::Modern);
        }
    }

    /// Asks without anybody waiting for it, for callers of an era.
    fn ask_apart(self: &Arc<Self>, era: Era) {
        if self.asking.try_lock().is_err() {
            return;
        }
        let ways = Arc::clone(self);
        let before = self.learned.load_full();
        tokio::spawn(async move {
            let asked = match (era, &before) {
                (Era::Legacy, Some(known)) if !known.spoke.legacy_asked => ways.ask_legacy().await,
                _ => ways.ask(before).await,
            };
            if let Err(error) = asked {
                tracing::warn!(%error, "the server could not be asked again what it speaks");
            }
        });
    }

    /// Asks, unless somebody else just did.
    async fn ask(&self, known: Option<Arc<Learned>>) -> Result<Arc<Learned>, Refusal> {
        let came = Instant::now();
        let mut last = self.asking.lock().await;
        if let Some(learned) = self.learned.load_full()
            && known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &learned))
        {
            return Ok(learned);
        }
        failed_since(came, &last)?;
        let learned = self.learn(known).await;
        *last = failure(&learned);
        learned
    }

    async fn learn(&self, known: Option<Arc<Learned>>) -> Result<Arc<Learned>, Refusal> {
        let mut spoke = self.question(known.is_some()).await?;
        if known.as_ref().is_some_and(|known| known.spoke.legacy_asked) && !spoke.legacy_asked {
            spoke = Spoke { legacy: self.also_legacy().await?, legacy_asked: true, ..spoke };
        }
        // Whoever speaks as before keeps its sessions.
        let front = match known.filter(|known| known.spoke == spoke) {
            Some(known) => known.front.clone(),
            None => {
                tracing::info!(modern = spoke.modern, legacy = ?spoke.legacy, host = ?self.target.host, "the server was asked what it speaks");
                self.front_for(spoke)
            }
        };
        let learned = Arc::new(Learned { spoke, at: Instant::now(), front });
        self.learned.store(Some(Arc::clone(&learned)));
        Ok(learned)
    }

    /// Asks a server of the modern era whether it shakes hands as well, unless somebody else just did.
    async fn ask_legacy(&self) -> Result<Arc<Learned>, Refusal> {
        let came = Instant::now();
        let mut last = self.asking.lock().await;
        let learned = self.learned.load_full().filter(|learned| learned.spoke.legacy_asked);
        if let Some(learned) = learned {
            return Ok(learned);
        }
        failed_since(came, &last)?;
        let learned = self.learn_legacy().await;
        *last = failure(&learned);
        learned
    }

    async fn learn_legacy(&self) -> Result<Arc<Learned>, Refusal> {
        let spoke = Spoke { modern: true, legacy: self.also_legacy().await?, legacy_asked: true };
        let learned = Arc::new(Learned { spoke, at: Instant::now(), front: self.front_for(spoke) });
        self.learned.store(Some(Arc::clone(&learned)));
        Ok(learned)
    }

    /// Asks a server what it speaks, of which it may be known already.
    async fn question(&self, is_known: bool) -> Result<Spoke, Refusal> {
        let legacy = |legacy| Spoke { modern: false, legacy, legacy_asked: true };
        if self.protocol == Protocol::HttpSse {
            return Ok(legacy(Some(Legacy::HttpSse)));
        }
        let transports = match self.protocol {
            Protocol::Auto | Protocol::HttpSse => Transports::Any,
            Protocol::StreamableHttp => Transports::Streamable,
        };
        match probe(&self.http, &self.target, &self.settings, transports, QUESTION_TIMEOUT).await {
            Ok(Spoken::Modern(_)) => Ok(Spoke { modern: true, legacy: None, legacy_asked: false }),
            Ok(Spoken::LegacyStreamable(_)) => Ok(legacy(Some(Legacy::Streamable))),
            Ok(Spoken::HttpSse) => Ok(legacy(Some(Legacy::HttpSse))),
            Err(probe::Error::Unreachable(why) | probe::Error::NotReady(why)) => {
                Err(Refusal::UpstreamUnreachable(why))
            }
            // A server that is ill says nothing about what it speaks when it is well.
            Err(error @ probe::Error::Unknown(_)) if is_known => {
                Err(Refusal::UpstreamBroke(error.to_string()))
            }
            // It wants to hear from its callers, or is something new: it answers for itself.
            Err(error @ (probe::Error::Unauthorized(_) | probe::Error::Unknown(_))) => {
                tracing::warn!(%error, host = ?self.target.host, "the server does not say what it speaks; requests pass as they are");
                Ok(Spoke { modern: true, legacy: Some(Legacy::Streamable), legacy_asked: true })
            }
        }
    }

    /// Whether a server of the modern era shakes hands as well.
    async fn also_legacy(&self) -> Result<Option<Legacy>, Refusal> {
        let peer = LegacyHttp::new(Arc::clone(&self.http), self.target.clone(), self.settings.clone());
        match timeout(QUESTION_TIMEOUT, peer.introduction()).await {
            Ok(Ok(_)) => Ok(Some(Legacy::Streamable)),
            Ok(Err(error @ Refusal::UpstreamUnreachable(_))) => Err(error),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    /// The front for callers that the server does not speak with, if there are any.
    fn front_for(&self, spoke: Spoke) -> Option<Arc<Front>> {
        let (http, target, settings) = (Arc::clone(&self.http), self.target.clone(), self.settings.clone());
        let peer: Arc<dyn Peer> = match spoke {
            // Whether callers of the legacy era need one is not known yet.
            Spoke { modern: true, legacy_asked: false, .. } => return None,
            Spoke { modern: true, legacy: Some(Legacy::Streamable), .. } => return None,
            Spoke { modern: true, .. } => Arc::new(ModernHttp::new(http, target, settings)),
            Spoke { legacy: Some(Legacy::HttpSse), .. } => Arc::new(HttpSse::new(http, target, settings)),
            Spoke { .. } => Arc::new(LegacyHttp::new(http, target, settings)),
        };
        Some(Front::new(peer, &self.limits, self.drain.clone(), self.place.clone()))
    }
}

/// The failure that somebody waited for who came before it was one.
fn failed_since(came: Instant, last: &Option<Failed>) -> Result<(), Refusal> {
    match last {
        Some(failed) if failed.at >= came => Err(failed.refusal.clone()),
        Some(_) | None => Ok(()),
    }
}

fn failure(learned: &Result<Arc<Learned>, Refusal>) -> Option<Failed> {
    let refusal = learned.as_ref().err()?.clone();
    Some(Failed { at: Instant::now(), refusal })
}

/// Where a server is asked, and by what name.
pub fn target(path: &str, host: &HeaderValue, server: &HeaderValue) -> Target {
    let headers = HeaderMap::from_iter([(crate::headers::SERVER, server.clone())]);
    Target { path: path.to_owned(), host: host.clone(), headers }
}

/// The pool as the exchange knows the way to a server.
#[derive(Debug)]
struct Pooled(Pool);

impl Http for Pooled {
    fn send(&self, request: Request<Full<Bytes>>) -> BoxFuture<'_, Result<Response<AnswerBody>, Refusal>> {
        Box::pin(async move {
            let response = self.0.send(Arc::new(request)).await.map_err(refusal)?;
            Ok(response
                .map(|body| body.map_err(|error| Refusal::UpstreamBroke(error.to_string())).boxed_unsync()))
        })
    }
}
