//! The lists that a server answers with, without what a caller shall not see.
//!
//! A list is known by what it is, not by what was asked: by some transports an answer comes on another stream than its
//! request. Not here: who may see what.

use std::borrow::Cow;

use super::{Body, Bounds, Error, Message, Outcome, Raw, Response, parse, span, splice};

/// What a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listed {
    Tool,
    Prompt,
    Resource,
    ResourceTemplate,
}

/// One item of a list.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    pub listed: Listed,
    /// By what it is called: a name, a URI or a URI template.
    pub name: Cow<'a, str>,
    /// The whole definition.
    pub raw: Raw<'a>,
}

const MEMBERS: [&str; 5] = [
    Listed::Tool.member(),
    Listed::Prompt.member(),
    Listed::Resource.member(),
    Listed::ResourceTemplate.member(),
    "cacheScope",
];
const ONLY_FOR_THE_CALLER: &str = "\"private\"";

impl Listed {
    pub const ALL: [Self; 4] = [Self::Tool, Self::Prompt, Self::Resource, Self::ResourceTemplate];

    /// What the results of a method list, if they do.
    pub fn by(method: &str) -> Option<Self> {
        use super::method as known;
        Some(match method {
            known::TOOLS_LIST => Self::Tool,
            known::PROMPTS_LIST => Self::Prompt,
            known::RESOURCES_LIST => Self::Resource,
            known::RESOURCES_TEMPLATES_LIST => Self::ResourceTemplate,
            _ => return None,
        })
    }

    /// The member of a result that holds the list.
    pub const fn member(self) -> &'static str {
        match self {
            Self::Tool => "tools",
            Self::Prompt => "prompts",
            Self::Resource => "resources",
            Self::ResourceTemplate => "resourceTemplates",
        }
    }

    /// The member by which an item is called.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Tool | Self::Prompt => "name",
            Self::Resource => "uri",
            Self::ResourceTemplate => "uriTemplate",
        }
    }
}

/// A message, or several in an array, with its lists cut down to what may be shown; none where that changes nothing.
/// Items keep their order, and everything else its bytes. What is called by no name is shown to nobody.
///
/// With `private`, a list that says that anyone may be given it again says that only the caller may.
pub fn cut(
    message: &[u8],
    bounds: Bounds,
    private: bool,
    mut may_show: impl FnMut(&Item<'_>) -> bool,
) -> Result<Option<Vec<u8>>, Error> {
    let mut edits = Vec::new();
    let mut each = |message_of: &Message<'_>| match message_of {
        Message::Response(Response { outcome: Outcome::Result(result), .. }) => {
            cut_result(message, *result, private, &mut may_show, &mut edits)
        }
        Message::Response(_) | Message::Request(_) | Message::Notification(_) => Ok(()),
    };
    match parse(message, bounds) {
        Ok(Body::One(one)) => each(&one)?,
        Ok(Body::Batch(several)) => several.iter().try_for_each(each)?,
        // Whatever it wants to say, it is no answer.
        Err(Error::BadParams { .. }) if message.trim_ascii_start().starts_with(b"{") => {}
        Err(error) => return Err(error),
    }
    Ok((!edits.is_empty()).then(|| splice(message, edits)))
}

type Edits = Vec<(std::ops::Range<usize>, Vec<u8>)>;

