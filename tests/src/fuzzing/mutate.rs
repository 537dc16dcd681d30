//! Small changes of an input, from a seed: what a test run can afford of fuzzing.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Bytes that readers trip over: signs of JSON, TOML and Jinja, ends of ranges.
const TOKENS: [&[u8]; 18] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"-1",
    b"1e999",
    b"{{",
    b"{%",
    b"%}",
    b"\n",
    b"\\u0000",
    &[0xff; 8],
    &[0; 8],
    &[0xff, 0xff, 0xff, 0x7f],
];

/// Changes inputs; equal seeds give equal changes.
#[derive(Debug)]
pub struct Mutator(StdRng);

impl Mutator {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// `input` with one to four changes; `other` may lend a part.
    pub fn change(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..self.0.random_range(1..=4) {
            let at = self.0.random_range(0..=bytes.len());
            let length = self.0.random_range(0..=16.min(bytes.len() - at));
            match self.0.random_range(0..6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.0.random_range(0..8),
                1 if at < bytes.len() => bytes[at] = self.0.random(),
                2 => drop(bytes.drain(at..at + length)),
                3 => drop(bytes.splice(at..at, TOKENS.choose(&mut self.0).copied().unwrap_or(b" ").to_vec())),
                4 => {
                    let from = self.0.random_range(0..=other.len());
                    let taken = &other[from..(from + 32).min(other.len())];
                    bytes.splice(at..at + length, taken.to_vec());
                }
                _ => bytes.truncate(at.max(bytes.len() / 2)),
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_changes_and_most_differ_from_the_input() {
        let input = br#"{"text": "one"}"#;
        let changed = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..50).map(|_| mutator.change(input, b"other")).collect::<Vec<_>>()
        };
        assert_eq!(changed(1), changed(1));
        assert_ne!(changed(1), changed(2));
        assert!(changed(1).iter().filter(|bytes| bytes[..] != input[..]).count() > 40);
    }
}
