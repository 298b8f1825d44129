//! The catalogue: every tool, prompt, resource and template that a server of the mesh offers, listed, searched and shown.

mod dto;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::Deserialize;
use weft_proto::compile::Snapshot;
use weft_proto::mcp::Revision;
use weft_proto::mcp::lists::Listed;
use weft_proto::name::{Namespace, ServerName};
use weft_proto::offer::Offered;
use weft_proto::resource::kinds::Era;
use weft_proto::resource::{Key as ObjectKey, Kind};

use super::call::{Call, json};
use super::objects::{self, Labels};
use super::tools::{judged, snapshot};
use super::{Api, Error};
use crate::auth::timestamp;
use crate::catalog::{Advertised, Entry, ItemKey, Key, Reading};
use crate::desired::Present;

pub use dto::{
    Hint, ItemKind, OfferedItem, OfferedList, OfferedReplica, OfferedShown, OfferedVersion, OfferingList,
    OfferingReplica, OfferingServer,
};

const LIMIT_DEFAULT: usize = 100;

/// Which items are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ItemsQuery {
    /// Words: what they find, the best first, in one page. Without them everything, in the order of names.
    words: Option<String>,
    /// A kind; every kind if not given.
    kind: Option<ItemKind>,
    /// A server, as `<namespace>/<name>`; every server if not given.
    #[schemars(with = "Option<String>")]
    server: Option<ServerName>,
    /// A namespace; every namespace if not given.
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
    /// Labels that the servers must carry: `k=v,k2=v2`.
    labels: Option<String>,
    /// Only tools that say this of themselves.
    hint: Option<Hint>,
    /// Only of servers that say that they speak this era: `modern` or `legacy`.
    era: Option<String>,
    /// Most items in the answer; 100 if not given, at most 1000.
    limit: Option<usize>,
    /// Where the page before said to go on.
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// Which item is wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ItemQuery {
    /// `<namespace>/<name>`
    #[schemars(with = "String")]
    server: ServerName,
    /// A tool if not given.
    kind: Option<ItemKind>,
    /// Its name, URI or URI template.
    name: String,
}

/// Which servers are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServersQuery {
    /// A server, as `<namespace>/<name>`; every server if not given.
    #[schemars(with = "Option<String>")]
    server: Option<ServerName>,
    /// A namespace; every namespace if not given.
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
    /// Labels that the servers must carry: `k=v,k2=v2`.
    labels: Option<String>,
    /// Most servers in the answer; 100 if not given, at most 1000.
    limit: Option<usize>,
    /// Where the page before said to go on.
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// What servers are asked for.
#[derive(Debug, Default)]
pub(super) struct Servers {
    server: Option<ServerName>,
    namespace: Option<Namespace>,
    labels: Labels,
    era: Option<Era>,
}

impl Servers {
    fn want(&self, entry: &Entry, present: &Present) -> bool {
        let name = &entry.server;
        self.server.as_ref().is_none_or(|it| it == name)
            && self.namespace.as_ref().is_none_or(|it| *it == name.namespace)
            && self.era.is_none_or(|era| speaks(entry, era))
            && object(present, name).is_some_and(|labels| objects::carried(&self.labels, labels))
    }
}

/// The labels of a server, if there is one.
fn object<'p>(present: &'p Present, server: &ServerName) -> Option<&'p weft_proto::resource::kinds::Labels> {
    let key =
        ObjectKey { kind: Kind::McpServer, namespace: server.namespace.clone(), name: server.name.clone() };
    present.object(&key)?.resource.as_deref().ok().map(|resource| &resource.metadata.labels)
}

fn speaks(entry: &Entry, era: Era) -> bool {
    let revisions = entry.known.iter().flat_map(|known| &known.revisions);
    revisions.filter_map(|it| Revision::parse(it)).any(|revision| revision.era() == era)
}

pub(super) fn era(text: Option<&str>) -> Result<Option<Era>, Error> {
    match text {
        None => Ok(None),
        Some("modern") => Ok(Some(Era::Modern)),
        Some("legacy") => Ok(Some(Era::Legacy)),
        Some(_) => Err(Error::BadParameter { name: "era", problem: "expected modern or legacy".to_owned() }),
    }
}

