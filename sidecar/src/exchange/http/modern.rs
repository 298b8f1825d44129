//! A server of the modern era over HTTP: every request stands for itself, and is taken back by closing its connection.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use weft_proto::mcp::{self, Id, Message, Outcome, Request, Revision, code, header, method};
use weft_proto::resource::kinds::Era;

use crate::bridge::{HeaderParams, modern_headers, without_tools};
use crate::exchange::{Aside, Ask, Asker, BoxFuture, Introduction, Peer, Reply, Said};
use crate::headers::ON_BEHALF_OF;
use crate::refusal::Refusal;

use super::answer::{self, Events, Form};
use super::legacy::only_response;
use super::sort::{Sorted, sort};
use super::{AnswerBody, Http, Settings, Target, modern_request, posting, signed};

/// Tools of one server whose arguments are told in headers.
const TOOLS_MAX: usize = 4096;

/// Pages of a list of tools that are read to learn which arguments are told in headers.
const PAGES_MAX: usize = 32;

/// Between streams of changes.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest time between streams of changes that come to nothing.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The id of our own requests; each has a connection of its own.
const OWN_ID: &str = "\"weft\"";

/// A server of the modern era over HTTP.
#[derive(Debug)]
pub struct ModernHttp {
    server: Arc<Server>,
    asides: broadcast::Sender<Aside>,
    /// Whether someone listens for changes.
    is_listening: Arc<AtomicBool>,
    /// Ends whatever runs in the background.
    over: CancellationToken,
}

#[derive(Debug)]
struct Server {
    http: Arc<dyn Http>,
    target: Target,
    settings: Settings,
    params: Mutex<HeaderParams>,
    introduction: tokio::sync::Mutex<Option<Arc<Introduction>>>,
}

impl ModernHttp {
    pub fn new(http: Arc<dyn Http>, target: Target, settings: Settings) -> Self {
        Self {
            asides: broadcast::Sender::new(settings.queue_max),
            is_listening: Arc::default(),
            over: CancellationToken::new(),
            server: Arc::new(Server {
                http,
                target,
                settings,
                params: Mutex::new(HeaderParams::new(TOOLS_MAX)),
                introduction: tokio::sync::Mutex::default(),
            }),
        }
    }
}

impl Drop for ModernHttp {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

impl Peer for ModernHttp {
    fn introduction(&self) -> BoxFuture<'_, Result<Arc<Introduction>, Refusal>> {
        Box::pin(self.server.introduced())
    }

    fn call(&self, ask: Ask) -> BoxFuture<'_, Result<Reply, Refusal>> {
        Box::pin(async move {
            // Refused here, so that nothing is sent that has no headers.
            self.server.headers(&ask.message)?;
            let (sender, receiver) = mpsc::channel(self.server.settings.queue_max);
            let server = Arc::clone(&self.server);
            let serving = async move {
                let outcome = tokio::select! {
                    biased;
                    // Whatever is dropped with it tells the server.
                    () = sender.closed() => return,
                    outcome = server.converse(ask, &sender) => outcome,
                };
                if let Err(refusal) = outcome {
                    // Whoever is gone by now does not want to know.
                    _ = sender.send(Err(refusal)).await;
                }
            };
            tokio::spawn(self.over.clone().run_until_cancelled_owned(serving));
            Ok(Reply(receiver))
        })
    }

    fn notify(&self, _: &Asker, message: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let response = self.server.post_notification(message).await?;
            match response.status() {
                status if status.is_success() => Ok(()),
                status => Err(Refusal::UpstreamBroke(format!("a notification got status {status}"))),
            }
        })
    }

    fn answer(&self, _: &Asker, _: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async {
            Err(Refusal::Invalid("this server asks nothing that could be answered".to_owned()))
        })
    }

    /// Changes of lists, which are the same for everyone. Who wants to hear of single resources asks the server with a
    /// request of its own.
    fn asides(&self, _: &Asker) -> broadcast::Receiver<Aside> {
        let receiver = self.asides.subscribe();
        if !self.is_listening.swap(true, Ordering::AcqRel) {
            let (server, asides) = (Arc::clone(&self.server), self.asides.clone());
            let is_listening = Arc::clone(&self.is_listening);
            let listening = async move {
                loop {
                    tokio::select! {
                        () = asides.closed() => {}
                        () = server.keep_listening(&asides) => {}
                    }
                    is_listening.store(false, Ordering::Release);
                    // Someone may have come just now and seen that there is someone who listens.
                    let is_wanted = asides.receiver_count() > 0;
                    if !is_wanted || is_listening.swap(true, Ordering::AcqRel) {
                        return;
                    }
                }
            };
            tokio::spawn(self.over.clone().run_until_cancelled_owned(listening));
        }
        receiver
    }

    fn end(&self, _: &Asker) {}
}

