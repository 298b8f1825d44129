//! Every limit of the data plane, in one place, with its unit in its name. The defaults are safe; each can be set in
//! the bootstrap file's section `limits`, and the reference lists them.

use std::time::Duration;

use serde::Deserialize;
use weft_proto::resource::units::Span;

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr;)*) => {
        /// What the data plane allows.
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(default, rename_all = "camelCase", deny_unknown_fields)]
        pub struct Limits {
            $($(#[doc = $doc])+ pub $name: $kind,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            /// Name, default and meaning of each limit, for the reference.
            pub fn described() -> Vec<(&'static str, String, String)> {
                let limits = Self::default();
                vec![$((stringify!($name), format!("{:?}", limits.$name), [$($doc),+].concat().trim().to_owned()),)*]
            }
        }
    };
}

const fn secs(seconds: u64) -> Limited {
    Limited(Duration::from_secs(seconds))
}

/// A duration that is a limit; written as `30s` or `5m`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limited(pub Duration);

impl std::fmt::Debug for Limited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::ops::Deref for Limited {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Limited {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Span::deserialize(deserializer).map(|span| Self(span.duration()))
    }
}

limits! {
    /// Connections open at once, at each listener. Never more than the files that the process may have open, divided by
    /// one more than there are listeners for traffic: half of them with one, a third with two.
    connections_max: usize = 20_000;
    /// Connections of one client address open at once, at a gateway. A network of 64 bits counts as one address of IPv6;
    /// where a balancer stands before the gateway, the address is the balancer's.
    connections_per_address_max: usize = 1000;
    /// Requests of one caller under way at once, at a gateway.
    requests_per_caller_max: usize = 256;
    /// Streams of one caller that only listen, at once, at a gateway.
    streams_per_caller_max: usize = 64;
    /// Bytes of a token, or of a key, that a gateway looks at.
    token_bytes_max: usize = 16 << 10;
    /// How far the clocks of issuers and of a gateway may differ.
    token_leeway: Limited = secs(30);
    /// Tokens and keys that a gateway remembers, so that the signature of each is verified once.
    tokens_known_max: usize = 4096;
    /// Bytes of what a gateway says of a caller, claims included. One with more is refused.
    guest_bytes_max: usize = 8 << 10;
    /// Bytes of an issuer's keys.
    issuer_keys_bytes_max: usize = 256 << 10;
    /// Time for fetching an issuer's keys.
    issuer_keys_timeout: Limited = secs(5);
    /// Least time between two fetches of an issuer's keys, whatever keys tokens name.
    issuer_keys_fetch_every: Limited = secs(10);
    /// Age after which an issuer's keys are fetched again.
    issuer_keys_age: Limited = secs(600);
    /// Age after which keys of an issuer that is away are good no longer.
    issuer_keys_age_max: Limited = secs(86_400);
    /// Handshakes under way at once.
    handshakes_max: usize = 512;
    /// Time for a TLS handshake.
    handshake_timeout: Limited = secs(10);
    /// Time for the head of a request.
    header_timeout: Limited = secs(15);
    /// Bytes of a request's head.
    header_bytes_max: usize = 60 << 10;
    /// Headers of a request.
    headers_max: usize = 100;
    /// Bytes of a request's body.
    body_bytes_max: usize = 4 << 20;
    /// Bytes of all requests' bodies that are held at once. Bodies of up to 16 KiB have a quarter more to themselves.
    bodies_bytes_max: usize = 256 << 20;
    /// Time without a byte of a request's body.
    body_idle_timeout: Limited = secs(30);
    /// Nesting of a message.
    depth_max: usize = 64;
    /// Messages in one batch, in the one revision that has batches.
    batch_max: usize = 64;
    /// Requests at once on one HTTP/2 connection.
    streams_per_connection_max: u32 = 256;
    /// Time without a request after which a connection is closed.
    keep_alive_timeout: Limited = secs(180);
    /// Age after which a connection is asked to end, so that identities are proved again.
    connection_age_max: Limited = secs(3600);
    /// Silence on an event stream after which a comment keeps it alive.
    keep_alive_comment_every: Limited = secs(15);
    /// Bytes of one event of an event stream that is looked into.
    event_bytes_max: usize = 16 << 20;
    /// Bytes of a JSON answer that is looked into.
    answer_bytes_max: usize = 16 << 20;
    /// Streams that only listen, at once at each server. Bounded by the files that the process may have open as
    /// `connectionsMax` is.
    listening_max: usize = 10_000;
    /// Copies of calls for servers that mirror others, under way at once. Beyond that calls are not copied.
    copies_max: usize = 64;
    /// Sessions open at once at one server, where the sidecar keeps them.
    sessions_max: usize = 10_000;
    /// Sessions of one caller open at once, where the sidecar keeps them.
    sessions_per_caller_max: usize = 256;
    /// Time without a message or an open stream after which a session is forgotten.
    session_idle_timeout: Limited = secs(3600);
    /// Age of a session whose id carries it, after which the id opens nothing any more.
    session_age_max: Limited = secs(86_400);
    /// Messages waiting for one slow stream before it is ended.
    stream_queue_max: usize = 256;
    /// Bytes of one line of a stdio server.
    line_bytes_max: usize = 16 << 20;
    /// Messages waiting to be written to one stdio server.
    child_queue_max: usize = 1024;
    /// Time that a message waits for room among those.
    child_queue_timeout: Limited = secs(5);
    /// Calls at once at one stdio server.
    child_in_flight_max: usize = 4096;
    /// Time for a stdio server to start, and that a call waits for one that starts.
    child_ready_timeout: Limited = secs(60);
    /// Calls of one session at once, where the sidecar keeps them.
    calls_per_session_max: usize = 256;
    /// Time that a call waits for what its server asks of the caller.
    input_timeout: Limited = secs(300);
    /// Calls at once, at one server, that wait for callers without a session to come back with what was asked of them.
    parked_max: usize = 1024;
    /// Calls of one caller that wait so.
    parked_per_caller_max: usize = 32;
    /// Bytes of all that is asked of them at one server.
    parked_bytes_max: usize = 64 << 20;
    /// Tasks of legacy callers at one server of the modern era that are known: those that can be listed, and the results
    /// of calls that were to be tasks and that the server answered at once.
    tasks_max: usize = 1024;
    /// Tasks of one caller that are known so.
    tasks_per_caller_max: usize = 64;
    /// Bytes of all such results at one server.
    tasks_bytes_max: usize = 64 << 20;
    /// Longest that such a result is kept.
    task_result_timeout: Limited = secs(300);
    /// Time that a legacy caller's `tasks/result` waits for a task of a modern server. It may ask again.
    task_wait_timeout: Limited = secs(3600);
    /// Events of one stream of a session that are kept for a caller who lost the connection.
    replay_events_max: usize = 256;
    /// Bytes of events that are kept for one session. The last event of a stream is kept in any case.
    replay_bytes_max: usize = 4 << 20;
    /// Bytes of events that are kept for all sessions at one server.
    replay_total_bytes_max: usize = 256 << 20;
    /// Time for which the end of a stream is kept.
    replay_timeout: Limited = secs(300);
    /// Lines of a stdio server's standard error that are logged each second.
    stderr_lines_per_second_max: u32 = 50;
    /// Bytes of one line of standard error that are logged.
    stderr_line_bytes_max: usize = 4 << 10;
    /// Children at once of a server that has one per session.
    children_max: usize = 64;
    /// Counts of quotas that are kept at once. Where all are in use, further callers and tools of a limit share one.
    quota_keys_max: usize = 131_072;
    /// Counts that one caller makes by calling tools of different names; further ones share one for each limit.
    quota_keys_per_caller_max: usize = 4096;
    /// Time that a call waits for a place among those that a quota allows at once. Zero refuses it at once.
    quota_wait_timeout: Limited = secs(1);
    /// Calls that wait for such places at once.
    quota_waiting_max: usize = 4096;
    /// Calls of one caller that wait for one place at once.
    quota_waiting_per_caller_max: usize = 64;
    /// Tools of one server that are known, and as many prompts, resources and templates. Of a longer list nothing is.
    tools_max: usize = 1024;
    /// Bytes of one such list, with all pages that it is on.
    tools_bytes_max: usize = 8 << 20;
    /// Pages of one such list that are read.
    tool_pages_max: usize = 64;
    /// Between readings of what a server offers, where it says nothing of a change.
    tools_read_every: Limited = secs(60);
    /// Bytes of a tool's input schema that arguments are held against.
    schema_bytes_max: usize = 128 << 10;
    /// Bytes that the schemas of one server's tools take together once they are made ready, as estimated.
    schemas_bytes_max: usize = 64 << 20;
    /// Answers that are kept for one server where a policy says so, and as many where the server says so itself.
    kept_answers_max: usize = 10_000;
    /// Bytes of all answers that are kept for one server, of each of the two.
    kept_answers_bytes_max: usize = 64 << 20;
    /// Bytes of the largest answer that is kept.
    kept_answer_bytes_max: usize = 1 << 20;
    /// Longest that what was read of a server is kept, whatever the server says. Zero keeps nothing of it.
    kept_reads_age_max: Limited = secs(3600);
    /// Calls at once, under way or with a record that waits to be written, that the audit trail records.
    audit_pending_max: usize = 8192;
    /// Bytes of one record of the audit trail. One that is longer is kept without arguments and answer.
    audit_record_bytes_max: usize = 16 << 10;
    /// Bytes of the arguments, and of the answer, of one call that are kept, where telemetry wants all of it.
    audit_value_bytes_max: usize = 4 << 10;
    /// Bytes of a segment of the audit trail after which the next one begins.
    audit_segment_bytes_max: u64 = 16 << 20;
    /// Age of a segment after which the next one begins.
    audit_segment_age: Limited = secs(3600);
    /// Longest that records go without a seal.
    audit_seal_every: Limited = secs(10);
    /// Bytes of the audit trail on disk. What the control plane has makes room; with nothing left to clear away, calls
    /// that are to be recorded are refused, or go on and are counted.
    audit_disk_bytes_max: u64 = 1 << 30;
    /// Bytes of the arguments, and of the answer, of one call that stand in its span, where telemetry wants them.
    span_value_bytes_max: usize = 4 << 10;
    /// Time a draining sidecar gives to what is in flight.
    drain_timeout: Limited = secs(25);
    /// Time without a connection of the local agent until a draining sidecar takes the agent for gone: for sidecars that
    /// are told to end when their agents are. Part of `drainTimeout`. Zero waits for no agent.
    linger_timeout: Limited = secs(0);
}