fn cut_result(
    message: &[u8],
    result: Raw<'_>,
    private: bool,
    may_show: &mut impl FnMut(&Item<'_>) -> bool,
    edits: &mut Edits,
) -> Result<(), Error> {
    // A reader that takes another spelling for one of these would see what was not cut.
    let ambiguous =
        |what: String| Error::NotAMessage { at: span(message, result.get()).start, what: what.into() };
    let [tools, prompts, resources, templates, scope] = result.members(&MEMBERS).map_err(ambiguous)?;
    let lists = [
        (Listed::Tool, tools),
        (Listed::Prompt, prompts),
        (Listed::Resource, resources),
        (Listed::ResourceTemplate, templates),
    ];
    let mut is_list = false;
    for (listed, list) in lists {
        let Some((list, items)) = list.and_then(|list| Some((list, list.elements()?))) else { continue };
        is_list = true;
        let shown: Vec<&str> = items
            .iter()
            .filter(|raw| item(listed, **raw).is_some_and(|item| may_show(&item)))
            .map(|raw| raw.get())
            .collect();
        if shown.len() < items.len() {
            edits.push((span(message, list.get()), format!("[{}]", shown.join(",")).into()));
        }
    }
    if let Some(scope) = scope.filter(|scope| is_list && private && scope.get() != ONLY_FOR_THE_CALLER) {
        edits.push((span(message, scope.get()), ONLY_FOR_THE_CALLER.into()));
    }
    Ok(())
}

/// None for what some readers would call by another name than others, and for what has none.
fn item(listed: Listed, raw: Raw<'_>) -> Option<Item<'_>> {
    let [name] = raw.members(&[listed.key()]).ok()?;
    Some(Item { listed, name: name?.text()?, raw })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const BOUNDS: Bounds = Bounds { depth_max: 32, batch_max: 8 };

    /// Everything called `b…` is hidden.
    fn cut_down(message: &str) -> Option<String> {
        let cut = cut(message.as_bytes(), BOUNDS, true, |item| !item.name.starts_with('b')).unwrap();
        cut.map(|cut| String::from_utf8(cut).unwrap())
    }

    #[track_caller]
    fn check(result: &str, expected: Option<&str>) {
        let message = |result: &str| format!(r#" {{"jsonrpc":"2.0","id":1,"result":{result}}} "#);
        assert_eq!(cut_down(&message(result)), expected.map(message), "{result}");
    }

    #[test]
    fn what_may_not_be_shown_is_left_out_and_all_else_keeps_its_bytes() {
        check(
            r#"{ "tools" : [ {"name":"a"} , {"name":"b", "x":[1]},{ "name":"c" }], "nextCursor":"b"}"#,
            Some(r#"{ "tools" : [{"name":"a"},{ "name":"c" }], "nextCursor":"b"}"#),
        );
        check(r#"{"prompts":[{"name":"b"}]}"#, Some(r#"{"prompts":[]}"#));
        check(
            r#"{"resources":[{"uri":"b:1","name":"a"},{"uri":"a:1","name":"b"}]}"#,
            Some(r#"{"resources":[{"uri":"a:1","name":"b"}]}"#),
        );
        check(r#"{"resourceTemplates":[{"uriTemplate":"b:{x}"}]}"#, Some(r#"{"resourceTemplates":[]}"#));
        check(r#"{"tools":[{"name":"a"}],"nextCursor":"x"}"#, None);
        check(r#"{"tools":[]}"#, None);
    }

    #[test]
    fn names_are_read_as_a_caller_reads_them() {
        check(r#"{"tools":[{"name":"\u0062ad"}]}"#, Some(r#"{"tools":[]}"#));
        check(r#"{"\u0074ools":[{"n\u0061me":"bad"}]}"#, Some(r#"{"\u0074ools":[]}"#));
        check(r#"{"tools":[{},{"name":1},{"name":"a","Name":"b"},7]}"#, Some(r#"{"tools":[]}"#));
    }

    #[test]
    fn a_list_that_some_reader_could_find_elsewhere_is_an_error() {
        for result in [r#"{"tools":[],"Tools":[{"name":"b"}]}"#, r#"{"tools":[],"tools":[{"name":"b"}]}"#] {
            let message = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
            cut(message.as_bytes(), BOUNDS, true, |_| true).unwrap_err();
        }
    }

    #[test]
    fn lists_are_for_their_caller_alone() {
        check(r#"{"tools":[],"cacheScope":"public"}"#, Some(r#"{"tools":[],"cacheScope":"private"}"#));
        check(r#"{"tools":[],"cacheScope":"private"}"#, None);
        check(r#"{"contents":[],"cacheScope":"public"}"#, None);
        let public = br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"cacheScope":"public"}}"#;
        assert_eq!(cut(public, BOUNDS, false, |_| true).unwrap(), None);
    }

    #[test]
    fn other_messages_stay_as_they_are() {
        for message in [
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x","data":{"tools":[{"name":"b"}]}}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"tools":[{"name":"b"}]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"tools":[{"name":"b"}]}]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":{"name":"b"}}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":{}}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":7}"#,
        ] {
            assert_eq!(cut_down(message), None);
        }
        cut(b"{}", BOUNDS, true, |_| true).unwrap_err();
    }

    #[test]
    fn each_message_of_a_batch_is_cut() {
        let one = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"b"}]}}"#;
        let other = r#"{"jsonrpc":"2.0","id":2,"result":{"prompts":[{"name":"a"},{"name":"b"}]}}"#;
        let expected = r#"[{"jsonrpc":"2.0","id":1,"result":{"tools":[]}},{"jsonrpc":"2.0","id":2,"result":{"prompts":[{"name":"a"}]}}]"#;
        assert_eq!(cut_down(&format!("[{one},{other}]")).as_deref(), Some(expected));
    }

    proptest! {
        #[test]
        fn a_cut_list_is_what_filtering_its_values_gives(names in proptest::collection::vec("[ab]\\PC{0,3}", 0..6)) {
            let list = |names: &[String]| {
                let tools: Vec<Value> = names.iter().map(|name| json!({ "name": name, "inputSchema": {} })).collect();
                json!({ "jsonrpc": "2.0", "id": 1, "result": { "tools": tools } })
            };
            let whole = list(&names).to_string();
            let cut = cut_down(&whole).unwrap_or(whole);
            let shown: Vec<String> = names.into_iter().filter(|name| !name.starts_with('b')).collect();
            prop_assert_eq!(serde_json::from_str::<Value>(&cut).unwrap(), list(&shown));
        }
    }
}
