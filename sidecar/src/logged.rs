//! Whether and how the access log is to have a call, as telemetry says. Not here: the writing.

use weft_proto::mcp::{Message, method};
use weft_proto::name::ServerName;
use weft_proto::policy;
use weft_proto::policy::expr::{Condition, Facts, Meter};
use weft_proto::resource::kinds::{LogFormat, Telemetry};
use weft_proto::resource::units::Ratio;

use crate::classify::Call;

/// What the access log is to have of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logged {
    /// Nothing, unless a rule wants it recorded.
    pub not: bool,
    /// Only if it does not go well: it is none of those of which a share is written.
    pub only_if_unwell: bool,
    pub format: LogFormat,
}

/// The first telemetry that speaks of the access log decides. A filter that cannot be evaluated keeps nothing back; of
/// callers who proved nothing there are no facts. `random` is below [`Ratio::ONE_MILLION`].
pub(crate) fn logged<'t>(
    mut telemetry: impl Iterator<Item = &'t Telemetry>,
    caller: impl FnOnce() -> Option<policy::Caller>,
    server: &ServerName,
    call: &Call<'_>,
    random: impl FnOnce() -> u32,
) -> Logged {
    let Some(log) = telemetry.find_map(|it| it.access_log.as_ref()) else { return Logged::default() };
    let holds = |filter: &Condition| caller().is_none_or(|caller| holds(filter, &caller, server, call));
    Logged {
        not: log.off || !log.filter.as_ref().is_none_or(holds),
        only_if_unwell: log.sample.is_some_and(|share| random() >= share.per_million()),
        format: log.format,
    }
}

/// A number for [`logged`].
pub(crate) fn random() -> u32 {
    rand::random_range(0..Ratio::ONE_MILLION)
}

/// Whether it holds for one message of a call. Of what is none there are no facts.
fn holds(filter: &Condition, caller: &policy::Caller, server: &ServerName, call: &Call<'_>) -> bool {
    let meter = Meter::default();
    let mut messages = call.messages().iter();
    messages.len() == 0
        || messages.any(|message| {
            let facts = Facts { caller, server, method: "", target: None, arguments: None };
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

#[cfg(test)]
mod tests {
    use weft_proto::resource::kinds::{AccessLog, Era};

    use super::*;
    use crate::classify;
    use crate::limits::Limits;

    fn check(log: Option<AccessLog>, random: u32, expected: Logged) {
        let body =
            br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","arguments":{}}}"#;
        let call = classify::again(body, Era::Modern, &Limits::default()).unwrap();
        let id = "spiffe://mesh.test/ns/agents/sa/a".parse::<weft_proto::name::SpiffeId>().unwrap();
        let caller = policy::Caller::new(id.workload().unwrap_or_else(|| panic!("it is a workload's")));
        let server = ServerName::parse("a/s").unwrap();
        let telemetry = [
            Telemetry::default(),
            Telemetry { access_log: log.clone(), ..Telemetry::default() },
            Telemetry {
                access_log: Some(AccessLog { off: true, ..AccessLog::default() }),
                ..Telemetry::default()
            },
        ];
        let telemetry = if log.is_some() { &telemetry[..] } else { &telemetry[..1] };
        assert_eq!(logged(telemetry.iter(), || Some(caller), &server, &call, || random), expected, "{log:?}");
    }

    #[test]
    fn the_first_telemetry_that_speaks_of_it_decides() {
        check(None, 0, Logged::default());
        check(Some(AccessLog::default()), 0, Logged::default());
        let text = AccessLog { format: LogFormat::Text, ..AccessLog::default() };
        check(Some(text), 0, Logged { format: LogFormat::Text, ..Logged::default() });
        check(
            Some(AccessLog { off: true, ..AccessLog::default() }),
            0,
            Logged { not: true, ..Logged::default() },
        );
        for (condition, not) in [("request.tool == 'read'", false), ("request.tool == 'write'", true)] {
            let filter = Some(condition.parse().unwrap());
            check(Some(AccessLog { filter, ..AccessLog::default() }), 0, Logged { not, ..Logged::default() });
        }
    }

    #[test]
    fn a_share_of_the_calls_is_taken_at_random() {
        let sampled = |per_million| {
            Some(AccessLog { sample: Ratio::from_per_million(per_million), ..AccessLog::default() })
        };
        let unwell = |only_if_unwell| Logged { only_if_unwell, ..Logged::default() };
        check(sampled(100_000), 99_999, unwell(false));
        check(sampled(100_000), 100_000, unwell(true));
        check(sampled(0), 0, unwell(true));
        check(sampled(Ratio::ONE_MILLION), Ratio::ONE_MILLION - 1, unwell(false));
    }
}
