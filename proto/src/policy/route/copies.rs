//! Whether a call may have a copy at the server that mirrors it.

use crate::compile::{ServerEntry, Snapshot};
use crate::mcp::method;
use crate::policy::tools::Speaking;
use crate::resource::kinds::{Mirror, MirroredCalls, RetryClass, RouteRule};

/// What mirrors ask about a call.
#[derive(Clone, Copy, Debug)]
pub struct Single<'a> {
    pub method: &'a str,
    /// The tool that is called.
    pub tool: Option<&'a str>,
}

/// The server that may get a copy of a call that stands for itself, and what is said of it: only of one that would do no
/// harm there, unless the rule says that none does.
pub fn mirrored<'s, 'r>(
    snapshot: &'s Snapshot,
    rule: &'r RouteRule,
    call: Single<'_>,
) -> Option<(&'r Mirror, &'s ServerEntry)> {
    let mirror = rule.mirror.as_ref().filter(|_| !means_nothing_elsewhere(call.method))?;
    let entry = snapshot.server(&mirror.server)?;
    let may = mirror.calls == MirroredCalls::All || reads(snapshot, entry, call);
    may.then_some((mirror, &**entry))
}

/// Methods that open something, or speak of what was opened, so that they mean nothing anywhere else.
fn means_nothing_elsewhere(name: &str) -> bool {
    name == method::INITIALIZE || name.starts_with("tasks/")
}

fn reads(snapshot: &Snapshot, entry: &ServerEntry, call: Single<'_>) -> bool {
    match (call.method, call.tool) {
        (method::TOOLS_CALL, tool) => tool.is_some_and(|tool| {
            let speaking = Speaking::of(entry, &snapshot.root_namespace(), tool);
            speaking.treatments(tool).enforced.retry == RetryClass::ReadOnly
        }),
        (method::PROMPTS_GET | method::RESOURCES_READ | method::COMPLETION_COMPLETE, _) => true,
        (other, _) => is_harmless(other),
    }
}

/// Methods that may be asked of two instances without harm.
pub fn is_harmless(method: &str) -> bool {
    matches!(
        method,
        "server/discover"
            | "ping"
            | "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
    )
}