/// The servers that there are and that are wanted, in the order of their names.
async fn wanted(api: &Api, servers: Servers) -> Result<(Arc<Present>, Vec<Entry>), Error> {
    let present = api.present().await?;
    let catalogue = Arc::clone(&api.deps.catalogue);
    let entries = match &servers.server {
        Some(server) => catalogue.entry(server).into_iter().collect(),
        None => catalogue.entries(),
    };
    let entries = entries.into_iter().filter(|entry| servers.want(entry, &present)).collect();
    Ok((present, entries))
}

pub(super) async fn items(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: ItemsQuery = call.query()?;
    let limit = objects::limit(query.limit, LIMIT_DEFAULT)?;
    let servers = Servers {
        server: query.server,
        namespace: query.namespace,
        labels: objects::labels(query.labels.as_deref())?,
        era: era(query.era.as_deref())?,
    };
    let after = query.next.as_deref().map(read_token).transpose()?;
    let (present, entries) = wanted(&api, servers).await?;
    let catalogue = Arc::clone(&api.deps.catalogue);
    let (kind, hint, words) = (query.kind.map(Listed::from), query.hint, query.words);
    let list =
        move || {
            let snapshot = snapshot(&present, Kind::ToolPolicy);
            let entries: BTreeMap<&ServerName, &Entry> = entries.iter().map(|it| (&it.server, it)).collect();
            let is_wanted = |entry: &Entry, listed: Listed, name: &str| {
                let offered = || entry.known.as_ref()?.offer.find(listed, name).cloned();
                kind.is_none_or(|kind| kind == listed)
                    && hint.is_none_or(|hint| offered().is_some_and(|it| dto::hints(&it).contains(&hint)))
            };
            let told = |key: &Key, score| {
                let readings = catalogue.readings(&key.server, &(key.kind, key.name.clone()));
                let item = told(entries.get(&key.server)?, (key.kind, &key.name), &readings, &snapshot)?;
                Some(OfferedItem { score, ..item })
            };
            if let Some(words) = words {
                let of = |key: &Key| {
                    entries.get(&key.server).is_some_and(|entry| is_wanted(entry, key.kind, &key.name))
                };
                let hits = catalogue.search(&words, limit, of);
                let items = hits.iter().filter_map(|hit| told(&hit.key, Some(hit.score))).collect();
                return OfferedList { items, next: None };
            }
            let keys = entries.values().flat_map(|entry| {
                let items = entry.known.iter().flat_map(|known| known.offer.items());
                items.map(|item| (*entry, item))
            });
            let keys =
                keys.filter(|(entry, item)| is_wanted(entry, item.kind, &item.name)).map(|(entry, item)| {
                    Key { server: entry.server.clone(), kind: item.kind, name: item.name.clone() }
                });
            let mut page: Vec<Key> =
                keys.filter(|key| after.as_ref().is_none_or(|after| key > after)).take(limit + 1).collect();
            let has_more = page.len() > limit;
            page.truncate(limit);
            let next = page.last().filter(|_| has_more).map(token);
            OfferedList { items: page.iter().filter_map(|key| told(key, None)).collect(), next }
        };
    Ok(json(&api.heavy(list).await?))
}

/// An item as it is listed.
fn told(
    entry: &Entry,
    (listed, name): (Listed, &str),
    readings: &[Reading],
    snapshot: &Snapshot,
) -> Option<OfferedItem> {
    let known = entry.known.as_ref()?;
    let offered = known.offer.find(listed, name)?;
    let key: ItemKey = (listed, name.into());
    let since = known.items.get(&key)?;
    let mut item = OfferedItem::of(&entry.server, offered, since);
    item.away_since = entry.away_since.map(timestamp);
    item.instances = readings.len();
    item.agreeing = readings.iter().filter(|reading| reading.digest == Some(since.digest)).count();
    if let Some((name, tool)) = tool(offered) {
        let judged = judged(&entry.server, &name, &tool, snapshot);
        (item.state, item.pin, item.policy) = (Some(judged.state), Some(judged.pin), judged.policy);
    }
    Some(item)
}

/// A tool as approvals see it, if its name is one that a policy could have.
fn tool(offered: &Arc<Offered>) -> Option<(weft_proto::name::ToolName, crate::catalog::Tool)> {
    (offered.kind == Listed::Tool).then(|| Advertised::tool(offered)).flatten()
}

