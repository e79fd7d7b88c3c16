//! Samplers: from x_T ~ N(0, I) to x0, as a list of linear steps.

use super::{Error, Prediction, Schedule, Transition};

/// The clip range that means "no clip": finite, so that it survives as f32 in a uniform buffer (WGSL promises nothing
/// about infinities), and as large as an f32 gets.
pub const NO_CLIP: f64 = f32::MAX as f64;

/// The coefficients of one `denoise` dispatch, elementwise over a batch of images:
///
/// ```text
/// x0_hat = clamp(x0_from_x · x_t + x0_from_out · out_t, -clip, clip)
/// x'     = x · x_t + out · out_t + x0 · x0_hat + previous · (x0_hat of the step before) + noise · z
/// ```
///
/// out_t is the network's output at (x_t, `timestep`) and z ~ N(0, I). All coefficients are finite as f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What the network gets as its timestep.
    pub timestep: f64,
    /// Coefficient of x_t.
    pub x: f64,
    /// Coefficient of the network's output.
    pub out: f64,
    /// Coefficient of the clamped estimate of x0.
    pub x0: f64,
    /// Coefficient of x_t in the estimate of x0.
    pub x0_from_x: f64,
    /// Coefficient of the network's output in the estimate of x0.
    pub x0_from_out: f64,
    /// The estimate of x0 is clamped to [-clip, clip]; [`NO_CLIP`] leaves it as it is.
    pub clip: f64,
    /// Coefficient of the clamped estimate of x0 of the step before: 0 for a single-step sampler.
    pub previous: f64,
    /// Standard deviation of the noise that is added: exactly 0 where none is drawn.
    pub noise: f64,
}

impl Step {
    /// One element of the dispatch in f64: (x', x0_hat), given x_t, the network's output, x0_hat of the step before
    /// (any finite number in the first step) and z.
    pub fn apply(&self, x: f64, out: f64, previous: f64, z: f64) -> (f64, f64) {
        let x0 = clamp(self.x0_from_x * x + self.x0_from_out * out, self.clip);
        let next = self.x * x + self.out * out + self.x0 * x0 + self.previous * previous + self.noise * z;
        (next, x0)
    }
}

/// `value` kept within [-range, range]. NaN stays NaN, so that a broken network shows.
fn clamp(value: f64, range: f64) -> f64 {
    if value > range {
        range
    } else if value < -range {
        -range
    } else {
        value
    }
}

/// The variance of DDPM's reverse step (Ho et al. 2020, section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variance {
    /// beta-tilde_t: right if x0 is one fixed image; diffusers' `fixed_small`.
    #[default]
    FixedSmall,
    /// beta_t: right if x0 ~ N(0, I); diffusers' `fixed_large`.
    FixedLarge,
}

impl Variance {
    /// The name of this variance in diffusers' `variance_type`.
    pub fn name(self) -> &'static str {
        match self {
            Variance::FixedSmall => "fixed_small",
            Variance::FixedLarge => "fixed_large",
        }
    }
}

/// Which sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SamplerKind {
    /// Ancestral sampling (Ho et al. 2020, Algorithm 2).
    Ddpm { variance: Variance },
    /// Song, Meng & Ermon 2020, eq. 12. `eta` (eq. 16) scales the noise: 0 is deterministic, 1 as noisy as DDPM.
    Ddim { eta: f64 },
}

/// Which of the schedule's T timesteps are visited when there are fewer steps (Lin et al. 2023, table 2; diffusers'
/// `timestep_spacing` with `steps_offset` 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spacing {
    /// Multiples of floor(T / steps), 0 included; diffusers' default. With few steps the first lies well below T - 1
    /// (1 step: at 0), where x_t isn't N(0, I) yet: the worst then.
    #[default]
    Leading,
    /// From T - 1 to 0, both included, evenly spaced and rounded. A single step is at 0.
    Linspace,
    /// Multiples of T / steps, rounded, less 1: T - 1 included.
    Trailing,
}