/// What a server said to `server/discover`.
pub(crate) fn introduced_by(response: &[u8], settings: &Settings) -> Result<Introduction, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct DiscoverResult {
        supported_versions: Vec<String>,
    }
    let broke = |what: &dyn std::fmt::Display| Refusal::UpstreamBroke(format!("discovery: {what}"));
    let parsed = mcp::parse(response, settings.bounds).map_err(|error| broke(&error))?;
    let mcp::Body::One(Message::Response(parsed)) = parsed else { return Err(broke(&"no response")) };
    let result = match parsed.outcome {
        Outcome::Result(result) => result,
        Outcome::Error(fault) => return Err(broke(&format_args!("error {}: {}", fault.code, fault.message))),
    };
    let read: DiscoverResult = serde_json::from_str(result.get()).map_err(|error| broke(&error))?;
    let revisions = read.supported_versions.iter().filter_map(|it| Revision::parse(it));
    let revision = revisions.filter(|revision| revision.era() == Era::Modern).max();
    let revision = revision.ok_or_else(|| broke(&format_args!("only {:?}", read.supported_versions)))?;
    Ok(Introduction {
        era: Era::Modern,
        revision: revision.as_str().to_owned(),
        result: Bytes::copy_from_slice(result.get().as_bytes()),
    })
}

fn request_in<'m>(message: &'m [u8], settings: &Settings) -> Result<Request<'m>, Refusal> {
    match mcp::parse(message, settings.bounds) {
        Ok(mcp::Body::One(Message::Request(request))) => Ok(request),
        Ok(_) => Err(Refusal::Invalid("the message is no request".to_owned())),
        Err(error) => Err(Refusal::Parse(error.to_string())),
    }
}

impl Server {
    async fn introduced(&self) -> Result<Arc<Introduction>, Refusal> {
        let within = self.settings.handshake_timeout;
        let introducing = async {
            let mut held = self.introduction.lock().await;
            if let Some(known) = &*held {
                return Ok(Arc::clone(known));
            }
            let response = self.post(modern_request(OWN_ID, method::SERVER_DISCOVER, "")).await?;
            let response = only_response(response, OWN_ID, &self.settings).await?;
            let introduction = Arc::new(introduced_by(&response, &self.settings)?);
            *held = Some(Arc::clone(&introduction));
            Ok(introduction)
        };
        timeout(within, introducing).await.map_err(|_| Refusal::TimedOut { after: within })?
    }

    fn headers(&self, message: &[u8]) -> Result<http::HeaderMap, Refusal> {
        let request = request_in(message, &self.settings)?;
        let params = self.params.lock().unwrap_or_else(PoisonError::into_inner);
        let mut headers = modern_headers(&request, &params)?;
        drop(params);
        headers.extend(posting());
        Ok(headers)
    }

    /// Posts a request of our own.
    async fn post(&self, message: Bytes) -> Result<Response<AnswerBody>, Refusal> {
        self.post_for(message, (None, None)).await
    }

    /// Posts a request in a caller's name, with what a gateway says of it.
    async fn post_for(
        &self,
        message: Bytes,
        (caller, said): (Option<&HeaderValue>, Option<&HeaderValue>),
    ) -> Result<Response<AnswerBody>, Refusal> {
        let mut headers = signed(self.headers(&message)?, caller);
        if let Some(said) = said {
            headers.insert(ON_BEHALF_OF, said.clone());
        }
        self.http.send(self.target.request(Method::POST, headers, message)?).await
    }

