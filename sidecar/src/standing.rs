//! Whether what goes on is still allowed. A stream may outlive the policy that let it begin; it is judged anew whenever
//! the configuration changes.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use weft_proto::name::{ServerName, Workload};
use weft_proto::resource::kinds::Era;

use crate::answer::Answer;
use crate::authorize::{self, Decided};
use crate::classify::{self, Call};
use crate::clock;
use crate::forward::is_event_stream;
use crate::gateway::{Authenticator, Verified};
use crate::identify::Identified;
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::sse;
use crate::state::{Current, Live};

/// What was asked when a stream began, kept to be judged again.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) connection: Arc<Identified>,
    pub(crate) server: ServerName,
    pub(crate) era: Era,
    /// As it was received; empty for what came without a message.
    pub(crate) body: Bytes,
    pub(crate) limits: Arc<Limits>,
}

/// Ends the answer, if it is a stream, once what was asked is allowed no longer.
pub(crate) fn watch(
    response: Response<Answer>,
    asked: impl FnOnce() -> Asked,
    live: &Live,
    by: Arc<Current>,
) -> Response<Answer> {
    if !is_event_stream(response.headers()) {
        return response;
    }
    let standing = Standing::new(asked(), live, by);
    response.map(|answer| answer.watched(None, Some(standing)))
}

/// Waits for the stream to be allowed no longer.
pub(crate) struct Standing(Pin<Box<dyn Future<Output = Over> + Send>>);

/// Why and how a stream ends.
#[derive(Debug)]
pub(crate) struct Over {
    pub(crate) refusal: Refusal,
    /// The last event, if there is anything to tell on the stream.
    pub(crate) last: Option<Bytes>,
}

/// What somebody was known by when a stream began.
pub(crate) struct GuestStanding {
    pub(crate) by: Authenticator,
    pub(crate) verified: Arc<Verified>,
    /// What was brought, and nothing else of the request.
    pub(crate) headers: HeaderMap,
    /// Whose certificate the connection was opened with.
    pub(crate) peer: Option<Workload>,
    pub(crate) endpoint: String,
}

impl GuestStanding {
    async fn still(&self) -> bool {
        self.by.still(&self.verified, &self.headers, self.peer.as_ref(), &self.endpoint).await
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

impl Standing {
    /// Watches from the snapshot on by which the stream was allowed.
    pub(crate) fn new(asked: Asked, live: &Live, by: Arc<Current>) -> Self {
        let mut changes = live.watch();
        Self(Box::pin(async move {
            let mut seen = by;
            loop {
                let current = Arc::clone(&changes.borrow_and_update());
                // Between the decision and here there may have been a change already.
                if !Arc::ptr_eq(&current, &seen)
                    && let Err(refusal) = asked.judge(&current)
                {
                    let last = asked.last(&refusal);
                    return Over { refusal, last };
                }
                seen = current;
                if changes.changed().await.is_err() {
                    // There will be no other configuration.
                    std::future::pending::<()>().await;
                }
            }
        }))
    }

    /// Watches whether whom a gateway knows is still known: until what it brought has expired, and whenever the
    /// configuration changes.
    pub(crate) fn of_guest(guest: GuestStanding, live: &Live) -> Self {
        let mut changes = live.watch();
        changes.borrow_and_update();
        Self(Box::pin(async move {
            loop {
                let left = guest.verified.until.map(|at| at.duration_since(clock::now()).unwrap_or_default());
                let expired = async {
                    match left {
                        Some(left) => tokio::time::sleep(left).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = expired => break,
                    changed = changes.changed() => {
                        if changed.is_err() {
                            // There will be no other configuration.
                            std::future::pending::<()>().await;
                        }
                        if !guest.still().await {
                            break;
                        }
                    }
                }
            }
            let why = "what the caller brought is good no longer".to_owned();
            Over { refusal: Refusal::Unauthenticated { brought: true, why }, last: None }
        }))
    }

    pub(crate) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<Over> {
        self.0.as_mut().poll(context)
    }
}

impl Asked {
    fn judge(&self, current: &Current) -> Result<(), Refusal> {
        let server = || Refusal::UnknownServer(self.server.to_string());
        let entry = current.snapshot.server(&self.server).ok_or_else(server)?;
        let caller = &self.connection.caller;
        let mut decided = Decided::default();
        authorize::authorize(&current.snapshot, entry, caller, &self.call()?, &mut decided).map(drop)
    }

    fn call(&self) -> Result<Call<'_>, Refusal> {
        classify::again(&self.body, self.era, &self.limits)
    }

    /// The refusal as the response to the one request; what has no id to answer under ends in silence.
    fn last(&self, refusal: &Refusal) -> Option<Bytes> {
        let call = self.call().ok()?;
        let id = call.request()?.id.raw();
        Some(sse::event(None, Some("message"), &refusal.body(Some(id))))
    }
}
