//! Tools: what servers advertise, by the word of the sidecars beside them, held against what policies approve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::response::Response;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_proto::compile::{Parts, Snapshot, compile};
use weft_proto::name::{Digest, Namespace, ServerName, ToolName};
use weft_proto::policy::tools::Speaking;
use weft_proto::resource::Kind;
use weft_proto::resource::kinds::Strictness;
use weft_proto::wire;

use super::call::{Call, json};
use super::dto::DateTime;
use super::{Api, Error};
use crate::auth::timestamp;
use crate::catalog::{Advertised, Tool};
use crate::desired::Present;

/// Which tools are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToolsQuery {
    /// A server, as `<namespace>/<name>`; every server if not given.
    #[schemars(with = "Option<String>")]
    server: Option<ServerName>,
    /// A namespace; every namespace if not given.
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
    /// With the definitions themselves, and those that were approved, where they are still remembered.
    #[serde(default)]
    definitions: bool,
}

/// What servers advertise.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ToolList {
    pub items: Vec<ServerTools>,
}

/// What one server advertises.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerTools {
    /// `<namespace>/<name>`
    pub server: String,
    /// Whether all instances advertise the same.
    pub agreed: bool,
    /// The sidecars that read it.
    pub instances: Vec<ToolInstance>,
    /// Each definition once; a tool of which instances have different ones is there several times.
    pub tools: Vec<AdvertisedTool>,
    /// What was approved and is not advertised.
    pub gone: Vec<GoneTool>,
}

/// A sidecar that read a server's tools.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolInstance {
    pub node: String,
    #[schemars(with = "DateTime")]
    pub at: Timestamp,
    pub tools: usize,
}

/// A definition of a tool.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdvertisedTool {
    pub name: String,
    pub digest: String,
    /// `approved`; `new` where no definition of it was approved; `changed` where another was; `unpinned` where nothing
    /// asks.
    pub state: String,
    /// `off`, `warn` or `enforce`; what is in shadow counts as if it were not.
    pub pin: String,
    /// The policy that pins it, as `<namespace>/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What was approved, if it is something else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<String>,
    /// The sidecars whose instance advertises this.
    pub nodes: Vec<String>,
    /// Whether some instance advertises something else, or nothing, under this name.
    pub disagrees: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Value>,
    /// The definition that was approved, where it is still remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_definition: Option<Value>,
}

/// A tool that was approved and is not advertised.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GoneTool {
    pub name: String,
    pub policy: String,
    pub digest: String,
}

type Readings = BTreeMap<ServerName, Vec<(String, Arc<Advertised>)>>;

pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: ToolsQuery = call.query()?;
    let mut readings = Readings::new();
    for status in api.deps.sidecars.status() {
        for (server, advertised) in status.tools {
            let is_wanted = query.server.as_ref().is_none_or(|it| *it == server)
                && query.namespace.as_ref().is_none_or(|it| *it == server.namespace);
            if is_wanted {
                readings.entry(server).or_default().push((status.node.to_string(), advertised));
            }
        }
    }
    let present = api.present().await?;
    let (sidecars, catalogue) = (Arc::clone(&api.deps.sidecars), Arc::clone(&api.deps.catalogue));
    let told = move || {
        let snapshot = snapshot(&present, Kind::ToolPolicy);
        let items = readings.iter().map(|(server, of)| {
            let definition = |digest: &Digest| {
                sidecars.definition(digest).or_else(|| catalogue.approved(server, digest.as_str()))
            };
            told(server, of, &snapshot, query.definitions, &definition)
        });
        ToolList { items: items.collect() }
    };
    Ok(json(&api.heavy(told).await?))
}

/// The servers and their policies of a kind, as sidecars know them.
pub(super) fn snapshot(present: &Present, policies: Kind) -> Snapshot {
    let wanted = |kind| kind == Kind::McpServer || kind == policies;
    let objects = present.objects().iter().filter(|(key, _)| wanted(key.kind));
    let parts = objects.filter_map(|(_, object)| {
        let (resource, age) = object.aged()?;
        let encoded = wire::encode(resource, age)?;
        wire::decode(encoded.ty, &encoded.bytes).ok()
    });
    compile(&parts.collect::<Parts>())
}

