//! What is accounted: a Gaussian mechanism on Poisson samples, and how many times it runs.

use super::error::{MOST_STEPS, NOISE, PrivacyError};

/// `steps` releases of a sum over a Poisson sample, each with Gaussian noise.
///
/// Adjacent data sets differ by one record that one has and the other lacks (add/remove).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledGaussian {
    /// The chance q of each record to join a step, in (0, 1].
    pub sampling: f64,
    /// The noise multiplier sigma: the noise's standard deviation over the most that one record adds to the sum in norm.
    pub noise: f64,
    /// How many times it ran, or will.
    pub steps: u64,
}

impl SampledGaussian {
    /// # Errors
    /// Of a number that makes no sense.
    pub fn check(&self) -> Result<(), PrivacyError> {
        // NaN is refused, too.
        if !(self.sampling > 0.0 && self.sampling <= 1.0) {
            return Err(PrivacyError::Sampling(self.sampling));
        }
        if !(self.noise >= NOISE.0 && self.noise <= NOISE.1) {
            return Err(PrivacyError::Noise(self.noise));
        }
        if self.steps > MOST_STEPS {
            return Err(PrivacyError::Steps(self.steps));
        }
        Ok(())
    }
}

/// # Errors
/// Of a delta outside of (0, 1).
pub fn check_delta(delta: f64) -> Result<(), PrivacyError> {
    if delta > 0.0 && delta < 1.0 { Ok(()) } else { Err(PrivacyError::Delta(delta)) }
}
