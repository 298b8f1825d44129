//! The table of operations: all that the API does, once. Routing, authorization, the audit trail and the OpenAPI
//! document are made from it.

use std::sync::Arc;

use axum::response::Response;
use axum::routing::MethodFilter;
use futures_util::future::BoxFuture;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use weft_proto::catalogue::card::{self, ServerCard};

use super::asked::{config, counts, logging, tap};
use super::call::{Call, Content};
use super::sidecars::{PlanStatus, Sidecar, SidecarList, SidecarsQuery};
use super::trust::{RevocationRequest, RotationRequest, TrustStatus};
use super::{
    AiCatalogue, Api, ApplyResult, AuditList, CallCounts, CheckList, Error, ExplainRequest, Explained,
    HistoryItem, HistoryList, KeyCreated, KeyList, KeyRequest, LogLines, ObjectList, OfferedList,
    OfferedShown, OfferingList, QuotaList, RegistryServer, RegistryServers, RollbackRequest, SidecarConfig,
    SidecarLogging, TapEvent, TokenCreated, TokenList, TokenRequest, ToolList, Version, WhoCan, access,
    cards, catalogue, checks, dto, explain, history, objects, openapi, quotas, registry, sidecars, tools,
    trails, trust, watch,
};
use crate::auth::Scope;

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;
type Run = fn(Arc<Api>, Call) -> BoxFuture<'static, Result<Response, Error>>;

/// The methods that operations have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Put,
    Post,
    Delete,
}

impl Method {
    pub(super) const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Put => MethodFilter::PUT,
            Self::Post => MethodFilter::POST,
            Self::Delete => MethodFilter::DELETE,
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Post => "post",
            Self::Delete => "delete",
        }
    }
}

/// What an operation answers with when it succeeds.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Ok(SchemaOf),
    Created(SchemaOf),
    /// Server-sent events with this data.
    Events(SchemaOf),
    NoContent,
    /// Any JSON.
    Free,
    /// JSON of a media type of its own.
    As(&'static str, SchemaOf),
}

/// One operation.
pub(super) struct Operation {
    /// Its name in metrics, logs and generated clients.
    pub(super) id: &'static str,
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    /// None: no key is needed.
    pub(super) scope: Option<Scope>,
    /// What the audit trail calls it; none for what changes nothing.
    pub(super) audited: Option<&'static str>,
    pub(super) query: Option<SchemaOf>,
    pub(super) content: Content,
    pub(super) body: Option<SchemaOf>,
    pub(super) answer: Answer,
    pub(super) run: Run,
}

impl Operation {
    const fn new(id: &'static str, method: Method, path: &'static str, run: Run) -> Self {
        Self {
            id,
            method,
            path,
            summary: "",
            scope: None,
            audited: None,
            query: None,
            content: Content::Nothing,
            body: None,
            answer: Answer::Free,
            run,
        }
    }

