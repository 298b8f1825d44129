//! How findings are put into words.

use std::fmt::Display;

/// Most names that a detail lists.
const NAMED_MAX: usize = 5;

/// The first few of some, and how many more there are; none of none.
pub(super) fn named<T: Display>(some: impl IntoIterator<Item = T>) -> Option<String> {
    let mut some = some.into_iter();
    let first: Vec<_> = some.by_ref().take(NAMED_MAX).map(|it| it.to_string()).collect();
    let (shown, more) = (first.join(", "), some.count());
    match (first.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(shown),
        (false, more) => Some(format!("{shown} and {more} more")),
    }
}

/// A time in its largest unit.
pub(super) fn span(secs: i64) -> String {
    match secs {
        ..60 => format!("{} s", secs.max(0)),
        60..3600 => format!("{} min", secs / 60),
        3600..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} days", secs / 86_400),
    }
}

/// An amount of bytes in its largest unit.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// How much of a whole, in hundredths.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

/// Whether two versions are supported together: at most one minor version apart.
pub fn versions_fit(one: &str, other: &str) -> bool {
    let parts = |version: &str| {
        let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u64>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    match (parts(one), parts(other)) {
        (Some(one), Some(other)) => one.0 == other.0 && one.1.abs_diff(other.1) <= 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_and_an_empty_one_is_none() {
        assert_eq!(named(0..0), None);
        assert_eq!(named(1..=2).unwrap(), "1, 2");
        assert_eq!(named(1..=8).unwrap(), "1, 2, 3, 4, 5 and 3 more");
    }

    #[test]
    fn amounts_are_told_in_their_largest_unit() {
        assert_eq!([-1, 59, 60, 7200, 172_800].map(span), ["0 s", "59 s", "1 min", "2 h", "2 days"]);
        assert_eq!(
            [0, 1023, 1024, 5 << 20, 3 << 30].map(bytes),
            ["0 bytes", "1023 bytes", "1 KiB", "5 MiB", "3 GiB"]
        );
        assert_eq!([(1, 3), (5, 5), (1, 0)].map(|(part, whole)| percent(part, whole)), [33, 100, 100]);
    }

    #[test]
    fn versions_one_minor_apart_go_together() {
        let check = |one, other, expected| assert_eq!(versions_fit(one, other), expected, "{one} {other}");
        check("0.1.0", "0.1.9", true);
        check("0.1.0", "0.2.0-rc.1", true);
        check("0.3.0", "0.1.0", false);
        check("1.0.0", "0.1.0", false);
        check("0.1.0", "", false);
    }
}
