//! What the policies say of a call that nobody makes, and of whoever could make it: by the objects as they are now, and
//! by the same code that decides in sidecars.

mod along;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use weft_proto::compile::{ServerEntry, Snapshot, compile_resources};
use weft_proto::mcp::Target;
use weft_proto::name::{ServerName, SpiffeId, ToolName, TrustDomain, Workload};
use weft_proto::policy::Caller;
use weft_proto::policy::access::{self, Asked, AudienceRule, Explanation, May, Question, Unasked, View};
use weft_proto::resource::Kind;

use super::beside::{self, LimitTold, PinTold};
use super::call::{Call, json};
use super::{Api, Error};
use crate::desired::Present;

pub use along::{Led, PassedOver, RouteTold, ThroughTold};

use along::Arrived;

/// Most identities that an answer names.
const IDENTITIES_MAX: usize = 1000;

/// A call that is asked about.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Who would call: a SPIFFE ID, or `<namespace>/<service account>` for a workload of this mesh.
    #[serde(rename = "as")]
    pub caller: String,
    /// `<namespace>/<name>`, or an alias; or the name of a virtual server, where no server has it.
    #[schemars(with = "String")]
    pub server: ServerName,
    /// The tool that would be called; one of `tool`, `prompt`, `resource` and `method` is given.
    pub tool: Option<String>,
    /// The prompt that would be asked for.
    pub prompt: Option<String>,
    /// The URI of the resource that would be read.
    pub resource: Option<String>,
    /// The method, where it is not the usual one for what is called.
    pub method: Option<String>,
    /// What the tool or the prompt would be called with.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub args: Option<Box<RawValue>>,
    /// Claims of the caller's token.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub claims: Option<Box<RawValue>>,
    /// The caller's tenant, as a gateway's authentication names it.
    pub tenant: Option<String>,
    /// Headers of the request, which routes look at.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// What would come of a call.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// The objects that were looked at.
    pub revision: u64,
    pub caller: String,
    /// The server that is called, before its route is looked at.
    pub server: String,
    pub method: String,
    /// The virtual server that was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<ThroughTold>,
    /// What the server's route makes of it, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTold>,
    /// The server whose decision this is, where it is another: of those that share the calls the first that would refuse
    /// it, or else the one with the largest share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<String>,
    #[serde(flatten)]
    pub explanation: Explanation,
    /// The limits that would count it, if it is allowed.
    #[serde(default)]
    pub limits: Vec<LimitTold>,
    /// The definition of the tool, where a sidecar reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<PinTold>,
}

/// What somebody wants to know the callers of.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhoCanQuery {
    /// `<namespace>/<name>`, or an alias.
    #[schemars(with = "String")]
    server: ServerName,
    /// A tool; one of `tool`, `prompt`, `resource` and `method` is given.
    tool: Option<String>,
    /// A prompt.
    prompt: Option<String>,
    /// The URI of a resource.
    resource: Option<String>,
    /// The method, where it is not the usual one for what is called.
    method: Option<String>,
}

/// Who may call something.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WhoCan {
    /// The objects that were looked at.
    pub revision: u64,
    pub server: String,
    pub method: String,
    /// Enforced rules about it that allow or deny, in the order in which they are looked at.
    pub rules: Vec<AudienceRule>,
    /// Whether callers of whom no rule speaks may call it.
    pub others: bool,
    /// The identities of sidecars that are connected or were lately, by name.
    pub identities: Vec<IdentityMay>,
}

/// Whether an identity may call something, as far as that is decided without a token.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct IdentityMay {
    pub identity: String,
    pub may: May,
}