    async fn post_notification(&self, message: Bytes) -> Result<Response<AnswerBody>, Refusal> {
        let mut headers = posting();
        headers.insert(header::PROTOCOL_VERSION, HeaderValue::from_static(Revision::LATEST.as_str()));
        let parsed = mcp::parse(&message, self.settings.bounds);
        if let Ok(mcp::Body::One(Message::Notification(note))) = parsed {
            let method = HeaderValue::from_str(&note.method);
            let method = method.map_err(|_| Refusal::Invalid("no header can hold the method".to_owned()))?;
            headers.insert(header::METHOD, method);
        }
        self.http.send(self.target.request(Method::POST, headers, message)?).await
    }

    async fn converse(&self, ask: Ask, sender: &mpsc::Sender<Result<Said, Refusal>>) -> Result<(), Refusal> {
        let caller = HeaderValue::from_str(&ask.asker.caller).ok();
        let by = (caller.as_ref(), ask.asker.said.as_ref());
        let message = ask.message;
        let request = request_in(&message, &self.settings)?;
        let call = Call { server: self, request: &request, sender };
        let response = self.post_for(message.clone(), by).await?;
        if response.status() != StatusCode::BAD_REQUEST || request.method != method::TOOLS_CALL {
            return call.take(response).await;
        }
        let (status, body) = (response.status(), response.into_body());
        let body = answer::whole(body, self.settings.answer_bytes_max).await?;
        match self.is_stale(&body).await {
            // The server has refused it for its headers, so it has not looked at the rest.
            true => call.take(self.post_for(message.clone(), by).await?).await,
            false => call.take_json(status, body).await,
        }
    }

    /// Whether a call was refused because its tool now wants other arguments told in headers; they are known after.
    async fn is_stale(&self, body: &[u8]) -> bool {
        if answer::error_code(body, self.settings.bounds) != Some(code::HEADER_MISMATCH) {
            return false;
        }
        match self.learn_all().await {
            Ok(()) => true,
            Err(refusal) => {
                tracing::debug!(detail = refusal.detail(), "tools not listed");
                false
            }
        }
    }

    /// Asks for the list of tools, to learn which arguments are told in headers.
    async fn learn_all(&self) -> Result<(), Refusal> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            next_cursor: Option<String>,
        }
        let mut cursor = String::new();
        for _ in 0..PAGES_MAX {
            let response = self.post(modern_request(OWN_ID, method::TOOLS_LIST, &cursor)).await?;
            let response = only_response(response, OWN_ID, &self.settings).await?;
            let Some((result, _)) = self.learn(&response) else { return Ok(()) };
            let page = serde_json::from_str::<Page>(result.get());
            match page.ok().and_then(|page| page.next_cursor) {
                Some(next) => cursor = format!(",\"cursor\":{}", json!(next)),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Learns from the response to `tools/list`. Gives back its result, and the tools that are not to be used.
    fn learn<'m>(&self, response: &'m [u8]) -> Option<(&'m RawValue, Vec<String>)> {
        let parsed = mcp::parse(response, self.settings.bounds);
        let Ok(mcp::Body::One(Message::Response(parsed))) = parsed else { return None };
        let Outcome::Result(result) = parsed.outcome else { return None };
        let result = result.value();
        let broken = self.params.lock().unwrap_or_else(PoisonError::into_inner).learn(result);
        if !broken.is_empty() {
            tracing::warn!(tools = ?broken, "tools whose header annotations break the rules");
        }
        Some((result, broken))
    }

    async fn keep_listening(&self, asides: &broadcast::Sender<Aside>) {
        let mut pause = PAUSE;
        loop {
            match self.listen_once(asides).await {
                Ok(true) => pause = PAUSE,
                Ok(false) => {}
                Err(refusal) => tracing::debug!(detail = refusal.detail(), "no stream of changes"),
            }
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    /// One stream of changes, to its end; tells whether anything came.
    async fn listen_once(&self, asides: &broadcast::Sender<Aside>) -> Result<bool, Refusal> {
        let introduction = self.introduced().await?;
        let wanted = lists_that_change(&introduction.result);
        if wanted.is_empty() {
            std::future::pending::<()>().await;
        }
        let wanted: serde_json::Map<_, _> =
            wanted.into_iter().map(|it| (it.to_owned(), json!(true))).collect();
        let more = format!(",\"notifications\":{}", json!(wanted));
        let response = self.post(modern_request(OWN_ID, method::SUBSCRIPTIONS_LISTEN, &more)).await?;
        let status = response.status();
        if !status.is_success() || Form::of(response.headers()) != Form::Events {
            return Err(Refusal::UpstreamBroke(format!("status {status} and no stream")));
        }
        let mut events = Events::new(response, &self.settings);
        let mut heard = false;
        while let Some(event) = events.next().await? {
            heard = true;
            match sort(&event.data.unwrap_or_default(), Id::parse(OWN_ID).as_ref(), self.settings.bounds)? {
                Sorted::Aside(note) => {
                    // Nobody may be left to hear it.
                    _ = asides.send(Aside::Note(note));
                }
                Sorted::Response(_) => break,
                Sorted::Note(_) | Sorted::Request(_) | Sorted::Ping(_) | Sorted::Stray => {}
            }
        }
        Ok(heard)
    }
}

/// What can be listened for, of what a server says it tells.
fn lists_that_change(introduction: &[u8]) -> BTreeSet<&'static str> {
    let Ok(result) = serde_json::from_slice::<serde_json::Value>(introduction) else {
        return BTreeSet::new();
    };
    let lists = [
        ("tools", "toolsListChanged"),
        ("prompts", "promptsListChanged"),
        ("resources", "resourcesListChanged"),
    ];
    let changes = |kind: &str| result["capabilities"][kind]["listChanged"] == true;
    lists.into_iter().filter(|(kind, _)| changes(kind)).map(|(_, name)| name).collect()
}

/// One request that is under way.
struct Call<'a> {
    server: &'a Server,
    request: &'a Request<'a>,
    sender: &'a mpsc::Sender<Result<Said, Refusal>>,
}