fn told(
    server: &ServerName,
    readings: &[(String, Arc<Advertised>)],
    snapshot: &Snapshot,
    with_definitions: bool,
    definition: &impl Fn(&Digest) -> Option<Arc<str>>,
) -> ServerTools {
    let mut found = BTreeMap::<(&ToolName, &Digest), (Vec<String>, &Tool)>::new();
    for (node, advertised) in readings {
        for (name, tool) in &advertised.tools {
            let (nodes, _) = found.entry((name, &tool.digest)).or_insert_with(|| (Vec::new(), tool));
            nodes.push(node.clone());
        }
    }
    let tools: Vec<_> = found
        .into_iter()
        .map(|((name, _), (nodes, tool))| {
            let disagrees = nodes.len() < readings.len();
            let mut it = judged(server, name, tool, snapshot);
            (it.nodes, it.disagrees) = (nodes, disagrees);
            if with_definitions {
                let approved = it.approved.iter().find_map(|digest| definition(&digest.parse().ok()?));
                it.definition = tool.definition.as_deref().and_then(|text| serde_json::from_str(text).ok());
                it.approved_definition = approved.and_then(|text| serde_json::from_str(&text).ok());
            }
            it
        })
        .collect();
    let names: BTreeSet<&str> = tools.iter().map(|it| it.name.as_str()).collect();
    ServerTools {
        server: server.to_string(),
        agreed: !tools.iter().any(|it| it.disagrees),
        instances: readings.iter().map(instance).collect(),
        gone: gone(server, snapshot, &names),
        tools,
    }
}

fn instance((node, advertised): &(String, Arc<Advertised>)) -> ToolInstance {
    ToolInstance { node: node.clone(), at: timestamp(advertised.at), tools: advertised.tools.len() }
}

/// A definition, as policies see it.
pub(crate) fn judged(
    server: &ServerName,
    name: &ToolName,
    tool: &Tool,
    snapshot: &Snapshot,
) -> AdvertisedTool {
    let root = snapshot.root_namespace();
    let entry = snapshot.server(server);
    let speaking = entry.map(|entry| Speaking::of(entry, &root, name.as_str()));
    let treatments = speaking.as_ref().map(|it| it.treatments(name.as_str()));
    let pin = treatments.map(|it| it.shadow.unwrap_or(it.enforced).pin).unwrap_or_default();
    let approves = pin.approves(Some(&tool.digest));
    let state = match (approves, pin.approved.is_empty(), pin.strictness) {
        (true, ..) => "approved",
        (false, false, _) => "changed",
        (false, true, Strictness::Off) => "unpinned",
        (false, true, _) => "new",
    };
    let strictness = match pin.strictness {
        Strictness::Off => "off",
        Strictness::Warn => "warn",
        Strictness::Enforce => "enforce",
    };
    let approved = if approves { Vec::new() } else { pin.approved.iter().map(ToString::to_string).collect() };
    AdvertisedTool {
        name: name.to_string(),
        digest: tool.digest.to_string(),
        state: state.to_owned(),
        pin: strictness.to_owned(),
        policy: speaking.and_then(|it| it.pinning().map(|policy| policy.meta.full_name().to_string())),
        approved,
        nodes: Vec::new(),
        disagrees: false,
        definition: None,
        approved_definition: None,
    }
}

fn gone(server: &ServerName, snapshot: &Snapshot, advertised: &BTreeSet<&str>) -> Vec<GoneTool> {
    let policies = snapshot.server(server).map(|entry| entry.tools.as_slice()).unwrap_or_default();
    let gone = policies.iter().flat_map(|policy| {
        let approved = policy.spec.approved.iter().filter(|(name, _)| !advertised.contains(name.as_str()));
        approved.map(|(name, digest)| GoneTool {
            name: name.to_string(),
            policy: policy.meta.full_name().to_string(),
            digest: digest.to_string(),
        })
    });
    gone.collect()
}
