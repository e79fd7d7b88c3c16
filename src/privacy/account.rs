//! What a run's steps cost, by both accountants.

use super::error::PrivacyError;
use super::mechanism::{SampledGaussian, check_delta};
use super::{pld, rdp};

/// The epsilon of a delta, as two accountants have it. Both are upper bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epsilon {
    /// By the privacy loss distribution.
    pub pld: f64,
    /// By Rényi differential privacy.
    pub rdp: f64,
    /// The order that gave `rdp`; 0 where no step ran.
    pub order: f64,
}

impl SampledGaussian {
    /// The epsilon of `delta` after all steps.
    ///
    /// # Errors
    /// Of numbers without sense, and of a delta too small for f64.
    pub fn epsilon(&self, delta: f64) -> Result<Epsilon, PrivacyError> {
        epsilon_of(&[*self], delta)
    }
}

/// The same of several mechanisms, one after the other on the same data: a run that went on with other parameters.
///
/// # Errors
/// As [`SampledGaussian::epsilon`].
pub fn epsilon_of(mechanisms: &[SampledGaussian], delta: f64) -> Result<Epsilon, PrivacyError> {
    check_delta(delta)?;
    mechanisms.iter().try_for_each(SampledGaussian::check)?;
    if mechanisms.iter().all(|each| each.steps == 0) {
        return Ok(Epsilon { pld: 0.0, rdp: 0.0, order: 0.0 });
    }
    let (rdp, order) = rdp::epsilon(mechanisms, delta);
    Ok(Epsilon { pld: pld::epsilon(mechanisms, delta)?, rdp, order })
}
