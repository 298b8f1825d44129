//! What lists show one caller of a server: what it could be allowed, and what only a scope keeps from it that it could come
//! with. What a client does not find in a list it never calls, and so it would never be asked for that scope.
//!
//! Not here: whether a call is let through, and which scope is asked for.

use std::sync::Arc;

use crate::mcp::lists::Listed;

use super::{View, WithScope};

/// See the module.
#[derive(Debug)]
pub struct Listing {
    view: Arc<View>,
    /// What the caller could with one more scope.
    with_scope: Vec<View>,
    /// What holds for everything of a kind, where rules tell nothing of it apart.
    alike: Option<[bool; Listed::ALL.len()]>,
}

impl Listing {
    /// All that `with_scope` is asked for must be of one caller.
    pub fn new(view: Arc<View>, with_scope: &mut WithScope) -> Self {
        let with_scope = view.with_each_scope(with_scope);
        let is_alike = view.lists_alike() && with_scope.iter().all(View::lists_alike);
        let mut listing = Self { view, with_scope, alike: None };
        listing.alike = is_alike.then(|| Listed::ALL.map(|kind| listing.judge(kind, "")));
        listing
    }

    /// Whether something is shown, by what it is listed under.
    pub fn shows(&self, kind: Listed, name: &str) -> bool {
        self.alike.map_or_else(|| self.judge(kind, name), |alike| alike[kind as usize])
    }

    /// Adds what decides: with the same of it, by the same policies, somebody else is shown the same. Whether that can be
    /// said at all.
    pub fn decided_by(&self, to: &mut Vec<u64>) -> bool {
        to.push(self.with_scope.len() as u64);
        std::iter::once(&*self.view).chain(&self.with_scope).all(|view| match view.spoken_of() {
            Some(bits) => {
                to.extend(bits);
                true
            }
            None => false,
        })
    }

    fn judge(&self, kind: Listed, name: &str) -> bool {
        self.view.may_list(kind, name) || self.with_scope.iter().any(|view| view.may_list(kind, name))
    }
}
