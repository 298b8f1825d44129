//! The members of one JSON object, so that some can be taken away and others put in while the rest stays as it was.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use weft_proto::mcp::{Raw, span};

/// A replacement within a message, as [`weft_proto::mcp::splice`] takes it.
pub(super) type Edit = (Range<usize>, Vec<u8>);

/// An object, its members in the order in which they stand.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    raw: Raw<'a>,
    members: Vec<Member<'a>>,
}

#[derive(Debug)]
struct Member<'a> {
    key: Cow<'a, str>,
    value: &'a RawValue,
}

impl<'a> Object<'a> {
    /// None for what is no object.
    pub(super) fn parse(raw: impl Into<Raw<'a>>) -> Option<Self> {
        let raw = raw.into();
        let Members(members) = serde_json::from_str(raw.get()).ok()?;
        Some(Self { raw, members })
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|member| member.key == key).map(|member| member.value)
    }

    /// A member that is an object itself.
    pub(super) fn object(&self, key: &str) -> Option<Self> {
        self.value(key).and_then(Object::parse)
    }

    /// Keys and values, in the order in which they stand.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members.iter().map(|member| (&*member.key, member.value))
    }

    /// Whether nothing would be left without these.
    pub(super) fn has_only(&self, keys: &[&str]) -> bool {
        self.members.iter().all(|member| keys.contains(&&*member.key))
    }

    /// What takes members away and puts others, JSON texts, in before the rest. The message is the one that the object
    /// was borrowed from. What was put in this way is taken away without a trace.
    pub(super) fn edits(&self, message: &[u8], away: &[&str], new: &[(&str, &str)]) -> Vec<Edit> {
        let is_away: Vec<bool> = self.members.iter().map(|member| away.contains(&&*member.key)).collect();
        let mut edits = Vec::new();
        let mut at = 0;
        while at < is_away.len() {
            let run = is_away[at..].iter().take_while(|it| **it).count();
            if run > 0 {
                edits.push((self.run(message, at, at + run), Vec::new()));
            }
            at += run + 1;
        }
        if !new.is_empty() {
            let start = span(message, self.raw.get()).start + 1;
            let mut text: Vec<String> =
                new.iter().map(|(key, value)| format!("{}:{value}", serde_json::Value::from(*key))).collect();
            if is_away.contains(&false) {
                text.push(String::new());
            }
            edits.push((start..start, text.join(",").into_bytes()));
        }
        edits
    }

    /// Where the members `from..to` stand, with one comma if others are left.
    fn run(&self, message: &[u8], from: usize, to: usize) -> Range<usize> {
        let value = |at: usize| span(message, self.members[at].value.get());
        let end = value(to - 1).end;
        if from > 0 {
            return value(from - 1).end..end;
        }
        let start = span(message, self.raw.get()).start + 1;
        let comma = message[end..].iter().position(|byte| *byte == b',');
        match comma {
            Some(comma) if to < self.members.len() => start..end + comma + 1,
            _ => start..end,
        }
    }
}

struct Members<'a>(Vec<Member<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(Read).map(Self)
    }
}

struct Read;

impl<'de> Visitor<'de> for Read {
    type Value = Vec<Member<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            members.push(Member { key, value: map.next_value()? });
        }
        Ok(members)
    }
}

/// A key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_str(ReadKey)
    }
}

struct ReadKey;

impl<'de> Visitor<'de> for ReadKey {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Key(Cow::Borrowed(key)))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Key(Cow::Owned(key.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::mcp::splice;

    use super::*;

    #[track_caller]
    fn check(object: &str, away: &[&str], new: &[(&str, &str)], expected: &str) {
        let raw: &RawValue = serde_json::from_str(object).unwrap();
        let edits = Object::parse(raw).unwrap().edits(object.as_bytes(), away, new);
        let edited = String::from_utf8(splice(object.as_bytes(), edits)).unwrap();
        assert_eq!(edited, expected);
        serde_json::from_str::<serde_json::Value>(&edited).unwrap();
    }

    #[test]
    fn members_are_taken_away_wherever_they_stand() {
        let object = r#"{ "a": 1, "b" : [2,{"x":3}] ,"c":"," }"#;
        check(object, &[], &[], object);
        check(object, &["a"], &[], r#"{ "b" : [2,{"x":3}] ,"c":"," }"#);
        check(object, &["b"], &[], r#"{ "a": 1 ,"c":"," }"#);
        check(object, &["c"], &[], r#"{ "a": 1, "b" : [2,{"x":3}] }"#);
        check(object, &["a", "b"], &[], r#"{"c":"," }"#);
        check(object, &["a", "c"], &[], r#"{ "b" : [2,{"x":3}] }"#);
        check(object, &["c", "b"], &[], r#"{ "a": 1 }"#);
        check(object, &["a", "b", "c"], &[], "{ }");
        check(r#"{"\u0061":1}"#, &["a"], &[], "{}");
    }

    #[test]
    fn members_are_put_in_before_the_rest() {
        check("{}", &[], &[("a", "1"), ("b", "[]")], r#"{"a":1,"b":[]}"#);
        check(r#"{ "c":1}"#, &[], &[("a", "1")], r#"{"a":1, "c":1}"#);
        check(r#"{"c":1}"#, &["c"], &[("c", "2")], r#"{"c":2}"#);
        check(r#"{"a":1,"c":1 }"#, &["a"], &[("a", "2")], r#"{"a":2,"c":1 }"#);
    }

    #[test]
    fn what_was_put_in_is_taken_away_without_a_trace() {
        for object in ["{}", "{ }", r#"{ "b" : 1 }"#, "{\n  \"b\": 1,\n  \"c\": 2\n}"] {
            let raw: &RawValue = serde_json::from_str(object).unwrap();
            let new = [("x", "1"), ("y", "{}")];
            let edits = Object::parse(raw).unwrap().edits(object.as_bytes(), &[], &new);
            let with = String::from_utf8(splice(object.as_bytes(), edits)).unwrap();
            check(&with, &["x", "y"], &[], object);
        }
    }

    #[test]
    fn only_objects_have_members() {
        for json in ["[]", "1", "null", "\"a\""] {
            assert!(Object::parse(serde_json::from_str::<&RawValue>(json).unwrap()).is_none());
        }
    }
}
