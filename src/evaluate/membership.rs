//! What a denoiser gets wrong of each image by itself: less, if it was trained on it.

use super::likelihood::{Answer, answer, check_finite, parts, values};
use crate::data::Dataset;
use crate::diffusion::{Prediction, Schedule};
use crate::error::Result;
use crate::random::Random;
use crate::run::Denoiser;

/// Added to a loss before its logarithm is taken.
const LEAST: f64 = 1e-12;

/// The logarithm of each image's loss, the mean square error of the network's output (the simple loss; Ho et al. 2020, eq. 14), its
/// mean over `draws` draws of timestep and noise, the same for all images. By the logarithm a tenth less counts as much where the
/// loss is small, which is where images are told apart, as where it is large, which is where they differ anyhow. Timesteps are
/// spread evenly over the schedule, one at random in each part of it. `watch(done, of)` counts evaluations of a batch.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails, [`crate::error::Error::Diverged`] if the network's output is not finite.
pub fn losses(
    network: &Denoiser,
    data: &Dataset,
    trained: (&Schedule, Prediction),
    draws: usize,
    mut watch: impl FnMut(u64, u64),
) -> Result<Vec<f64>> {
    let (dimensions, last) = (network.dimensions(), trained.0.timesteps() - 1);
    let of = (draws * parts(data.len(), network.batch()).count()) as u64;
    let (mut losses, mut done) = (Vec::new(), 0);
    for part in parts(data.len(), network.batch()) {
        let x0 = values(data, &part);
        let mut sums = vec![0.0; part.len()];
        network.write_labels(&data.labels[part]);
        // Each part of the images meets the same draws.
        let mut random = Random::new(0);
        for draw in 0..draws {
            let place = (draw as f64 + random.uniform()) / draws as f64;
            let timestep = ((place * trained.0.timesteps() as f64) as usize).min(last);
            let noise: Vec<f64> = (0..dimensions).map(|_| random.normal()).collect();
            let Answer { wrong, .. } = answer(network, trained, timestep, &x0, &noise.repeat(sums.len()))?;
            for (sum, wrong) in sums.iter_mut().zip(wrong.chunks_exact(dimensions)) {
                *sum += (wrong.iter().map(|wrong| wrong * wrong).sum::<f64>() / dimensions as f64 + LEAST).ln();
            }
            done += 1;
            watch(done, of);
        }
        losses.extend(sums.iter().map(|sum| sum / draws as f64));
    }
    check_finite(losses.iter().sum())?;
    Ok(losses)
}
