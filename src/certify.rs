//! Certification: each sampler on distributions whose score is known exactly, by the code that also runs on the GPU.
//!
//! - [`mixture`]: Gaussian mixtures, their score, their quantiles.
//! - [`cloud`]: samples of a mixture as a sampler's device, and a reference for the probability-flow ODE.
//! - [`moments`]: mean and variance of samples of a Gaussian, exactly.
//! - [`orders`], [`floor`], [`identities`], [`corrector`], [`langevin`], [`adaptive`]: what is asked of a sampler.
//!
//! Cited beside the papers of [`crate::diffusion`]: Bonneel et al. 2015, "Sliced and Radon Wasserstein Barycenters of
//! Measures".

pub mod adaptive;
pub mod cloud;
pub mod corrector;
pub mod floor;
pub mod identities;
pub mod langevin;
pub mod mixture;
pub mod moments;
pub mod orders;
pub mod subject;

use crate::diffusion::SamplerKind;
use floor::Floor;
pub use subject::{Check, Subject, subjects};

/// Certifies samplers.
pub struct Certifier {
    floors: Vec<Floor>,
}

impl Default for Certifier {
    /// With mixtures of 1, 2 and 16 dimensions.
    fn default() -> Certifier {
        Certifier { floors: [1, 2, 16].map(Floor::new).into() }
    }
}

impl Certifier {
    /// All that is asked of `subject`.
    pub fn certify(&self, subject: &Subject) -> Vec<Check> {
        let mut checks = match subject.kind {
            SamplerKind::Langevin { size, repeats, temperature } => {
                langevin::langevin(subject, size, repeats, temperature)
            }
            SamplerKind::PredictorCorrector { snr, corrections } => {
                [orders::orders(subject), corrector::corrector(subject, snr, corrections)].concat()
            }
            SamplerKind::Rk45 { .. } => [orders::orders(subject), adaptive::adaptive(subject)].concat(),
            _ => orders::orders(subject),
        };
        checks.extend(identities::identities(subject));
        // Without its noise Langevin dynamics seeks modes.
        if !matches!(subject.kind, SamplerKind::Langevin { temperature: 0.0, .. }) {
            checks.extend(floor::floors(subject, &self.floors));
        }
        checks
    }
}
