//! Single resources and tasks of many members that one caller wants to hear of: a stream to each member that has any, and
//! what comes on them on one.
//!
//! A stream that ends is opened again for as long as the caller listens, and what may have been missed of resources is
//! told. Where a task has got to meanwhile its caller has to ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use weft_proto::mcp::{self, Bounds, Message, Request, edit, method, span, splice};
use weft_proto::name::ServerName;

use crate::exchange::http::{ModernHttp, modern_request};
use crate::exchange::{Ask, Asker, Peer, Reply, Said};
use crate::refusal::Refusal;
use crate::task_id;

use super::peer::Members;

/// Resources that one caller hears of, and tasks.
const ITEMS_MAX: usize = 256;
/// Time for all members to agree.
const AGREE_TIMEOUT: Duration = Duration::from_secs(4);
/// Until a stream that ended is opened again, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a member says that it will tell.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Agreed {
    resource_subscriptions: Vec<String>,
    task_ids: Vec<String>,
}

type Sender = mpsc::Sender<Result<Said, Refusal>>;

/// What is wanted of one member: its own URIs and ids, and how each is called here.
#[derive(Debug, Default)]
struct Wanted {
    uris: BTreeMap<String, String>,
    tasks: BTreeMap<String, String>,
}

/// Answers `subscriptions/listen` as far as it is about single resources and tasks. Changes of lists are told to everyone.
pub(super) fn listen(members: &Members, asker: &Asker, request: &Request<'_>) -> Result<Reply, Refusal> {
    let drawn = members.drawn();
    let mut wanted: BTreeMap<ServerName, Wanted> = BTreeMap::new();
    for uri in request.params.subscribed_uris.iter().take(ITEMS_MAX) {
        if let Some((server, own)) = drawn.roster.resource(uri) {
            let wanted = wanted.entry(server.clone()).or_default();
            wanted.uris.insert(own.to_owned(), uri.clone().into_owned());
        }
    }
    for id in task_ids(request) {
        // Of what is no task of this caller's nothing is promised.
        if let Ok(held) = members.task(&asker.caller, &id) {
            wanted.entry(held.server).or_default().tasks.insert(held.own, id);
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

/// The tasks that are asked about by whoever knows what they are.
fn task_ids(request: &Request<'_>) -> Vec<String> {
    let wanted = request.params.notifications.filter(|_| task_id::is_declared(request));
    let wanted = wanted.map(|raw| serde_json::from_str::<Agreed>(raw.get()));
    let mut ids = wanted.and_then(Result::ok).unwrap_or_default().task_ids;
    ids.truncate(ITEMS_MAX);
    ids
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
    let (mut honoured, mut all) = (Agreed::default(), Vec::new());
    while let Some(opened) = streams.join_next().await {
        // A member that does not answer now may later: it is asked again, and what it has is promised.
        let Ok((one, opened)) = opened else { continue };
        let agreed = opened.as_ref().map(|(_, agreed)| agreed);
        honoured
            .resource_subscriptions
            .extend(among(&one.wanted.uris, agreed.map(|it| &it.resource_subscriptions)));
        honoured.task_ids.extend(among(&one.wanted.tasks, agreed.map(|it| &it.task_ids)));
        all.push((one, opened));
    }
    honoured.resource_subscriptions.sort();
    honoured.task_ids.sort();
    let agreed = note(method::SUBSCRIPTIONS_ACKNOWLEDGED, &json!({ "notifications": honoured }));
    if sender.send(Ok(Said::Note(agreed))).await.is_err() {
        return;
    }
    // What is told before that is heard by nobody.
    let mut telling = JoinSet::new();
    for (one, opened) in all {
        telling.spawn(one.go_on(opened.map(|(reply, _)| reply)));
    }
    // Whoever leaves takes all of it back.
    sender.closed().await;
}

/// What of the wanted was agreed to, as it is called here; all of it where nothing was said yet.
fn among(wanted: &BTreeMap<String, String>, agreed: Option<&Vec<String>>) -> Vec<String> {
    match agreed {
        Some(agreed) => agreed.iter().filter_map(|own| wanted.get(own)).cloned().collect(),
        None => wanted.values().cloned().collect(),
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
    async fn open(&self) -> Option<(Reply, Agreed)> {
        let id = format!("\"weft-{:032x}\"", rand::random::<u128>());
        let message = self.request(&id)?;
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
                let agreed = agreed.and_then(Result::ok).unwrap_or_default();
                return Some((reply, agreed));
            }
        }
    }

    fn request(&self, id: &str) -> Option<Bytes> {
        let mut wanted = json!({ "resourceSubscriptions": self.wanted.uris.keys().collect::<Vec<_>>() });
        if !self.wanted.tasks.is_empty() {
            wanted["taskIds"] = self.wanted.tasks.keys().cloned().collect::<Vec<_>>().into();
        }
        let message =
            modern_request(id, method::SUBSCRIPTIONS_LISTEN, &format!(",\"notifications\":{wanted}"));
        if self.wanted.tasks.is_empty() {
            return Some(message);
        }
        let Ok(mcp::Body::One(Message::Request(request))) = mcp::parse(&message, self.bounds) else {
            return None;
        };
        let able = json!({ "extensions": { task_id::EXTENSION: {} } }).to_string();
        Some(edit::with_meta(&message, &request, &[(task_id::CLIENT_CAPABILITIES, &able)]).into())
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
            let uri = it.params.uri.as_deref().filter(|_| it.method == method::RESOURCES_UPDATED);
            if let Some(shown) = uri.and_then(|own| self.wanted.uris.get(own)) {
                self.updated(shown).await?;
            }
            let task = it.params.task_id.as_deref().filter(|_| it.method == method::TASKS);
            if let Some(shown) = task.and_then(|own| self.wanted.tasks.get(own)) {
                let Some(at) = it.params.raw.and_then(|params| params.member("taskId")) else { continue };
                let shown = serde_json::Value::from(shown.as_str()).to_string().into_bytes();
                self.tell(splice(&message, vec![(span(&message, at.get()), shown)]).into()).await?;
            }
        }
        Ok(())
    }

    /// Anything may have changed while nobody heard.
    async fn all_changed(&self) -> Result<(), Gone> {
        for shown in self.wanted.uris.values() {
            self.updated(shown).await?;
        }
        Ok(())
    }

    async fn updated(&self, shown: &str) -> Result<(), Gone> {
        self.tell(note(method::RESOURCES_UPDATED, &json!({ "uri": shown }))).await
    }

    async fn tell(&self, message: Bytes) -> Result<(), Gone> {
        self.sender.send(Ok(Said::Note(message))).await.map_err(|_| Gone)
    }
}

/// Nobody listens any more.
struct Gone;

fn note(method: &str, params: &serde_json::Value) -> Bytes {
    let params: Option<Box<RawValue>> = serde_json::value::to_raw_value(params).ok();
    edit::notification(method, params.as_deref()).into()
}
