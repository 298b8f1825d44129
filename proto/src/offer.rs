//! What a server offers: its tools, prompts, resources and templates as it defines them, and what it says of itself.
//!
//! An offer is what the server beside one or more sidecars was read to advertise. Not here: who may use what of it, and
//! by which name it is shown where servers stand side by side.

use std::ops::Range;
use std::sync::Arc;

use crate::mcp::lists::Listed;
use crate::mcp::{self, Raw, edit};
use crate::name::ServerName;
use crate::policy::tools::DEPTH_MAX;

/// Items of one offer.
pub const ITEMS_MAX: usize = 8192;
/// Bytes of one definition.
pub const DEFINITION_BYTES_MAX: usize = 256 << 10;
/// Bytes of all definitions of one offer.
pub const DEFINITIONS_BYTES_MAX: usize = 3 << 20;
/// Bytes of each thing that a server says of itself.
pub const INTRODUCTION_BYTES_MAX: usize = 64 << 10;

/// What a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub server: ServerName,
    pub introduction: Introduction,
    items: Vec<Arc<Offered>>,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduction {
    /// A JSON object; none if it was not read.
    pub capabilities: Option<Arc<str>>,
    /// A JSON object.
    pub server_info: Option<Arc<str>>,
    pub instructions: Option<Arc<str>>,
}

/// One thing that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    pub kind: Listed,
    /// By what it is called: a name, a URI or a URI template. It is what the definition says.
    pub name: Box<str>,
    /// A JSON object, as the server wrote it.
    pub definition: Arc<str>,
    /// What it says of itself, which need not be true.
    pub hints: Hints,
    /// Where in the definition its name stands.
    named_at: Range<usize>,
}

/// What a tool's annotations say that matters to whoever calls it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Calls change nothing.
    pub read_only: bool,
    /// To call twice is as to call once.
    pub idempotent: bool,
}

