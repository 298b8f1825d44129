//! What a tool's definition hashes to.
//!
//! The digest is SHA-256 over the canonical JSON (see [`super::canonical`]) of an object with these members of the
//! definition: `name`, `title`, `description`, `inputSchema`, `outputSchema`, `annotations`; one that is `null` is as
//! good as absent. Left out is what says nothing to a model about the use of the tool: `_meta`, `icons`, and whatever
//! else there may be.
//!
//! A definition that two readers could understand differently (a key twice, or in another case) has no digest, and so
//! can never be one that was approved.

use aws_lc_rs::digest::{SHA256, digest as hash};

use crate::mcp::{self, Raw};
use crate::name::Digest;

use super::DEPTH_MAX;
use super::canonical::{Numbers, write};

/// The members that are hashed, in the order of the canonical form.
pub const HASHED: [&str; 6] = ["annotations", "description", "inputSchema", "name", "outputSchema", "title"];

/// Why a definition cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the definition is no JSON that everyone reads alike: {0}")]
    Json(#[from] mcp::Error),
    #[error("the definition is no object")]
    NotAnObject,
    #[error("the definition has {0}")]
    AlikeButForCase(String),
    #[error("the definition has no name")]
    NoName,
}

/// A definition that everyone reads alike.
#[derive(Clone, Debug)]
pub struct Definition<'a> {
    pub name: String,
    pub input_schema: Option<Raw<'a>>,
    pub annotations: Option<Raw<'a>>,
    hashed: [Option<Raw<'a>>; HASHED.len()],
}

/// What the server says of its tool's effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    pub read_only: bool,
    pub idempotent: bool,
}

/// The digest of a definition, from its JSON text.
pub fn digest(raw: &str) -> Result<Digest, Error> {
    Definition::read(raw).map(|definition| definition.digest())
}

impl<'a> Definition<'a> {
    pub fn read(raw: &'a str) -> Result<Self, Error> {
        let raw = Raw::scan(raw, DEPTH_MAX)?;
        if !raw.is_object() {
            return Err(Error::NotAnObject);
        }
        let hashed = raw.members(&HASHED).map_err(Error::AlikeButForCase)?;
        let hashed = hashed.map(|member| member.filter(|it| !it.is_null()));
        let [annotations, _, input_schema, name, ..] = hashed;
        let name = name.and_then(Raw::text).ok_or(Error::NoName)?.into_owned();
        Ok(Self { name, input_schema, annotations, hashed })
    }

    pub fn digest(&self) -> Digest {
        let hex = hash(&SHA256, self.canonical().as_bytes());
        let hex: String = hex.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Digest::parse(&format!("sha256:{hex}")).expect("64 hex digits are a digest")
    }

    /// What is hashed.
    pub fn canonical(&self) -> String {
        let mut text = "{".to_owned();
        for (key, value) in HASHED.iter().zip(self.hashed) {
            let Some(value) = value else { continue };
            if text.len() > 1 {
                text.push(',');
            }
            text.push('"');
            text.push_str(key);
            text.push_str("\":");
            write(&mut text, value, Numbers::ByValue);
        }
        text.push('}');
        text
    }

    /// Hints that are missing or unclear say nothing good.
    pub fn hints(&self) -> Hints {
        let known = ["readOnlyHint", "idempotentHint"];
        let found = self.annotations.map(|it| it.members(&known));
        let Some(Ok(found)) = found else { return Hints::default() };
        let [read_only, idempotent] = found.map(|hint| hint.is_some_and(|it| it.get() == "true"));
        Hints { read_only, idempotent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOL: &str = r#"{"name":"search","title":null,"description":"Finds é","inputSchema":{"type":"object",
        "properties":{"n":{"minimum":1}}},"_meta":{"a":1},"icons":[{"src":"x"}],"annotations":{"readOnlyHint":true}}"#;

    #[test]
    fn what_is_hashed_is_said_in_one_way() {
        let definition = Definition::read(TOOL).unwrap();
        assert_eq!(
            definition.canonical(),
            r#"{"annotations":{"readOnlyHint":true},"description":"Finds é","inputSchema":{"properties":{"n":{"minimum":1}},"type":"object"},"name":"search"}"#
        );
        assert_eq!(definition.hints(), Hints { read_only: true, idempotent: false });
        // Of the text above, as `sha256sum` has it.
        let expected = "sha256:9e7e4f198658ecf483abd3d4b332ceda2c0dc7523b166bea89418f0991a49722";
        assert_eq!(definition.digest().as_str(), expected);
    }

    #[test]
    fn what_means_the_same_has_the_same_digest() {
        let check = |other: &str, same: bool| {
            assert_eq!(digest(TOOL).unwrap() == digest(other).unwrap(), same, "{other}");
        };
        check(&TOOL.replace("\"minimum\":1", "\"minimum\" : 1.0"), true);
        check(&TOOL.replace("Finds é", "F\\u0069nds \\u00e9"), true);
        check(&TOOL.replace("\"src\":\"x\"", "\"src\":\"y\""), true);
        check(&TOOL.replace("\"title\":null,", ""), true);
        check(&TOOL.replace("\"minimum\":1", "\"minimum\":2"), false);
        check(&TOOL.replace("Finds é", "Finds e"), false);
        check(&TOOL.replace("\"title\":null", "\"title\":\"\""), false);
        check(&TOOL.replace("\"readOnlyHint\":true", "\"readOnlyHint\":false"), false);
        check(&TOOL.replace("search", "Search"), false);
    }

    #[test]
    fn a_definition_that_is_read_in_two_ways_has_no_digest() {
        for text in [
            r#"{"name":"a","name":"b"}"#,
            r#"{"name":"a","Description":"for readers that take it for the other"}"#,
            r#"{"description":"x"}"#,
            r#"{"name":5}"#,
            "[]",
            "{",
        ] {
            assert!(digest(text).is_err(), "{text}");
        }
        assert!(digest(&format!("{{\"name\":\"a\",\"inputSchema\":{}}}", "[".repeat(100))).is_err());
    }
}
