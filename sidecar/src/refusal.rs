//! Why a request is refused: every reason is one variant, and one table says how each is told. The word of the table
//! appears in the answer, the log, the metrics and whatever else records the refusal.
//!
//! What the caller is told ([`Refusal::message`]) and what the log says ([`Refusal::detail`]) are kept apart: the first
//! never names what a caller may not know.

use std::time::Duration;

/// A request that is not served, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The message is no JSON, or breaks a limit on its form. The text says what and where.
    Parse(String),
    /// The message is JSON and no message of the protocol.
    Invalid(String),
    /// Headers and body do not say the same.
    HeaderMismatch(String),
    /// What the revision requires in `_meta` is missing or malformed.
    BadMeta(String),
    /// A revision that the server is not offered in.
    UnsupportedVersion {
        requested: String,
        supported: Vec<&'static str>,
    },
    /// A method that this era does not have.
    MethodNotFound(String),
    /// An extension that this caller did not say it knows.
    MissingCapability(String),
    /// No task of this caller's goes by this id.
    TaskUnknown,
    /// As many tasks are known as may be whose results are kept here.
    TooManyTasks,
    BodyTooLarge {
        max: usize,
    },
    HeadTooLarge {
        max: usize,
    },
    BodyTimeout,
    BodyBroken,
    /// The bodies of all requests under way are as large as they may be.
    NoRoom,
    /// An HTTP method that the endpoint does not have.
    HttpMethod {
        allow: &'static str,
    },
    MediaType,
    NotAcceptable,
    /// A path that leads nowhere.
    NoSuchPath,
    ForeignHost,
    ForeignOrigin,
    /// Nobody says who calls, or not so that it can be believed. The text says why, for the log.
    Unauthenticated {
        /// Whether there was anything to believe.
        brought: bool,
        why: String,
    },
    /// The key was good, and is not any more. Its name is for the log.
    KeyExpired {
        key: String,
    },
    /// The token lacks a scope that every token needs.
    InsufficientScope,
    /// What there is to say of the caller is more than is passed on.
    ClaimsTooLarge {
        max: usize,
    },
    /// The keys of the token's issuer are not known. The text is for the log.
    IssuerAway(String),
    /// As many requests of the caller are under way as a gateway takes.
    CallerBusy,
    /// As many streams of the caller listen as a gateway takes.
    CallerStreams,
    /// No server by this name, or none that this caller may know of.
    UnknownServer(String),
    SessionMissing,
    SessionUnknown,
    TooManySessions,
    /// As many streams listen to the server as may.
    TooManyStreams,
    /// Policy refuses. The target is as the caller named it; the rule is for the log, and for callers of policies that
    /// explain themselves.
    Denied {
        target: String,
        rule: String,
        explain: bool,
        /// A scope with which the caller's token would have been enough.
        scope: Option<String>,
    },
    /// Policy refuses, and would not if the caller's token had one more scope. Given are the scopes to ask for: that one,
    /// and those that the token has.
    ScopeNeeded {
        scopes: Vec<String>,
    },
    /// The arguments of a call are not as the tool's schema wants. The text says where and what.
    BadArguments {
        problems: String,
        shape: Shape,
    },
    /// The arguments of a call are to be validated and cannot be, for this.
    NotValidated(String),
    /// What the server advertises has to be known for the call, and is not. The text is for the log.
    ToolsUnknown(String),
    /// The answer is larger than the policy for the tool lets through.
    ResultTooLarge {
        max: u64,
    },
    /// The server asks for input that the caller did not say it can give, or that its era has no way to give.
    InputNeeded,
    /// The call that the caller's input is for does not wait here, or no longer.
    InputUnknown,
    /// The caller was asked for input by this method and answered with an error, which the server's era has no words
    /// for.
    InputRefused(String),
    /// The caller was asked for input and did not answer.
    InputOverdue {
        after: Duration,
    },
    /// A limit of a quota is reached.
    Limited(Hit),
    /// The budget of a quota is spent.
    BudgetSpent(Hit),
    /// Whoever keeps a budget could not be asked for more of it in time.
    NotLent(Hit),
    /// What the server has free is for other callers: this one has more than its share.
    CallerShare,
    /// As many calls are under way as the server takes.
    InFlight {
        after: Duration,
    },
    /// The server answered what is no answer, or broke off. The text is for the log.
    UpstreamBroke(String),
    /// The server could not be reached, so nothing was sent.
    UpstreamUnreachable(String),
    /// There is no token by which a server outside of the mesh would know the caller. The text is for the log.
    NotExchanged(String),
    /// No healthy instance.
    NoInstance,
    /// The tool failed so often in a row that calls of it are not sent for a while.
    ToolFailing {
        after: Duration,
    },
    TimedOut {
        after: Duration,
    },
    /// The server began to answer, and then said nothing for too long.
    FellSilent {
        after: Duration,
    },
    /// The stdio server ended while the call was under way.
    ChildExited(String),
    /// The stdio server is not ready, or its queue is full.
    ChildBusy(String),
    /// The call is to be recorded, and there is no room for its record. The word says what lacks.
    NotRecorded(&'static str),
    /// The sidecar has no configuration yet.
    NotReady,
    Draining,
}

