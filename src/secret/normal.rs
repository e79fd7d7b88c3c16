//! Normal numbers without rounding: Karney's algorithm decides by comparing digits of uniform numbers, and nothing else.

use super::Stream;

/// A uniform number in [0, 1) whose digits are drawn as they are asked for.
struct Uniform {
    high: u32,
    low: Option<u64>,
}

impl Uniform {
    fn draw(stream: &mut Stream) -> Uniform {
        Uniform { high: stream.word(), low: None }
    }

    /// Whether it is below `other`. Two that are equal in 96 bits count as in order.
    fn is_below(&mut self, other: &mut Uniform, stream: &mut Stream) -> bool {
        if self.high != other.high {
            return self.high < other.high;
        }
        let own = *self.low.get_or_insert_with(|| stream.bits());
        own < *other.low.get_or_insert_with(|| stream.bits())
    }
}

impl Stream {
    /// 2^`exponent` z rounded to the nearest whole number, z standard normal: exactly that distribution, but for ties of uniform
    /// numbers in 96 bits. Panics above an exponent of 31.
    ///
    /// z = ± (k + x) with k whole and x in [0, 1): algorithm N of Karney, "Sampling exactly from the normal distribution", ACM TOMS
    /// 42(1), 2016. Of x 32 bits are known, of which rounding needs `exponent` + 1.
    pub fn rounded_normal(&mut self, exponent: u32) -> i64 {
        assert!(exponent <= 31, "x has 32 bits");
        loop {
            // k with probability proportional to exp(-k/2), kept with exp(-k(k - 1)/2).
            let mut k = 0;
            while self.survives_half() {
                k += 1;
            }
            if !(0..k * (k - 1)).all(|_| self.survives_half()) {
                continue;
            }
            // x is kept with exp(-x (2k + x)/2).
            let mut x = Uniform::draw(self);
            if !(0..=k).all(|_| self.survives(k as u64, &mut x)) {
                continue;
            }
            let twice = u64::from(x.high) >> (31 - exponent);
            let rounded = ((k as i64) << exponent) + (twice as i64 + 1) / 2;
            return if self.word() >> 31 == 0 { rounded } else { -rounded };
        }
    }

    /// True with probability exp(-1/2): whether a descending run from 1/2 has an even length (von Neumann 1951).
    fn survives_half(&mut self) -> bool {
        let mut last = Uniform::draw(self);
        if last.high >> 31 == 1 {
            return true;
        }
        let mut is_even = false;
        loop {
            let mut next = Uniform::draw(self);
            if !next.is_below(&mut last, self) {
                return is_even;
            }
            last = next;
            is_even = !is_even;
        }
    }

    /// True with probability exp(-x (2k + x) / (2k + 2)): whether a descending run from x, each of which goes on with probability
    /// (2k + x) / (2k + 2), has an even length.
    fn survives(&mut self, k: u64, x: &mut Uniform) -> bool {
        let (mut last, mut is_even) = (None, true);
        loop {
            let mut next = Uniform::draw(self);
            let goes_on = next.is_below(last.as_mut().unwrap_or(x), self);
            if !(goes_on && self.is_below_ratio(k, x)) {
                return is_even;
            }
            last = Some(next);
            is_even = !is_even;
        }
    }

    /// True with probability (2k + x) / (2k + 2).
    fn is_below_ratio(&mut self, k: u64, x: &mut Uniform) -> bool {
        match self.below(2 * k + 2) {
            part if part < 2 * k => true,
            part if part == 2 * k => Uniform::draw(self).is_below(x, self),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Purpose, Secret};

    /// The share of a standard normal distribution below x, by Simpson's rule from 0.
    fn below(x: f64) -> f64 {
        let steps = 200;
        let width = x / steps as f64;
        let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let weight = |i: usize| if i == 0 || i == steps { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
        0.5 + (0..=steps).map(|i| weight(i) * density(i as f64 * width)).sum::<f64>() * width / 3.0
    }

    /// Every bin as often as the integral says, where the rounding is coarse, and moments where it is fine.
    #[test]
    fn rounded_normals_are_rounded_normal() {
        let mut stream = Secret::of_seed(5).stream(Purpose::Noise, 0, 0);
        let count = 400_000;
        for exponent in [0, 1, 2] {
            let mut found = [0f64; 33];
            (0..count).for_each(|_| found[(stream.rounded_normal(exponent).clamp(-16, 16) + 16) as usize] += 1.0);
            let scale = f64::from(1 << exponent);
            let mut square = 0.0;
            for (bin, found) in found.iter().enumerate() {
                let middle = bin as f64 - 16.0;
                let low = if bin == 0 { 0.0 } else { below((middle - 0.5) / scale) };
                let high = if bin == 32 { 1.0 } else { below((middle + 0.5) / scale) };
                let expected = f64::from(count) * (high - low);
                assert!(
                    (found - expected).abs() < 5.0 * (expected + 1.0).sqrt(),
                    "{exponent}: bin {middle}: {found} of {expected}"
                );
                square += (found - expected).powi(2) / expected.max(5.0);
            }
            println!("exponent {exponent}: chi square {square:.1} of 33 bins");
            assert!(square < 33.0 + 5.0 * 66f64.sqrt());
        }
        for exponent in [20, 31] {
            let draws = (0..count).map(|_| stream.rounded_normal(exponent) as f64 / 2f64.powi(exponent as i32));
            let (mut sums, mut beyond) = ([0.0; 4], 0);
            for z in draws {
                (1..=4).for_each(|power| sums[power - 1] += z.powi(power as i32));
                beyond += u32::from(z.abs() > 3.0);
            }
            let moments = sums.map(|sum| sum / f64::from(count));
            // Variances of z, z^2, z^3, z^4 are 1, 2, 15, 96.
            for (moment, (mean, variance)) in moments.iter().zip([(0.0, 1.0), (1.0, 2.0), (0.0, 15.0), (3.0, 96f64)]) {
                assert!((moment - mean).abs() < 5.0 * (variance / f64::from(count)).sqrt(), "{moments:?}");
            }
            assert!((900..1270).contains(&beyond), "{beyond} of 1,080 beyond 3");
        }
    }
}