    const fn says(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    const fn reads(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    const fn changes(mut self, scope: Scope, action: &'static str) -> Self {
        self.scope = Some(scope);
        self.audited = Some(action);
        self
    }

    const fn query(mut self, schema: SchemaOf) -> Self {
        self.query = Some(schema);
        self
    }

    const fn takes_json(mut self, schema: SchemaOf) -> Self {
        self.content = Content::Json;
        self.body = Some(schema);
        self
    }

    const fn takes_documents(mut self) -> Self {
        self.content = Content::Documents;
        self.body = Some(of::<dto::Object>);
        self
    }

    const fn answers(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

macro_rules! run {
    ($handler:path) => {
        |api, call| Box::pin($handler(api, call))
    };
}

use Answer::{As, Created, Events, NoContent, Ok as Answers};
use Method::{Delete, Get, Post, Put};
use Scope::{Admin, Operator, Readonly};

const OBJECT: &str = "/v1/namespaces/{ns}/{plural}/{name}";

/// All operations, in the order of the document.
pub(super) static OPERATIONS: &[Operation] = &[
    Operation::new("getVersion", Get, "/v1/version", run!(objects::version))
        .says("Which control plane this is, and how far it is.")
        .reads(Readonly)
        .answers(Answers(of::<Version>)),
    Operation::new("listObjects", Get, "/v1/resources", run!(objects::list))
        .says("Objects, page by page, all pages as of one revision.")
        .reads(Readonly)
        .query(of::<objects::ListQuery>)
        .answers(Answers(of::<ObjectList>)),
    Operation::new("getObject", Get, OBJECT, run!(objects::show))
        .says("One object, with its version.")
        .reads(Readonly)
        .answers(Answers(of::<dto::Object>)),
    Operation::new("putObject", Put, OBJECT, run!(objects::put))
        .says("Creates or replaces one object.")
        .changes(Operator, "put")
        .query(of::<objects::ChangeQuery>)
        .takes_documents()
        .answers(Answers(of::<ApplyResult>)),
    Operation::new("deleteObject", Delete, OBJECT, run!(objects::delete))
        .says("Deletes one object.")
        .changes(Operator, "delete")
        .query(of::<objects::DeleteQuery>)
        .answers(Answers(of::<ApplyResult>)),
    Operation::new("applyObjects", Post, "/v1/apply", run!(objects::apply))
        .says("Creates and replaces the objects of a stream of documents, all or none.")
        .changes(Operator, "apply")
        .query(of::<objects::ApplyQuery>)
        .takes_documents()
        .answers(Answers(of::<ApplyResult>)),
    Operation::new("deleteObjects", Post, "/v1/delete", run!(objects::delete_many))
        .says("Deletes the objects that a stream of documents names, all or none.")
        .changes(Operator, "delete")
        .query(of::<objects::ChangeQuery>)
        .takes_documents()
        .answers(Answers(of::<ApplyResult>)),
    Operation::new("watchObjects", Get, "/v1/watch", run!(watch::watch))
        .says("Changes of objects as server-sent events `put`, `delete` and `bookmark`; `error` is the last one.")
        .reads(Readonly)
        .query(of::<watch::WatchQuery>)
        .answers(Events(of::<dto::WatchEvent>)),
    Operation::new("listHistory", Get, "/v1/history", run!(history::list))
        .says("Revisions that changed objects, the newest first.")
        .reads(Readonly)
        .query(of::<history::HistoryQuery>)
        .answers(Answers(of::<HistoryList>)),
    Operation::new("getRevision", Get, "/v1/history/{revision}", run!(history::show))
        .says("What one revision changed, with diffs.")
        .reads(Readonly)
        .answers(Answers(of::<HistoryItem>)),
    Operation::new("rollBack", Post, "/v1/rollback", run!(history::rollback))
        .says("Brings the objects of a past revision back, as a new revision.")
        .changes(Operator, "rollback")
        .takes_json(of::<RollbackRequest>)
        .answers(Answers(of::<ApplyResult>)),
    Operation::new("listSidecars", Get, "/v1/sidecars", run!(sidecars::list))
        .says("Sidecars, and how far each is with what it was sent.")
        .reads(Readonly)
        .query(of::<SidecarsQuery>)
        .answers(Answers(of::<SidecarList>)),
    Operation::new("getSidecar", Get, "/v1/sidecars/{ns}/{instance}", run!(sidecars::show))
        .says("One sidecar.")
        .reads(Readonly)
        .answers(Answers(of::<Sidecar>)),
    Operation::new("getSidecarConfig", Get, "/v1/sidecars/{ns}/{instance}/config", run!(config::show))
        .says("What a sidecar holds, by its own word, and what it is to hold.")
        .reads(Readonly)
        .query(of::<config::ConfigQuery>)
        .answers(Answers(of::<SidecarConfig>)),
    Operation::new("getSidecarLogging", Get, "/v1/sidecars/{ns}/{instance}/logging", run!(logging::show))
        .says("What a sidecar logs.")
        .reads(Readonly)
        .answers(Answers(of::<SidecarLogging>)),
    Operation::new("setSidecarLogging", Put, "/v1/sidecars/{ns}/{instance}/logging", run!(logging::set))
        .says("Sets what a sidecar logs, for good or for a while.")
        .changes(Operator, "sidecar.logging")
        .takes_json(of::<logging::LoggingRequest>)
        .answers(Answers(of::<SidecarLogging>)),
    Operation::new("getSidecarLog", Get, "/v1/sidecars/{ns}/{instance}/log", run!(logging::lines))
        .says("The newest lines of a sidecar's log, without what servers beside it say.")
        .reads(Operator)
        .answers(Answers(of::<LogLines>)),
    Operation::new("tapCalls", Get, "/v1/tap", run!(tap::tap))
        .says("Calls as they end: server-sent events `call`, and `begun`, `joined`, `left`, `lost`, `end` of the tap.")
        .changes(Operator, "tap")
        .query(of::<tap::TapQuery>)
        .answers(Events(of::<TapEvent>)),
    Operation::new("countCalls", Get, "/v1/calls", run!(counts::count))
        .says("How many calls end and how long they take, as an event `counts` after each window.")
        .reads(Readonly)
        .query(of::<counts::CountsQuery>)
        .answers(Events(of::<CallCounts>)),
    Operation::new("explainCall", Post, "/v1/explain", run!(explain::explain))
        .says("What would come of a call, and what each rule has to say about it. Nothing is called.")
        .reads(Readonly)
        .takes_json(of::<ExplainRequest>)
        .answers(Answers(of::<Explained>)),
    Operation::new("whoCan", Get, "/v1/who-can", run!(explain::who_can))
        .says("Who may call something: what the rules about it say, and which of the identities that are known.")
        .reads(Readonly)
        .query(of::<explain::WhoCanQuery>)
        .answers(Answers(of::<WhoCan>)),
    Operation::new("listTools", Get, "/v1/tools", run!(tools::list))
        .says("What servers advertise, as their sidecars read it, and whether it is what was approved.")
        .reads(Readonly)
        .query(of::<tools::ToolsQuery>)
        .answers(Answers(of::<ToolList>)),
    Operation::new("listOffered", Get, "/v1/catalogue/items", run!(catalogue::items))
        .says("Tools, prompts, resources and templates that servers offer: page by page, or those that words find.")
        .reads(Readonly)
        .query(of::<catalogue::ItemsQuery>)
        .answers(Answers(of::<OfferedList>)),
    Operation::new("getOffered", Get, "/v1/catalogue/item", run!(catalogue::item))
        .says("One of them: its definition, those that there were before, and what each sidecar found.")
        .reads(Readonly)
        .query(of::<catalogue::ItemQuery>)
        .answers(Answers(of::<OfferedShown>)),
    Operation::new("listOffers", Get, "/v1/catalogue/servers", run!(catalogue::servers))
        .says("Servers: what each says of itself, how much it offers, and whether the sidecars beside it agree.")
        .reads(Readonly)
        .query(of::<catalogue::ServersQuery>)
        .answers(Answers(of::<OfferingList>)),
    Operation::new("listRegistryServers", Get, "/v0.1/servers", run!(registry::list))
        .says("The servers of the mesh, as clients of an MCP registry read them (its API v0.1).")
        .reads(Readonly)
        .query(of::<registry::ListQuery>)
        .answers(Answers(of::<RegistryServers>)),
    Operation::new("listRegistryVersions", Get, "/v0.1/servers/{server}/versions", run!(registry::versions))
        .says("The versions of a server, of which there is one: what runs. Its name is one part of the path, `ns%2Fname`.")
        .reads(Readonly)
        .query(of::<registry::VersionsQuery>)
        .answers(Answers(of::<RegistryServers>)),
    Operation::new("getRegistryVersion", Get, "/v0.1/servers/{server}/versions/{version}", run!(registry::version))
        .says("A version of a server; `latest` is what runs.")
        .reads(Readonly)
        .query(of::<registry::VersionsQuery>)
        .answers(Answers(of::<RegistryServer>)),
    Operation::new("getServerCard", Get, "/v0.1/servers/{server}/server-card", run!(cards::card))
        .says("The card of a server (SEP-2127): what it is, and where an agent's sidecar has it.")
        .reads(Readonly)
        .answers(As(card::MEDIA_TYPE, of::<ServerCard>)),
    Operation::new("getCatalogue", Get, "/.well-known/ai-catalog.json", run!(cards::catalogue))
        .says("The cards of all servers, in the form of an AI catalogue.")
        .reads(Readonly)
        .answers(As(cards::CATALOGUE_TYPE, of::<AiCatalogue>)),
    Operation::new("listQuotas", Get, "/v1/quotas", run!(quotas::list))
        .says("How mesh-wide limits stand: what is lent of each, used, and refused; the most used first.")
        .reads(Readonly)
        .query(of::<quotas::QuotasQuery>)
        .answers(Answers(of::<QuotaList>)),
    Operation::new("listChecks", Get, "/v1/checks", run!(checks::list))
        .says("Whether all is well: every check that the control plane can make, with what to do where one does not pass.")
        .reads(Readonly)
        .query(of::<checks::ChecksQuery>)
        .answers(Answers(of::<CheckList>)),
    Operation::new("createToken", Post, "/v1/tokens", run!(access::create_token))
        .says("Makes a join token for a workload; it is shown this once.")
        .changes(Admin, "token.create")
        .takes_json(of::<TokenRequest>)
        .answers(Created(of::<TokenCreated>)),
    Operation::new("listTokens", Get, "/v1/tokens", run!(access::list_tokens))
        .says("Join tokens, less their secrets.")
        .reads(Operator)
        .answers(Answers(of::<TokenList>)),
    Operation::new("revokeToken", Delete, "/v1/tokens/{id}", run!(access::revoke_token))
        .says("Takes what is left of a join token away.")
        .changes(Admin, "token.revoke")
        .answers(NoContent),
    Operation::new("createKey", Post, "/v1/keys", run!(access::create_key))
        .says("Makes an API key; it is shown this once.")
        .changes(Admin, "key.create")
        .takes_json(of::<KeyRequest>)
        .answers(Created(of::<KeyCreated>)),
    Operation::new("listKeys", Get, "/v1/keys", run!(access::list_keys))
        .says("API keys, less their secrets.")
        .reads(Admin)
        .answers(Answers(of::<KeyList>)),
    Operation::new("revokeKey", Delete, "/v1/keys/{id}", run!(access::revoke_key))
        .says("Takes an API key away.")
        .changes(Admin, "key.revoke")
        .answers(NoContent),
    Operation::new("getTrust", Get, "/v1/trust", run!(trust::status))
        .says("Roots, issuer, and where a rotation stands.")
        .reads(Readonly)
        .answers(Answers(of::<TrustStatus>)),
    Operation::new("rotateTrust", Post, "/v1/trust/rotation", run!(trust::rotate))
        .says("Takes a step of exchanging the root.")
        .changes(Admin, "trust.rotation")
        .takes_json(of::<RotationRequest>)
        .answers(Answers(of::<TrustStatus>)),
    Operation::new("revokeCertificate", Post, "/v1/trust/revocations", run!(trust::revoke))
        .says("Refuses a certificate from now on.")
        .changes(Admin, "trust.revocation")
        .takes_json(of::<RevocationRequest>)
        .answers(NoContent),
    Operation::new("listAudit", Get, "/v1/audit", run!(access::audit))
        .says("Who did what, and who was refused what; the newest first.")
        .reads(Operator)
        .query(of::<access::AuditQuery>)
        .answers(Answers(of::<AuditList>)),
    Operation::new("listRecords", Get, "/v1/audit/records", run!(trails::records))
        .says("Records of the audit trails: calls that policy marks, and what operators did; the newest first.")
        .reads(Operator)
        .query(of::<trails::RecordsQuery>)
        .answers(Answers(of::<trails::RecordList>)),
    Operation::new("listTrails", Get, "/v1/audit/trails", run!(trails::list))
        .says("Audit trails, with their segments and the anchors of their seals.")
        .reads(Operator)
        .query(of::<trails::TrailsQuery>)
        .answers(Answers(of::<trails::TrailList>)),
    Operation::new("getSegment", Get, "/v1/audit/trails/{ns}/{instance}/{trail}/{segment}", run!(trails::segment))
        .says("The lines of a segment, as its node wrote them.")
        .reads(Operator),
    Operation::new("getOpenApi", Get, "/openapi.json", run!(openapi::show))
        .says("This document. No key is needed."),
    Operation::new("debugSync", Get, "/debug/syncz", run!(sidecars::syncz))
        .says("Every sidecar with every type.")
        .reads(Operator)
        .answers(Answers(of::<SidecarList>)),
    Operation::new("debugNacks", Get, "/debug/nackz", run!(sidecars::nackz))
        .says("Sidecars that refused what they were sent.")
        .reads(Operator)
        .answers(Answers(of::<SidecarList>)),
    Operation::new("debugPlan", Get, "/debug/plan", run!(sidecars::plan))
        .says("What is published.")
        .reads(Operator)
        .answers(Answers(of::<PlanStatus>)),
    Operation::new("debugLog", Get, "/debug/log", run!(logging::own_lines))
        .says("The newest lines of the control plane's log.")
        .reads(Operator)
        .answers(Answers(of::<LogLines>)),
];

/// What answers at paths that are none.
pub(super) static UNKNOWN_ROUTE: Operation =
    Operation::new("unknownRoute", Get, "", |_, _| Box::pin(async { Err(Error::UnknownRoute) }));

/// What answers methods that a path does not take.
pub(super) static METHOD_NOT_ALLOWED: Operation =
    Operation::new("methodNotAllowed", Get, "", |_, _| Box::pin(async { Err(Error::MethodNotAllowed) }));
