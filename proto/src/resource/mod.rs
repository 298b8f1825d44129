//! The resource model: what operators write. One model behind every door — YAML files, the API, and, compiled, the xDS
//! stream.
//!
//! Not here: where objects are kept, and what they mean together (that is `compile`).

pub mod bounded;
pub mod kinds;
pub mod moment;
mod parse;
pub mod redact;
pub mod units;

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{LabelKey, Namespace, ObjectName};
use bounded::Map;
use kinds::{Labels, is_default};
pub(crate) use parse::nearest;
pub use parse::{DOCUMENTS_MAX, Error, INPUT_BYTES_MAX, Parsed, Place, Problem, parse, parse_one};

/// The version of the model, as documents state it.
pub const API_VERSION: &str = "weft.dev/v1alpha1";
/// The namespace whose objects reach the whole mesh.
pub const ROOT_NAMESPACE: &str = "weft-system";
/// The namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The name of the one `Trust` object.
pub const TRUST_NAME: &str = "mesh";

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $plural:literal, [$($short:literal),*];)*) => {
        /// The kinds of objects.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// As documents write it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }

            /// As paths write it.
            pub const fn plural(self) -> &'static str {
                match self { $(Self::$kind => $plural,)* }
            }

            /// Short forms for people in a hurry.
            pub const fn short_names(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($short),*],)* }
            }
        }

        /// What an object says, by its kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Spec { $($kind(kinds::$kind),)* }

        impl Spec {
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }
        }

        $(impl From<kinds::$kind> for Spec {
            fn from(spec: kinds::$kind) -> Self { Self::$kind(spec) }
        })*

        impl Serialize for Spec {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self { $(Self::$kind(spec) => spec.serialize(serializer),)* }
            }
        }

        impl Kind {
            /// The JSON Schema of this kind's `spec`.
            pub fn spec_schema(self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                match self { $(Self::$kind => generator.subschema_for::<kinds::$kind>(),)* }
            }

            /// Reads a document of this kind.
            fn read<'de, D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Resource, D::Error> {
                match self {
                    $(Self::$kind => Document::<kinds::$kind>::deserialize(deserializer).map(Resource::from),)*
                }
            }
        }
    };
}

kinds! {
    /// A logical MCP server.
    McpServer, "mcpservers", ["server", "servers", "mcp"];
    /// One endpoint made of many servers.
    VirtualServer, "virtualservers", ["vs"];
    /// Which server takes the calls of another.
    Route, "routes", ["rt"];
    /// Who may call what.
    AccessPolicy, "accesspolicies", ["access", "ap"];
    /// How much.
    QuotaPolicy, "quotapolicies", ["quota", "quotas", "qp"];
    /// How calls of particular tools are treated.
    ToolPolicy, "toolpolicies", ["tp"];
    /// How gateways know callers.
    Authentication, "authentications", ["auth"];
    /// What is recorded.
    Telemetry, "telemetries", ["tel"];
    /// What holds for the whole mesh.
    Trust, "trusts", [];
}

impl Kind {
    /// Finds a kind by its name, its plural or a short form, without regard to case.
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| {
            let mut names =
                [kind.name(), kind.plural()].into_iter().chain(kind.short_names().iter().copied());
            names.any(|name| name.eq_ignore_ascii_case(text))
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What every object carries beside its spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The tenant it belongs to; `default` if not given.
    #[serde(default = "default_namespace")]
    pub namespace: Namespace,
    pub name: ObjectName,
    /// What selectors find it by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// Notes for people and tools.
    #[serde(default, skip_serializing_if = "is_default")]
    pub annotations: Annotations,
    /// Set by the control plane. In a change: the version that the change is based on, or the change is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<ResourceVersion>,
}

/// Notes on an object; values of at most 4 KiB.
pub type Annotations = Map<LabelKey, bounded::Text<4096>, 64>;

/// The revision of the store at which an object last changed, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceVersion(pub u64);

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ResourceVersion {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        number
            .map(Self)
            .ok_or_else(|| "a resource version is the number that the control plane gave".to_owned())
    }
}

crate::name::serde_as_text!(ResourceVersion, "^[0-9]+$", 20);

fn default_namespace() -> Namespace {
    Namespace::parse(DEFAULT_NAMESPACE).expect("the default namespace is a namespace")
}

/// An object.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub metadata: Metadata,
    pub spec: Spec,
}

