//! A server of the oldest transport, 2024-11-05's HTTP with SSE: one stream on which everything comes, and an endpoint,
//! told by the stream, to which everything is posted. Each asker has a stream of its own, which is its session.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_proto::mcp::{self, Id, Message, Raw, Revision, edit, method};

use crate::bridge::Abilities;
use crate::refusal::Refusal;

use super::http::answer::{Events, Form};
use super::http::legacy::{introduced_by, request_id};
use super::http::sessions::{Session, Sessions};
use super::http::sort::{Sorted, sort};
use super::http::{AnswerBody, Http, Settings, Target, initialize, listening, posting};
use super::{Aside, Ask, Asker, BoxFuture, Introduction, Peer, Reply, Said};

/// Between connections, while someone listens.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest time between connections that come to nothing.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Time for cancelling, which nobody waits for.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often sessions are looked through for those that were idle for too long.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Longest path of an endpoint, in bytes.
const ENDPOINT_BYTES_MAX: usize = 4096;

/// The id of our own handshakes; nothing else is under way on a stream then.
const HANDSHAKE_ID: &str = "\"weft-initialize\"";

type Sender = mpsc::Sender<Result<Said, Refusal>>;

/// A server of 2024-11-05's HTTP with SSE.
#[derive(Debug)]
pub struct HttpSse {
    server: Arc<Server>,
    /// Ends whatever runs in the background.
    over: CancellationToken,
}

#[derive(Debug)]
struct Server {
    http: Arc<dyn Http>,
    target: Target,
    settings: Settings,
    sessions: Sessions<Stream>,
    introduction: Mutex<Option<Arc<Introduction>>>,
    /// Held while a stream is opened only to be introduced.
    introducing: tokio::sync::Mutex<()>,
}

/// One stream, and what is under way on it.
#[derive(Debug)]
struct Stream {
    /// The server, in the name of whose stream it is.
    target: Target,
    /// Where messages are posted.
    endpoint: String,
    calls: Arc<Calls>,
    /// The stream is closed when this is dropped.
    _open: DropGuard,
}

/// The calls of one stream.
#[derive(Debug, Default)]
struct Calls {
    /// By the canonical text of their ids.
    waiting: Mutex<Waiting>,
    /// The stream has ended.
    ended: CancellationToken,
}

type Waiting = HashMap<String, Call>;

#[derive(Debug)]
struct Call {
    sender: Sender,
    progress_token: Option<String>,
    done: CancellationToken,
}

impl HttpSse {
    pub fn new(http: Arc<dyn Http>, target: Target, settings: Settings) -> Self {
        let sessions =
            Sessions::new(settings.sessions_max, settings.session_idle_timeout, settings.queue_max);
        let server = Arc::new(Server {
            http,
            target,
            settings,
            sessions,
            introduction: Mutex::default(),
            introducing: tokio::sync::Mutex::default(),
        });
        let over = CancellationToken::new();
        let swept = Arc::clone(&server);
        tokio::spawn(over.clone().run_until_cancelled_owned(async move {
            let mut ticks = interval(SWEEP_EVERY);
            loop {
                ticks.tick().await;
                // A stream that is dropped is closed.
                drop(swept.sessions.take_idle());
            }
        }));
        Self { server, over }
    }

    fn session(&self, asker: &Asker) -> Result<Arc<Session<Stream>>, Refusal> {
        self.server.sessions.open(asker).map(|opened| opened.session)
    }

    fn in_background(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.over.clone().run_until_cancelled_owned(task));
    }
}

impl Drop for HttpSse {
    fn drop(&mut self) {
        self.over.cancel();
        drop(self.server.sessions.take_all());
    }
}

