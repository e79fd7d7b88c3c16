//! What each timestep counts in the training loss.
//!
//! The loss is weight(t) · |out - target|². Papers state weights on |x0_hat - x0|² or |eps_hat - eps|²; an error of the
//! output becomes one of those by the factor q of [`Prediction::x0`] or [`Prediction::eps`], so a weight w on the error
//! of x0 is w · q² on that of the output.

use super::choice::Choice;
use super::parameterization::Prediction;
use super::path::{DATA_DEVIATION, Level};
use super::schedule::Schedule;
use super::timestep_draw::TimestepDraw;
use super::variance::LearnedVariance;

/// The weight of each timestep.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LossWeight {
    /// 1 on the network's own target (Ho et al. 2020, eq. 14).
    #[default]
    Simple,
    /// T times the weight of L_{t-1} in the variational bound, so that the mean over t is the bound in nats: on the
    /// error of x0, (SNR(t-1) - SNR(t)) / 2 (Ho et al. 2020, eq. 12 with beta-tilde; Kingma et al. 2021, eq. 14). At
    /// t = 0, where beta-tilde is 0, that of t = 1 stands in for it, as in Nichol & Dhariwal 2021, published code.
    Variational,
    /// lambda(t) = sigma² on the error of the score (Song & Ermon 2019, eq. 6; Song et al. 2021, eq. 7).
    SigmaSquared,
    /// min(SNR, gamma) on the error of x0 (Hang et al. 2023, section 3.4).
    MinSnr { gamma: f64 },
    /// 1 / (k + SNR)^gamma on the error of eps (Choi et al. 2022, eq. 8).
    P2 { k: f64, gamma: f64 },
    /// lambda(kappa) = (kappa² + sigma_data²) / (kappa · sigma_data)² on the error of x0, with ln kappa as if drawn from
    /// N(mean, deviation²): the density of the table's timesteps is divided out (Karras et al. 2022, section 5, table 1).
    Edm { mean: f64, deviation: f64 },
}

impl Choice for LossWeight {
    const NAMED: &'static [Self] = &Self::ALL;

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Simple => ("simple", "1 on the target (Ho et al. 2020)"),
            Self::Variational => {
                ("variational", "The variational bound's, L_{t-1} (Ho et al. 2020; Kingma et al. 2021)")
            }
            Self::SigmaSquared => {
                ("sigma2", "sigma squared on the score, denoising score matching's (Song & Ermon 2019)")
            }
            Self::MinSnr { .. } => ("min-snr", "min(SNR, 5) on the image (Hang et al. 2023)"),
            Self::P2 { .. } => ("p2", "1 / (1 + SNR) on the noise (Choi et al. 2022)"),
            Self::Edm { .. } => ("edm", "Karras et al. (2022), with their distribution of noise levels"),
        }
    }
}

impl LossWeight {
    /// Min-SNR with the gamma of Hang et al. 2023, section 4.
    pub const MIN_SNR: LossWeight = LossWeight::MinSnr { gamma: 5.0 };
    /// P2 with the numbers of Choi et al. 2022, section 4.
    pub const P2: LossWeight = LossWeight::P2 { k: 1.0, gamma: 1.0 };
    /// The distribution of Karras et al. 2022, table 1.
    pub const EDM: LossWeight = LossWeight::Edm { mean: -1.2, deviation: 1.2 };
    /// One of each kind, with the papers' settings.
    pub const ALL: [LossWeight; 6] = [
        LossWeight::Simple,
        LossWeight::Variational,
        LossWeight::SigmaSquared,
        LossWeight::MIN_SNR,
        LossWeight::P2,
        LossWeight::EDM,
    ];

    /// The weight of |out - target|² at `timestep`, for a network of target `prediction`. Panics unless the timestep is
    /// below T.
    pub fn at(self, schedule: &Schedule, prediction: Prediction, timestep: usize) -> f64 {
        let level = schedule.level(timestep);
        let of_x0 = prediction.x0(level.alpha, level.sigma).1.powi(2);
        let of_eps = prediction.eps(level.alpha, level.sigma).1.powi(2);
        match self {
            LossWeight::Simple => 1.0,
            LossWeight::Variational => schedule.timesteps() as f64 * bound(schedule, timestep) * of_x0,
            LossWeight::SigmaSquared => {
                let of_score = prediction.score(level.alpha, level.sigma).1.powi(2);
                level.sigma.powi(2) * of_score
            }
            LossWeight::MinSnr { gamma } => level.snr().min(gamma) * of_x0,
            LossWeight::P2 { k, gamma } => of_eps / (k + level.snr()).powf(gamma),
            LossWeight::Edm { mean, deviation } => {
                let kappa = level.kappa();
                let lambda = (kappa.powi(2) + DATA_DEVIATION.powi(2)) / (kappa * DATA_DEVIATION).powi(2);
                let draw = TimestepDraw::LogNormal { mean, deviation };
                draw.ratio(schedule, timestep) * lambda * of_x0
            }
        }
    }
}

/// The weight of the error of x0 in L_{t-1}: that of the posterior's mean over twice its variance.
fn bound(schedule: &Schedule, timestep: usize) -> f64 {
    let transition = schedule.transition(timestep, timestep.checked_sub(1));
    let variance = match timestep {
        0 if schedule.timesteps() > 1 => schedule.posterior_variance(1),
        0 => transition.beta(),
        _ => transition.posterior_variance(),
    };
    transition.posterior_mean().0.powi(2) / (2.0 * variance)
}

impl Schedule {
    /// What the GPU needs to make a training pair, one row a timestep:
    /// `[alpha, sigma, target_x0, target_eps, loss_weight, log_small, log_ratio, mean_error]`, with
    /// `x_t = alpha · x0 + sigma · eps` and `target = target_x0 · x0 + target_eps · eps`. The last three are for a learned
    /// variance (Nichol & Dhariwal 2021, eq. 15): log of its lower end, of its upper end over the lower, and what the square
    /// error of the output adds to the KL divergence of L_{t-1}, as a multiple of beta-tilde_t. At timestep 0 the range is
    /// that of x0, the decoder's.
    pub fn training_table(&self, prediction: Prediction, weight: LossWeight) -> Vec<[f32; 8]> {
        let row = |t: usize| {
            let Level { alpha, sigma, .. } = self.level(t);
            let (target_x0, target_eps) = prediction.target(alpha, sigma);
            let loss_weight = weight.at(self, prediction, t);
            let LearnedVariance { log_small, log_large } = self.learned_variance(t);
            let of_mean = self.transition_from(t).posterior_mean().0 * prediction.x0(alpha, sigma).1;
            let mean_error = of_mean * of_mean / log_small.exp();
            let log_ratio = log_large - log_small;
            // The scale of x is alpha times that of x0.
            let log_small = if t == 0 { log_small - 2.0 * alpha.ln() } else { log_small };
            [alpha, sigma, target_x0, target_eps, loss_weight, log_small, log_ratio, mean_error]
                .map(|value| value as f32)
        };
        (0..self.timesteps()).map(row).collect()
    }
}
