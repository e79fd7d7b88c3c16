//! Families of noise levels: how the image's share alpha follows from the ratio kappa = sigma / alpha.
//!
//! kappa alone says how noisy a level is: x / alpha = x0 + kappa · eps, so that kappa is the sigma of Karras et al. 2022,
//! 1 / kappa² is the signal-to-noise ratio (Kingma et al. 2021, eq. 2), and two levels of equal kappa on two paths hold
//! the same image in another scale. A path fixes the scale.

/// sigma_data of Karras et al. 2022, table 1: the standard deviation of the pixels of images in [-1, 1].
pub const DATA_DEVIATION: f64 = 0.5;

/// How images are scaled at each noise level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// alpha² + sigma² = 1: DDPM (Ho et al. 2020, eq. 4) and the VP SDE (Song et al. 2021, eq. 11).
    VariancePreserving,
    /// sigma = 1 - alpha²: the sub-VP SDE (Song et al. 2021, eq. 27 and 29).
    SubVariancePreserving,
    /// alpha = 1: the VE SDE and NCSN (Song et al. 2021, eq. 9).
    VarianceExploding,
    /// alpha = 1 / sqrt(kappa² + sigma_data²): the network's input c_in · (x0 + kappa · eps) of Karras et al. 2022,
    /// eq. 7 and table 1, whose variance is 1.
    Edm,
    /// alpha = 1 - sigma: the straight line of rectified flow (Liu et al. 2023, eq. 1).
    Flow,
}

impl Path {
    /// alpha at the ratio `kappa`, finite and not negative.
    pub fn alpha(self, kappa: f64) -> f64 {
        match self {
            Path::VariancePreserving => 1.0 / kappa.hypot(1.0),
            // The positive root of alpha² + kappa · alpha = 1.
            Path::SubVariancePreserving => 2.0 / (kappa + kappa.hypot(2.0)),
            Path::VarianceExploding => 1.0,
            Path::Edm => 1.0 / kappa.hypot(DATA_DEVIATION),
            Path::Flow => 1.0 / (1.0 + kappa),
        }
    }

    /// ∫ g² dt from the ratio `to` up to the ratio `from`: the noise that the path's SDE adds in between. Of
    /// dx = f x dt + g dw whose marginals are (alpha, sigma), g² dt = alpha² d(kappa²) (Karras et al. 2022, eq. 3 and
    /// appendix B.1; Kingma et al. 2021, appendix I).
    pub fn diffusion(self, from: f64, to: f64) -> f64 {
        let along = |kappa: f64| match self {
            Path::VariancePreserving => (kappa * kappa).ln_1p(),
            Path::SubVariancePreserving => {
                let alpha = self.alpha(kappa);
                -2.0 * alpha.ln() + 0.5 * alpha.powi(4)
            }
            Path::VarianceExploding => kappa * kappa,
            Path::Edm => (kappa * kappa + DATA_DEVIATION * DATA_DEVIATION).ln(),
            Path::Flow => 2.0 * (kappa.ln_1p() + 1.0 / (1.0 + kappa)),
        };
        along(from) - along(to)
    }

    /// The standard deviation of x at a level where little is left of the image: of alpha · x0 + sigma · eps for images
    /// of deviation [`DATA_DEVIATION`], and 1 where the path preserves that variance.
    pub fn deviation(self, alpha: f64, sigma: f64) -> f64 {
        match self {
            Path::VariancePreserving => 1.0,
            _ => (alpha * DATA_DEVIATION).hypot(sigma),
        }
    }
}

/// A noise level: x = alpha · x0 + sigma · eps, eps ~ N(0, I).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// What the network is told; between two of the schedule's timesteps where a sampler goes between them.
    pub timestep: f64,
    /// Factor of x0.
    pub alpha: f64,
    /// Factor of eps.
    pub sigma: f64,
}

impl Level {
    /// x0 itself.
    pub const CLEAN: Level = Level { timestep: 0.0, alpha: 1.0, sigma: 0.0 };

    /// sigma / alpha, the sigma of Karras et al. 2022: 0 at x0.
    pub fn kappa(&self) -> f64 {
        self.sigma / self.alpha
    }

    /// alpha² / sigma², the signal-to-noise ratio (Kingma et al. 2021, eq. 2).
    pub fn snr(&self) -> f64 {
        (self.alpha / self.sigma).powi(2)
    }
}

/// One reverse step between two noise levels, not necessarily neighbours.
///
/// A schedule respaced to fewer timesteps is again one over those alone (Nichol & Dhariwal 2021, eq. 19). For paths that
/// don't preserve variance, Ho et al.'s 1 - beta becomes (alpha_t / alpha_s)², and beta the variance of x_t given x_s
/// (Kingma et al. 2021, eq. 20 to 22, appendix A.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    /// Where the step starts, t.
    pub from: Level,
    /// Where it ends, s < t.
    pub to: Level,
}

impl Transition {
    /// alpha_t / alpha_s.
    pub fn scale(&self) -> f64 {
        self.from.alpha / self.to.alpha
    }

    /// beta of the step: the variance of x_t given x_s, sigma_t² - (alpha_t / alpha_s)² sigma_s² (Ho et al. 2020, eq. 2;
    /// Kingma et al. 2021, eq. 21).
    pub fn beta(&self) -> f64 {
        self.from.sigma.powi(2) - (self.scale() * self.to.sigma).powi(2)
    }

    /// beta-tilde = sigma_s² / sigma_t² · beta, the variance of x_s given x_t and x0 (Ho et al. 2020, eq. 7).
    pub fn posterior_variance(&self) -> f64 {
        (self.to.sigma / self.from.sigma).powi(2) * self.beta()
    }

    /// (c_x0, c_x) of the mean of x_s given x_t and x0: mu-tilde = c_x0 · x0 + c_x · x_t (Ho et al. 2020, eq. 7;
    /// Kingma et al. 2021, eq. 25 and 29).
    pub fn posterior_mean(&self) -> (f64, f64) {
        let variance = self.from.sigma.powi(2);
        (self.to.alpha * self.beta() / variance, self.scale() * self.to.sigma.powi(2) / variance)
    }
}
