//! What a sampler runs on.

use super::step::{Step, Threshold};

/// What a sampler drives: a batch of x with its slots, and a network. The GPU's plans are one; exact scores of known
/// distributions are another.
pub trait Denoiser {
    /// What can go wrong.
    type Error;

    /// Asks the network at (x, `step.at`) and takes the step.
    ///
    /// # Errors
    /// The device's.
    fn evaluate(&mut self, step: &Step) -> Result<(), Self::Error>;

    /// Takes a step that uses neither the network's output nor the estimate of x0.
    ///
    /// # Errors
    /// The device's.
    fn update(&mut self, step: &Step) -> Result<(), Self::Error>;

    /// Puts what `threshold` makes of each image of the slot `from` into the slot `to`; waits for them.
    ///
    /// # Errors
    /// The device's.
    fn threshold(&mut self, threshold: Threshold, from: usize, to: usize) -> Result<(), Self::Error>;

    /// The root mean square of all elements of x; waits for them.
    ///
    /// # Errors
    /// The device's.
    fn rms(&mut self) -> Result<f64, Self::Error>;
}