/// Why something cannot be part of an offer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the definition is longer than {DEFINITION_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the definition is no JSON that everyone reads alike: {0}")]
    Json(#[from] mcp::Error),
    #[error("the definition is no object, or has no name that everyone reads alike")]
    NoName,
    #[error("there are {0} items; at most {ITEMS_MAX} are allowed")]
    TooMany(usize),
    #[error("the definitions take {0} bytes; at most {DEFINITIONS_BYTES_MAX} are allowed")]
    TooMuch(usize),
    #[error("{0} is no JSON object of at most {INTRODUCTION_BYTES_MAX} bytes")]
    Introduction(&'static str),
}

impl Offered {
    pub fn parse(kind: Listed, definition: Arc<str>) -> Result<Self, Error> {
        if definition.len() > DEFINITION_BYTES_MAX {
            return Err(Error::TooLarge);
        }
        let raw = Raw::scan(&definition, DEPTH_MAX)?;
        let named = raw.is_object().then(|| raw.members(&[kind.key()]).ok()).flatten();
        let named = named.and_then(|[named]| named);
        let (name, at) = named.and_then(|it| Some((it.text()?, it.get()))).ok_or(Error::NoName)?;
        let (name, named_at) = (name.as_ref().into(), edit::span(definition.as_bytes(), at));
        let hints = Hints::read(raw);
        Ok(Self { kind, name, definition, hints, named_at })
    }

    /// Writes the definition under another name, and otherwise as it is.
    pub fn write_as(&self, name: &str, to: &mut String) {
        let Range { start, end } = self.named_at;
        to.push_str(&self.definition[..start]);
        to.push_str(&serde_json::Value::from(name).to_string());
        to.push_str(&self.definition[end..]);
    }
}

impl Hints {
    /// Only what is plainly `true` counts; where spellings differ, nothing does.
    fn read(definition: Raw<'_>) -> Self {
        let annotations = definition.members(&["annotations"]).ok().and_then(|[it]| it);
        let annotations = annotations.filter(|it| it.is_object());
        let said = annotations.and_then(|it| it.members(&["readOnlyHint", "idempotentHint"]).ok());
        let [read_only, idempotent] =
            said.unwrap_or_default().map(|hint| hint.is_some_and(|hint| hint.get() == "true"));
        Self { read_only, idempotent }
    }

    /// Whether a call may be made again, of which nobody knows how it ended.
    pub const fn may_repeat(self) -> bool {
        self.read_only || self.idempotent
    }
}

impl Introduction {
    /// Whether each part is what it should be.
    pub fn check(&self) -> Result<(), Error> {
        let Self { capabilities, server_info, instructions } = self;
        for (name, part) in [("capabilities", capabilities), ("serverInfo", server_info)] {
            let Some(part) = part else { continue };
            let is_object =
                part.len() <= INTRODUCTION_BYTES_MAX && Raw::scan(part, DEPTH_MAX).is_ok_and(Raw::is_object);
            if !is_object {
                return Err(Error::Introduction(name));
            }
        }
        match instructions {
            Some(text) if text.len() > INTRODUCTION_BYTES_MAX => Err(Error::Introduction("instructions")),
            Some(_) | None => Ok(()),
        }
    }
}

impl Offer {
    /// Of what is called twice, nobody could say which is meant: neither is offered.
    pub fn new(
        server: ServerName,
        introduction: Introduction,
        items: impl IntoIterator<Item = Arc<Offered>>,
    ) -> Result<Self, Error> {
        introduction.check()?;
        let mut items: Vec<_> = items.into_iter().collect();
        items.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        let is_same = |a: &Offered, b: &Offered| a.kind == b.kind && a.name == b.name;
        let items: Vec<_> = items
            .chunk_by(|a, b| is_same(a, b))
            .filter(|alike| alike.len() == 1)
            .flatten()
            .cloned()
            .collect();
        if items.len() > ITEMS_MAX {
            return Err(Error::TooMany(items.len()));
        }
        match items.iter().map(|item| item.definition.len()).sum() {
            ..=DEFINITIONS_BYTES_MAX => Ok(Self { server, introduction, items }),
            bytes => Err(Error::TooMuch(bytes)),
        }
    }

    /// In the order of kinds and names.
    pub fn items(&self) -> &[Arc<Offered>] {
        &self.items
    }

    /// Those of one kind.
    pub fn of(&self, kind: Listed) -> &[Arc<Offered>] {
        let from = self.items.partition_point(|item| item.kind < kind);
        let to = self.items.partition_point(|item| item.kind <= kind);
        &self.items[from..to]
    }

    pub fn find(&self, kind: Listed, name: &str) -> Option<&Arc<Offered>> {
        let of_kind = self.of(kind);
        of_kind.binary_search_by(|item| (*item.name).cmp(name)).ok().map(|at| &of_kind[at])
    }

    /// The same with only some of its items.
    #[must_use]
    pub fn only(&self, mut keep: impl FnMut(&Offered) -> bool) -> Self {
        let items = self.items.iter().filter(|item| keep(item)).cloned().collect();
        Self { server: self.server.clone(), introduction: self.introduction.clone(), items }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(kind: Listed, definition: &str) -> Arc<Offered> {
        Arc::new(Offered::parse(kind, definition.into()).unwrap())
    }

    fn offer(items: impl IntoIterator<Item = Arc<Offered>>) -> Result<Offer, Error> {
        Offer::new("a/b".parse().unwrap(), Introduction::default(), items)
    }

    #[test]
    fn each_kind_is_called_by_its_own_member() {
        let definition = r#"{"name":"n","uri":"u:1","uriTemplate":"u:{x}"}"#;
        let name = |kind| offered(kind, definition).name.to_string();
        assert_eq!(Listed::ALL.map(name), ["n", "n", "u:1", "u:{x}"]);
    }

    #[test]
    fn a_definition_is_written_under_another_name_and_otherwise_as_it_is() {
        let check = |kind, name: &str, expected: &str| {
            let item = offered(kind, r#"{ "x":{"name":1}, "n\u0061me" : "a\nb" ,"uri":"u:1","name2":"é" }"#);
            let mut written = String::new();
            item.write_as(name, &mut written);
            assert_eq!(written, expected);
        };
        check(Listed::Tool, "q", r#"{ "x":{"name":1}, "n\u0061me" : "q" ,"uri":"u:1","name2":"é" }"#);
        check(Listed::Resource, "\"", r#"{ "x":{"name":1}, "n\u0061me" : "a\nb" ,"uri":"\"","name2":"é" }"#);
    }

    #[test]
    fn a_hint_counts_where_it_is_plainly_true() {
        let check = |annotations: &str, expected: (bool, bool)| {
            let item = offered(Listed::Tool, &format!(r#"{{"name":"n","annotations":{annotations}}}"#));
            assert_eq!((item.hints.read_only, item.hints.idempotent), expected, "{annotations}");
            assert_eq!(item.hints.may_repeat(), expected != (false, false));
        };
        check(r#"{"readOnlyHint":true}"#, (true, false));
        check(r#"{"idempotentHint": true, "readOnlyHint":false}"#, (false, true));
        for nothing in ["{}", "null", "[true]", r#"{"readOnlyHint":"true"}"#, r#"{"readOnlyHint":1}"#] {
            check(nothing, (false, false));
        }
        check(r#"{"readOnlyHint":true,"ReadOnlyHint":false}"#, (false, false));
        assert_eq!(offered(Listed::Tool, r#"{"name":"n"}"#).hints, Hints::default());
    }

    #[test]
    fn what_some_would_call_otherwise_is_not_offered() {
        for definition in ["{}", "[]", "7", r#"{"name":1}"#, r#"{"name":"a","Name":"b"}"#] {
            assert_eq!(Offered::parse(Listed::Tool, definition.into()), Err(Error::NoName), "{definition}");
        }
        for definition in ["{", r#"{"name":"a","name":"b"}"#] {
            assert!(
                matches!(Offered::parse(Listed::Tool, definition.into()), Err(Error::Json(_))),
                "{definition}"
            );
        }
        let long = format!(r#"{{"name":"{}"}}"#, "n".repeat(DEFINITION_BYTES_MAX));
        assert_eq!(Offered::parse(Listed::Tool, long.into()), Err(Error::TooLarge));
    }

    #[test]
    fn items_are_found_by_kind_and_name_and_what_is_called_twice_is_not_there() {
        let offer = offer([
            offered(Listed::Prompt, r#"{"name":"a"}"#),
            offered(Listed::Tool, r#"{"name":"c"}"#),
            offered(Listed::Tool, r#"{"name":"a"}"#),
            offered(Listed::Tool, r#"{"name":"b","x":1}"#),
            offered(Listed::Tool, r#"{"name":"b","x":2}"#),
        ])
        .unwrap();
        let names = |kind| offer.of(kind).iter().map(|item| &*item.name).collect::<Vec<_>>();
        assert_eq!(names(Listed::Tool), ["a", "c"]);
        assert_eq!(names(Listed::Prompt), ["a"]);
        assert_eq!(names(Listed::Resource), [""; 0]);
        assert!(offer.find(Listed::Tool, "c").is_some());
        assert!(offer.find(Listed::Prompt, "c").is_none());
        assert_eq!(offer.only(|item| &*item.name == "a").items().len(), 2);
    }

    #[test]
    fn an_offer_is_bounded() {
        let many = (0..=ITEMS_MAX).map(|n| offered(Listed::Tool, &format!(r#"{{"name":"{n}"}}"#)));
        assert_eq!(offer(many), Err(Error::TooMany(ITEMS_MAX + 1)));
        let half = "x".repeat(DEFINITION_BYTES_MAX - 100);
        let large = (0..20).map(|n| offered(Listed::Tool, &format!(r#"{{"name":"{n}","x":"{half}"}}"#)));
        assert!(matches!(offer(large), Err(Error::TooMuch(_))));
        let odd = Introduction { capabilities: Some("[]".into()), ..Introduction::default() };
        assert_eq!(odd.check(), Err(Error::Introduction("capabilities")));
        let long = Introduction {
            instructions: Some("x".repeat(INTRODUCTION_BYTES_MAX + 1).into()),
            ..Introduction::default()
        };
        assert_eq!(long.check(), Err(Error::Introduction("instructions")));
    }
}
