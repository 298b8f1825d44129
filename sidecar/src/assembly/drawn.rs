//! What an assembly shows, drawn from one configuration.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderValue;
use weft_proto::catalogue::card::About;
use weft_proto::compile::{ServerEntry, Snapshot, VirtualEntry};
use weft_proto::name::{ServerName, Workload};
use weft_proto::offer::Offer;
use weft_proto::policy::access::{Policies, View};
use weft_proto::policy::{self, Caller};
use weft_proto::resource::kinds::{DefaultAction, ListMode, VirtualServer};
use weft_proto::roster::{Naming, Part, Roster, SEPARATOR};
use weft_proto::wire::Object;

use crate::exchange::Introduction;

use super::Audience;
use super::narrowed::{self, Narrowed};
use super::search::Searchable;
use super::written;

/// What an assembly shows.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) roster: Roster,
    pub(super) introduction: Arc<Introduction>,
    /// Whether any member has tasks.
    pub(super) has_tasks: bool,
    /// Instead of a list of all tools.
    pub(super) search: Option<Searchable>,
    /// What the virtual server's own policies say of what is asked by the names that are shown; none if there are none.
    pub(super) view: Option<View>,
    /// What of it each of those is shown for whom a gateway calls.
    parts: narrowed::Kept,
    source: Source,
}

/// What it was drawn from. The same parts make the same drawing.
#[derive(Debug)]
struct Source {
    workload: Workload,
    audience: Audience,
    virtual_server: Option<Arc<Object<VirtualServer>>>,
    access: Policies,
    /// Of the members that offer anything, in their order.
    offers: Vec<Arc<Offer>>,
    /// What decides of guests.
    judged: Judged,
}

impl Drawn {
    /// None if there is no such virtual server, or it is not for this workload.
    pub(super) fn new(
        snapshot: &Snapshot,
        name: Option<&ServerName>,
        asks: (&Workload, Audience),
        before: Option<&Self>,
    ) -> Option<Self> {
        let source = Source::new(snapshot, name, asks)?;
        let view = source.view();
        let roster = match &source.virtual_server {
            Some(virtual_server) => source.roster_of(snapshot, virtual_server, view.as_ref()),
            None => source.roster_of_all(),
        };
        let spec = source.virtual_server.as_ref().map(|it| &it.spec);
        let said = written::Said {
            name: name.map_or_else(|| "weft".to_owned(), ToString::to_string),
            instructions: spec.and_then(|spec| spec.instructions.as_ref()).map(|it| it.as_str()),
            offers: &source.offers,
        };
        let introduction = Arc::new(written::introduction(&said));
        let searches = spec.is_some_and(|spec| spec.mode == ListMode::Search);
        let search =
            searches.then(|| Searchable::of(&roster, before.and_then(|before| before.search.as_ref())));
        let has_tasks = written::has_tasks(&introduction);
        Some(Self { roster, introduction, has_tasks, search, view, parts: narrowed::Kept::default(), source })
    }

    /// Whether it would be drawn the same.
    pub(super) fn is_of(
        &self,
        snapshot: &Snapshot,
        name: Option<&ServerName>,
        asks: (&Workload, Audience),
    ) -> bool {
        Source::new(snapshot, name, asks).is_some_and(|source| source.is_same(&self.source))
    }

    /// What is told of it before anybody connects: what its resource says, and nothing of its members.
    pub(super) fn about(&self) -> About {
        let spec = self.source.virtual_server.as_ref().map(|it| &it.spec);
        let instructions = spec.and_then(|spec| spec.instructions.as_ref());
        About::whole(env!("CARGO_PKG_VERSION"), instructions.map_or("", |it| it.as_str()))
    }

    /// Whether it is for one of those whom a gateway calls for.
    pub(super) fn is_for(&self, guest: &Caller) -> bool {
        self.source.virtual_server.as_ref().is_none_or(|it| policy::is_for(guest, &it.spec))
    }

    /// Whether a server is one of those that this is made of.
    pub(super) fn has(&self, server: &ServerName) -> bool {
        self.source.offers.iter().any(|offer| offer.server == *server)
    }

    /// What of it somebody is shown of whom a gateway says something; all of it where nobody does.
    pub(super) fn part_of(&self, said: Option<&HeaderValue>) -> Option<Arc<Narrowed>> {
        let said = said.filter(|_| self.source.audience == Audience::Guests)?;
        Some(self.parts.of(self, said))
    }

    /// Whether another drawing shows the same to each, as far as its roster does.
    pub(super) fn is_judged_as(&self, other: &Self) -> bool {
        let is_same = same(&self.source.access, &other.source.access);
        self.source.audience == Audience::Own || is_same && self.source.judged.is_same(&other.source.judged)
    }

    pub(super) fn workload(&self) -> &Workload {
        &self.source.workload
    }

    pub(super) fn judged(&self) -> &Judged {
        &self.source.judged
    }

    /// What the virtual server's own policies say of one of them.
    pub(super) fn view_of(&self, guest: &Caller) -> Option<View> {
        self.source.view_of(guest.clone())
    }
}

/// The policies of members, as far as they are known here: none are told to whoever is no gateway. Where they are told, a
/// member without any is judged by the default of the mesh alone.
#[derive(Debug, Default)]
pub(super) struct Judged {
    default_action: DefaultAction,
    members: BTreeMap<ServerName, Arc<ServerEntry>>,
}