impl Spacing {
    /// All of them.
    pub const ALL: [Spacing; 3] = [Spacing::Leading, Spacing::Linspace, Spacing::Trailing];

    /// The name of this spacing in diffusers' `timestep_spacing`.
    pub fn name(self) -> &'static str {
        match self {
            Spacing::Leading => "leading",
            Spacing::Linspace => "linspace",
            Spacing::Trailing => "trailing",
        }
    }

    /// The `steps` visited timesteps out of 0..`total`, strictly descending. An error unless steps is in 1..=total.
    pub fn timesteps(self, steps: usize, total: usize) -> Result<Vec<usize>, Error> {
        if steps == 0 || steps > total {
            return Err(Error::Steps { steps, timesteps: total });
        }
        // Operation for operation what numpy's arange and linspace compute, whose rounding decides the ties. (For
        // some steps that don't divide T, 61 of 1000 say, diffusers' trailing list has an entry too many: -1.)
        let (whole, ratio) = (total as f64, total as f64 / steps as f64);
        let trailing = |i: usize| (whole + i as f64 * ((whole - ratio) - whole)).round_ties_even() as usize - 1;
        let interval = if steps == 1 { 0.0 } else { (total - 1) as f64 / (steps - 1) as f64 };
        Ok(match self {
            Spacing::Leading => (0..steps).rev().map(|i| i * (total / steps)).collect(),
            Spacing::Linspace => (0..steps).rev().map(|i| (i as f64 * interval).round_ties_even() as usize).collect(),
            Spacing::Trailing => (0..steps).map(trailing).collect(),
        })
    }
}

/// A sampler with its settings. Start from [`Sampler::ddpm`] or [`Sampler::ddim`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Which sampler.
    pub kind: SamplerKind,
    /// Number of steps, that is of network evaluations: 1 to T.
    pub steps: usize,
    /// What the network's output is.
    pub prediction: Prediction,
    /// Clamp every estimate of x0 to [-clip, clip]: Some(1) for images in [-1, 1].
    pub clip: Option<f64>,
    /// Which timesteps are visited.
    pub spacing: Spacing,
    /// DDIM: whether eps is what the clamped estimate of x0 implies (diffusers' name; DDPM's formula implies it too), or
    /// what the output says. The second keeps errors that the clamp has just shown: of digits drawn in 50 steps with
    /// eta = 0 by one model (550 training steps) a classifier recognised 22 % so, and 80 % with the first.
    pub use_clipped_model_output: bool,
}

impl Sampler {
    /// DDPM as diffusers has it by default: beta-tilde_t, eps, x0 clamped to [-1, 1], leading.
    pub fn ddpm(steps: usize) -> Sampler {
        let kind = SamplerKind::Ddpm { variance: Variance::FixedSmall };
        let (prediction, spacing) = (Prediction::Eps, Spacing::Leading);
        Sampler { kind, steps, prediction, clip: Some(1.0), spacing, use_clipped_model_output: false }
    }

    /// DDIM: eps, x0 clamped to [-1, 1] and eps with it, leading. diffusers' default does not clamp eps.
    pub fn ddim(steps: usize, eta: f64) -> Sampler {
        Sampler { kind: SamplerKind::Ddim { eta }, use_clipped_model_output: true, ..Sampler::ddpm(steps) }
    }

    /// The steps in the order in which they run, from the noisiest timestep to x0.
    ///
    /// Each goes to the next timestep of the list, the last to x0 (alpha_bar = 1) without noise. So does diffusers'
    /// DDPMScheduler. Its DDIMScheduler goes to t - floor(T / steps) instead: the same with [`Spacing::Leading`], and
    /// with [`Spacing::Trailing`] if steps divides T. Elsewhere that isn't the level at which the next step reads x,
    /// and more steps don't converge: on the mixture of tests/diffusion/gaussians.rs, 600 linspace steps of 1000 leave a
    /// mean error of 0.11, not 0.002.
    pub fn plan(&self, schedule: &Schedule) -> Result<Vec<Step>, Error> {
        self.check()?;
        let timesteps = self.spacing.timesteps(self.steps, schedule.timesteps())?;
        let step = |(i, timestep): (usize, &usize)| {
            let previous = timesteps.get(i + 1).copied();
            self.step(*timestep as f64, schedule.transition(*timestep, previous), previous.is_none())
        };
        Ok(timesteps.iter().enumerate().map(step).collect())
    }