/// The limit of a quota that refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// `<namespace>/<policy>#<limit>`.
    pub limit: String,
    /// How much it allows, as `10/min`.
    pub window: String,
    /// When to come back, in whole seconds; none where the call weighs more than the limit ever allows.
    pub after: Option<Duration>,
}

/// As what bad arguments are told, which protocols have done differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As a result of the tool that says that it failed.
    Result,
    /// As the protocol's error for bad parameters.
    Error,
}

/// How a refusal is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub status: u16,
    pub code: i64,
    /// One word, the same wherever this refusal appears.
    pub reason: &'static str,
    /// Whether the same request may succeed later.
    pub again: bool,
}

const fn told(status: u16, code: i64, reason: &'static str, again: bool) -> Told {
    Told { status, code, reason, again }
}

impl Refusal {
    /// The one table. Codes of the protocol's own are used where it assigns one; ours are positive, the HTTP status
    /// times ten plus a digit.
    pub const fn told(&self) -> Told {
        match self {
            Self::Parse(_) => told(400, -32700, "malformed", false),
            Self::Invalid(_) => told(400, -32600, "invalid", false),
            Self::HeaderMismatch(_) => told(400, -32020, "header_mismatch", false),
            Self::BadMeta(_) => told(400, -32602, "bad_meta", false),
            Self::UnsupportedVersion { .. } => told(400, -32022, "unsupported_version", false),
            Self::MethodNotFound(_) => told(404, -32601, "method_not_found", false),
            Self::MissingCapability(_) => told(400, -32021, "missing_capability", false),
            Self::TaskUnknown => told(400, -32602, "task_unknown", false),
            Self::TooManyTasks => told(429, 4296, "too_many_tasks", true),
            Self::BodyTooLarge { .. } => told(413, 4130, "body_too_large", false),
            Self::HeadTooLarge { .. } => told(431, 4310, "head_too_large", false),
            Self::BodyTimeout => told(408, 4080, "body_timeout", true),
            Self::BodyBroken => told(400, 4000, "body_broken", true),
            Self::NoRoom => told(503, 5036, "no_room", true),
            Self::HttpMethod { .. } => told(405, 4050, "http_method", false),
            Self::MediaType => told(415, 4150, "media_type", false),
            Self::NotAcceptable => told(406, 4060, "not_acceptable", false),
            Self::NoSuchPath => told(404, 4040, "no_such_path", false),
            Self::ForeignHost => told(403, 4031, "foreign_host", false),
            Self::ForeignOrigin => told(403, 4032, "foreign_origin", false),
            Self::Unauthenticated { .. } => told(401, 4010, "unauthenticated", false),
            Self::KeyExpired { .. } => told(401, 4011, "key_expired", false),
            Self::InsufficientScope => told(403, 4033, "insufficient_scope", false),
            Self::ScopeNeeded { .. } => told(403, 4035, "scope_needed", false),
            Self::ClaimsTooLarge { .. } => told(403, 4034, "claims_too_large", false),
            Self::IssuerAway(_) => told(502, 5026, "issuer_away", true),
            Self::CallerBusy => told(429, 4293, "caller_busy", true),
            Self::CallerStreams => told(429, 4294, "caller_streams", true),
            Self::UnknownServer(_) => told(404, 4041, "unknown_server", false),
            Self::SessionMissing => told(400, 4001, "session_missing", false),
            Self::SessionUnknown => told(404, 4042, "session_unknown", false),
            Self::TooManySessions => told(503, 5033, "too_many_sessions", true),
            Self::TooManyStreams => told(503, 5038, "too_many_streams", true),
            Self::Denied { .. } => told(403, 4030, "denied", false),
            Self::Limited(_) => told(429, 4290, "limited", true),
            Self::BudgetSpent(_) => told(429, 4291, "budget_spent", true),
            Self::NotLent(_) => told(503, 5039, "not_lent", true),
            Self::BadArguments { .. } => told(400, 4002, "bad_arguments", false),
            Self::NotValidated(_) => told(502, 5024, "not_validated", false),
            Self::ToolsUnknown(_) => told(503, 5037, "tools_unknown", true),
            Self::ResultTooLarge { .. } => told(502, 5023, "result_too_large", false),
            Self::InFlight { .. } => told(429, 4292, "in_flight", true),
            Self::CallerShare => told(429, 4295, "caller_share", true),
            Self::UpstreamBroke(_) => told(502, 5020, "upstream_broke", false),
            Self::UpstreamUnreachable(_) => told(503, 5034, "upstream_unreachable", true),
            Self::NotExchanged(_) => told(502, 5027, "not_exchanged", true),
            Self::InputNeeded => told(502, 5022, "input_needed", false),
            Self::InputUnknown => told(409, 4090, "input_unknown", false),
            Self::InputRefused(_) => told(409, 4091, "input_refused", false),
            Self::InputOverdue { .. } => told(408, 4081, "input_overdue", false),
            Self::NoInstance => told(503, 5030, "no_instance", true),
            Self::ToolFailing { .. } => told(502, 5025, "tool_failing", true),
            Self::TimedOut { .. } => told(504, 5040, "timed_out", false),
            // The word that is written down where an answer passes through.
            Self::FellSilent { .. } => told(504, 5041, "idle", false),
            Self::ChildExited(_) => told(502, 5021, "child_exited", false),
            Self::ChildBusy(_) => told(503, 5035, "child_busy", true),
            Self::NotRecorded(_) => told(507, 5070, "not_recorded", true),
            Self::NotReady => told(503, 5032, "not_ready", true),
            Self::Draining => told(503, 5031, "draining", true),
        }
    }

