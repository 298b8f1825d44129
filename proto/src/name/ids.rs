//! The names of objects, workloads and MCP items.

use std::fmt;
use std::str::FromStr;

use super::{Error, check_characters, serde_as_text, text_name};

const LABEL: &str = "lower-case letters, digits and '-', starting and ending with a letter or digit";
const SUBDOMAIN: &str = "lower-case letters, digits, '-' and '.', starting and ending with a letter or digit";
const ITEM: &str = "printable characters without spaces at its ends";

text_name!(
    /// A namespace, which is a tenant: a DNS label.
    Namespace,
    pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
    max = 63,
    parse = parse_namespace
);

text_name!(
    /// The name of an object within its namespace and kind: a DNS subdomain.
    ObjectName,
    pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    max = 253,
    parse = parse_object_name
);

text_name!(
    /// A workload's account within its namespace: a DNS subdomain.
    ServiceAccount,
    pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    max = 253,
    parse = parse_service_account
);

text_name!(
    /// The key of a label or annotation: an optional DNS prefix, a slash, and a name.
    LabelKey,
    pattern = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
    max = 317,
    parse = parse_label_key
);

text_name!(
    /// The value of a label; may be empty.
    LabelValue,
    pattern = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
    max = 63,
    parse = parse_label_value
);

text_name!(
    /// The name of a tool as its server advertises it.
    ToolName,
    pattern = "^[^\\s](.*[^\\s])?$",
    max = 256,
    parse = parse_tool_name
);

text_name!(
    /// The name of a prompt as its server advertises it.
    PromptName,
    pattern = "^[^\\s](.*[^\\s])?$",
    max = 256,
    parse = parse_prompt_name
);

text_name!(
    /// A JSON-RPC method, such as `tools/call`.
    MethodName,
    pattern = "^[A-Za-z$][A-Za-z0-9_$./-]*$",
    max = 128,
    parse = parse_method_name
);

text_name!(
    /// What a sidecar calls itself on the xDS stream: `<namespace>/<instance>`.
    NodeId,
    pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.:]*[A-Za-z0-9])?$",
    max = 317,
    parse = parse_node_id
);

text_name!(
    /// The name of an environment variable.
    EnvName,
    pattern = "^[A-Za-z_][A-Za-z0-9_]*$",
    max = 256,
    parse = parse_env_name
);

text_name!(
    /// The value of an environment variable; may be empty.
    EnvValue,
    pattern = "^[^\\x00]*$",
    max = 32768,
    parse = parse_env_value
);

impl NodeId {
    /// The namespace that the node claims; it must be the one in its certificate.
    pub fn namespace(&self) -> &str {
        self.as_str().split_once('/').map_or("", |(namespace, _)| namespace)
    }
}

/// A logical MCP server: `<namespace>/<name>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName {
    pub namespace: Namespace,
    pub name: ObjectName,
}

impl ServerName {
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (namespace, name) = text.split_once('/').ok_or(Error::Form {
            what: "server name",
            problem: "has no slash",
            expected: "<namespace>/<name>",
        })?;
        Ok(Self { namespace: Namespace::parse(namespace)?, name: ObjectName::parse(name)? })
    }
}

impl FromStr for ServerName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

serde_as_text!(ServerName, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 317);

fn lower_alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Labels and subdomains may carry their extra characters only between letters and digits.
fn check_ends(
    what: &'static str,
    text: &str,
    expected: &'static str,
    allowed: impl Fn(char) -> bool,
) -> Result<(), Error> {
    let at = [0, text.len() - text.chars().next_back().map_or(0, char::len_utf8)];
    for at in at {
        if let Some(found) = text[at..].chars().next().filter(|c| !allowed(*c)) {
            return Err(Error::Character { what, found, at, expected });
        }
    }
    Ok(())
}

fn parse_dns_label(what: &'static str, text: &str, max: usize) -> Result<String, Error> {
    check_characters(what, text, max, LABEL, |c| lower_alphanumeric(c) || c == '-')?;
    check_ends(what, text, LABEL, lower_alphanumeric)?;
    Ok(text.to_owned())
}

fn parse_dns_subdomain(what: &'static str, text: &str) -> Result<String, Error> {
    check_characters(what, text, 253, SUBDOMAIN, |c| lower_alphanumeric(c) || matches!(c, '-' | '.'))?;
    check_ends(what, text, SUBDOMAIN, lower_alphanumeric)?;
    if text.contains("..") {
        return Err(Error::Form { what, problem: "has two dots in a row", expected: SUBDOMAIN });
    }
    Ok(text.to_owned())
}

fn parse_namespace(text: &str) -> Result<String, Error> {
    parse_dns_label("namespace", text, Namespace::LEN_BYTES_MAX)
}

fn parse_object_name(text: &str) -> Result<String, Error> {
    parse_dns_subdomain("name", text)
}

fn parse_service_account(text: &str) -> Result<String, Error> {
    parse_dns_subdomain("service account", text)
}

fn check_label_text(what: &'static str, text: &str, max: usize) -> Result<(), Error> {
    const EXPECTED: &str = "letters, digits, '-', '_' and '.', starting and ending with a letter or digit";
    check_characters(what, text, max, EXPECTED, |c| {
        c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
    })?;
    check_ends(what, text, EXPECTED, |c| c.is_ascii_alphanumeric())
}

fn parse_label_key(text: &str) -> Result<String, Error> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            parse_dns_subdomain("label prefix", prefix)?;
            name
        }
        None => text,
    };
    check_label_text("label key", name, 63)?;
    Ok(text.to_owned())
}

