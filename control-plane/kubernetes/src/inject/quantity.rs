//! Amounts of a resource as Kubernetes writes them: `100m`, `1.5`, `64Mi`.
//!
//! Not here: exponents (`1e3`), which nobody writes for processors and memory.

use std::fmt;

/// Longest text of a quantity, in bytes.
pub const LEN_BYTES_MAX: usize = 20;

/// An amount that is more than nothing, as it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    millis: u128,
}

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no amount such as 100m, 0.5, 64Mi or 1G, and more than nothing")]
pub struct Error;

/// Suffixes and what one of them is, in thousandths.
const SUFFIXES: [(&str, u128); 14] = [
    ("", 1000),
    ("m", 1),
    ("k", 1000 * 1000),
    ("M", 1000 * 1_000_000),
    ("G", 1000 * 1_000_000_000),
    ("T", 1000 * 1_000_000_000_000),
    ("P", 1000 * 1_000_000_000_000_000),
    ("E", 1000 * 1_000_000_000_000_000_000),
    ("Ki", 1000 << 10),
    ("Mi", 1000 << 20),
    ("Gi", 1000 << 30),
    ("Ti", 1000 << 40),
    ("Pi", 1000 << 50),
    ("Ei", 1000 << 60),
];

impl Quantity {
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > LEN_BYTES_MAX {
            return Err(Error);
        }
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let (_, one) = SUFFIXES.iter().find(|(known, _)| *known == suffix).ok_or(Error)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && part.is_empty()) || part.contains('.') {
            return Err(Error);
        }
        let number: u128 = format!("{whole}{part}").parse().map_err(|_| Error)?;
        let parts = 10_u128.pow(u32::try_from(part.len()).map_err(|_| Error)?);
        match number.checked_mul(*one).map(|product| product / parts) {
            None | Some(0) => Err(Error),
            Some(millis) => Ok(Self { text: text.to_owned(), millis }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// In thousandths of one.
    pub const fn millis(&self) -> u128 {
        self.millis
    }

    /// In whole ones, rounded up.
    pub fn ceil(&self) -> u64 {
        u64::try_from(self.millis.div_ceil(1000)).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, millis) in [
            ("1", 1000),
            ("100m", 100),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1000),
            ("1.5Gi", 1500 << 30),
            ("64Mi", 64_000 << 20),
            ("2k", 2_000_000),
            ("0.1k", 100_000),
        ] {
            let read = Quantity::parse(text).unwrap();
            assert_eq!((read.millis(), read.as_str()), (millis, text));
        }
        assert_eq!(Quantity::parse("1500m").unwrap().ceil(), 2);
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in
            ["", ".", "0", "0m", "-1", "+1", "1e3", "1 Mi", "Mi", "1mi", "1..2", "0.0001m", "１", "$(X)"]
        {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
        assert!(Quantity::parse(&"9".repeat(20)).is_ok());
        assert!(Quantity::parse("99999999999999999Ei").is_ok());
        assert!(Quantity::parse("999999999999999999Ei").is_err());
        assert!(Quantity::parse(&"9".repeat(21)).is_err());
    }
}