pub(super) async fn explain(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let request: ExplainRequest = call.json()?;
    let caller = caller(&request, &api.mesh.trust_domain)?;
    let ExplainRequest { server, tool, prompt, resource, method, args, headers, .. } = request;
    let question = Question {
        target: target(tool, prompt, resource)?,
        method,
        arguments: args.map(|args| args.get().to_owned()),
    };
    let world = World::now(&api).await?;
    let (lender, sidecars) = (Arc::clone(&api.deps.lender), api.deps.sidecars.status());
    let known = Arc::clone(&api.deps.catalogue);
    let explain = move || -> Result<Explained, Error> {
        let revision = world.present.revision().0;
        let arrived = world.arrive(server, question, &caller, || known.entries()).map_err(unasked)?;
        let Arrived { through, ended, server, question } = arrived;
        let method = question.method().unwrap_or_default().to_owned();
        let id = caller.id().to_string();
        let is_foreign = caller.workload().trust_domain != world.trust_domain;
        let foreign = || is_foreign.then(|| Explanation::foreign(&caller));
        if let Some(explanation) = ended.map(|ended| foreign().unwrap_or(ended)) {
            let server = server.to_string();
            return Ok(Explained::here(revision, (id, server, method), through, explanation));
        }
        let asked = Arc::clone(world.server(&server)?);
        if let Some(explanation) = foreign() {
            let server = asked.server.meta.full_name().to_string();
            return Ok(Explained::here(revision, (id, server, method), None, explanation));
        }
        let routed = world.routed(&asked, &question, &caller, &headers).map_err(unasked)?;
        let (route, answers) = routed.map_or((None, None), |(told, answers)| (Some(told), answers));
        let entry = answers.unwrap_or_else(|| Arc::clone(&asked));
        let (asked, server) = (asked.server.meta.full_name(), entry.server.meta.full_name());
        let explanation = world.view(&entry, caller.clone()).explain(&question).map_err(unasked)?;
        let of_server = sidecars.iter().flat_map(|it| &it.tools).filter(|(name, _)| **name == server);
        let beside = |call: access::Call<'_>| {
            let named =
                |tool: &ToolName| matches!(call.target, Some(Target::Tool(name)) if *tool.as_str() == *name);
            let advertised = of_server.flat_map(|(_, it)| &it.tools).filter(|(name, _)| named(name));
            let definition = beside::pin(&server, call, advertised.map(|(_, tool)| tool), &world.snapshot);
            (beside::limits(&entry, &server, &caller, call, &lender), definition)
        };
        let (limits, definition) = question.read(beside).map_err(unasked)?;
        Ok(Explained {
            limits: if explanation.allowed { limits } else { Vec::new() },
            definition,
            route,
            decided_at: (asked != server).then(|| server.to_string()),
            ..Explained::here(revision, (id, asked.to_string(), method), through, explanation)
        })
    };
    Ok(json(&api.heavy(explain).await??))
}

pub(super) async fn who_can(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let WhoCanQuery { server, tool, prompt, resource, method } = call.query()?;
    let question = Question { target: target(tool, prompt, resource)?, method, arguments: None };
    let known: BTreeSet<SpiffeId> = api.deps.sidecars.status().into_iter().map(|it| it.identity).collect();
    let world = World::now(&api).await?;
    let find = move || -> Result<WhoCan, Error> {
        let entry = world.server(&server)?;
        let default_action = world.snapshot.default_action();
        let audience = access::audience(&entry.access, default_action, &question).map_err(unasked)?;
        let workloads = known.iter().filter_map(SpiffeId::workload);
        let of_mesh = workloads.filter(|workload| workload.trust_domain == world.trust_domain);
        let may = |workload: Workload| {
            let view = world.view(entry, Caller::new(workload));
            let may = view.may(&question).map_err(unasked)?;
            Ok(IdentityMay { identity: view.caller().id().to_string(), may })
        };
        Ok(WhoCan {
            revision: world.present.revision().0,
            server: entry.server.meta.full_name().to_string(),
            method: question.method().unwrap_or_default().to_owned(),
            rules: audience.rules,
            others: audience.others,
            identities: of_mesh.take(IDENTITIES_MAX).map(may).collect::<Result<_, Error>>()?,
        })
    };
    Ok(json(&api.heavy(find).await??))
}

