//! Chance that can be had again.

/// A generator of numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to below this, or 0.
    pub(super) fn up_to(&mut self, below: u64) -> u64 {
        self.number() % below.max(1)
    }

    /// True so many times in a thousand.
    pub(super) fn one_in(&mut self, per_mille: u64) -> bool {
        self.up_to(1000) < per_mille
    }

    /// A gap between events that come at random, so many a second.
    pub(super) fn gap(&mut self, per_second: f64) -> u64 {
        #[expect(clippy::cast_precision_loss, reason = "chance need not be exact")]
        let part = (self.number() >> 11) as f64 / (1u64 << 53) as f64;
        let secs = -(1.0 - part).ln() / per_second;
        (secs * 1e9) as u64 + 1
    }
}