impl Resource {
    pub fn kind(&self) -> Kind {
        self.spec.kind()
    }

    pub fn key(&self) -> Key {
        let Metadata { namespace, name, .. } = &self.metadata;
        Key { kind: self.kind(), namespace: namespace.clone(), name: name.clone() }
    }

    /// The one text form of the object that equality is judged by: JSON without the version.
    pub fn canonical(&self) -> String {
        let mut bare = self.clone();
        bare.metadata.resource_version = None;
        serde_json::to_string(&bare).expect("the model has only text keys and finite numbers")
    }

    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("the model has only text keys and finite numbers")
    }
}

impl Serialize for Resource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut document = serializer.serialize_struct("Resource", 4)?;
        document.serialize_field("apiVersion", API_VERSION)?;
        document.serialize_field("kind", self.kind().name())?;
        document.serialize_field("metadata", &self.metadata)?;
        document.serialize_field("spec", &self.spec)?;
        document.end()
    }
}

/// What an object is found by. Its text form is `<plural>/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    pub namespace: Namespace,
    pub name: ObjectName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind.plural(), self.namespace, self.name)
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, '/');
        let (Some(plural), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("{text:?} is not <kind>/<namespace>/<name>"));
        };
        let kind = Kind::ALL.iter().copied().find(|kind| kind.plural() == plural);
        Ok(Self {
            kind: kind.ok_or_else(|| format!("{plural:?} is not a kind of object"))?,
            namespace: namespace.parse().map_err(|error| format!("{error}"))?,
            name: name.parse().map_err(|error| format!("{error}"))?,
        })
    }
}

/// A document of one kind, as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document<S> {
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    #[serde(rename = "kind")]
    _kind: Kind,
    metadata: Metadata,
    spec: S,
}

impl<S: Into<Spec>> From<Document<S>> for Resource {
    fn from(document: Document<S>) -> Self {
        Self { metadata: document.metadata, spec: document.spec.into() }
    }
}

/// The one version that there is.
struct ApiVersion;

impl<'de> Deserialize<'de> for ApiVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        match &*text {
            API_VERSION => Ok(Self),
            _ => Err(serde::de::Error::unknown_variant(&text, &[API_VERSION])),
        }
    }
}

/// Whether the parts of an object agree with each other and with its place. What one object says alone was settled
/// when it was read; this is about scope.
pub(crate) fn check_scope(resource: &Resource) -> Result<(), (&'static str, String)> {
    let Metadata { namespace, name, .. } = &resource.metadata;
    let root = namespace.as_str() == ROOT_NAMESPACE;
    let selector = |selector: &kinds::ServerSelector| match selector.namespaces.is_some() && !root {
        true => Err((
            "spec.servers.namespaces",
            format!("only objects of {ROOT_NAMESPACE} reach other namespaces"),
        )),
        false => Ok(()),
    };
    let own = |field: &'static str, server: &crate::name::ServerName| match root
        || server.namespace == *namespace
    {
        true => Ok(()),
        false => Err((
            field,
            format!("{server} is in another namespace; only objects of {ROOT_NAMESPACE} reach it"),
        )),
    };
    match &resource.spec {
        Spec::AccessPolicy(policy) => selector(&policy.servers),
        Spec::QuotaPolicy(policy) => selector(&policy.servers),
        Spec::ToolPolicy(policy) => selector(&policy.servers),
        Spec::Telemetry(telemetry) => selector(&telemetry.servers),
        Spec::VirtualServer(it) => it.members.iter().try_for_each(|m| own("spec.members.server", &m.server)),
        Spec::Route(route) => {
            own("spec.server", &route.server)?;
            let mut rules = route.rules.iter();
            rules.try_for_each(|rule| {
                rule.to.iter().try_for_each(|to| own("spec.rules.to.server", &to.server))
            })?;
            let mut named = route.rules.iter().flat_map(|rule| {
                let mirror = rule.mirror.iter().map(|mirror| &mirror.server);
                mirror.chain(rule.fallback.iter().flat_map(|list| list.iter()))
            });
            named.try_for_each(|server| own("spec.rules", server))
        }
        Spec::Trust(_) if !root || name.as_str() != TRUST_NAME => {
            Err(("metadata.name", format!("the one Trust object is {ROOT_NAMESPACE}/{TRUST_NAME}")))
        }
        Spec::Trust(_) | Spec::McpServer(_) | Spec::Authentication(_) => Ok(()),
    }
}