impl Explained {
    /// Of a call that ends where it is, with nothing beside it.
    fn here(
        revision: u64,
        (caller, server, method): (String, String, String),
        through: Option<ThroughTold>,
        explanation: Explanation,
    ) -> Self {
        let (route, decided_at, definition) = (None, None, None);
        let limits = Vec::new();
        Self { revision, caller, server, method, through, route, decided_at, explanation, limits, definition }
    }
}

/// The servers and their policies as they are now.
struct World {
    present: Arc<Present>,
    snapshot: Snapshot,
    trust_domain: TrustDomain,
}

impl World {
    async fn now(api: &Api) -> Result<Self, Error> {
        let (present, trust_domain) = (api.present().await?, api.mesh.trust_domain.clone());
        api.heavy(move || {
            let decides = |kind| {
                use Kind::{AccessPolicy, McpServer, QuotaPolicy, Route, ToolPolicy, Trust, VirtualServer};
                let is_policy = matches!(kind, AccessPolicy | QuotaPolicy | ToolPolicy | Trust);
                is_policy || matches!(kind, McpServer | VirtualServer | Route)
            };
            let objects = present.objects().iter().filter(|(key, _)| decides(key.kind));
            let resources = objects.filter_map(|(_, object)| object.aged());
            // What was let in was seen to survive the way to a sidecar.
            let snapshot = compile_resources(&trust_domain, resources);
            let snapshot = snapshot.map_err(|error| Error::Internal(Box::new(error)))?;
            Ok(Self { snapshot, trust_domain, present: Arc::clone(&present) })
        })
        .await?
    }

    fn server(&self, name: &ServerName) -> Result<&Arc<ServerEntry>, Error> {
        let found = self.snapshot.server(name);
        found.ok_or_else(|| Error::NotFound { what: format!("server {name}") })
    }

    fn view(&self, entry: &ServerEntry, caller: Caller) -> View {
        View::new(&entry.access, self.snapshot.default_action(), caller, entry.server.meta.full_name())
    }
}

fn caller(request: &ExplainRequest, own: &TrustDomain) -> Result<Caller, Error> {
    let bad = |problem: String| Error::BadParameter { name: "as", problem };
    let workload = match request.caller.starts_with("spiffe://") {
        true => {
            let id = SpiffeId::parse(&request.caller).map_err(|error| bad(error.to_string()))?;
            let none = || bad("it is not the identity of a workload".to_owned());
            id.workload().ok_or_else(none)?
        }
        false => {
            let id = format!("spiffe://{own}/ns/{}", request.caller.replacen('/', "/sa/", 1));
            let workload = SpiffeId::parse(&id).ok().and_then(|id| id.workload());
            workload.ok_or_else(|| bad("expected a SPIFFE ID or <namespace>/<service account>".to_owned()))?
        }
    };
    let mut caller = Caller::new(workload);
    if let Some(tenant) = &request.tenant {
        caller = caller.of_tenant(tenant);
    }
    match &request.claims {
        None => Ok(caller),
        Some(claims) => caller
            .with_claims(claims.get())
            .map_err(|error| Error::BadParameter { name: "claims", problem: error.to_string() }),
    }
}

fn target(
    tool: Option<String>,
    prompt: Option<String>,
    resource: Option<String>,
) -> Result<Option<Asked>, Error> {
    let tool = tool.map(Asked::Tool);
    let mut given = tool.into_iter().chain(prompt.map(Asked::Prompt)).chain(resource.map(Asked::Resource));
    match (given.next(), given.next()) {
        (one, None) => Ok(one),
        (_, Some(_)) => {
            let problem = "only one of tool, prompt and resource can be called".to_owned();
            Err(Error::BadParameter { name: "tool", problem })
        }
    }
}

fn unasked(error: Unasked) -> Error {
    let name = match error {
        Unasked::Nothing => "tool",
        Unasked::NoArguments(_) => "args",
        Unasked::Unread(_) => "call",
    };
    Error::BadParameter { name, problem: error.to_string() }
}
