//! A call as commands that ask about one take it.

use std::str::FromStr;

use clap::{ArgGroup, Args};
use weft_proto::name::ServerName;

use crate::failure::Failure;

/// What is called. At most one of the first four is given.
#[derive(Clone, Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("called").args(["tool", "prompt", "resource", "of"]).multiple(false))]
pub(crate) struct CallArgs {
    /// A tool, as <namespace>/<server>/<tool>
    #[arg(long, value_name = "TOOL")]
    pub(crate) tool: Option<Named>,
    /// A prompt, as <namespace>/<server>/<prompt>
    #[arg(long, value_name = "PROMPT")]
    pub(crate) prompt: Option<Named>,
    /// A resource, as <namespace>/<server>/<URI>
    #[arg(long, value_name = "RESOURCE")]
    pub(crate) resource: Option<Named>,
    /// A server as a whole, as <namespace>/<server>; say with --method what is asked of it
    #[arg(long, value_name = "SERVER", requires = "method")]
    pub(crate) of: Option<ServerName>,
    /// The method, where it is not tools/call, prompts/get or resources/read
    #[arg(long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
}

/// Something of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) server: ServerName,
    pub(crate) name: String,
}

impl FromStr for Named {
    type Err = String;

    /// What comes after the server's name may have slashes of its own.
    fn from_str(text: &str) -> Result<Self, String> {
        let second = text.match_indices('/').nth(1).map(|(at, _)| at);
        let parts = second.map(|at| (&text[..at], &text[at + 1..])).filter(|(_, name)| !name.is_empty());
        let (server, name) = parts.ok_or("expected <namespace>/<server>/<name>")?;
        let server = server.parse().map_err(|error: weft_proto::name::Error| error.to_string())?;
        Ok(Self { server, name: name.to_owned() })
    }
}

impl CallArgs {
    /// The fields of a question, by the names that the API has for them.
    pub(crate) fn fields(&self) -> Result<Vec<(&'static str, String)>, Failure> {
        let mut fields = Vec::new();
        for (field, named) in [("tool", &self.tool), ("prompt", &self.prompt), ("resource", &self.resource)] {
            if let Some(Named { server, name }) = named {
                fields.push(("server", server.to_string()));
                fields.push((field, name.clone()));
            }
        }
        fields.extend(self.of.iter().map(|server| ("server", server.to_string())));
        if fields.is_empty() {
            let what = "say what is called, such as --tool research/files/read_file";
            return Err(Failure::usage(what));
        }
        fields.extend(self.method.iter().map(|method| ("method", method.clone())));
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_slashes_of_its_own() {
        let named: Named = "research/files/file:///a/b".parse().unwrap();
        assert_eq!(
            (named.server.to_string().as_str(), named.name.as_str()),
            ("research/files", "file:///a/b")
        );
        for wrong in ["", "files", "research/files", "research/files/", "Research/files/x", "//x"] {
            assert!(wrong.parse::<Named>().is_err(), "{wrong}");
        }
    }
}
