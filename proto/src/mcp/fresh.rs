//! What a server says of how long an answer is good, and for whom, as the revision of 2026-07-28 has it: results of
//! reading and listing say `ttlMs` and `cacheScope`.
//!
//! Not here: where such answers are kept, and who may have them.

use super::{Raw, method};
use crate::policy::tools::canonical::{Numbers, canonical};

/// Parts of `_meta` that say how a request is followed, and not what is asked.
const FOLLOWING: [&str; 6] = [
    "progressToken",
    "traceparent",
    "tracestate",
    "baggage",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
];

/// That an answer is good for others, or again.
#[derive(Clone, Copy, Debug)]
pub struct Fresh<'a> {
    pub ttl_ms: u64,
    /// The number, as it is written.
    pub written: Raw<'a>,
    /// Whether it is the same for everyone.
    pub is_public: bool,
}

/// Whether answers to a method may say so. Lists of tools may, too, but are not among these: who is told that its headers
/// do not fit a tool reads the list anew, and must not be given the old one.
pub fn may_be_fresh(method: &str) -> bool {
    matches!(
        method,
        method::RESOURCES_READ
            | method::RESOURCES_LIST
            | method::RESOURCES_TEMPLATES_LIST
            | method::PROMPTS_LIST
    )
}

/// What is asked by parameters, in one way of writing it; none where they go on with an earlier call. Of `_meta` what
/// says only how the request is followed is left out.
pub fn asked(params: Raw<'_>) -> Option<String> {
    let [answers, state] = params.members(&["inputResponses", "requestState"]).ok()?;
    if answers.is_some() || state.is_some() {
        return None;
    }
    let mut text = String::with_capacity(params.get().len());
    let mut members: Vec<_> = params.parts().collect();
    members.sort_by(|(a, _), (b, _)| a.text().cmp(&b.text()));
    for (key, value) in members {
        let is_meta = key.text().as_deref() == Some("_meta");
        if !is_meta {
            text.push_str(&format!(
                "{}:{}\n",
                canonical(key, Numbers::AsWritten),
                canonical(value, Numbers::AsWritten)
            ));
            continue;
        }
        let mut meta: Vec<_> = value.parts().collect();
        meta.sort_by(|(a, _), (b, _)| a.text().cmp(&b.text()));
        let asks = |key: &Raw<'_>| key.text().is_none_or(|key| !FOLLOWING.contains(&&*key));
        for (key, value) in meta.into_iter().filter(|(key, _)| asks(key)) {
            let (key, value) = (canonical(key, Numbers::AsWritten), canonical(value, Numbers::AsWritten));
            text.push_str(&format!("_meta {key}:{value}\n"));
        }
    }
    Some(text)
}

/// What a result says of how long it is good; none of one that is good for this call only.
pub fn fresh(result: Raw<'_>) -> Option<Fresh<'_>> {
    let known = ["resultType", "ttlMs", "cacheScope", "inputRequests", "requestState"];
    let [kind, ttl, scope, asks, state] = result.members(&known).ok()?;
    let is_complete = kind.is_none_or(|it| it.text().as_deref() == Some("complete"));
    if !is_complete || asks.is_some() || state.is_some() {
        return None;
    }
    let written = ttl?;
    let ttl_ms = written.get().parse().ok().filter(|ms| *ms > 0)?;
    // Whoever says nothing of who may have it means the caller.
    let is_public = scope.and_then(Raw::text).as_deref() == Some("public");
    Some(Fresh { ttl_ms, written, is_public })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Raw<'_> {
        Raw::scan(json, 64).unwrap()
    }

    #[test]
    fn a_result_is_good_for_as_long_and_for_whom_it_says() {
        let check = |json: &str, expected: Option<(u64, bool)>| {
            let found = fresh(read(json)).map(|it| (it.ttl_ms, it.is_public));
            assert_eq!(found, expected, "{json}");
        };
        check(r#"{"resultType":"complete","ttlMs":5,"cacheScope":"public"}"#, Some((5, true)));
        check(r#"{"ttlMs":5,"cacheScope":"private"}"#, Some((5, false)));
        check(r#"{"ttlMs":5}"#, Some((5, false)));
        check(r#"{"ttlMs":5,"cacheScope":"everyone"}"#, Some((5, false)));
        for json in [
            r#"{"ttlMs":0,"cacheScope":"public"}"#,
            r#"{"ttlMs":-1}"#,
            r#"{"ttlMs":1.5}"#,
            r#"{"ttlMs":"5"}"#,
            r#"{"cacheScope":"public"}"#,
            r#"{"ttlMs":5,"cachescope":"public"}"#,
            r#"{"resultType":"input_required","ttlMs":5}"#,
            r#"{"ttlMs":5,"requestState":"x"}"#,
            "[]",
        ] {
            check(json, None);
        }
    }

    #[test]
    fn the_same_is_asked_however_it_is_written_and_followed() {
        let plain = asked(read(r#"{"uri":"a:b","_meta":{"c":{}}}"#)).unwrap();
        for same in [
            r#"{ "_meta": {"c":{}, "progressToken":1,"traceparent":"x"}, "uri":"a:\u0062" }"#,
            r#"{"uri":"a:b","_meta":{"io.modelcontextprotocol/clientInfo":{"name":"x"},"c":{}}}"#,
        ] {
            assert_eq!(asked(read(same)).as_deref(), Some(&*plain), "{same}");
        }
        for other in [
            r#"{"uri":"a:c","_meta":{"c":{}}}"#,
            r#"{"uri":"a:b","_meta":{"c":{"d":1}}}"#,
            r#"{"uri":"a:b","more":1,"_meta":{"c":{}}}"#,
            r#"{"uri":"a:b","_meta":{}}"#,
            r#"{"uri":"a:b","_meta":{"c":{},"x":"y\n_meta \"z\":1"}}"#,
        ] {
            assert_ne!(asked(read(other)).as_deref(), Some(&*plain), "{other}");
        }
        for goes_on in [r#"{"uri":"a","requestState":"x"}"#, r#"{"uri":"a","inputResponses":{}}"#] {
            assert_eq!(asked(read(goes_on)), None, "{goes_on}");
        }
    }
}
