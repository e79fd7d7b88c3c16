//! Tables of betas, in double precision, and in single precision operation for operation as diffusers computes them with
//! PyTorch: sigma of the first timesteps is a small difference there, off by up to 3e-4 of itself, and samplers that end near
//! it show that.

use std::f64::consts::FRAC_PI_2;

/// How beta_t, the variance of the noise that timestep t adds (Ho et al. 2020, eq. 2), runs over the timesteps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BetaSchedule {
    /// beta from `start` at timestep 0 to `end` at the last, evenly spaced. Ho et al. 2020, section 4: 1e-4 to 0.02.
    Linear { start: f64, end: f64 },
    /// The square root of beta evenly spaced (Rombach et al. 2022, published code: 0.00085 to 0.012).
    ScaledLinear { start: f64, end: f64 },
    /// alpha_bar(u) = cos²((u + 0.008) / 1.008 · π/2) over u in [0, 1], beta at most 0.999.
    /// Nichol & Dhariwal 2021, eq. 17.
    Cosine,
    /// beta = start + (end - start) / (1 + exp(-u)) over u in [-6, 6]: Xu et al. 2022 (GeoDiff), published code.
    Sigmoid { start: f64, end: f64 },
    /// alpha_bar(u) = sqrt(snr / (1 + snr)) with ln snr = -sign(1/2 - u) ln(1 - 2 |1/2 - u| + 1e-6) / 2, beta at most 0.999:
    /// the noise levels of Hang & Gu 2024, eq. 8, as diffusers has them.
    Laplace,
    /// alpha_bar(u) = exp(-12 u), beta at most 0.999: diffusers' `exp`.
    Exponential,
    /// A table of its own: [`super::Schedule::in_single_precision`].
    Trained,
}

impl BetaSchedule {
    /// The linear schedule with the ends of Ho et al. 2020, section 4.
    pub const HO: BetaSchedule = BetaSchedule::Linear { start: 1e-4, end: 0.02 };

    /// All of them, those with a choice of ends from `start` to `end`.
    pub fn all(start: f64, end: f64) -> [BetaSchedule; 6] {
        let (linear, scaled) = (BetaSchedule::Linear { start, end }, BetaSchedule::ScaledLinear { start, end });
        let (cosine, sigmoid) = (BetaSchedule::Cosine, BetaSchedule::Sigmoid { start, end });
        [linear, scaled, cosine, sigmoid, BetaSchedule::Laplace, BetaSchedule::Exponential]
    }

    /// The name of this schedule in diffusers' `beta_schedule`.
    pub fn name(self) -> &'static str {
        match self {
            BetaSchedule::Linear { .. } => "linear",
            BetaSchedule::ScaledLinear { .. } => "scaled_linear",
            BetaSchedule::Cosine => "squaredcos_cap_v2",
            BetaSchedule::Sigmoid { .. } => "sigmoid",
            BetaSchedule::Laplace => "laplace",
            BetaSchedule::Exponential => "exp",
            BetaSchedule::Trained => "trained_betas",
        }
    }

    /// The first and the last beta, if they are a matter of choice.
    pub fn ends(self) -> Option<(f64, f64)> {
        match self {
            BetaSchedule::Linear { start, end }
            | BetaSchedule::ScaledLinear { start, end }
            | BetaSchedule::Sigmoid { start, end } => Some((start, end)),
            BetaSchedule::Cosine | BetaSchedule::Laplace | BetaSchedule::Exponential | BetaSchedule::Trained => None,
        }
    }

    /// alpha_bar at u in [0, 1], of those schedules that are a function of it.
    fn alpha_bar(self, u: f64) -> f64 {
        match self {
            BetaSchedule::Laplace => {
                let log_snr = -0.5 * (0.5 - u).signum() * (1.0 - 2.0 * (0.5 - u).abs() + 1e-6).ln();
                (1.0 / (1.0 + (-log_snr).exp())).sqrt()
            }
            BetaSchedule::Exponential => (-12.0 * u).exp(),
            _ => ((u + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2),
        }
    }

    /// beta of each of `timesteps` timesteps.
    pub(super) fn betas(self, timesteps: usize) -> Vec<f64> {
        let last = (timesteps - 1).max(1) as f64;
        let between = |(start, end): (f64, f64), t: usize| start + (end - start) * t as f64 / last;
        let beta = |t: usize| match self {
            BetaSchedule::Linear { start, end } => between((start, end), t),
            BetaSchedule::ScaledLinear { start, end } => between((start.sqrt(), end.sqrt()), t).powi(2),
            BetaSchedule::Sigmoid { start, end } => start + (end - start) / (1.0 + (-between((-6.0, 6.0), t)).exp()),
            BetaSchedule::Cosine | BetaSchedule::Laplace | BetaSchedule::Exponential => {
                let alpha_bar = |t: usize| self.alpha_bar(t as f64 / timesteps as f64);
                // Without the cap the last beta is 1: a division by zero in every sampler (below eq. 17).
                (1.0 - alpha_bar(t + 1) / alpha_bar(t)).min(0.999)
            }
            BetaSchedule::Trained => unreachable!("has its table"),
        };
        (0..timesteps).map(beta).collect()
    }

    /// beta of each timestep as diffusers computes it in single precision; `exact` holds them in double precision.
    pub(super) fn in_single_precision(self, exact: &[f64]) -> Vec<f32> {
        let count = exact.len();
        match self {
            BetaSchedule::Linear { start, end } => evenly(start, end, count),
            BetaSchedule::ScaledLinear { start, end } => {
                evenly(start.sqrt(), end.sqrt(), count).into_iter().map(|root| root * root).collect()
            }
            BetaSchedule::Sigmoid { start, end } => {
                let sigmoid = |u: f32| 1.0 / (1.0 + (-u).exp());
                let between = |u: f32| sigmoid(u) * (end - start) as f32 + start as f32;
                evenly(-6.0, 6.0, count).into_iter().map(between).collect()
            }
            _ => exact.iter().map(|beta| *beta as f32).collect(),
        }
    }
}

/// `count` numbers from `start` to `end`, evenly spaced, counted from the nearer end.
fn evenly(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (count - 1).max(1) as f32;
    let at = |i: usize| match i < count / 2 {
        true => step.mul_add(i as f32, start),
        false => (-step).mul_add((count - 1 - i) as f32, end),
    };
    if count == 1 { vec![start] } else { (0..count).map(at).collect() }
}

/// alpha_bar of each timestep: the products are carried along in double precision, and rounded.
pub(super) fn alpha_bars(betas: &[f32]) -> Vec<f32> {
    let next = |product: &mut f64, beta: &f32| {
        *product *= (1.0 - beta) as f64;
        Some(*product as f32)
    };
    betas.iter().scan(1.0, next).collect()
}

/// betas that leave nothing of the image at the last timestep: sqrt(alpha_bar) shifted to 0 there, and scaled so that the
/// first stays (Lin et al. 2023, Algorithm 1).
pub(super) fn without_terminal_signal(betas: &[f32]) -> Vec<f32> {
    let mut roots: Vec<f32> = alpha_bars(betas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    roots.iter_mut().for_each(|root| *root = (*root - last) * scale);
    let squares: Vec<f32> = roots.into_iter().map(|root| root * root).collect();
    let ratios = squares.windows(2).map(|pair| pair[1] / pair[0]);
    std::iter::once(squares[0]).chain(ratios).map(|alpha| 1.0 - alpha).collect()
}
