//! Whether a list should show a template of URIs: whether some URI of it could be read.

use crate::mcp::{Target, method};
use crate::name::Glob;
use crate::resource::kinds::{AccessRule, Action, DefaultAction, TargetMatch};

use super::{View, speaks_of_method};

/// Stands for what a variable of a template expands to. No pattern has it.
const VARIABLE: char = '\u{1}';

impl View {
    /// Whether the caller could be allowed to read any URI that a template (RFC 6570) expands to. Errs on the side of
    /// "yes": what is read is decided by its URI.
    pub fn may_see_template(&self, template: &str) -> bool {
        let Some(uris) = uris(template) else { return self.may_see(Target::Resource(template)) };
        let (mut an_allow_exists, mut allowed) = (false, false);
        for (speaks, rule) in self.enforced() {
            match rule.action {
                Action::Allow => {
                    an_allow_exists = true;
                    allowed = allowed || speaks && is_about(rule, |glob| overlaps(glob, &uris));
                }
                Action::Deny
                    if speaks && rule.when.is_none() && is_about(rule, |glob| glob.matches(&uris)) =>
                {
                    return false;
                }
                Action::Deny | Action::Audit => {}
            }
        }
        if an_allow_exists { allowed } else { self.default_action() != DefaultAction::Deny }
    }
}

/// Whether a template (RFC 6570) could expand to a URI. Errs on the side of "yes": what a variable may hold is not looked
/// at.
pub fn template_fits(template: &str, uri: &str) -> bool {
    uris(template).map_or_else(|| template == uri, |uris| expands_to(&uris, uri))
}

fn is_about(rule: &AccessRule, fits: impl Fn(&Glob) -> bool) -> bool {
    let reads = |wanted: &TargetMatch| {
        speaks_of_method(wanted, method::RESOURCES_READ)
            && match &wanted.resources {
                Some(globs) => globs.iter().any(&fits),
                None => wanted.tools.is_none() && wanted.prompts.is_none(),
            }
    };
    rule.to.as_ref().is_none_or(|to| to.iter().any(reads))
}

/// The template with a mark for each of its variables; none where its braces do not match.
fn uris(template: &str) -> Option<String> {
    let (mut uris, mut rest) = (String::new(), template);
    while let Some((literal, after)) = rest.split_once('{') {
        let (variable, after) = after.split_once('}')?;
        if variable.contains('{') || literal.contains(['}', VARIABLE]) {
            return None;
        }
        uris.push_str(literal);
        uris.push(VARIABLE);
        rest = after;
    }
    if rest.contains(['}', VARIABLE]) {
        return None;
    }
    uris.push_str(rest);
    Some(uris)
}

/// Whether any text fits both. Where both have a part that may be anything, only what comes before the first and after
/// the last such part can be in the way.
fn overlaps(glob: &Glob, uris: &str) -> bool {
    if let Some(exact) = glob.exact() {
        return expands_to(uris, exact);
    }
    if !uris.contains(VARIABLE) {
        return glob.matches(uris);
    }
    let ends = |text: &str, any: char| {
        let head = text.split(any).next().unwrap_or_default().to_owned();
        let tail = text.rsplit(any).next().unwrap_or_default().to_owned();
        (head, tail)
    };
    let ((head, tail), (start, end)) = (ends(glob.as_str(), '*'), ends(uris, VARIABLE));
    (head.starts_with(&start) || start.starts_with(&head)) && (tail.ends_with(&end) || end.ends_with(&tail))
}

/// As patterns match: each piece at its first occurrence.
fn expands_to(uris: &str, text: &str) -> bool {
    let Some((head, rest)) = uris.split_once(VARIABLE) else { return uris == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let (middle, tail) =
        rest.rsplit_once(VARIABLE).map_or((None, rest), |(middle, tail)| (Some(middle), tail));
    for piece in middle.into_iter().flat_map(|middle| middle.split(VARIABLE)) {
        match text.split_once(piece) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(tail)
}
