//! How a call went, in the words of OpenTelemetry's conventions for MCP, and in words of which there are few.

use std::sync::LazyLock;

use weft_proto::mcp::code;

use super::calls::Side;
use crate::heard::Heard;
use crate::refusal::Refusal;

/// What the conventions have for an error, or a method, that has no word of its own.
pub const OTHER_ERROR: &str = "_OTHER";

/// How a call went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// `error.type`; none where the call did not fail.
    pub error: Option<&'static str>,
    /// `rpc.response.status_code`.
    pub code: Option<&'static str>,
}

/// Codes of errors that are told apart, as texts: those of the protocol and those of refusals.
static CODES: LazyLock<Vec<(i64, &'static str)>> = LazyLock::new(|| {
    let own = Refusal::every().into_iter().map(|refusal| refusal.told().code);
    let mut codes: Vec<i64> = own.chain(OF_THE_PROTOCOL).filter(|code| *code != 0).collect();
    codes.sort_unstable();
    codes.dedup();
    // Few, and for as long as the program runs.
    codes.into_iter().map(|code| (code, &*code.to_string().leak())).collect()
});

const OF_THE_PROTOCOL: [i64; 11] = [
    code::PARSE_ERROR,
    code::INVALID_REQUEST,
    code::METHOD_NOT_FOUND,
    code::INVALID_PARAMS,
    code::INTERNAL_ERROR,
    code::RESOURCE_NOT_FOUND,
    code::URL_ELICITATION_REQUIRED,
    code::HEADER_MISMATCH,
    code::MISSING_CLIENT_CAPABILITY,
    code::UNSUPPORTED_PROTOCOL_VERSION,
    code::USER_REJECTED,
];

/// What servers answer with instead of an answer.
const STATUSES: [(u16, &str); 16] = [
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (408, "408"),
    (409, "409"),
    (413, "413"),
    (415, "415"),
    (422, "422"),
    (429, "429"),
    (500, "500"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
];

impl Verdict {
    /// From what the answer said, and what the log says of the call.
    pub(crate) fn of(heard: &Heard, reason: &'static str, status: u16, side: Side) -> Self {
        let error = match heard {
            Heard::ToolError => Some("tool_error"),
            Heard::Fault { code, .. } => {
                let word = word(&CODES, *code);
                let is_error = side == Side::Client || !Heard::is_callers_own(*code);
                return Self { error: is_error.then_some(word), code: Some(word) };
            }
            Heard::Nothing => match reason {
                "ok" | "caller_left" => None,
                "client_error" if side == Side::Server => None,
                "server_error" | "client_error" => Some(word(&STATUSES, status)),
                reason => Some(reason),
            },
        };
        Self { error, code: None }
    }
}

fn word<T: PartialEq>(words: &[(T, &'static str)], of: T) -> &'static str {
    words.iter().find(|(known, _)| *known == of).map_or(OTHER_ERROR, |(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_went_as_the_conventions_have_it() {
        let fault = |code| Heard::Fault { code, message: "".into() };
        let check = |heard: Heard, reason, status, side, error: Option<&str>, code: Option<&str>| {
            let found = Verdict::of(&heard, reason, status, side);
            assert_eq!((found.error, found.code), (error, code), "{heard:?} {reason} {status} {side:?}");
        };
        let (server, client) = (Side::Server, Side::Client);
        check(Heard::Nothing, "ok", 200, server, None, None);
        check(Heard::Nothing, "caller_left", 200, client, None, None);
        check(Heard::ToolError, "ok", 200, server, Some("tool_error"), None);
        check(fault(-32603), "ok", 200, server, Some("-32603"), Some("-32603"));
        check(fault(-32602), "ok", 200, server, None, Some("-32602"));
        check(fault(-32602), "ok", 200, client, Some("-32602"), Some("-32602"));
        check(fault(4030), "denied", 403, server, Some("4030"), Some("4030"));
        check(fault(123_456), "ok", 200, server, Some(OTHER_ERROR), Some(OTHER_ERROR));
        check(Heard::Nothing, "timed_out", 504, server, Some("timed_out"), None);
        check(Heard::Nothing, "client_error", 404, server, None, None);
        check(Heard::Nothing, "client_error", 404, client, Some("404"), None);
        check(Heard::Nothing, "server_error", 500, server, Some("500"), None);
        check(Heard::Nothing, "server_error", 599, server, Some(OTHER_ERROR), None);
    }
}
