//! The way to a member: over mutual TLS to its sidecar, like every call that leaves this one.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::value::RawValue;
use weft_proto::mcp::{header, method};
use weft_proto::name::ServerName;

use crate::exchange::BoxFuture;
use crate::exchange::http::{AnswerBody, Http, Target};
use crate::headers::{CALLER, take_scope};
use crate::outbound::{Affinity, Call, Course, Outbound};
use crate::refusal::Refusal;
use crate::route::{self, Asked};
use crate::session_id::Whence;
use crate::state::Live;

#[derive(Debug)]
pub(super) struct ToMember {
    pub(super) to: Arc<Outbound>,
    pub(super) live: Live,
    pub(super) server: ServerName,
}

impl ToMember {
    /// Where at a member its endpoint is. Path and host are its sidecar's to say.
    pub(super) fn target() -> Target {
        Target {
            path: "/mcp".to_owned(),
            host: HeaderValue::from_static("member"),
            headers: HeaderMap::new(),
        }
    }
}

/// Where the call waits that a request goes on with, if that is at a sidecar.
fn waits(body: &[u8]) -> Option<Whence> {
    #[derive(Deserialize)]
    struct Going<'a> {
        #[serde(borrow)]
        params: Params<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Params<'a> {
        #[serde(borrow)]
        request_state: &'a RawValue,
    }
    // Nearly none does.
    memchr::memmem::find(body, b"\"requestState\"")?;
    let going: Going<'_> = serde_json::from_slice(body).ok()?;
    Whence::read_json(going.params.request_state.get())
}

impl Http for ToMember {
    fn send(&self, request: Request<Full<Bytes>>) -> BoxFuture<'_, Result<Response<AnswerBody>, Refusal>> {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.into_inner().unwrap_or_default();
            let mut request = Request::from_parts(head, Full::new(body.clone()));
            // Who calls is proved by the certificate.
            request.headers_mut().remove(CALLER);
            request.headers_mut().remove(HOST);
            let current = self.live.load();
            let entry = current.snapshot.server(&self.server);
            let entry = entry.ok_or_else(|| Refusal::UnknownServer(self.server.to_string()))?;
            let said = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
            let waits = waits(&body);
            let name = said(header::METHOD).unwrap_or_default();
            let named = said(header::NAME).and_then(|name| Some(header::decode(name).ok()?.into_owned()));
            let (tool, task) = match name {
                method::TOOLS_CALL => (named, None),
                method::TASKS_GET | method::TASKS_UPDATE | method::TASKS_CANCEL => (None, named),
                _ => (None, None),
            };
            let begins = tool.is_some();
            let is_single = name != method::SUBSCRIPTIONS_LISTEN && !name.starts_with("notifications/");
            let headers = request.headers();
            let asked =
                Asked { method: name, tool: tool.as_deref(), is_single, headers, caller: None, waits };
            let addressed = entry.server.meta.full_name();
            let began = task.as_deref().and_then(|task| self.to.began(&addressed, task));
            let home = began.as_ref().and_then(|(home, _)| current.snapshot.server(home));
            let course = match home {
                Some(home) => Course::from(route::stop(&current.snapshot, home, &asked)),
                None => route::course(&current.snapshot, entry, &asked, &self.to, rand::random),
            };
            let affinity = match (waits, began, task.as_deref()) {
                (Some(whence), ..) => Affinity::Waits(whence),
                (None, Some((_, instance)), task) => Affinity::Rather(instance, task),
                (None, None, Some(task)) => Affinity::Key(task),
                (None, None, None) => Affinity::Any,
            };
            let call = Call { tool: tool.as_deref(), ..Call::new(Arc::new(request), affinity) };
            let mut answer = self.to.forward(&addressed, &course, call).await?;
            if let Some(scope) = take_scope(answer.response.headers_mut()) {
                return Err(Refusal::ScopeNeeded { scopes: vec![scope] });
            }
            let broke = |error: hyper::Error| Refusal::UpstreamBroke(error.to_string());
            // Where a task began, its id will say.
            let learning = begins.then(|| self.to.learning(&addressed, answer.instance));
            let heard = move |frame: Frame<Bytes>| {
                if let (Some(learning), Some(piece)) = (&learning, frame.data_ref()) {
                    learning.hear(piece);
                }
                frame
            };
            Ok(answer.response.map(|body| body.map_err(broke).map_frame(heard).boxed_unsync()))
        })
    }
}