impl Peer for HttpSse {
    fn introduction(&self) -> BoxFuture<'_, Result<Arc<Introduction>, Refusal>> {
        Box::pin(self.server.introduced())
    }

    fn call(&self, ask: Ask) -> BoxFuture<'_, Result<Reply, Refusal>> {
        Box::pin(async move {
            let session = self.session(&ask.asker)?;
            let id = request_id(&ask.message, &self.server.settings)?;
            let (sender, receiver) = mpsc::channel(self.server.settings.queue_max);
            let server = Arc::clone(&self.server);
            self.in_background(async move { server.serve(&session, ask.message, &id, sender).await });
            Ok(Reply(receiver))
        })
    }

    fn notify(&self, asker: &Asker, message: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        let asker = asker.clone();
        Box::pin(async move {
            let session = self.session(&asker)?;
            let stream = self.server.stream(&session, None).await?;
            self.server.post(&stream, message).await
        })
    }

    fn answer(&self, asker: &Asker, message: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        self.notify(asker, message)
    }

    fn asides(&self, asker: &Asker) -> broadcast::Receiver<Aside> {
        let Ok(session) = self.session(asker) else { return broadcast::Sender::new(1).subscribe() };
        let asides = session.asides.subscribe();
        if !session.is_listening.swap(true, Ordering::AcqRel) {
            let server = Arc::clone(&self.server);
            self.in_background(async move { server.listen(&session).await });
        }
        asides
    }

    fn end(&self, asker: &Asker) {
        drop(self.server.sessions.close(asker));
    }
}

/// The path of the endpoint that a stream names, which must be at the server itself: whoever else is named there would
/// get everything that is posted.
fn endpoint(target: &Target, told: &[u8]) -> Result<String, Refusal> {
    let broke = |what: &str| Refusal::UpstreamBroke(format!("the endpoint {what}"));
    let told = std::str::from_utf8(told).map_err(|_| broke("is no text"))?.trim();
    if told.is_empty() || told.len() > ENDPOINT_BYTES_MAX {
        return Err(broke("is empty or too long"));
    }
    let own = target.host.to_str().unwrap_or_default();
    let path = match (told.strip_prefix("http:"), told.strip_prefix("//")) {
        (Some(rest), _) => of_origin(rest.strip_prefix("//").ok_or_else(|| broke("is no URL"))?, own),
        (_, Some(rest)) => of_origin(rest, own),
        // Any other scheme.
        (None, None) if told.split(['/', '?', '#']).next().is_some_and(|it| it.contains(':')) => None,
        (None, None) => Some(relative(&target.path, told)),
    };
    let path = path.ok_or_else(|| broke("is at another server"))?;
    let uri: Uri = path.parse().map_err(|_| broke("is no path"))?;
    match uri.path_and_query() {
        Some(path) if uri.authority().is_none() && path.path().starts_with('/') => {
            Ok(path.as_str().to_owned())
        }
        _ => Err(broke("is at another server")),
    }
}

/// The path of a URL without its scheme, if the URL is at this server.
fn of_origin(rest: &str, own: &str) -> Option<String> {
    let length = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(length);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    authority.eq_ignore_ascii_case(own).then_some(path)
}

fn relative(base: &str, told: &str) -> String {
    let base = base.split('?').next().unwrap_or_default();
    match told.as_bytes() {
        [b'/', ..] => told.to_owned(),
        [b'?', ..] => format!("{base}{told}"),
        _ => format!("{}/{told}", base.rsplit_once('/').map_or("", |(folder, _)| folder)),
    }
}

