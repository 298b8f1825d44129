//! A server of the legacy era over Streamable HTTP: each asker has a session there.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use weft_proto::mcp::{self, Id, Message, Outcome, Revision, edit, header, method};
use weft_proto::resource::kinds::Era;

use crate::exchange::{Aside, Ask, Asker, BoxFuture, Introduction, Peer, Reply, Said};
use crate::refusal::Refusal;

use super::answer::{self, Events, Form};
use super::sessions::{Established, Session, Sessions};
use super::sort::{Sorted, sort};
use super::{AnswerBody, Http, Settings, Target, initialize, listening, posting, signed};

/// Between connections, where the server names no time.
const RETRY: Duration = Duration::from_secs(1);

/// Longest time between connections, whatever the server names.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Connections after each other that bring nothing for a request, before it is given up.
const EMPTY_MAX: u32 = 16;

/// Time for what nobody waits for: cancelling, ending a session.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often sessions are looked through for those that were idle for too long.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// The id of our own handshakes; nothing else is under way in a session then.
const HANDSHAKE_ID: &str = "\"weft-initialize\"";

/// A server of the legacy era over Streamable HTTP.
#[derive(Debug)]
pub struct LegacyHttp {
    server: Arc<Server>,
    /// Ends whatever runs in the background.
    over: CancellationToken,
}

#[derive(Debug)]
struct Server {
    http: Arc<dyn Http>,
    target: Target,
    settings: Settings,
    sessions: Sessions,
    introduction: Mutex<Option<Arc<Introduction>>>,
    /// Held while a handshake is made only to be introduced.
    introducing: tokio::sync::Mutex<()>,
}

impl LegacyHttp {
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
                swept.farewell(swept.sessions.take_idle());
            }
        }));
        Self { server, over }
    }

    fn session(&self, asker: &Asker) -> Result<Arc<Session>, Refusal> {
        let opened = self.server.sessions.open(asker)?;
        self.server.farewell(opened.gone);
        Ok(opened.session)
    }

    fn in_background(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.over.clone().run_until_cancelled_owned(task));
    }
}

impl Drop for LegacyHttp {
    fn drop(&mut self) {
        self.over.cancel();
        self.server.farewell(self.server.sessions.take_all());
    }
}

impl Peer for LegacyHttp {
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
            self.server.tell(&session, message).await
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
        self.server.farewell(self.server.sessions.close(asker));
    }
}

/// The id of a request, as JSON text.
pub(crate) fn request_id(message: &Bytes, settings: &Settings) -> Result<String, Refusal> {
    match mcp::parse(message, settings.bounds) {
        Ok(mcp::Body::One(Message::Request(request))) => Ok(request.id.raw().to_owned()),
        Ok(_) => Err(Refusal::Invalid("the message is no request".to_owned())),
        Err(error) => Err(Refusal::Parse(error.to_string())),
    }
}

/// What a server said to `initialize`.
pub(crate) fn introduced_by(response: &[u8], settings: &Settings) -> Result<Introduction, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct InitializeResult {
        protocol_version: String,
    }
    let broke = |what: &dyn std::fmt::Display| Refusal::UpstreamBroke(format!("the handshake: {what}"));
    let parsed = mcp::parse(response, settings.bounds).map_err(|error| broke(&error))?;
    let mcp::Body::One(Message::Response(parsed)) = parsed else { return Err(broke(&"no response")) };
    let result = match parsed.outcome {
        Outcome::Result(result) => result,
        Outcome::Error(fault) => return Err(broke(&format_args!("error {}: {}", fault.code, fault.message))),
    };
    let read: InitializeResult = serde_json::from_str(result.get()).map_err(|error| broke(&error))?;
    let revision = Revision::parse(&read.protocol_version).filter(|revision| revision.era() == Era::Legacy);
    let revision = revision.ok_or_else(|| broke(&format_args!("revision {:?}", read.protocol_version)))?;
    Ok(Introduction {
        era: Era::Legacy,
        revision: revision.as_str().to_owned(),
        result: Bytes::copy_from_slice(result.get().as_bytes()),
    })
}

