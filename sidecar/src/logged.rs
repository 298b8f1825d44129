//! Whether the access log is to have a call, as telemetry says. Not here: how it is written.

use weft_proto::compile::ServerEntry;
use weft_proto::mcp::{Message, method};
use weft_proto::policy::expr::{Condition, Facts, Meter};

use crate::classify::Call;
use crate::identify::Caller;

/// The first telemetry that speaks of the access log decides. A filter that cannot be evaluated keeps nothing back.
pub(crate) fn is_logged(entry: &ServerEntry, caller: &Caller, call: &Call<'_>) -> bool {
    let Some(log) = entry.telemetry.iter().find_map(|it| it.spec.access_log.as_ref()) else { return true };
    !log.off && log.filter.as_ref().is_none_or(|filter| holds(filter, entry, caller, call))
}

/// Whether it holds for one message of a call. Of what is none, as of callers who proved nothing, there are no facts.
fn holds(filter: &Condition, entry: &ServerEntry, caller: &Caller, call: &Call<'_>) -> bool {
    let Caller::Workload(proved) = caller else { return true };
    let (server, meter) = (entry.server.meta.full_name(), Meter::default());
    let mut messages = call.messages().iter();
    messages.len() == 0
        || messages.any(|message| {
            let facts =
                Facts { caller: &proved.caller, server: &server, method: "", target: None, arguments: None };
            let facts = match message {
                Message::Request(request) => Facts {
                    method: &request.method,
                    target: request.target(),
                    arguments: request.params.arguments.filter(|_| method::has_arguments(&request.method)),
                    ..facts
                },
                Message::Notification(note) => Facts { method: &note.method, ..facts },
                Message::Response(_) => facts,
            };
            filter.evaluate(&facts, &meter).unwrap_or(true)
        })
}
