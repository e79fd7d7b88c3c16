//! Epsilon from the privacy loss distribution, composed by FFT: an upper bound, tight to some 1e-5 of itself.
//!
//! delta(epsilon) = E [1 - exp(epsilon - L)]_+ where L is the sum of the steps' losses under P (Koskela, Jälkö & Honkela 2020). What is
//! computed differs from it by terms that are bounded and added:
//!
//! - **Tails** of the noise beyond `z` standard deviations, as if all were lost there: `steps erfc(z / sqrt 2)`.
//! - **Grid.** Each step's loss is moved to the neighbours of a grid such that both P and Q of every cell stay what they are
//!   (Doroshenko et al. 2022, "Connect the Dots"): see [`super::grid`].
//! - **Window.** Masses are tilted, by `exp(theta x)`, to where their sum has its mean close to epsilon (the saddle point of Alghamdi
//!   et al. 2023, "The Saddle-Point Method in Differential Privacy"): so rounding and what wraps around the FFT's window are small
//!   beside delta, however small it is. What may lie above the window is bounded by Chernoff and counted as lost; what lies below
//!   comes in on top of it, which only raises delta.
//! - **Rounding** of the FFT is bounded and added to each mass; where it could matter, there is no answer.

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

use super::error::PrivacyError;
use super::grid::{Grid, tilted_masses};
use super::loss::{Direction, Loss, tail};
use super::mechanism::SampledGaussian;
use super::moments::{Cumulants, Moments, valley};

/// What the grid may add to epsilon, as a share of it: in an answer, and where a rough one will do.
const FINE: f64 = 1e-5;
const ROUGH: f64 = 1e-3;
/// The tails' share of delta.
const TAILS: f64 = 1e-9;
/// The chance, tilted, of sums outside of the window, each side.
const OUTSIDE: f64 = 1e-10;
/// Rounding may add this share to delta.
const ROUNDING: f64 = 1e-3;
/// Points of the FFT at most: a second's work.
const MOST_POINTS: usize = 1 << 21;
/// The least delta: densities of its order would not be normal numbers.
const LEAST_DELTA: f64 = 1e-200;

/// The smallest epsilon that is proved for `delta`, in the worse direction.
///
/// # Errors
/// Of a delta that rounding hides.
pub fn epsilon(mechanisms: &[SampledGaussian], delta: f64) -> Result<f64, PrivacyError> {
    let mut worse = 0.0_f64;
    // Adding a record seldom costs more than to remove one, which a rough bound tells soon.
    for composed in Composed::both(mechanisms, delta)? {
        let rough = composed.epsilon(ROUGH * composed.chernoff)?;
        if rough > worse {
            worse = worse.max(composed.epsilon(FINE * rough)?);
        }
    }
    Ok(worse)
}

/// An epsilon that tells whether `budget` is kept: as exact as [`epsilon`] where it is close to it.
///
/// # Errors
/// As [`epsilon`].
pub fn epsilon_beside(mechanisms: &[SampledGaussian], delta: f64, budget: f64) -> Result<f64, PrivacyError> {
    let mut rough = 0.0_f64;
    for composed in Composed::both(mechanisms, delta)? {
        rough = rough.max(composed.epsilon(ROUGH * composed.chernoff.min(budget))?);
    }
    let is_far = rough <= budget || rough > budget * (1.0 + 10.0 * ROUGH);
    if is_far { Ok(rough) } else { epsilon(mechanisms, delta) }
}

/// Steps of one kind.
struct Part {
    loss: Loss,
    moments: Moments,
    steps: f64,
}

/// All steps in one direction.
struct Composed {
    parts: Vec<Part>,
    /// The delta asked for, and what the tails leave of it; how far the noise is followed, in standard deviations.
    delta: f64,
    delta_left: f64,
    reach: f64,
    /// The tilt, and the epsilon that Chernoff's bound gives with it.
    theta: f64,
    chernoff: f64,
}

