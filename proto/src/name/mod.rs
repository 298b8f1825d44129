//! Names and identities as types: once a value of one of these types exists, its text is known to be well formed.
//!
//! Not here: what a name refers to. Looking things up is the business of whoever holds the things.

mod glob;
mod ids;
mod net;
mod pattern;
mod spiffe;

pub use glob::Glob;
pub use ids::{
    EnvName, EnvValue, LabelKey, LabelValue, MethodName, Namespace, NodeId, ObjectName, PromptName,
    ServerName, ServiceAccount, ToolName,
};
pub use net::{CollectorUrl, Digest, HostPort, WebUrl};
pub use pattern::IdentityPattern;
pub use spiffe::{SpiffeId, TrustDomain, Workload};

/// Why a text is not the name it was meant to be. The message says what was expected, without repeating the input at
/// length: it ends up in logs and in answers to strangers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{what} is empty; expected {expected}")]
    Empty { what: &'static str, expected: &'static str },
    #[error("{what} is {len} bytes long; at most {max} are allowed")]
    TooLong { what: &'static str, len: usize, max: usize },
    #[error("{what} contains {found:?} at byte {at}; expected {expected}")]
    Character { what: &'static str, found: char, at: usize, expected: &'static str },
    #[error("{what} {problem}; expected {expected}")]
    Form { what: &'static str, problem: &'static str, expected: &'static str },
}

/// A validated text as a newtype: parsing, display, order, and serde and JSON Schema through the same parser.
macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, pattern = $pattern:literal, max = $max:expr, parse = $parse:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Longest accepted text, in bytes.
            pub const LEN_BYTES_MAX: usize = $max;

            pub fn parse(text: &str) -> Result<Self, $crate::name::Error> {
                $parse(text).map(|text| Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::name::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        $crate::name::serde_as_text!($name, $pattern, $max);
    };
}

/// Serde and JSON Schema for a type whose text form is `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($name:ident, $pattern:literal, $max:expr) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::name::from_text(deserializer)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "maxLength": $max })
            }
        }
    };
}

pub(crate) use {serde_as_text, text_name};

/// Reads a text and parses it, so that the error points at the text itself.
pub(crate) fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// The checks that nearly every name shares: not empty, not too long, and every character allowed.
fn check_characters(
    what: &'static str,
    text: &str,
    max: usize,
    expected: &'static str,
    allowed: impl Fn(char) -> bool,
) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::Empty { what, expected });
    }
    if text.len() > max {
        return Err(Error::TooLong { what, len: text.len(), max });
    }
    match text.char_indices().find(|(_, c)| !allowed(*c)) {
        Some((at, found)) => Err(Error::Character { what, found, at, expected }),
        None => Ok(()),
    }
}