fn parse_label_value(text: &str) -> Result<String, Error> {
    if !text.is_empty() {
        check_label_text("label value", text, LabelValue::LEN_BYTES_MAX)?;
    }
    Ok(text.to_owned())
}

/// Servers in the field use names outside the recommended alphabet, so only what could deceive a reader or a log is
/// refused: control characters, and white space at the ends.
fn parse_item(what: &'static str, text: &str, max: usize) -> Result<String, Error> {
    check_characters(what, text, max, ITEM, |c| !c.is_control())?;
    check_ends(what, text, ITEM, |c| !c.is_whitespace())?;
    Ok(text.to_owned())
}

fn parse_tool_name(text: &str) -> Result<String, Error> {
    parse_item("tool name", text, ToolName::LEN_BYTES_MAX)
}

fn parse_prompt_name(text: &str) -> Result<String, Error> {
    parse_item("prompt name", text, PromptName::LEN_BYTES_MAX)
}

fn parse_method_name(text: &str) -> Result<String, Error> {
    const EXPECTED: &str = "letters, digits and '_', '$', '.', '/', '-', starting with a letter or '$'";
    let what = "method";
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.' | '/' | '-');
    check_characters(what, text, MethodName::LEN_BYTES_MAX, EXPECTED, allowed)?;
    match text.chars().next().filter(|c| !c.is_ascii_alphabetic() && *c != '$') {
        Some(found) => Err(Error::Character { what, found, at: 0, expected: EXPECTED }),
        None => Ok(text.to_owned()),
    }
}

fn parse_env_name(text: &str) -> Result<String, Error> {
    const EXPECTED: &str = "letters, digits and '_', not starting with a digit";
    let what = "environment variable";
    check_characters(what, text, EnvName::LEN_BYTES_MAX, EXPECTED, |c| {
        c.is_ascii_alphanumeric() || c == '_'
    })?;
    match text.chars().next().filter(char::is_ascii_digit) {
        Some(found) => Err(Error::Character { what, found, at: 0, expected: EXPECTED }),
        None => Ok(text.to_owned()),
    }
}

fn parse_env_value(text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let what = "value of an environment variable";
    check_characters(what, text, EnvValue::LEN_BYTES_MAX, "anything but NUL", |c| c != '\0')?;
    Ok(text.to_owned())
}

fn parse_node_id(text: &str) -> Result<String, Error> {
    const EXPECTED: &str = "<namespace>/<instance>";
    let what = "node id";
    let (namespace, instance) =
        text.split_once('/').ok_or(Error::Form { what, problem: "has no slash", expected: EXPECTED })?;
    parse_namespace(namespace)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    check_characters(what, instance, 253, "letters, digits, '-', '_', '.' and ':'", allowed)?;
    check_ends(what, instance, "a letter or digit at both ends", |c| c.is_ascii_alphanumeric())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_kubernetes_takes_are_taken() {
        for text in ["a", "research", "a-b", "0", "team-1"] {
            assert!(Namespace::parse(text).is_ok(), "{text}");
            assert!(ObjectName::parse(text).is_ok(), "{text}");
        }
        assert!(ObjectName::parse("a.b").is_ok());
        assert!(LabelKey::parse("weft.dev/inject").is_ok());
        assert!(LabelKey::parse("app").is_ok());
        assert!(LabelValue::parse("").is_ok());
        assert!(NodeId::parse("research/files-7d9c.1").is_ok());
        assert!(ToolName::parse("search files, please").is_ok());
        assert!(MethodName::parse("notifications/tools/list_changed").is_ok());
    }

    #[test]
    fn names_that_kubernetes_refuses_are_refused() {
        for text in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "a b", "ä", &"a".repeat(64)] {
            assert!(Namespace::parse(text).is_err(), "{text}");
        }
        for text in ["", ".a", "a.", "a..b", "A", "a/b", &"a".repeat(254)] {
            assert!(ObjectName::parse(text).is_err(), "{text}");
        }
        for text in ["", "/a", "a/", "-a/b", "a/b/c", "a/-b", "A/b"] {
            assert!(LabelKey::parse(text).is_err(), "{text}");
        }
        for text in ["", "a", "a/", "/a", "a/b/c", "A/b", "a/b\n"] {
            assert!(NodeId::parse(text).is_err(), "{text}");
        }
        for text in ["", " a", "a ", "a\nb", "a\0", &"a".repeat(257)] {
            assert!(ToolName::parse(text).is_err(), "{text:?}");
        }
        for text in ["", "1a", "a b", "a\n"] {
            assert!(MethodName::parse(text).is_err(), "{text:?}");
        }
        for text in ["", "1A", "A=B", "A B", "A\0", "Ä"] {
            assert!(EnvName::parse(text).is_err(), "{text:?}");
        }
        assert!(EnvValue::parse("").is_ok() && EnvValue::parse("a=b\nc").is_ok());
        assert!(EnvValue::parse("a\0b").is_err());
    }

    #[test]
    fn a_refusal_names_the_character_and_its_place() {
        let error = Namespace::parse("team_a").unwrap_err();
        assert_eq!(
            error.to_string(),
            "namespace contains '_' at byte 4; expected lower-case letters, digits and '-', starting and ending with \
             a letter or digit"
        );
    }

    proptest! {
        #[test]
        fn no_parser_panics_and_every_name_prints_as_it_was_read(text in "\\PC{0,40}") {
            macro_rules! check { ($($name:ident)*) => {$(
                if let Ok(name) = $name::parse(&text) {
                    prop_assert_eq!(name.to_string(), text.clone());
                }
            )*} }
            check!(Namespace ObjectName ServiceAccount LabelKey LabelValue ToolName PromptName MethodName NodeId);
            if let Ok(name) = ServerName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
