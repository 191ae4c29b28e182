//! Chance that can be had again: a generator of numbers from a seed, which failing tests print.

use std::time::{SystemTime, UNIX_EPOCH};

/// Chooses the seed of tests that leave their instants to chance; without it, the clock does.
const SEED_VARIABLE: &str = "EDGE_GATEWAY_SEED";

/// Sebastiano Vigna's `SplitMix64`.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers of the seed in the variable `EDGE_GATEWAY_SEED`, or of a new one; prints it.
    ///
    /// # Panics
    /// If the variable is no number.
    #[must_use]
    pub fn seeded() -> Self {
        let seed = match std::env::var(SEED_VARIABLE) {
            Ok(text) => text
                .parse()
                .unwrap_or_else(|e| panic!("{SEED_VARIABLE}={text}: {e}")),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::from(since.subsec_nanos())),
        };
        println!("{SEED_VARIABLE}={seed}");
        Self(seed)
    }

    /// The next number.
    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number, below `bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut one, mut other) = (Random::new(7), Random::new(7));
        let first: Vec<u64> = (0..9).map(|_| one.below(100)).collect();
        let second: Vec<u64> = (0..9).map(|_| other.below(100)).collect();
        assert_eq!(first, second);
        assert_ne!(first[1..], first[..8], "they differ");
    }
}
