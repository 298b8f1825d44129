//! Asks a server over HTTP how it is, by what its era has for that and costs nothing: discovery in the modern one, a
//! ping in a session of the sidecar's own in the legacy one.
//!
//! Nobody's name stands on such a question, and it is no call: it takes no place, and is not written down.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use weft_proto::mcp::{self, Bounds, Message, Outcome, code};
use weft_proto::resource::kinds::Era;

use super::{Legacy, Spoke, Ways};
use crate::exchange::http::{LegacyHttp, discover};
use crate::exchange::sse_server::HttpSse;
use crate::exchange::{Ask, Asker, BoxFuture, Peer, Said};
use crate::health::check::Probe;
use crate::refusal::Refusal;

const PING: &[u8] = br#"{"jsonrpc":"2.0","id":"weft-health","method":"ping"}"#;

/// See the module.
#[derive(Debug)]
pub struct HttpProbe {
    ways: Arc<Ways>,
    /// In what session a server of the legacy era is asked.
    session: Option<(Legacy, Arc<dyn Peer>)>,
}

impl Probe for HttpProbe {
    fn ask(&mut self) -> BoxFuture<'_, Option<Result<(), String>>> {
        Box::pin(async move { Some(self.asked().await) })
    }
}

impl HttpProbe {
    pub const fn new(ways: Arc<Ways>) -> Self {
        Self { ways, session: None }
    }

    async fn asked(&mut self) -> Result<(), String> {
        let outcome = match self.ways.known().await {
            Ok(Spoke { modern: false, legacy: Some(legacy), .. }) => self.ping(legacy).await,
            Ok(Spoke { .. }) => self.discover().await,
            Err(refusal) => Err(refusal),
        };
        outcome.map_err(|refusal| {
            // It answers, but not as one of its kind: it may be another than before.
            if matches!(refusal, Refusal::UpstreamBroke(_)) {
                self.ways.ask_again();
            }
            refusal.detail()
        })
    }

    async fn discover(&mut self) -> Result<(), Refusal> {
        self.session = None;
        let Ways { http, target, settings, .. } = &*self.ways;
        let (status, body) = discover(&**http, target, settings).await?;
        match status {
            // It is there; what it wants, or can bear, is between it and its callers.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => Ok(()),
            status if status.is_server_error() => Err(Refusal::UpstreamBroke(format!("status {status}"))),
            status => judged(&body, settings.bounds)
                .map_err(|why| Refusal::UpstreamBroke(format!("status {status}: {why}"))),
        }
    }

    async fn ping(&mut self, legacy: Legacy) -> Result<(), Refusal> {
        let peer = self.peer(legacy);
        // Nobody: no header says who asks.
        let asker = Asker::nobody();
        let mut reply = peer.call(Ask { asker, message: Bytes::from_static(PING) }).await?;
        while let Some(said) = reply.0.recv().await {
            if let Said::Response(response) = said? {
                return judged(&response, self.ways.settings.bounds).map_err(Refusal::UpstreamBroke);
            }
        }
        Err(Refusal::UpstreamBroke("the ping was not answered".to_owned()))
    }

    fn peer(&mut self, legacy: Legacy) -> Arc<dyn Peer> {
        if let Some((_, peer)) = self.session.as_ref().filter(|(kept, _)| *kept == legacy) {
            return Arc::clone(peer);
        }
        let Ways { http, target, settings, .. } = &*self.ways;
        let (http, target, settings) = (Arc::clone(http), target.clone(), settings.clone());
        let peer: Arc<dyn Peer> = match legacy {
            Legacy::Streamable => Arc::new(LegacyHttp::new(http, target, settings)),
            Legacy::HttpSse => Arc::new(HttpSse::new(http, target, settings)),
        };
        self.session = Some((legacy, Arc::clone(&peer)));
        peer
    }
}

impl Ways {
    /// What the server speaks; asks it if that is not known. Whoever gives up waiting leaves the question to go on.
    pub(super) async fn known(self: &Arc<Self>) -> Result<Spoke, Refusal> {
        if let Some(spoke) = self.spoke() {
            return Ok(spoke);
        }
        self.ask_apart(Era::Modern);
        Ok(Box::pin(self.ask(None)).await?.spoke)
    }
}

