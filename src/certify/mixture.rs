//! Gaussian mixtures: distributions whose score is known at every noise level.

use crate::diffusion::Level;
use crate::random::Random;

/// One Gaussian of a mixture, the same in every direction.
#[derive(Clone, Debug)]
pub struct Component {
    pub weight: f64,
    pub mean: Vec<f64>,
    pub deviation: f64,
}

/// A distribution of x0.
#[derive(Clone, Debug)]
pub struct Mixture {
    pub components: Vec<Component>,
}

/// Components of a mixture.
const MOST: usize = 4;
/// Directions on which distributions are compared.
const DIRECTIONS: usize = 8;
/// Points of a table of a density.
const GRID: usize = 20_000;

impl Mixture {
    /// A mixture of `dimensions` dimensions: two components on the line, three elsewhere.
    pub fn new(dimensions: usize) -> Mixture {
        let component = |weight, mean, deviation| Component { weight, mean, deviation };
        if dimensions == 1 {
            return Mixture { components: vec![component(0.3, vec![-0.8], 0.2), component(0.7, vec![0.5], 0.3)] };
        }
        let mean = |which: usize| -> Vec<f64> {
            let at = |i: usize| 0.8 * (2.1 * which as f64 + 1.7 * i as f64 + 0.4).sin();
            (0..dimensions).map(at).collect()
        };
        let weights = [(0.2, 0.25), (0.5, 0.35), (0.3, 0.3)];
        let all = weights.iter().enumerate().map(|(i, (weight, deviation))| component(*weight, mean(i), *deviation));
        Mixture { components: all.collect() }
    }

    /// Dimensions of x.
    pub fn dimensions(&self) -> usize {
        self.components[0].mean.len()
    }

    /// Draws x at `level` into `x`.
    pub fn draw(&self, level: Level, random: &mut Random, x: &mut [f64]) {
        let mut rest = random.uniform();
        let chosen = self.components.iter().find(|component| {
            rest -= component.weight;
            rest < 0.0
        });
        let component = chosen.unwrap_or(&self.components[self.components.len() - 1]);
        let deviation = (level.alpha * component.deviation).hypot(level.sigma);
        for (x, mean) in x.iter_mut().zip(&component.mean) {
            *x = level.alpha * mean + deviation * random.normal();
        }
    }

    /// E[x0 | x] at `level`: what a perfect network knows. By Bayes' rule each component has its share of x, and a
    /// Gaussian's x0 given x is its mean and the part of the rest that isn't noise.
    pub fn estimate(&self, x: &[f64], level: Level, x0: &mut [f64]) {
        let mut shares = [f64::MIN; MOST];
        let variance = |component: &Component| (level.alpha * component.deviation).powi(2) + level.sigma.powi(2);
        for (share, component) in shares.iter_mut().zip(&self.components) {
            let squares: f64 = x.iter().zip(&component.mean).map(|(x, mean)| (x - level.alpha * mean).powi(2)).sum();
            let variance = variance(component);
            *share = component.weight.ln() - 0.5 * squares / variance - 0.5 * x.len() as f64 * variance.ln();
        }
        let largest = shares.iter().copied().fold(f64::MIN, f64::max);
        shares.iter_mut().for_each(|share| *share = (*share - largest).exp());
        let total: f64 = shares.iter().sum();
        x0.fill(0.0);
        for (share, component) in shares.iter().zip(&self.components) {
            let gain = level.alpha * component.deviation.powi(2) / variance(component);
            for ((x0, x), mean) in x0.iter_mut().zip(x).zip(&component.mean) {
                *x0 += share / total * (mean + gain * (x - level.alpha * mean));
            }
        }
    }

    /// Unit vectors, the same ones every time: even around the circle, scattered in more dimensions.
    fn directions(&self) -> Vec<Vec<f64>> {
        let dimensions = self.dimensions();
        if dimensions == 1 {
            return vec![vec![1.0]];
        }
        let mut random = Random::new(16);
        let direction = |i: usize| -> Vec<f64> {
            let angle = std::f64::consts::PI * i as f64 / DIRECTIONS as f64;
            let all: Vec<f64> = match dimensions {
                2 => vec![angle.cos(), angle.sin()],
                _ => (0..dimensions).map(|_| random.normal()).collect(),
            };
            let length = all.iter().map(|x| x * x).sum::<f64>().sqrt();
            all.iter().map(|x| x / length).collect()
        };
        (0..DIRECTIONS).map(direction).collect()
    }

    /// The truth as `count` samples would show it at best, to compare samples with.
    pub fn quantiles(&self, count: usize) -> Quantiles {
        let along = |direction: Vec<f64>| {
            let means = |component: &Component| component.mean.iter().zip(&direction).map(|(m, d)| m * d).sum();
            let parts: Vec<(f64, f64, f64)> = self
                .components
                .iter()
                .map(|component| (component.weight, means(component), component.deviation))
                .collect();
            let values = quantiles(&parts, count);
            (direction, values)
        };
        Quantiles { of: self.directions().into_iter().map(along).collect() }
    }
}

/// The (i + 1/2) / count quantiles of a mixture (weight, mean, deviation) on the line, by a table of its density.
fn quantiles(parts: &[(f64, f64, f64)], count: usize) -> Vec<f64> {
    let low = parts.iter().map(|(_, mean, s)| mean - 9.0 * s).fold(f64::MAX, f64::min);
    let high = parts.iter().map(|(_, mean, s)| mean + 9.0 * s).fold(f64::MIN, f64::max);
    let width = (high - low) / GRID as f64;
    let density = |x: f64| -> f64 {
        let normal = |(weight, mean, s): &(f64, f64, f64)| weight / s * (-0.5 * ((x - mean) / s).powi(2)).exp();
        parts.iter().map(normal).sum::<f64>() / (2.0 * std::f64::consts::PI).sqrt()
    };
    let (mut below, mut cell, mut mass) = (0.0, 0, 0.0);
    let mut values = Vec::with_capacity(count);
    for i in 0..count {
        let wanted = (i as f64 + 0.5) / count as f64;
        while below + mass < wanted && cell < GRID {
            below += mass;
            mass = width * density(low + (cell as f64 + 0.5) * width);
            cell += 1;
        }
        let share = if mass > 0.0 { ((wanted - below) / mass).min(1.0) } else { 0.0 };
        values.push(low + (cell as f64 - 1.0 + share) * width);
    }
    values
}

/// A mixture's quantiles along directions.
pub struct Quantiles {
    of: Vec<(Vec<f64>, Vec<f64>)>,
}

impl Quantiles {
    /// The sliced Wasserstein-2 distance of samples (count x dimensions) from the truth: the root of the mean over the
    /// directions of the squared distance along each (Bonneel et al. 2015, eq. 7). On the line it is the distance itself.
    pub fn distance(&self, samples: &[f64]) -> f64 {
        let along = |(direction, quantiles): &(Vec<f64>, Vec<f64>)| -> f64 {
            let rows = samples.chunks_exact(direction.len());
            let mut values: Vec<f64> = rows.map(|row| row.iter().zip(direction).map(|(x, d)| x * d).sum()).collect();
            values.sort_unstable_by(f64::total_cmp);
            let squares: f64 = values.iter().zip(quantiles).map(|(value, quantile)| (value - quantile).powi(2)).sum();
            squares / values.len() as f64
        };
        (self.of.iter().map(along).sum::<f64>() / self.of.len() as f64).sqrt()
    }
}
