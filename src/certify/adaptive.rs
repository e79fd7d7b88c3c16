//! The adaptive pair: whether it keeps its promise, and doesn't overdo it.

use super::mixture::Mixture;
use super::orders::{median_distance, sampler, schedule};
use super::subject::{Check, Subject};
use crate::certify::cloud::Cloud;
use crate::diffusion::{Prediction, SamplerKind};
use crate::random::Random;

/// Errors near the tolerance, and no more evaluations than those take.
pub fn adaptive(subject: &Subject) -> Vec<Check> {
    let mut checks = Vec::new();
    for (tolerance, most) in [(1e-4, 180.0), (1e-8, 330.0)] {
        let kind = SamplerKind::Rk45 { tolerance };
        let program = sampler(kind, 1, Prediction::Eps).program(&schedule()).expect("a tolerance within its range");
        let (error, report) = median_distance(&Mixture::new(2), &program, Prediction::Eps);
        let at = |what: &str| format!("{what} at tolerance {tolerance:e}");
        checks.push(subject.check(at("error, in tolerances,"), error / tolerance, (0.02, 5.0)));
        checks.push(subject.check(at("worst estimate, in tolerances,"), report.worst / tolerance, (0.1, 1.0)));
        checks.push(subject.check(at("evaluations"), report.evaluations as f64, (100.0, most)));
    }
    checks.push(subject.check("order of the estimated error of a step", estimate_order(), (4.5, 5.5)));
    checks
}

/// The error that the pair estimates for a single step is that of its solution of fourth order: of fifth order in the
/// step's length.
fn estimate_order() -> f64 {
    let mixture = Mixture::new(2);
    let worst = |steps: usize| {
        let kind = SamplerKind::Rk45 { tolerance: 1.0 };
        let program = sampler(kind, steps, Prediction::Eps).runge_kutta(&schedule()).expect("a list of levels");
        let mut cloud = Cloud::draw(&mixture, Prediction::Eps, program.start(), 200, Random::new(11));
        let Ok(report) = program.run(&mut cloud);
        report.worst
    };
    (worst(100) / worst(200)).log2()
}
