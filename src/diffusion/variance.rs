//! The variance of the reverse step, fixed or learned.

use super::choice::Choice;
use super::path::Transition;

/// The variance of DDPM's reverse step (Ho et al. 2020, section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variance {
    /// beta-tilde_t: right if x0 is one fixed image; diffusers' `fixed_small`.
    #[default]
    FixedSmall,
    /// beta_t: right if x0 ~ N(0, I); diffusers' `fixed_large`.
    FixedLarge,
    /// Between both, as the network says ([`LearnedVariance`]); diffusers' `learned_range`.
    Learned,
}

impl Choice for Variance {
    const NAMED: &'static [Self] = &Self::ALL;

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::FixedSmall => ("fixed-small", "beta-tilde_t, the posterior's"),
            Self::FixedLarge => ("fixed-large", "beta_t, the forward step's"),
            Self::Learned => ("learned", "Between both, as a network says that was trained with --learned-variance"),
        }
    }
}

impl Variance {
    /// All of them.
    pub const ALL: [Variance; 3] = [Variance::FixedSmall, Variance::FixedLarge, Variance::Learned];

    /// The name of this variance in diffusers' `variance_type`.
    pub fn name(self) -> &'static str {
        match self {
            Variance::FixedSmall => "fixed_small",
            Variance::FixedLarge => "fixed_large",
            Variance::Learned => "learned_range",
        }
    }

    /// The variance of a step, if it is fixed.
    pub fn of(self, transition: Transition) -> Option<f64> {
        match self {
            Variance::FixedSmall => Some(transition.posterior_variance()),
            Variance::FixedLarge => Some(transition.beta()),
            Variance::Learned => None,
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

/// lambda of L_hybrid = L_simple + lambda L_vlb (Nichol & Dhariwal 2021, section 3.1), L_vlb being the sum of all T terms in
/// nats, the mean over dimensions.
pub const HYBRID: f64 = 1e-3;

impl LearnedVariance {
    /// The range of a step. The last one has beta-tilde = 0: `following`, the step before it in sampling order, lends
    /// its own (Nichol & Dhariwal 2021, published code); where there is none it is beta alone.
    pub fn new(transition: Transition, following: Transition) -> LearnedVariance {
        let variances = [transition.posterior_variance(), following.posterior_variance(), transition.beta()];
        let small = variances.into_iter().find(|variance| *variance > 0.0).unwrap_or(0.0);
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
