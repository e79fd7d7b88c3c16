//! A step's privacy loss on a grid.

use rustfft::num_complex::Complex;

use super::loss::Loss;
use super::moments::Moments;
use super::quadrature::{eight, three};

/// Multiples of a width, as many as the FFT has points.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// The window's first point is `first * width`.
    pub first: i64,
    pub points: usize,
    pub width: f64,
}

impl Grid {
    /// Where point `index` of the line is in the FFT's circle.
    pub fn slot(&self, index: i64) -> usize {
        index.rem_euclid(self.points as i64) as usize
    }
}

/// Panels narrower than this share of [`Loss::width`] need 3 points for 14 digits.
const NARROW: f64 = 1.0 / 70.0;

/// The masses of the loss at the grid's points, each times `exp(theta x)`, divided by their sum; and that sum's logarithm.
///
/// A mass m at x = a + u in a cell [a, a + h] becomes `m (e^(h - u) - 1) / (e^h - 1)` at a and the rest at a + h, which keeps both the
/// sum of m under P and of m e^(-x) under Q. The cell's curve delta(epsilon) over e^epsilon becomes its chord, which lies above it: the
/// pair on the grid dominates the true one, and so do their compositions (Doroshenko et al. 2022, theorem 3.1 and section 4).
pub fn tilted_masses(loss: &Loss, grid: &Grid, theta: f64, reach: f64, moments: &Moments) -> (Vec<Complex<f64>>, f64) {
    let (low, high) = loss.range(reach);
    let (a, b) = (loss.at(low), loss.at(high));
    let (least, most) = (a.min(b), a.max(b));
    let rising = b > a;
    let shift = moments.cumulants(theta).log;
    let mut masses = vec![Complex::default(); grid.points];
    let whole = grid.width.exp_m1();
    let mut total = 0.0;
    let mut place = loss.place((least / grid.width).floor() * grid.width).clamp(low, high);
    let last = (most / grid.width).floor() as i64;
    let mut carried = 0.0;
    let first = (least / grid.width).floor() as i64;
    for index in first..=last + 1 {
        // What the cell from this point to the next leaves at either end.
        let (begin, end) = (index as f64 * grid.width, (index + 1) as f64 * grid.width);
        let next = if index > last { place } else { loss.place(end).clamp(low, high) };
        let (mut at_begin, mut at_end) = (0.0, 0.0);
        let (left, right) = if rising { (place, next) } else { (next, place) };
        if right > left {
            let mut add = |y: f64, weight: f64| {
                let mass = weight * loss.density(y);
                let share = ((end - loss.at(y)).exp_m1() / whole).clamp(0.0, 1.0);
                at_begin += mass * share;
                at_end += mass * (1.0 - share);
            };
            let wide = loss.width(left);
            if right - left < NARROW * wide {
                three(left, right, &mut add);
            } else {
                eight(left, right, |y| loss.width(y), &mut add);
            }
        }
        let mass = (carried + at_begin) * (theta * begin - shift).exp();
        if mass > 0.0 {
            masses[grid.slot(index)].re += mass;
            total += mass;
        }
        (carried, place) = (at_end, next);
    }
    masses.iter_mut().for_each(|mass| *mass /= total);
    (masses, shift + total.ln())
}