    /// One of each, for the reference.
    pub fn every() -> Vec<Self> {
        let text = || "…".to_owned();
        let after = Duration::from_secs(60);
        vec![
            Self::Parse(text()),
            Self::Invalid(text()),
            Self::HeaderMismatch(text()),
            Self::BadMeta(text()),
            Self::UnsupportedVersion { requested: text(), supported: vec!["2026-07-28"] },
            Self::MethodNotFound(text()),
            Self::MissingCapability(text()),
            Self::TaskUnknown,
            Self::TooManyTasks,
            Self::BodyTooLarge { max: 4 << 20 },
            Self::HeadTooLarge { max: 60 << 10 },
            Self::BodyTimeout,
            Self::BodyBroken,
            Self::NoRoom,
            Self::HttpMethod { allow: "POST" },
            Self::MediaType,
            Self::NotAcceptable,
            Self::NoSuchPath,
            Self::ForeignHost,
            Self::ForeignOrigin,
            Self::Unauthenticated { brought: true, why: text() },
            Self::KeyExpired { key: text() },
            Self::InsufficientScope,
            Self::ClaimsTooLarge { max: 8 << 10 },
            Self::IssuerAway(text()),
            Self::CallerBusy,
            Self::CallerStreams,
            Self::UnknownServer(text()),
            Self::SessionMissing,
            Self::SessionUnknown,
            Self::TooManySessions,
            Self::TooManyStreams,
            Self::Denied { target: text(), rule: text(), explain: false, scope: None },
            Self::ScopeNeeded { scopes: vec![text()] },
            Self::Limited(Hit { limit: text(), window: "10/min".to_owned(), after: Some(after) }),
            Self::BudgetSpent(Hit { limit: text(), window: "500/day".to_owned(), after: Some(after) }),
            Self::NotLent(Hit { limit: text(), window: "500/day".to_owned(), after: Some(after) }),
            Self::BadArguments { problems: text(), shape: Shape::Result },
            Self::NotValidated(text()),
            Self::ToolsUnknown(text()),
            Self::ResultTooLarge { max: 1 << 20 },
            Self::InFlight { after: Duration::from_secs(1) },
            Self::CallerShare,
            Self::UpstreamBroke(text()),
            Self::UpstreamUnreachable(text()),
            Self::NotExchanged(text()),
            Self::NoInstance,
            Self::ToolFailing { after },
            Self::TimedOut { after },
            Self::FellSilent { after },
            Self::ChildExited(text()),
            Self::ChildBusy(text()),
            Self::InputNeeded,
            Self::InputUnknown,
            Self::InputRefused("sampling/createMessage".to_owned()),
            Self::InputOverdue { after },
            Self::NotRecorded("disk_full"),
            Self::NotReady,
            Self::Draining,
        ]
    }

