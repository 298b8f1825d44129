//! Values as they stand in a message that was scanned, and the members of objects among them.
//!
//! What was scanned is known to be JSON that everyone reads alike, so that walking it again needs no checks: only where
//! its parts end.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr2;
use serde_json::value::RawValue;

use super::scan::scan;
use super::{Bounds, Error};

/// The JSON text of a value within a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Raw<'a>(&'a str);

impl fmt::Debug for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<'a> From<&'a RawValue> for Raw<'a> {
    fn from(value: &'a RawValue) -> Self {
        Self(value.get())
    }
}

impl<'a> Raw<'a> {
    /// A value that was scanned, without anything around it.
    pub(crate) const fn scanned(text: &'a str) -> Self {
        Self(text)
    }

    /// A JSON text that came otherwise than in a message, held to the same: everyone reads it alike.
    pub fn scan(text: &'a str, depth_max: usize) -> Result<Self, Error> {
        let scanned = scan(text.as_bytes(), Bounds { depth_max, batch_max: usize::MAX })?;
        let (start, end) = scanned.whole;
        Ok(Self(&text[start..end]))
    }

    pub fn get(self) -> &'a str {
        self.0
    }

    /// The same, for whoever builds JSON of it.
    ///
    /// # Panics
    /// Never: what was scanned is JSON.
    pub fn value(self) -> &'a RawValue {
        serde_json::from_str(self.0).expect("it was scanned")
    }

    /// The text of a string; none for other values.
    pub fn text(self) -> Option<Cow<'a, str>> {
        let inner = self.0.strip_prefix('"')?.strip_suffix('"')?;
        match inner.as_bytes().contains(&b'\\') {
            false => Some(Cow::Borrowed(inner)),
            true => serde_json::from_str(self.0).ok().map(Cow::Owned),
        }
    }

    /// A string that something is decided by. NUL ends a string for some readers.
    pub(super) fn name(self) -> Option<Cow<'a, str>> {
        self.text().filter(|text| !text.contains('\0'))
    }

    /// Whether a result says that its tool failed.
    pub fn is_tool_error(self) -> bool {
        self.member("isError").is_some_and(|it| it.get() == "true")
    }

    /// What names that which a result only begins: the id of a task, or the state that the next request brings along.
    pub fn goes_on_by(self) -> Option<Cow<'a, str>> {
        let text = |key| self.member(key).and_then(Self::text);
        match &*text("resultType")? {
            "task" => text("taskId"),
            "input_required" => text("requestState"),
            _ => None,
        }
    }

    pub(crate) fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    pub(crate) fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// The elements of an array; none for other values.
    pub(super) fn elements(self) -> Option<Vec<Self>> {
        let mut walk = Walk { text: self.0, at: 1 };
        let mut elements = Vec::new();
        if !self.0.starts_with('[') {
            return None;
        }
        while walk.next_part()? != b']' {
            elements.push(walk.value()?);
        }
        Some(elements)
    }

    /// The members that are asked for, in the order of `known`; none where there is no object.
    ///
    /// A key that is one of them but for its case is an error: some readers would take it for the other (Go's do, and
    /// take the last that comes), and a server must not see what was not seen here.
    pub(crate) fn members<const N: usize>(
        self,
        known: &[&'static str; N],
    ) -> Result<[Option<Self>; N], String> {
        let mut walk = Walk { text: self.0, at: 1 };
        let members = std::iter::from_fn(|| {
            let (key, value) = walk.member()?;
            Some((key.text().unwrap_or_default(), value))
        });
        if self.is_object() { pick(known, members) } else { Ok([None; N]) }
    }

    /// The members of an object, or the elements of an array with themselves for keys; none of other values.
    pub(crate) fn parts(self) -> impl Iterator<Item = (Self, Self)> {
        let mut walk = Walk { text: self.0, at: 1 };
        let (object, array) = (self.is_object(), self.0.starts_with('['));
        std::iter::from_fn(move || match (object, array) {
            (true, _) => walk.member(),
            (_, true) if walk.next_part()? != b']' => walk.value().map(|it| (it, it)),
            _ => None,
        })
    }

    /// One member of an object by a key that is not known beforehand; none also where there is no object. An error as by
    /// [`Raw::members`].
    pub(crate) fn find(self, key: &str) -> Result<Option<Self>, AlikeButForCase> {
        let mut found = None;
        for (raw, value) in self.is_object().then(|| self.parts()).into_iter().flatten() {
            // Most keys are of another length, and written as they are.
            let plain = !raw.0.contains('\\');
            if plain && raw.0.len() != key.len() + 2 && raw.0.is_ascii() && key.is_ascii() {
                continue;
            }
            let text = raw.text().unwrap_or_default();
            if text == key {
                found = Some(value);
            } else if alike_but_for_case(&text, key) || alike_in_any_script(&text, key) {
                return Err(AlikeButForCase);
            }
        }
        Ok(found)
    }

    /// One member of an object; none also where there is no object.
    pub fn member(self, key: &'static str) -> Option<Self> {
        self.members(&[key]).ok().and_then(|[value]| value)
    }
}

