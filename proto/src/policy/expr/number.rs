//! Numbers as arguments have them. What is decided by one must be what the server sees, and servers differ: some read
//! every number as a double, others whole numbers, or decimals, exactly. So numbers are compared both ways, and where
//! the two disagree the comparison fails.

use std::cmp::Ordering;

use super::Fault;

/// Most digits that a number may have, without zeros at its ends.
const DIGITS_MAX: u32 = 36;
/// Largest power of ten, either way.
const EXPONENT_MAX: i64 = 100_000;
/// Up to so many digits a double tells decimals apart well enough to compute with.
const DOUBLE_DIGITS: u32 = 17;
/// Up to here every whole number is a double.
const DOUBLE_WHOLE_MAX: i128 = 1 << 53;

#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    /// A whole number that is an `i64` or a `u64`, however it was written.
    Whole(i128),
    /// Any other, as it was written.
    Decimal(Decimal),
    /// Computed with fractions; always finite.
    Double(f64),
}

/// `digits` times ten to the power of `exponent`. Not zero, and no zero at the end of the digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal {
    negative: bool,
    digits: u128,
    exponent: i64,
    /// The nearest double, which may be infinite.
    double: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Number {
    /// Reads a number that is written as in JSON. Zeros before it are passed over.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (negative, mantissa) =
            mantissa.strip_prefix('-').map_or((false, mantissa), |mantissa| (true, mantissa));
        let (mut digits, mut zeros, mut exponent, mut fraction) = (0_u128, 0_u32, power_of(power)?, false);
        for byte in mantissa.bytes() {
            let digit = match byte {
                b'.' => {
                    fraction = true;
                    continue;
                }
                b'0'..=b'9' => byte - b'0',
                _ => return Err(Fault::NoNumber),
            };
            exponent -= i64::from(fraction);
            zeros += 1;
            if digit != 0 {
                // Zeros count once something follows them.
                let shifted =
                    if digits == 0 { Some(0) } else { pow10(zeros).and_then(|by| digits.checked_mul(by)) };
                digits = shifted.ok_or(Fault::TooManyDigits)? + u128::from(digit);
                zeros = 0;
                if digits >= POW_DIGITS_MAX {
                    return Err(Fault::TooManyDigits);
                }
            }
        }
        exponent += i64::from(zeros);
        if digits == 0 {
            return Ok(Self::Whole(0));
        }
        if exponent.abs() > EXPONENT_MAX {
            return Err(Fault::TooManyDigits);
        }
        let whole = u32::try_from(exponent).ok().and_then(pow10).and_then(|by| digits.checked_mul(by));
        let whole = whole.and_then(|it| i128::try_from(it).ok()).map(|it| if negative { -it } else { it });
        match whole.map(in_range) {
            Some(Ok(whole)) => Ok(whole),
            Some(Err(_)) | None => {
                let double = text.parse().map_err(|_| Fault::NoNumber)?;
                Ok(Self::Decimal(Decimal { negative, digits, exponent, double }))
            }
        }
    }

    pub(super) fn compare(self, other: Self) -> Result<Ordering, Fault> {
        let exactly = match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(&b),
            (Self::Double(_), _) | (_, Self::Double(_)) => {
                return self.to_double()?.partial_cmp(&other.to_double()?).ok_or(Fault::Inexact);
            }
            (Self::Whole(_) | Self::Decimal(_), Self::Whole(_) | Self::Decimal(_)) => {
                compare_decimals(Decimal::of(self), Decimal::of(other))
            }
        };
        match self.nearest_double().partial_cmp(&other.nearest_double()) {
            Some(nearly) if nearly == exactly => Ok(exactly),
            _ => Err(Fault::Inexact),
        }
    }

    pub(super) fn compute(self, with: Arithmetic, other: Self) -> Result<Self, Fault> {
        use Arithmetic::{Add, Divide, Multiply, Remainder, Subtract};
        if let (Self::Whole(a), Self::Whole(b)) = (self, other) {
            self.to_double()?;
            other.to_double()?;
            // Both are within 65 bits, so that nothing but a division can fail before the range is checked.
            let result = match with {
                Add => a.checked_add(b),
                Subtract => a.checked_sub(b),
                Multiply => a.checked_mul(b),
                Divide | Remainder if b == 0 => return Err(Fault::DivisionByZero),
                Divide => a.checked_div(b),
                Remainder => a.checked_rem(b),
            };
            return in_range(result.ok_or(Fault::TooLarge)?);
        }
        let (a, b) = (self.to_double()?, other.to_double()?);
        Self::double(match with {
            Add => a + b,
            Subtract => a - b,
            Multiply => a * b,
            Divide if b == 0.0 => return Err(Fault::DivisionByZero),
            Divide => a / b,
            Remainder => return Err(Fault::NotWhole),
        })
    }

    pub(super) fn negated(self) -> Result<Self, Fault> {
        match self {
            Self::Whole(it) => in_range(-it),
            Self::Decimal(it) => {
                Ok(Self::Decimal(Decimal { negative: !it.negative, double: -it.double, ..it }))
            }
            Self::Double(it) => Ok(Self::Double(-it)),
        }
    }

    /// Without its fraction.
    pub(super) fn truncated(self) -> Result<Self, Fault> {
        match self {
            Self::Whole(_) => Ok(self),
            Self::Decimal(_) | Self::Double(_) => {
                let double = self.to_double()?.trunc();
                #[expect(clippy::cast_possible_truncation, reason = "it was seen to fit")]
                match double.abs() < 9e18 {
                    true => Ok(Self::Whole(double as i128)),
                    false => Err(Fault::TooLarge),
                }
            }
        }
    }

    pub(super) fn as_double(self) -> Result<Self, Fault> {
        self.to_double().and_then(Self::double)
    }

    pub(super) fn whole(text: &str) -> Result<Self, Fault> {
        in_range(text.parse().map_err(|_| Fault::NoNumber)?)
    }

    pub(super) fn fraction(text: &str) -> Result<Self, Fault> {
        Self::double(text.parse().map_err(|_| Fault::NoNumber)?)
    }

    /// The number as a double, if that is what every reader sees or near enough.
    pub(super) fn to_double(self) -> Result<f64, Fault> {
        #[expect(clippy::cast_precision_loss, reason = "it was seen to be exact")]
        match self {
            Self::Whole(it) if it.abs() <= DOUBLE_WHOLE_MAX || exact(it) => Ok(it as f64),
            Self::Whole(_) => Err(Fault::Inexact),
            Self::Decimal(it) if it.digits.ilog10() >= DOUBLE_DIGITS => Err(Fault::Inexact),
            Self::Decimal(it) if !it.double.is_finite() => Err(Fault::TooLarge),
            Self::Decimal(it) => Ok(it.double),
            Self::Double(it) => Ok(it),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "the nearest is meant")]
    const fn nearest_double(self) -> f64 {
        match self {
            Self::Whole(it) => it as f64,
            Self::Decimal(it) => it.double,
            Self::Double(it) => it,
        }
    }

    fn double(double: f64) -> Result<Self, Fault> {
        match double.is_finite() {
            true => Ok(Self::Double(double)),
            false => Err(Fault::TooLarge),
        }
    }
}

