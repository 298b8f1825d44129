//! Reading the fields of messages: each function takes what the wire gave and returns a value of the model, or says
//! what is wrong with it. Where it is wrong is added on the way out, by `at` and by the collections.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use prost_types::Duration;

use crate::resource::bounded::{Count, List, Map};
use crate::resource::units::{ByteSize, Span};

/// What is wrong, and where, as a path that grows outwards.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) path: String,
    pub(super) problem: String,
}

pub(super) type Read<T> = Result<T, Wrong>;

impl Wrong {
    pub(super) fn new(problem: impl Display) -> Self {
        Self { path: String::new(), problem: problem.to_string() }
    }

    fn within(self, outer: &str) -> Self {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Self { path: format!("{outer}{separator}{}", self.path), ..self }
    }
}

/// Names the field that was read.
pub(super) fn at<T>(field: &str, read: Read<T>) -> Read<T> {
    read.map_err(|wrong| wrong.within(field))
}

/// A rule of the model, which speaks of several fields at once.
pub(super) fn rule<T, E: Display>(result: Result<T, E>) -> Read<T> {
    result.map_err(Wrong::new)
}

pub(super) fn required<T>(field: Option<T>) -> Read<T> {
    field.ok_or_else(|| Wrong::new("is not given"))
}

pub(super) fn text<T: FromStr<Err: Display>>(text: &str) -> Read<T> {
    rule(text.parse())
}

/// An empty text means "not set".
pub(super) fn optional_text<T: FromStr<Err: Display>>(found: &str) -> Read<Option<T>> {
    if found.is_empty() { Ok(None) } else { text(found).map(Some) }
}

pub(super) fn list<A, T, const MAX: usize, const MIN: usize>(
    items: Vec<A>,
    read: impl Fn(A) -> Read<T>,
) -> Read<List<T, MAX, MIN>> {
    let len = items.len();
    if !(MIN..=MAX).contains(&len) {
        return Err(Wrong::new(format_args!("has {len} items; expected {MIN} to {MAX}")));
    }
    let items = items.into_iter().enumerate();
    let items = items.map(|(index, item)| read(item).map_err(|wrong| wrong.within(&format!("[{index}]"))));
    let items = items.collect::<Read<Vec<T>>>()?;
    Ok(List::new(items).expect("the length was checked"))
}

/// An empty list means "not set".
pub(super) fn optional_list<A, T, const MAX: usize>(
    items: Vec<A>,
    read: impl Fn(A) -> Read<T>,
) -> Read<Option<List<T, MAX, 1>>> {
    if items.is_empty() { Ok(None) } else { list(items, read).map(Some) }
}

pub(super) fn texts<T: FromStr<Err: Display>, const MAX: usize, const MIN: usize>(
    items: Vec<String>,
) -> Read<List<T, MAX, MIN>> {
    list(items, |item| text(&item))
}

pub(super) fn optional_texts<T: FromStr<Err: Display>, const MAX: usize>(
    items: Vec<String>,
) -> Read<Option<List<T, MAX, 1>>> {
    optional_list(items, |item| text(&item))
}

pub(super) fn map<K, B, V, const MAX: usize>(
    entries: BTreeMap<String, B>,
    read: impl Fn(B) -> Read<V>,
) -> Read<Map<K, V, MAX>>
where
    K: FromStr<Err: Display> + Ord,
{
    let len = entries.len();
    if len > MAX {
        return Err(Wrong::new(format_args!("has {len} entries; at most {MAX} are allowed")));
    }
    let mut found = BTreeMap::new();
    for (index, (key, value)) in entries.into_iter().enumerate() {
        // The key may be anything, so the place of the entry in the order of keys names it.
        let entry = text(&key).and_then(|key: K| Ok((key, read(value)?)));
        let (key, value) = entry.map_err(|wrong| wrong.within(&format!("[{index}]")))?;
        found.insert(key, value);
    }
    Ok(Map::new(found).expect("the length was checked"))
}

pub(super) fn count<const MIN: u32, const MAX: u32>(number: impl Into<u64>) -> Read<Count<MIN, MAX>> {
    let number = number.into();
    let found = u32::try_from(number).ok().and_then(Count::new);
    found.ok_or_else(|| Wrong::new(format_args!("{number} is out of range; expected {MIN} to {MAX}")))
}

/// A number for which zero means "not set".
pub(super) fn nonzero<const MIN: u32, const MAX: u32>(
    number: impl Into<u64>,
) -> Read<Option<Count<MIN, MAX>>> {
    match number.into() {
        0 => Ok(None),
        number => count(number).map(Some),
    }
}

/// A number for which zero is a value of its own.
pub(super) fn optional_count<const MIN: u32, const MAX: u32>(
    number: Option<impl Into<u64>>,
) -> Read<Option<Count<MIN, MAX>>> {
    number.map(count).transpose()
}

pub(super) fn size(bytes: u64) -> Read<ByteSize> {
    match bytes <= ByteSize::BYTES_MAX {
        true => Ok(ByteSize::new(bytes)),
        false => Err(Wrong::new(format_args!("{bytes} is out of range; expected at most 1 TiB"))),
    }
}

pub(super) fn span(duration: Duration) -> Read<Span> {
    let Duration { seconds, nanos } = duration;
    let parts = u64::try_from(seconds).ok().zip(u64::try_from(nanos).ok());
    let whole = parts.filter(|(_, nanos)| *nanos < 1_000_000_000 && nanos.is_multiple_of(1_000_000));
    let Some((seconds, nanos)) = whole else {
        return Err(Wrong::new("is not a duration in whole milliseconds from 0 up"));
    };
    let millis = seconds.checked_mul(1000).and_then(|millis| millis.checked_add(nanos / 1_000_000));
    millis.and_then(Span::new).ok_or_else(|| Wrong::new("is longer than ten years"))
}

pub(super) fn optional_span(duration: Option<Duration>) -> Read<Option<Span>> {
    duration.map(span).transpose()
}
