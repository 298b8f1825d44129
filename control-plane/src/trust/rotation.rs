//! Exchanging the mesh's root in gated steps, as a pure state machine.
//!
//! 1. *Adding*: the new root is trusted beside the old one, and every sidecar must have said so.
//! 2. *Renewing*: certificates are issued under the new root, and every sidecar must have one (or every certificate of
//!    the old root has ended).
//! 3. *Dropping*: the old root is no longer trusted, and every sidecar must have said so.
//!
//! Nothing restarts, and until the old root is dropped every step can be taken back.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use weft_proto::wire::ResourceType;

use crate::xds::{ClientStatus, Sync};

/// Where a rotation stands. Generations number the roots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "camelCase")]
pub enum State {
    #[default]
    Stable,
    Adding {
        from: u32,
        to: u32,
        since: SystemTime,
    },
    Renewing {
        from: u32,
        to: u32,
        since: SystemTime,
    },
    Dropping {
        dropped: u32,
        since: SystemTime,
    },
}

impl State {
    /// As people are told.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Adding { .. } => "adding",
            Self::Renewing { .. } => "renewing",
            Self::Dropping { .. } => "dropping",
        }
    }

    pub const fn since(self) -> Option<SystemTime> {
        match self {
            Self::Stable => None,
            Self::Adding { since, .. } | Self::Renewing { since, .. } | Self::Dropping { since, .. } => {
                Some(since)
            }
        }
    }
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Start,
    Advance,
    Abort,
}

/// What must be done before a new state is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    AddRoot,
    SwitchIssuer { to: u32 },
    DropRoot { generation: u32 },
    Nothing,
}

/// Whether the next step may be taken, and who is in the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gate {
    pub waiting_for: Vec<Waiting>,
    /// When time alone opens the gate.
    pub opens_at: Option<SystemTime>,
}

impl Gate {
    pub const fn is_open(&self) -> bool {
        self.waiting_for.is_empty()
    }
}

/// A sidecar that is not ready for the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub node: String,
    pub why: String,
}

/// Why a step is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("a rotation is under way ({0}); advance or abort it")]
    UnderWay(&'static str),
    #[error("no rotation is under way; start one")]
    NoneUnderWay,
    #[error("{} sidecars are not ready for the next step, the first is {first}", .count)]
    NotReady { count: usize, first: String },
    #[error("the old root is dropped already; start another rotation instead")]
    TooLate,
}

/// Decides what an action means in a state. The caller runs the command and stores what `then` makes of it.
pub fn decide(state: State, action: Action, gate: &Gate, force: bool) -> Result<Command, Refused> {
    let pass = || match gate.waiting_for.first() {
        Some(first) if !force => {
            let first = format!("{} ({})", first.node, first.why);
            Err(Refused::NotReady { count: gate.waiting_for.len(), first })
        }
        _ => Ok(()),
    };
    match (action, state) {
        (Action::Start, State::Stable) => Ok(Command::AddRoot),
        (Action::Start, state) => Err(Refused::UnderWay(state.word())),
        (Action::Advance | Action::Abort, State::Stable) => Err(Refused::NoneUnderWay),
        (Action::Advance, State::Adding { to, .. }) => pass().map(|()| Command::SwitchIssuer { to }),
        (Action::Advance, State::Renewing { from, .. }) => {
            pass().map(|()| Command::DropRoot { generation: from })
        }
        (Action::Advance, State::Dropping { .. }) => pass().map(|()| Command::Nothing),
        // Nobody holds a certificate of the new root yet.
        (Action::Abort, State::Adding { to, .. }) => Ok(Command::DropRoot { generation: to }),
        // Some do now, so they must renew under the old root before the new one can go.
        (Action::Abort, State::Renewing { from, .. }) => Ok(Command::SwitchIssuer { to: from }),
        (Action::Abort, State::Dropping { .. }) => Err(Refused::TooLate),
    }
}

