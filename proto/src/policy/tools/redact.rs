//! Arguments that are not for logs.
//!
//! A path names keys from the outside in, with dots between them: `a.b`, `a[*].c`. Arrays are gone through whether or
//! not `[*]` says so, and keys match in either case, so that no spelling of a call brings out what was to stay hidden.

use crate::mcp::{Raw, json_string};

/// What stands in the place of a value.
pub const REDACTED: &str = "\"[redacted]\"";

/// Paths of arguments that are not for logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    paths: Vec<Vec<String>>,
}

impl Redaction {
    pub fn new<'t>(paths: impl IntoIterator<Item = &'t str>) -> Self {
        let keys = |path: &str| path.split('.').map(|key| without_stars(key).to_owned()).collect();
        Self { paths: paths.into_iter().map(keys).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// How many of the keys that lead to a place may be told, if the place lies at a path or within. Indexes of arrays
    /// are no keys.
    pub fn hides<'k>(&self, keys: impl Iterator<Item = &'k str> + Clone) -> Option<usize> {
        let within = |path: &&Vec<String>| {
            let mut keys = keys.clone();
            path.iter().all(|part| keys.next().is_some_and(|key| key.eq_ignore_ascii_case(part)))
        };
        self.paths.iter().filter(within).map(Vec::len).min()
    }

    /// Arguments as they may be logged.
    pub fn apply(&self, arguments: Raw<'_>) -> String {
        let mut text = String::with_capacity(arguments.get().len());
        let all: Vec<&[String]> = self.paths.iter().map(Vec::as_slice).collect();
        write(&mut text, arguments, &all);
        text
    }
}

fn without_stars(key: &str) -> &str {
    let mut key = key;
    while let Some(shorter) = key.strip_suffix("[*]") {
        key = shorter;
    }
    key
}

/// Goes no deeper than what was scanned.
fn write(text: &mut String, value: Raw<'_>, paths: &[&[String]]) {
    if paths.iter().any(|path| path.is_empty()) {
        return text.push_str(REDACTED);
    }
    let (open, close) = match value.get().as_bytes().first() {
        _ if paths.is_empty() => return text.push_str(value.get()),
        Some(b'{') => ('{', '}'),
        Some(b'[') => ('[', ']'),
        _ => return text.push_str(value.get()),
    };
    text.push(open);
    for (at, (key, value)) in value.parts().enumerate() {
        if at > 0 {
            text.push(',');
        }
        if open == '[' {
            write(text, value, paths);
            continue;
        }
        let key = key.text().unwrap_or_default();
        text.push_str(&json_string(&key));
        text.push(':');
        let on = paths.iter().filter_map(|path| {
            let (first, rest) = path.split_first()?;
            first.eq_ignore_ascii_case(&key).then_some(rest)
        });
        write(text, value, &on.collect::<Vec<_>>());
    }
    text.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(paths: &[&str], arguments: &str, expected: &str) {
        let redaction = Redaction::new(paths.iter().copied());
        assert_eq!(redaction.apply(Raw::scan(arguments, 64).unwrap()), expected, "{paths:?} in {arguments}");
    }

    #[test]
    fn values_at_paths_are_replaced_and_nothing_else() {
        let arguments = r#"{"user":{"name":"a","key":"s"},"list":[{"c":1,"d":2},{"c":[3]}],"n":1.0}"#;
        check(&[], arguments, arguments);
        check(&["user.key"], arguments, &arguments.replace("\"s\"", REDACTED));
        check(
            &["list[*].c", "nowhere.at.all"],
            arguments,
            &arguments.replace("\"c\":1", "\"c\":\"[redacted]\"").replace("[3]", REDACTED),
        );
        check(
            &["user", "list", "n"],
            arguments,
            r#"{"user":"[redacted]","list":"[redacted]","n":"[redacted]"}"#,
        );
    }

    #[test]
    fn no_spelling_brings_out_what_is_hidden() {
        check(&["a.b"], r#"{"a":[[{"b":"s"}]]}"#, r#"{"a":[[{"b":"[redacted]"}]]}"#);
        check(&["a[*].b"], r#"{"a":{"b":"s"}}"#, r#"{"a":{"b":"[redacted]"}}"#);
        check(&["a.b"], r#"{"A":{"\u0042":"s"}}"#, r#"{"A":{"B":"[redacted]"}}"#);
    }

    #[test]
    fn places_at_paths_and_within_are_hidden() {
        let redaction = Redaction::new(["user.key", "list[*].c"]);
        let check = |keys: &[&str], expected| {
            assert_eq!(redaction.hides(keys.iter().copied()), expected, "{keys:?}");
        };
        check(&["user"], None);
        check(&["user", "name"], None);
        check(&["user", "key"], Some(2));
        check(&["user", "KEY", "inner"], Some(2));
        check(&["list", "c"], Some(2));
    }
}