impl Composed {
    /// The direction that is mostly the worse one first.
    fn both(mechanisms: &[SampledGaussian], delta: f64) -> Result<[Composed; 2], PrivacyError> {
        let steps: f64 = mechanisms.iter().map(|each| each.steps as f64).sum();
        let reach = (4..148).map(|quarter| f64::from(quarter) / 4.0).find(|z| steps * tail(*z) <= TAILS * delta);
        let reach = reach.filter(|_| delta >= LEAST_DELTA).ok_or(PrivacyError::Precision(delta))?;
        let delta_left = delta - steps * tail(reach);
        Ok([Direction::Remove, Direction::Add].map(|direction| {
            let parts = mechanisms.iter().filter(|each| each.steps > 0).map(|each| {
                let loss = Loss::new(each.sampling, each.noise, direction);
                Part { loss, moments: Moments::new(&loss, reach), steps: each.steps as f64 }
            });
            let parts: Vec<Part> = parts.collect();
            let (theta, chernoff) = chernoff(&parts, delta_left);
            Composed { parts, delta, delta_left, reach, theta, chernoff }
        }))
    }

    /// An epsilon to which the grid adds about `more`.
    fn epsilon(&self, more: f64) -> Result<f64, PrivacyError> {
        if self.chernoff <= 0.0 {
            return Ok(0.0);
        }
        let grid = window(&self.parts, self.theta, more);
        let sum = Sum::new(&self.parts, &grid, self.theta, self.reach);
        let found = sum.epsilon(&grid, self.theta, self.chernoff, self.delta_left);
        found.ok_or(PrivacyError::Precision(self.delta))
    }
}

fn total(parts: &[Part], theta: f64) -> Cumulants {
    parts.iter().fold(Cumulants::default(), |sum, part| {
        let of_step = part.moments.cumulants(theta);
        Cumulants {
            log: sum.log + part.steps * of_step.log,
            mean: sum.mean + part.steps * of_step.mean,
            variance: sum.variance + part.steps * of_step.variance,
        }
    })
}

/// The tilt whose moment gives the least epsilon, and that epsilon: what RDP would give with every order, theta + 1 being one.
fn chernoff(parts: &[Part], delta: f64) -> (f64, f64) {
    let bound = |theta: f64| {
        let log = total(parts, theta).log;
        (log - delta.ln() + theta * theta.ln() - (theta + 1.0) * theta.ln_1p()) / theta
    };
    // Rare large losses among many small ones make several valleys: the deepest of a scan, then its bottom.
    let thetas = (-12..=40).map(|half| 10f64.powf(0.5 * f64::from(half)));
    let (at, _) = thetas
        .map(|theta| (theta, bound(theta)))
        .fold((1.0, f64::INFINITY), |best, next| if next.1 < best.1 { next } else { best });
    valley(0.3 * at, 3.0 * at, bound)
}

/// A window that holds all but `OUTSIDE` of the tilted sum at either side, and a grid that adds about `more` to epsilon: of two
/// masses at the ends of a cell, instead of one between them, `exp(theta x)` has a mean larger by `theta (theta + 1) h^2 / 12` on
/// average.
fn window(parts: &[Part], theta: f64, more: f64) -> Grid {
    let at = total(parts, theta);
    let scale = at.variance.sqrt().max(f64::MIN_POSITIVE.sqrt());
    let (least, most) = (1e-3 / scale, 1e3 / scale);
    let (_, high) = valley(least, most, |s| (total(parts, theta + s).log - at.log - OUTSIDE.ln()) / s);
    let (_, low) = valley(least, most, |s| (total(parts, theta - s).log - at.log - OUTSIDE.ln()) / s);
    let (low, high) = (-low, high);
    let steps: f64 = parts.iter().map(|part| part.steps).sum();
    let wanted = (12.0 * more / (steps * (theta + 1.0))).sqrt();
    let width = wanted.max((high - low) / (MOST_POINTS - 2) as f64);
    // A cell more at either end: rounding of the first.
    let cells = ((high - low) / width) as usize + 2;
    let half = cells.next_power_of_two() / 2;
    let points = if cells <= half / 2 * 3 { half / 2 * 3 } else { 2 * half };
    Grid { first: (low / width).floor() as i64, points, width }
}

