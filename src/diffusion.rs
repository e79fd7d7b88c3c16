//! The mathematics of diffusion on the host: f64, no GPU, nothing but the standard library.
//!
//! A noise level is a pair (alpha, sigma): `x_t = alpha · x0 + sigma · eps` with `eps ~ N(0, I)`. Their ratio
//! kappa = sigma / alpha alone says how noisy it is; the [`Path`] says how the image is scaled there.
//!
//! - [`Schedule`] says which level belongs to which timestep.
//! - [`Prediction`] says what the network's output means at a level, and converts it to x0, eps and the score.
//! - [`LossWeight`] says what each timestep counts in training, [`TimestepDraw`] how often it is drawn, [`LearnedVariance`] what a network says of the variance.
//! - [`Sampler`] turns schedule and prediction into a [`Program`]: a list of [`Step`]s, the coefficients of one `denoise`
//!   dispatch each, or a rule that finds them. It drives any [`Denoiser`]: every sampler runs on one kernel, and on
//!   distributions whose score is known by the same code.
//!
//! Timesteps count from 0 here and in diffusers: timestep t is the paper's t + 1, and x0 lies before timestep 0.
//!
//! Papers cited:
//! - Dormand & Prince 1980, "A family of embedded Runge-Kutta formulae"
//! - Vincent 2011, "A Connection Between Score Matching and Denoising Autoencoders"
//! - Efron 2011, "Tweedie's Formula and Selection Bias"
//! - Song & Ermon 2019, "Generative Modeling by Estimating Gradients of the Data Distribution"
//! - Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models"
//! - Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models"
//! - Song, Meng & Ermon 2020, "Denoising Diffusion Implicit Models"
//! - Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations"
//! - Kingma et al. 2021, "Variational Diffusion Models"
//! - Jolicoeur-Martineau et al. 2021, "Adversarial score matching and improved sampling for image generation"
//! - Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models"
//! - Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models"
//! - Lu et al. 2022b, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models"
//! - Choi et al. 2022, "Perception Prioritized Training of Diffusion Models"
//! - Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models"
//! - Xu et al. 2022, "GeoDiff: a Geometric Diffusion Model for Molecular Conformation Generation"
//! - Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations"
//! - Blattmann et al. 2023, "Stable Video Diffusion: Scaling Latent Video Diffusion Models to Large Datasets"
//! - Liu et al. 2023, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow"
//! - Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models"
//! - Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"
//! - Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding"
//! - Lee et al. 2024, "Beta Sampling is All You Need: Efficient Image Generation Strategy for Diffusion Models using Stepwise
//!   Spectral Analysis"
//! - Hang & Gu 2024, "Improved Noise Schedule for Diffusion Training"
//! - Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed"

mod ancestral;
pub mod betas;
mod choice;
pub mod denoiser;
mod error;
pub mod likelihood;
mod multistep;
pub mod parameterization;
pub mod path;
pub mod program;
mod runge_kutta;
pub mod sampler;
pub mod schedule;
pub mod spacing;
pub mod step;
mod stochastic;
pub mod timestep_draw;
pub mod variance;
pub mod weight;

pub use betas::BetaSchedule;
pub use choice::Choice;
pub use denoiser::Denoiser;
pub use error::Error;
pub use multistep::{Churn, Solver};
pub use parameterization::Prediction;
pub use path::{DATA_DEVIATION, Level, Path, Transition};
pub use program::Program;
pub use runge_kutta::{Report, RungeKutta};
pub use sampler::{Sampler, SamplerKind};
pub use schedule::{Schedule, ScheduleKind};
pub use spacing::{Discretization, End, Run, Sigmas, Spacing, Told};
pub use step::{NO_CLIP, SLOTS, Step, Threshold};
pub use timestep_draw::TimestepDraw;
pub use variance::{HYBRID, LearnedVariance, Variance};
pub use weight::LossWeight;