pub(super) async fn item(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let ItemQuery { server, kind, name } = call.query()?;
    let listed = kind.map_or(Listed::Tool, Listed::from);
    let servers = Servers { server: Some(server.clone()), ..Servers::default() };
    let (present, mut entries) = wanted(&api, servers).await?;
    let missing = || Error::NotFound { what: format!("{} {name:?} of {server}", dto::word(listed)) };
    let entry = entries.pop().ok_or_else(missing)?;
    let key: ItemKey = (listed, name.as_str().into());
    let replicas = api.deps.catalogue.readings(&server, &key);
    let versions = api.deps.catalogue.versions(server.clone(), key.clone()).await;
    let versions = versions.map_err(|error| Error::Internal(Box::new(error)))?;
    let show = move || {
        let snapshot = snapshot(&present, Kind::ToolPolicy);
        let item = told(&entry, (listed, &key.1), &replicas, &snapshot)?;
        let definition = entry.known.as_ref()?.offer.find(listed, &key.1)?.definition.clone();
        let approval = entry.known.as_ref()?.offer.find(listed, &key.1).and_then(tool);
        Some(OfferedShown {
            definition: serde_json::from_str(&definition).unwrap_or_default(),
            approval: approval.map(|(_, tool)| tool.digest.to_string()),
            replicas: replicas.into_iter().map(|reading| OfferedReplica::of(reading, &item.digest)).collect(),
            versions: versions.iter().map(OfferedVersion::of).collect(),
            item,
        })
    };
    let missing = missing();
    Ok(json(&api.heavy(show).await?.ok_or(missing)?))
}

pub(super) async fn servers(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: ServersQuery = call.query()?;
    let limit = objects::limit(query.limit, LIMIT_DEFAULT)?;
    let after = query.next.as_deref().map(read_token).transpose()?.map(|key| key.server);
    let servers = Servers {
        server: query.server,
        namespace: query.namespace,
        labels: objects::labels(query.labels.as_deref())?,
        era: None,
    };
    let (_, entries) = wanted(&api, servers).await?;
    let list = move || {
        let rest = entries.iter().filter(|entry| after.as_ref().is_none_or(|after| entry.server > *after));
        let mut page: Vec<&Entry> = rest.take(limit + 1).collect();
        let has_more = page.len() > limit;
        page.truncate(limit);
        let last = |entry: &&Entry| {
            token(&Key { server: entry.server.clone(), kind: Listed::Tool, name: "".into() })
        };
        let next = page.last().filter(|_| has_more).map(last);
        OfferingList { items: page.into_iter().map(OfferingServer::of).collect(), next }
    };
    Ok(json(&api.heavy(list).await?))
}

fn token(last: &Key) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {} {}", last.server, dto::word(last.kind), last.name))
}

fn read_token(token: &str) -> Result<Key, Error> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut parts = text.splitn(3, ' ');
        let (server, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = Listed::ALL.into_iter().find(|listed| dto::word(*listed) == kind)?;
        Some(Key { server: server.parse().ok()?, kind, name: name.into() })
    };
    read().ok_or_else(|| Error::BadParameter {
        name: "continue",
        problem: "expected what an answer to the same question gave".to_owned(),
    })
}

/// The servers that there are and of which it is known what they offer.
pub(super) async fn known(api: &Api) -> Result<Vec<Entry>, Error> {
    known_with_objects(api).await.map(|(_, entries)| entries)
}

/// The same, with the objects that say how they are offered.
pub(super) async fn known_with_objects(api: &Api) -> Result<(Arc<Present>, Vec<Entry>), Error> {
    let (present, mut entries) = wanted(api, Servers::default()).await?;
    entries.retain(|entry| entry.known.is_some());
    Ok((present, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_where_the_one_before_ended() {
        let key = Key {
            server: "research/files".parse().unwrap(),
            kind: Listed::ResourceTemplate,
            name: "file:///a b/{x}".into(),
        };
        assert_eq!(read_token(&token(&key)).unwrap(), key);
        for wrong in ["", "!", "YQ", &URL_SAFE_NO_PAD.encode("research/files thing x")] {
            assert!(read_token(wrong).is_err(), "{wrong}");
        }
    }
}
