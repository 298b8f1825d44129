//! Writing values of the model as fields of messages.

use std::collections::BTreeMap;
use std::fmt::Display;

use prost_types::Duration;

use crate::resource::bounded::{Count, Map};
use crate::resource::units::Span;

/// What is not set is an empty text.
pub(super) fn string(value: &Option<impl Display>) -> String {
    value.as_ref().map(ToString::to_string).unwrap_or_default()
}

pub(super) fn strings<T: Display>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

/// What is not set is an empty list; a list of the model that may be left out is never empty itself.
pub(super) fn optional_strings<T: Display>(items: Option<&[T]>) -> Vec<String> {
    items.map(strings).unwrap_or_default()
}

pub(super) fn string_map<K: Display, V: Display, const MAX: usize>(
    entries: &Map<K, V, MAX>,
) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// What is not set is zero, for counts that are never zero.
pub(super) fn nonzero<const MAX: u32>(count: Option<Count<1, MAX>>) -> u32 {
    count.map_or(0, Count::get)
}

pub(super) fn number<const MAX: u32>(count: Option<Count<0, MAX>>) -> Option<u32> {
    count.map(Count::get)
}

pub(super) fn duration(span: Span) -> Duration {
    let (seconds, millis) = (span.as_millis() / 1000, span.as_millis() % 1000);
    Duration {
        seconds: i64::try_from(seconds).expect("a thousandth of any u64 is an i64"),
        nanos: i32::try_from(millis * 1_000_000).expect("less than a second of nanoseconds is an i32"),
    }
}

pub(super) fn optional_duration(span: Option<Span>) -> Option<Duration> {
    span.map(duration)
}

/// A message that says nothing is left out.
pub(super) fn unless_default<T: Default + PartialEq, M>(
    value: &T,
    encode: impl FnOnce(&T) -> M,
) -> Option<M> {
    (*value != T::default()).then(|| encode(value))
}
