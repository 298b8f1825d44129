//! Differences between two texts of an object, for people.

use std::time::Duration;

use similar::TextDiff;
use weft_proto::resource::Key;

/// Longest diff of one object.
pub(super) const DIFF_BYTES_MAX: usize = 256 << 10;
/// Most bytes of diffs in one answer.
pub(super) const DIFFS_BYTES_MAX: usize = 16 << 20;
/// Longest search for the shortest diff; after that any diff is good enough.
const SEARCH_MAX: Duration = Duration::from_millis(50);
const NOWHERE: &str = "/dev/null";

/// How much may still be told.
#[derive(Debug)]
pub struct Budget {
    bytes_left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes_left: DIFFS_BYTES_MAX }
    }
}

impl Budget {
    /// A unified diff of one object; none where it is absent. What would be too long is replaced by a note.
    pub fn diff(&mut self, key: &Key, before: Option<&str>, after: Option<&str>) -> String {
        if before == after {
            return String::new();
        }
        if before.map_or(0, str::len).max(after.map_or(0, str::len)) > self.bytes_left {
            return left_out(key);
        }
        let name = key.to_string();
        let side = |text: Option<&str>| text.map_or(NOWHERE, |_| name.as_str()).to_owned();
        let mut search = TextDiff::configure();
        let found =
            search.timeout(SEARCH_MAX).diff_lines(before.unwrap_or_default(), after.unwrap_or_default());
        let text = found.unified_diff().header(&side(before), &side(after)).to_string();
        if text.len() > DIFF_BYTES_MAX.min(self.bytes_left) {
            return left_out(key);
        }
        self.bytes_left -= text.len();
        text
    }
}

fn left_out(key: &Key) -> String {
    format!("the diff of {key} is too long to be shown\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        "routes/a/b".parse().unwrap()
    }

    #[test]
    fn a_diff_names_both_sides_and_shows_the_lines() {
        let diff = Budget::default().diff(&key(), Some("a: 1\nb: 2\n"), Some("a: 1\nb: 3\n"));
        assert_eq!(diff, "--- routes/a/b\n+++ routes/a/b\n@@ -1,2 +1,2 @@\n a: 1\n-b: 2\n+b: 3\n");
    }

    #[test]
    fn what_is_created_or_deleted_comes_from_or_goes_to_nowhere() {
        let created = Budget::default().diff(&key(), None, Some("a: 1\n"));
        assert_eq!(created, "--- /dev/null\n+++ routes/a/b\n@@ -0,0 +1 @@\n+a: 1\n");
        let deleted = Budget::default().diff(&key(), Some("a: 1\n"), None);
        assert_eq!(deleted, "--- routes/a/b\n+++ /dev/null\n@@ -1 +0,0 @@\n-a: 1\n");
        assert_eq!(Budget::default().diff(&key(), Some("a"), Some("a")), "");
    }

    #[test]
    fn what_is_too_long_is_replaced_by_a_note() {
        let long = "x: y\n".repeat(DIFF_BYTES_MAX / 5);
        assert_eq!(Budget::default().diff(&key(), None, Some(&long)), left_out(&key()));
        let mut small = Budget { bytes_left: 3 };
        assert_eq!(small.diff(&key(), None, Some("a: 1\n")), left_out(&key()));
    }
}
