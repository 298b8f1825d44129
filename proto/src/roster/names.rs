//! Names of tools and prompts that every client takes: letters, digits, `_` and `-`, at most 64 of them.

use std::collections::HashSet;

use aws_lc_rs::digest::{SHA256, digest};

use super::{Naming, Part};
use crate::mcp::lists::Listed;
use crate::offer::Offered;
use crate::resource::kinds::Prefixing;

/// Longest name that clients take.
pub(super) const NAME_BYTES_MAX: usize = 64;
/// Digits that tell a name from another that would be the same.
const MARK_DIGITS: usize = 8;

/// The names of one kind that are given away.
#[derive(Debug)]
pub(super) struct Taken {
    names: HashSet<Box<str>>,
    /// With a prefix for each, names that several come to: none gets it, so that none can take another's.
    contested: HashSet<Box<str>>,
}

impl Taken {
    pub(super) fn new(naming: Naming<'_>, kind: Listed, parts: &[Part<'_>]) -> Self {
        let (mut wanted, mut contested) = (HashSet::new(), HashSet::new());
        if naming.prefix == Prefixing::Always {
            let all = parts.iter().flat_map(|part| part.offer.of(kind).iter().map(move |own| (part, own)));
            for (part, own) in all.filter(|(part, own)| part.takes(own) && part.renamed(own).is_none()) {
                let name: Box<str> = fit(&prefixed(naming, part, own), &origin(part, own)).into();
                if !wanted.insert(name.clone()) {
                    contested.insert(name);
                }
            }
        }
        Self { names: HashSet::new(), contested }
    }

    /// The name under which something is shown; none if it is not, because the name is another's.
    pub(super) fn name(&mut self, naming: Naming<'_>, part: &Part<'_>, own: &Offered) -> Option<Box<str>> {
        let prefixed = || prefixed(naming, part, own);
        let (wanted, or_else) = match (part.renamed(own), naming.prefix) {
            (Some(name), Prefixing::Never) => (name.to_owned(), None),
            (Some(name), _) => (name.to_owned(), Some(prefixed())),
            (None, Prefixing::Always) => (prefixed(), Some(prefixed())),
            (None, Prefixing::OnConflict) => (own.name.to_string(), Some(prefixed())),
            (None, Prefixing::Never) => (own.name.to_string(), None),
        };
        let origin = origin(part, own);
        let plain = fit(&wanted, &origin);
        let plain = (!self.contested.contains(&*plain)).then_some(plain);
        plain.and_then(|plain| self.take(plain)).or_else(|| {
            let or_else = or_else?;
            let again = fit(&or_else, &origin);
            let again = (!self.contested.contains(&*again)).then_some(again);
            again.and_then(|again| self.take(again)).or_else(|| self.take(marked(&or_else, &origin)))
        })
    }

    fn take(&mut self, name: String) -> Option<Box<str>> {
        let name: Box<str> = name.into();
        self.names.insert(name.clone()).then_some(name)
    }
}

fn prefixed(naming: Naming<'_>, part: &Part<'_>, own: &Offered) -> String {
    format!("{}{}{}", part.prefix, naming.separator, own.name)
}

/// Where something is from.
fn origin(part: &Part<'_>, own: &Offered) -> String {
    format!("{}/{}", part.offer.server, own.name)
}

/// The name, if every client takes it, or one like it.
fn fit(wanted: &str, origin: &str) -> String {
    match wanted.len() {
        1..=NAME_BYTES_MAX => plain(wanted),
        _ => marked(wanted, origin),
    }
}

/// The name, shorter if need be, with digits behind it that follow from where it is from.
fn marked(wanted: &str, origin: &str) -> String {
    let mut name = plain(wanted);
    name.truncate(NAME_BYTES_MAX - MARK_DIGITS - 1);
    let hash = digest(&SHA256, origin.as_bytes());
    let mark: String = hash.as_ref()[..MARK_DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}_{mark}")
}

fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    name.chars().map(plain).collect()
}
