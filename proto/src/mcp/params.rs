//! The parameters of requests and notifications, as far as a proxy looks at them.

use std::borrow::Cow;

use super::method::{self, Subject};
use super::written::Part;
use super::{Id, Raw, Target};

pub(super) const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(super) const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
pub(super) const PROGRESS_TOKEN: &str = "progressToken";

/// What of the parameters is looked at; everything else is in `raw`. A member of another method than the one that uses
/// it is there if its type happens to fit. `null` is as good as absent.
#[derive(Clone, Debug, Default)]
pub struct Params<'a> {
    /// The whole object.
    pub raw: Option<Raw<'a>>,
    pub meta: Meta<'a>,
    /// Of a tool or a prompt.
    pub name: Option<Cow<'a, str>>,
    /// Of a resource.
    pub uri: Option<Cow<'a, str>>,
    pub task_id: Option<Cow<'a, str>>,
    /// Of `completion/complete`: the prompt.
    pub ref_name: Option<Cow<'a, str>>,
    /// Of `completion/complete`: the resource.
    pub ref_uri: Option<Cow<'a, str>>,
    pub cursor: Option<Cow<'a, str>>,
    pub arguments: Option<Raw<'a>>,
    pub input_responses: Option<Raw<'a>>,
    pub request_state: Option<Raw<'a>>,
    /// Of `initialize`.
    pub protocol_version: Option<Cow<'a, str>>,
    /// Of `initialize`.
    pub capabilities: Option<Raw<'a>>,
    /// Of `initialize`.
    pub client_info: Option<Raw<'a>>,
    /// Of `logging/setLevel` and of `notifications/message`.
    pub level: Option<Cow<'a, str>>,
    /// Of `notifications/cancelled`.
    pub request_id: Option<Id<'a>>,
    /// Of `notifications/progress`.
    pub progress_token: Option<Raw<'a>>,
    /// Of `subscriptions/listen`.
    pub notifications: Option<Raw<'a>>,
    /// Of `subscriptions/listen`: the resources that are subscribed to, each as by `resources/subscribe`.
    pub subscribed_uris: Vec<Cow<'a, str>>,
}

/// What of `_meta` is looked at.
#[derive(Clone, Debug, Default)]
pub struct Meta<'a> {
    /// The whole object.
    pub raw: Option<Raw<'a>>,
    pub protocol_version: Option<Cow<'a, str>>,
    pub client_capabilities: Option<Raw<'a>>,
    pub client_info: Option<Raw<'a>>,
    pub log_level: Option<Cow<'a, str>>,
    /// A string or an integer.
    pub progress_token: Option<Raw<'a>>,
    pub subscription_id: Option<Raw<'a>>,
    pub traceparent: Option<Cow<'a, str>>,
    pub tracestate: Option<Cow<'a, str>>,
}

/// What is wrong with parameters.
pub(super) struct Bad<'a> {
    pub(super) at: &'a str,
    pub(super) what: Cow<'static, str>,
}

impl<'a> Bad<'a> {
    fn new(at: Raw<'a>, what: impl Into<Cow<'static, str>>) -> Self {
        Self { at: at.get(), what: what.into() }
    }
}

