//! Names, identities and amounts: every short text that is parsed into a type.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use weft_proto::name::{
    CollectorUrl, Digest, Glob, HostPort, IdentityPattern, LabelKey, LabelValue, MethodName, Namespace,
    NodeId, ObjectName, PromptName, ServerName, ServiceAccount, SpiffeId, ToolName, TrustDomain, WebUrl,
};
use weft_proto::resource::units::{Budget, ByteSize, Rate, Ratio, Span};

/// Longest message about a wrong text: such messages go into logs and to strangers.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024;

/// Each line is tried as everything; two lines that follow each other are tried as a pattern and what it may match.
pub fn spiffe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines: Vec<&str> = text.split('\n').collect();
    lines.iter().for_each(|line| alone(line));
    for pair in lines.windows(2) {
        together(pair[0], pair[1]);
    }
}

fn alone(text: &str) {
    prints_as_itself::<TrustDomain>(text);
    prints_as_itself::<IdentityPattern>(text);
    prints_as_itself::<Glob>(text);
    prints_as_itself::<Namespace>(text);
    prints_as_itself::<ServiceAccount>(text);
    prints_as_itself::<ObjectName>(text);
    prints_as_itself::<ServerName>(text);
    prints_as_itself::<NodeId>(text);
    prints_as_itself::<ToolName>(text);
    prints_as_itself::<PromptName>(text);
    prints_as_itself::<MethodName>(text);
    prints_as_itself::<LabelKey>(text);
    prints_as_itself::<LabelValue>(text);
    prints_as_itself::<HostPort>(text);
    prints_as_itself::<WebUrl>(text);
    prints_as_itself::<CollectorUrl>(text);
    prints_as_itself::<Digest>(text);
    prints_as_itself::<Span>(text);
    prints_as_itself::<ByteSize>(text);
    prints_as_itself::<Rate>(text);
    prints_as_itself::<Budget>(text);
    prints_as_itself::<Ratio>(text);
    if let Some(id) = prints_as_itself::<SpiffeId>(text) {
        // Only the case of what comes before the path is folded.
        assert!(id.as_str().eq_ignore_ascii_case(text) && text.ends_with(id.path()), "{text:?} became {id}");
        if let Some(workload) = id.workload() {
            assert_eq!(workload.id(), id, "a workload's identity is another one");
        }
        // An identity is a pattern of itself, if it has a form that patterns can have.
        if let Ok(pattern) = IdentityPattern::parse(text) {
            assert!(pattern.matches(&id), "{text:?} as a pattern does not match itself");
        }
    }
}

fn together(pattern: &str, subject: &str) {
    if let Ok(glob) = Glob::parse(pattern) {
        assert_eq!(
            glob.matches(subject),
            glob_matches(pattern.as_bytes(), subject.as_bytes()),
            "{pattern:?} {subject:?}"
        );
    }
    if let (Ok(pattern), Ok(id)) = (IdentityPattern::parse(pattern), SpiffeId::parse(subject)) {
        let again = IdentityPattern::parse(&pattern.to_string()).expect("a printed pattern is a pattern");
        assert_eq!(pattern.matches(&id), again.matches(&id), "{pattern} {id}");
    }
}

/// The meaning of a glob, told as simply as it can be: in time that does not matter here.
fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for byte in pattern {
        if *byte == b'*' {
            let first = reached.iter().position(|it| *it).unwrap_or(reached.len());
            reached[first..].fill(true);
        } else {
            for at in (1..reached.len()).rev() {
                reached[at] = reached[at - 1] && text[at - 1] == *byte;
            }
            reached[0] = false;
        }
    }
    reached[text.len()]
}

fn prints_as_itself<T>(text: &str) -> Option<T>
where
    T: FromStr<Err: Display> + Display + PartialEq + Debug,
{
    let value: T = match text.parse() {
        Ok(value) => value,
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() <= MESSAGE_BYTES_MAX, "a message repeats too much: {message}");
            return None;
        }
    };
    let printed = value.to_string();
    match printed.parse::<T>() {
        Ok(again) => assert_eq!(again, value, "{text:?} prints as {printed:?}"),
        Err(error) => panic!("{text:?} prints as {printed:?}, which is refused: {error}"),
    }
    Some(value)
}
