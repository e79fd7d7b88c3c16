//! The mathematics of diffusion on the host: f64, no GPU, nothing but the standard library.
//!
//! A noise level is a pair (alpha, sigma): `x_t = alpha · x0 + sigma · eps` with `eps ~ N(0, I)`.
//!
//! - [`Schedule`] says which level belongs to which timestep.
//! - [`Prediction`] says what the network's output means at a level, and converts it to x0 and eps.
//! - [`Sampler`] turns both into a list of [`Step`]s: the coefficients of one `denoise` dispatch each, so that every
//!   sampler runs on one kernel.
//!
//! Timesteps count from 0 here and in diffusers: timestep t is the paper's t + 1, and x0 lies before timestep 0.
//!
//! Papers cited:
//! - Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models"
//! - Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models"
//! - Song, Meng & Ermon 2020, "Denoising Diffusion Implicit Models"
//! - Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models"
//! - Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed"

pub mod likelihood;
pub mod parameterization;
pub mod sampler;
pub mod schedule;

pub use parameterization::Prediction;
pub use sampler::{NO_CLIP, Sampler, SamplerKind, Spacing, Step, Variance};
pub use schedule::{BetaSchedule, Schedule, Transition};

use std::fmt;

/// A schedule or a sampler that can't be: what was asked for, and what would do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Error {
    /// A schedule of no timesteps.
    NoTimesteps,
    /// The ends of a linear schedule aren't both inside (0, 1).
    Betas { start: f64, end: f64 },
    /// So much noise that from this timestep on alpha_bar is below the smallest normal f32.
    Vanishing { timestep: usize },
    /// More sampling steps than timesteps, or none.
    Steps { steps: usize, timesteps: usize },
    /// DDIM's eta outside [0, 1], or NaN.
    Eta(f64),
    /// A clip range that isn't a positive, finite number.
    Clip(f64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoTimesteps => write!(f, "a noise schedule needs at least 1 timestep"),
            Error::Betas { start, end } => {
                write!(f, "betas from {start} to {end}: both must lie between 0 and 1, neither of them included")
            }
            Error::Vanishing { timestep } => write!(
                f,
                "the noise schedule leaves nothing of the image from timestep {timestep} on: \
                 use fewer timesteps or smaller betas"
            ),
            Error::Steps { steps, timesteps } => {
                write!(f, "{steps} sampling steps: this schedule allows 1 to {timesteps}")
            }
            Error::Eta(eta) => write!(f, "eta {eta}: DDIM takes 0 (deterministic) to 1 (as noisy as DDPM)"),
            Error::Clip(clip) => write!(f, "clip range {clip}: must be a positive number, or off"),
        }
    }
}

impl std::error::Error for Error {}