    /// The standard deviation of x_T, the noise that sampling starts from: 1 for every schedule that preserves variance
    /// (Ho et al. 2020, Algorithm 2, line 1).
    pub fn initial_scale(&self, _schedule: &Schedule) -> f64 {
        1.0
    }

    fn check(&self) -> Result<(), Error> {
        match (self.kind, self.clip) {
            (SamplerKind::Ddim { eta }, _) if !(0.0..=1.0).contains(&eta) => Err(Error::Eta(eta)),
            (_, Some(clip)) if !(clip > 0.0 && clip <= NO_CLIP) => Err(Error::Clip(clip)),
            _ => Ok(()),
        }
    }

    fn step(&self, timestep: f64, transition: Transition, last: bool) -> Step {
        let (alpha, sigma) = (transition.alpha_bar.sqrt(), (1.0 - transition.alpha_bar).sqrt());
        let (x0_from_x, x0_from_out) = self.prediction.x0(alpha, sigma);
        let (x, out, x0, noise) = match self.kind {
            SamplerKind::Ddpm { variance } => ddpm(transition, variance),
            SamplerKind::Ddim { eta } => {
                let eps = match self.use_clipped_model_output {
                    true => Eps { x: 1.0 / sigma, out: 0.0, x0: -alpha / sigma },
                    false => {
                        let (x, out) = self.prediction.eps(alpha, sigma);
                        Eps { x, out, x0: 0.0 }
                    }
                };
                ddim(transition, eta, eps)
            }
        };
        let clip = self.clip.unwrap_or(NO_CLIP);
        // Algorithm 2, line 3: z = 0 in the last step. Only beta_t isn't 0 there by itself.
        let noise = if last { 0.0 } else { noise };
        Step { timestep, x, out, x0, x0_from_x, x0_from_out, clip, previous: 0.0, noise }
    }
}

/// (x, out, x0, noise): the posterior mean at x0_hat, and noise (Ho et al. 2020, eq. 6 and 7, Algorithm 2).
fn ddpm(transition: Transition, variance: Variance) -> (f64, f64, f64, f64) {
    let (x0, x) = transition.posterior_mean();
    let variance = match variance {
        Variance::FixedSmall => transition.posterior_variance(),
        Variance::FixedLarge => transition.beta(),
    };
    (x, 0.0, x0, variance.sqrt())
}

/// (x, out, x0, noise) of Song, Meng & Ermon 2020, eq. 12 with sigma_t of eq. 16, whose alpha_t is our alpha_bar_t:
/// x' = sqrt(alpha_bar_previous) · x0_hat + sqrt(1 - alpha_bar_previous - sigma_t²) · eps + sigma_t · z.
///
/// eps is either p · x_t + q · out, or what the clamped x0_hat implies: (x_t - alpha x0_hat) / sigma.
fn ddim(transition: Transition, eta: f64, eps: Eps) -> (f64, f64, f64, f64) {
    let variance = eta * eta * transition.posterior_variance();
    // With eta <= 1 the root is at least that of (1 - alpha_bar_previous)² (1 - beta) / (1 - alpha_bar).
    let direction = (1.0 - transition.alpha_bar_previous - variance).sqrt();
    let x0 = transition.alpha_bar_previous.sqrt() + direction * eps.x0;
    (direction * eps.x, direction * eps.out, x0, variance.sqrt())
}

/// eps as a sum: x · x_t + out · out + x0 · x0_hat.
struct Eps {
    x: f64,
    out: f64,
    x0: f64,
}
