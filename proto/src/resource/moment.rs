//! A moment as people write it: RFC 3339 in whole seconds, by the clock of UTC or with an offset. It prints in UTC, so
//! that equal configuration has equal text.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use jiff::Timestamp;

use super::units::{Error, form};
use crate::name::serde_as_text;

/// A point in time: `2027-01-31T12:00:00Z`, `2027-01-31T13:00:00+01:00`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Timestamp);

impl Moment {
    pub fn parse(text: &str) -> Result<Self, Error> {
        const EXPECTED: &str = "a time such as 2027-01-31T12:00:00Z or 2027-01-31T13:00:00+01:00";
        // What reads it takes more than RFC 3339 does: spaces, names of zones, times without any.
        let read = has_form(text).then(|| text.parse::<Timestamp>().ok()).flatten();
        read.and_then(|at| Self::from_second(at.as_second())).map_or_else(|| form(text, EXPECTED), Ok)
    }

    pub fn from_second(second: i64) -> Option<Self> {
        // A year that takes more than four digits would print as nothing that is read again.
        const SECONDS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_207_200;
        SECONDS.contains(&second).then(|| Timestamp::from_second(second).ok()).flatten().map(Self)
    }

    pub fn time(self) -> SystemTime {
        self.0.into()
    }

    pub const fn timestamp(self) -> Timestamp {
        self.0
    }
}

/// Whether a text looks as the pattern below says: what each digit means is read elsewhere.
fn has_form(text: &str) -> bool {
    let is = |form: &str, text: &str| {
        let mut pairs = form.bytes().zip(text.bytes());
        form.len() == text.len()
            && pairs.all(|(form, byte)| if form == b'0' { byte.is_ascii_digit() } else { form == byte })
    };
    let forms = ["0000-00-00T00:00:00Z", "0000-00-00T00:00:00+00:00", "0000-00-00T00:00:00-00:00"];
    forms.iter().any(|form| is(form, text))
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Moment {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

serde_as_text!(
    Moment,
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})$",
    25
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_moment_prints_in_utc() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Moment::parse(text).map(|it| it.to_string()), Ok(expected.to_owned()));
        };
        check("2027-01-31T12:00:00Z", "2027-01-31T12:00:00Z");
        check("2027-01-31T13:00:00+01:00", "2027-01-31T12:00:00Z");
        check("2027-12-31T23:30:00-01:00", "2028-01-01T00:30:00Z");
        check("2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z");
    }

    #[test]
    fn what_could_be_another_moment_elsewhere_is_refused() {
        for bad in [
            "",
            "2027-01-31",
            "2027-01-31T12:00:00",
            "2027-01-31T12:00Z",
            "2027-01-31 12:00:00Z",
            "2027-01-31t12:00:00z",
            "2027-01-31T12:00:00.5Z",
            "2027-01-31T12:00:00Z[UTC]",
            "2027-01-31T12:00:00+0100",
            "2027-02-29T12:00:00Z",
            "2027-13-01T12:00:00Z",
            "2027-01-31T24:00:00Z",
            "+002027-01-31T12:00:00Z",
            "tomorrow",
            "1800000000",
        ] {
            let error = Moment::parse(bad).unwrap_err().to_string();
            assert!(error.contains("2027-01-31T12:00:00Z or"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_prints_parses_back(second in -70_000_000_000..300_000_000_000i64) {
            if let Some(moment) = Moment::from_second(second) {
                prop_assert_eq!(Moment::parse(&moment.to_string()), Ok(moment));
            }
        }

        #[test]
        fn nothing_panics(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})|\\PC{0,24}") {
            if let Ok(moment) = Moment::parse(&text) {
                prop_assert_eq!(Moment::parse(&moment.to_string()), Ok(moment));
            }
        }
    }
}
