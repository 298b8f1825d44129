//! The nine kinds, watched in all namespaces: news of each as it comes, and now and then all that there is.
//!
//! A watch that ends, that is told its place is gone, or that fails is taken up again with pauses between attempts; what
//! was missed then comes with the next whole list.

use std::collections::BTreeSet;
use std::pin::pin;

use futures_util::StreamExt as _;
use kube::Client;
use kube::api::{Api, ApiResource, GroupVersionKind};
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::mpsc;
use weft_proto::resource::{Key, Kind};

use super::read::{self, Seen};
use crate::crds::group_and_version;

/// Most objects in one page of a list: an object can be large, and a page is held as a whole.
pub(super) const PAGE_OBJECTS: u32 = 100;
/// News that wait for whoever takes them; more make the watches wait.
pub(super) const NEWS_MAX: usize = 256;

/// What a watch tells.
#[derive(Debug)]
pub(super) enum News {
    Is(Box<Seen>),
    Gone(Key),
    /// All objects of a kind that there are; each was told of before.
    All(Kind, BTreeSet<Key>),
    /// The kind cannot be watched at present.
    Lost(Kind, String),
}

/// How a kind is found at an API server.
pub fn api_resource(kind: Kind) -> ApiResource {
    let (group, version) = group_and_version();
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.name()), kind.plural())
}

/// Watches one kind until nobody takes its news any more.
pub(super) async fn watch(client: Client, kind: Kind, news: mpsc::Sender<News>) {
    let api: Api<DynamicObject> = Api::all_with(client, &api_resource(kind));
    let config = watcher::Config::default().page_size(PAGE_OBJECTS);
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        let told = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed.extend(key(kind, &object));
                read::seen(kind, object).map(|seen| News::Is(Box::new(seen)))
            }
            Ok(Event::InitDone) => Some(News::All(kind, std::mem::take(&mut listed))),
            Ok(Event::Apply(object)) => read::seen(kind, object).map(|seen| News::Is(Box::new(seen))),
            Ok(Event::Delete(object)) => key(kind, &object).map(News::Gone),
            Err(error) => Some(News::Lost(kind, error.to_string())),
        };
        if let Some(told) = told
            && news.send(told).await.is_err()
        {
            return;
        }
    }
}

fn key(kind: Kind, object: &DynamicObject) -> Option<Key> {
    read::key(kind, object.metadata.namespace.as_deref(), object.metadata.name.as_deref())
}
