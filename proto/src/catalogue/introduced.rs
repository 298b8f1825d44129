//! What a server says of itself, as it answers to `initialize` or `server/discover`.

use std::sync::Arc;

use crate::mcp::Raw;
use crate::mcp::lists::Listed;
use crate::offer::{INTRODUCTION_BYTES_MAX, Introduction};

/// Revisions that a server may say it speaks; further ones are not told.
pub const REVISIONS_MAX: usize = 32;
/// Bytes of the name of one.
pub const REVISION_BYTES_MAX: usize = 64;
/// Where the modern era has the name and version of the server.
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// See the module. Nothing of it is certain: it is the server's own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduced {
    pub said: Introduction,
    pub revisions: Vec<String>,
    /// Whether it has tools, prompts, and resources; none if it does not say what it can do.
    announced: Option<[bool; 3]>,
}

impl Introduced {
    /// Reads what was answered; or says why it can be read in two ways.
    pub fn read(result: Raw<'_>) -> Result<Self, String> {
        let known =
            ["capabilities", "serverInfo", "instructions", "_meta", "supportedVersions", "protocolVersion"];
        let [capabilities, info, instructions, meta, supported, revision] = result.members(&known)?;
        let in_meta = || meta?.members(&[SERVER_INFO]).ok()?[0];
        let capabilities = capabilities.filter(|it| it.is_object());
        let announced = capabilities.and_then(|it| {
            let found = it.members(&["tools", "prompts", "resources"]).ok()?;
            Some(found.map(|it| it.is_some_and(Raw::is_object)))
        });
        let supported = supported.filter(|it| it.get().starts_with('['));
        let revisions = supported.into_iter().flat_map(|list| list.parts().map(|(_, it)| it)).chain(revision);
        let revisions = revisions.filter_map(|it| Some(it.text()?.into_owned()));
        let instructions = instructions.and_then(Raw::text);
        Ok(Self {
            said: Introduction {
                capabilities: bounded(capabilities.map(Raw::get)),
                server_info: bounded(info.or_else(in_meta).filter(|it| it.is_object()).map(Raw::get)),
                instructions: bounded(instructions.as_deref()),
            },
            revisions: revisions.filter(|it| it.len() <= REVISION_BYTES_MAX).take(REVISIONS_MAX).collect(),
            announced,
        })
    }

    /// Whether it says that it has any of a kind; of one that says nothing nobody knows.
    pub fn announces(&self, listed: Listed) -> bool {
        let Some([tools, prompts, resources]) = self.announced else { return true };
        match listed {
            Listed::Tool => tools,
            Listed::Prompt => prompts,
            Listed::Resource | Listed::ResourceTemplate => resources,
        }
    }
}

/// What is too long to be told is not.
fn bounded(text: Option<&str>) -> Option<Arc<str>> {
    text.filter(|it| it.len() <= INTRODUCTION_BYTES_MAX).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Introduced {
        Introduced::read(Raw::scan(json, 32).unwrap()).unwrap()
    }

    #[test]
    fn either_era_says_the_same_in_its_own_way() {
        let legacy = read(
            r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":null},"serverInfo":{"name":"a"},
                "instructions":"Be nice."}"#,
        );
        let modern = read(
            r#"{"supportedVersions":["2025-11-25"],"capabilities":{"tools":{},"prompts":null},"instructions":"Be nice.",
                "_meta":{"io.modelcontextprotocol/serverInfo":{"name":"a"}}}"#,
        );
        assert_eq!(legacy, modern);
        assert_eq!(legacy.revisions, ["2025-11-25"]);
        assert_eq!(legacy.said.server_info.as_deref(), Some(r#"{"name":"a"}"#));
        assert_eq!(Listed::ALL.map(|listed| legacy.announces(listed)), [true, false, false, false]);
    }

    #[test]
    fn of_a_server_that_says_nothing_everything_is_asked_and_what_is_too_long_is_not_told() {
        assert_eq!(Listed::ALL.map(|listed| read("{}").announces(listed)), [true; 4]);
        let long = "x".repeat(INTRODUCTION_BYTES_MAX + 1);
        let said = read(&format!(
            r#"{{"instructions":"{long}","capabilities":[],"supportedVersions":[1,"{long}"]}}"#
        ));
        assert_eq!(said, Introduced::default());
        assert!(
            Introduced::read(Raw::scan(r#"{"instructions":"a","Instructions":"b"}"#, 8).unwrap()).is_err()
        );
    }
}
