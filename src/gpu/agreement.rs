//! When two results agree: one definition for `verify`, the tuner and the tests.

use serde::Serialize;

use super::kernel::Precision;

/// What |found - reference| may be: `rms` of the reference's root mean square, and `relative` of the element.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bound {
    pub rms: f64,
    pub relative: f64,
}

/// A bound that an algorithm declares for its own arithmetic.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    pub bound: Bound,
    /// Why it is no less: the rounding errors, counted.
    pub derivation: &'static str,
}

/// Of sums of products in f32 in any order: their errors grow with the square root of the terms, from 2^-24 of the sum of
/// their magnitudes on; it holds for the sums of some 10,000 terms that kernels take in a row.
const SUMS: Bound = Bound { rms: 1e-5, relative: 1e-4 };

/// Of what is stored as halves besides. Two right sums that lie around the middle of two halves are stored 2^-10 of the
/// element apart, and what a later kernel makes of them differs by as much of its own root mean square.
const HALVES: Bound = Bound { rms: 1e-3, relative: 2e-3 };

impl Bound {
    /// Of results stored at `precision` by an algorithm that may have declared a bound.
    pub fn of(precision: Precision, declared: Option<Declared>) -> Bound {
        match (precision, declared) {
            (Precision::F32, declared) => declared.map_or(SUMS, |declared| declared.bound),
            (Precision::F16, None) => HALVES,
            (Precision::F16, Some(declared)) => HALVES.plus(declared.bound),
        }
    }

    /// Of the difference of two results, each of which may be off by its own bound.
    pub fn plus(self, other: Bound) -> Bound {
        Bound { rms: self.rms + other.rms, relative: self.relative + other.relative }
    }

    /// Compares element by element; those that `exact` names (integers, padding) must be equal.
    pub fn compare(self, found: &[f64], reference: &[f64], exact: impl Fn(usize) -> bool) -> Difference {
        assert_eq!(found.len(), reference.len(), "as many elements");
        let rounded: Vec<f64> =
            (0..reference.len()).filter(|index| !exact(*index)).map(|index| reference[index]).collect();
        let rms = (rounded.iter().map(|v| v * v).sum::<f64>() / rounded.len().max(1) as f64).sqrt();
        let mut worst = Difference::default();
        for (index, (found, reference)) in found.iter().zip(reference).enumerate() {
            let absolute = (found - reference).abs();
            let allowed = if exact(index) { 0.0 } else { self.rms * rms + self.relative * reference.abs() };
            let error = if absolute == 0.0 { 0.0 } else { absolute / allowed };
            // NaN is the worst of all.
            let [error, absolute] = [error, absolute].map(|value| if value.is_nan() { f64::INFINITY } else { value });
            worst.absolute = worst.absolute.max(absolute);
            if error > worst.error {
                (worst.error, worst.index) = (error, index);
            }
        }
        worst
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:e} rms + {:e} |expected|", self.rms, self.relative)
    }
}

/// How far a result is from its reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// Largest |found - reference| over what the bound allows: more than 1 disagrees.
    pub error: f64,
    /// Largest |found - reference|.
    pub absolute: f64,
    /// The element of the largest error.
    pub index: usize,
}

impl Difference {
    /// Whether the two agree.
    pub fn agrees(self) -> bool {
        self.error <= 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Dot products of 576 terms, as a 3x3 convolution of 64 channels has them, summed in f32 by each of `orders`.
    fn sums<const N: usize>(orders: [fn(&[f32]) -> f32; N]) -> [Vec<f32>; N] {
        let mut random = Random::new(3);
        let mut sums = [const { Vec::new() }; N];
        for _ in 0..131_072 {
            let terms: Vec<f32> =
                (0..576).map(|_| ((random.uniform() - 0.5) * (random.uniform() - 0.5)) as f32).collect();
            orders.iter().zip(&mut sums).for_each(|(order, sums)| sums.push(order(&terms)));
        }
        sums
    }

    fn stored(sums: &[f32], precision: Precision) -> Vec<f64> {
        let store = |sum: &f32| match precision {
            Precision::F32 => *sum as f64,
            Precision::F16 => half::f16::from_f32(*sum).to_f64(),
        };
        sums.iter().map(store).collect()
    }

    fn in_a_row(terms: &[f32]) -> f32 {
        terms.iter().sum()
    }

    fn in_rows_of_four(terms: &[f32]) -> f32 {
        terms.chunks(4).map(|terms| terms.iter().sum::<f32>()).sum()
    }

    /// One of nine taps is one part in 100 too large.
    fn with_a_wrong_coefficient(terms: &[f32]) -> f32 {
        1.01 * in_a_row(&terms[..64]) + in_a_row(&terms[64..])
    }

    #[test]
    fn two_orders_of_a_sum_agree_and_a_wrong_coefficient_does_not() {
        let all = sums([in_a_row, in_rows_of_four, with_a_wrong_coefficient]);
        for precision in [Precision::F32, Precision::F16] {
            let between = Bound::of(precision, None).plus(Bound::of(precision, None));
            let [plain, other, wrong] = all.each_ref().map(|sums| stored(sums, precision));
            let other = between.compare(&other, &plain, |_| false);
            assert!(other.agrees() && other.absolute > 0.0, "{precision:?}: {other:?}");
            let wrong = between.compare(&wrong, &plain, |_| false);
            assert!(!wrong.agrees(), "{precision:?}: {wrong:?}");
        }
    }

    #[test]
    fn what_is_exact_must_be_equal_and_nothing_is_further_than_nan() {
        let bound = Bound::of(Precision::F32, None);
        assert!(bound.compare(&[1.0, 1e-9], &[1.0, 0.0], |_| false).agrees());
        assert!(!bound.compare(&[1.0, 1e-9], &[1.0, 0.0], |index| index == 1).agrees());
        let nan = bound.compare(&[f64::NAN, 2.0], &[1.0, 2.0], |_| false);
        assert_eq!((nan.error, nan.absolute, nan.index), (f64::INFINITY, f64::INFINITY, 0));
    }
}
