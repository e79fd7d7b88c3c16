//! Randomness that nobody may know: coins, keys and noise of private training, from ChaCha20 under a key of the operating system.

mod normal;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};

use crate::error::{Error, Result};

/// The key of all streams. It is never written anywhere: each process draws its own, so that nothing is drawn twice, whatever is
/// copied, restored or resumed.
pub struct Secret {
    key: [u8; 32],
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Which images join a step.
    Coins,
    /// Which of them stay, where they are more than the places.
    Truncation,
    /// A key for each place, of which its timesteps, noise, flips and hidden classes follow.
    Places,
    /// The Gaussian noise of a step.
    Noise,
    /// Which images of a run are canaries, and which of those it trains on.
    Canaries,
}

impl Secret {
    /// A fresh one.
    ///
    /// # Errors
    /// [`Error::Device`] if the system has no random numbers.
    pub fn of_system() -> Result<Secret> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)
            .map_err(|error| Error::Device(format!("the operating system gives no random numbers: {error}")))?;
        Ok(Secret { key })
    }

    /// One that anybody can make again: for tests, no secret at all.
    pub fn of_seed(seed: u64) -> Secret {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Secret { key }
    }

    /// For tests: whether these bytes hold the key, as it is or in hexadecimal digits.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        let digits: String = self.key.iter().map(|byte| format!("{byte:02x}")).collect();
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
        holds(&self.key) || holds(digits.as_bytes()) || holds(digits.to_uppercase().as_bytes())
    }

    /// Part `part` of what step `step` (from 0) draws for `purpose`: all streams are different ones. Panics beyond 2^24 parts.
    pub fn stream(&self, purpose: Purpose, part: u32, step: u64) -> Stream {
        assert!(part < 1 << 24, "a nonce has 24 bits for the part");
        let mut nonce = [0; 12];
        nonce[0] = purpose as u8;
        nonce[1..4].copy_from_slice(&part.to_le_bytes()[..3]);
        nonce[4..].copy_from_slice(&step.to_le_bytes());
        Stream::new(&self.key, &nonce)
    }
}

/// Bytes of a stream that are made at a time.
const BLOCK: usize = 4096;

/// The keystream of ChaCha20 (RFC 8439, section 2.4) as random numbers; 2^38 bytes at the most.
pub struct Stream {
    cipher: ChaCha20,
    block: [u8; BLOCK],
    used: usize,
}

impl Stream {
    fn new(key: &[u8; 32], nonce: &[u8; 12]) -> Stream {
        Stream { cipher: ChaCha20::new(&(*key).into(), &(*nonce).into()), block: [0; BLOCK], used: BLOCK }
    }

    /// 32 random bits.
    pub fn word(&mut self) -> u32 {
        if self.used == BLOCK {
            self.block.fill(0);
            self.cipher.apply_keystream(&mut self.block);
            self.used = 0;
        }
        let word = self.block[self.used..self.used + 4].try_into().expect("four bytes");
        self.used += 4;
        u32::from_le_bytes(word)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        u64::from(self.word()) | u64::from(self.word()) << 32
    }

    /// A whole number below `count`, each as likely as any other.
    pub fn below(&mut self, count: u64) -> u64 {
        // The largest multiple of `count` that 64 bits reach: what is above is drawn again (Lemire 2019 has faster ways).
        let most = u64::MAX - (u64::MAX % count + 1) % count;
        loop {
            let bits = self.bits();
            if bits <= most {
                return bits % count;
            }
        }
    }

    /// Moves a random `count` of `all` to its front, each choice as likely as any other: the first steps of a shuffle (Fisher & Yates).
    /// Panics if there are fewer.
    pub fn choose<T>(&mut self, all: &mut [T], count: usize) {
        for place in 0..count {
            let other = place + self.below((all.len() - place) as u64) as usize;
            all.swap(place, other);
        }
    }

    /// Whether a coin of this probability falls on its head; never more likely than that, by at most 2^-64 less.
    pub fn coin(&mut self, probability: f64) -> bool {
        // Exact: a power of two, then rounded downwards; 2^64 and more is always.
        let bound = probability * 2f64.powi(64);
        let bits = self.bits();
        bound >= 2f64.powi(64) || bits < bound as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8439, section 2.3.2: the block with counter 1 of key 00 01 02 .. 1f and nonce 00 00 00 09 00 00 00 4a 00 00 00 00.
    #[test]
    fn the_stream_is_chacha20_of_rfc_8439() {
        let key: [u8; 32] = std::array::from_fn(|i| i as u8);
        let nonce = [0, 0, 0, 9, 0, 0, 0, 0x4a, 0, 0, 0, 0];
        let mut stream = Stream::new(&key, &nonce);
        let words: Vec<u32> = (0..32).map(|_| stream.word()).collect();
        let expected = [
            0xe4e7_f110u32,
            0x1559_3bd1,
            0x1fdd_0f50,
            0xc471_20a3,
            0xc7f4_d1c7,
            0x0368_c033,
            0x9aaa_2204,
            0x4e6c_d4c3,
            0x4664_82d2,
            0x09aa_9f07,
            0x05d7_c214,
            0xa202_8bd9,
            0xd19c_12b5,
            0xb94e_16de,
            0xe883_d0cb,
            0x4e3c_50a2,
        ];
        assert_eq!(words[16..], expected);
    }

    #[test]
    fn streams_differ_by_all_that_names_them() {
        let (one, other) = (Secret::of_seed(1), Secret::of_seed(2));
        let mut firsts = vec![other.stream(Purpose::Noise, 0, 0).bits()];
        for purpose in [Purpose::Coins, Purpose::Truncation, Purpose::Places, Purpose::Noise, Purpose::Canaries] {
            for (part, step) in [(0, 0), (1, 0), (0, 1), (1 << 23, 0), (0, 1 << 40)] {
                firsts.push(one.stream(purpose, part, step).bits());
            }
        }
        let count = firsts.len();
        firsts.sort();
        firsts.dedup();
        assert_eq!(firsts.len(), count);
        let [a, b] = [(); 2].map(|()| Secret::of_system().expect("random numbers").stream(Purpose::Coins, 0, 0).bits());
        assert_ne!(a, b);
    }

    #[test]
    fn coins_and_numbers_are_as_likely_as_they_should_be() {
        let mut stream = Secret::of_seed(3).stream(Purpose::Coins, 0, 0);
        for probability in [0.0, 0.01, 0.3, 1.0] {
            let heads = (0..100_000).filter(|_| stream.coin(probability)).count() as f64;
            let deviation = (1e5 * probability * (1.0 - probability)).sqrt();
            assert!((heads - 1e5 * probability).abs() <= 5.0 * deviation, "{heads} of 100,000 at {probability}");
        }
        let mut counts = [0; 7];
        (0..70_000).for_each(|_| counts[stream.below(7) as usize] += 1);
        assert!(counts.iter().all(|count| (9500..10_500).contains(count)), "{counts:?}");
        assert_eq!(stream.below(1), 0);
    }
}
