//! Exchanging the mesh's root in gated steps, as a pure state machine.
//!
//! 1. *Adding*: the new root is trusted beside the old one, and every sidecar must have said so.
//! 2. *Renewing*: certificates are issued under the new root, and every sidecar must have one (or its
//!    certificate of the old root has ended).
//! 3. *Dropping*: the old root is no longer trusted, and every sidecar must have said so.
//!
//! Nothing restarts, and until the old root is dropped every step can be taken back.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use weft_proto::wire::ResourceType;

use crate::xds::{ClientStatus, Sync};

/// How long sidecars have to come back after the control plane's start.
const RECONNECT_GRACE: Duration = Duration::from_secs(60);
/// Stands for sidecars whose names are not known.
const EVERYONE: &str = "*";

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

/// What a gate is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub clients: &'a [ClientStatus],
    /// Fingerprint of the root that certificates lead to now.
    pub issuing_root: &'a str,
    /// Version of the own trust bundle as it is published now.
    pub bundle_version: &'a str,
    /// How long a certificate issued before the state began may still live.
    pub lifetime_max: Duration,
    /// Since when this process knows who connects.
    pub known_since: SystemTime,
    pub now: SystemTime,
}

/// Who is in the way of leaving a state.
pub fn gate(state: State, facts: &Facts<'_>) -> Gate {
    let Some(since) = state.since() else { return Gate::default() };
    let renewing = matches!(state, State::Renewing { .. });
    let known = facts.clients.iter().filter_map(|client| in_the_way(client, renewing, facts));
    let waiting: Vec<Blocker> = known.chain(unknown(since, renewing, facts)).collect();
    // Empty is open already; one without an end is not opened by time.
    let ends: Option<Vec<SystemTime>> = waiting.iter().map(|it| it.ends).collect();
    Gate {
        opens_at: ends.and_then(|ends| ends.into_iter().max()),
        waiting_for: waiting.into_iter().map(|it| it.waiting).collect(),
    }
}

/// Whom a gate waits for, and when time alone takes it out of the way.
struct Blocker {
    waiting: Waiting,
    ends: Option<SystemTime>,
}

/// A client is judged by the certificate that it really has: the lifetime may have been another when it was issued.
fn in_the_way(client: &ClientStatus, renewing: bool, facts: &Facts<'_>) -> Option<Blocker> {
    let expires = client.certificate_expires;
    if expires <= facts.now {
        // It must prove itself anew and gets everything then.
        return None;
    }
    let (why, ends) = match (client.connected, renewing) {
        (false, _) => ("not connected, and its certificate still holds".to_owned(), Some(expires)),
        // A connected one renews its certificate, so its end means nothing.
        (true, false) => (bundle_missing(client, facts.bundle_version)?, None),
        (true, true) if client.certificate_root == facts.issuing_root => return None,
        (true, true) => ("its certificate leads to the other root".to_owned(), Some(expires)),
    };
    Some(Blocker { waiting: Waiting { node: client.node.to_string(), why }, ends })
}

/// What stands for sidecars that this process has not seen. Nobody is known right after a start, and a gate must not
/// take that for nobody being in the way. A state that began later has known its clients all along.
fn unknown(since: SystemTime, renewing: bool, facts: &Facts<'_>) -> impl Iterator<Item = Blocker> {
    let returning = (
        facts.known_since + RECONNECT_GRACE,
        "sidecars are still coming back after the control plane's start",
    );
    let holding =
        (since + facts.lifetime_max, "certificates of sidecars that have not come back may still hold");
    let inherited = facts.known_since >= since;
    let now = facts.now;
    [(inherited, returning), (inherited && renewing, holding)]
        .into_iter()
        .filter(move |(applies, (ends, _))| *applies && now < *ends)
        .map(|(_, (ends, why))| Blocker {
            waiting: Waiting { node: EVERYONE.to_owned(), why: why.to_owned() },
            ends: Some(ends),
        })
}