/// The tilted masses of the sum, in the window.
struct Sum {
    masses: Vec<Complex<f64>>,
    /// log E exp(theta L) as the grid has it.
    log: f64,
    /// What each mass may be off by.
    rounding: f64,
}

impl Sum {
    fn new(parts: &[Part], grid: &Grid, theta: f64, reach: f64) -> Sum {
        let mut planner = FftPlanner::new();
        let forward = planner.plan_fft_forward(grid.points);
        let mut product = vec![Complex::new(1.0, 0.0); grid.points];
        let mut log = 0.0;
        let mut steps = 0.0;
        let mut scratch = vec![Complex::default(); forward.get_inplace_scratch_len()];
        for part in parts {
            let (mut masses, log_of_step) = tilted_masses(&part.loss, grid, theta, reach, &part.moments);
            forward.process_with_scratch(&mut masses, &mut scratch);
            product.iter_mut().zip(&masses).for_each(|(product, value)| *product *= power(*value, part.steps));
            log += part.steps * log_of_step;
            steps += part.steps;
        }
        // Each value of the forward FFT is off by at most some epsilons times log2 of the points, its power by `steps` as many.
        let weight: f64 = product.iter().map(|value| value.norm()).sum::<f64>() / grid.points as f64;
        let rounding = 4.0 * f64::EPSILON * (grid.points as f64).log2() * (steps + 1.0) * weight;
        planner.plan_fft_inverse(grid.points).process_with_scratch(&mut product, &mut scratch);
        product.iter_mut().for_each(|value| *value /= grid.points as f64);
        Sum { masses: product, log, rounding }
    }

    /// The epsilon of `delta`, close to `near`: from the top of the window down to where delta is reached. None where rounding hides
    /// it.
    fn epsilon(&self, grid: &Grid, theta: f64, near: f64, delta: f64) -> Option<f64> {
        let last = grid.first + grid.points as i64 - 1;
        // Everything in units of exp(log - theta near).
        let untilted = |index: i64| (theta * (near - grid.width * index as f64)).exp();
        let target = (delta.ln() - self.log + theta * near).exp() - OUTSIDE * untilted(last);
        if !(target > 0.0 && target.is_finite()) {
            return None;
        }
        let (kept, lost) = ((-grid.width).exp(), -(-grid.width).exp_m1());
        // Sum of masses from here up, and of masses times 1 - exp(here - x); the same of what rounding may have added.
        let (mut sum, mut divergence) = (0.0, 0.0);
        let (mut sum_of_rounding, mut rounding) = (0.0, 0.0);
        for index in (grid.first..=last).rev() {
            let unit = untilted(index);
            sum += unit * (self.masses[grid.slot(index)].re.max(0.0) + self.rounding);
            sum_of_rounding += unit * self.rounding;
            // The next point down.
            let next = lost * sum + kept * divergence;
            let place = grid.width * index as f64;
            if next > target {
                // Between both points delta is a line over e^epsilon.
                let epsilon = place + ((sum - target) / (sum - divergence)).ln();
                return (rounding <= ROUNDING * target).then_some(epsilon.max(0.0));
            }
            if place <= 0.0 {
                return Some(0.0);
            }
            (divergence, rounding) = (next, lost * sum_of_rounding + kept * rounding);
        }
        None
    }
}

/// `value` to the power of `steps`; 0 where it is too small to count.
fn power(value: Complex<f64>, steps: f64) -> Complex<f64> {
    let log = 0.5 * steps * value.norm_sqr().ln();
    if log < -100.0 { Complex::default() } else { Complex::from_polar(log.exp(), steps * value.arg()) }
}