impl Decimal {
    /// Doubles, which were computed, are compared as such.
    fn of(number: Number) -> Option<Self> {
        let whole = match number {
            Number::Decimal(it) => return Some(it),
            Number::Double(_) | Number::Whole(0) => return None,
            Number::Whole(it) => it,
        };
        Some(Self { negative: whole < 0, digits: whole.unsigned_abs(), exponent: 0, double: 0.0 })
    }
}

/// None is zero.
fn compare_decimals(one: Option<Decimal>, other: Option<Decimal>) -> Ordering {
    let sign = |it: Option<Decimal>| it.map_or(0, |it| if it.negative { -1 } else { 1 });
    let by_sign = sign(one).cmp(&sign(other));
    let (Some(a), Some(b)) = (one, other) else { return by_sign };
    let magnitude = |it: Decimal| i64::from(it.digits.ilog10()) + it.exponent;
    let by_magnitude = magnitude(a).cmp(&magnitude(b)).then_with(|| {
        // Of two as large, the exponents differ by no more than they have digits.
        let low = a.exponent.min(b.exponent);
        let scaled = |it: Decimal| {
            let by = u32::try_from(it.exponent - low).ok().and_then(pow10);
            by.and_then(|by| it.digits.checked_mul(by)).unwrap_or(u128::MAX)
        };
        scaled(a).cmp(&scaled(b))
    });
    by_sign.then(if a.negative { by_magnitude.reverse() } else { by_magnitude })
}

const POW_DIGITS_MAX: u128 = 10_u128.pow(DIGITS_MAX);

fn pow10(power: u32) -> Option<u128> {
    10_u128.checked_pow(power)
}

fn power_of(text: &str) -> Result<i64, Fault> {
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::NoNumber);
    }
    let digits = digits.trim_start_matches('0');
    match digits.len() {
        0 => Ok(0),
        1..=9 => digits.parse::<i64>().map(|power| sign * power).map_err(|_| Fault::NoNumber),
        _ => Err(Fault::TooManyDigits),
    }
}

fn in_range(number: i128) -> Result<Number, Fault> {
    match number >= i128::from(i64::MIN) && number <= i128::from(u64::MAX) {
        true => Ok(Number::Whole(number)),
        false => Err(Fault::TooLarge),
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "that is the question")]
const fn exact(number: i128) -> bool {
    number as f64 as i128 == number
}