/// Whether an answer is one of a server that is well. One that does not know the question has understood it; only one
/// that says that it is broken is.
pub(crate) fn judged(answer: &[u8], bounds: Bounds) -> Result<(), String> {
    let parsed = mcp::parse(answer, bounds).map_err(|error| format!("the answer cannot be read: {error}"))?;
    let mcp::Body::One(Message::Response(response)) = parsed else {
        return Err("the answer is no response".to_owned());
    };
    match response.outcome {
        Outcome::Error(fault) if fault.code == code::INTERNAL_ERROR => {
            Err(format!("error {}: {}", fault.code, fault.message))
        }
        Outcome::Error(_) | Outcome::Result(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use http::HeaderValue;
    use tokio_util::sync::CancellationToken;
    use weft_proto::resource::kinds::Protocol;

    use super::*;
    use crate::backend::way::target;
    use crate::exchange::front::Place;
    use crate::exchange::http::fake::{Fake, json, result, status};
    use crate::limits::Limits;
    use crate::session_id::{Ring, Whence};
    use crate::upstream::{Destination, Pool, Settings};

    /// A server of the legacy era without sessions that answers with a status instead, if that is not 0.
    async fn server() -> (Fake, Arc<AtomicU16>, Arc<Ways>) {
        let instead = Arc::new(AtomicU16::new(0));
        let answers = Arc::clone(&instead);
        let fake = Fake::start(move |seen| {
            let id = &seen.body["id"];
            Some(match (answers.load(Ordering::Relaxed), seen.rpc()) {
                (0, "initialize") => {
                    let told = r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"f","version":"1"}}"#;
                    json(200, result(id, told))
                }
                (0, "ping") => json(200, result(id, "{}")),
                (0, "notifications/initialized") => status(202),
                (0, _) => status(400),
                (instead, _) => status(instead),
            })
        })
        .await;
        let host = HeaderValue::from_str(&fake.host()).unwrap();
        let target = target("/mcp", &host, &HeaderValue::from_static("research/files"));
        let address: std::net::SocketAddr = fake.host().parse().unwrap();
        let pool = Pool::new(Destination::Tcp(address.into()), Settings::local());
        let limits = Arc::new(Limits::default());
        let node = weft_proto::name::NodeId::parse("research/files").unwrap();
        let ring = Ring::own(&crate::session_id::Key::random());
        let here = Place { here: Whence::of(&node), ring, scope: "research/files".into() };
        let ways = Ways::new(&pool, target, Protocol::Auto, &limits, (&CancellationToken::new(), here));
        (fake, instead, ways)
    }

    const LEGACY: Spoke = Spoke { modern: false, legacy: Some(Legacy::Streamable), legacy_asked: true };

    #[tokio::test]
    async fn a_server_that_is_ill_is_not_taken_for_another_than_it_was_found_to_be() {
        let (_fake, instead, ways) = server().await;
        let mut probe = HttpProbe::new(Arc::clone(&ways));
        assert_eq!(probe.ask().await, Some(Ok(())));
        assert_eq!(ways.spoke(), Some(LEGACY));
        instead.store(500, Ordering::Relaxed);
        let told = probe.ask().await.unwrap().unwrap_err();
        assert!(told.contains("status 500"), "{told}");
        ways.ask(ways.learned.load_full()).await.unwrap_err();
        assert_eq!(ways.spoke(), Some(LEGACY));
        instead.store(0, Ordering::Relaxed);
        assert_eq!(probe.ask().await, Some(Ok(())));
    }

    #[tokio::test]
    async fn that_a_server_wants_something_first_is_an_answer_and_that_it_is_broken_is_none() {
        for (code, well) in [(401, true), (403, true), (500, false), (503, false)] {
            let (_fake, instead, ways) = server().await;
            instead.store(code, Ordering::Relaxed);
            let found = HttpProbe::new(ways).ask().await.unwrap();
            assert_eq!(found.is_ok(), well, "{code}: {found:?}");
        }
    }

    #[test]
    fn a_server_is_well_if_it_answers_and_does_not_say_that_it_is_broken() {
        let check = |answer: &str, well: bool| {
            let bounds = Bounds { depth_max: 8, batch_max: 8 };
            assert_eq!(judged(answer.as_bytes(), bounds).is_ok(), well, "{answer}");
        };
        check(r#"{"jsonrpc":"2.0","id":"weft","result":{}}"#, true);
        check(r#"{"jsonrpc":"2.0","id":"weft","error":{"code":-32601,"message":"what?"}}"#, true);
        check(r#"{"jsonrpc":"2.0","id":"weft","error":{"code":-32603,"message":"the disk is full"}}"#, false);
        check(r#"{"jsonrpc":"2.0","id":"weft","method":"ping"}"#, false);
        check("<html>", false);
    }
}
