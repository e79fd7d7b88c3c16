//! Samplers of a single evaluation a step that need no history: DDPM, DDIM, Euler, Euler ancestral.

use super::path::{Level, Transition};
use super::step::Step;
use super::step::{Estimate, Form};
use super::variance::{LearnedVariance, Variance};

/// Each level with the next: the last is where the last step goes.
pub(super) fn pairs(levels: &[Level]) -> impl Iterator<Item = Transition> {
    levels.windows(2).map(|pair| Transition { from: pair[0], to: pair[1] })
}

/// diffusers' least variance.
const LEAST_VARIANCE: f64 = 1e-20;

/// The posterior mean at x0_hat, and noise (Ho et al. 2020, eq. 6 and 7, Algorithm 2; a learned variance: Nichol & Dhariwal
/// 2021, eq. 15). The last step has no noise, or if it is `noisy` that of x0 given the last level, unless that is timestep 0's:
/// diffusers looks at the timestep.
pub(super) fn ddpm(estimate: Estimate, levels: &[Level], variance: Variance, noisy: bool) -> Vec<Step> {
    let step = |transition: Transition| {
        let (x0, x) = transition.posterior_mean();
        let mean = |noise| estimate.step(transition.from, transition.to, x * Form::X + x0 * Form::X0, noise);
        let ends = transition.to.sigma == 0.0;
        match variance.of(transition) {
            _ if ends && !(noisy && transition.from.timestep > 0.0) => mean(0.0),
            None if ends => {
                let learned = LearnedVariance { log_small: LEAST_VARIANCE.ln(), log_large: transition.beta().ln() };
                Step { learned: Some(learned), ..mean(1.0) }
            }
            Some(variance) => mean(variance.sqrt()),
            None => Step { learned: Some(LearnedVariance::new(transition, transition)), ..mean(1.0) },
        }
    };
    pairs(levels).map(step).collect()
}

/// Song, Meng & Ermon 2020, eq. 12 with sigma_t of eq. 16, whose alpha_t is our alpha_bar_t:
/// x' = alpha' · x0_hat + sqrt(sigma'² - sigma_t²) · eps + sigma_t · z, sigma_t² = eta² · beta-tilde.
///
/// eps is what the clamped x0_hat implies, or if not `clipped` what the output says.
pub(super) fn ddim(
    estimate: Estimate,
    transitions: impl Iterator<Item = Transition>,
    eta: f64,
    clipped: bool,
) -> Vec<Step> {
    let step = |transition: Transition| {
        let Transition { from, to } = transition;
        let variance = eta * eta * transition.posterior_variance();
        // With eta <= 1 beta-tilde is at most sigma'².
        let direction = (to.sigma.powi(2) - variance).max(0.0).sqrt();
        let (p, q) = estimate.prediction.eps(from.alpha, from.sigma);
        let (eps, out) = if clipped { (Form::eps(from), 0.0) } else { (p * Form::X, q) };
        let step = estimate.step(from, to, to.alpha * Form::X0 + direction * eps, variance.sqrt());
        Step { out: direction * out, ..step }
    };
    transitions.map(step).collect()
}

/// Euler's rule on dy/dkappa = eps with y = x / alpha (Karras et al. 2022, Algorithm 1 with a single evaluation): the
/// probability-flow ODE of every schedule (Song et al. 2021, eq. 13).
pub(super) fn euler(estimate: Estimate, levels: &[Level]) -> Vec<Step> {
    let step = |Transition { from, to }: Transition| {
        let y = Form::X * (1.0 / from.alpha) + (to.kappa() - from.kappa()) * Form::eps(from);
        estimate.step(from, to, to.alpha * y, 0.0)
    };
    pairs(levels).map(step).collect()
}

/// Euler's rule down to a kappa below the next level's, then noise up to it: kappa_up = eta · kappa' / kappa ·
/// sqrt(kappa² - kappa'²) and kappa_down² = kappa'² - kappa_up² (Song et al. 2021, appendix F; Crowson's k-diffusion,
/// `sample_euler_ancestral`).
pub(super) fn euler_ancestral(estimate: Estimate, levels: &[Level], eta: f64) -> Vec<Step> {
    let step = |Transition { from, to }: Transition| {
        let (kappa, next) = (from.kappa(), to.kappa());
        let up = eta * next / kappa * (kappa * kappa - next * next).sqrt();
        let down = (next * next - up * up).max(0.0).sqrt();
        let y = Form::X * (1.0 / from.alpha) + (down - kappa) * Form::eps(from);
        estimate.step(from, to, to.alpha * y, to.alpha * up)
    };
    pairs(levels).map(step).collect()
}
