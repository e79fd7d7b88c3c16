//! Discrete noise schedules of DDPM: for every timestep t, beta_t and the level (alpha, sigma) of
//! `x_t = sqrt(alpha_bar_t) · x0 + sqrt(1 - alpha_bar_t) · eps` (Ho et al. 2020, eq. 4).

use super::{Error, Prediction};
use std::f64::consts::FRAC_PI_2;

/// How beta_t, the variance of the noise that timestep t adds (Ho et al. 2020, eq. 2), runs over the timesteps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BetaSchedule {
    /// beta from `start` at timestep 0 to `end` at the last, evenly spaced. Ho et al. 2020, section 4: 1e-4 to 0.02.
    Linear { start: f64, end: f64 },
    /// alpha_bar(u) = cos²((u + 0.008) / 1.008 · π/2) over u in [0, 1], beta at most 0.999.
    /// Nichol & Dhariwal 2021, eq. 17.
    Cosine,
}

impl BetaSchedule {
    /// The linear schedule with the ends of Ho et al. 2020, section 4.
    pub const HO: BetaSchedule = BetaSchedule::Linear { start: 1e-4, end: 0.02 };

    /// The name of this schedule in diffusers' `beta_schedule`.
    pub fn name(self) -> &'static str {
        match self {
            BetaSchedule::Linear { .. } => "linear",
            BetaSchedule::Cosine => "squaredcos_cap_v2",
        }
    }

    /// beta of each of `timesteps` timesteps.
    fn betas(self, timesteps: usize) -> Vec<f64> {
        let beta = |t: usize| match self {
            BetaSchedule::Linear { start, .. } if timesteps == 1 => start,
            BetaSchedule::Linear { start, end } => start + (end - start) * t as f64 / (timesteps - 1) as f64,
            BetaSchedule::Cosine => {
                let alpha_bar = |t: usize| ((t as f64 / timesteps as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
                // Without the cap the last beta is 1: a division by zero in every sampler (below eq. 17).
                (1.0 - alpha_bar(t + 1) / alpha_bar(t)).min(0.999)
            }
        };
        (0..timesteps).map(beta).collect()
    }
}

/// A table of beta_t and alpha_bar_t = Π_{s <= t} (1 - beta_s) for t in 0..T (Ho et al. 2020, eq. 4).
///
/// Every alpha_bar lies strictly between 0 and 1, so alpha, sigma and their quotients are finite and not zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    kind: BetaSchedule,
    betas: Vec<f64>,
    alpha_bars: Vec<f64>,
}

impl Schedule {
    /// The table of `kind` over T = `timesteps` timesteps. An error if there is none, if a beta isn't inside (0, 1), or
    /// if alpha_bar gets too small for the GPU's f32.
    pub fn new(kind: BetaSchedule, timesteps: usize) -> Result<Schedule, Error> {
        if timesteps == 0 {
            return Err(Error::NoTimesteps);
        }
        if let BetaSchedule::Linear { start, end } = kind
            // A beta that f64 can't tell from 0 would leave alpha_bar at 1, and sigma at 0.
            && ![start, end].iter().all(|beta| *beta > f64::EPSILON && *beta < 1.0)
        {
            return Err(Error::Betas { start, end });
        }
        let betas = kind.betas(timesteps);
        let alpha_bars: Vec<f64> = betas
            .iter()
            .scan(1.0, |alpha_bar, beta| {
                *alpha_bar *= 1.0 - beta;
                Some(*alpha_bar)
            })
            .collect();
        match alpha_bars.iter().position(|alpha_bar| *alpha_bar < f64::from(f32::MIN_POSITIVE)) {
            Some(timestep) => Err(Error::Vanishing { timestep }),
            None => Ok(Schedule { kind, betas, alpha_bars }),
        }
    }

    /// What the table was made from.
    pub fn kind(&self) -> BetaSchedule {
        self.kind
    }

    /// T, the number of timesteps.
    pub fn timesteps(&self) -> usize {
        self.betas.len()
    }

    /// beta_t for t in 0..T.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// alpha_bar_t for t in 0..T.
    pub fn alpha_bars(&self) -> &[f64] {
        &self.alpha_bars
    }

