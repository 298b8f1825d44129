//! Whether a caller may make a call: the policies of the snapshot decide, and only here are permits made.

use weft_proto::compile::{ServerEntry, Snapshot};
use weft_proto::mcp::{Message, Target, method};
use weft_proto::name::{SpiffeId, Workload};
use weft_proto::policy::access::{Call as Asked, Decision, Foretold, Marked, Reason, Rule, View};
use weft_proto::resource::kinds::DefaultAction;

use crate::classify::{Call, Kind};
use crate::gateway::is_of_token;
use crate::identify::Caller;
use crate::refusal::Refusal;

/// Leave to forward one request. Only this module makes one.
#[derive(Debug)]
pub struct Permit(());

/// What the record keeps of the decisions about a request.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    /// The rule that let the request pass or refused it; the last, where there were several.
    pub rule: Option<Rule>,
    /// Whether a rule, or the default of the mesh, wants the request recorded.
    pub audit: Marked,
    /// What the first policy in shadow that would have decided otherwise would have done.
    pub shadow: Option<Foretold>,
}

impl Decided {
    fn add(&mut self, decision: &Decision<'_>) {
        // That nothing forbade it needs no words in every line of the log.
        if let Reason::Rule(by) = decision.reason {
            self.rule = Some(by.keep());
        }
        self.audit = self.audit.max(decision.audit);
        if self.shadow.is_none() {
            let otherwise = decision.shadow.iter().find(|it| it.allowed != decision.allowed);
            self.shadow = otherwise.map(|it| it.keep());
        }
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
    decided: &mut Decided,
) -> Result<Permit, Refusal> {
    let proved = match caller {
        Caller::Workload(proved) => proved,
        // A listener without TLS proves nothing, so only what is open to everyone is open here.
        Caller::Anonymous => return anonymous(snapshot, entry),
        // It asks in its gateway's name.
        Caller::Local | Caller::Guest(_) => return Ok(local()),
    };
    if proved.by_gateway && !is_gateway(snapshot, proved.caller.id()) {
        return Err(Refusal::Denied {
            target: "a caller for whom a workload speaks that is no gateway".to_owned(),
            rule: "the gateways of the mesh's trust".to_owned(),
            explain: false,
            scope: None,
        });
    }
    if !is_of_mesh(snapshot, proved.caller.workload()) {
        return Err(Refusal::Denied {
            target: "a caller of another trust domain".to_owned(),
            rule: "federation is for gateways".to_owned(),
            explain: false,
            scope: None,
        });
    }
    judge(&proved.view(snapshot, entry), call, decided)
}

/// Decides about everything that a request says, by one view.
fn judge(view: &View, call: &Call<'_>, decided: &mut Decided) -> Result<Permit, Refusal> {
    let mut decide = |asked: Asked<'_>| judge_one(view, asked, decided).map(|Permit(())| ());
    let whole = |method| Asked { method, target: None, arguments: None };
    for message in call.messages() {
        match message {
            Message::Request(request) => {
                let arguments = method::has_arguments(&request.method).then_some(request.params.arguments);
                decide(Asked {
                    method: &request.method,
                    target: request.target(),
                    arguments: arguments.flatten(),
                })?;
                // A stream that listens is no way around the rules about what it listens to.
                for uri in &request.params.subscribed_uris {
                    let target = Some(Target::Resource(uri));
                    decide(Asked { target, ..whole(method::RESOURCES_SUBSCRIBE) })?;
                }
            }
            Message::Notification(note) => decide(whole(&note.method))?,
            // It answers what a permitted call was asked; the session knows whether it was.
            Message::Response(_) => decide(whole(OF_SESSIONS))?,
        }
    }
    match call.kind {
        Kind::Listen | Kind::End => decide(whole(OF_SESSIONS))?,
        Kind::Message(_) | Kind::Batch(_) => {}
    }
    Ok(Permit(()))
}

/// Decides about one thing that is asked.
pub fn judge_one(view: &View, asked: Asked<'_>, decided: &mut Decided) -> Result<Permit, Refusal> {
    let decision = view.decide(asked);
    decided.add(&decision);
    match decision.allowed {
        true => Ok(Permit(())),
        false => {
            // Whoever came with a key or a certificate has no way to another scope.
            let asks = is_of_token(view.caller());
            let scope = asks.then(|| view.scope_for(asked)).flatten().map(str::to_owned);
            Err(denied(asked, &decision, scope))
        }
    }
}

/// Whether a caller is of this mesh. Policies speak of namespaces and accounts of the mesh: one of a federated domain,
/// whose certificate is believed, could call its own by the same names.
fn is_of_mesh(snapshot: &Snapshot, caller: &Workload) -> bool {
    snapshot.mesh.as_ref().is_none_or(|mesh| mesh.trust_domain == caller.trust_domain)
}

/// Whether what a workload says of whom it calls for is believed.
pub fn is_gateway(snapshot: &Snapshot, id: &SpiffeId) -> bool {
    snapshot.mesh.as_ref().is_some_and(|mesh| mesh.is_gateway(id))
}

fn denied(asked: Asked<'_>, decision: &Decision<'_>, scope: Option<String>) -> Refusal {
    let rule = decision.reason.to_string();
    Refusal::Denied { target: target_of(asked), rule, explain: decision.explain, scope }
}

fn target_of(asked: Asked<'_>) -> String {
    match asked.target {
        Some(Target::Tool(name)) => format!("tool {name:?}"),
        Some(Target::Prompt(name)) => format!("prompt {name:?}"),
        Some(Target::Resource(uri)) => format!("resource {uri:?}"),
        Some(Target::Task(id)) => format!("task {id:?}"),
        None => format!("{:?}", asked.method),
    }
}

/// Something that is not among what is shown, which looks the same as what may not be used.
pub fn not_shown(target: Target<'_>) -> Refusal {
    let asked = Asked { method: "", target: Some(target), arguments: None };
    let rule = Reason::NoRule.to_string();
    Refusal::Denied { target: target_of(asked), rule, explain: false, scope: None }
}

/// The agent beside this sidecar asks in the sidecar's own name; whether that may call is decided where the server is.
pub const fn local() -> Permit {
    Permit(())
}

fn anonymous(snapshot: &Snapshot, entry: &ServerEntry) -> Result<Permit, Refusal> {
    let open = entry.access.is_empty() && snapshot.default_action() != DefaultAction::Deny;
    match open {
        true => Ok(local()),
        false => Err(Refusal::Denied {
            target: "a caller without an identity".to_owned(),
            rule: "the listener has no TLS".to_owned(),
            explain: true,
            scope: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::compile::compile;
    use weft_proto::resource::bounded::List;
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
            gateways: List::default(),
            gateways_are_told: true,
        };
        let snapshot = compile(&[Part::Mesh(mesh.into())].into_iter().collect());
        let caller = |domain: &str| {
            SpiffeId::parse(&format!("spiffe://{domain}/ns/agents/sa/a")).unwrap().workload().unwrap()
        };
        assert!(is_of_mesh(&snapshot, &caller("corp.example")));
        assert!(!is_of_mesh(&snapshot, &caller("other.example")));
    }
}