impl Server {
    async fn introduced(&self) -> Result<Arc<Introduction>, Refusal> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let within = self.settings.handshake_timeout;
        let late = |_| Refusal::TimedOut { after: within };
        let introducing = async {
            let _alone = self.introducing.lock().await;
            if self.known().is_none() {
                let established = self.handshake(None).await?;
                self.delete(&established).await;
            }
            self.known().ok_or(Refusal::NotReady)
        };
        timeout(within, introducing).await.map_err(late)?
    }

    fn known(&self) -> Option<Arc<Introduction>> {
        self.introduction.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was agreed on for a session; what is known to be gone is agreed on anew.
    async fn established(
        &self,
        session: &Session,
        gone: Option<&Arc<Established>>,
    ) -> Result<Arc<Established>, Refusal> {
        let mut held = session.established.lock().await;
        if let Some(present) = &*held
            && gone.is_none_or(|gone| !Arc::ptr_eq(gone, present))
        {
            return Ok(Arc::clone(present));
        }
        *held = None;
        let established = Arc::new(self.handshake(session.caller.clone()).await?);
        *held = Some(Arc::clone(&established));
        Ok(established)
    }

    async fn handshake(&self, caller: Option<HeaderValue>) -> Result<Established, Refusal> {
        let message = initialize(HANDSHAKE_ID, Revision::LATEST_LEGACY);
        let response = self.send(Method::POST, signed(posting(), caller.as_ref()), message).await?;
        let (status, id) = (response.status(), response.headers().get(header::SESSION_ID).cloned());
        let response = only_response(response, HANDSHAKE_ID, &self.settings).await?;
        if !status.is_success() {
            return Err(Refusal::UpstreamBroke(format!("the handshake: status {status}")));
        }
        let introduction = introduced_by(&response, &self.settings)?;
        let revision = HeaderValue::from_str(&introduction.revision);
        let revision = revision.map_err(|error| Refusal::UpstreamBroke(error.to_string()))?;
        *self.introduction.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(introduction));
        let established = Established { id, revision, caller };
        let initialized = edit::notification(method::INITIALIZED, None).into();
        let accepted = self.post(&established, initialized).await?;
        match accepted.status() {
            status if status.is_success() => Ok(established),
            status => Err(Refusal::UpstreamBroke(format!("the end of the handshake: status {status}"))),
        }
    }

    async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<AnswerBody>, Refusal> {
        self.http.send(self.target.request(method, headers, body)?).await
    }

    async fn post(&self, session: &Established, message: Bytes) -> Result<Response<AnswerBody>, Refusal> {
        self.send(Method::POST, within(session, posting()), message).await
    }

    /// Posts a message in a session. A server that does not know the session any more has not looked at the message,
    /// so it is posted once again in a new one.
    async fn post_in(
        &self,
        session: &Session,
        message: Bytes,
    ) -> Result<(Arc<Established>, Response<AnswerBody>), Refusal> {
        let established = self.established(session, None).await?;
        let response = self.post(&established, message.clone()).await?;
        if response.status() != StatusCode::NOT_FOUND || established.id.is_none() {
            return Ok((established, response));
        }
        tracing::debug!("session gone at the server");
        let established = self.established(session, Some(&established)).await?;
        let response = self.post(&established, message).await?;
        Ok((established, response))
    }

    /// Posts what is not answered.
    async fn tell(&self, session: &Session, message: Bytes) -> Result<(), Refusal> {
        let (_, response) = self.post_in(session, message).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(Refusal::UpstreamBroke(format!("a notification got status {status}"))),
        }
    }

    /// Serves one request, until it is answered or nobody waits for the answer any more.
    async fn serve(
        &self,
        session: &Session,
        message: Bytes,
        id: &str,
        sender: mpsc::Sender<Result<Said, Refusal>>,
    ) {
        let outcome = tokio::select! {
            biased;
            () = sender.closed() => None,
            outcome = self.converse(session, message, id, &sender) => Some(outcome),
        };
        match outcome {
            Some(Ok(())) => {}
            // Whoever is gone by now does not want to know.
            Some(Err(refusal)) => drop(sender.send(Err(refusal)).await),
            None => self.cancel(session, id).await,
        }
    }

    async fn cancel(&self, session: &Session, id: &str) {
        // Without a session the request was not sent yet.
        let Some(established) = session.established.lock().await.clone() else { return };
        let requested: Option<&serde_json::value::RawValue> = serde_json::from_str(id).ok();
        let params =
            serde_json::value::to_raw_value(&json!({"requestId": requested, "reason": "no longer wanted"}));
        let message = edit::notification(method::CANCELLED, params.ok().as_deref()).into();
        match timeout(FAREWELL_TIMEOUT, self.post(&established, message)).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => tracing::debug!(detail = refusal.detail(), "request not cancelled"),
            Err(_) => tracing::debug!("request not cancelled in time"),
        }
    }

    async fn converse(
        &self,
        session: &Session,
        message: Bytes,
        id: &str,
        sender: &mpsc::Sender<Result<Said, Refusal>>,
    ) -> Result<(), Refusal> {
        let (established, response) = self.post_in(session, message).await?;
        let call = Call { server: self, session, established: &established, id, sender };
        let status = response.status();
        match Form::of(response.headers()) {
            Form::Events if status.is_success() => call.follow(Events::new(response, &self.settings)).await,
            Form::Json => {
                let body = answer::whole(response.into_body(), self.settings.answer_bytes_max).await?;
                let messages = answer::messages(&body, self.settings.bounds).map_err(|refusal| {
                    Refusal::UpstreamBroke(format!("status {status}: {}", refusal.detail()))
                })?;
                for message in messages {
                    if call.hear(message).await? {
                        return Ok(());
                    }
                }
                Err(Refusal::UpstreamBroke("the answer answers something else".to_owned()))
            }
            Form::Events | Form::Other => {
                Err(Refusal::UpstreamBroke(format!("status {status} and no message")))
            }
        }
    }

    /// Hears what the server says outside of requests, until the session ends.
    ///
    /// A stream that goes on is kept when nobody wants it any more. Servers allow one for a session, and some notice
    /// that it was closed only when they next have something to say: that is lost then, and until then nobody else gets
    /// a stream.
    async fn listen(&self, session: &Session) {
        loop {
            tokio::select! {
                () = session.over.cancelled() => return,
                () = self.keep_listening(session) => {}
            }
            session.is_listening.store(false, Ordering::Release);
            // Someone may have come just now and seen that there is someone who listens.
            let is_wanted = session.asides.receiver_count() > 0;
            if !is_wanted || session.is_listening.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }

    /// Returns when there is no stream and nobody wants one.
    async fn keep_listening(&self, session: &Session) {
        let mut last_id = None;
        let mut pause = RETRY;
        let mut gone = None;
        loop {
            let outcome = async {
                let established = self.established(session, gone.take().as_ref()).await?;
                let response = self.resume(&established, last_id.as_ref()).await?;
                Ok::<_, Refusal>((established, response))
            };
            match outcome.await {
                Ok((established, response)) if response.status() == StatusCode::NOT_FOUND => {
                    (gone, last_id) = (Some(established), None);
                }
                Ok((established, response)) if response.status().is_success() => {
                    let mut events = Events::new(response, &self.settings);
                    let began = Instant::now();
                    let heard = self.hear_asides(session, &established, &mut events).await;
                    last_id = events.resumable().cloned();
                    // A server that only ever ends the stream at once is asked less and less often.
                    if heard || events.retry.is_some() || began.elapsed() > pause {
                        pause = events.retry.unwrap_or(RETRY);
                    }
                }
                // The server takes another stream for open, and will notice that it is not.
                Ok((_, response)) if response.status() == StatusCode::CONFLICT => {
                    tracing::debug!("another stream is open at the server");
                }
                // The server has no such stream.
                Ok((_, response)) if response.status().is_client_error() => {
                    return session.asides.closed().await;
                }
                Ok((_, response)) => tracing::debug!(status = %response.status(), "no stream"),
                Err(refusal) => tracing::debug!(detail = refusal.detail(), "no stream"),
            }
            tokio::select! {
                () = session.asides.closed() => return,
                () = sleep(pause.clamp(RETRY, RETRY_MAX)) => {}
            }
            pause = pause.saturating_mul(2);
        }
    }

    /// Hears a stream to its end; tells whether anything came.
    async fn hear_asides(&self, session: &Session, established: &Established, events: &mut Events) -> bool {
        let mut heard = false;
        loop {
            let message = match events.next().await {
                Ok(Some(event)) if event.is("message") => event.data.unwrap_or_default(),
                Ok(Some(_)) => continue,
                Ok(None) => return heard,
                Err(refusal) => {
                    tracing::debug!(detail = refusal.detail(), "stream broke");
                    return heard;
                }
            };
            heard = true;
            // Nobody may be left to hear it.
            match sort(&message, None, self.settings.bounds) {
                Ok(Sorted::Aside(note) | Sorted::Note(note)) => drop(session.asides.send(Aside::Note(note))),
                Ok(Sorted::Request(request)) => drop(session.asides.send(Aside::Request(request))),
                Ok(Sorted::Ping(pong)) => drop(self.post(established, pong).await),
                Ok(Sorted::Response(_) | Sorted::Stray) => {}
                Err(refusal) => tracing::debug!(detail = refusal.detail(), "message passed over"),
            }
        }
    }

    /// The stream from an event on, or the one for what belongs to no request.
    async fn resume(
        &self,
        session: &Established,
        last_id: Option<&Bytes>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let mut headers = within(session, listening());
        if let Some(id) = last_id {
            let id = HeaderValue::from_bytes(id);
            let id =
                id.map_err(|_| Refusal::UpstreamBroke("an event id that no header can hold".to_owned()))?;
            headers.insert(header::LAST_EVENT_ID, id);
        }
        self.send(Method::GET, headers, Bytes::new()).await
    }

    /// Ends sessions at the server. Nobody waits for it.
    fn farewell(self: &Arc<Self>, sessions: impl IntoIterator<Item = Arc<Session>>) {
        // Outside of a runtime everything ends anyway.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        for session in sessions {
            session.over.cancel();
            let server = Arc::clone(self);
            runtime.spawn(async move {
                let established = session.established.lock().await.take();
                if let Some(established) = established {
                    server.delete(&established).await;
                }
            });
        }
    }

    async fn delete(&self, session: &Established) {
        if session.id.is_none() {
            return;
        }
        let deleting = self.send(Method::DELETE, within(session, HeaderMap::new()), Bytes::new());
        match timeout(FAREWELL_TIMEOUT, deleting).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => tracing::debug!(detail = refusal.detail(), "session not ended"),
            Err(_) => tracing::debug!("session not ended in time"),
        }
    }
}