    /// alpha_bar_t, the share of x0 in the variance of x_t (Ho et al. 2020, eq. 4). Panics unless t < T.
    pub fn alpha_bar(&self, timestep: usize) -> f64 {
        self.alpha_bars[timestep]
    }

    /// sqrt(alpha_bar_t), the factor of x0 in x_t (Ho et al. 2020, eq. 4). Panics unless t < T.
    pub fn alpha(&self, timestep: usize) -> f64 {
        self.alpha_bar(timestep).sqrt()
    }

    /// sqrt(1 - alpha_bar_t), the factor of eps in x_t (Ho et al. 2020, eq. 4). Panics unless t < T.
    pub fn sigma(&self, timestep: usize) -> f64 {
        (1.0 - self.alpha_bar(timestep)).sqrt()
    }

    /// beta-tilde_t, the variance of x_{t-1} given x_t and x0 (Ho et al. 2020, eq. 7); 0 at t = 0. Panics unless t < T.
    pub fn posterior_variance(&self, timestep: usize) -> f64 {
        self.transition(timestep, timestep.checked_sub(1)).posterior_variance()
    }

    /// The reverse step from `timestep` to an earlier one; `None` stands for x0 itself. Panics unless both are < T.
    pub fn transition(&self, timestep: usize, previous: Option<usize>) -> Transition {
        Transition {
            alpha_bar: self.alpha_bar(timestep),
            alpha_bar_previous: previous.map_or(1.0, |t| self.alpha_bar(t)),
        }
    }

    /// What the GPU needs to make a training pair, one row a timestep:
    /// `[alpha, sigma, target_x0, target_eps, loss_weight, 0, 0, 0]`, with
    /// `x_t = alpha · x0 + sigma · eps` and `target = target_x0 · x0 + target_eps · eps`.
    ///
    /// The loss weight is 1: the simple loss of Ho et al. 2020, eq. 14.
    pub fn training_table(&self, prediction: Prediction) -> Vec<[f32; 8]> {
        let row = |t: usize| {
            let (alpha, sigma) = (self.alpha(t), self.sigma(t));
            let (target_x0, target_eps) = prediction.target(alpha, sigma);
            let loss_weight = 1.0;
            [alpha, sigma, target_x0, target_eps, loss_weight, 0.0, 0.0, 0.0].map(|value| value as f32)
        };
        (0..self.timesteps()).map(row).collect()
    }
}

/// One reverse step between two levels of a schedule, not necessarily neighbours.
///
/// A schedule respaced to fewer timesteps is again a DDPM over those alone, with
/// beta = 1 - alpha_bar / alpha_bar_previous (Nichol & Dhariwal 2021, eq. 19); so the formulas of Ho et al. 2020 hold
/// with this beta.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    /// alpha_bar where the step starts.
    pub alpha_bar: f64,
    /// alpha_bar where it ends; 1 if it ends at x0.
    pub alpha_bar_previous: f64,
}

impl Transition {
    /// beta of the step: the variance of the noise that the forward process adds over it.
    pub fn beta(&self) -> f64 {
        1.0 - self.alpha_bar / self.alpha_bar_previous
    }

    /// beta-tilde = (1 - alpha_bar_previous) / (1 - alpha_bar) · beta, the variance of x_{t-1} given x_t and x0
    /// (Ho et al. 2020, eq. 7).
    pub fn posterior_variance(&self) -> f64 {
        (1.0 - self.alpha_bar_previous) / (1.0 - self.alpha_bar) * self.beta()
    }

    /// (c_x0, c_x) of the mean of x_{t-1} given x_t and x0: mu-tilde = c_x0 · x0 + c_x · x_t (Ho et al. 2020, eq. 7).
    pub fn posterior_mean(&self) -> (f64, f64) {
        let noise = 1.0 - self.alpha_bar;
        let x0 = self.alpha_bar_previous.sqrt() * self.beta() / noise;
        let x = (self.alpha_bar / self.alpha_bar_previous).sqrt() * (1.0 - self.alpha_bar_previous) / noise;
        (x0, x)
    }
}
