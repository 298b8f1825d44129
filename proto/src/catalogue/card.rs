//! Server cards (SEP-2127): what a server is and where it is reached, told before anybody connects. A card has no tools
//! and no capabilities, and nothing is decided by it.
//!
//! What the cards say is the server's own word, cut to what their form takes; so is what a registry says of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mcp::Revision;
use crate::name::ServerName;
use crate::offer::Introduction;
use crate::resource::kinds::Era;

/// The form that cards have.
pub const SCHEMA: &str = "https://static.modelcontextprotocol.io/schemas/v2/server-card.schema.json";
pub const MEDIA_TYPE: &str = "application/mcp-server-card+json";
/// Where the card of an endpoint is, after its path.
pub const SUFFIX: &str = "/server-card";
/// For how long a card may be kept.
pub const AGE_SECS_MAX: u32 = 3600;
/// Characters of texts, as the form has it.
const TEXT_CHARS_MAX: usize = 100;
const VERSION_BYTES_MAX: usize = 255;
/// Of a server that does not say which it is.
const VERSION_UNKNOWN: &str = "0.0.0";

/// A server card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerCard {
    #[serde(rename = "$schema")]
    pub schema: String,
    /// `<namespace>/<name>`
    pub name: String,
    pub version: String,
    pub description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    pub remotes: Vec<CardRemote>,
}

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CardRemote {
    /// `streamable-http`
    #[serde(rename = "type")]
    pub kind: String,
    pub url: String,
    /// Revisions of the protocol that are spoken there.
    pub supported_protocol_versions: Vec<String>,
}

/// What is told of a server, however it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub version: String,
    pub description: String,
    pub title: Option<String>,
}

impl About {
    /// By its own word, as far as there is one.
    pub fn of(server: &ServerName, said: Option<&Introduction>) -> Self {
        let info = said.and_then(|it| it.server_info.as_deref());
        let info: Value = info.and_then(|it| serde_json::from_str(it).ok()).unwrap_or_default();
        let told = |member: &str| info[member].as_str().and_then(line);
        let instructions = said.and_then(|it| it.instructions.as_deref()).and_then(line);
        let plain = || line(&format!("The server {server} of the mesh")).unwrap_or_default();
        let version = info["version"].as_str().filter(|it| is_version(it)).unwrap_or(VERSION_UNKNOWN);
        Self {
            version: version.to_owned(),
            description: told("description").or(instructions).unwrap_or_else(plain),
            title: told("title").or_else(|| told("name")),
        }
    }

    /// What is made of several.
    pub fn whole(version: &str, description: &str) -> Self {
        let plain = || "Servers of the mesh as one".to_owned();
        Self {
            version: version.to_owned(),
            description: line(description).unwrap_or_else(plain),
            title: None,
        }
    }

    /// The card of a server that is reached at `url`.
    pub fn card(self, name: &ServerName, url: String, eras: Option<&[Era]>) -> ServerCard {
        let spoken = Revision::ALL.into_iter().filter(|it| eras.is_none_or(|eras| eras.contains(&it.era())));
        ServerCard {
            schema: SCHEMA.to_owned(),
            name: name.to_string(),
            version: self.version,
            description: self.description,
            title: self.title,
            remotes: vec![CardRemote {
                kind: "streamable-http".to_owned(),
                url,
                supported_protocol_versions: spoken.map(|it| it.as_str().to_owned()).collect(),
            }],
        }
    }
}

/// The beginning of a text, if there is any.
fn line(text: &str) -> Option<String> {
    let line: String = text.trim().lines().next()?.chars().take(TEXT_CHARS_MAX).collect();
    (!line.is_empty()).then_some(line)
}

/// Whether the forms take it: one version, and no range of them.
fn is_version(text: &str) -> bool {
    let is_range =
        text.starts_with(['^', '~', '>', '<', '=']) || text.split('.').any(|it| it == "x" || it == "*");
    !text.is_empty()
        && text.len() <= VERSION_BYTES_MAX
        && !is_range
        && !text.contains(['/', ' '])
        && text != "latest"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_one() {
        for text in ["1.0.2", "2.1.0-alpha", "2026-01-01", "v3"] {
            assert!(is_version(text), "{text}");
        }
        for text in ["", "^1.2.3", "~1", ">=1.2", "1.x", "1.*", "latest", "a b", "a/b", &"1".repeat(256)] {
            assert!(!is_version(text), "{text}");
        }
    }

    #[test]
    fn a_text_is_one_line_of_the_length_that_the_forms_take() {
        assert_eq!(line(" Be brief.\nAlways. ").as_deref(), Some("Be brief."));
        assert_eq!(line(" \n "), None);
        assert_eq!(line(&"é".repeat(200)).unwrap().chars().count(), TEXT_CHARS_MAX);
    }

    #[test]
    fn a_server_that_says_nothing_of_itself_has_a_card_all_the_same() {
        let server: ServerName = "research/files".parse().unwrap();
        for info in [None, Some("nonsense"), Some("[]"), Some(r#"{"version":"1.x","title":" "}"#)] {
            let said = Introduction { server_info: info.map(Into::into), ..Introduction::default() };
            let about = About::of(&server, Some(&said));
            assert_eq!((&*about.version, about.title.as_deref()), ("0.0.0", None), "{info:?}");
            assert_eq!(about.description, "The server research/files of the mesh");
        }
    }

    #[test]
    fn a_card_names_the_revisions_of_the_eras_that_are_offered() {
        let server: ServerName = "research/files".parse().unwrap();
        let spoken = |eras: Option<&[Era]>| {
            let card = About::of(&server, None).card(&server, "http://x/mcp".to_owned(), eras);
            card.remotes[0].supported_protocol_versions.clone()
        };
        assert_eq!(spoken(Some(&[Era::Modern])), ["2026-07-28"]);
        assert_eq!(spoken(None).len(), Revision::ALL.len());
        assert!(!spoken(Some(&[Era::Legacy])).contains(&"2026-07-28".to_owned()));
    }
}
