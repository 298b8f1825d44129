//! Which server takes a call that is addressed to another, and how it is sent there: by the `Route` of the server, by what
//! is known of instances, and by the policies for the tool at the server that takes it.
//!
//! A route is followed once: that of the server that takes the call says nothing about it. Not here: sessions, which go on
//! where they were opened.

use std::time::Duration;

use http::HeaderMap;
use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::mcp::lists::Listed;
use weft_proto::mcp::{Message, Target, method};
use weft_proto::name::ServerName;
use weft_proto::policy;
use weft_proto::policy::route::{self, Facts, Single, is_harmless};
use weft_proto::policy::tools::{Speaking, Treatment};
use weft_proto::resource::kinds::{RetryClass, RouteRule};

use crate::classify::Call;
use crate::headers::SESSION;
use crate::outbound::{Course, Manner, Outbound, Stop};
use crate::session_id::Whence;

/// Longer than a policy says, the answer is waited for here, so that the server's own sidecar is first to say that it
/// does not come.
pub const PEER_FIRST: Duration = Duration::from_secs(2);

/// What decides where a call goes.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub method: &'a str,
    /// The tool that is called.
    pub tool: Option<&'a str>,
    /// Whether it is one request that stands for itself: nothing that listens, no notification, and not of a session.
    pub is_single: bool,
    pub headers: &'a HeaderMap,
    /// Whoever proved who they are.
    pub caller: Option<&'a policy::Caller>,
    /// Where the call waits that this goes on with.
    pub waits: Option<Whence>,
}

impl<'a> Asked<'a> {
    /// What a call asks. A batch goes where its first message goes, and what has no message of its own where a session
    /// would be opened.
    pub fn of(call: &'a Call<'_>, headers: &'a HeaderMap, caller: Option<&'a policy::Caller>) -> Self {
        let method = call.messages().iter().find_map(Message::method).unwrap_or(method::INITIALIZE);
        let tool = call.request().and_then(|request| match request.target() {
            Some(Target::Tool(tool)) => Some(tool),
            _ => None,
        });
        let is_single = call.request().is_some() && !call.listens() && !headers.contains_key(SESSION);
        let waits = call.request().and_then(|request| Whence::read_json(request.params.request_state?.get()));
        Self { method, tool, is_single, headers, caller, waits }
    }

    fn has(&self, name: &str, test: &dyn Fn(&str) -> bool) -> bool {
        let mut values = self.headers.get_all(name).iter();
        values.any(|value| value.to_str().is_ok_and(test))
    }
}

/// Where a call to a server goes.
pub fn course(
    snapshot: &Snapshot,
    entry: &ServerEntry,
    asked: &Asked<'_>,
    to: &Outbound,
    mut random: impl FnMut() -> u64,
) -> Course {
    let facts = Facts {
        method: asked.method,
        tool: asked.tool,
        header: &|name, test| asked.has(name, test),
        caller: asked.caller,
    };
    let rule = entry.route.as_ref().and_then(|it| route::decide(&it.spec, &facts));
    let Some((_, rule)) = rule else { return Course::from(stop(snapshot, entry, asked)) };
    // What goes on is no new call: it is neither drawn nor copied.
    let known = || rule.to.iter().map(|it| &it.server).chain(rule.fallback.iter().flatten());
    let known = known().filter_map(|server| snapshot.server(server)).map(|entry| &**entry).chain([entry]);
    let keeps =
        |it: &&ServerEntry| asked.waits.is_some_and(|whence| to.keeps(&it.server.meta.full_name(), whence));
    if let Some(keeper) = known.into_iter().find(keeps) {
        return Course::from(stop(snapshot, keeper, asked));
    }
    let is_available = |server: &ServerName| {
        let known = snapshot.server(server);
        known.is_some_and(|it| to.is_available(&it.server.meta.full_name()))
    };
    let order = route::order(rule, random(), is_available).into_iter();
    let stops = order.filter_map(|server| snapshot.server(server)).map(|it| stop(snapshot, it, asked));
    Course { stops: stops.collect(), copy: copy(snapshot, rule, asked, &mut random) }
}

/// A call as a server takes it.
pub fn stop(snapshot: &Snapshot, entry: &ServerEntry, asked: &Asked<'_>) -> Stop {
    let manner = manner(snapshot, entry, asked.method, asked.tool);
    Stop { server: entry.server.meta.full_name(), manner }
}

/// Who gets a copy of a call, if somebody does.
fn copy(
    snapshot: &Snapshot,
    rule: &RouteRule,
    asked: &Asked<'_>,
    random: &mut impl FnMut() -> u64,
) -> Option<Stop> {
    let single = Single { method: asked.method, tool: asked.tool };
    let (mirror, entry) = route::mirrored(snapshot, rule, single).filter(|_| asked.is_single)?;
    route::is_copied(mirror, random()).then(|| stop(snapshot, entry, asked))
}

/// How a request is sent, as its method and the policies for its tool say.
pub fn manner(snapshot: &Snapshot, entry: &ServerEntry, name: &str, tool: Option<&str>) -> Manner {
    let Some(tool) = tool.filter(|_| name == method::TOOLS_CALL) else {
        return Manner { repeatable: is_harmless(name), ..Manner::default() };
    };
    treated(snapshot, entry, tool, |it| Manner {
        repeatable: it.retry != RetryClass::Never || it.trust_hints && says_it_may_repeat(entry, tool),
        timeout: it.timeout.map(|timeout| timeout + PEER_FIRST),
        hedge_after: it.hedge_after,
    })
}

/// Whether a tool says of itself that a call of it may be made again, as far as this caller knows what is offered.
fn says_it_may_repeat(entry: &ServerEntry, tool: &str) -> bool {
    let offered = entry.offer.as_ref().and_then(|offer| offer.find(Listed::Tool, tool));
    offered.is_some_and(|tool| tool.hints.may_repeat())
}

fn treated<T>(
    snapshot: &Snapshot,
    entry: &ServerEntry,
    tool: &str,
    look: impl FnOnce(&Treatment<'_>) -> T,
) -> T {
    look(&Speaking::of(entry, &snapshot.root_namespace(), tool).treatments(tool).enforced)
}

#[cfg(test)]
mod tests;
