//! One way of writing each JSON value, so that values can be compared and hashed as texts.
//!
//! As RFC 8785 has it: no blanks, the members of objects in the order of their keys' UTF-16 units, strings with as few
//! escapes as can be. Unlike there, numbers do not go through floating point, in which numbers that differ become the
//! same.

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::mcp::Raw;
use crate::mcp::json_string;

/// What becomes of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Two of the same value are the same, however they are written.
    ByValue,
    /// They stay as they are written: some readers tell `1` from `1.0`.
    AsWritten,
}

/// Writes a value in the one way.
pub fn canonical(value: Raw<'_>, numbers: Numbers) -> String {
    let mut text = String::with_capacity(value.get().len());
    write(&mut text, value, numbers);
    text
}

/// Goes no deeper than what was scanned.
pub(super) fn write(text: &mut String, value: Raw<'_>, numbers: Numbers) {
    match value.get().as_bytes().first() {
        Some(b'{') => object(text, value, numbers),
        Some(b'[') => {
            text.push('[');
            for (at, (_, element)) in value.parts().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write(text, element, numbers);
            }
            text.push(']');
        }
        Some(b'"') => string(text, value),
        Some(b'-' | b'0'..=b'9') if numbers == Numbers::ByValue => number(text, value.get()),
        _ => text.push_str(value.get()),
    }
}

fn object(text: &mut String, value: Raw<'_>, numbers: Numbers) {
    let mut members: Vec<_> =
        value.parts().map(|(key, value)| (key.text().unwrap_or_default(), value)).collect();
    members.sort_by(|(a, _), (b, _)| by_utf16(a, b));
    text.push('{');
    for (at, (key, value)) in members.into_iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&json_string(&key));
        text.push(':');
        write(text, value, numbers);
    }
    text.push('}');
}

fn by_utf16(a: &str, b: &str) -> Ordering {
    match a.is_ascii() && b.is_ascii() {
        true => a.cmp(b),
        false => a.encode_utf16().cmp(b.encode_utf16()),
    }
}

fn string(text: &mut String, value: Raw<'_>) {
    // Whatever stands without escapes needs none.
    match value.get().contains('\\') {
        false => text.push_str(value.get()),
        true => text.push_str(&json_string(&value.text().unwrap_or_default())),
    }
}

/// As an integer with a power of ten, if it has one: `12`, `-5e-1`. Exponents beyond all use stay as they are.
fn number(text: &mut String, written: &str) {
    let (sign, rest) = written.strip_prefix('-').map_or(("", written), |rest| ("-", rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let Ok(exponent) = exponent.parse::<i32>() else { return text.push_str(written) };
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    let shown = kept.trim_start_matches('0');
    if shown.is_empty() {
        return text.push('0');
    }
    let places = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let power = i64::from(exponent) - places(fraction.len()) + places(digits.len() - kept.len());
    text.push_str(sign);
    text.push_str(shown);
    match power {
        // A whole number that fits a line stays one.
        0..=20 => text.extend(std::iter::repeat_n('0', usize::try_from(power).unwrap_or(0))),
        // Writing to a text cannot fail.
        _ => _ = write!(text, "e{power}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Raw<'_> {
        Raw::scan(json, 64).unwrap()
    }

    #[track_caller]
    fn check(json: &str, expected: &str) {
        assert_eq!(canonical(read(json), Numbers::ByValue), expected, "{json}");
    }

    #[test]
    fn members_are_sorted_and_blanks_left_out() {
        check(r#" { "b" : [ 1 , { } ] , "a" : null } "#, r#"{"a":null,"b":[1,{}]}"#);
        // By UTF-16 units a pair of surrogates comes before the last of the basic plane.
        check("{\"\u{ffff}\":1,\"\u{1f600}\":2}", "{\"\u{1f600}\":2,\"\u{ffff}\":1}");
    }

    #[test]
    fn strings_have_the_escapes_that_they_need() {
        check(r#""\u0061\/\u00e9\n\u001F\"\\""#, "\"a/é\\n\\u001f\\\"\\\\\"");
        check(r#"{"\u0062":1,"a":2}"#, r#"{"a":2,"b":1}"#);
    }

    #[test]
    fn numbers_of_one_value_are_written_alike_and_others_never() {
        for one in ["1", "1.0", "1e0", "10e-1", "0.1E+1", "1.000"] {
            check(one, "1");
        }
        for zero in ["0", "-0", "0.0", "0e9"] {
            check(zero, "0");
        }
        check("9007199254740993", "9007199254740993");
        check("9007199254740992.0", "9007199254740992");
        check("100", "100");
        check("1e2", "100");
        check("0.5", "5e-1");
        check("-12.50", "-125e-1");
        check("1e400", "1e400");
        check("10e399", "1e400");
        check("1e99999999999", "1e99999999999");
        check("123456789012345678901234567890", "123456789012345678901234567890");
        check("123456789012345678901234567890.1", "1234567890123456789012345678901e-1");
    }

    #[test]
    fn numbers_may_be_left_as_they_are() {
        assert_eq!(canonical(read("[1.0, 1, 10e-1]"), Numbers::AsWritten), "[1.0,1,10e-1]");
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<i16>().prop_map(|quarters| (f64::from(quarters) / 4.0).into()),
            r#"[ab"\\/\né😀]{0,4}"#.prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let object = proptest::collection::btree_map("[abé😀]{0,2}", inner.clone(), 0..6);
            prop_oneof![
                proptest::collection::vec(inner, 0..6).prop_map(serde_json::Value::from),
                object.prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_one_way_says_the_same_and_is_the_same_when_written_again(value in value()) {
            let written = serde_json::to_string_pretty(&value).unwrap();
            let once = canonical(read(&written), Numbers::ByValue);
            prop_assert_eq!(&canonical(read(&once), Numbers::ByValue), &once);
            let again: serde_json::Value = serde_json::from_str(&canonical(read(&written), Numbers::AsWritten)).unwrap();
            prop_assert_eq!(again, value);
        }
    }
}