/// Whether a sidecar has not yet acknowledged the roots as they are now. Versions are compared and not times: an answer
/// to the roots before may come after the step.
fn bundle_missing(client: &ClientStatus, bundle_version: &str) -> Option<String> {
    let Some(status) = client.types.get(&ResourceType::TrustBundle) else {
        return Some("it does not subscribe to trust bundles".to_owned());
    };
    match status.sync() {
        Sync::Rejected => {
            let text = status.nack.as_ref().map(|nack| nack.message.as_str()).unwrap_or_default();
            Some(format!("it rejected the trust bundle: {text}"))
        }
        Sync::Waiting => Some("it has not acknowledged the trust bundle".to_owned()),
        Sync::Synced if client.trust_bundle.as_deref() == Some(bundle_version) => None,
        Sync::Synced => Some("it was not sent the latest trust bundle yet".to_owned()),
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

    fn client(name: &str, root: &str, bundle: &str) -> ClientStatus {
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
            told_revision: 0,
            types: BTreeMap::from([(ResourceType::TrustBundle, TypeStatus::default())]),
            certificate_serial: String::new(),
            certificate_expires: at(3000),
            certificate_root: root.to_owned(),
            trust_bundle: Some(bundle.into()),
            report: None,
            tools: Default::default(),
        }
    }

    /// A process that was there before every rotation.
    fn facts<'a>(clients: &'a [ClientStatus], issuing_root: &'a str, now: u64) -> Facts<'a> {
        Facts {
            clients,
            issuing_root,
            bundle_version: "v2",
            lifetime_max: LIFE,
            known_since: at(0),
            now: at(now),
        }
    }

    fn told(gate: Gate) -> Vec<String> {
        gate.waiting_for.into_iter().map(|it| format!("{}: {}", it.node, it.why)).collect()
    }

    fn waiting(state: State, clients: &[ClientStatus], root: &str, now: u64) -> Vec<String> {
        told(gate(state, &facts(clients, root, now)))
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
        let gate = gate(state, &facts(&[client("a", "old", "v1")], "old", 11));
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
        let mut rejected = client("b", "old", "v2");
        rejected.types.get_mut(&ResourceType::TrustBundle).unwrap().nack =
            Some(NackStatus { at: at(12), message: "no".to_owned() });
        let mut silent = client("c", "old", "v2");
        silent.types.clear();
        let mut slow = client("d", "old", "v2");
        slow.types.get_mut(&ResourceType::TrustBundle).unwrap().waiting = 1;
        let mut away = client("e", "old", "v2");
        away.connected = false;
        let mut ended = client("f", "old", "v1");
        ended.certificate_expires = at(11);
        let clients =
            [client("a", "old", "v2"), rejected, silent, slow, away, ended, client("g", "old", "v1")];
        let expected = [
            "research/b: it rejected the trust bundle: no",
            "research/c: it does not subscribe to trust bundles",
            "research/d: it has not acknowledged the trust bundle",
            "research/e: not connected, and its certificate still holds",
            "research/g: it was not sent the latest trust bundle yet",
        ];
        assert_eq!(waiting(state, &clients, "old", 13), expected);
    }

    #[test]
    fn an_answer_to_the_roots_before_does_not_count_however_late_it_comes() {
        let state = State::Dropping { dropped: 1, since: at(10) };
        let mut late = client("a", "new", "v1");
        late.types.get_mut(&ResourceType::TrustBundle).unwrap().acknowledged_at = Some(at(12));
        let lagging = ["research/a: it was not sent the latest trust bundle yet"];
        assert_eq!(waiting(state, &[late.clone()], "new", 13), lagging);
        late.trust_bundle = None;
        assert_eq!(waiting(state, &[late.clone()], "new", 13), lagging);
        late.trust_bundle = Some("v2".into());
        assert!(waiting(state, &[late], "new", 13).is_empty());
    }

    #[test]
    fn renewing_waits_for_new_certificates_or_for_the_end_of_the_old() {
        let state = State::Renewing { from: 1, to: 2, since: at(10) };
        let mut away = client("c", "old", "v2");
        away.connected = false;
        let clients = [client("a", "old", "v2"), client("b", "new", "v2"), away];
        let expected = [
            "research/a: its certificate leads to the other root",
            "research/c: not connected, and its certificate still holds",
        ];
        assert_eq!(waiting(state, &clients, "new", 13), expected);
        assert_eq!(gate(state, &facts(&clients, "new", 13)).opens_at, Some(at(3000)));
        assert!(waiting(state, &clients, "new", 3000).is_empty());
    }

    #[test]
    fn a_certificate_that_outlives_the_lifetime_set_now_keeps_the_old_root() {
        let state = State::Renewing { from: 1, to: 2, since: at(10) };
        let mut old = client("a", "old", "v2");
        old.certificate_expires = at(100_000);
        let lifetime_passed = 10 + LIFE.as_secs();
        let expected = ["research/a: its certificate leads to the other root"];
        assert_eq!(waiting(state, &[old.clone()], "new", lifetime_passed), expected);
        assert!(waiting(state, &[old], "new", 100_000).is_empty());
    }

    #[test]
    fn after_a_restart_an_empty_list_of_clients_opens_no_gate() {
        const RETURNING: &str = "*: sidecars are still coming back after the control plane's start";
        const HOLDING: &str = "*: certificates of sidecars that have not come back may still hold";
        let adding = State::Adding { from: 1, to: 2, since: at(10) };
        let renewing = State::Renewing { from: 1, to: 2, since: at(10) };
        let dropping = State::Dropping { dropped: 1, since: at(10) };
        let check = |state: State, known_since: u64, now: u64, expected: &[&str], opens_at: Option<u64>| {
            let gate = gate(state, &Facts { known_since: at(known_since), ..facts(&[], "new", now) });
            assert_eq!(gate.opens_at, opens_at.map(at), "{state:?} at {now}");
            assert_eq!(told(gate), expected, "{state:?} at {now}");
        };
        for state in [adding, dropping] {
            check(state, 20, 79, &[RETURNING], Some(80));
            check(state, 20, 80, &[], None);
        }
        check(renewing, 20, 79, &[RETURNING, HOLDING], Some(10 + LIFE.as_secs()));
        check(renewing, 20, 80, &[HOLDING], Some(10 + LIFE.as_secs()));
        check(renewing, 20, 10 + LIFE.as_secs(), &[], None);
        // What a start finds begun but not recorded dates from that start.
        check(adding, 10, 11, &[RETURNING], Some(70));
        // Begun by this very process.
        for state in [adding, renewing, dropping] {
            check(state, 9, 11, &[], None);
        }
        check(State::Stable, 20, 21, &[], None);
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
