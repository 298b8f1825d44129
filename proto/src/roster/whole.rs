//! What a virtual server shows, and the way from what is asked of it to its member.

use crate::compile::VirtualEntry;
use crate::mcp::Target;
use crate::mcp::lists::Listed;
use crate::name::ServerName;
use crate::offer::Offer;
use crate::policy::access::View;

use super::{Naming, Part, Roster, SEPARATOR};

impl Roster {
    /// What the members offer, as the virtual server wants it shown. Its own policies speak of the names that are shown;
    /// those of the members hold besides.
    pub fn of_virtual<'o>(
        entry: &VirtualEntry,
        offer: impl Fn(&ServerName) -> Option<&'o Offer>,
        view: Option<&View>,
    ) -> Self {
        let spec = &entry.virtual_server.spec;
        let parts = entry.members.iter().filter_map(|it| Some(Part::of(&it.member, offer(&it.server)?)));
        let separator = spec.separator.as_ref().map_or(SEPARATOR, |separator| separator.as_str());
        let naming = Naming { prefix: spec.prefix, separator };
        Self::new(parts, naming, |kind, name| view.is_none_or(|view| view.may_list(kind, name)))
    }

    /// The server that has what is asked for, and what it is called there; none if it is not shown.
    pub fn locate(&self, target: Target<'_>) -> Option<(ServerName, String)> {
        let named = |kind, name| {
            let shown = self.find(kind, name)?;
            Some((shown.server.clone(), shown.own.name.to_string()))
        };
        match target {
            Target::Tool(name) => named(Listed::Tool, name),
            Target::Prompt(name) => named(Listed::Prompt, name),
            Target::Resource(uri) => self.resource(uri).map(|(server, own)| (server.clone(), own.to_owned())),
            // Whose task it is, its id does not say.
            Target::Task(_) => None,
        }
    }
}
