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

/// Cells are as wide as this share of the loss where that is more than the grid's width: it adds that share squared to the variance,
/// relatively, and however far losses range, cells are some ten thousand.
const RELATIVE: i64 = 2048;

/// The masses of the loss at the grid's points, each times `exp(theta x)`, divided by their sum; and that sum's logarithm.
///
/// A mass m at x = a + u in a cell [a, a + h] becomes `m (e^(h - u) - 1) / (e^h - 1)` at a and the rest at a + h, which keeps both the
/// sum of m under P and of m e^(-x) under Q. The cell's curve delta(epsilon) over e^epsilon becomes its chord, which lies above it: the
/// pair on the grid dominates the true one, and so do their compositions (Doroshenko et al. 2022).
pub fn tilted_masses(loss: &Loss, grid: &Grid, theta: f64, reach: f64, moments: &Moments) -> (Vec<Complex<f64>>, f64) {
    let (low, high) = loss.range(reach);
    let (at_low, at_high) = (loss.at(low), loss.at(high));
    let point = |loss: f64| (loss / grid.width).floor() as i64;
    let (first, last) = (point(at_low.min(at_high)), point(at_low.max(at_high)));
    let shift = moments.cumulants(theta).log;
    let mut masses = vec![Complex::default(); grid.points];
    let mut total = 0.0;
    let mut put = |index: i64, mass: f64| {
        if mass > 0.0 {
            let tilted = mass * (theta * grid.width * index as f64 - shift).exp();
            masses[grid.slot(index)].re += tilted;
            total += tilted;
        }
    };
    let place = |index: i64| loss.place(index as f64 * grid.width).clamp(low, high);
    let (mut begin, mut at_begin, mut carried) = (first, place(first), 0.0);
    while begin <= last {
        let end = begin + (begin.abs() / RELATIVE).max(1);
        let at_end = place(end);
        let (lower, upper) = cell(
            loss,
            (at_begin.min(at_end), at_begin.max(at_end)),
            end as f64 * grid.width,
            (end - begin) as f64 * grid.width,
        );
        put(begin, carried + lower);
        (begin, at_begin, carried) = (end, at_end, upper);
    }
    put(begin, carried);
    masses.iter_mut().for_each(|mass| *mass /= total);
    (masses, shift + total.ln())
}

/// What y from `left` to `right`, whose losses are in the cell of `width` below `top`, leave at both ends of it.
fn cell(loss: &Loss, (left, right): (f64, f64), top: f64, width: f64) -> (f64, f64) {
    if left >= right {
        return (0.0, 0.0);
    }
    let whole = width.exp_m1();
    let (mut lower, mut upper) = (0.0, 0.0);
    let add = |y: f64, weight: f64| {
        let mass = weight * loss.density(y);
        let share = ((top - loss.at(y)).exp_m1() / whole).clamp(0.0, 1.0);
        lower += mass * share;
        upper += mass * (1.0 - share);
    };
    match right - left < NARROW * loss.width(left) {
        true => three(left, right, add),
        false => eight(left, right, |y| loss.width(y), add),
    }
    (lower, upper)
}
