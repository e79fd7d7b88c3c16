//! Accounting for training under differential privacy: Gaussian noise on sums over Poisson samples, composed over steps.
//!
//! - [`SampledGaussian`]: so many steps with one sampling rate and one noise multiplier. [`epsilon_of`] takes a list of them.
//! - [`rdp`]: Rényi differential privacy, as Opacus and dp-accounting have it. [`pld`]: the privacy loss distribution by FFT, which is
//!   tighter. [`loss`], [`moments`], [`grid`] and [`quadrature`] are what it is made of.
//! - [`noise_for`], [`steps_for`]: what a budget needs, what it allows.
//! - [`truncation`]: what it costs that a batch has only so many places.
//! - [`audit`]: a lower bound, out of guesses which images a run was trained on.
//!
//! Everything else here is an upper bound for add/remove adjacency: data sets that differ by one image, one of them lacking it. Both
//! directions are computed, and the worse counts. docs/privacy.md has the definitions and papers in one place.

mod account;
pub mod audit;
mod error;
pub mod grid;
mod inverse;
pub mod loss;
mod mechanism;
pub mod moments;
pub mod pld;
pub mod quadrature;
pub mod rdp;
pub mod truncation;

pub use account::{Epsilon, epsilon_of};
pub use error::PrivacyError;
pub use inverse::{Noise, noise_for, steps_for};
pub use mechanism::SampledGaussian;
