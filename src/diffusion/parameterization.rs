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
}

impl Prediction {
    /// All of them.
    pub const ALL: [Prediction; 3] = [Prediction::Eps, Prediction::X0, Prediction::V];

    /// The name of this prediction in diffusers' `prediction_type`.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Eps => "epsilon",
            Prediction::X0 => "sample",
            Prediction::V => "v_prediction",
        }
    }

    /// (a, b) of the training target a · x0 + b · eps at the level (alpha, sigma).
    pub fn target(self, alpha: f64, sigma: f64) -> (f64, f64) {
        match self {
            Prediction::Eps => (0.0, 1.0),
            Prediction::X0 => (1.0, 0.0),
            Prediction::V => (-sigma, alpha),
        }
    }

    /// (p, q) of the estimate x0 = p · x_t + q · out that an output implies at the level (alpha, sigma): for eps
    /// Ho et al. 2020, eq. 15; for v Salimans & Ho 2022, section 4.
    ///
    /// Infinite only where x_t and the target say nothing about x0: [`Prediction::Eps`] at alpha = 0.
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
}
