//! What an accountant can't answer.

/// The least and the largest noise multiplier that is accounted.
pub const NOISE: (f64, f64) = (0.01, 1e6);
/// Steps that are accounted at most: f64 counts them exactly.
pub const MOST_STEPS: u64 = 1 << 53;

/// Each message is one line that says what to do.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum PrivacyError {
    #[error("a sampling rate of {0} is not a chance: it must be above 0 and at most 1 (batch / images)")]
    Sampling(f64),
    #[error("a noise multiplier of {0} can't be accounted: it must be at least {least} and at most {most}", least = NOISE.0, most = NOISE.1)]
    Noise(f64),
    #[error("a delta of {0} is no chance of failure: it must be above 0 and below 1")]
    Delta(f64),
    #[error("a confidence of {0} is no chance: it must be above 0 and below 1, such as 0.95")]
    Confidence(f64),
    #[error("an epsilon of {0} is no budget: it must be above 0 and finite")]
    Epsilon(f64),
    #[error("{0} steps can't be accounted: at most {most}", most = MOST_STEPS)]
    Steps(u64),
    #[error("a delta of {0:e} is below what 64-bit arithmetic can tell for these steps: take a larger one")]
    Precision(f64),
    #[error("no noise multiplier keeps epsilon at {0}: take fewer steps, smaller batches or a larger budget")]
    NoNoise(f64),
}
