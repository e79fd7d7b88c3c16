//! Seeded random numbers on the host: initial weights, drawn test cases.

/// SplitMix64 (Steele, Lea & Flood 2014).
pub struct Random {
    state: u64,
}

/// The odd number nearest to 2^64 over the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function: Stafford's 13th variant of MurmurHash3's finalizer.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// The stream of a seed. The state walks by a constant, so the seed is mixed: neighbouring seeds would otherwise be one
    /// stream, moved by a draw.
    pub fn new(seed: u64) -> Random {
        Random { state: mix(seed.wrapping_add(GAMMA)) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// Uniform in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller (1958).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (2.0 * std::f64::consts::PI * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn neighbouring_seeds_have_streams_of_their_own() {
        let stream = |seed| (0..1000).scan(Random::new(seed), |random, _| Some(random.bits())).collect::<Vec<_>>();
        let all: HashSet<u64> = (0..100).chain([u64::MAX]).flat_map(stream).collect();
        assert_eq!(all.len(), 101 * 1000, "a value that two streams share");
    }

    #[test]
    fn neighbouring_seeds_are_not_correlated() {
        let draws = |seed| (0..10_000).scan(Random::new(seed), |random, _| Some(random.normal())).collect::<Vec<_>>();
        let (a, b) = (draws(0), draws(1));
        let moved = |by: usize| a[by..].iter().zip(&b).map(|(a, b)| a * b).sum::<f64>() / (a.len() - by) as f64;
        // Standard errors are 0.01.
        (0..10).for_each(|by| assert!(moved(by).abs() < 0.05, "{} at a distance of {by}", moved(by)));
    }

    /// A run that goes on from JSON goes on with the same bits only if each number is read as it was written.
    #[test]
    fn json_keeps_every_bit_of_a_number() {
        let mut random = Random::new(2);
        for _ in 0..10_000 {
            let number = random.uniform() * random.normal().exp();
            let read: f64 = serde_json::from_str(&serde_json::to_string(&number).unwrap()).unwrap();
            assert_eq!(read.to_bits(), number.to_bits(), "{number}");
        }
    }
}
