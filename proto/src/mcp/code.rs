//! The codes of JSON-RPC errors that the protocol gives a meaning.

pub const PARSE_ERROR: i64 = -32700;
/// No message at all, or none that may be sent here.
pub const INVALID_REQUEST: i64 = -32600;
pub const METHOD_NOT_FOUND: i64 = -32601;
/// Also a tool, prompt or task that does not exist, and a required member of `_meta` that is missing.
pub const INVALID_PARAMS: i64 = -32602;
pub const INTERNAL_ERROR: i64 = -32603;
/// Up to 2025-11-25.
pub const RESOURCE_NOT_FOUND: i64 = -32002;
/// Only in 2025-11-25.
pub const URL_ELICITATION_REQUIRED: i64 = -32042;
/// Headers and body say different things. This and the next two prove a server of the modern era.
pub const HEADER_MISMATCH: i64 = -32020;
/// With `data.requiredCapabilities`.
pub const MISSING_CLIENT_CAPABILITY: i64 = -32021;
/// With `data.supported` and `data.requested`.
pub const UNSUPPORTED_PROTOCOL_VERSION: i64 = -32022;
/// The user said no to sampling; sent by clients of the legacy era.
pub const USER_REJECTED: i64 = -1;

/// Whether a code stands for something that only a server of the modern era knows.
pub fn proves_modern(code: i64) -> bool {
    matches!(code, HEADER_MISMATCH | MISSING_CLIENT_CAPABILITY | UNSUPPORTED_PROTOCOL_VERSION)
}
