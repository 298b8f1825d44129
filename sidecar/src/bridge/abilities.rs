//! What a caller can be asked for while its request waits. Both eras say it in the same words, and at different times.

use serde::Deserialize;
use serde::de::IgnoredAny;
use weft_proto::mcp::{Raw, method};

/// What of a caller's capabilities a server may make use of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is declared by itself")]
pub struct Abilities {
    /// To fill in a form.
    pub form: bool,
    /// To send somebody to an address.
    pub url: bool,
    pub sampling: bool,
    /// To let the model use tools while it is at it.
    pub sampling_tools: bool,
    pub sampling_context: bool,
    pub roots: bool,
}

#[derive(Default, Deserialize)]
struct Capabilities {
    elicitation: Option<Elicitation>,
    sampling: Option<Sampling>,
    roots: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Elicitation {
    form: Option<IgnoredAny>,
    url: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Sampling {
    tools: Option<IgnoredAny>,
    context: Option<IgnoredAny>,
}

impl Abilities {
    /// As a client declares them. What cannot be read is nothing that can be relied on.
    pub fn of(capabilities: Option<Raw<'_>>) -> Self {
        let read = |raw: Raw<'_>| serde_json::from_str::<Capabilities>(raw.get()).ok();
        let Capabilities { elicitation, sampling, roots } = capabilities.and_then(read).unwrap_or_default();
        // Before there were two ways to ask, there was the form.
        let form = |it: &Elicitation| it.form.is_some() || it.url.is_none();
        Self {
            form: elicitation.as_ref().is_some_and(form),
            url: elicitation.is_some_and(|it| it.url.is_some()),
            sampling: sampling.is_some(),
            sampling_tools: sampling.as_ref().is_some_and(|it| it.tools.is_some()),
            sampling_context: sampling.is_some_and(|it| it.context.is_some()),
            roots: roots.is_some(),
        }
    }

    /// In as many characters as it takes to write them into an id.
    pub fn code(self) -> String {
        let all =
            [self.form, self.url, self.sampling, self.sampling_tools, self.sampling_context, self.roots];
        format!("{:02x}", all.into_iter().fold(0, |code: u8, has| code << 1 | u8::from(has)))
    }

    /// Those of a code.
    pub fn decoded(code: &str) -> Option<Self> {
        let code = u8::from_str_radix(code, 16).ok().filter(|code| *code < 1 << 6)?;
        let has = |at: u32| code >> (5 - at) & 1 == 1;
        Some(Self {
            form: has(0),
            url: has(1),
            sampling: has(2),
            sampling_tools: has(3),
            sampling_context: has(4),
            roots: has(5),
        })
    }

    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// Whether this can be asked for, by the method with which it is asked and its parameters.
    pub fn has(self, method: &str, params: Option<&str>) -> bool {
        #[derive(Deserialize)]
        struct Asked {
            mode: Option<String>,
        }
        let by_address = || {
            let asked = params.and_then(|params| serde_json::from_str::<Asked>(params).ok());
            asked.and_then(|asked| asked.mode).is_some_and(|mode| mode == "url")
        };
        match method {
            method::ELICITATION_CREATE if by_address() => self.url,
            method::ELICITATION_CREATE => self.form,
            method::SAMPLING_CREATE_MESSAGE => self.sampling,
            method::ROOTS_LIST => self.roots,
            _ => false,
        }
    }

    /// As JSON, for a server of either era. A server is not told of changes of roots, which nobody could pass on.
    pub fn declared(self) -> String {
        let mut members = Vec::new();
        let inner = |parts: &[(bool, &str)]| {
            let said: Vec<_> =
                parts.iter().filter(|(has, _)| *has).map(|(_, name)| format!("\"{name}\":{{}}")).collect();
            said.join(",")
        };
        match (self.form, self.url) {
            (false, false) => {}
            // What servers of 2025-06-18 understand too.
            (true, false) => members.push("\"elicitation\":{}".to_owned()),
            (form, url) => {
                members.push(format!("\"elicitation\":{{{}}}", inner(&[(form, "form"), (url, "url")])));
            }
        }
        if self.sampling {
            let parts = [(self.sampling_tools, "tools"), (self.sampling_context, "context")];
            members.push(format!("\"sampling\":{{{}}}", inner(&parts)));
        }
        if self.roots {
            members.push("\"roots\":{}".to_owned());
        }
        format!("{{{}}}", members.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities(json: &str) -> Abilities {
        Abilities::of(Some(Raw::scan(json, 16).unwrap()))
    }

    #[test]
    fn what_is_declared_is_read_as_it_was_meant() {
        for json in [
            "{}",
            r#"{"elicitation":{}}"#,
            r#"{"elicitation":{"url":{}}}"#,
            r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{},"context":{}},"roots":{}}"#,
            r#"{"sampling":{}}"#,
        ] {
            assert_eq!(abilities(json).declared(), json);
            assert_eq!(abilities(json).any(), json != "{}");
            assert_eq!(Abilities::decoded(&abilities(json).code()), Some(abilities(json)));
        }
        assert_eq!(abilities(r#"{"elicitation":{"form":{}}}"#).declared(), r#"{"elicitation":{}}"#);
        assert_eq!(abilities(r#"{"roots":{"listChanged":true},"tasks":{}}"#).declared(), r#"{"roots":{}}"#);
        assert!(!abilities(r#"{"sampling":true}"#).any());
        assert!(!abilities(r#"{"sampling":null}"#).any());
        for none in ["", "zz", "40", "-1"] {
            assert_eq!(Abilities::decoded(none), None, "{none}");
        }
    }

    #[test]
    fn what_was_not_declared_cannot_be_asked_for() {
        let form = abilities(r#"{"elicitation":{}}"#);
        assert!(form.has("elicitation/create", Some(r#"{"message":"?","requestedSchema":{}}"#)));
        assert!(form.has("elicitation/create", Some(r#"{"mode":"form"}"#)));
        assert!(!form.has("elicitation/create", Some(r#"{"mode":"url","url":"https://a"}"#)));
        assert!(!form.has("sampling/createMessage", None) && !form.has("roots/list", None));
        let url = abilities(r#"{"elicitation":{"url":{}},"roots":{}}"#);
        assert!(url.has("elicitation/create", Some(r#"{"mode":"url"}"#)) && url.has("roots/list", None));
        assert!(!url.has("elicitation/create", Some(r#"{"message":"?"}"#)));
        assert!(!url.has("tools/call", None));
    }
}
