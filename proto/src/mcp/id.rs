//! Ids of requests.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use serde_json::value::RawValue;

use super::raw::{Raw, json_string};
use super::written::Part;

/// The id of a request: a string or an integer. Two are equal if they are the same value, however it is written.
#[derive(Clone, Debug)]
pub struct Id<'a> {
    raw: &'a str,
    value: Value<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Value<'a> {
    Integer(i64),
    Text(Cow<'a, str>),
}

impl<'a> Id<'a> {
    /// None if the JSON text is neither a string nor an integer of 64 bits.
    pub fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str::<&RawValue>(json).ok().and_then(|raw| Self::from_raw(raw.into()))
    }

    pub(super) fn from_raw(raw: Raw<'a>) -> Option<Self> {
        Self::of(raw.get(), raw.text())
    }

    pub(super) fn from_part(part: Part<'_, 'a>) -> Option<Self> {
        Self::of(part.raw.get(), part.text())
    }

    fn of(raw: &'a str, text: Option<Cow<'a, str>>) -> Option<Self> {
        let value = match text {
            Some(text) => Value::Text(text),
            None => Value::Integer(raw.parse().ok()?),
        };
        Some(Self { raw, value })
    }

    /// The JSON text as it stands in the message.
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The JSON text that is the same for equal ids.
    pub fn canonical(&self) -> Cow<'a, str> {
        match &self.value {
            Value::Integer(0) => Cow::Borrowed("0"),
            Value::Text(Cow::Owned(text)) => Cow::Owned(json_string(text)),
            Value::Integer(_) | Value::Text(Cow::Borrowed(_)) => Cow::Borrowed(self.raw),
        }
    }
}

impl PartialEq for Id<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Id<'_> {}

impl Hash for Id<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_strings_or_integers() {
        for json in [r#""""#, r#""a""#, r#""\u0061\n""#, "0", "-1", "9223372036854775807"] {
            assert_eq!(Id::parse(json).unwrap().raw(), json);
        }
        for json in ["null", "1.0", "1e2", "true", "[]", "{}", "9223372036854775808", "", "1 2", "01", "+1"] {
            assert!(Id::parse(json).is_none(), "{json}");
        }
    }

    #[test]
    fn equal_ids_have_one_canonical_text() {
        let id = |json| Id::parse(json).unwrap();
        assert_eq!(id(r#""a""#), id(r#""\u0061""#));
        assert_eq!(id(r#""\u0061""#).canonical(), r#""a""#);
        assert_eq!(id(r#""\u000a\/""#).canonical(), r#""\n/""#);
        assert_eq!(id("-0").canonical(), id("0").canonical());
        assert_eq!(id("-0"), id("0"));
        assert_ne!(id("1"), id(r#""1""#));
        assert_ne!(id("1").canonical(), id(r#""1""#).canonical());
    }
}
