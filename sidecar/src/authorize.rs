//! Whether a caller may make a call: the policies of the snapshot decide, and only here are permits made.

use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::mcp::{Message, Target, method};
use weft_proto::name::Workload;
use weft_proto::policy::access::{self, Call as Asked, Reason, Rule};
use weft_proto::resource::kinds::DefaultAction;

use crate::classify::{Call, Kind};
use crate::identify::Caller;
use crate::refusal::Refusal;

/// Leave to forward one request. Only this module makes one.
#[derive(Debug)]
pub struct Permit {
    rule: Option<Rule>,
}

impl Permit {
    /// The rule that let the request pass, for the record.
    pub fn rule(&self) -> Option<Rule> {
        self.rule.clone()
    }
}

/// What belongs to a session as a whole is let through with the method that begins one: whoever may call anything may
/// also listen, answer and end.
const OF_SESSIONS: &str = method::INITIALIZE;

/// Decides about everything that a request says. Each message of a batch must be allowed.
pub fn authorize(
    snapshot: &Snapshot,
    entry: &ServerEntry,
    caller: &Caller,
    call: &Call<'_>,
) -> Result<Permit, Refusal> {
    let proved = match caller {
        Caller::Workload(proved) => proved,
        // A listener without TLS proves nothing, so only what is open to everyone is open here.
        Caller::Anonymous => return anonymous(snapshot, entry),
        Caller::Local => return Ok(local()),
    };
    if !is_of_mesh(snapshot, proved.caller.workload()) {
        return Err(Refusal::Denied {
            target: "a caller of another trust domain".to_owned(),
            rule: "federation is for gateways".to_owned(),
            explain: false,
        });
    }
    let mut rule = None;
    let mut decide = |method: &str, target| {
        let asked = Asked { method, target };
        let decision = access::decide(&entry.access, snapshot.default_action(), &proved.caller, asked);
        match (decision.allowed, decision.reason) {
            (false, reason) => return Err(denied(asked, reason, decision.explain)),
            (true, Reason::Rule(by)) => rule = Some(by.keep()),
            // That nothing forbade it needs no words in every line of the log.
            (true, Reason::Default | Reason::NoRule | Reason::Unnamed) => {}
        }
        Ok(())
    };
    for message in call.messages() {
        match message {
            Message::Request(request) => {
                decide(&request.method, request.target())?;
                // A stream that listens is no way around the rules about what it listens to.
                for uri in &request.params.subscribed_uris {
                    decide(method::RESOURCES_SUBSCRIBE, Some(Target::Resource(uri)))?;
                }
            }
            Message::Notification(note) => decide(&note.method, None)?,
            // It answers what a permitted call was asked; the session knows whether it was.
            Message::Response(_) => decide(OF_SESSIONS, None)?,
        }
    }
    match call.kind {
        Kind::Listen | Kind::End => decide(OF_SESSIONS, None)?,
        Kind::Message(_) | Kind::Batch(_) => {}
    }
    Ok(Permit { rule })
}

/// Whether a caller is of this mesh. Policies speak of namespaces and accounts of the mesh: one of a federated domain,
/// whose certificate is believed, could call its own by the same names.
fn is_of_mesh(snapshot: &Snapshot, caller: &Workload) -> bool {
    snapshot.mesh.as_ref().is_none_or(|mesh| mesh.trust_domain == caller.trust_domain)
}

fn denied(asked: Asked<'_>, reason: Reason<'_>, explain: bool) -> Refusal {
    let target = match asked.target {
        Some(Target::Tool(name)) => format!("tool {name:?}"),
        Some(Target::Prompt(name)) => format!("prompt {name:?}"),
        Some(Target::Resource(uri)) => format!("resource {uri:?}"),
        Some(Target::Task(id)) => format!("task {id:?}"),
        None => format!("{:?}", asked.method),
    };
    Refusal::Denied { target, rule: reason.to_string(), explain }
}

/// The agent beside this sidecar asks in the sidecar's own name; whether that may call is decided where the server is.
pub const fn local() -> Permit {
    Permit { rule: None }
}

fn anonymous(snapshot: &Snapshot, entry: &ServerEntry) -> Result<Permit, Refusal> {
    let open = entry.access.is_empty() && snapshot.default_action() != DefaultAction::Deny;
    match open {
        true => Ok(local()),
        false => Err(Refusal::Denied {
            target: "a caller without an identity".to_owned(),
            rule: "the listener has no TLS".to_owned(),
            explain: true,
        }),
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::compile::compile;
    use weft_proto::name::SpiffeId;
    use weft_proto::resource::units::Span;
    use weft_proto::wire::{Mesh, Part};

    use super::*;

    #[test]
    fn a_caller_of_a_federated_domain_is_not_taken_for_one_of_the_mesh() {
        let mesh = Mesh {
            trust_domain: "corp.example".parse().unwrap(),
            default_action: DefaultAction::Allow,
            svid_lifetime: Span::from_secs(3600),
            root_namespace: "weft-system".parse().unwrap(),
        };
        let snapshot = compile(&[Part::Mesh(mesh.into())].into_iter().collect());
        let caller = |domain: &str| {
            SpiffeId::parse(&format!("spiffe://{domain}/ns/agents/sa/a")).unwrap().workload().unwrap()
        };
        assert!(is_of_mesh(&snapshot, &caller("corp.example")));
        assert!(!is_of_mesh(&snapshot, &caller("other.example")));
    }
}