impl Judged {
    fn of<'e>(
        snapshot: &Snapshot,
        gateway: &Workload,
        members: impl Iterator<Item = &'e Arc<ServerEntry>>,
    ) -> Self {
        let default_action = snapshot.default_action();
        let mesh = snapshot.mesh.as_ref();
        let is_told = mesh.is_some_and(|mesh| mesh.gateways_are_told && mesh.is_gateway(&gateway.id()));
        let is_denied = is_told && default_action == DefaultAction::Deny;
        let members = members.filter(|it| it.offer.is_some() && (is_denied || !it.access.is_empty()));
        let members = members.map(|it| (it.server.meta.full_name(), Arc::clone(it))).collect();
        Self { default_action, members }
    }

    /// What the policies of each member say of a guest; nothing of one of which none are known.
    pub(super) fn views(&self, guest: &Caller) -> impl Iterator<Item = (&ServerName, View)> {
        self.members.iter().map(|(server, entry)| {
            (server, View::new(&entry.access, self.default_action, guest.clone(), server.clone()))
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        let mut pairs = self.members.iter().zip(&other.members);
        self.default_action == other.default_action
            && self.members.len() == other.members.len()
            && pairs.all(|((one, a), (other, b))| one == other && same(&a.access, &b.access))
    }
}

fn same<T>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other))
}

impl Source {
    fn new(
        snapshot: &Snapshot,
        name: Option<&ServerName>,
        (workload, audience): (&Workload, Audience),
    ) -> Option<Self> {
        let workload = workload.clone();
        let offers = |entries: &mut dyn Iterator<Item = &Arc<ServerEntry>>| {
            entries.filter_map(|entry| entry.offer.clone()).collect()
        };
        let Some(name) = name else {
            let offers = offers(&mut snapshot.servers.values());
            let access = Policies::default();
            let judged = match audience {
                Audience::Own => Judged::default(),
                Audience::Guests => Judged::of(snapshot, &workload, snapshot.servers.values()),
            };
            return Some(Self { workload, audience, virtual_server: None, access, offers, judged });
        };
        let VirtualEntry { virtual_server, members, access } = &**snapshot.virtual_servers.get(name)?;
        let is_for = match audience {
            Audience::Own => policy::is_for(&Caller::new(workload.clone()), &virtual_server.spec),
            Audience::Guests => policy::may_use(&workload, &virtual_server.spec),
        };
        if !is_for {
            return None;
        }
        let entries = || members.iter().filter_map(|it| snapshot.servers.get(&it.server));
        let offers = offers(&mut entries());
        let judged = match audience {
            Audience::Own => Judged::default(),
            Audience::Guests => Judged::of(snapshot, &workload, entries()),
        };
        let (virtual_server, access) = (Some(Arc::clone(virtual_server)), access.clone());
        Some(Self { workload, audience, virtual_server, access, offers, judged })
    }

    fn is_same(&self, other: &Self) -> bool {
        self.workload == other.workload
            && self.audience == other.audience
            && same(self.virtual_server.as_slice(), other.virtual_server.as_slice())
            && same(&self.access, &other.access)
            && same(&self.offers, &other.offers)
            && self.judged.is_same(&other.judged)
    }

    /// None for guests, of whom each is judged for itself.
    fn view(&self) -> Option<View> {
        match self.audience {
            Audience::Own => self.view_of(Caller::new(self.workload.clone())),
            Audience::Guests => None,
        }
    }

    fn view_of(&self, caller: Caller) -> Option<View> {
        let name = self.virtual_server.as_ref()?.meta.full_name();
        let is_said = !self.access.is_empty();
        is_said.then(|| View::new(&self.access, DefaultAction::Allow, caller, name))
    }

    /// The members of a virtual server, as it wants them shown.
    fn roster_of(
        &self,
        snapshot: &Snapshot,
        virtual_server: &Object<VirtualServer>,
        view: Option<&View>,
    ) -> Roster {
        let Some(entry) = snapshot.virtual_servers.get(&virtual_server.meta.full_name()) else {
            return Roster::default();
        };
        let offers: HashMap<&ServerName, &Offer> =
            self.offers.iter().map(|offer| (&offer.server, &**offer)).collect();
        Roster::of_virtual(entry, |server| offers.get(server).copied(), view)
    }

    /// Every server of which this workload may use anything. Where two namespaces have one of the same name, both are
    /// called by both names.
    fn roster_of_all(&self) -> Roster {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for offer in &self.offers {
            *counts.entry(offer.server.name.as_str()).or_default() += 1;
        }
        let prefix = |server: &ServerName| match counts.get(server.name.as_str()) {
            Some(1) => server.name.to_string(),
            _ => format!("{}{SEPARATOR}{}", server.namespace, server.name),
        };
        let prefixes: Vec<_> = self.offers.iter().map(|offer| prefix(&offer.server)).collect();
        let parts = self.offers.iter().zip(&prefixes);
        let parts = parts.map(|(offer, prefix)| Part { offer, prefix, tools: None, rename: None });
        Roster::new(parts, Naming::default(), |_, _| true)
    }
}