    /// What the caller is told.
    pub fn message(&self) -> String {
        match self {
            Self::Parse(what) => format!("the message cannot be read: {what}"),
            Self::Invalid(what) | Self::HeaderMismatch(what) | Self::BadMeta(what) => what.clone(),
            Self::UnsupportedVersion { requested, .. } => {
                format!("protocol version {requested:?} is not supported")
            }
            Self::MethodNotFound(method) => format!("method {method:?} is not available"),
            Self::MissingCapability(what) => format!("this needs the client capability {what:?}"),
            Self::BodyTooLarge { max } => format!("the body is larger than {max} bytes"),
            Self::HeadTooLarge { max } => format!("the headers are larger than {max} bytes"),
            Self::HttpMethod { allow } => format!("only {allow} is allowed here"),
            Self::ClaimsTooLarge { max } => {
                format!("what the token says of its bearer takes more than {max} bytes")
            }
            Self::UnknownServer(name) => format!("there is no server {name:?}, or not for you"),
            Self::Denied { target, rule, explain: true, .. } => format!("{target} is refused by {rule}"),
            Self::Denied { target, .. } => format!("{target} is unknown or not permitted"),
            Self::BadArguments { problems, .. } => {
                format!("the arguments are not as the tool wants them: {problems}")
            }
            Self::NotValidated(why) => format!("the arguments cannot be validated: {why}"),
            Self::ResultTooLarge { max } => format!("the answer is larger than {max} bytes"),
            Self::InputRefused(method) => format!("the client answered {method} with an error"),
            Self::InputOverdue { after } => format!("no input came within {} s", after.as_secs_f64()),
            Self::Limited(Hit { limit, window, .. }) => format!("the limit {limit} of {window} is reached"),
            Self::BudgetSpent(Hit { limit, window, .. }) => {
                format!("the budget {limit} of {window} is spent")
            }
            Self::NotLent(Hit { limit, window, .. }) => {
                format!("how much is left of the budget {limit} of {window} cannot be told now")
            }
            Self::TimedOut { after } => format!("the server did not answer within {} s", after.as_secs_f64()),
            Self::FellSilent { after } => format!("the server said nothing for {} s", after.as_secs_f64()),
            other => other.words().to_owned(),
        }
    }

