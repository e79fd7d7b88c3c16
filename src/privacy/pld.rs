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
//! - **Rounding** of the FFT is bounded and added to delta; where it could matter, there is no answer.

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
/// Rounding may add this share to delta, the same.
const FINE_ROUNDING: f64 = 1e-2;
const ROUGH_ROUNDING: f64 = 0.9;
/// Tilts that are tried.
const ATTEMPTS: usize = 6;
/// Points of the FFT: some even where all is in one cell, at most a second's work.
const LEAST_POINTS: usize = 256;
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
        worse = worse.max(composed.epsilon(FINE, worse)?);
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
        rough = rough.max(composed.epsilon(ROUGH, budget)?);
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

    /// An epsilon to which the grid adds about `share` of itself; a rougher one where that is not above `enough`.
    fn epsilon(&self, share: f64, enough: f64) -> Result<f64, PrivacyError> {
        if self.chernoff <= 0.0 {
            return Ok(0.0);
        }
        // The hazard of an exponential tail.
        let mut found = self.on_grid(ROUGH * self.chernoff, self.theta + 1.0, ROUGH_ROUNDING)?;
        while found.epsilon > enough {
            // On a finer grid rounding may hide what was there to see on a rough one.
            let Ok(finer) = self.on_grid(share * found.epsilon, found.hazard, FINE_ROUNDING) else { break };
            // What was rough may have been too large by far, and so have asked for too little.
            let settled = finer.epsilon > 0.9 * found.epsilon;
            found = finer;
            if settled {
                break;
            }
        }
        Ok(found.epsilon)
    }

    /// An epsilon to which the grid adds about `more`, and rounding a share `most` of delta at most.
    fn on_grid(&self, more: f64, hazard: f64, most: f64) -> Result<Found, PrivacyError> {
        // Where Chernoff's bound is poor its tilt is too strong, and rounding covers what lies below the window.
        let tilts = std::iter::successors(Some((self.theta, self.chernoff)), |(theta, _)| {
            let weaker = theta / 4.0;
            Some((weaker, bound(&self.parts, self.delta_left, weaker)))
        });
        let found = tilts.take(ATTEMPTS).find_map(|(theta, near)| {
            let grid = window(&self.parts, theta, more / hazard);
            Sum::new(&self.parts, &grid, theta, self.reach).epsilon(&grid, theta, near, self.delta_left, most)
        });
        found.ok_or(PrivacyError::Precision(self.delta))
    }
}

/// An epsilon, and how fast its grid makes it larger: the density of the loss there over the fall of delta with epsilon.
#[derive(Clone, Copy)]
struct Found {
    epsilon: f64,
    hazard: f64,
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

/// The epsilon of one moment: of RDP's order theta + 1.
fn bound(parts: &[Part], delta: f64, theta: f64) -> f64 {
    (total(parts, theta).log - delta.ln() - theta.ln_1p()) / theta - (1.0 / theta).ln_1p()
}

/// The tilt whose moment gives the least epsilon, and that epsilon.
fn chernoff(parts: &[Part], delta: f64) -> (f64, f64) {
    let bound = |theta: f64| bound(parts, delta, theta);
    // Rare large losses among many small ones make several valleys: the deepest of a scan, then its bottom.
    let thetas = (-12..=40).map(|half| 10f64.powf(0.5 * f64::from(half)));
    let (at, _) = thetas
        .map(|theta| (theta, bound(theta)))
        .fold((1.0, f64::INFINITY), |best, next| if next.1 < best.1 { next } else { best });
    valley(0.3 * at, 3.0 * at, bound)
}

/// A window that holds all but `OUTSIDE` of the tilted sum at either side, and the grid that adds about `more` to epsilon, in units of
/// the hazard. A mass moved to the ends of its cell keeps the sum of 1 and of exp(-x), and so changes the mean of (1 - exp(epsilon - x))_+
/// by half its new variance, h^2 / 6 on average, where x passes epsilon: steps h^2 / 12 of the density there.
fn window(parts: &[Part], theta: f64, more: f64) -> Grid {
    let at = total(parts, theta);
    let scale = at.variance.sqrt().max(f64::MIN_POSITIVE.sqrt());
    let (least, most) = (1e-3 / scale, 1e3 / scale);
    let (_, high) = valley(least, most, |s| (total(parts, theta + s).log - at.log - OUTSIDE.ln()) / s);
    let (_, low) = valley(least, most, |s| (total(parts, theta - s).log - at.log - OUTSIDE.ln()) / s);
    let (low, high) = (-low, high);
    let steps: f64 = parts.iter().map(|part| part.steps).sum();
    let wanted = (12.0 * more / steps).sqrt();
    let width = wanted.max((high - low) / (MOST_POINTS - 2) as f64);
    let cells = (((high - low) / width) as usize + 2).max(LEAST_POINTS);
    let half = cells.next_power_of_two() / 2;
    let points = if cells <= half / 2 * 3 { half / 2 * 3 } else { 2 * half };
    let middle = (0.5 * (low + high) / width).round() as i64;
    Grid { first: middle - points as i64 / 2, points, width }
}

/// The tilted masses of the sum, in the window.
struct Sum {
    masses: Vec<Complex<f64>>,
    /// log E exp(theta L) as the grid has it.
    log: f64,
    /// What the masses may be off by, as the norm of a vector.
    rounding: f64,
}

/// Each pass of an FFT may add this share of the norm of its input (Higham 2002, "Accuracy and Stability of Numerical Algorithms",
/// theorem 24.2), and each step this share of a power.
const PASS: f64 = 4.0 * f64::EPSILON;

impl Sum {
    fn new(parts: &[Part], grid: &Grid, theta: f64, reach: f64) -> Sum {
        let mut planner = FftPlanner::new();
        let forward = planner.plan_fft_forward(grid.points);
        let mut product = vec![Complex::new(1.0, 0.0); grid.points];
        // By how much an error of each value grows, and the norms of the steps' masses: no value is above 1, so that an error grows with
        // the steps at most.
        let mut growth = vec![0.0; grid.points];
        let (mut log, mut norm) = (0.0, 0.0);
        for part in parts {
            let (mut masses, log_of_step) = tilted_masses(&part.loss, grid, theta, reach, &part.moments);
            log += part.steps * log_of_step;
            norm += part.steps * norm_of(&masses);
            forward.process(&mut masses);
            for ((product, growth), value) in product.iter_mut().zip(&mut growth).zip(&masses) {
                *growth += part.steps / value.norm().max(f64::MIN_POSITIVE);
                *product *= power(*value, part.steps);
            }
        }
        let grown = product.iter().zip(&growth).map(|(value, growth)| value.norm_sqr() * growth * growth);
        let grown = (grown.sum::<f64>() / grid.points as f64).sqrt();
        planner.plan_fft_inverse(grid.points).process(&mut product);
        product.iter_mut().for_each(|value| *value /= grid.points as f64);
        // An FFT's errors are bounded both in norm and, the masses' sum being 1, one by one.
        let rounding = PASS * ((grid.points as f64).log2() + 1.0) * (norm.min(grown) + norm_of(&product));
        Sum { masses: product, log, rounding }
    }

