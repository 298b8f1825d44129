//! Endpoints that are made of many servers: what each shows, and where what is asked of it goes.
//!
//! An assembly is known by what the control plane tells of its members' offers; no member is asked what it has. Towards
//! callers it is a server like any other, spoken to through a [`Front`]; towards its members' sidecars it speaks the modern
//! era, whatever the servers behind them speak. Not here: who may call, which is decided beside each member.

mod drawn;
mod narrowed;
mod peer;
mod search;
mod subscribed;
mod tasks;
mod way;
mod written;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_certs::tls::LiveIdentity;
use weft_proto::catalogue::card::About;
use weft_proto::mcp::{Message, Raw, Request, Target, edit, method};
use weft_proto::name::{ObjectName, ServerName, Workload};
use weft_proto::policy;
use weft_proto::policy::access::Call as Asked;
use weft_proto::roster::own_uri;

use crate::authorize::{self, Decided};
use crate::classify::{Call, Kind};
use crate::exchange::front::{Front, Place};
use crate::limits::Limits;
use crate::outbound::Outbound;
use crate::refusal::Refusal;
use crate::session_id::{Ring, Whence};
use crate::state::Live;
use crate::task_id::TaskIds;

use drawn::Drawn;
use peer::Members;

/// What assemblies are made with.
#[derive(Debug)]
pub struct Parts {
    pub live: Live,
    pub identity: LiveIdentity,
    pub to: Arc<Outbound>,
    pub limits: Arc<Limits>,
    /// Ends what merely listens.
    pub drain: CancellationToken,
    pub here: Whence,
    /// What ids of sessions are sealed with.
    pub ring: Ring,
    pub audience: Audience,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// This workload.
    Own,
    /// Those for whom it calls. What they may depends on their claims, so that what is drawn is what any of them could be
    /// allowed; each is shown its part.
    Guests,
}

/// The assemblies that somebody has asked for.
#[derive(Clone, Debug)]
pub struct Assemblies(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: Parts,
    /// By the name of the virtual server; everything that this workload may call goes by none.
    found: Mutex<HashMap<Option<ServerName>, Arc<Assembly>>>,
    updating: Mutex<()>,
}

/// One of them.
#[derive(Debug)]
pub struct Assembly {
    /// What its requests are counted under.
    pub name: ServerName,
    pub front: Arc<Front>,
    members: Arc<Members>,
    /// What listens ends with this.
    _drain: DropGuard,
}

/// Where something is that was asked for by the name that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub server: ServerName,
    /// What it is called there.
    pub own: String,
    /// The arguments of the call, where they are not those of the request.
    pub arguments: Option<String>,
}

