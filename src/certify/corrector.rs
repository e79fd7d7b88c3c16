//! The predictor-corrector sampler: on a Gaussian its samples' mean and variance are a product of known factors.

use super::moments::moments;
use super::orders::{GAUSSIAN, sampler};
use super::subject::{Check, Subject};
use crate::diffusion::{Level, Prediction, Schedule, ScheduleKind};

const LEVELS: usize = 60;

/// The exact discrete dynamics on the SDEs of Song et al. 2021.
pub fn corrector(subject: &Subject, snr: f64, corrections: usize) -> Vec<Check> {
    let cases = [
        (ScheduleKind::VP, Prediction::Eps),
        (ScheduleKind::SUB_VP, Prediction::V),
        (ScheduleKind::VE, Prediction::Score),
    ];
    let check = |(kind, prediction): (ScheduleKind, Prediction)| {
        let schedule = Schedule::new(kind, 1000).expect("a schedule of a paper");
        let plan = sampler(subject.kind, LEVELS, prediction).plan(&schedule).expect("settings within their ranges");
        let found = moments(&plan, GAUSSIAN, prediction, GAUSSIAN.at(plan[0].at));
        let levels: Vec<Level> = plan.iter().step_by(1 + corrections).map(|step| step.at).collect();
        let known = closed_form(kind, &levels, snr, corrections);
        let what = format!("mean and variance less the closed form's, {}, {}", kind.name(), prediction.name());
        subject.check(what, (found.0 - known.0).abs() + (found.1 - known.1).abs(), (0.0, 1e-10))
    };
    cases.into_iter().map(check).collect()
}

/// ∫ g² dt between two levels, of the SDEs' own beta and sigma (Song et al. 2021, eq. 9, 11 and 27).
fn diffusion(kind: ScheduleKind, from: Level, to: Level) -> f64 {
    let integral_of_beta = 2.0 * (to.alpha / from.alpha).ln();
    match kind {
        ScheduleKind::Ve { .. } => from.sigma.powi(2) - to.sigma.powi(2),
        // beta (1 - exp(-2 ∫ beta)), and exp(-2 ∫ beta) is alpha to the fourth.
        ScheduleKind::SubVp { .. } => integral_of_beta - 0.5 * (to.alpha.powi(4) - from.alpha.powi(4)),
        _ => integral_of_beta,
    }
}

/// Mean and variance: x - E[x] gets factors, the variance noise.
fn closed_form(kind: ScheduleKind, levels: &[Level], snr: f64, corrections: usize) -> (f64, f64) {
    let (mut mean, mut variance) = GAUSSIAN.at(levels[0]);
    for pair in levels.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let g = diffusion(kind, from, to);
        let truth = GAUSSIAN.at(from);
        // The score is -(x - mean) / variance.
        let (grown, factor) = (1.0 + (to.alpha / from.alpha).ln(), g / truth.1);
        mean = grown * mean - factor * (mean - truth.0);
        variance = (grown - factor).powi(2) * variance + g;
        let truth = GAUSSIAN.at(to);
        let size = 2.0 * (snr * to.sigma).powi(2);
        for _ in 0..corrections {
            mean -= size / truth.1 * (mean - truth.0);
            variance = (1.0 - size / truth.1).powi(2) * variance + 2.0 * size;
        }
    }
    let last = levels[levels.len() - 1];
    let truth = GAUSSIAN.at(last);
    let gain = last.alpha * GAUSSIAN.deviation.powi(2) / truth.1;
    (GAUSSIAN.mean + gain * (mean - truth.0), gain * gain * variance)
}
