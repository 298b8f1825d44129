//! Single resources of many members that one caller wants to hear of: a stream to each member that has any, and what
//! comes on them on one.
//!
//! A stream that ends is opened again for as long as the caller listens, and what may have been missed is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use weft_proto::mcp::{self, Bounds, Message, Request, edit, method};
use weft_proto::name::ServerName;

use crate::exchange::http::{ModernHttp, modern_request};
use crate::exchange::{Ask, Asker, Peer, Reply, Said};
use crate::refusal::Refusal;

use super::peer::Members;

/// Resources that one caller hears of.
const RESOURCES_MAX: usize = 256;
/// Time for all members to agree.
const AGREE_TIMEOUT: Duration = Duration::from_secs(4);
/// Until a stream that ended is opened again, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a member says that it will tell.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Agreed {
    resource_subscriptions: Vec<String>,
}

type Sender = mpsc::Sender<Result<Said, Refusal>>;

/// What is wanted of one member: its own URIs, and how each is called here.
type Wanted = BTreeMap<String, String>;

/// Answers `subscriptions/listen` as far as it is about single resources. Changes of lists are told to everyone.
pub(super) fn listen(members: &Members, asker: &Asker, request: &Request<'_>) -> Result<Reply, Refusal> {
    let drawn = members.drawn();
    let mut wanted: BTreeMap<ServerName, Wanted> = BTreeMap::new();
    for uri in request.params.subscribed_uris.iter().take(RESOURCES_MAX) {
        if let Some((server, own)) = drawn.roster.resource(uri) {
            wanted.entry(server.clone()).or_default().insert(own.to_owned(), uri.clone().into_owned());
        }
    }
    let settings = members.settings();
    let (sender, receiver) = mpsc::channel(settings.queue_max);
    let of_members: Vec<_> = wanted
        .into_iter()
        .map(|(server, wanted)| One {
            member: members.member(&server),
            asker: asker.clone(),
            wanted: Arc::new(wanted),
            sender: sender.clone(),
            bounds: settings.bounds,
        })
        .collect();
    tokio::spawn(tell(of_members, sender));
    Ok(Reply(receiver))
}

/// Asks all, says what was agreed to, and tells from then on.
async fn tell(members: Vec<One>, sender: Sender) {
    let mut streams = JoinSet::new();
    for one in members {
        streams.spawn(async move {
            let opened = timeout(AGREE_TIMEOUT, one.open()).await.ok().flatten();
            (one, opened)
        });
    }
    let (mut honoured, mut telling) = (Vec::new(), JoinSet::new());
    while let Some(opened) = streams.join_next().await {
        // A member that does not answer now may later: it is asked again, and what it has is promised.
        let Ok((one, opened)) = opened else { continue };
        let uris = match &opened {
            Some((_, agreed)) => agreed.iter().filter_map(|own| one.wanted.get(own)).cloned().collect(),
            None => one.wanted.values().cloned().collect::<Vec<_>>(),
        };
        honoured.extend(uris);
        telling.spawn(one.go_on(opened.map(|(reply, _)| reply)));
    }
    honoured.sort();
    let agreed = json!({ "notifications": { "resourceSubscriptions": honoured } });
    let agreed = note(method::SUBSCRIPTIONS_ACKNOWLEDGED, &agreed);
    if sender.send(Ok(Said::Note(agreed))).await.is_ok() {
        // Whoever leaves takes all of it back.
        sender.closed().await;
    }
}

/// The stream to one member.
struct One {
    member: Arc<ModernHttp>,
    asker: Asker,
    wanted: Arc<Wanted>,
    sender: Sender,
    bounds: Bounds,
}

impl One {
    /// A stream, and what the member agreed to tell on it.
    async fn open(&self) -> Option<(Reply, Vec<String>)> {
        let id = format!("\"weft-{:032x}\"", rand::random::<u128>());
        let uris: Vec<&String> = self.wanted.keys().collect();
        let more = format!(",\"notifications\":{}", json!({ "resourceSubscriptions": uris }));
        let message = modern_request(&id, method::SUBSCRIPTIONS_LISTEN, &more);
        let mut reply = self.member.call(Ask { asker: self.asker.clone(), message }).await.ok()?;
        loop {
            let note = match reply.0.recv().await?.ok()? {
                Said::Note(note) => note,
                Said::Sign | Said::Request(_) => continue,
                Said::Response(_) => return None,
            };
            let Ok(mcp::Body::One(Message::Notification(it))) = mcp::parse(&note, self.bounds) else {
                continue;
            };
            if it.method == method::SUBSCRIPTIONS_ACKNOWLEDGED {
                let agreed = it.params.notifications.map(|raw| serde_json::from_str::<Agreed>(raw.get()));
                let agreed = agreed.and_then(Result::ok).unwrap_or_default().resource_subscriptions;
                return Some((reply, agreed));
            }
        }
    }

    async fn go_on(self, opened: Option<Reply>) {
        let mut opened = opened;
        let mut pause = PAUSE;
        loop {
            if let Some(reply) = opened.take() {
                pause = PAUSE;
                if self.hear(reply).await.is_err() {
                    return;
                }
            }
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
            opened = self.open().await.map(|(reply, _)| reply);
            if opened.is_some() && self.all_changed().await.is_err() {
                return;
            }
        }
    }

    /// Passes on what a member tells, until its stream ends. Fails when nobody hears it any more.
    async fn hear(&self, mut reply: Reply) -> Result<(), Gone> {
        while let Some(Ok(said)) = reply.0.recv().await {
            let Said::Note(message) = said else { continue };
            let Ok(mcp::Body::One(Message::Notification(it))) = mcp::parse(&message, self.bounds) else {
                continue;
            };
            let shown = it.params.uri.as_deref().and_then(|own| self.wanted.get(own));
            if let Some(shown) = shown.filter(|_| it.method == method::RESOURCES_UPDATED) {
                self.updated(shown).await?;
            }
        }
        Ok(())
    }

    /// Anything may have changed while nobody heard.
    async fn all_changed(&self) -> Result<(), Gone> {
        for shown in self.wanted.values() {
            self.updated(shown).await?;
        }
        Ok(())
    }

    async fn updated(&self, shown: &str) -> Result<(), Gone> {
        let message = note(method::RESOURCES_UPDATED, &json!({ "uri": shown }));
        self.sender.send(Ok(Said::Note(message))).await.map_err(|_| Gone)
    }
}

/// Nobody listens any more.
struct Gone;

fn note(method: &str, params: &serde_json::Value) -> Bytes {
    let params: Option<Box<RawValue>> = serde_json::value::to_raw_value(params).ok();
    edit::notification(method, params.as_deref()).into()
}
