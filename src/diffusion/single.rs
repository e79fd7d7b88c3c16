//! Tables of betas in single precision, operation for operation as diffusers computes them with PyTorch: sigma of the first
//! timesteps is a small difference there, off by up to 3e-4 of itself, and samplers that end near it show that.

use super::schedule::BetaSchedule;

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

/// beta of each timestep; `exact` holds them in double precision.
pub(super) fn betas(schedule: BetaSchedule, exact: &[f64]) -> Vec<f32> {
    let count = exact.len();
    match schedule {
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