    /// The epsilon of `delta`, close to `near`: from the top of the window down to where delta is reached. None where rounding may be more
    /// than a share `most` of it.
    fn epsilon(&self, grid: &Grid, theta: f64, near: f64, delta: f64, most: f64) -> Option<Found> {
        let last = grid.first + grid.points as i64 - 1;
        // Everything in units of exp(log - theta near).
        let untilted = |index: i64| (theta * (near - grid.width * index as f64)).exp();
        let target = (delta.ln() - self.log + theta * near).exp() - OUTSIDE * untilted(last);
        if !(target > 0.0 && target.is_finite()) {
            return None;
        }
        let (kept, lost) = ((-grid.width).exp(), -(-grid.width).exp_m1());
        // Sum of masses from here up, and of masses times 1 - exp(here - x).
        let (mut sum, mut divergence) = (0.0, 0.0);
        // Sums of squares and product of both weights: rounding is at most its norm times that of the second.
        let (mut ones, mut mixed, mut weights) = (0.0, 0.0, 0.0);
        for index in (grid.first..=last).rev() {
            let unit = untilted(index);
            sum += unit * self.masses[grid.slot(index)].re.max(0.0);
            ones += unit * unit;
            // The next point down: each weight w becomes lost + kept w.
            let next = lost * sum + kept * divergence;
            weights = lost * lost * ones + 2.0 * lost * kept * mixed + kept * kept * weights;
            mixed = lost * ones + kept * mixed;
            let rounding = self.rounding * weights.sqrt();
            let place = grid.width * index as f64;
            if next + rounding > target {
                if rounding > most * target {
                    return None;
                }
                // Between both points delta is a line over e^epsilon.
                let epsilon = place + ((sum - (target - rounding)) / (sum - divergence)).ln();
                let hazard = unit * self.masses[grid.slot(index)].re / grid.width / (sum - divergence);
                return Some(Found { epsilon: epsilon.max(0.0), hazard: hazard.max(theta) });
            }
            if place <= 0.0 {
                return Some(Found { epsilon: 0.0, hazard: theta });
            }
            divergence = next;
        }
        // Below the window delta may be larger: its end will do.
        Some(Found { epsilon: grid.width * grid.first as f64, hazard: theta })
    }
}

fn norm_of(masses: &[Complex<f64>]) -> f64 {
    masses.iter().map(Complex::norm_sqr).sum::<f64>().sqrt()
}

/// `value` to the power of `steps`; 0 where it is too small to count.
fn power(value: Complex<f64>, steps: f64) -> Complex<f64> {
    let log = 0.5 * steps * value.norm_sqr().ln();
    if log < -100.0 { Complex::default() } else { Complex::from_polar(log.exp(), steps * value.arg()) }
}
