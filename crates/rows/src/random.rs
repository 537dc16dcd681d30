//! A small random generator whose numbers stay the same for ever, so that a seed names an order of rows.
//!
//! Source: `SplitMix64` (Steele, Lea and Flood 2014) with Lemire's multiplication (arXiv:1805.10941) for the range.

/// `SplitMix64`, seeded by a seed and a stream number such as the epoch.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of this seed and stream.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed);
        mixed.0 = mixed.next() ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        mixed
    }

    /// The next number.
    #[expect(
        clippy::should_implement_trait,
        reason = "its numbers never end, and it is no iterator"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; the bias is below `bound / 2^64`.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Fisher and Yates' shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_those_of_the_published_generator() {
        // Reference values for the state 1234567 (Vigna's splitmix64.c).
        let mut random = Random(1_234_567);
        assert_eq!(
            [random.next(), random.next()],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]
        );
    }

    #[test]
    fn a_shuffle_reaches_every_order_equally_often() {
        let mut counts = std::collections::HashMap::new();
        for seed in 0..6000 {
            let mut items = [0, 1, 2];
            Random::new(seed, 1).shuffle(&mut items);
            *counts.entry(items).or_insert(0) += 1;
        }
        // Six orders, 1000 expected each; 5 standard deviations are 144.
        assert!(
            counts.len() == 6 && counts.values().all(|count: &i32| (count - 1000).abs() < 144),
            "{counts:?}"
        );
    }
}
