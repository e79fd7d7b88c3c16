//! What the network's output means, and the way from it to x0 and eps.
//!
//! A target is a mixture of x0 and eps. Together with x_t, another one, it gives two equations
//!
//! ```text
//! x_t = alpha · x0 + sigma · eps
//! out = a · x0     + b · eps          (a, b) = target(alpha, sigma)
//! ```
//!
//! whose solution, with det = alpha · b - sigma · a, is
//!
//! ```text
//! x0  = ( b · x_t - sigma · out) / det
//! eps = (-a · x_t + alpha · out) / det
//! ```
//!
//! so a new parameterization is one line: its `target`.

use super::choice::Choice;
use super::path::DATA_DEVIATION;

/// What the network is trained to put out, given x_t.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prediction {
    /// The noise eps (Ho et al. 2020, eq. 12 and 14).
    #[default]
    Eps,
    /// The image x0 (Ho et al. 2020, section 3.2; Salimans & Ho 2022, section 4).
    X0,
    /// The velocity v = alpha · eps - sigma · x0 (Salimans & Ho 2022, section 4).
    V,
    /// The score of x_t given x0, -eps / sigma (Vincent 2011, eq. 9; Song & Ermon 2019, eq. 5).
    Score,
    /// F of the preconditioned denoiser D = c_skip · y + c_out · F with y = x_t / alpha and sigma_data = 1/2
    /// (Karras et al. 2022, eq. 7 and 8, table 1).
    Edm,
    /// The velocity eps - x0 of the straight line from x0 to eps (Liu et al. 2023, eq. 1).
    Flow,
}

impl Choice for Prediction {
    const NAMED: &'static [Self] = &Self::ALL;

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Eps => ("epsilon", "The noise"),
            Self::X0 => ("x0", "The image"),
            Self::V => ("v", "alpha eps - sigma x0 (Salimans & Ho 2022)"),
            Self::Score => ("score", "-eps / sigma (Song & Ermon 2019)"),
            Self::Edm => ("edm", "F of the preconditioned denoiser (Karras et al. 2022)"),
            Self::Flow => ("flow", "eps - x0 (Liu et al. 2023)"),
        }
    }

    fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::Eps => &["eps", "noise"],
            Self::X0 => &["sample"],
            Self::V => &["v_prediction", "v-prediction"],
            _ => &[],
        }
    }
}

impl Prediction {
    /// All of them.
    pub const ALL: [Prediction; 6] =
        [Prediction::Eps, Prediction::X0, Prediction::V, Prediction::Score, Prediction::Edm, Prediction::Flow];

    /// The name of this prediction in diffusers' `prediction_type`, where it has one.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Eps => "epsilon",
            Prediction::X0 => "sample",
            Prediction::V => "v_prediction",
            Prediction::Score => "score",
            Prediction::Edm => "edm",
            Prediction::Flow => "flow_prediction",
        }
    }

    /// (a, b) of the training target a · x0 + b · eps at the level (alpha, sigma).
    pub fn target(self, alpha: f64, sigma: f64) -> (f64, f64) {
        match self {
            Prediction::Eps => (0.0, 1.0),
            Prediction::X0 => (1.0, 0.0),
            Prediction::V => (-sigma, alpha),
            Prediction::Score => (0.0, -1.0 / sigma),
            Prediction::Edm => {
                // (x0 - c_skip · y) / c_out for y = x0 + kappa · eps, multiplied by alpha above and below.
                let root = (alpha * DATA_DEVIATION).hypot(sigma);
                (sigma / (DATA_DEVIATION * root), -DATA_DEVIATION * alpha / root)
            }
            Prediction::Flow => (-1.0, 1.0),
        }
    }

    /// (p, q) of the estimate x0 = p · x_t + q · out that an output implies at the level (alpha, sigma): for eps
    /// Ho et al. 2020, eq. 15; for v Salimans & Ho 2022, section 4; for the score Tweedie's formula (Efron 2011, eq. 1.4).
    ///
    /// Infinite only where x_t and the target say nothing about x0: [`Prediction::Eps`] and [`Prediction::Score`] at
    /// alpha = 0.
    pub fn x0(self, alpha: f64, sigma: f64) -> (f64, f64) {
        let (a, b) = self.target(alpha, sigma);
        let det = alpha * b - sigma * a;
        (b / det, -sigma / det)
    }

    /// (p, q) of the estimate eps = p · x_t + q · out that an output implies at the level (alpha, sigma).
    ///
    /// Infinite only where x_t and the target say nothing about eps: [`Prediction::X0`] at sigma = 0.
    pub fn eps(self, alpha: f64, sigma: f64) -> (f64, f64) {
        let (a, b) = self.target(alpha, sigma);
        let det = alpha * b - sigma * a;
        (-a / det, alpha / det)
    }

    /// (p, q) of the score of x_t that an output implies, -eps / sigma (Song et al. 2021, eq. 7). Needs sigma > 0.
    pub fn score(self, alpha: f64, sigma: f64) -> (f64, f64) {
        let (p, q) = self.eps(alpha, sigma);
        (-p / sigma, -q / sigma)
    }

    /// (p, q) of what a network of target `wanted` would put out, p · x_t + q · out, where this one puts out `out`.
    pub fn to(self, wanted: Prediction, alpha: f64, sigma: f64) -> (f64, f64) {
        let (a, b) = wanted.target(alpha, sigma);
        let (x0, eps) = (self.x0(alpha, sigma), self.eps(alpha, sigma));
        (a * x0.0 + b * eps.0, a * x0.1 + b * eps.1)
    }
}
