//! What a denoiser gets wrong at each noise level: in large and in fine.

use std::f64::consts::PI;

use serde::Serialize;

use super::likelihood::{Setting, check_finite, parts, values};
use crate::data::Dataset;
use crate::error::Result;
use crate::random::Random;
use crate::run::Denoiser;

/// Waves longer than this many pixels are coherence of the whole, shorter ones are detail.
pub const LONG_WAVE: f64 = 8.0;

/// Mean square errors of one element at one timestep.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LevelError {
    pub timestep: usize,
    /// Of the network's output, the simple loss (Ho et al. 2020, eq. 14).
    pub loss: f64,
    /// Of the estimate of x0, clamped as samplers do: the part of waves longer than 8 pixels, and that of shorter ones.
    pub low: f64,
    pub high: f64,
}

/// The errors on the first `count` images at `steps` timesteps, evenly spread from the first to the last.
/// `watch(done, of)` counts evaluations of a batch.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails, [`crate::error::Error::Diverged`] if the network's output is not finite.
pub fn level_errors(
    network: &Denoiser,
    data: &Dataset,
    count: usize,
    setting: &Setting,
    (steps, seed): (usize, u64),
    mut watch: impl FnMut(u64, u64),
) -> Result<Vec<LevelError>> {
    let last = setting.schedule.timesteps() - 1;
    let mut timesteps: Vec<usize> = (0..steps).map(|i| i * last / (steps - 1).max(1)).collect();
    timesteps.dedup();
    let spectrum = Spectrum::new([data.height, data.width, data.channels].map(|extent| extent as usize));
    let of = (timesteps.len() * parts(count, network.batch()).count()) as u64;
    let (mut done, mut random) = (0, Random::new(seed));
    let mut errors: Vec<LevelError> =
        timesteps.iter().map(|timestep| LevelError { timestep: *timestep, ..Default::default() }).collect();
    let each = 1.0 / (count * network.dimensions()) as f64;
    for part in parts(count, network.batch()) {
        let x0 = values(data, &part);
        network.write_labels(&data.labels[part]);
        for error in &mut errors {
            let (alpha, sigma) = (setting.schedule.alpha(error.timestep), setting.schedule.sigma(error.timestep));
            let (target_x0, target_eps) = setting.prediction.target(alpha, sigma);
            let (from_x, from_out) = setting.prediction.x0(alpha, sigma);
            let eps: Vec<f64> = x0.iter().map(|_| random.normal()).collect();
            let x: Vec<f64> = x0.iter().zip(&eps).map(|(x0, eps)| alpha * x0 + sigma * eps).collect();
            let out = network.run(&x, error.timestep as f64)?;
            let wrong =
                out.iter().zip(x0.iter().zip(&eps)).map(|(out, (x0, eps))| out - target_x0 * x0 - target_eps * eps);
            error.loss += each * wrong.map(|wrong| wrong * wrong).sum::<f64>();
            let clip = setting.clip.unwrap_or(f64::INFINITY);
            let estimates = x.iter().zip(&out).map(|(x, out)| (from_x * x + from_out * out).clamp(-clip, clip));
            let differences: Vec<f64> = estimates.zip(&x0).map(|(estimate, x0)| estimate - x0).collect();
            for image in differences.chunks_exact(network.dimensions()) {
                let (low, high) = spectrum.energies(image);
                error.low += each * low;
                error.high += each * high;
            }
            done += 1;
            watch(done, of);
        }
    }
    errors.iter().try_for_each(|error| check_finite(error.loss + error.low + error.high))?;
    Ok(errors)
}

/// Splits images of one size by the length of waves: the orthonormal cosine transform (DCT-II; Ahmed, Natarajan & Rao
/// 1974), so that the squares of all coefficients add up to those of all pixels.
pub struct Spectrum {
    shape: [usize; 3],
    /// Row k is the k-th cosine.
    down: Vec<Vec<f64>>,
    across: Vec<Vec<f64>>,
}

fn cosines(length: usize) -> Vec<Vec<f64>> {
    let scale = |k: usize| (if k == 0 { 1.0 } else { 2.0 } / length as f64).sqrt();
    let cosine = |k: usize, i: usize| scale(k) * (PI * (i as f64 + 0.5) * k as f64 / length as f64).cos();
    (0..length).map(|k| (0..length).map(|i| cosine(k, i)).collect()).collect()
}

impl Spectrum {
    /// For images [H, W, C].
    pub fn new(shape: [usize; 3]) -> Spectrum {
        Spectrum { shape, down: cosines(shape[0]), across: cosines(shape[1]) }
    }

    /// The squares of an image's coefficients of long waves, and of short ones, summed.
    pub fn energies(&self, image: &[f64]) -> (f64, f64) {
        let [height, width, channels] = self.shape;
        let (mut low, mut high) = (0.0, 0.0);
        for channel in 0..channels {
            let pixel = |y: usize, x: usize| image[(y * width + x) * channels + channel];
            // Rows first, then columns.
            let rows: Vec<Vec<f64>> = (0..height)
                .map(|y| self.across.iter().map(|wave| (0..width).map(|x| wave[x] * pixel(y, x)).sum()).collect())
                .collect();
            for (v, wave) in self.down.iter().enumerate() {
                for u in 0..width {
                    let coefficient: f64 = wave.iter().zip(&rows).map(|(wave, row)| wave * row[u]).sum();
                    // The k-th cosine has k/2 periods.
                    let frequency = (v as f64 / (2 * height) as f64).hypot(u as f64 / (2 * width) as f64);
                    let side = if frequency * LONG_WAVE < 1.0 { &mut low } else { &mut high };
                    *side += coefficient * coefficient;
                }
            }
        }
        (low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_neither_lost_nor_made() {
        let mut random = Random::new(1);
        let image: Vec<f64> = (0..12 * 20 * 3).map(|_| random.normal()).collect();
        let (low, high) = Spectrum::new([12, 20, 3]).energies(&image);
        let squares: f64 = image.iter().map(|value| value * value).sum();
        assert!((low + high - squares).abs() < 1e-9 * squares);
        // Of white noise each coefficient has as much: low ones are those of a quarter of a disk of radius 1/4.
        assert!((0.02..0.1).contains(&(low / squares)), "{}", low / squares);
    }

    #[test]
    fn waves_fall_on_their_side() {
        let spectrum = Spectrum::new([16, 16, 1]);
        let wave = |period: f64| -> Vec<f64> {
            (0..256).map(|i| (2.0 * PI * ((i % 16) as f64 + 0.5) / period).cos()).collect()
        };
        let share = |period: f64| {
            let (low, high) = spectrum.energies(&wave(period));
            low / (low + high)
        };
        assert!(share(32.0) > 0.999_999 && share(16.0) > 0.999_999);
        assert!(share(4.0) < 1e-6 && share(2.5) < 0.1);
        assert_eq!(spectrum.energies(&[1.0; 256]).1.round(), 0.0);
    }
}
