//! Server cards (SEP-2127), made of what the catalogue knows: one of each server, and all of them in an AI catalogue.
//!
//! Whoever reads them shows a key, as for any other reading: they name every server of the mesh. So they may be kept by
//! whoever asked, and by nobody between.

use std::sync::Arc;

use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::catalogue::card::{About, MEDIA_TYPE, ServerCard};
use weft_proto::name::{ServerName, TrustDomain};
use weft_proto::resource::kinds::Era;
use weft_proto::resource::{Key, Kind, Spec};

use super::call::{Call, json};
use super::{Api, Error, catalogue, registry};
use crate::catalog::Entry;
use crate::desired::Present;

/// What a catalogue is sent as.
pub(super) const CATALOGUE_TYPE: &str = "application/ai-catalog+json";
const SPEC_VERSION: &str = "1.0";
/// Servers in a catalogue, the first by name.
const ENTRIES_MAX: usize = 4096;
/// An hour, as the extension has it, and only for whoever asked.
const KEPT: HeaderValue = HeaderValue::from_static("private, max-age=3600");

/// The servers of the mesh, in the form of an AI catalogue.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AiCatalogue {
    pub spec_version: String,
    /// The first 4096 servers by name.
    pub entries: Vec<AiCatalogueEntry>,
}

/// A server in it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AiCatalogueEntry {
    /// `urn:air:<trust domain>:<namespace>:<name>`
    pub identifier: String,
    pub display_name: String,
    /// `application/mcp-server-card+json`
    #[serde(rename = "type")]
    pub kind: String,
    /// The card.
    pub data: ServerCard,
}

pub(super) async fn card(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let name = registry::named(&call)?;
    let (present, entries) = catalogue::known_with_objects(&api).await?;
    let entry = entries.iter().find(|entry| entry.server == name);
    let card = entry.map(|entry| of(entry, &present)).ok_or_else(|| registry::unknown(&name.to_string()))?;
    Ok(sent_as(json(&card), HeaderValue::from_static(MEDIA_TYPE)))
}

pub(super) async fn catalogue(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let (present, entries) = catalogue::known_with_objects(&api).await?;
    let domain = api.mesh.trust_domain.clone();
    let list = move || {
        let all =
            entries.iter().take(ENTRIES_MAX).map(|entry| AiCatalogueEntry::of(entry, &present, &domain));
        AiCatalogue { spec_version: SPEC_VERSION.to_owned(), entries: all.collect() }
    };
    Ok(sent_as(json(&api.heavy(list).await?), HeaderValue::from_static(CATALOGUE_TYPE)))
}

impl AiCatalogueEntry {
    fn of(entry: &Entry, present: &Present, domain: &TrustDomain) -> Self {
        let ServerName { namespace, name } = &entry.server;
        let card = of(entry, present);
        Self {
            identifier: format!("urn:air:{domain}:{namespace}:{name}"),
            display_name: card.title.clone().unwrap_or_else(|| card.name.clone()),
            kind: MEDIA_TYPE.to_owned(),
            data: card,
        }
    }
}

fn of(entry: &Entry, present: &Present) -> ServerCard {
    let said = entry.known.as_ref().map(|known| &known.offer.introduction);
    let about = About::of(&entry.server, said);
    about.card(&entry.server, registry::url(&entry.server), eras(present, &entry.server))
}

/// The eras that callers are offered, where not both are.
fn eras<'p>(present: &'p Present, server: &ServerName) -> Option<&'p [Era]> {
    let (namespace, name) = (server.namespace.clone(), server.name.clone());
    let object = present.object(&Key { kind: Kind::McpServer, namespace, name })?;
    match &object.resource.as_deref().ok()?.spec {
        Spec::McpServer(server) => server.eras.as_deref(),
        _ => None,
    }
}

fn sent_as(mut response: Response, media: HeaderValue) -> Response {
    response.headers_mut().insert(CONTENT_TYPE, media);
    response.headers_mut().insert(CACHE_CONTROL, KEPT);
    response
}
