//! How much passed of a limit lately.

/// What passed in the span that goes on and in the one before it, which counts for less the longer the new one lasts.
/// Spans and moments are in nanoseconds; whoever asks says how long a span is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    began: u64,
    milli: u64,
    before_milli: u64,
}

impl Recent {
    pub(super) fn add(&mut self, milli: u64, span: u64, now: u64) {
        self.turn(span, now);
        self.milli = self.milli.saturating_add(milli);
    }

    /// What passed within the last span, in thousandths.
    pub(super) fn milli(mut self, span: u64, now: u64) -> u64 {
        self.turn(span, now);
        let left = span.saturating_sub(now.saturating_sub(self.began));
        let faded = u128::from(self.before_milli) * u128::from(left) / u128::from(span.max(1));
        self.milli.saturating_add(u64::try_from(faded).unwrap_or(u64::MAX))
    }

    fn turn(&mut self, span: u64, now: u64) {
        let span = span.max(1);
        let over = now.saturating_sub(self.began) / span;
        if over > 0 {
            self.before_milli = if over == 1 { self.milli } else { 0 };
            self.milli = 0;
            self.began = self.began.saturating_add(over.saturating_mul(span));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_fades_with_the_span_that_follows() {
        let mut recent = Recent::default();
        recent.add(4000, 100, 10);
        recent.add(2000, 100, 90);
        let check = |now, expected| assert_eq!(recent.milli(100, now), expected, "at {now}");
        check(99, 6000);
        check(100, 6000);
        check(150, 3000);
        check(199, 60);
        check(200, 0);
        check(1000, 0);
    }

    #[test]
    fn a_steady_flow_is_told_as_what_it_is() {
        let mut recent = Recent::default();
        for now in 0..1000 {
            recent.add(1000, 100, now);
            if now >= 100 {
                assert!((99_000..=101_000).contains(&recent.milli(100, now)), "at {now}");
            }
        }
    }
}
