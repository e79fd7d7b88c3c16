//! The variance of the reverse step, fixed or learned.

use super::Transition;

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
    /// Both.
    pub const ALL: [Variance; 2] = [Variance::FixedSmall, Variance::FixedLarge];

    /// The name of this variance in diffusers' `variance_type`.
    pub fn name(self) -> &'static str {
        match self {
            Variance::FixedSmall => "fixed_small",
            Variance::FixedLarge => "fixed_large",
        }
    }

    /// The variance of a step.
    pub fn of(self, transition: Transition) -> f64 {
        match self {
            Variance::FixedSmall => transition.posterior_variance(),
            Variance::FixedLarge => transition.beta(),
        }
    }
}

/// A variance between beta-tilde_t and beta_t that the network chooses, element by element, by extra output channels in
/// [-1, 1] (Nichol & Dhariwal 2021, eq. 15; diffusers' `learned_range`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedVariance {
    /// log beta-tilde_t, at an output of -1.
    pub log_small: f64,
    /// log beta_t, at an output of 1.
    pub log_large: f64,
}

impl LearnedVariance {
    /// The range of a step. The last one has beta-tilde = 0: `following`, the step before it in sampling order, lends
    /// its own (Nichol & Dhariwal 2021, published code).
    pub fn new(transition: Transition, following: Transition) -> LearnedVariance {
        let small = match transition.posterior_variance() {
            0.0 => following.posterior_variance(),
            variance => variance,
        };
        LearnedVariance { log_small: small.ln(), log_large: transition.beta().ln() }
    }

    /// log of the variance that the output `v` says: v' log beta + (1 - v') log beta-tilde with v' = (v + 1) / 2
    /// (Nichol & Dhariwal 2021, eq. 15).
    pub fn log_variance(&self, v: f64) -> f64 {
        let share = 0.5 * (v + 1.0);
        share * self.log_large + (1.0 - share) * self.log_small
    }

    /// The output that says this log variance: the inverse of [`LearnedVariance::log_variance`].
    pub fn output(&self, log_variance: f64) -> f64 {
        2.0 * (log_variance - self.log_small) / (self.log_large - self.log_small) - 1.0
    }

    /// The derivative of the log variance by the output: the same everywhere.
    pub fn slope(&self) -> f64 {
        0.5 * (self.log_large - self.log_small)
    }

    /// L_{t-1} of one element in nats, KL(N(mean, variance) || N(mean + error, exp(log_variance(v)))), and its
    /// derivative by the output `v` with the mean held: the second term of L_hybrid, whose gradient stops at the mean
    /// (Nichol & Dhariwal 2021, eq. 16 and section 3.1). `error` is the model's mean less the posterior's.
    pub fn kl(&self, variance: f64, error: f64, v: f64) -> (f64, f64) {
        let log_variance = self.log_variance(v);
        let spread = (variance + error * error) * (-log_variance).exp();
        (0.5 * (log_variance - variance.ln() - 1.0 + spread), 0.5 * (1.0 - spread) * self.slope())
    }
}
