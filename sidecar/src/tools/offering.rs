//! Everything that a server was read to offer, as others are told of it: each definition with its digest.
//!
//! What has no name that everyone reads alike, what is called twice, and what there is no room for, is left out, and
//! counted. Not here: how calls of tools are treated.

use std::collections::HashMap;
use std::sync::Arc;

use weft_proto::catalogue::{self, Introduced};
use weft_proto::mcp::lists::Listed;
use weft_proto::offer::{DEFINITIONS_BYTES_MAX, ITEMS_MAX, Offered};

/// One thing that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub offered: Offered,
    /// Of the whole definition.
    pub digest: [u8; catalogue::digest::BYTES],
}

type Items = Vec<Arc<Item>>;

/// What was read of a server, list by list. What could not be read is what it was before.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) introduced: Option<Introduced>,
    lists: [Option<Arc<Items>>; Listed::ALL.len()],
    left_out: [usize; Listed::ALL.len()],
}

/// Everything that a server offers, as of one moment.
#[derive(Clone, Debug)]
pub struct Offering {
    pub introduced: Introduced,
    lists: [Option<Arc<Items>>; Listed::ALL.len()],
    items: Items,
    left_out: usize,
}

impl Parts {
    /// Takes definitions of a kind, as they were read. What is the same as before stays as it was.
    pub(super) fn took(&mut self, listed: Listed, raw: &[Box<str>]) {
        let before = self.lists[listed as usize].take().unwrap_or_default();
        let known: HashMap<&str, &Arc<Item>> =
            before.iter().map(|item| (&*item.offered.definition, item)).collect();
        let read = |raw: &str| match known.get(raw) {
            Some(item) => Some(Arc::clone(item)),
            None => {
                let offered = Offered::parse(listed, raw.into()).ok()?;
                let digest = catalogue::digest(&offered.definition).ok()?;
                Some(Arc::new(Item { offered, digest }))
            }
        };
        let mut items: Items = raw.iter().filter_map(|raw| read(raw)).collect();
        items.sort_by(|a, b| a.offered.name.cmp(&b.offered.name));
        let alike = items.chunk_by(|a, b| a.offered.name == b.offered.name);
        let items: Items = alike.filter(|alike| alike.len() == 1).flatten().cloned().collect();
        self.left_out[listed as usize] = raw.len() - items.len();
        let is_same =
            items.len() == before.len() && items.iter().zip(&*before).all(|(a, b)| Arc::ptr_eq(a, b));
        self.lists[listed as usize] = Some(if is_same { before } else { Arc::new(items) });
    }
}

impl Offering {
    pub(super) fn new(parts: &Parts) -> Self {
        let (mut items, mut bytes) = (Items::new(), 0);
        let mut left_out = parts.left_out.iter().sum();
        for item in parts.lists.iter().flatten().flat_map(|list| &**list) {
            let with_it = bytes + item.offered.definition.len();
            if items.len() < ITEMS_MAX && with_it <= DEFINITIONS_BYTES_MAX {
                bytes = with_it;
                items.push(Arc::clone(item));
            } else {
                left_out += 1;
            }
        }
        let introduced = parts.introduced.clone().unwrap_or_default();
        Self { introduced, lists: parts.lists.clone(), items, left_out }
    }

    #[cfg(test)]
    pub(crate) fn with(items: Items) -> Self {
        Self { items, ..Self::new(&Parts::default()) }
    }

    /// In the order of kinds and names, each once.
    pub fn items(&self) -> &[Arc<Item>] {
        &self.items
    }

    /// Things that the server advertises and that are not told.
    pub const fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether this is all of what was read.
    pub(super) fn is_of(&self, parts: &Parts) -> bool {
        let is_same = |a: &Option<Arc<Items>>, b: &Option<Arc<Items>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        parts.introduced.as_ref().is_none_or(|it| *it == self.introduced)
            && self.lists.iter().zip(&parts.lists).all(|(a, b)| is_same(a, b))
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::offer::DEFINITION_BYTES_MAX;

    use super::*;

    fn raw(definitions: &[&str]) -> Vec<Box<str>> {
        definitions.iter().map(|it| (*it).into()).collect()
    }

    fn names(offering: &Offering) -> Vec<&str> {
        offering.items().iter().map(|item| &*item.offered.name).collect()
    }

    #[test]
    fn what_is_offered_is_in_order_and_what_nobody_could_name_is_left_out() {
        let mut parts = Parts::default();
        parts.took(Listed::Resource, &raw(&[r#"{"uri":"b:1"}"#, r#"{"uri":"a:1"}"#]));
        let twice =
            [r#"{"name":"t"}"#, r#"{"name":"u"}"#, r#"{"name":"t","x":1}"#, "{}", "[", r#"{"name":"a"}"#];
        parts.took(Listed::Tool, &raw(&twice));
        let offering = Offering::new(&parts);
        assert_eq!(names(&offering), ["a", "u", "a:1", "b:1"]);
        assert_eq!(offering.left_out(), 4);
    }

    #[test]
    fn what_is_the_same_as_before_is_nothing_new() {
        let mut parts = Parts::default();
        let tools = raw(&[r#"{"name":"a"}"#, r#"{"name":"b"}"#]);
        parts.took(Listed::Tool, &tools);
        let before = Offering::new(&parts);
        parts.took(Listed::Tool, &[tools[1].clone(), tools[0].clone()]);
        assert!(before.is_of(&parts), "another order is the same");
        parts.took(Listed::Prompt, &[]);
        assert!(!before.is_of(&parts), "that there are none is something that was not known");
        let before = Offering::new(&parts);
        parts.took(Listed::Tool, &raw(&[r#"{"name":"a","title":"x"}"#, r#"{"name":"b"}"#]));
        assert!(!before.is_of(&parts));
        assert!(Arc::ptr_eq(&Offering::new(&parts).items()[1], &before.items()[1]));
        parts.introduced = Some(Introduced::default());
        assert!(Offering::new(&parts).is_of(&parts));
    }

    #[test]
    fn there_is_room_for_so_much_and_no_more() {
        let text = "x".repeat(DEFINITION_BYTES_MAX - 100);
        let large = |n: usize| format!(r#"{{"name":"{n:02}","x":"{text}"}}"#).into_boxed_str();
        let mut parts = Parts::default();
        parts.took(Listed::Tool, &(0..20).map(large).collect::<Vec<_>>());
        parts.took(Listed::Prompt, &raw(&[r#"{"name":"small"}"#]));
        let offering = Offering::new(&parts);
        assert_eq!((offering.items().len(), offering.left_out()), (13, 8));
        assert_eq!(names(&offering)[12], "small");
    }
}
