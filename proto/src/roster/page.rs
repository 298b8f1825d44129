//! Lists in pages. A cursor is the last name of the page before, so that a list that changes meanwhile is told without
//! gaps: whatever was there all the while is on one page, and on one only.

use super::{Roster, Shown};
use crate::mcp::lists::Listed;

/// How much is on one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    pub items_max: usize,
    /// Beyond it no more is begun; one item is always there.
    pub bytes_max: usize,
}

/// One page of a list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Page<'a> {
    pub shown: &'a [Shown],
    /// What is asked for the next page with.
    pub next: Option<&'a str>,
}

impl Roster {
    /// The page behind a name, or the first.
    pub fn page(&self, kind: Listed, after: Option<&str>, limits: PageLimits) -> Page<'_> {
        let all = self.of(kind);
        let from = after.map_or(0, |after| all.partition_point(|it| &*it.name <= after));
        let rest = &all[from..];
        let mut bytes = 0;
        let fits = |it: &&Shown| {
            let has_begun = bytes > 0;
            bytes += it.own.definition.len() + it.name.len();
            !has_begun || bytes <= limits.bytes_max
        };
        let count = rest.iter().take(limits.items_max).take_while(fits_in(fits)).count();
        let shown = &rest[..count];
        let next = shown.last().filter(|_| count < rest.len()).map(|it| &*it.name);
        Page { shown, next }
    }
}

/// `take_while` hands over references to references.
fn fits_in<'a>(mut fits: impl FnMut(&&'a Shown) -> bool) -> impl FnMut(&&'a Shown) -> bool {
    move |it| fits(it)
}