fn within(session: &Established, mut headers: HeaderMap) -> HeaderMap {
    headers.insert(header::PROTOCOL_VERSION, session.revision.clone());
    if let Some(id) = &session.id {
        headers.insert(header::SESSION_ID, id.clone());
    }
    signed(headers, session.caller.as_ref())
}

/// Reads until the response to a request of our own.
pub(crate) async fn only_response(
    response: Response<AnswerBody>,
    id: &str,
    settings: &Settings,
) -> Result<Bytes, Refusal> {
    let status = response.status();
    let own = Id::parse(id);
    let read = |message: Bytes| match sort(&message, own.as_ref(), settings.bounds) {
        Ok(Sorted::Response(response)) => Ok(Some(response)),
        Ok(_) => Ok(None),
        Err(refusal) => Err(Refusal::UpstreamBroke(format!("status {status}: {}", refusal.detail()))),
    };
    if Form::of(response.headers()) == Form::Events {
        let mut events = Events::new(response, settings);
        while let Some(event) = events.next().await? {
            if event.is("message")
                && let Some(response) = read(event.data.unwrap_or_default())?
            {
                return Ok(response);
            }
        }
        return Err(Refusal::UpstreamBroke("the stream ended without a response".to_owned()));
    }
    let body = answer::whole(response.into_body(), settings.answer_bytes_max).await?;
    read(body)?.ok_or_else(|| Refusal::UpstreamBroke(format!("status {status} and no response")))
}

