//! Tells code, comments and literals of Rust source apart, so that a rule about code is not confused by what a text or
//! a comment says.

/// A source file, taken apart. Each part has the lines of the whole; what belongs to the others is blank.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) code: String,
    pub(crate) literals: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

pub(crate) fn split(text: &str) -> Parts {
    let mut parts = Parts::default();
    let mut rest = text;
    while !rest.is_empty() {
        let (kind, len) = token(rest);
        let (token, after) = rest.split_at(len);
        let blank = || token.chars().map(|c| if c == '\n' { '\n' } else { ' ' });
        match kind {
            Kind::Code => (parts.code.push_str(token), parts.literals.extend(blank())),
            Kind::Literal => (parts.literals.push_str(token), parts.code.extend(blank())),
            Kind::Comment => (parts.code.extend(blank()), parts.literals.extend(blank())),
        };
        rest = after;
    }
    parts
}

/// What the text, which is not empty, begins with, and how many bytes of it.
fn token(text: &str) -> (Kind, usize) {
    let word = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    if text.starts_with("//") {
        (Kind::Comment, text.find('\n').unwrap_or(text.len()))
    } else if text.starts_with("/*") {
        (Kind::Comment, block_comment(text))
    } else if text.starts_with('"') {
        (Kind::Literal, quoted(text, '"'))
    } else if let Some(len) = raw_string(text) {
        (Kind::Literal, len)
    } else if let Some(len) = character(text) {
        (Kind::Literal, len)
    } else if word > 0 {
        (Kind::Code, word)
    } else {
        (Kind::Code, text.chars().next().map_or(0, char::len_utf8))
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// To the end of what begins and ends with `quote`, where a backslash takes the next character's meaning.
fn quoted(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        if c == '\\' {
            characters.next();
        } else if c == quote {
            return at + c.len_utf8();
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = text[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    let begin = prefix.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len()))
}

/// A character, which a lifetime is not.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let mut characters = inner.chars();
    match (characters.next()?, characters.next()?) {
        ('\\', _) => Some(quoted(text, '\'')),
        (c, '\'') => Some(c.len_utf8() + 2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, code: &str, literals: &str) {
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let parts = split(text);
        assert_eq!(
            (squeeze(&parts.code).as_str(), squeeze(&parts.literals).as_str()),
            (code, literals),
            "{text}"
        );
        assert_eq!(parts.code.lines().count(), text.lines().count());
    }

    #[test]
    fn code_comments_and_literals_are_told_apart() {
        check("let a = 1; // todo!()", "let a = 1;", "");
        check("a /* b /* c */ d */ e", "a e", "");
        check(r#"f("x // y", b"z\"") g"#, "f( , b ) g", r#""x // y" "z\"""#);
        check("f(r#\"a \"b\" c\"#)", "f( )", "r#\"a \"b\" c\"#");
        check("r#type: &'a str = 'b' '\\'' '\"'", "r#type: &'a str =", "'b' '\\'' '\"'");
        check("for\"a\" é \"ö\"", "for é", "\"a\" \"ö\"");
        check("\"open", "", "\"open");
        check("//! \"\nmod a;", "mod a;", "");
    }
}