    /// What the caller is told where that is always the same; nothing where it is not.
    const fn words(&self) -> &'static str {
        match self {
            Self::BodyTimeout => "the body did not arrive in time",
            Self::BodyBroken => "the body broke off",
            Self::NoRoom => "too much is being sent at once; try again soon",
            Self::MediaType => "the content type must be application/json",
            Self::NotAcceptable => "the client must accept application/json and text/event-stream",
            Self::NoSuchPath => "there is nothing at this path",
            Self::ForeignHost => "this host is not served here",
            Self::ForeignOrigin => "this origin may not call",
            Self::Unauthenticated { brought: false, .. } => "a token is needed",
            Self::Unauthenticated { brought: true, .. } => "the token is not accepted",
            Self::KeyExpired { .. } => "the key has expired",
            Self::InsufficientScope => "the token lacks a scope that is needed",
            Self::ScopeNeeded { .. } => "the token lacks a scope that this needs",
            Self::IssuerAway(_) => "the token cannot be verified at the moment",
            Self::CallerBusy => "too many requests of this caller are under way",
            Self::CallerStreams => "too many streams of this caller are open",
            Self::TaskUnknown => "there is no such task, or not for you",
            Self::TooManyTasks => "too many results of tasks are kept",
            Self::SessionMissing => "the session id is missing",
            Self::SessionUnknown => "the session is unknown or has ended",
            Self::TooManySessions => "too many sessions are open",
            Self::TooManyStreams => "too many streams listen to this server",
            Self::ToolsUnknown(_) => "what tools the server has is not known at the moment",
            Self::InputNeeded => "the server asks for input that this client did not say it can give",
            Self::InputUnknown => "no call waits for this input any more; call again without it",
            Self::InFlight { .. } => "too many calls are under way",
            Self::CallerShare => {
                "this caller has as much under way as it may while others could come; what is free is for them"
            }
            Self::UpstreamBroke(_) => "the server's answer broke off or cannot be read",
            Self::UpstreamUnreachable(_) => "the server cannot be reached",
            Self::NotExchanged(_) => "no token for the server can be had for this caller",
            Self::NoInstance => "no instance of the server is available",
            Self::ToolFailing { .. } => "the tool failed again and again; it is left alone for a while",
            Self::ChildExited(_) => "the server ended while the call was under way",
            Self::ChildBusy(_) => "the server is not ready",
            Self::NotRecorded(_) => "the call is to be recorded, and cannot be",
            Self::NotReady => "the sidecar is not ready yet",
            Self::Draining => "the sidecar is about to stop",
            Self::Parse(_)
            | Self::Invalid(_)
            | Self::HeaderMismatch(_)
            | Self::BadMeta(_)
            | Self::UnsupportedVersion { .. }
            | Self::MethodNotFound(_)
            | Self::MissingCapability(_)
            | Self::BodyTooLarge { .. }
            | Self::HeadTooLarge { .. }
            | Self::HttpMethod { .. }
            | Self::ClaimsTooLarge { .. }
            | Self::UnknownServer(_)
            | Self::Denied { .. }
            | Self::BadArguments { .. }
            | Self::NotValidated(_)
            | Self::ResultTooLarge { .. }
            | Self::InputRefused(_)
            | Self::InputOverdue { .. }
            | Self::Limited(_)
            | Self::BudgetSpent(_)
            | Self::NotLent(_)
            | Self::TimedOut { .. }
            | Self::FellSilent { .. } => "",
        }
    }

    /// What the log says.
    pub fn detail(&self) -> String {
        match self {
            Self::UpstreamBroke(detail)
            | Self::UpstreamUnreachable(detail)
            | Self::NotExchanged(detail)
            | Self::ChildExited(detail)
            | Self::ToolsUnknown(detail)
            | Self::IssuerAway(detail)
            | Self::Unauthenticated { why: detail, .. }
            | Self::ChildBusy(detail) => format!("{}: {detail}", self.message()),
            Self::NotRecorded(why) => format!("{}: {why}", self.message()),
            Self::KeyExpired { key } => format!("{}: {key}", self.message()),
            Self::Denied { target, rule, .. } => format!("{target} is refused by {rule}"),
            other => other.message(),
        }
    }

    /// When it is worth trying again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::InFlight { after } | Self::ToolFailing { after } => Some(*after),
            Self::Limited(hit) | Self::BudgetSpent(hit) | Self::NotLent(hit) => hit.after,
            _ if self.told().again => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_refusal_has_a_word_of_its_own_and_one_of_our_codes_or_one_that_the_protocol_assigns() {
        let every = Refusal::every();
        let words: BTreeSet<_> = every.iter().map(|it| it.told().reason).collect();
        assert_eq!(words.len(), every.len());
        // The protocol has one code for whatever is wrong with parameters.
        let ours: Vec<_> = every.iter().map(|it| it.told().code).filter(|code| *code > 0).collect();
        let codes: BTreeSet<_> = ours.iter().collect();
        assert_eq!(codes.len(), ours.len());
        assert!(every.iter().all(|it| !it.message().is_empty()), "each is told in words");
    }

    #[test]
    fn our_codes_are_the_status_and_a_digit_and_lie_outside_the_protocols_range() {
        for refusal in Refusal::every() {
            let told = refusal.told();
            assert!(told.code < 0 || told.code / 10 == i64::from(told.status), "{refusal:?}");
            assert!(told.code > 0 || (-32768..=-32000).contains(&told.code), "{refusal:?}");
        }
    }

    #[test]
    fn what_a_caller_may_not_know_stays_in_the_log() {
        let refusal = Refusal::UpstreamBroke("10.0.0.7:9000 reset".to_owned());
        assert!(!refusal.message().contains("10.0.0.7") && refusal.detail().contains("10.0.0.7"));
        let denied = |explain| Refusal::Denied {
            target: "tool x".to_owned(),
            rule: "research/p#1".to_owned(),
            explain,
            scope: Some("tools.write".to_owned()),
        };
        assert!(!denied(true).message().contains("tools.write"));
        assert!(
            !denied(false).message().contains("research/p") && denied(true).message().contains("research/p")
        );
    }
}