impl Server {
    async fn introduced(&self) -> Result<Arc<Introduction>, Refusal> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let within = self.settings.handshake_timeout;
        let introducing = async {
            let _alone = self.introducing.lock().await;
            if self.known().is_none() {
                let (asides, nobody) = (broadcast::Sender::new(1), Abilities::default());
                drop(self.open(&asides, None, nobody).await?);
            }
            self.known().ok_or(Refusal::NotReady)
        };
        timeout(within, introducing).await.map_err(|_| Refusal::TimedOut { after: within })?
    }

    fn known(&self) -> Option<Arc<Introduction>> {
        self.introduction.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The session's stream; one that has ended or is known to be gone is opened anew.
    async fn stream(
        &self,
        session: &Session<Stream>,
        gone: Option<&Arc<Stream>>,
    ) -> Result<Arc<Stream>, Refusal> {
        let mut held = session.established.lock().await;
        if let Some(present) = &*held
            && !present.calls.ended.is_cancelled()
            && gone.is_none_or(|gone| !Arc::ptr_eq(gone, present))
        {
            return Ok(Arc::clone(present));
        }
        *held = None;
        let stream = Arc::new(self.open(&session.asides, session.caller.as_ref(), session.abilities).await?);
        *held = Some(Arc::clone(&stream));
        Ok(stream)
    }

    /// Opens a stream in a caller's name, or nobody's, and makes the handshake on it.
    async fn open(
        &self,
        asides: &broadcast::Sender<Aside>,
        caller: Option<&HeaderValue>,
        abilities: Abilities,
    ) -> Result<Stream, Refusal> {
        let target = self.target.in_name_of(caller);
        let request = target.request(Method::GET, listening(), Bytes::new())?;
        let mut events = stream_in(self.http.send(request).await?, &self.settings)?;
        let endpoint = endpoint(&target, &first_endpoint(&mut events).await?)?;
        let calls = Arc::new(Calls::default());
        let open = CancellationToken::new();
        let reader = Reader {
            http: Arc::clone(&self.http),
            target: target.clone(),
            settings: self.settings.clone(),
            endpoint: endpoint.clone(),
            calls: Arc::clone(&calls),
            asides: asides.clone(),
        };
        tokio::spawn(open.clone().run_until_cancelled_owned(reader.run(events)));
        let stream = Stream { target, endpoint, calls, _open: open.drop_guard() };
        self.handshake(&stream, abilities).await?;
        Ok(stream)
    }

    async fn handshake(&self, stream: &Stream, abilities: Abilities) -> Result<(), Refusal> {
        // Servers have long outgrown the revision that this transport is of.
        let message = initialize(HANDSHAKE_ID, Revision::LATEST_LEGACY, abilities);
        let (sender, mut receiver) = mpsc::channel(self.settings.queue_max);
        let _waiting = stream.calls.wait(&message, sender, self.settings.bounds)?;
        self.post(stream, message).await?;
        let response = loop {
            match receiver.recv().await {
                Some(Ok(Said::Response(response))) => break response,
                Some(Ok(Said::Note(_) | Said::Request(_) | Said::Sign)) => {}
                Some(Err(refusal)) => return Err(refusal),
                None => return Err(Refusal::UpstreamBroke("the handshake was not answered".to_owned())),
            }
        };
        let introduction = Arc::new(introduced_by(&response, &self.settings)?);
        *self.introduction.lock().unwrap_or_else(PoisonError::into_inner) = Some(introduction);
        self.post(stream, edit::notification(method::INITIALIZED, None).into()).await
    }

    async fn post(&self, stream: &Stream, message: Bytes) -> Result<(), Refusal> {
        post(&*self.http, &stream.target, &stream.endpoint, message).await?
    }

    /// Serves one request, until it is answered or nobody waits for the answer any more.
    async fn serve(&self, session: &Session<Stream>, message: Bytes, id: &str, sender: Sender) {
        let mut begun = None;
        let outcome = tokio::select! {
            biased;
            () = sender.closed() => None,
            outcome = self.converse(session, message, &sender, &mut begun) => Some(outcome),
        };
        match (outcome, begun) {
            (Some(Ok(())), _) | (None, None) => {}
            // Whoever is gone by now does not want to know.
            (Some(Err(refusal)), _) => drop(sender.send(Err(refusal)).await),
            (None, Some(stream)) => self.cancel(&stream, id).await,
        }
    }

    async fn converse(
        &self,
        session: &Session<Stream>,
        message: Bytes,
        sender: &Sender,
        begun: &mut Option<Arc<Stream>>,
    ) -> Result<(), Refusal> {
        let mut gone = None;
        loop {
            let stream = self.stream(session, gone.as_ref()).await?;
            let waiting = stream.calls.wait(&message, sender.clone(), self.settings.bounds)?;
            *begun = Some(Arc::clone(&stream));
            match post(&*self.http, &stream.target, &stream.endpoint, message.clone()).await? {
                Ok(()) => {
                    waiting.done.cancelled().await;
                    return Ok(());
                }
                // The server does not know the stream any more, so it has not looked at the message.
                Err(Refusal::SessionUnknown) if gone.is_none() => gone = Some(stream),
                Err(refusal) => return Err(refusal),
            }
        }
    }

    async fn cancel(&self, stream: &Stream, id: &str) {
        let requested: Option<&RawValue> = serde_json::from_str(id).ok();
        let params =
            serde_json::value::to_raw_value(&json!({"requestId": requested, "reason": "no longer wanted"}));
        let message = edit::notification(method::CANCELLED, params.ok().as_deref()).into();
        match timeout(CANCEL_TIMEOUT, self.post(stream, message)).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => tracing::debug!(detail = refusal.detail(), "request not cancelled"),
            Err(_) => tracing::debug!("request not cancelled in time"),
        }
    }

    /// Keeps a stream open for as long as anyone hears what comes on it outside of requests.
    async fn listen(&self, session: &Session<Stream>) {
        loop {
            tokio::select! {
                () = session.asides.closed() => {}
                () = self.keep_open(session) => {}
            }
            session.is_listening.store(false, Ordering::Release);
            // Someone may have come just now and seen that there is someone who listens.
            let is_wanted = session.asides.receiver_count() > 0;
            if !is_wanted || session.is_listening.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }

    async fn keep_open(&self, session: &Session<Stream>) {
        let mut pause = PAUSE;
        loop {
            match self.stream(session, None).await {
                Ok(stream) => {
                    let calls = Arc::clone(&stream.calls);
                    drop(stream);
                    calls.ended.cancelled().await;
                    pause = PAUSE;
                }
                Err(refusal) => tracing::debug!(detail = refusal.detail(), "no stream"),
            }
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }
}

/// The events of an answer that is to be a stream.
pub(super) fn stream_in(response: Response<AnswerBody>, settings: &Settings) -> Result<Events, Refusal> {
    let status = response.status();
    match Form::of(response.headers()) {
        Form::Events if status.is_success() => Ok(Events::new(response, settings)),
        _ => Err(Refusal::UpstreamBroke(format!("status {status} and no stream"))),
    }
}

/// What the first event of a stream says, which must name the endpoint.
pub(super) async fn first_endpoint(events: &mut Events) -> Result<Bytes, Refusal> {
    match events.next().await? {
        Some(event) if event.is("endpoint") => Ok(event.data.unwrap_or_default()),
        _ => Err(Refusal::UpstreamBroke("the stream does not begin with an endpoint".to_owned())),
    }
}

/// Posts a message; what is inside tells whether the server took it.
async fn post(
    http: &dyn Http,
    target: &Target,
    endpoint: &str,
    message: Bytes,
) -> Result<Result<(), Refusal>, Refusal> {
    let headers: HeaderMap = posting();
    let response = http.send(target.request_at(endpoint, Method::POST, headers, message)?).await?;
    Ok(match response.status() {
        status if status.is_success() => Ok(()),
        StatusCode::NOT_FOUND => Err(Refusal::SessionUnknown),
        status => Err(Refusal::UpstreamBroke(format!("a message got status {status}"))),
    })
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the answer to a request, until what is returned is dropped.
    fn wait(
        self: &Arc<Self>,
        message: &Bytes,
        sender: Sender,
        bounds: mcp::Bounds,
    ) -> Result<WaitingFor, Refusal> {
        let Ok(mcp::Body::One(Message::Request(request))) = mcp::parse(message, bounds) else {
            return Err(Refusal::Invalid("the message is no request".to_owned()));
        };
        let id = request.id.canonical().into_owned();
        let progress_token = request.params.meta.progress_token.map(canonical);
        let done = CancellationToken::new();
        let mut waiting = self.lock();
        if self.ended.is_cancelled() {
            return Err(Refusal::UpstreamBroke("the stream has ended".to_owned()));
        }
        if waiting.contains_key(&id) {
            return Err(Refusal::Invalid("a request with this id is under way".to_owned()));
        }
        waiting.insert(id.clone(), Call { sender, progress_token, done: done.clone() });
        Ok(WaitingFor { calls: Arc::clone(self), id, done })
    }

    /// Tells everyone that there will be no answer.
    fn end(&self) {
        let mut waiting = self.lock();
        self.ended.cancel();
        let calls: Vec<_> = waiting.drain().map(|(_, call)| call).collect();
        drop(waiting);
        for call in calls {
            call.tell_last(Err(Refusal::UpstreamBroke("the stream ended without a response".to_owned())));
        }
    }

    fn answered(&self, id: &Id<'_>, response: Bytes) {
        match self.lock().remove(&*id.canonical()) {
            Some(call) => call.tell_last(Ok(Said::Response(response))),
            None => tracing::debug!("response to nothing that was asked"),
        }
    }

    /// To whom a message belongs that says so by a progress token, or is for the only one there is.
    fn owner(&self, progress_token: Option<Raw<'_>>) -> Option<Sender> {
        let waiting = self.lock();
        let mut calls = waiting.values();
        match progress_token.map(canonical) {
            Some(token) => calls.find(|call| call.progress_token.as_ref() == Some(&token)),
            None => calls.next().filter(|_| waiting.len() == 1),
        }
        .map(|call| call.sender.clone())
    }
}

impl Call {
    fn tell_last(self, last: Result<Said, Refusal>) {
        let Self { sender, done, .. } = self;
        match sender.try_send(last) {
            // The rest of the stream does not wait for one who is slow.
            Err(mpsc::error::TrySendError::Full(last)) => {
                tokio::spawn(async move {
                    tokio::select! {
                        _ = sender.send(last) => {}
                        () = sender.closed() => {}
                    }
                    done.cancel();
                });
            }
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => done.cancel(),
        }
    }
}

fn canonical(token: Raw<'_>) -> String {
    Id::parse(token.get()).map_or_else(|| token.get().to_owned(), |id| id.canonical().into_owned())
}

/// A request that is waited for.
#[derive(Debug)]
struct WaitingFor {
    calls: Arc<Calls>,
    id: String,
    done: CancellationToken,
}

impl Drop for WaitingFor {
    fn drop(&mut self) {
        if !self.done.is_cancelled() {
            self.calls.lock().remove(&self.id);
        }
    }
}

/// Reads one stream.
struct Reader {
    http: Arc<dyn Http>,
    target: Target,
    settings: Settings,
    endpoint: String,
    calls: Arc<Calls>,
    asides: broadcast::Sender<Aside>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.calls.end();
    }
}

