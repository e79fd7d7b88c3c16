//! What a denoiser gets wrong at each noise level: in large and in fine.

use serde::Serialize;

use super::likelihood::{Answer, Setting, answer, check_finite, parts, values};
use super::spectrum::Spectrum;
use crate::data::Dataset;
use crate::error::Result;
use crate::random::Random;
use crate::run::Denoiser;

/// Mean square errors of one element at one timestep.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LevelError {
    pub timestep: usize,
    /// Of the network's output, the simple loss (Ho et al. 2020, eq. 14).
    pub loss: f64,
    /// Of the estimate of x0, clamped as samplers do: the parts of waves longer than 8 pixels, of 8 to 4, and of shorter ones.
    pub low: f64,
    pub middle: f64,
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
            let (from_x, from_out) = setting.prediction.x0(alpha, sigma);
            let eps: Vec<f64> = x0.iter().map(|_| random.normal()).collect();
            let trained = (setting.schedule, setting.prediction);
            let Answer { x, out, wrong } = answer(network, trained, error.timestep, &x0, &eps)?;
            error.loss += each * wrong.iter().map(|wrong| wrong * wrong).sum::<f64>();
            let clip = setting.clip.unwrap_or(f64::INFINITY);
            let estimates = x.iter().zip(&out).map(|(x, out)| (from_x * x + from_out * out).clamp(-clip, clip));
            let differences: Vec<f64> = estimates.zip(&x0).map(|(estimate, x0)| estimate - x0).collect();
            for image in differences.chunks_exact(network.dimensions()) {
                let [low, middle, high] = spectrum.energies(image);
                error.low += each * low;
                error.middle += each * middle;
                error.high += each * high;
            }
            done += 1;
            watch(done, of);
        }
    }
    errors.iter().try_for_each(|error| check_finite(error.loss + error.low + error.middle + error.high))?;
    Ok(errors)
}
