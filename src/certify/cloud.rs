//! Samples of a mixture under way, with its exact score for a network.

use std::convert::Infallible;

use super::mixture::Mixture;
use crate::diffusion::{Denoiser, Level, Prediction, SLOTS, Step, Threshold};
use crate::random::Random;

/// A batch of samples as a sampler's device.
pub struct Cloud<'a> {
    mixture: &'a Mixture,
    prediction: Prediction,
    random: Random,
    /// Samples one after the other.
    pub x: Vec<f64>,
    slots: Vec<[f64; SLOTS]>,
}

impl<'a> Cloud<'a> {
    /// `count` samples drawn from the mixture at `level`.
    pub fn draw(
        mixture: &'a Mixture,
        prediction: Prediction,
        level: Level,
        count: usize,
        mut random: Random,
    ) -> Cloud<'a> {
        let dimensions = mixture.dimensions();
        let mut x = vec![0.0; count * dimensions];
        x.chunks_exact_mut(dimensions).for_each(|x| mixture.draw(level, &mut random, x));
        Cloud { mixture, prediction, random, slots: vec![[0.0; SLOTS]; x.len()], x }
    }

    fn step(&mut self, step: &Step, output: impl Fn(&Mixture, &[f64], &mut [f64])) {
        let dimensions = self.mixture.dimensions();
        let mut out = vec![0.0; dimensions];
        let rows = self.x.chunks_exact_mut(dimensions).zip(self.slots.chunks_exact_mut(dimensions));
        for (x, slots) in rows {
            output(self.mixture, x, &mut out);
            for ((x, slots), out) in x.iter_mut().zip(slots).zip(&out) {
                let z = if step.noise > 0.0 { self.random.normal() } else { 0.0 };
                *x = step.apply(*x, *out, slots, z).0;
            }
        }
    }
}

impl Denoiser for Cloud<'_> {
    type Error = Infallible;

    fn evaluate(&mut self, step: &Step) -> Result<(), Infallible> {
        let Level { alpha, sigma, .. } = step.at;
        let (of_x0, of_eps) = self.prediction.target(alpha, sigma);
        self.step(step, |mixture, x, out| {
            mixture.estimate(x, step.at, out);
            for (x, out) in x.iter().zip(out) {
                *out = of_x0 * *out + of_eps * (x - alpha * *out) / sigma;
            }
        });
        Ok(())
    }

    fn update(&mut self, step: &Step) -> Result<(), Infallible> {
        self.step(step, |_, _, _| ());
        Ok(())
    }

    fn threshold(&mut self, threshold: Threshold, from: usize, to: usize) -> Result<(), Infallible> {
        for slots in self.slots.chunks_exact_mut(self.mixture.dimensions()) {
            let mut sample: Vec<f64> = slots.iter().map(|slots| slots[from]).collect();
            threshold.apply(&mut sample);
            slots.iter_mut().zip(sample).for_each(|(slots, value)| slots[to] = value);
        }
        Ok(())
    }

    fn rms(&mut self) -> Result<f64, Infallible> {
        Ok((self.x.iter().map(|x| x * x).sum::<f64>() / self.x.len() as f64).sqrt())
    }
}

/// Where the probability-flow ODE takes `x` (samples one after the other) from the ratio `from` to the ratio `to`, and the
/// estimate of x0 there: dy/d ln kappa = y - E[x0 | y] by the classical Runge-Kutta rule in many even steps, which shares
/// nothing with the samplers.
pub fn follow_ode(mixture: &Mixture, y: &[f64], from: f64, to: f64) -> Vec<f64> {
    const STEPS: usize = 3000;
    let length = (to / from).ln() / STEPS as f64;
    let level = |log: f64| Level { timestep: 0.0, alpha: 1.0, sigma: log.exp() };
    let dimensions = mixture.dimensions();
    let mut all = y.to_vec();
    let mut x0 = vec![0.0; dimensions];
    for y in all.chunks_exact_mut(dimensions) {
        let mut slopes = [(); 4].map(|()| vec![0.0; dimensions]);
        let mut point = vec![0.0; dimensions];
        for i in 0..STEPS {
            let log = from.ln() + i as f64 * length;
            for (stage, ahead) in [0.0, 0.5, 0.5, 1.0].into_iter().enumerate() {
                for d in 0..dimensions {
                    point[d] = y[d] + if stage == 0 { 0.0 } else { ahead * length * slopes[stage - 1][d] };
                }
                mixture.estimate(&point, level(log + ahead * length), &mut x0);
                for d in 0..dimensions {
                    slopes[stage][d] = point[d] - x0[d];
                }
            }
            for d in 0..dimensions {
                y[d] += length / 6.0 * (slopes[0][d] + 2.0 * slopes[1][d] + 2.0 * slopes[2][d] + slopes[3][d]);
            }
        }
        mixture.estimate(y, level(to.ln()), &mut x0);
        y.copy_from_slice(&x0);
    }
    all
}
