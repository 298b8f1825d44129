//! What of a server's answers is looked at: pages of its lists, and whether the result of a call may be given to another
//! call.

use std::borrow::Cow;

use crate::mcp::Raw;
use crate::mcp::lists::Listed;

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// The definitions, as they are written.
    pub items: Vec<Raw<'a>>,
    /// Where the next page begins, if there is one.
    pub next: Option<Cow<'a, str>>,
}

/// Reads the result of asking for a list; none if it is no such result.
pub fn page(listed: Listed, result: Raw<'_>) -> Option<Page<'_>> {
    let [items, next] = result.members(&[listed.member(), "nextCursor"]).ok()?;
    let next = match next.filter(|it| !it.is_null()) {
        Some(cursor) => Some(cursor.text()?),
        None => None,
    };
    let items = items?;
    items.get().starts_with('[').then(|| Page { items: items.parts().map(|(_, item)| item).collect(), next })
}

/// Whether the parameters of `tools/call` ask for nothing but the call: no task, and no answer to the server's questions.
pub fn is_plain_call(params: Raw<'_>) -> bool {
    let known = ["task", "inputResponses", "requestState"];
    params.members(&known).is_ok_and(|found| found.iter().all(Option::is_none))
}

/// Whether the result of `tools/call` answers the call, now and for others of its kind: it is complete, no failure, no
/// question and no task.
pub fn is_lasting(result: Raw<'_>) -> bool {
    let Ok([kind, failed, task, asked, state]) =
        result.members(&["resultType", "isError", "task", "inputRequests", "requestState"])
    else {
        return false;
    };
    let complete = kind.is_none_or(|it| it.text().as_deref() == Some("complete"));
    let succeeded = failed.is_none_or(|it| it.get() == "false");
    complete && succeeded && task.is_none() && asked.is_none() && state.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Raw<'_> {
        Raw::scan(json, 64).unwrap()
    }

    #[test]
    fn a_page_has_definitions_and_may_have_another_after_it() {
        let check = |json: &str, tools: usize, next: Option<&str>| {
            let page = page(Listed::Tool, read(json)).unwrap();
            assert_eq!((page.items.len(), page.next.as_deref()), (tools, next), "{json}");
        };
        check(r#"{"tools":[]}"#, 0, None);
        check(r#"{"tools":[{"name":"a"},{"name":"b"}],"nextCursor":null}"#, 2, None);
        check(r#"{"tools":[{"name":"a"}],"nextCursor":""}"#, 1, Some(""));
        assert!(page(Listed::Prompt, read(r#"{"tools":[]}"#)).is_none());
        for json in ["{}", r#"{"tools":{}}"#, r#"{"tools":[],"nextCursor":1}"#, r#"{"tools":[],"Tools":[]}"#]
        {
            assert!(page(Listed::Tool, read(json)).is_none(), "{json}");
        }
    }

    #[test]
    fn what_asks_for_a_task_or_answers_a_question_is_no_plain_call() {
        assert!(is_plain_call(read(r#"{"name":"x","arguments":{"task":1},"_meta":{}}"#)));
        for more in ["task", "inputResponses", "requestState"] {
            assert!(!is_plain_call(read(&format!(r#"{{"name":"x","{more}":{{}}}}"#))), "{more}");
        }
    }

    #[test]
    fn only_a_complete_success_lasts() {
        let check = |json: &str, expected| assert_eq!(is_lasting(read(json)), expected, "{json}");
        check(r#"{"content":[]}"#, true);
        check(r#"{"resultType":"complete","isError":false}"#, true);
        check(r#"{"isError":true}"#, false);
        check(r#"{"isError":null}"#, false);
        check(r#"{"iserror":true}"#, false);
        check(r#"{"resultType":"input_required","inputRequests":{}}"#, false);
        check(r#"{"resultType":"task"}"#, false);
        check(r#"{"task":{"taskId":"1"}}"#, false);
        check(r#"{"requestState":"x"}"#, false);
    }
}
