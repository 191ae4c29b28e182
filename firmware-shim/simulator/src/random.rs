//! Small seeded generator (SplitMix64): the same numbers on every machine and in every version.
//!
//! A run is repeatable only if its numbers are, and general-purpose generators reserve the right
//! to change their sequence. Every message has a generator of its own, so that its content depends
//! on nothing that was sent before it.

/// A stream of pseudo-random numbers, determined by its seed.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

/// Increment of SplitMix64: 2^64 divided by the golden ratio, odd.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Random {
    /// A stream for `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The stream of one message of one device.
    #[must_use]
    pub const fn for_message(seed: u64, device: u32, sequence: u64) -> Self {
        let device = mix(seed.wrapping_add(STEP.wrapping_mul(device as u64 + 1)));
        Self::new(mix(device ^ sequence.wrapping_mul(STEP)))
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// Uniform in 0 ≤ x < 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub const fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Bell-shaped around 0 with standard deviation 1, within ±3.5 (sum of four uniforms).
    pub fn bell(&mut self) -> f64 {
        let sum = self.unit() + self.unit() + self.unit() + self.unit();
        (sum - 2.0) * 3.0_f64.sqrt()
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Uniform in 0 ≤ n < `bound`; 0 if `bound` is 0.
    pub const fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        (self.bits() % bound as u64) as usize
    }
}

const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_a_seed_never_changes() {
        let mut random = Random::new(0);
        assert_eq!(random.bits(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(random.bits(), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn neighbouring_messages_share_nothing() {
        let first = Random::for_message(1, 0, 0).bits();
        for (seed, device, sequence) in [(2, 0, 0), (1, 1, 0), (1, 0, 1)] {
            assert_ne!(first, Random::for_message(seed, device, sequence).bits());
        }
    }

    #[test]
    fn values_stay_in_their_ranges() {
        let mut random = Random::new(7);
        for _ in 0..10_000 {
            assert!((0.0..1.0).contains(&random.unit()));
            assert!(random.bell().abs() <= 3.5);
            assert!(random.below(3) < 3);
        }
        assert_eq!(random.below(0), 0);
    }
}
