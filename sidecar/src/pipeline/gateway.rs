//! The same life for a request from outside the mesh: whoever calls is known first, by what the request brings. From
//! there it is that of the agent beside this sidecar, in the caller's name.
//!
//! What a caller is known by ends here: nothing of it leaves.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;

use crate::accept;
use crate::answer::Answer;
use crate::forward::is_event_stream;
use crate::gateway::{self, Authenticator, Pages, Share, Shares, Verified};
use crate::headers::{self, API_KEY};
use crate::identify::{Caller, Identified};
use crate::limits::Limits;
use crate::metrics::{Metrics, ReasonLabel};
use crate::receive;
use crate::record::Open;
use crate::refusal::Refusal;
use crate::standing::{GuestStanding, Standing};

use super::outbound::Outbound;
use super::{finish, opened};

/// Everything that requests of a gateway's listener need.
#[derive(Clone, Debug)]
pub struct Gateway(Arc<Parts>);

/// What a gateway's listener is made of.
#[derive(Debug)]
pub struct Parts {
    pub to: Outbound,
    pub pages: Pages,
    pub authenticator: Authenticator,
    pub limits: Arc<Limits>,
    pub metrics: Arc<Metrics>,
    /// Requests under way, by caller.
    pub requests: Shares<Arc<str>>,
    /// Streams that only listen, by caller.
    pub streams: Shares<Arc<str>>,
}

impl Gateway {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// What is answered to everyone: where to get a token, and what a page may ask.
    fn open(
        &self,
        request: &Request<Incoming>,
        head: &http::request::Parts,
    ) -> Option<Result<Response<Answer>, Refusal>> {
        if gateway::is_preflight(head) {
            return Some(Ok(gateway::preflight(request.headers())));
        }
        let asked = gateway::asked(&head.uri)?;
        Some(match head.method {
            http::Method::GET | http::Method::HEAD => {
                asked.and_then(|endpoint| self.0.authenticator.metadata(endpoint))
            }
            _ => Err(Refusal::HttpMethod { allow: "GET" }),
        })
    }

    async fn run(
        &self,
        connection: &Identified,
        mut request: Box<Request<Incoming>>,
        record: &mut Open,
    ) -> Result<Response<Answer>, Refusal> {
        let parts = &*self.0;
        // A token in an address is in every log on its way.
        if request.uri().query().is_some_and(brings_token) {
            return Err(Refusal::Invalid("a token must not be in the address".to_owned()));
        }
        let endpoint = receive::endpoint(request.uri().path()).to_owned();
        let peer = connection.caller.proved().map(|caller| caller.workload().clone());
        let known = parts.authenticator.authenticate(request.headers(), peer.as_ref(), &endpoint).await;
        let reason = known.as_ref().map_or_else(|refusal| refusal.told().reason, |_| "ok");
        parts.metrics.gateway_callers.get_or_create(&ReasonLabel { reason }).inc();
        let verified = match known {
            Ok(verified) => verified,
            Err(refusal) => {
                tokio::spawn(receive::discard(request.into_body()));
                return Err(refusal);
            }
        };
        record.event.caller = Arc::clone(&verified.guest.name);
        let share = parts.requests.take(&verified.guest.name, parts.limits.requests_per_caller_max);
        let share = share.ok_or(Refusal::CallerBusy)?;
        let brought = taken(request.headers_mut());
        let caller = Caller::Guest(Arc::clone(&verified.guest));
        let known = Identified { address: connection.address, caller, protocol: connection.protocol };
        let outcome = Box::pin(parts.to.run(&known, request, record)).await;
        let mut response = outcome.map_err(|refusal| verified.asking_for_scopes(refusal))?;
        headers::toward_public(response.headers_mut());
        let share = self.share(share, &verified, record.event.listens)?;
        let standing = is_event_stream(response.headers()).then(|| {
            let by = parts.authenticator.clone();
            let guest = GuestStanding { by, verified, headers: brought, peer, endpoint };
            Standing::of_guest(guest, parts.to.live())
        });
        Ok(response.map(|answer| match standing {
            Some(standing) => answer.watched(None, Some(standing)).sharing(share),
            None => answer.sharing(share),
        }))
    }

    /// What only listens is no request that is under way.
    fn share(
        &self,
        share: Share<Arc<str>>,
        verified: &Verified,
        listens: bool,
    ) -> Result<Share<Arc<str>>, Refusal> {
        if !listens {
            return Ok(share);
        }
        let max = self.0.limits.streams_per_caller_max;
        self.0.streams.take(&verified.guest.name, max).ok_or(Refusal::CallerStreams)
    }
}

/// Takes what a caller is known by away from a request.
fn taken(headers: &mut HeaderMap) -> HeaderMap {
    let mut brought = HeaderMap::new();
    for name in [AUTHORIZATION, API_KEY] {
        if let Some(value) = headers.get(&name) {
            brought.insert(name, value.clone());
        }
    }
    headers::without_credentials(headers);
    brought
}

fn brings_token(query: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next().is_some_and(|name| name == "access_token"))
}

impl accept::Service for Gateway {
    async fn serve(&self, connection: Arc<Identified>, request: Box<Request<Incoming>>) -> Response<Answer> {
        let parts = &*self.0;
        let mut record = opened("gateway", &connection, &request, parts.to.nowhere(), parts.to.log());
        let head = head_of(&request);
        let checked = parts.pages.check(&head);
        let origin = checked.as_ref().ok().cloned().flatten();
        let outcome = match (checked, self.open(&request, &head)) {
            (Err(refusal), _) => {
                tokio::spawn(receive::discard(request.into_body()));
                Err(refusal)
            }
            (Ok(_), Some(answered)) => answered,
            (Ok(_), None) => self.run(&connection, request, &mut record).await,
        };
        let challenge = outcome.as_ref().err();
        let endpoint = receive::endpoint(head.uri.path());
        let challenge = challenge.and_then(|it| parts.authenticator.challenge(it, endpoint));
        let mut response = finish(outcome, record);
        dress(response.headers_mut(), challenge, origin);
        response
    }
}

/// What is looked at of a request before it is known who calls.
fn head_of(request: &Request<Incoming>) -> http::request::Parts {
    let mut head = Request::new(()).into_parts().0;
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.version = request.version();
    head.headers = request.headers().clone();
    head
}

fn dress(headers: &mut HeaderMap, challenge: Option<HeaderValue>, origin: Option<HeaderValue>) {
    if let Some(challenge) = challenge {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    // What is for everyone says so itself.
    if let Some(origin) = origin
        && !headers.contains_key(http::header::ACCESS_CONTROL_ALLOW_ORIGIN)
    {
        gateway::allow(headers, origin);
    }
}
