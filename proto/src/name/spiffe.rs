//! SPIFFE identities: `spiffe://<trust domain>/<path>`, and the form that workloads of a mesh have.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Error, Namespace, ServiceAccount, check_characters, serde_as_text, text_name};

const DOMAIN: &str = "lower-case letters, digits, '.', '-' and '_'";
const SEGMENT: &str = "letters, digits, '.', '-' and '_'";
const FORM: &str = "spiffe://<trust domain>/<path>";
const SCHEME: &str = "spiffe://";

text_name!(
    /// The name of a trust domain, in lower case. Upper case is folded: the standard compares it so.
    TrustDomain,
    pattern = "^[a-z0-9._-]+$",
    max = 255,
    parse = parse_trust_domain
);

fn parse_trust_domain(text: &str) -> Result<String, Error> {
    let text = text.to_ascii_lowercase();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    check_characters("trust domain", &text, TrustDomain::LEN_BYTES_MAX, DOMAIN, allowed)?;
    Ok(text)
}

/// A SPIFFE ID with a path, as leaf certificates carry it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    domain: TrustDomain,
}

impl SpiffeId {
    /// Longest accepted identity, in bytes, as the standard demands at least.
    pub const LEN_BYTES_MAX: usize = 2048;

    pub fn parse(text: &str) -> Result<Self, Error> {
        let what = "SPIFFE ID";
        if text.is_empty() {
            return Err(Error::Empty { what, expected: FORM });
        }
        if text.len() > Self::LEN_BYTES_MAX {
            return Err(Error::TooLong { what, len: text.len(), max: Self::LEN_BYTES_MAX });
        }
        let form = |problem| Error::Form { what, problem, expected: FORM };
        let rest = match text.split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            _ => return Err(form("does not start with spiffe://")),
        };
        let (domain, path) = rest.split_once('/').ok_or_else(|| form("has no path"))?;
        let domain = TrustDomain::parse(domain)?;
        for segment in path.split('/') {
            check_segment(segment)?;
        }
        let text = format!("{SCHEME}{domain}/{path}").into();
        Ok(Self { text, domain })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path with its leading slash.
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.domain.as_str().len()..]
    }

    /// The identity as a mesh workload, if its path is exactly `/ns/<namespace>/sa/<account>`.
    pub fn workload(&self) -> Option<Workload> {
        let mut parts = self.path()[1..].split('/');
        let (ns, namespace, sa, account) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if ns != "ns" || sa != "sa" || parts.next().is_some() {
            return None;
        }
        Some(Workload {
            trust_domain: self.domain.clone(),
            namespace: Namespace::parse(namespace).ok()?,
            account: ServiceAccount::parse(account).ok()?,
        })
    }
}

fn check_segment(segment: &str) -> Result<(), Error> {
    let what = "SPIFFE ID path segment";
    if matches!(segment, "." | "..") {
        return Err(Error::Form { what, problem: "is a relative reference", expected: SEGMENT });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    check_characters(what, segment, SpiffeId::LEN_BYTES_MAX, SEGMENT, allowed)
}

impl FromStr for SpiffeId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

serde_as_text!(SpiffeId, "^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$", 2048);

/// Who a workload of the mesh is: a service account in a namespace of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    pub trust_domain: TrustDomain,
    pub namespace: Namespace,
    pub account: ServiceAccount,
}

impl Workload {
    pub fn id(&self) -> SpiffeId {
        let Self { trust_domain, namespace, account } = self;
        SpiffeId {
            text: format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{account}").into(),
            domain: trust_domain.clone(),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id(), f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let error = SpiffeId::parse(text).expect_err(text).to_string();
        assert!(error.contains(why), "{text:?} was refused with {error:?}, expected {why:?}");
    }

    #[test]
    fn well_formed_identities_are_taken_apart() {
        let id = SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap();
        assert_eq!(id.trust_domain().as_str(), "corp.example");
        assert_eq!(id.path(), "/ns/research/sa/files");
        let workload = id.workload().unwrap();
        assert_eq!((workload.namespace.as_str(), workload.account.as_str()), ("research", "files"));
        assert_eq!(workload.id(), id);
    }

    #[test]
    fn scheme_and_trust_domain_ignore_case_and_the_path_does_not() {
        let a = SpiffeId::parse("SPIFFE://Corp.Example/ns/a").unwrap();
        assert_eq!(a, SpiffeId::parse("spiffe://corp.example/ns/a").unwrap());
        assert_ne!(a, SpiffeId::parse("spiffe://corp.example/ns/A").unwrap());
    }

    #[test]
    fn malformed_identities_are_refused_with_the_reason() {
        refused("", "is empty");
        refused("https://corp.example/a", "does not start with spiffe://");
        refused("spiffe:/", "does not start with spiffe://");
        refused("spiffe://corp.example", "has no path");
        refused("spiffe://corp.example/", "segment is empty");
        refused("spiffe:///a", "trust domain is empty");
        refused("spiffe://corp.example/a/", "segment is empty");
        refused("spiffe://corp.example//a", "segment is empty");
        refused("spiffe://corp.example/a/../b", "relative reference");
        refused("spiffe://corp.example/./b", "relative reference");
        refused("spiffe://corp.example:443/a", "':' at byte 12");
        refused("spiffe://user@corp.example/a", "'@'");
        refused("spiffe://corp.example/a?x=1", "'?'");
        refused("spiffe://corp.example/a#x", "'#'");
        refused("spiffe://corp.example/a%2fb", "'%'");
        refused("spiffe://corp.example/a\0", "'\\0'");
        refused("spiffe://corp.example/é", "'é'");
        refused("spiffe://cörp.example/a", "'ö'");
        refused("spiffe://corp.example/*", "'*'");
        refused(&format!("spiffe://{}/a", "d".repeat(256)), "at most 255");
        refused(&format!("spiffe://d/{}", "a".repeat(2048)), "at most 2048");
    }

    #[test]
    fn only_the_exact_workload_form_is_a_workload() {
        let workload = |text: &str| SpiffeId::parse(text).unwrap().workload().is_some();
        assert!(workload("spiffe://d/ns/a/sa/b"));
        assert!(!workload("spiffe://d/ns/a/sa/b/c"));
        assert!(!workload("spiffe://d/sa/a/ns/b"));
        assert!(!workload("spiffe://d/ns/a/sa"));
        assert!(!workload("spiffe://d/ns/Upper/sa/b"));
        assert!(!workload("spiffe://d/ns/a.b/sa/b"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,80}") {
            let _ = SpiffeId::parse(&text);
        }

        #[test]
        fn whatever_parses_prints_as_itself(text in "[sS]piffe://[a-zA-Z0-9._-]{1,20}(/[A-Za-z0-9._-]{1,12}){1,4}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(&SpiffeId::parse(id.as_str()).unwrap(), &id);
                prop_assert!(id.as_str().starts_with("spiffe://"));
                prop_assert_eq!(id.as_str().len(), text.len());
                prop_assert!(text.ends_with(id.path()));
            }
        }

        #[test]
        fn accepted_characters_are_the_standard_s(text in "spiffe://[ -~]{1,12}/[ -~]{1,12}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                let path_ok = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
                prop_assert!(id.path().chars().all(path_ok));
                let domain_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
                prop_assert!(id.trust_domain().as_str().chars().all(domain_ok));
            }
        }
    }
}