/// One request that is under way.
struct Call<'a> {
    server: &'a Server,
    session: &'a Session,
    established: &'a Established,
    id: &'a str,
    sender: &'a mpsc::Sender<Result<Said, Refusal>>,
}

impl Call<'_> {
    /// Takes a message; tells whether it was the response.
    async fn hear(&self, message: Bytes) -> Result<bool, Refusal> {
        let said = match sort(&message, Id::parse(self.id).as_ref(), self.server.settings.bounds)? {
            Sorted::Response(response) => Said::Response(response),
            Sorted::Note(note) => Said::Note(note),
            Sorted::Request(request) => Said::Request(request),
            Sorted::Aside(note) => {
                // Nobody may listen.
                _ = self.session.asides.send(Aside::Note(note));
                return Ok(false);
            }
            Sorted::Ping(pong) => {
                self.server.post(self.established, pong).await?;
                return Ok(false);
            }
            Sorted::Stray => {
                tracing::debug!("response to nothing that was asked");
                return Ok(false);
            }
        };
        let is_response = matches!(said, Said::Response(_));
        // Whoever is gone is noticed elsewhere.
        _ = self.sender.send(Ok(said)).await;
        Ok(is_response)
    }

    /// Follows a stream until the response. A server may end the connection whenever it has given an event an id; the
    /// rest comes with the next one.
    async fn follow(&self, mut events: Events) -> Result<(), Refusal> {
        let mut empty = 0;
        loop {
            let broke = match events.next().await {
                Ok(Some(event)) if event.is("message") => {
                    empty = 0;
                    if self.hear(event.data.unwrap_or_default()).await? {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Some(_)) => continue,
                Ok(None) => Refusal::UpstreamBroke("the stream ended without a response".to_owned()),
                Err(refusal) => refusal,
            };
            events = self.followed_on(events, broke, &mut empty).await?;
        }
    }

    /// The next connection of a stream.
    async fn followed_on(&self, ended: Events, broke: Refusal, empty: &mut u32) -> Result<Events, Refusal> {
        let Some(last_id) = ended.resumable().cloned() else { return Err(broke) };
        loop {
            *empty += 1;
            if *empty > EMPTY_MAX {
                return Err(broke);
            }
            sleep(ended.retry.unwrap_or(RETRY).min(RETRY_MAX)).await;
            let response = match self.server.resume(self.established, Some(&last_id)).await {
                // A conflict: the server has not noticed yet that the last connection is gone.
                Ok(response)
                    if response.status().is_server_error() || response.status() == StatusCode::CONFLICT =>
                {
                    continue;
                }
                Ok(response) => response,
                Err(Refusal::UpstreamUnreachable(_)) => continue,
                Err(refusal) => return Err(refusal),
            };
            let is_stream = Form::of(response.headers()) == Form::Events && response.status().is_success();
            if !is_stream {
                let status = response.status();
                return Err(Refusal::UpstreamBroke(format!("the rest of the stream got status {status}")));
            }
            let mut events = Events::new(response, &self.server.settings);
            events.last_id = Some(last_id);
            events.retry = ended.retry;
            return Ok(events);
        }
    }
}
