//! Gradients as ranks send them in half precision: blocks of halves, each with a scale.
//!
//! A gradient has a wider range than a half: numbers of a block are multiplied by the power of two with which the largest is 2^14 to
//! 2^15, so that one is off by at most 2^-11 of itself, or 2^-39 of the largest of its block where it is that much smaller.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::ranks::Ranks;

/// Numbers of a block.
const BLOCK: usize = 256;

/// Room for what crosses.
#[derive(Default)]
pub struct Halves {
    sent: Vec<f32>,
    received: Vec<f32>,
}

impl Halves {
    /// As [`Ranks::exchange`].
    pub fn exchange(&mut self, ranks: &dyn Ranks, sent: &[(u32, &[f32])], mut received: Vec<(u32, &mut [f32])>) {
        self.sent.resize(sent.iter().map(|(_, numbers)| words(numbers.len())).sum(), 0.0);
        self.received.resize(received.iter().map(|(_, numbers)| words(numbers.len())).sum(), 0.0);
        let mut rest = &mut self.sent[..];
        let encoded = |(to, numbers): &(u32, &[f32])| {
            let words = rest.split_off_mut(..words(numbers.len())).expect("room for all");
            encode(numbers, words);
            (*to, &*words)
        };
        let sent: Vec<(u32, &[f32])> = sent.iter().map(encoded).collect();
        let mut rest = &mut self.received[..];
        let room = |(from, numbers): &(u32, &mut [f32])| {
            (*from, rest.split_off_mut(..words(numbers.len())).expect("room for all"))
        };
        ranks.exchange(&sent, received.iter().map(room).collect());
        let mut rest = &self.received[..];
        for (_, numbers) in &mut received {
            decode(rest.split_off(..words(numbers.len())).expect("so many came"), numbers);
        }
    }

    /// As [`Ranks::gather_numbers`]; of one's own, too, comes what others get.
    pub fn gather(&mut self, ranks: &dyn Ranks, own: &[f32], counts: &[usize], mut all: &mut [f32]) {
        let words: Vec<usize> = counts.iter().map(|count| words(*count)).collect();
        self.sent.resize(words[ranks.rank() as usize], 0.0);
        self.received.resize(words.iter().sum(), 0.0);
        encode(own, &mut self.sent);
        ranks.gather_numbers(&self.sent, &words, &mut self.received);
        let mut rest = &self.received[..];
        for (count, words) in counts.iter().zip(&words) {
            let numbers = all.split_off_mut(..*count).expect("room for all");
            decode(rest.split_off(..*words).expect("so many came"), numbers);
        }
    }
}

/// Words that `count` numbers take: a scale for each block, then two numbers each.
fn words(count: usize) -> usize {
    count.div_ceil(BLOCK) + count.div_ceil(2)
}

/// Writes `numbers` as words.
fn encode(numbers: &[f32], words: &mut [f32]) {
    let (scales, halves) = words.split_at_mut(numbers.len().div_ceil(BLOCK));
    let halves: &mut [f16] = bytemuck::cast_slice_mut(halves);
    let mut scaled = [0.0; BLOCK];
    for ((block, scale), halves) in numbers.chunks(BLOCK).zip(scales).zip(halves.chunks_mut(BLOCK)) {
        let scaled = &mut scaled[..block.len()];
        *scale = scale_of(block);
        scaled.iter_mut().zip(block).for_each(|(scaled, number)| *scaled = number * *scale);
        halves[..block.len()].convert_from_f32_slice(scaled);
    }
}

/// The numbers that `words` are.
fn decode(words: &[f32], numbers: &mut [f32]) {
    let (scales, halves) = words.split_at(numbers.len().div_ceil(BLOCK));
    let halves: &[f16] = bytemuck::cast_slice(halves);
    for ((block, scale), halves) in numbers.chunks_mut(BLOCK).zip(scales).zip(halves.chunks(BLOCK)) {
        halves[..block.len()].convert_to_f32_slice(block);
        block.iter_mut().for_each(|number| *number /= scale);
    }
}

/// A power of two; 1 where none helps: zeros stay so, and what is not finite.
fn scale_of(block: &[f32]) -> f32 {
    let most = block.iter().map(|number| number.abs()).fold(0.0, f32::max);
    if most == 0.0 || block.iter().any(|number| !number.is_finite()) {
        return 1.0;
    }
    // Of a subnormal number it is -127.
    let exponent = (most.to_bits() >> 23) as i32 - 127;
    2.0_f32.powi((14 - exponent).min(126))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(numbers: &[f32]) -> Vec<f32> {
        let mut crossing = vec![0.0; words(numbers.len())];
        encode(numbers, &mut crossing);
        let mut back = vec![0.0; numbers.len()];
        decode(&crossing, &mut back);
        back
    }

    #[test]
    fn a_number_is_off_by_at_most_its_eleventh_bit() {
        for exponent in [-149, -126, -60, -20, 0, 20, 127] {
            let largest = 2.0_f32.powi(exponent);
            // 300 numbers: a whole block and a part of one, an odd number of halves in neither.
            let numbers: Vec<f32> =
                (0..301).map(|i| largest * (1.0 - i as f32 / 300.0) * if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
            for (number, back) in numbers.iter().zip(there_and_back(&numbers)) {
                let (error, bound) = ((number - back).abs(), number.abs() * 2.0_f32.powi(-11));
                assert!(error <= bound + largest * 2.0_f32.powi(-38), "{number:e} came as {back:e}");
            }
        }
        // Of one that is much smaller than the largest less is left.
        let back = there_and_back(&[1.0, 2.0_f32.powi(-30), 2.0_f32.powi(-45)]);
        assert_eq!(back, [1.0, 2.0_f32.powi(-30), 0.0]);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let back = there_and_back(&[1.0, f32::NAN, f32::INFINITY, -0.5]);
        assert!(back[1].is_nan() && back[2] == f32::INFINITY && [back[0], back[3]] == [1.0, -0.5], "{back:?}");
        assert_eq!(there_and_back(&[0.0, -0.0]), [0.0, 0.0]);
        assert!(there_and_back(&[]).is_empty());
    }

    #[test]
    fn half_as_much_crosses() {
        assert_eq!(words(1 << 20), (1 << 19) + (1 << 12));
    }
}
