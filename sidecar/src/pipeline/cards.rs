//! Server cards (SEP-2127): a `GET` of an endpoint's path and `/server-card`. Whoever may ask a server what it is may have
//! its card, and nobody else: one is judged as `server/discover`.
//!
//! Toward callers a card is made of what the control plane tells of the server, with the address that the caller knows. A
//! card that a server beside this sidecar has is passed on as the server gives it, since only it knows where it wants to be
//! found; what it answers otherwise is no card. Not here: the catalogue of all cards, which is the control plane's.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;
use weft_proto::catalogue::card::{About, MEDIA_TYPE, SUFFIX, ServerCard};
use weft_proto::resource::kinds::Era;

use crate::admit::Admitted;
use crate::answer::Answer;
use crate::authorize::{self, Permit};
use crate::backend::{Backend, Http};
use crate::body::Body;
use crate::headers::{CALLER, SERVER};
use crate::identify::{Caller, Identified};
use crate::metrics::{Counted, method_index};
use crate::receive::{self, Place};
use crate::record::Open;
use crate::refusal::Refusal;
use crate::servers::Local;
use crate::state::Origin;
use crate::upstream::Outgoing;
use crate::{audit, classify, forward};

use super::{Inbound, Outbound};

/// What asking for a card is judged as.
const ASKED: &[u8] = br#"{"jsonrpc":"2.0","id":0,"method":"server/discover"}"#;
/// Most of a card of a server.
const CARD_BYTES_MAX: usize = 64 << 10;
/// For how long a server's card is waited for, if calls are not waited for more shortly.
const CARD_TIMEOUT: Duration = Duration::from_secs(10);
/// What of the head of a server's answer comes along with its card.
const PASSED: [http::HeaderName; 3] = [CONTENT_TYPE, CONTENT_ENCODING, CACHE_CONTROL];

/// How a listener's cards are told.
#[derive(Clone, Debug)]
pub struct Cards {
    /// Where callers reach the listener, without a slash at the end.
    pub base: String,
    /// Who may keep them.
    pub kept: HeaderValue,
}

impl Cards {
    /// Of a listener for this machine alone.
    pub fn local(port: u16) -> Self {
        Self {
            base: format!("http://localhost:{port}"),
            kept: HeaderValue::from_static("public, max-age=3600"),
        }
    }

    /// Of a gateway. What one caller may read is not for whoever shares a cache with it.
    pub fn public(base: &str) -> Self {
        Self { base: base.to_owned(), kept: HeaderValue::from_static("private, max-age=3600") }
    }

