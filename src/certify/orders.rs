//! Orders of convergence.

use super::cloud::{Cloud, follow_ode};
use super::mixture::Mixture;
use super::moments::{Gaussian, moments};
use super::subject::{Check, Subject};
use crate::diffusion::{Level, Prediction, Program, Report, Sampler, SamplerKind, Schedule, ScheduleKind, Spacing};
use crate::random::Random;

/// The Gaussian whose samples' mean and variance are followed.
pub(super) const GAUSSIAN: Gaussian = Gaussian { mean: 0.7, deviation: 0.4 };
/// Samples that are followed one by one.
const FOLLOWED: usize = 15;
/// How far a measured order may lie from the theoretical one.
const BAND: f64 = 0.25;
/// How far it may lie above it for the pair of fifth order, which is better than that as long as steps are large enough
/// for f64 to tell, and for the predictor-corrector, whose two errors have opposite signs. Both have checks of their own.
const WIDE_BAND: f64 = 1.5;

/// A sampler that doesn't clip, through any number of levels.
pub(super) fn sampler(kind: SamplerKind, steps: usize, prediction: Prediction) -> Sampler {
    Sampler { clip: None, spacing: Spacing::Karras, prediction, ..Sampler::new(kind, steps) }
}

/// The schedule on which samples are followed.
pub(super) fn schedule() -> Schedule {
    of(ScheduleKind::VP)
}

fn of(kind: ScheduleKind) -> Schedule {
    Schedule::new(kind, 1000).expect("a schedule of a paper")
}

/// Where a program's last evaluation lies.
fn last_level(program: &Program) -> Level {
    match program {
        Program::Steps(steps) => steps[steps.len() - 1].at,
        Program::Adaptive(runge_kutta) => runge_kutta.end(),
    }
}

/// How fast what a sampler gives approaches its limit, in the number of steps: the samples themselves in 1, 2 and 16
/// dimensions if it is deterministic, their mean and variance on every schedule.
pub fn orders(subject: &Subject) -> Vec<Check> {
    let kind = subject.kind;
    let mut checks = Vec::new();
    if kind.is_deterministic() {
        for (dimensions, prediction) in [(1, Prediction::Eps), (2, Prediction::V), (16, Prediction::Flow)] {
            let what = format!("order of the samples in {dimensions}-d");
            checks.push(order(subject, what, |steps| error_of_samples(kind, steps, dimensions, prediction, 1.0)));
        }
        if !matches!(kind, SamplerKind::Rk45 { .. }) {
            // Where kappa is large the ODE is so simple that it hides what a first step does wrong.
            let what = "order of the samples in 2-d, from the middle of the way";
            checks.push(order(subject, what.into(), |steps| error_of_samples(kind, steps, 2, Prediction::X0, 0.4)));
        }
    }
    if !matches!(kind, SamplerKind::Rk45 { .. }) {
        for (index, schedule_kind) in ScheduleKind::ALL.into_iter().enumerate() {
            let (schedule, prediction) = (of(schedule_kind), Prediction::ALL[index % Prediction::ALL.len()]);
            // Some samplers don't take rectified flow.
            if sampler(kind, 1, prediction).program(&schedule).is_ok() {
                let what = format!("order of mean and variance, {}, {}", schedule_kind.name(), prediction.name());
                checks.push(order(subject, what, |steps| error_of_moments(kind, steps, &schedule, prediction)));
            }
        }
    }
    checks
}

/// The order that the errors of two numbers of steps show: log2 of their ratio, one being twice the other.
fn order(subject: &Subject, what: String, error: impl Fn(usize) -> f64) -> Check {
    let high = subject.kind.order() > 3;
    let steps = if high { 48 } else { 400 };
    let wide = high || matches!(subject.kind, SamplerKind::PredictorCorrector { .. });
    let measured = (error(steps) / error(2 * steps)).log2();
    let theory = subject.kind.order() as f64;
    subject.check(what, measured, (theory - BAND, theory + if wide { WIDE_BAND } else { BAND }))
}

/// Median distance of samples from where the ODE would have taken them.
fn error_of_samples(kind: SamplerKind, steps: usize, dimensions: usize, prediction: Prediction, strength: f64) -> f64 {
    let sampler = Sampler { strength, ..sampler(kind, steps, prediction) };
    let program = match kind {
        SamplerKind::Rk45 { .. } => sampler.runge_kutta(&schedule()),
        _ => sampler.program(&schedule()),
    };
    median_distance(&Mixture::new(dimensions), &program.expect("the papers' settings"), prediction).0
}

/// Median distance of a deterministic program's samples from where the ODE takes them, and what it took.
pub(super) fn median_distance(mixture: &Mixture, program: &Program, prediction: Prediction) -> (f64, Report) {
    let start = program.start();
    let mut cloud = Cloud::draw(mixture, prediction, start, FOLLOWED, Random::new(5));
    let y: Vec<f64> = cloud.x.iter().map(|x| x / start.alpha).collect();
    let truth = follow_ode(mixture, &y, start.kappa(), last_level(program).kappa());
    let Ok(report) = program.run(&mut cloud);
    let dimensions = mixture.dimensions();
    let pairs = cloud.x.chunks_exact(dimensions).zip(truth.chunks_exact(dimensions));
    let distance =
        |(x, truth): (&[f64], &[f64])| x.iter().zip(truth).map(|(x, truth)| (x - truth).powi(2)).sum::<f64>().sqrt();
    let mut distances: Vec<f64> = pairs.map(distance).collect();
    distances.sort_unstable_by(f64::total_cmp);
    (distances[FOLLOWED / 2], report)
}

/// Distance of the samples' mean and variance from what they would be with infinitely many steps.
fn error_of_moments(kind: SamplerKind, steps: usize, schedule: &Schedule, prediction: Prediction) -> f64 {
    let plan = sampler(kind, steps, prediction).plan(schedule).expect("the papers' settings");
    let (mean, variance) = moments(&plan, GAUSSIAN, prediction, GAUSSIAN.at(plan[0].at));
    let (true_mean, true_variance) = GAUSSIAN.estimated(plan[plan.len() - 1].at);
    (mean - true_mean).abs() + (variance - true_variance).abs()
}
