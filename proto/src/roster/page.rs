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
#[derive(Clone, Debug, PartialEq)]
pub struct Page<'a> {
    pub shown: Vec<&'a Shown>,
    /// What is asked for the next page with.
    pub next: Option<&'a str>,
}

impl Roster {
    /// The page behind a name, or the first, of those that are kept: each is asked for by its place in the list.
    pub fn page(
        &self,
        kind: Listed,
        after: Option<&str>,
        limits: PageLimits,
        keep: impl Fn(usize) -> bool,
    ) -> Page<'_> {
        let all = self.of(kind);
        let from = after.map_or(0, |after| all.partition_point(|it| &*it.name <= after));
        let kept = (from..all.len()).filter(|at| keep(*at)).map(|at| &all[at]);
        let mut page = Page { shown: Vec::new(), next: None };
        let mut bytes = 0;
        for it in kept {
            bytes += it.own.definition.len() + it.name.len();
            let last: Option<&&Shown> = page.shown.last();
            if let Some(last) = last
                && (page.shown.len() >= limits.items_max || bytes > limits.bytes_max)
            {
                page.next = Some(&*last.name);
                break;
            }
            page.shown.push(it);
        }
        page
    }
}