    fn sent(&self, card: &ServerCard) -> Result<Response<Answer>, Refusal> {
        let text = serde_json::to_string(card);
        let text = text.map_err(|_| Refusal::Invalid("the card cannot be written".to_owned()))?;
        let mut response = Response::new(Answer::from(Body::full(text)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(CACHE_CONTROL, self.kept.clone());
        // Which pages may ask at all was looked at before.
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        Ok(response)
    }
}

impl Outbound {
    /// The card of an endpoint of this listener's.
    pub(super) fn card(
        &self,
        connection: &Identified,
        request: Box<Request<Incoming>>,
        record: &mut Open,
    ) -> Result<Response<Answer>, Refusal> {
        let parts = &*self.0;
        record.event.method = method_index("GET");
        let url = format!("{}{}", parts.cards.base, receive::endpoint(request.uri().path()));
        let place = receive::card(*request, &connection.caller, &parts.limits)?;
        let current = parts.live.load();
        if current.origin == Origin::Nothing {
            return Err(Refusal::NotReady);
        }
        let name = match &place {
            Place::Server(named) => {
                let unknown = || Refusal::UnknownServer(named.to_string());
                let entry = current.snapshot.server(named).ok_or_else(unknown)?;
                let name = entry.server.meta.full_name();
                self.about(&name, record);
                let said = entry.offer.as_ref().map(|offer| &offer.introduction);
                let eras = entry.server.spec.eras.as_deref();
                return parts.cards.sent(&About::of(&name, said).card(&name, url, eras));
            }
            Place::Virtual(name) => Some(name),
            Place::Only => None,
        };
        let assembly = parts.assemblies.find(name)?;
        self.about(&assembly.name, record);
        let asked = classify::again(ASKED, Era::Modern, &parts.limits)?;
        assembly.permit(&asked, connection.caller.proved(), &mut record.event.decided)?;
        parts.cards.sent(&assembly.about().card(&assembly.name, url, None))
    }
}

impl Inbound {
    /// The card that a server has of itself.
    pub(super) async fn card(
        &self,
        connection: &Arc<Identified>,
        request: Box<Request<Incoming>>,
        record: &mut Open,
    ) -> Result<Response<Answer>, Refusal> {
        let parts = &*self.0;
        record.event.method = method_index("GET");
        let place = receive::card(*request, &connection.caller, &parts.limits)?;
        let current = parts.live.load();
        let server = parts.servers.find(&place, &current)?;
        record.about(Arc::clone(&server.series), Arc::clone(&server.label));
        let entry = current.snapshot.server(&server.name).ok_or(Refusal::NotReady)?;
        let (caller, snapshot) = (&connection.caller, &current.snapshot);
        let call = classify::again(ASKED, Era::Modern, &parts.limits)?;
        let permit = authorize::authorize(snapshot, entry, caller, &call, &mut record.event.decided);
        let marked = audit::About { snapshot, entry, caller, call: &call };
        parts.audit.begin(marked, permit.is_err(), record).await?;
        let permit = permit?;
        let held = parts.quotas.take(&server, entry, caller, &call, &mut record.event).await?;
        let admitted =
            server.places.admit(&caller.shared_name(), Counted::new(server.in_flight.clone())).await?;
        let admitted = admitted.holding(held.keep());
        match &*server.backend {
            Backend::Http(http) => of_server((&server, http), caller, permit, admitted).await,
            // A command has no endpoint.
            Backend::Child(_) => Err(Refusal::NoSuchPath),
        }
    }
}

async fn of_server(
    (server, http): (&Local, &Http),
    caller: &Caller,
    _permit: Permit,
    admitted: Admitted,
) -> Result<Response<Answer>, Refusal> {
    let after = server.call_timeout().min(CARD_TIMEOUT);
    let request = asking(server, http, caller)?;
    let read = async {
        let (head, body) = http.pool.send(request).await.map_err(forward::refusal)?.into_parts();
        check(head.status, &head.headers)?;
        let body = Limited::new(body.hold(admitted), CARD_BYTES_MAX).collect().await;
        let broke = |error| Refusal::UpstreamBroke(format!("its server card: {error}"));
        Ok((head.headers, body.map_err(broke)?.to_bytes()))
    };
    let (said, bytes) = timeout(after, read).await.map_err(|_| Refusal::TimedOut { after })??;
    let mut response = Response::new(Answer::from(Body::full(bytes)));
    for name in PASSED {
        if let Some(value) = said.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}

/// Nothing of the caller's request goes along but who it is.
fn asking(server: &Local, http: &Http, caller: &Caller) -> Result<Outgoing, Refusal> {
    let mut request = Request::default();
    *request.method_mut() = Method::GET;
    *request.uri_mut() = address(&http.path)?;
    let headers = request.headers_mut();
    headers.insert(HOST, http.host.clone());
    headers.insert(ACCEPT, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(CALLER, caller.header());
    headers.insert(SERVER, server.header.clone());
    Ok(Arc::new(request))
}

fn address(endpoint: &PathAndQuery) -> Result<Uri, Refusal> {
    let path = endpoint.path().trim_end_matches('/');
    let query = endpoint.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{path}{SUFFIX}{query}").parse().map_err(|_| Refusal::NoSuchPath)
}

/// Servers that have no card answer in many ways, some of them with a page for whoever looks.
fn check(status: StatusCode, headers: &HeaderMap) -> Result<(), Refusal> {
    if status.is_server_error() {
        return Err(Refusal::UpstreamBroke(format!("it answers {status} where its server card would be")));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_card = status == StatusCode::OK && [MEDIA_TYPE, "application/json"].contains(&&*kind);
    is_card.then_some(()).ok_or(Refusal::NoSuchPath)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_below_the_path_of_the_server() {
        for (endpoint, expected) in [
            ("/mcp", "/mcp/server-card"),
            ("/mcp/", "/mcp/server-card"),
            ("/", "/server-card"),
            ("/a/b?tenant=x", "/a/b/server-card?tenant=x"),
        ] {
            let endpoint = PathAndQuery::from_static(endpoint);
            assert_eq!(address(&endpoint).unwrap(), expected);
        }
    }

    #[test]
    fn only_json_that_was_found_is_a_card() {
        let checked = |status: u16, kind: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            check(StatusCode::from_u16(status).unwrap(), &headers)
        };
        for kind in [MEDIA_TYPE, "application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(checked(200, kind), Ok(()), "{kind}");
        }
        for (status, kind) in [
            (200, "text/html"),
            (200, "text/event-stream"),
            (404, "application/json"),
            (405, "application/json"),
            (307, "application/json"),
            (204, ""),
        ] {
            assert_eq!(checked(status, kind), Err(Refusal::NoSuchPath), "{status} {kind}");
        }
        assert!(matches!(checked(503, "application/json"), Err(Refusal::UpstreamBroke(_))));
        assert_eq!(check(StatusCode::OK, &HeaderMap::new()), Err(Refusal::NoSuchPath));
    }
}