impl<'a> Params<'a> {
    /// Refuses what the method needs and lacks, and what it uses and is of the wrong type.
    pub(super) fn read(
        method: &str,
        message: Raw<'a>,
        params: Option<Part<'_, 'a>>,
    ) -> Result<Self, Bad<'a>> {
        let Some(part) = params else {
            return match method::subject(method) {
                Some(_) => Err(Bad::new(message, "the method needs `params`")),
                None => Ok(Self::default()),
            };
        };
        let raw = part.raw;
        if !raw.is_object() {
            return Err(Bad::new(raw, "`params` is not an object"));
        }
        let params = Self::members(method, part)?;
        match method::subject(method) {
            Some(subject) if params.target(method).is_none() => Err(Bad::new(raw, lacking(subject))),
            _ => Ok(params),
        }
    }

    fn members(method: &str, part: Part<'_, 'a>) -> Result<Self, Bad<'a>> {
        let raw = part.raw;
        let members = part.members(&KNOWN).map_err(|what| Bad::new(raw, what))?;
        let [
            meta,
            name,
            uri,
            task_id,
            reference,
            cursor,
            arguments,
            input_responses,
            request_state,
            version,
            capabilities,
            client_info,
            level,
            request_id,
            progress_token,
            notifications,
        ] = members.map(|member| member.filter(|it| !it.raw.is_null()));
        let text = |key: &'static str, value: Option<Part<'_, 'a>>| match value {
            None => Ok(None),
            Some(value) => match value.name() {
                None if uses(method, key) => Err(Bad::new(value.raw, format!("`{key}` is not a string"))),
                found => Ok(found),
            },
        };
        let (ref_name, ref_uri) = match reference {
            Some(reference) if method == method::COMPLETION_COMPLETE => of_reference(reference)?,
            _ => (None, None),
        };
        Ok(Self {
            raw: Some(raw),
            meta: meta.map(|meta| Meta::read(meta)).transpose()?.unwrap_or_default(),
            name: text("name", name)?,
            uri: text("uri", uri)?,
            task_id: text("taskId", task_id)?,
            ref_name,
            ref_uri,
            cursor: text("cursor", cursor)?,
            arguments: an_object("arguments", arguments, uses(method, "arguments"))?,
            input_responses: raw_of(input_responses),
            request_state: raw_of(request_state),
            protocol_version: text("protocolVersion", version)?,
            capabilities: an_object("capabilities", capabilities, uses(method, "capabilities"))?,
            client_info: raw_of(client_info),
            level: text("level", level)?,
            request_id: match request_id.map(|it| (it.raw, Id::from_part(it))) {
                Some((at, None)) if method == method::CANCELLED => {
                    return Err(Bad::new(at, "`requestId` is neither a string nor an integer"));
                }
                found => found.and_then(|(_, id)| id),
            },
            progress_token: raw_of(progress_token),
            notifications: raw_of(notifications),
            subscribed_uris: match notifications {
                Some(wanted) if method == method::SUBSCRIPTIONS_LISTEN => subscribed_uris(wanted)?,
                _ => Vec::new(),
            },
        })
    }

    /// What a request of this method with these parameters is about.
    pub fn target(&self, method: &str) -> Option<Target<'_>> {
        match method::subject(method)? {
            Subject::Tool => self.name.as_deref().map(Target::Tool),
            Subject::Prompt => self.name.as_deref().map(Target::Prompt),
            Subject::Resource => self.uri.as_deref().map(Target::Resource),
            Subject::Task => self.task_id.as_deref().map(Target::Task),
            Subject::Reference => {
                let prompt = self.ref_name.as_deref().map(Target::Prompt);
                prompt.or_else(|| self.ref_uri.as_deref().map(Target::Resource))
            }
        }
    }
}

const KNOWN: [&str; 16] = [
    "_meta",
    "name",
    "uri",
    "taskId",
    "ref",
    "cursor",
    "arguments",
    "inputResponses",
    "requestState",
    "protocolVersion",
    "capabilities",
    "clientInfo",
    "level",
    "requestId",
    "progressToken",
    "notifications",
];

/// Whether a method uses a member of its parameters, and so tells its type.
fn uses(method: &str, key: &str) -> bool {
    match key {
        "name" | "arguments" => method::has_arguments(method),
        "uri" => method == method::RESOURCES_UPDATED || method::subject(method) == Some(Subject::Resource),
        "taskId" => method::subject(method) == Some(Subject::Task),
        "cursor" => method.ends_with("/list"),
        "protocolVersion" | "capabilities" => method == method::INITIALIZE,
        "level" => method == method::LOGGING_SET_LEVEL,
        _ => false,
    }
}

fn lacking(subject: Subject) -> &'static str {
    match subject {
        Subject::Tool | Subject::Prompt => "`params` lacks `name`",
        Subject::Resource => "`params` lacks `uri`",
        Subject::Task => "`params` lacks `taskId`",
        Subject::Reference => "`params` lacks `ref`",
    }
}