/// The state after a command was carried out. `current` is the generation that issued before; `added` what `AddRoot`
/// made.
pub fn then(state: State, command: Command, current: u32, added: Option<u32>, now: SystemTime) -> State {
    match (command, state) {
        (Command::AddRoot, _) => State::Adding { from: current, to: added.unwrap_or(current), since: now },
        (Command::SwitchIssuer { to }, State::Adding { from, .. }) => {
            State::Renewing { from, to, since: now }
        }
        (Command::SwitchIssuer { to }, State::Renewing { to: abandoned, .. }) => {
            State::Renewing { from: abandoned, to, since: now }
        }
        (Command::DropRoot { generation }, _) => State::Dropping { dropped: generation, since: now },
        (Command::Nothing, State::Dropping { .. }) => State::Stable,
        (Command::SwitchIssuer { .. } | Command::Nothing, state) => state,
    }
}

/// Who is in the way of leaving a state. `issuing_root` is the fingerprint of the root that certificates lead to now;
/// `lifetime_max` how long a certificate issued before the state began may still live.
pub fn gate(
    state: State,
    clients: &[ClientStatus],
    issuing_root: &str,
    lifetime_max: Duration,
    now: SystemTime,
) -> Gate {
    let (since, renewing) = match state {
        State::Stable => return Gate::default(),
        State::Adding { since, .. } | State::Dropping { since, .. } => (since, false),
        State::Renewing { since, .. } => (since, true),
    };
    let all_ended = since + lifetime_max;
    if now >= all_ended && renewing {
        return Gate::default();
    }
    let waits = |client: &ClientStatus| {
        if client.certificate_expires <= now {
            // It must prove itself anew and gets everything then.
            return None;
        }
        let why = match (client.connected, renewing) {
            (false, _) => "not connected, and its certificate still holds".to_owned(),
            (true, false) => bundle_missing(client, since)?,
            (true, true) if client.certificate_root == issuing_root => return None,
            (true, true) => "its certificate leads to the other root".to_owned(),
        };
        Some(Waiting { node: client.node.to_string(), why })
    };
    Gate { waiting_for: clients.iter().filter_map(waits).collect(), opens_at: renewing.then_some(all_ended) }
}

