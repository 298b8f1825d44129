//! Amounts as people write them: durations, sizes, rates, budgets, ratios. Each prints in one canonical form, so that
//! equal configuration has equal text.

mod delay;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::name::serde_as_text;

pub use delay::Delay;

/// Why a text is not the amount it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{found:?} is not {expected}")]
    Form { found: String, expected: &'static str },
    #[error("{found:?} is out of range; expected {expected}")]
    Range { found: String, expected: &'static str },
}

/// How much of a wrong text is repeated in a message.
const ECHO_BYTES_MAX: usize = 64;

fn echo(text: &str) -> String {
    let end = (0..=ECHO_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

pub(super) fn form<T>(text: &str, expected: &'static str) -> Result<T, Error> {
    Err(Error::Form { found: echo(text), expected })
}

fn range<T>(text: &str, expected: &'static str) -> Result<T, Error> {
    Err(Error::Range { found: echo(text), expected })
}

/// Digits only: no sign, no spaces, no underscores.
fn whole_number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A duration in whole milliseconds: `500ms`, `60s`, `1h30m`, `7d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    millis: u64,
}

impl Span {
    /// Longest accepted duration: ten years.
    pub const MILLIS_MAX: u64 = 3650 * 24 * 3600 * 1000;
    const UNITS: [(&'static str, u64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

    pub const fn from_secs(secs: u64) -> Self {
        Self { millis: secs * 1000 }
    }

    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }

    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.millis)
    }

    /// A duration that may come from elsewhere; none if it is longer than any that is accepted.
    pub fn new(millis: u64) -> Option<Self> {
        (millis <= Self::MILLIS_MAX).then_some(Self { millis })
    }

    pub fn parse(text: &str) -> Result<Self, Error> {
        const EXPECTED: &str = "a duration such as 500ms, 60s, 5m, 24h or 1h30m";
        let (mut rest, mut millis, mut next_unit) = (text, 0u64, 0);
        if text.is_empty() {
            return form(text, EXPECTED);
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
            let Some(number) = whole_number(&rest[..digits]) else { return form(text, EXPECTED) };
            let unit = &rest[digits..digits + letters];
            // Units go from large to small, each once: "1h30m" and never "30m1h".
            let Some(at) =
                Self::UNITS.iter().position(|(name, _)| *name == unit).filter(|at| *at >= next_unit)
            else {
                return form(text, EXPECTED);
            };
            next_unit = at + 1;
            millis = number.saturating_mul(Self::UNITS[at].1).saturating_add(millis);
            rest = &rest[digits + letters..];
        }
        if millis > Self::MILLIS_MAX {
            return range(text, "at most ten years");
        }
        Ok(Self { millis })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.millis;
        for (unit, size) in Self::UNITS {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl FromStr for Span {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

serde_as_text!(Span, "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$", 64);

/// A number of bytes: `64KiB`, `1MiB`, `10MB`, `512B`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// Largest accepted size: 1 TiB.
    pub const BYTES_MAX: u64 = 1 << 40;
    const UNITS: [(&'static str, u64); 7] = [
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("kB", 1000),
        ("B", 1),
    ];

    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }

    pub fn parse(text: &str) -> Result<Self, Error> {
        const EXPECTED: &str = "a size such as 512B, 64KiB, 1MiB or 10MB";
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let unit = Self::UNITS.iter().find(|(name, _)| *name == &text[digits..]);
        match (whole_number(&text[..digits]), unit) {
            (Some(number), Some((_, size))) => match number.checked_mul(*size) {
                Some(bytes) if bytes <= Self::BYTES_MAX => Ok(Self(bytes)),
                _ => range(text, "at most 1 TiB"),
            },
            _ => form(text, EXPECTED),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The largest unit that divides the size, so that nothing is lost in print.
        let whole = |(_, size): &&(&str, u64)| self.0 >= *size && self.0.is_multiple_of(*size);
        match Self::UNITS.iter().find(whole) {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

serde_as_text!(ByteSize, "^[0-9]+(B|kB|KiB|MB|MiB|GB|GiB)$", 32);

/// So many per window: `10/min`, `5/s`, `2000/h`, `30/10s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate {
    pub amount: u64,
    pub window: Span,
}

impl Rate {
    /// Largest accepted amount in one window.
    pub const AMOUNT_MAX: u64 = 1_000_000_000;
    /// The amounts and windows that make sense, in words.
    pub const RANGE: &str = "1 to 1,000,000,000 in a window of 100ms to 7d";
    const WINDOWS: [(&'static str, Span); 4] = [
        ("s", Span::from_secs(1)),
        ("min", Span::from_secs(60)),
        ("h", Span::from_secs(3600)),
        ("day", Span::from_secs(86_400)),
    ];

    /// None where amount or window is out of range.
    pub fn new(amount: u64, window: Span) -> Option<Self> {
        let windows = Span::from_millis(100)..=Span::from_secs(7 * 86_400);
        let sensible = (1..=Self::AMOUNT_MAX).contains(&amount) && windows.contains(&window);
        sensible.then_some(Self { amount, window })
    }

    pub fn parse(text: &str) -> Result<Self, Error> {
        const EXPECTED: &str = "a rate such as 5/s, 10/min, 2000/h or 30/10s";
        let Some((amount, window)) = text.split_once('/') else { return form(text, EXPECTED) };
        let Some(amount) = whole_number(amount) else { return form(text, EXPECTED) };
        let window = match Self::WINDOWS.iter().find(|(name, _)| *name == window) {
            Some((_, window)) => *window,
            None => Span::parse(window).or_else(|_| form(text, EXPECTED))?,
        };
        Self::new(amount, window).map_or_else(|| range(text, Self::RANGE), Ok)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::WINDOWS.iter().find(|(_, window)| *window == self.window) {
            Some((name, _)) => write!(f, "{}/{name}", self.amount),
            None => write!(f, "{}/{}", self.amount, self.window),
        }
    }
}

impl FromStr for Rate {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

serde_as_text!(Rate, "^[0-9]+/[0-9a-z]+$", 64);

/// So many per calendar window: `500/day`, `10000/month`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Budget {
    pub amount: u64,
    pub window: CalendarWindow,
}

/// A window that begins with the calendar, not with the first use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CalendarWindow {
    Day,
    Month,
}

impl Budget {
    /// Largest accepted amount in one window.
    pub const AMOUNT_MAX: u64 = 1_000_000_000_000;
    /// The amounts that make sense, in words.
    pub const RANGE: &str = "1 to 1,000,000,000,000";

    /// None where the amount is out of range.
    pub fn new(amount: u64, window: CalendarWindow) -> Option<Self> {
        (1..=Self::AMOUNT_MAX).contains(&amount).then_some(Self { amount, window })
    }

    pub fn parse(text: &str) -> Result<Self, Error> {
        const EXPECTED: &str = "a budget such as 500/day or 10000/month";
        let Some((amount, window)) = text.split_once('/') else { return form(text, EXPECTED) };
        let window = match window {
            "day" => CalendarWindow::Day,
            "month" => CalendarWindow::Month,
            _ => return form(text, EXPECTED),
        };
        match whole_number(amount) {
            Some(amount) => Self::new(amount, window).map_or_else(|| range(text, Self::RANGE), Ok),
            None => form(text, EXPECTED),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = match self.window {
            CalendarWindow::Day => "day",
            CalendarWindow::Month => "month",
        };
        write!(f, "{}/{window}", self.amount)
    }
}

impl FromStr for Budget {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

serde_as_text!(Budget, "^[0-9]+/(day|month)$", 64);

/// A share of the whole in millionths: `1%`, `0.25%`, `100%`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio {
    per_million: u32,
}

impl Ratio {
    pub const ONE_MILLION: u32 = 1_000_000;

    pub fn from_per_million(per_million: u32) -> Option<Self> {
        (per_million <= Self::ONE_MILLION).then_some(Self { per_million })
    }

    pub const fn per_million(self) -> u32 {
        self.per_million
    }

    pub fn parse(text: &str) -> Result<Self, Error> {
        const EXPECTED: &str = "a percentage such as 1%, 0.25% or 100%, with at most four decimals";
        let Some(number) = text.strip_suffix('%') else { return form(text, EXPECTED) };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if fraction.len() > 4 || whole.len() > 3 {
            return form(text, EXPECTED);
        }
        let (Some(whole), Some(fraction)) = (whole_number(whole), whole_number(&format!("{fraction:0<4}")))
        else {
            return form(text, EXPECTED);
        };
        match u32::try_from(whole * 10_000 + fraction).ok().and_then(Self::from_per_million) {
            Some(ratio) => Ok(ratio),
            None => range(text, "0% to 100%"),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.per_million / 10_000, self.per_million % 10_000);
        match format!("{fraction:04}").trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            fraction => write!(f, "{whole}.{fraction}%"),
        }
    }
}

impl FromStr for Ratio {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Debug for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

serde_as_text!(Ratio, "^[0-9]{1,3}(\\.[0-9]{1,4})?%$", 16);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn prints<T: FromStr<Err = Error> + fmt::Display>(text: &str, canonical: &str) {
        assert_eq!(text.parse::<T>().map(|t| t.to_string()), Ok(canonical.to_owned()));
    }

    #[track_caller]
    fn refused<T: FromStr<Err = Error> + fmt::Debug>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_err(), "{text:?} was taken as {:?}", text.parse::<T>());
        }
    }

    #[test]
    fn amounts_print_in_one_canonical_form() {
        prints::<Delay>("p95", "p95");
        prints::<Delay>("60s", "1m");
        prints::<Span>("60s", "1m");
        prints::<Span>("1h30m", "1h30m");
        prints::<Span>("90m", "1h30m");
        prints::<Span>("0s", "0s");
        prints::<Span>("1500ms", "1s500ms");
        prints::<ByteSize>("1024KiB", "1MiB");
        prints::<ByteSize>("1000kB", "1MB");
        prints::<ByteSize>("0B", "0B");
        prints::<Rate>("10/min", "10/min");
        prints::<Rate>("10/60s", "10/min");
        prints::<Rate>("30/10s", "30/10s");
        prints::<Budget>("500/day", "500/day");
        prints::<Ratio>("0.2500%", "0.25%");
        prints::<Ratio>("100%", "100%");
        prints::<Ratio>("0.0001%", "0.0001%");
    }

    #[test]
    fn amounts_that_could_be_misread_are_refused() {
        refused::<Span>(&[
            "",
            "5",
            "5 s",
            "-5s",
            "1.5s",
            "30m1h",
            "1h1h",
            "s",
            "5sec",
            "1000000d",
            "99999999999999999999s",
        ]);
        refused::<ByteSize>(&["", "5", "1 MiB", "1mb", "1Mi", "-1B", "1.5MiB", "9999999GiB"]);
        refused::<Rate>(&["", "5", "/s", "5/", "0/s", "5/week", "5/0s", "5/1ms", "-5/s", "5/30d", "5/s/s"]);
        refused::<Budget>(&["", "5", "0/day", "5/week", "5/d", "-1/day", "1e3/day"]);
        refused::<Ratio>(&["", "5", "101%", "-1%", "1.00000%", ".%", "1e1%", "100.0001%"]);
    }

    #[test]
    fn a_long_wrong_text_is_not_repeated_whole() {
        let error = Span::parse(&"ü".repeat(1000)).unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
    }

    proptest! {
        #[test]
        fn what_prints_parses_back(millis in 0..=Span::MILLIS_MAX, bytes in 0..=ByteSize::BYTES_MAX, ppm in 0..=1_000_000u32) {
            let span = Span::from_millis(millis);
            prop_assert_eq!(Span::parse(&span.to_string()), Ok(span));
            let size = ByteSize::new(bytes);
            prop_assert_eq!(ByteSize::parse(&size.to_string()), Ok(size));
            let ratio = Ratio::from_per_million(ppm).unwrap();
            prop_assert_eq!(Ratio::parse(&ratio.to_string()), Ok(ratio));
        }

        #[test]
        fn no_parser_panics(text in "\\PC{0,24}") {
            let _ = (Span::parse(&text), ByteSize::parse(&text), Rate::parse(&text), Budget::parse(&text), Ratio::parse(&text));
        }
    }
}
