//! URIs of many servers side by side. Each stays as it is, unless a server before has the same: then it is shown within
//! one of ours, `weft://<namespace>/<server>/<its own>`, from which its own can be read again.
//!
//! A URI may be asked for that was never listed: one that a template expands to, or that an answer spoke of.

use std::collections::HashMap;

use super::Shown;
use crate::mcp::lists::Listed;
use crate::name::{Namespace, ObjectName, ServerName};
use crate::offer::Offer;
use crate::policy::access::template_fits;

const SCHEME: &str = "weft://";

/// Where URIs lead that are not listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ways {
    /// With their ranks.
    members: HashMap<ServerName, usize>,
    /// Whose URIs begin with a scheme; none where several servers' do.
    schemes: HashMap<Box<str>, Option<ServerName>>,
}

impl Ways {
    pub(super) fn new<'a>(offers: impl Iterator<Item = &'a Offer>) -> Self {
        let mut ways = Self::default();
        for (rank, offer) in offers.enumerate() {
            ways.members.entry(offer.server.clone()).or_insert(rank);
            let kinds = [Listed::Resource, Listed::ResourceTemplate];
            let uris = kinds.into_iter().flat_map(|kind| offer.of(kind)).map(|item| &*item.name);
            for scheme in uris.filter_map(scheme) {
                let whose = ways.schemes.entry(scheme.into()).or_insert_with(|| Some(offer.server.clone()));
                if whose.as_ref() != Some(&offer.server) {
                    *whose = None;
                }
            }
        }
        ways
    }

    /// The server that a URI leads to, and what it is called there.
    pub(super) fn lead<'w, 'u>(
        &'w self,
        uri: &'u str,
        templates: &'w [Shown],
    ) -> Option<(&'w ServerName, &'u str)> {
        if let Some((server, own)) = unwrapped(uri) {
            return self.members.get_key_value(&server).map(|(server, _)| (server, own));
        }
        // A template of ours in which another is wrapped fits nothing that is left here. Of several that fit, the one
        // that says more at its beginning; and one that says not even a scheme could lead anything astray.
        let head = |it: &Shown| it.name.find('{').unwrap_or(it.name.len());
        let fits = |it: &&Shown| it.name[..head(it)].contains(':') && template_fits(&it.name, uri);
        let rank = |it: &Shown| self.members.get(&it.server).copied().unwrap_or(usize::MAX);
        let fitting = templates.iter().filter(fits);
        let template = fitting.max_by_key(|it| (head(it), std::cmp::Reverse(rank(it))));
        let whose = || self.schemes.get(scheme(uri)?)?.as_ref();
        template.map(|it| &it.server).or_else(whose).map(|server| (server, uri))
    }
}

/// The URI under which something is shown; from then on it is taken.
pub(super) fn shown(taken: &mut HashMap<Box<str>, ServerName>, server: &ServerName, own: &str) -> Box<str> {
    if own.starts_with(SCHEME) {
        return wrapped(server, own).into();
    }
    match taken.get(own) {
        Some(by) if by != server => wrapped(server, own).into(),
        Some(_) => own.into(),
        None => {
            taken.insert(own.into(), server.clone());
            own.into()
        }
    }
}

/// The URI that a server has for what is asked for by this one.
pub fn own(uri: &str) -> &str {
    unwrapped(uri).map_or(uri, |(_, own)| own)
}

pub(super) fn wrapped(server: &ServerName, own: &str) -> String {
    format!("{SCHEME}{}/{}/{own}", server.namespace, server.name)
}

pub(super) fn unwrapped(uri: &str) -> Option<(ServerName, &str)> {
    let (namespace, rest) = uri.strip_prefix(SCHEME)?.split_once('/')?;
    let (name, own) = rest.split_once('/')?;
    let namespace = Namespace::parse(namespace).ok()?;
    Some((ServerName { namespace, name: ObjectName::parse(name).ok()? }, own))
}

fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some(scheme)
}