/// Whether a sidecar has not yet acknowledged the roots as they are since `since`.
fn bundle_missing(client: &ClientStatus, since: SystemTime) -> Option<String> {
    let Some(status) = client.types.get(&ResourceType::TrustBundle) else {
        return Some("it does not subscribe to trust bundles".to_owned());
    };
    let acknowledged = status.acknowledged_at.is_some_and(|at| at >= since);
    match status.sync() {
        Sync::Rejected => {
            let text = status.nack.as_ref().map(|nack| nack.message.as_str()).unwrap_or_default();
            Some(format!("it rejected the trust bundle: {text}"))
        }
        Sync::Waiting => Some("it has not acknowledged the trust bundle".to_owned()),
        Sync::Synced if acknowledged => None,
        Sync::Synced => Some("it was not sent the trust bundle yet".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weft_proto::name::{NodeId, SpiffeId};

    use super::*;
    use crate::xds::{NackStatus, TypeStatus};

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + secs)
    }

    const LIFE: Duration = Duration::from_secs(3600);

    fn client(name: &str, root: &str, acknowledged: u64) -> ClientStatus {
        let bundle = TypeStatus {
            sent_at: Some(at(acknowledged)),
            acknowledged_at: Some(at(acknowledged)),
            ..TypeStatus::default()
        };
        ClientStatus {
            node: NodeId::parse(&format!("research/{name}")).unwrap(),
            identity: SpiffeId::parse("spiffe://d/ns/research/sa/a").unwrap(),
            version: String::new(),
            peer: String::new(),
            connected: true,
            connected_at: at(0),
            disconnected_at: None,
            serves: Vec::new(),
            seen_revision: 0,
            types: BTreeMap::from([(ResourceType::TrustBundle, bundle)]),
            certificate_serial: String::new(),
            certificate_expires: at(3000),
            certificate_root: root.to_owned(),
        }
    }

    fn waiting(state: State, clients: &[ClientStatus], root: &str, now: u64) -> Vec<String> {
        let gate = gate(state, clients, root, LIFE, at(now));
        gate.waiting_for.into_iter().map(|it| format!("{}: {}", it.node, it.why)).collect()
    }

    #[test]
    fn a_whole_rotation_goes_through_its_steps_in_order() {
        let mut state = State::Stable;
        let mut commands = Vec::new();
        for action in [Action::Start, Action::Advance, Action::Advance, Action::Advance] {
            let command = decide(state, action, &Gate::default(), false).unwrap();
            commands.push(command);
            state = then(state, command, 1, Some(2), at(0));
        }
        let expected = [
            Command::AddRoot,
            Command::SwitchIssuer { to: 2 },
            Command::DropRoot { generation: 1 },
            Command::Nothing,
        ];
        assert_eq!(commands, expected);
        assert_eq!(state, State::Stable);
    }

    #[test]
    fn no_step_is_taken_while_a_sidecar_lags_unless_forced() {
        let state = State::Adding { from: 1, to: 2, since: at(10) };
        let gate = gate(state, &[client("a", "old", 5)], "old", LIFE, at(11));
        let refused = decide(state, Action::Advance, &gate, false).unwrap_err();
        assert!(
            matches!(&refused, Refused::NotReady { count: 1, first } if first.starts_with("research/a")),
            "{refused}"
        );
        assert_eq!(decide(state, Action::Advance, &gate, true), Ok(Command::SwitchIssuer { to: 2 }));
    }

    #[test]
    fn adding_waits_for_every_sidecar_to_acknowledge_the_roots() {
        let state = State::Adding { from: 1, to: 2, since: at(10) };
        let mut rejected = client("b", "old", 12);
        rejected.types.get_mut(&ResourceType::TrustBundle).unwrap().nack =
            Some(NackStatus { at: at(12), message: "no".to_owned() });
        let mut silent = client("c", "old", 12);
        silent.types.clear();
        let mut slow = client("d", "old", 12);
        slow.types.get_mut(&ResourceType::TrustBundle).unwrap().waiting = 1;
        let mut away = client("e", "old", 12);
        away.connected = false;
        let mut ended = client("f", "old", 5);
        ended.certificate_expires = at(11);
        let clients = [client("a", "old", 12), rejected, silent, slow, away, ended, client("g", "old", 9)];
        let expected = [
            "research/b: it rejected the trust bundle: no",
            "research/c: it does not subscribe to trust bundles",
            "research/d: it has not acknowledged the trust bundle",
            "research/e: not connected, and its certificate still holds",
            "research/g: it was not sent the trust bundle yet",
        ];
        assert_eq!(waiting(state, &clients, "old", 13), expected);
    }

    #[test]
    fn renewing_waits_for_new_certificates_or_for_the_end_of_the_old() {
        let state = State::Renewing { from: 1, to: 2, since: at(10) };
        let mut old = client("a", "old", 12);
        old.certificate_expires = at(100_000);
        let clients = [old, client("b", "new", 12)];
        assert_eq!(
            waiting(state, &clients, "new", 13),
            ["research/a: its certificate leads to the other root"]
        );
        assert!(waiting(state, &clients, "new", 10 + LIFE.as_secs()).is_empty());
    }

    #[test]
    fn a_rotation_can_be_taken_back_until_the_old_root_is_dropped() {
        let open = Gate::default();
        let adding = State::Adding { from: 1, to: 2, since: at(0) };
        let command = decide(adding, Action::Abort, &open, false).unwrap();
        assert_eq!(command, Command::DropRoot { generation: 2 });
        assert_eq!(then(adding, command, 1, None, at(1)), State::Dropping { dropped: 2, since: at(1) });

        let renewing = State::Renewing { from: 1, to: 2, since: at(0) };
        let command = decide(renewing, Action::Abort, &open, false).unwrap();
        let back = then(renewing, command, 2, None, at(1));
        assert_eq!(back, State::Renewing { from: 2, to: 1, since: at(1) });
        assert_eq!(decide(back, Action::Advance, &open, false), Ok(Command::DropRoot { generation: 2 }));

        let dropping = State::Dropping { dropped: 1, since: at(0) };
        assert_eq!(decide(dropping, Action::Abort, &open, false), Err(Refused::TooLate));
        assert_eq!(decide(State::Stable, Action::Advance, &open, false), Err(Refused::NoneUnderWay));
        assert_eq!(decide(adding, Action::Start, &open, false), Err(Refused::UnderWay("adding")));
    }

    #[test]
    fn the_state_survives_being_written_down() {
        let state = State::Renewing { from: 1, to: 2, since: at(7) };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
}