impl Assemblies {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Shared { parts, found: Mutex::default(), updating: Mutex::default() }))
    }

    /// The assembly by a name, as the configuration in force has it.
    pub fn find(&self, name: Option<&ServerName>) -> Result<Arc<Assembly>, Refusal> {
        if let Some(found) = self.lock().get(&name.cloned()) {
            return Ok(Arc::clone(found));
        }
        let parts = &self.0.parts;
        let current = parts.live.load();
        let workload = self.workload().ok_or(Refusal::NotReady)?;
        let unknown = || Refusal::UnknownServer(name.map_or_else(String::new, ToString::to_string));
        let drawn = Drawn::new(&current.snapshot, name, self.asks(&workload), None).ok_or_else(unknown)?;
        let drain = parts.drain.child_token();
        // What is for this workload is not for those for whom it calls.
        let whose = match parts.audience {
            Audience::Own => "own",
            Audience::Guests => "guests",
        };
        let scope = format!("{whose} {}", name.map_or_else(|| "all".to_owned(), ToString::to_string));
        let scope: Arc<str> = scope.into();
        let ids = TaskIds::new(parts.ring.clone(), Arc::clone(&scope));
        let members = Members::new(Arc::new(drawn), ids, &parts.to, &parts.live, &parts.limits);
        let place = Place { here: parts.here, ring: parts.ring.clone(), scope };
        let front = Front::new(Arc::<Members>::clone(&members), &parts.limits, drain.clone(), place);
        let name_of_all = || ServerName { namespace: workload.namespace.clone(), name: everything() };
        let counted = name.cloned().unwrap_or_else(name_of_all);
        let assembly = Arc::new(Assembly { name: counted, front, members, _drain: drain.drop_guard() });
        let found = Arc::clone(self.lock().entry(name.cloned()).or_insert(assembly));
        // There may be another configuration by now, and whoever took it over did not know of this.
        self.update();
        Ok(found)
    }

    /// Draws what is asked for anew, if the configuration in force is another. Whoever listens is told what changed.
    pub fn update(&self) {
        // One after the other, so that what is drawn last is drawn from the newest.
        let _updating = self.0.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.0.parts.live.load();
        let Some(workload) = self.workload() else { return };
        let known: Vec<_> = self.lock().iter().map(|(name, it)| (name.clone(), Arc::clone(it))).collect();
        for (name, assembly) in known {
            let before = assembly.members.drawn();
            if before.is_of(&current.snapshot, name.as_ref(), self.asks(&workload)) {
                continue;
            }
            match Drawn::new(&current.snapshot, name.as_ref(), self.asks(&workload), Some(&before)) {
                Some(drawn) => assembly.members.draw(Arc::new(drawn)),
                None => _ = self.lock().remove(&name),
            }
        }
    }

    fn asks<'w>(&self, workload: &'w Workload) -> (&'w Workload, Audience) {
        (workload, self.0.parts.audience)
    }

    /// Who this sidecar calls as.
    fn workload(&self) -> Option<Workload> {
        self.0.parts.identity.leaf()?.spiffe_id.workload()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<ServerName>, Arc<Assembly>>> {
        self.0.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of what shows everything that a workload may call, within the workload's namespace.
fn everything() -> ObjectName {
    ObjectName::parse("everything").expect("a plain word is a name")
}

impl Assembly {
    /// Judges by the policies of the virtual server, each message of a batch for itself. They speak of tools and prompts
    /// by the names that are shown, and of resources by those that their servers have for them. What its members' policies
    /// say is for their sidecars.
    pub fn permit(
        &self,
        call: &Call<'_>,
        guest: Option<&policy::Caller>,
        decided: &mut Decided,
    ) -> Result<(), Refusal> {
        let drawn = self.members.drawn();
        if guest.is_some_and(|guest| !drawn.is_for(guest)) {
            return Err(Refusal::UnknownServer(self.name.to_string()));
        }
        let of_guest = guest.and_then(|guest| drawn.view_of(guest));
        let Some(view) = of_guest.as_ref().or(drawn.view.as_ref()) else { return Ok(()) };
        let mut judge = |asked: Asked<'_>| authorize::judge_one(view, asked, decided).map(drop);
        for message in call.messages() {
            match message {
                Message::Request(request) => judge_request(&drawn, request, &mut judge)?,
                Message::Notification(note) => judge(whole(&note.method))?,
                Message::Response(_) => judge(whole(method::INITIALIZE))?,
            }
        }
        match call.kind {
            Kind::Listen | Kind::End => judge(whole(method::INITIALIZE)),
            Kind::Message(_) | Kind::Batch(_) => Ok(()),
        }
    }

    /// What its card says of it.
    pub fn about(&self) -> About {
        self.members.drawn().about()
    }

    /// Where what a caller asks for is; none for what the assembly answers itself. What is not shown looks the same as
    /// what does not exist.
    pub fn locate(&self, request: &Request<'_>, caller: &str) -> Result<Option<Found>, Refusal> {
        self.members.locate(request, caller)
    }
}

/// About the virtual server as a whole.
const fn whole(method: &str) -> Asked<'_> {
    Asked { method, target: None, arguments: None }
}

fn judge_request(
    drawn: &Drawn,
    request: &Request<'_>,
    judge: &mut impl FnMut(Asked<'_>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let is_called = request.method == method::TOOLS_CALL;
    if is_called && drawn.search.is_some() && search::is_ours(request) {
        return match search::inner(request) {
            // Finding and describing is a way to list.
            None => judge(whole(method::TOOLS_LIST)),
            Some(inner) => judge(Asked {
                method: method::TOOLS_CALL,
                target: Some(Target::Tool(&inner.name)),
                arguments: inner.arguments.map(Raw::from),
            }),
        };
    }
    let target = request.target().map(|target| match target {
        Target::Resource(uri) => Target::Resource(own_uri(uri)),
        other => other,
    });
    let arguments = request.params.arguments.filter(|_| method::has_arguments(&request.method));
    judge(Asked { method: &request.method, target, arguments })?;
    for uri in &request.params.subscribed_uris {
        let target = Some(Target::Resource(own_uri(uri)));
        judge(Asked { target, ..whole(method::RESOURCES_SUBSCRIBE) })?;
    }
    Ok(())
}

impl Found {
    /// The request as the server knows what it names.
    pub fn renamed(&self, message: &[u8], request: &Request<'_>) -> Option<Vec<u8>> {
        match &self.arguments {
            None => edit::with_target(message, request, &self.own),
            Some(arguments) => edit::with_call(message, request, &self.own, arguments),
        }
    }
}

fn locate(drawn: &Drawn, request: &Request<'_>) -> Result<Option<Found>, Refusal> {
    let Some(target) = request.target() else { return Ok(None) };
    if drawn.search.is_none() || request.method != method::TOOLS_CALL {
        return find(drawn, target).map(Some);
    }
    if let Some(inner) = search::inner(request) {
        let found = find(drawn, Target::Tool(&inner.name))?;
        let arguments = inner.arguments.map_or("{}", RawValue::get).to_owned();
        return Ok(Some(Found { arguments: Some(arguments), ..found }));
    }
    match target {
        Target::Tool(_) if search::is_ours(request) => Ok(None),
        other => find(drawn, other).map(Some),
    }
}

fn find(drawn: &Drawn, target: Target<'_>) -> Result<Found, Refusal> {
    let (server, own) = drawn.roster.locate(target).ok_or_else(|| authorize::not_shown(target))?;
    Ok(Found { server, own, arguments: None })
}

#[cfg(test)]
mod tests;
