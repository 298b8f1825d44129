//! The context of a trace, as W3C has it.

use std::fmt;

/// Longest list of what tracing systems say besides, in bytes; what is longer may be left out.
const STATE_BYTES_MAX: usize = 512;
/// Longest baggage that must be passed on, in bytes.
const BAGGAGE_BYTES_MAX: usize = 8192;

const SAMPLED: u8 = 1;
/// What is passed on of flags of the same trace: whether its identifier was made at random.
const OF_THE_TRACE: u8 = 2;

/// The name of a trace. Never all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The name of a span within its trace. Never all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// A span, as whoever is called by it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace: TraceId,
    pub span: SpanId,
    flags: u8,
}

/// What tracing systems say of a trace besides: `tracestate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State<'a>(&'a str);

/// What applications send along with a trace: `baggage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baggage<'a>(&'a str);

impl TraceId {
    /// Of random bits.
    pub const fn new(random: u128) -> Self {
        // One in 2^128 would be no identifier.
        let random = if random == 0 { 1 } else { random };
        Self(random.to_be_bytes())
    }

    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The half of it by which whoever samples by the trace decides.
    pub(super) const fn low(self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl SpanId {
    /// Of random bits.
    pub const fn new(random: u64) -> Self {
        let random = if random == 0 { 1 } else { random };
        Self(random.to_be_bytes())
    }

    pub const fn bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl Context {
    pub const fn new(trace: TraceId, span: SpanId, sampled: bool) -> Self {
        Self { trace, span, flags: if sampled { SAMPLED } else { 0 } }
    }

    /// Reads a `traceparent`. Of a later version, what this one says too.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let [version] = hex::<1>(bytes.get(..2)?)?;
        let (head, more) = bytes.split_at_checked(55)?;
        let well_formed = match version {
            0 => more.is_empty(),
            1..0xff => more.first().is_none_or(|byte| *byte == b'-'),
            0xff => false,
        };
        let dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
        let (trace, span) = (hex::<16>(&head[3..35])?, hex::<8>(&head[36..52])?);
        let [flags] = hex::<1>(&head[53..55])?;
        let real = trace != [0; 16] && span != [0; 8];
        (well_formed && dashes && real).then_some(Self { trace: TraceId(trace), span: SpanId(span), flags })
    }

    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The lower eight bits of the flags, as spans have them.
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// Another span of the same trace.
    pub const fn child(&self, span: SpanId, sampled: bool) -> Self {
        let flags = self.flags & OF_THE_TRACE | if sampled { SAMPLED } else { 0 };
        Self { trace: self.trace, span, flags }
    }
}

/// As a `traceparent`.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace.0), u64::from_be_bytes(self.span.0));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", self.flags)
    }
}

impl<'a> State<'a> {
    /// None for what may be left out, or is no list of this kind.
    pub fn parse(text: &'a str) -> Option<Self> {
        visible(text, STATE_BYTES_MAX).filter(|text| text.contains('=')).map(Self)
    }

    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

impl<'a> Baggage<'a> {
    /// None for what may be left out, or is no list of this kind.
    pub fn parse(text: &'a str) -> Option<Self> {
        visible(text, BAGGAGE_BYTES_MAX).filter(|text| text.contains('=')).map(Self)
    }

    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// What can stand in a header as it is.
fn visible(text: &str, bytes_max: usize) -> Option<&str> {
    let fits = text.len() <= bytes_max && text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    fits.then(|| text.trim_matches([' ', '\t'])).filter(|text| !text.is_empty())
}

/// Lower-case digits only, as the standard has it.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_context_is_read_as_the_standard_has_it() {
        let check = |text: String, sampled: Option<bool>| {
            assert_eq!(Context::parse(&text).map(|it| it.is_sampled()), sampled, "{text}");
        };
        check(format!("00-{TRACE}-{SPAN}-01"), Some(true));
        check(format!("00-{TRACE}-{SPAN}-00"), Some(false));
        check(format!("00-{TRACE}-{SPAN}-02"), Some(false));
        check(format!("cc-{TRACE}-{SPAN}-01"), Some(true));
        check(format!("cc-{TRACE}-{SPAN}-01-more"), Some(true));
        check(format!("cc-{TRACE}-{SPAN}-01more"), None);
        check(format!("00-{TRACE}-{SPAN}-01-more"), None);
        check(format!("ff-{TRACE}-{SPAN}-01"), None);
        check(format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None);
        check(format!("00-{}-{SPAN}-01", "0".repeat(32)), None);
        check(format!("00-{TRACE}-{}-01", "0".repeat(16)), None);
        check(format!("00-{TRACE}-{SPAN}-0"), None);
        check(format!("00_{TRACE}-{SPAN}-01"), None);
        check(format!(" 00-{TRACE}-{SPAN}-01"), None);
        check("00-é".repeat(20), None);
        check(String::new(), None);
    }

    #[test]
    fn a_child_stays_in_its_trace() {
        let parent = Context::parse(&format!("00-{TRACE}-{SPAN}-03")).unwrap();
        let child = parent.child(SpanId::new(0xab), true);
        assert_eq!(child.to_string(), format!("00-{TRACE}-00000000000000ab-03"));
        assert_eq!(parent.child(SpanId::new(0xab), false).flags(), 2, "how the name was made stays true");
    }

    #[test]
    fn what_goes_along_can_stand_in_a_header() {
        assert_eq!(State::parse(" a=1,b=2 ").map(State::as_str), Some("a=1,b=2"));
        for wrong in ["", "  ", "nothing", "a=\n", "a=é", &format!("a={}", "x".repeat(STATE_BYTES_MAX))] {
            assert_eq!(State::parse(wrong), None, "{wrong:?}");
        }
        assert!(Baggage::parse(&format!("a={}", "x".repeat(STATE_BYTES_MAX))).is_some());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(trace: u128, span: u64, sampled: bool) {
            let context = Context::new(TraceId::new(trace), SpanId::new(span), sampled);
            prop_assert_eq!(Context::parse(&context.to_string()), Some(context));
        }

        #[test]
        fn no_text_breaks_it(text in ".{0,64}") {
            let _ = Context::parse(&text);
        }
    }
}
