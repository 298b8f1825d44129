//! Names of tools or of prompts that a server has advertised: only these may stand in a metric.
//!
//! A server that advertises others all the time makes older ones be forgotten: there are two generations, and when the
//! younger is full it becomes the older. What a server still advertises is in the next list that passes.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// Names of a generation.
pub const NAMES_MAX: usize = 512;
/// Longest name that is learnt, in bytes. The protocol has names of at most so many.
const NAME_BYTES_MAX: usize = 128;

#[derive(Debug, Default)]
pub struct Names(ArcSwap<Generations>);

#[derive(Clone, Debug, Default)]
struct Generations {
    young: HashSet<Arc<str>>,
    old: Arc<HashSet<Arc<str>>>,
}

impl Names {
    pub fn has(&self, name: &str) -> bool {
        let names = self.0.load();
        names.young.contains(name) || names.old.contains(name)
    }

    pub fn learn<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) {
        let fit = names.filter(|name| name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control));
        let known = self.0.load();
        if fit.clone().all(|name| known.young.contains(name)) {
            return;
        }
        self.0.rcu(|known| {
            let mut known = Generations::clone(known);
            for name in fit.clone().filter(|name| !name.is_empty()) {
                if known.young.len() >= NAMES_MAX && !known.young.contains(name) {
                    known.old = Arc::new(std::mem::take(&mut known.young));
                }
                if !known.young.contains(name) {
                    known.young.insert(name.into());
                }
            }
            known
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_advertised_is_known_and_nothing_else() {
        let names = Names::default();
        names.learn(["read", "write", "a\nb", "", &"x".repeat(NAME_BYTES_MAX + 1)].into_iter());
        let check = |name: &str, expected: bool| assert_eq!(names.has(name), expected, "{name:?}");
        check("read", true);
        check("write", true);
        check("rea", false);
        check("a\nb", false);
        check("", false);
        check(&"x".repeat(NAME_BYTES_MAX + 1), false);
    }

    #[test]
    fn a_server_that_advertises_without_end_is_not_remembered_without_end() {
        let names = Names::default();
        for number in 0..10 * NAMES_MAX {
            names.learn([format!("t{number}").as_str(), "steady"].into_iter());
        }
        let known = names.0.load();
        assert!(known.young.len() + known.old.len() <= 2 * NAMES_MAX);
        assert!(names.has("steady"), "what every list has stays known");
        assert!(!names.has("t0"));
    }
}
