//! Patterns for names: exact texts and `*`, which stands for any run of characters. Never regular expressions: their
//! dots and anchors have let the wrong callers in elsewhere.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Error, check_characters, serde_as_text};

/// A compiled pattern. Matching is linear in the text for each star, and case-sensitive.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob(Arc<str>);

impl Glob {
    /// Longest accepted pattern, in bytes.
    pub const LEN_BYTES_MAX: usize = 512;
    /// Most stars in one pattern.
    pub const STARS_MAX: usize = 8;

    pub fn parse(text: &str) -> Result<Self, Error> {
        let expected = "printable characters, with '*' for any run of them";
        check_characters("pattern", text, Self::LEN_BYTES_MAX, expected, |c| !c.is_control())?;
        if text.contains("**") {
            let problem = "has two stars in a row";
            return Err(Error::Form {
                what: "pattern",
                problem,
                expected: "one '*' for any run of characters",
            });
        }
        if text.bytes().filter(|b| *b == b'*').count() > Self::STARS_MAX {
            return Err(Error::Form {
                what: "pattern",
                problem: "has too many stars",
                expected: "at most eight",
            });
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, when the pattern has no star and so matches only that.
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&self.0)
    }

    /// Whether the pattern matches everything.
    pub fn is_any(&self) -> bool {
        &*self.0 == "*"
    }

    pub fn matches(&self, text: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else {
            return &*self.0 == text;
        };
        let Some(mut text) = text.strip_prefix(head) else {
            return false;
        };
        // `rest` holds what follows the first star; every piece but the last may match at its first occurrence,
        // because a star before it swallows whatever lies between.
        let (middle, tail) =
            rest.rsplit_once('*').map_or((None, rest), |(middle, tail)| (Some(middle), tail));
        for piece in middle.into_iter().flat_map(|middle| middle.split('*')) {
            match text.find(piece) {
                Some(at) => text = &text[at + piece.len()..],
                None => return false,
            }
        }
        text.ends_with(tail)
    }
}

impl FromStr for Glob {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

serde_as_text!(Glob, "^[^\\x00-\\x1f]+$", 512);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, text: &str, expected: bool) {
        assert_eq!(Glob::parse(pattern).unwrap().matches(text), expected, "{pattern:?} against {text:?}");
    }

    #[test]
    fn stars_stand_for_any_run_and_everything_else_for_itself() {
        check("read_file", "read_file", true);
        check("read_file", "read_files", false);
        check("read_*", "read_", true);
        check("read_*", "read_file", true);
        check("read_*", "write_read_file", false);
        check("*", "", true);
        check("*_file", "read_file", true);
        check("*_file", "_files", false);
        check("a*b*c", "abc", true);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "acb", false);
        check("ab*ba", "aba", false);
        check("ab*ba", "abba", true);
        check("a.c", "abc", false);
        check("a.*", "a.b", true);
        check("a.*", "ab", false);
        check("*é*", "café!", true);
        check("A", "a", false);
    }

    #[test]
    fn patterns_without_end_or_sense_are_refused() {
        assert!(Glob::parse("").is_err());
        assert!(Glob::parse("a**b").is_err());
        assert!(Glob::parse("*a*a*a*a*a*a*a*a*").is_err());
        assert!(Glob::parse("a\nb").is_err());
        assert!(Glob::parse(&"a".repeat(513)).is_err());
    }

    /// The obvious definition, exponential and right.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
            Some((c, rest)) => text.first() == Some(c) && naive(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_obvious_definition(pattern in "[ab*é]{1,8}", text in "[abé]{0,10}") {
            if let Ok(glob) = Glob::parse(&pattern) {
                let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
                prop_assert_eq!(glob.matches(&text), naive(&p, &t));
            }
        }

        #[test]
        fn a_pattern_without_stars_is_string_equality(a in "[a-c.]{1,3}", b in "[a-c.]{1,3}") {
            prop_assert_eq!(Glob::parse(&a).unwrap().matches(&b), a == b);
        }
    }
}