type Texts<'a> = (Option<Cow<'a, str>>, Option<Cow<'a, str>>);

/// The name of a prompt or the URI of a resource.
fn of_reference<'a>(reference: Part<'_, 'a>) -> Result<Texts<'a>, Bad<'a>> {
    let raw = reference.raw;
    if !raw.is_object() {
        return Err(Bad::new(raw, "`ref` is not an object"));
    }
    let [kind, name, uri] =
        reference.members(&["type", "name", "uri"]).map_err(|what| Bad::new(raw, what))?;
    let found = match kind.and_then(Part::text).as_deref() {
        Some("ref/prompt") => (name.and_then(Part::name), None),
        Some("ref/resource") => (None, uri.and_then(Part::name)),
        _ => (None, None),
    };
    match found {
        (None, None) => Err(Bad::new(raw, "`ref` is neither a prompt nor a resource")),
        found => Ok(found),
    }
}

fn subscribed_uris<'a>(wanted: Part<'_, 'a>) -> Result<Vec<Cow<'a, str>>, Bad<'a>> {
    let raw = wanted.raw;
    if !raw.is_object() {
        return Err(Bad::new(raw, "`notifications` is not an object"));
    }
    let [uris] = wanted.members(&["resourceSubscriptions"]).map_err(|what| Bad::new(raw, what))?;
    let Some(uris) = raw_of(uris).filter(|it| !it.is_null()) else { return Ok(Vec::new()) };
    let no_list = || Bad::new(uris, "`resourceSubscriptions` is not a list of strings");
    let items = uris.elements().ok_or_else(no_list)?;
    items.into_iter().map(|uri| uri.name().ok_or_else(no_list)).collect()
}

fn raw_of<'a>(part: Option<Part<'_, 'a>>) -> Option<Raw<'a>> {
    part.map(|part| part.raw)
}

fn an_object<'a>(
    key: &'static str,
    value: Option<Part<'_, 'a>>,
    is_used: bool,
) -> Result<Option<Raw<'a>>, Bad<'a>> {
    match raw_of(value) {
        Some(value) if is_used && !value.is_object() => {
            Err(Bad::new(value, format!("`{key}` is not an object")))
        }
        value => Ok(value),
    }
}

impl<'a> Meta<'a> {
    fn read(part: Part<'_, 'a>) -> Result<Self, Bad<'a>> {
        let raw = part.raw;
        if !raw.is_object() {
            return Err(Bad::new(raw, "`_meta` is not an object"));
        }
        let known = [
            PROTOCOL_VERSION,
            CLIENT_CAPABILITIES,
            CLIENT_INFO,
            LOG_LEVEL,
            PROGRESS_TOKEN,
            SUBSCRIPTION_ID,
            "traceparent",
            "tracestate",
        ];
        let members = part.members(&known).map_err(|what| Bad::new(raw, what))?;
        let [version, capabilities, client_info, log_level, token, subscription_id, parent, state] =
            members.map(|member| member.filter(|it| !it.raw.is_null()));
        let text = |key: &'static str, value: Option<Part<'_, 'a>>| match value {
            Some(value) => match value.name() {
                None => Err(Bad::new(value.raw, format!("`{key}` is not a string"))),
                found => Ok(found),
            },
            None => Ok(None),
        };
        if let Some(bad) = token.filter(|it| Id::from_part(*it).is_none()) {
            return Err(Bad::new(bad.raw, "`progressToken` is neither a string nor an integer"));
        }
        Ok(Self {
            raw: Some(raw),
            protocol_version: text(PROTOCOL_VERSION, version)?,
            client_capabilities: an_object(CLIENT_CAPABILITIES, capabilities, true)?,
            client_info: raw_of(client_info),
            log_level: text(LOG_LEVEL, log_level)?,
            progress_token: raw_of(token),
            subscription_id: raw_of(subscription_id),
            traceparent: parent.and_then(Part::name),
            tracestate: state.and_then(Part::name),
        })
    }
}
