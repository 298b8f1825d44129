//! Whether a call is recorded.

use super::{Context, TraceId};
use crate::resource::units::Ratio;

/// The share that is recorded where telemetry names a place for spans and no share.
pub const USUAL_PER_MILLION: u32 = 10_000;

/// Whoever calls has decided already, if it says so; else the trace's name decides, the same everywhere.
pub fn is_recorded(parent: Option<&Context>, trace: TraceId, share: Option<Ratio>) -> bool {
    match parent {
        Some(parent) => parent.is_sampled(),
        None => is_within(trace, share.map_or(USUAL_PER_MILLION, Ratio::per_million)),
    }
}

/// As the SDKs have it: the lower half of the name, as a number, is below the share of all such numbers.
fn is_within(trace: TraceId, per_million: u32) -> bool {
    let bound = (u128::from(per_million) << 64) / u128::from(Ratio::ONE_MILLION);
    u128::from(trace.low()) < bound
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::SpanId;
    use super::*;

    fn share(text: &str) -> Option<Ratio> {
        Some(Ratio::parse(text).unwrap())
    }

    #[test]
    fn whoever_calls_has_decided() {
        for (sampled, own) in [(true, "0%"), (false, "100%")] {
            let parent = Context::new(TraceId::new(1), SpanId::new(1), sampled);
            assert_eq!(is_recorded(Some(&parent), parent.trace, share(own)), sampled);
        }
    }

    #[test]
    fn the_share_is_kept_at_its_ends() {
        let (least, most) = (TraceId::new(1 << 64), TraceId::new(u128::MAX));
        let check = |own: &str, trace, expected| {
            assert_eq!(is_recorded(None, trace, share(own)), expected, "{own} {trace:?}");
        };
        check("0%", least, false);
        check("100%", most, true);
        check("0.0001%", least, true);
        check("99.9999%", most, false);
        assert!(is_recorded(None, least, None), "the usual share is not none");
        assert!(!is_recorded(None, TraceId::new(u128::from(u64::MAX / 99)), None), "and is one in a hundred");
    }

    proptest! {
        #[test]
        fn a_larger_share_has_all_of_a_smaller_one(trace: u128, one in 0..=1_000_000_u32, other in 0..=1_000_000_u32) {
            let trace = TraceId::new(trace);
            if is_within(trace, one.min(other)) {
                prop_assert!(is_within(trace, one.max(other)));
            }
        }
    }
}
