//! Names of tools and prompts that every client takes: letters, digits, `_` and `-`, at most 64 of them.

use std::collections::HashSet;

use aws_lc_rs::digest::{SHA256, digest};

use super::{Naming, Part};
use crate::offer::Offered;
use crate::resource::kinds::Prefixing;

/// Longest name that clients take.
pub(super) const NAME_BYTES_MAX: usize = 64;
/// Digits that tell a name from another that would be the same.
const MARK_DIGITS: usize = 8;

/// The names of one kind that are given away.
#[derive(Debug, Default)]
pub(super) struct Taken(HashSet<Box<str>>);

impl Taken {
    /// The name under which something is shown; none if it is not, because the name is another's.
    pub(super) fn name(&mut self, naming: Naming<'_>, part: &Part<'_>, own: &Offered) -> Option<Box<str>> {
        let prefixed = || format!("{}{}{}", part.prefix, naming.separator, own.name);
        let (wanted, or_else) = match (part.renamed(own), naming.prefix) {
            (Some(name), Prefixing::Never) => (name.to_owned(), None),
            (Some(name), _) => (name.to_owned(), Some(prefixed())),
            (None, Prefixing::Always) => (prefixed(), Some(prefixed())),
            (None, Prefixing::OnConflict) => (own.name.to_string(), Some(prefixed())),
            (None, Prefixing::Never) => (own.name.to_string(), None),
        };
        let origin = format!("{}/{}", part.offer.server, own.name);
        self.take(fit(&wanted, &origin)).or_else(|| {
            let or_else = or_else?;
            self.take(fit(&or_else, &origin)).or_else(|| self.take(marked(&or_else, &origin)))
        })
    }

    fn take(&mut self, name: String) -> Option<Box<str>> {
        let name: Box<str> = name.into();
        self.0.insert(name.clone()).then_some(name)
    }
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
