//! A server of the legacy era over Streamable HTTP: each asker has a session there.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use weft_proto::mcp::{self, Id, Message, Outcome, Revision, edit, header, method};
use weft_proto::resource::kinds::Era;

use crate::bridge::Abilities;
use crate::exchange::{Aside, Ask, Asker, BoxFuture, Introduction, Peer, Reply, Said};
use crate::refusal::Refusal;

use call::Call;

use super::answer::{self, Events, Form};
use super::sessions::{Established, Session, Sessions};
use super::sort::{Sorted, sort};
use super::{AnswerBody, Http, Settings, Target, initialize, listening, posting, signed};

mod call;
mod listening;

/// Between connections, where the server names no time.
const RETRY: Duration = Duration::from_secs(1);

/// Longest time between connections, whatever the server names.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Time for what nobody waits for: cancelling, ending a session.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the stream on which a server asks something outside of an answer.
const HEARS_TIMEOUT: Duration = Duration::from_secs(2);

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
            // Whoever has a session listens by itself, and is asked there.
            let asked = (ask.asker.session.is_none() && ask.asker.abilities.any())
                .then(|| (session.wait(&sender), self.asides(&ask.asker)));
            self.in_background(async move {
                if asked.is_some() {
                    hears(&session).await;
                }
                server.serve(&session, ask.message, &id, sender).await;
                drop(asked);
            });
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

/// Waits until the server can ask something outside of the answer, or cannot, as long as that takes no time: some servers
/// ask nowhere else, and what they ask while nobody hears it is lost.
async fn hears(session: &Session) {
    let mut hears = session.hears.subscribe();
    if timeout(HEARS_TIMEOUT, hears.wait_for(|hears| *hears)).await.is_err() {
        // It was waited for once, and no other call of the session waits again.
        session.hears.send_replace(true);
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
                let established = self.handshake(None, Abilities::default()).await?;
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
        let established = Arc::new(self.handshake(session.caller.clone(), session.abilities).await?);
        *held = Some(Arc::clone(&established));
        Ok(established)
    }

    async fn handshake(
        &self,
        caller: Option<HeaderValue>,
        abilities: Abilities,
    ) -> Result<Established, Refusal> {
        let message = initialize(HANDSHAKE_ID, Revision::LATEST_LEGACY, abilities);
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
