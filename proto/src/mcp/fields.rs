//! Reading the members of an object that was already scanned.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members that are asked for, in the order of `known`.
///
/// A key that is one of them but for its case is an error: some readers would take it for the other (Go's do, and take
/// the last that comes), and a server must not see what was not seen here.
pub(super) fn fields<'a, const N: usize>(
    object: &'a RawValue,
    known: &[&'static str; N],
) -> Result<[Option<&'a RawValue>; N], String> {
    let mut json = serde_json::Deserializer::from_str(object.get());
    json.deserialize_map(Members(known)).map_err(|error| without_place(&error))
}

/// One member of an object; none also where there is no object.
pub(super) fn member<'a>(object: &'a RawValue, key: &'static str) -> Option<&'a RawValue> {
    is_object(object).then(|| fields(object, &[key]).ok()).flatten().and_then(|[value]| value)
}

/// The text of a string; none for other values.
pub(super) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    match inner.contains('\\') {
        false => Some(Cow::Borrowed(inner)),
        true => serde_json::from_str(raw.get()).ok().map(Cow::Owned),
    }
}

pub(super) fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(super) fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

pub(super) fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// The place would be one in the object, not in the message.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned()
}

struct Members<'k, const N: usize>(&'k [&'static str; N]);

impl<'a, const N: usize> Visitor<'a> for Members<'_, N> {
    type Value = [Option<&'a RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [None; N];
        while let Some(known) = map.next_key_seed(Key(self.0))? {
            match known {
                Some(place) => values[place] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

/// A key as its place among the known ones.
struct Key<'k>(&'k [&'static str]);

impl<'a> DeserializeSeed<'a> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        if let Some(place) = self.0.iter().position(|known| *known == key) {
            return Ok(Some(place));
        }
        match self.0.iter().find(|known| alike_but_for_case(key, known)) {
            Some(known) => Err(E::custom(format_args!("a key that is `{known}` but for its case"))),
            None => Ok(None),
        }
    }
}

fn alike_but_for_case(key: &str, known: &str) -> bool {
    match key.is_ascii() {
        true => key.eq_ignore_ascii_case(known),
        false => key.chars().map(folded).eq(known.chars().map(folded)),
    }
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
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn members_are_found_by_their_exact_key() {
        let object = raw(r#"{"other": {"name": 1}, "n\u0061me": [2], "uri": null}"#);
        let [name, uri, cursor] = fields(object, &["name", "uri", "cursor"]).unwrap();
        assert_eq!(name.unwrap().get(), "[2]");
        assert_eq!(uri.unwrap().get(), "null");
        assert!(cursor.is_none());
        assert_eq!(member(object, "uri").unwrap().get(), "null");
        assert!(member(raw("[1]"), "uri").is_none());
    }

    #[test]
    fn a_key_in_another_case_is_refused() {
        for key in ["Name", "NAME", r"\u004eame"] {
            let error = fields(raw(&format!(r#"{{"{key}": 1}}"#)), &["name"]).unwrap_err();
            assert_eq!(error, "a key that is `name` but for its case");
        }
        assert!(fields(raw("{\"ta\u{17f}\u{212a}Id\": 1}"), &["taskId"]).is_err());
        assert!(fields(raw(r#"{"names": 1, "nаme": 2}"#), &["name"]).is_ok());
    }

    #[test]
    fn texts_are_read_without_their_escapes() {
        assert_eq!(text(raw(r#""a é""#)).unwrap(), "a é");
        assert_eq!(text(raw(r#""\u00e9\"\ud83d\ude00""#)).unwrap(), "é\"😀");
        assert!(text(raw("5")).is_none());
        assert!(text(raw("null")).is_none());
    }
}
