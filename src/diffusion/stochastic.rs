//! Samplers that follow the reverse SDE or Langevin dynamics.

use super::ancestral::pairs;
use super::path::{Level, Path, Transition};
use super::step::Step;
use super::step::{Estimate, Form};

/// Euler and Maruyama's rule on the reverse SDE (Song et al. 2021, eq. 6; appendix E), its drift and diffusion integrated
/// over the step: x' = (1 + F) x + G · score + sqrt(G) z with F = ln(alpha' / alpha), the integral of -f, and G that of
/// g². The last step goes to x0_hat (appendix G: the noise that is left is removed).
pub(super) fn reverse_sde(estimate: Estimate, levels: &[Level], path: Path) -> Vec<Step> {
    pairs(levels).map(|transition| predictor(estimate, transition, path)).collect()
}

fn predictor(estimate: Estimate, Transition { from, to }: Transition, path: Path) -> Step {
    if to.sigma == 0.0 {
        return estimate.last(from);
    }
    let drift = (to.alpha / from.alpha).ln();
    let diffusion = path.diffusion(from.kappa(), to.kappa());
    let form = (1.0 + drift) * Form::X + diffusion * Form::score(from);
    estimate.step(from, to, form, diffusion.sqrt())
}

/// The reverse SDE with `corrections` steps of Langevin dynamics at each level reached: x' = x + e · score + sqrt(2 e) z
/// (Song et al. 2021, Algorithms 2 to 5). Their e = 2 (snr · |z| / |score|)² is here 2 (snr · sigma)²: the norms' ratio
/// is that of their expectations where the network's eps is white, so that a step stays linear.
pub(super) fn predictor_corrector(
    estimate: Estimate,
    levels: &[Level],
    path: Path,
    snr: f64,
    corrections: usize,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for transition in pairs(levels) {
        steps.push(predictor(estimate, transition, path));
        if transition.to.sigma > 0.0 {
            let size = 4.0 * snr * snr;
            steps.extend((0..corrections).map(|_| langevin(estimate, transition.to, size, 1.0, transition.to)));
        }
    }
    steps
}

/// Annealed Langevin dynamics (Song & Ermon 2019, Algorithm 1): `repeats` steps at each level, and at the end the
/// estimate of x0 (Jolicoeur-Martineau et al. 2021, section 3.1). `size` is their epsilon / sigma_L². On schedules that
/// scale the image, x keeps the image's scale from level to level. `temperature` multiplies the noise's variance: at 0
/// it is annealed gradient ascent on the density.
pub(super) fn annealed(estimate: Estimate, levels: &[Level], size: f64, repeats: usize, temperature: f64) -> Vec<Step> {
    let mut steps = Vec::new();
    for Transition { from, to } in pairs(levels) {
        let repeat = |i: usize| {
            let reached = if i + 1 == repeats && to.sigma > 0.0 { to } else { from };
            langevin(estimate, from, size, temperature, reached)
        };
        steps.extend((0..repeats).map(repeat));
    }
    steps.extend(levels.iter().rev().nth(1).map(|level| estimate.last(*level)));
    steps
}

/// x + a / 2 · score + sqrt(temperature · a) z at the level `at`, with a = `size` · sigma² (Song & Ermon 2019, eq. 4),
/// carried over to the scale of the level `to`.
fn langevin(estimate: Estimate, at: Level, size: f64, temperature: f64, to: Level) -> Step {
    let step = size * at.sigma.powi(2);
    let scale = to.alpha / at.alpha;
    let form = Form::X + 0.5 * step * Form::score(at);
    estimate.step(at, to, scale * form, scale * (temperature * step).sqrt())
}
