//! A delay that is given, or one that is learnt.

use std::fmt;
use std::str::FromStr;

use super::{Error, Span};
use crate::name::serde_as_text;

/// A delay: a duration, or `p95` for one that is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    Given(Span),
    P95,
}

impl Delay {
    const P95_WORD: &'static str = "p95";

    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            Self::P95_WORD => Ok(Self::P95),
            text => Span::parse(text).map(Self::Given),
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(span) => span.fmt(f),
            Self::P95 => f.write_str(Self::P95_WORD),
        }
    }
}

impl FromStr for Delay {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

serde_as_text!(Delay, "^(p95|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$", 64);
