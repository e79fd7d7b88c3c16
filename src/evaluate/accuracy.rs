//! How often a classifier is right, by noise level.

use crate::diffusion::Schedule;
use crate::error::Result;
use crate::picture::Images;
use crate::random::Random;
use crate::run::Observer;

/// The accuracy at one noise level.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Accuracy {
    pub timestep: usize,
    /// alpha^2 / sigma^2.
    pub signal_to_noise: f64,
    pub accuracy: f64,
    pub count: usize,
}

/// How often the classifier is right about noisy `images`: at timestep 0 and at each tenth of the schedule.
///
/// # Errors
/// Those of [`Observer::look`].
pub fn accuracy_by_noise(
    observer: &Observer,
    images: &Images,
    labels: &[u32],
    schedule: &Schedule,
    seed: u64,
) -> Result<Vec<Accuracy>> {
    let last = schedule.timesteps() - 1;
    let mut random = Random::new(seed);
    let mut timesteps: Vec<usize> = (0..10).map(|tenth| tenth * last / 10).collect();
    timesteps.dedup();
    let at = |timestep: usize| {
        let (alpha, sigma) = (schedule.alpha(timestep), schedule.sigma(timestep));
        let mut noisy = images.clone();
        noisy.values.iter_mut().for_each(|value| *value = (alpha * *value as f64 + sigma * random.normal()) as f32);
        let accuracy = observer.look(&noisy, timestep as f64)?.accuracy(labels);
        Ok(Accuracy { timestep, signal_to_noise: (alpha / sigma).powi(2), accuracy, count: labels.len() })
    };
    timesteps.into_iter().map(at).collect()
}
