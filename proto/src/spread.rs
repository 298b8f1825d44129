//! How long many things took: counted by length, in places of which each is at most a sixteenth wider than the last, so
//! that every quantile is known to within that, and the counts of many can be added.
//!
//! Not here: when something is counted, and for how long.

/// Places for each doubling.
const PARTS: u64 = 16;
const PART_BITS: u32 = PARTS.trailing_zeros();
/// Places for all lengths.
pub const PLACES: usize = (64 - PART_BITS as usize + 1) * PARTS as usize;

/// The place of a length.
pub const fn place(micros: u64) -> usize {
    if micros < PARTS {
        return micros as usize;
    }
    let shift = micros.ilog2() - PART_BITS;
    ((shift as u64) * PARTS + (micros >> shift)) as usize
}

/// The longest length of a place.
const fn longest(place: usize) -> u64 {
    let place = place as u64;
    if place < 2 * PARTS {
        return place;
    }
    let shift = place / PARTS - 1;
    let part = PARTS + place % PARTS;
    // The last place ends with the numbers.
    part.wrapping_add(1).wrapping_shl(shift as u32).wrapping_sub(1)
}

/// Why counts are not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no place {0} among lengths")]
    Place(u32),
    #[error("there are {places} places and {counts} counts")]
    Uneven { places: usize, counts: usize },
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// As many as there were lengths for.
    counts: Vec<u64>,
    total: u64,
}

impl Spread {
    pub fn add(&mut self, micros: u64) {
        self.add_at(place(micros), 1);
    }

    fn add_at(&mut self, place: usize, count: u64) {
        if self.counts.len() <= place {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] = self.counts[place].saturating_add(count);
        self.total = self.total.saturating_add(count);
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        other.occupied().for_each(|(place, count)| self.add_at(place, count));
    }

    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Places where something was counted, and how much.
    pub fn occupied(&self) -> impl Iterator<Item = (usize, u64)> {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// What was written down place by place.
    pub fn read(places: &[u32], counts: &[u64]) -> Result<Self, Error> {
        if places.len() != counts.len() {
            return Err(Error::Uneven { places: places.len(), counts: counts.len() });
        }
        let mut spread = Self::default();
        for (place, count) in places.iter().zip(counts) {
            let at = usize::try_from(*place).ok().filter(|at| *at < PLACES).ok_or(Error::Place(*place))?;
            spread.add_at(at, *count);
        }
        Ok(spread)
    }

    /// The length that so much of a hundred are no longer than, rounded up to the end of its place; none of nothing.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        if self.total == 0 {
            return None;
        }
        let wanted = u128::from(self.total) * u128::from(percent.min(100));
        let wanted = wanted.div_ceil(100).max(1);
        let mut seen = 0u128;
        let mut occupied = self.occupied();
        let found = occupied.find(|(_, count)| {
            seen += u128::from(*count);
            seen >= wanted
        });
        found.map(|(place, _)| longest(place))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_length_has_its_place_and_no_place_is_beyond_the_last() {
        let check = |micros: u64, expected: usize| assert_eq!(place(micros), expected, "{micros}");
        check(0, 0);
        check(15, 15);
        check(16, 16);
        check(31, 31);
        check(32, 32);
        check(33, 32);
        check(34, 33);
        check(u64::MAX, PLACES - 1);
        assert_eq!(longest(PLACES - 1), u64::MAX);
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let mut spread = Spread::default();
        assert_eq!(spread.percentile(50), None);
        (1..=10).for_each(|micros| spread.add(micros));
        assert_eq!([0, 50, 95, 100].map(|it| spread.percentile(it)), [Some(1), Some(5), Some(10), Some(10)]);
    }

    #[test]
    fn counts_that_are_none_are_not_believed() {
        assert_eq!(Spread::read(&[1], &[]), Err(Error::Uneven { places: 1, counts: 0 }));
        assert_eq!(Spread::read(&[PLACES as u32], &[1]), Err(Error::Place(PLACES as u32)));
    }

    proptest! {
        #[test]
        fn a_percentile_is_off_by_a_sixteenth_at_most(
            mut lengths in proptest::collection::vec(0u64..1 << 40, 1..100), percent in 1u64..=100,
        ) {
            let mut spread = Spread::default();
            lengths.iter().for_each(|it| spread.add(*it));
            lengths.sort_unstable();
            let exact = lengths[(lengths.len() * percent as usize).div_ceil(100) - 1];
            let told = spread.percentile(percent).unwrap();
            prop_assert!(exact <= told && told <= exact + exact / PARTS, "{exact} told as {told}");
        }

        #[test]
        fn merging_is_counting_together_however_it_was_written(
            a in proptest::collection::vec(any::<u64>(), 0..50), b in proptest::collection::vec(any::<u64>(), 0..50),
        ) {
            let spread = |lengths: &[u64]| {
                let mut spread = Spread::default();
                lengths.iter().for_each(|it| spread.add(*it));
                spread
            };
            let (places, counts): (Vec<_>, Vec<_>) =
                spread(&b).occupied().map(|(place, count)| (place as u32, count)).unzip();
            let mut merged = spread(&a);
            merged.merge(&Spread::read(&places, &counts).unwrap());
            let together = spread(&[a, b].concat());
            prop_assert_eq!(merged.total(), together.total());
            prop_assert!(merged.occupied().eq(together.occupied()));
        }
    }
}