impl Reader {
    async fn run(self, mut events: Events) {
        loop {
            match events.next().await {
                Ok(Some(event)) if event.is("message") => self.hear(event.data.unwrap_or_default()).await,
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(refusal) => return tracing::debug!(detail = refusal.detail(), "stream broke"),
            }
        }
    }

    async fn hear(&self, message: Bytes) {
        let bounds = self.settings.bounds;
        if let Ok(mcp::Body::One(Message::Response(response))) = mcp::parse(&message, bounds) {
            if let Some(id) = &response.id {
                self.calls.answered(id, message.clone());
            }
            return;
        }
        let said = match sort(&message, None, bounds) {
            Ok(Sorted::Aside(note)) => return drop(self.asides.send(Aside::Note(note))),
            Ok(Sorted::Note(note)) => Said::Note(note),
            Ok(Sorted::Request(request)) => Said::Request(request),
            Ok(Sorted::Ping(pong)) => {
                return drop(post(&*self.http, &self.target, &self.endpoint, pong).await);
            }
            Ok(Sorted::Response(_) | Sorted::Stray) => return,
            Err(refusal) => return tracing::debug!(detail = refusal.detail(), "message passed over"),
        };
        let progress_token = match mcp::parse(&message, bounds) {
            Ok(mcp::Body::One(Message::Notification(note))) => note.params.progress_token,
            _ => None,
        };
        match (self.calls.owner(progress_token), said) {
            // One who is slow misses what the others do not wait for.
            (Some(sender), said) => drop(sender.try_send(Ok(said))),
            // Signs are of the whole stream, and so of no call.
            (None, Said::Sign) => {}
            (None, Said::Request(request)) => drop(self.asides.send(Aside::Request(request))),
            (None, Said::Note(note) | Said::Response(note)) => drop(self.asides.send(Aside::Note(note))),
        }
    }
}

#[cfg(test)]
mod tests;
