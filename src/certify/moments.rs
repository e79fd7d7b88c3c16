//! Mean and variance of a sampler's samples of a Gaussian, without drawing any: every step is affine there.

use crate::diffusion::{Level, Prediction, SLOTS, Step};

/// 1, x and the slots.
const SIZE: usize = SLOTS + 2;

/// E[u uᵀ] of u = (1, x, slots): all that affine steps need.
struct Moments {
    of: [[f64; SIZE]; SIZE],
}

/// A Gaussian distribution of x0: mean and deviation.
#[derive(Clone, Copy, Debug)]
pub struct Gaussian {
    pub mean: f64,
    pub deviation: f64,
}

impl Gaussian {
    /// Mean and variance of x at `level`.
    pub fn at(self, level: Level) -> (f64, f64) {
        (level.alpha * self.mean, (level.alpha * self.deviation).powi(2) + level.sigma.powi(2))
    }

    /// (constant, factor of x) of E[x0 | x] at `level`.
    fn estimate(self, level: Level) -> (f64, f64) {
        let (mean, variance) = self.at(level);
        let gain = level.alpha * self.deviation.powi(2) / variance;
        (self.mean - gain * mean, gain)
    }

    /// Mean and variance of E[x0 | x] where x is as it should be at `level`: what a perfect sampler gives whose last
    /// evaluation is there.
    pub fn estimated(self, level: Level) -> (f64, f64) {
        let (_, gain) = self.estimate(level);
        (self.mean, gain * gain * self.at(level).1)
    }
}

/// Mean and variance of x behind `steps`, none of which clips, from x of mean and variance `start`, with a network of
/// target `prediction` that knows `gaussian` perfectly.
pub fn moments(steps: &[Step], gaussian: Gaussian, prediction: Prediction, start: (f64, f64)) -> (f64, f64) {
    let mut moments = Moments { of: [[0.0; SIZE]; SIZE] };
    moments.of[0][0] = 1.0;
    (moments.of[0][1], moments.of[1][0]) = (start.0, start.0);
    moments.of[1][1] = start.1 + start.0 * start.0;
    for step in steps {
        moments.take(step, gaussian, prediction);
    }
    let mean = moments.of[0][1];
    (mean, moments.of[1][1] - mean * mean)
}

impl Moments {
    fn take(&mut self, step: &Step, gaussian: Gaussian, prediction: Prediction) {
        let Level { alpha, sigma, .. } = step.at;
        let (constant, gain) = gaussian.estimate(step.at);
        let (of_x0, of_eps) = prediction.target(alpha, sigma);
        // The network's output as (constant, factor of x): a x0 + b (x - alpha x0) / sigma.
        let share = of_x0 - of_eps * alpha / sigma;
        let out = [share * constant, share * gain + of_eps / sigma];
        let x0 = [step.x0_from_out * out[0], step.x0_from_out * out[1] + step.x0_from_x];
        let mut matrix = [[0.0; SIZE]; SIZE];
        for (i, row) in matrix.iter_mut().enumerate() {
            row[i] = 1.0;
        }
        matrix[1] = [0.0; SIZE];
        matrix[1][0] = step.out * out[0] + step.x0 * x0[0];
        matrix[1][1] = step.x + step.out * out[1] + step.x0 * x0[1];
        matrix[1][2..].copy_from_slice(&step.previous);
        for (slot, row) in [(step.keep_x, [0.0, 1.0]), (step.keep, x0)] {
            if let Some(slot) = slot {
                matrix[2 + slot] = [0.0; SIZE];
                matrix[2 + slot][..2].copy_from_slice(&row);
            }
        }
        let half: [[f64; SIZE]; SIZE] =
            std::array::from_fn(|i| std::array::from_fn(|j| (0..SIZE).map(|k| matrix[i][k] * self.of[k][j]).sum()));
        self.of = std::array::from_fn(|i| std::array::from_fn(|j| (0..SIZE).map(|k| half[i][k] * matrix[j][k]).sum()));
        self.of[1][1] += step.noise * step.noise;
    }
}