impl Call<'_> {
    async fn take(&self, response: Response<AnswerBody>) -> Result<(), Refusal> {
        let status = response.status();
        match Form::of(response.headers()) {
            Form::Events if status.is_success() => {
                self.follow(Events::new(response, &self.server.settings)).await
            }
            Form::Json => {
                let body = answer::whole(response.into_body(), self.server.settings.answer_bytes_max).await?;
                self.take_json(status, body).await
            }
            Form::Events | Form::Other => {
                Err(Refusal::UpstreamBroke(format!("status {status} and no message")))
            }
        }
    }

    async fn take_json(&self, status: StatusCode, body: Bytes) -> Result<(), Refusal> {
        let heard = self.hear(body).await;
        let heard = heard
            .map_err(|refusal| Refusal::UpstreamBroke(format!("status {status}: {}", refusal.detail())))?;
        match heard {
            true => Ok(()),
            false => Err(Refusal::UpstreamBroke("the answer answers something else".to_owned())),
        }
    }

    async fn follow(&self, mut events: Events) -> Result<(), Refusal> {
        // Where there is no room, messages wait that are as good a sign.
        let at_work = || drop(self.sender.try_send(Ok(Said::Sign)));
        while let Some(event) = events.next_with(at_work).await? {
            if event.is("message") && self.hear(event.data.unwrap_or_default()).await? {
                return Ok(());
            }
        }
        Err(Refusal::UpstreamBroke("the stream ended without a response".to_owned()))
    }

    /// Takes a message; tells whether it was the response.
    async fn hear(&self, message: Bytes) -> Result<bool, Refusal> {
        let said = match sort(&message, Some(&self.request.id), self.server.settings.bounds)? {
            Sorted::Response(response) => {
                let is_list = self.request.method == method::TOOLS_LIST;
                let learnt = is_list.then(|| self.server.learn(&response)).flatten();
                let fewer = learnt
                    .filter(|(_, broken)| !broken.is_empty())
                    .map(|(result, broken)| without_tools(&response, result, &broken));
                Said::Response(fewer.unwrap_or(response))
            }
            // A stream of changes is a request as well, so that changes belong to it.
            Sorted::Note(note) | Sorted::Aside(note) => Said::Note(note),
            Sorted::Request(_) | Sorted::Ping(_) | Sorted::Stray => {
                tracing::debug!("message passed over that has no place in an answer");
                return Ok(false);
            }
        };
        let is_response = matches!(said, Said::Response(_));
        // Whoever is gone is noticed elsewhere.
        _ = self.sender.send(Ok(said)).await;
        Ok(is_response)
    }
}