/// An object has another key that some readers would take for the one that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AlikeButForCase;

/// Of all members of an object those that are asked for. See [`Raw::members`].
pub(super) fn pick<'k, V: Copy, const N: usize>(
    known: &[&'static str; N],
    members: impl Iterator<Item = (Cow<'k, str>, V)>,
) -> Result<[Option<V>; N], String> {
    let mut found = [None; N];
    for (key, value) in members {
        match known.iter().position(|known| *known == key) {
            Some(place) => found[place] = Some(value),
            None => {
                if let Some(known) = known.iter().find(|known| alike_but_for_case(&key, known)) {
                    return Err(format!("a key that is `{known}` but for its case"));
                }
            }
        }
    }
    Ok(found)
}

/// A walk over a scanned text. None where the text ends, which it does nowhere but after its last part.
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    /// The next key with its value; none at the end of the object.
    fn member(&mut self) -> Option<(Raw<'a>, Raw<'a>)> {
        if self.next_part()? == b'}' {
            return None;
        }
        let key = self.value()?;
        self.next_part()?;
        Some((key, self.value()?))
    }

    /// The first byte of the next value, or the bracket that ends what is walked over.
    fn next_part(&mut self) -> Option<u8> {
        loop {
            match self.byte()? {
                b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// The value that begins here.
    fn value(&mut self) -> Option<Raw<'a>> {
        let start = self.at;
        match self.byte()? {
            b'"' => self.at = past_string(self.text.as_bytes(), start)?,
            b'{' | b'[' => self.nested()?,
            _ => {
                let rest = &self.text.as_bytes()[start..];
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
                self.at += rest.iter().position(ends).unwrap_or(rest.len());
            }
        }
        Some(Raw(&self.text[start..self.at]))
    }

    /// Past an array or an object. What is in it is not looked at, but for strings, which may have brackets in them.
    fn nested(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        let (mut at, mut depth) = (self.at, 0_usize);
        loop {
            match *bytes.get(at)? {
                b'"' => {
                    at = past_string(bytes, at)?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                self.at = at;
                return Some(());
            }
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

/// Up to so many bytes are looked at one by one: most strings are short, and a search that looks at many at a time takes
/// longer to begin than these to end.
const SHORT: usize = 32;

/// Where a string ends that begins at `open`.
fn past_string(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    let near = bytes.len().min(at + SHORT);
    while at < near {
        match bytes[at] {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    loop {
        let rest = bytes.get(at..)?;
        let end = memchr2(b'"', b'\\', rest)?;
        match rest[end] {
            b'"' => return Some(at + end + 1),
            _ => at += end + 2,
        }
    }
}

pub(crate) fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn alike_but_for_case(key: &str, known: &str) -> bool {
    match key.is_ascii() {
        true => key.eq_ignore_ascii_case(known),
        false => key.chars().map(folded).eq(known.chars().map(folded)),
    }
}

/// The same for keys of any letters, which are not known beforehand.
fn alike_in_any_script(key: &str, other: &str) -> bool {
    let plain = key.is_ascii() && other.is_ascii();
    !plain && (key.to_lowercase() == other.to_lowercase() || key.to_uppercase() == other.to_uppercase())
}

/// Two letters beyond ASCII have one of ASCII as their other case.
fn folded(letter: char) -> char {
    match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(json: &str) -> Raw<'_> {
        Raw::from(serde_json::from_str::<&RawValue>(json).unwrap())
    }

    #[test]
    fn members_are_found_by_their_exact_key() {
        let object = raw(r#"{"other": {"name": 1, "]": "}\\"}, "n\u0061me" : [2] , "uri":null, "n":-1.5e3}"#);
        let [name, uri, cursor, number] = object.members(&["name", "uri", "cursor", "n"]).unwrap();
        assert_eq!(name.unwrap().get(), "[2]");
        assert_eq!(uri.unwrap().get(), "null");
        assert_eq!(number.unwrap().get(), "-1.5e3");
        assert!(cursor.is_none());
        assert_eq!(object.member("uri").unwrap().get(), "null");
        assert!(raw("[1]").member("uri").is_none());
        assert!(raw("{ }").member("uri").is_none());
    }

    #[test]
    fn elements_are_found_in_their_order() {
        let elements =
            |json| raw(json).elements().map(|found| found.into_iter().map(Raw::get).collect::<Vec<_>>());
        assert_eq!(
            elements(r#"[1, "a,]" ,[2,[3]],{"a":[]} ,null]"#).unwrap(),
            ["1", r#""a,]""#, "[2,[3]]", r#"{"a":[]}"#, "null"]
        );
        assert_eq!(elements("[ ]").unwrap(), [""; 0]);
        assert!(elements(r#"{"a":1}"#).is_none());
    }

    #[test]
    fn a_key_in_another_case_is_refused() {
        for key in ["Name", "NAME", r"\u004eame"] {
            let json = format!(r#"{{"{key}": 1}}"#);
            let error = raw(&json).members(&["name"]).unwrap_err();
            assert_eq!(error, "a key that is `name` but for its case");
        }
        assert!(raw("{\"ta\u{17f}\u{212a}Id\": 1}").members(&["taskId"]).is_err());
        assert!(raw(r#"{"names": 1, "nаme": 2}"#).members(&["name"]).is_ok());
    }

    #[test]
    fn a_key_that_is_asked_for_must_not_stand_beside_another_in_another_case() {
        let object = raw(r#"{"p\u0061th": 1, "Uri": 2, "GRÖSSE": 3, "\u017fize": 4, "ключ": 5, "": 6}"#);
        let find = |key| object.find(key).map(|found| found.map(Raw::get));
        assert_eq!(find("path"), Ok(Some("1")));
        assert_eq!(find("ключ"), Ok(Some("5")));
        assert_eq!((find(""), find("pat"), find("größer")), (Ok(Some("6")), Ok(None), Ok(None)));
        for alike in ["uri", "größe", "grösse", "size", "КЛЮЧ", "PATH"] {
            assert_eq!(find(alike), Err(AlikeButForCase), "{alike}");
        }
        assert_eq!(raw("[1]").find("a").map(|found| found.map(Raw::get)), Ok(None));
    }

    #[test]
    fn texts_are_read_without_their_escapes() {
        assert_eq!(raw(r#""a é""#).text().unwrap(), "a é");
        assert_eq!(raw(r#""\u00e9\"\ud83d\ude00""#).text().unwrap(), "é\"😀");
        assert!(raw("5").text().is_none());
        assert!(raw("null").text().is_none());
    }

    /// Any value, with keys and texts that look like the marks between them.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        let text = r#"[ab"\\{}\[\],: é\n]{0,6}"#;
        let leaf = prop_oneof![
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<i16>().prop_map(|quarters| (f64::from(quarters) / 4.0).into()),
            text.prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            let object = proptest::collection::btree_map(text, inner.clone(), 0..6);
            prop_oneof![
                proptest::collection::vec(inner, 0..6).prop_map(serde_json::Value::from),
                object.prop_map(|it| it.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_walk_finds_what_a_reader_of_json_finds(value in value(), pretty in any::<bool>()) {
            let json = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let object = raw(&json);
            let mut walk = Walk { text: object.get(), at: 1 };
            if let Some(members) = value.as_object() {
                for (key, value) in members {
                    let (found, walked) = walk.member().unwrap();
                    prop_assert_eq!(&found.text().unwrap(), key);
                    prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(walked.get()).unwrap(), value);
                }
                prop_assert!(walk.member().is_none());
                prop_assert_eq!(walk.at + 1, json.len());
            } else if let Some(expected) = value.as_array() {
                let found = object.elements().unwrap();
                let found: Vec<serde_json::Value> = found.iter().map(|it| serde_json::from_str(it.get()).unwrap()).collect();
                prop_assert_eq!(&found, expected);
            }
        }
    }
}
