//! Patterns for identities, where `*` stays within its segment.

use std::fmt;
use std::str::FromStr;

use super::{Error, Glob, SpiffeId, serde_as_text};

/// A SPIFFE ID whose trust domain and path segments may hold `*`. A star never crosses a slash, so a pattern matches
/// only identities with as many segments as it has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityPattern {
    domain: Glob,
    segments: Vec<Glob>,
}

impl IdentityPattern {
    /// Most segments in the path of a pattern.
    pub const SEGMENTS_MAX: usize = 32;

    pub fn parse(text: &str) -> Result<Self, Error> {
        let (what, expected) =
            ("identity pattern", "spiffe://<trust domain>/<path>, with '*' inside segments");
        let form = |problem| Error::Form { what, problem, expected };
        if text.len() > SpiffeId::LEN_BYTES_MAX {
            return Err(Error::TooLong { what, len: text.len(), max: SpiffeId::LEN_BYTES_MAX });
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| form("does not start with spiffe://"))?;
        let mut parts = rest.split('/');
        let domain = parts.next().unwrap_or_default();
        let segments: Vec<&str> = parts.collect();
        if segments.is_empty() {
            return Err(form("has no path"));
        }
        if segments.len() > Self::SEGMENTS_MAX {
            return Err(form("has too many segments"));
        }
        // With every star replaced by a letter, what remains must be an identity.
        SpiffeId::parse(&text.replace('*', "x"))?;
        if domain.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(form("has upper case in its trust domain"));
        }
        let segments = segments.into_iter().map(Glob::parse).collect::<Result<_, _>>()?;
        Ok(Self { domain: Glob::parse(domain)?, segments })
    }

    pub fn matches(&self, id: &SpiffeId) -> bool {
        let mut segments = id.path()[1..].split('/');
        self.domain.matches(id.trust_domain().as_str())
            && self.segments.iter().all(|glob| segments.next().is_some_and(|segment| glob.matches(segment)))
            && segments.next().is_none()
    }
}

impl FromStr for IdentityPattern {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.domain)?;
        self.segments.iter().try_for_each(|segment| write!(f, "/{segment}"))
    }
}

impl fmt::Debug for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

serde_as_text!(IdentityPattern, "^spiffe://[a-z0-9._*-]+(/[A-Za-z0-9._*-]+)+$", 2048);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, id: &str, expected: bool) {
        let id = SpiffeId::parse(id).unwrap();
        assert_eq!(IdentityPattern::parse(pattern).unwrap().matches(&id), expected, "{pattern} against {id}");
    }

    #[test]
    fn a_star_stays_within_its_segment() {
        let id = "spiffe://corp.example/ns/team-a/sa/reviewer";
        check(id, id, true);
        check("spiffe://corp.example/ns/*/sa/reviewer", id, true);
        check("spiffe://corp.example/ns/team-*/sa/*", id, true);
        check("spiffe://*/ns/*/sa/*", id, true);
        check("spiffe://corp.example/*", id, false);
        check("spiffe://corp.example/ns/*/reviewer", id, false);
        check("spiffe://corp.example/ns/*/sa/reviewer", "spiffe://corp.example/ns/a/b/sa/reviewer", false);
        check("spiffe://corp.example/ns/*/sa/reviewer", "spiffe://corp.example/ns/a/sa/reviewer/x", false);
        check("spiffe://corp.example/ns/*/sa/reviewer", "spiffe://evil.example/ns/a/sa/reviewer", false);
        check("spiffe://corp.example/ns/a/sa/b", "spiffe://corp.example/ns/a/sa/B", false);
    }

    #[test]
    fn patterns_that_are_no_identities_are_refused() {
        for text in [
            "",
            "*",
            "spiffe://*",
            "spiffe://d/",
            "spiffe://d/a//b",
            "spiffe://d/../a",
            "spiffe://D/a",
            "spiffe://d/a?*",
            "spiffe://d/**",
        ] {
            assert!(IdentityPattern::parse(text).is_err(), "{text}");
        }
    }
}
