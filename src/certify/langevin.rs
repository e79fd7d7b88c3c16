//! Annealed Langevin dynamics: on a Gaussian its samples' mean and variance are known in closed form.

use super::moments::moments;
use super::orders::{GAUSSIAN, sampler};
use super::subject::{Check, Subject};
use crate::certify::cloud::Cloud;
use crate::certify::mixture::{Component, Mixture};
use crate::diffusion::SamplerKind;
use crate::diffusion::{Level, Prediction, Schedule, ScheduleKind, Step};
use crate::random::Random;

const LEVELS: usize = 60;

/// The exact discrete dynamics on several schedules, its order in the step's size, and where it goes without noise.
pub fn langevin(subject: &Subject, size: f64, repeats: usize, temperature: f64) -> Vec<Check> {
    let mut checks = Vec::new();
    for (kind, prediction) in [
        (ScheduleKind::VE, Prediction::Score),
        (ScheduleKind::VP, Prediction::Eps),
        (ScheduleKind::SUB_VP, Prediction::V),
        (ScheduleKind::Flow, Prediction::Flow),
    ] {
        let schedule = Schedule::new(kind, 1000).expect("a schedule of a paper");
        let (plan, found) = run(subject.kind, &schedule, prediction);
        let known = closed_form(&plan, repeats, |level| discrete(level, size, repeats, temperature));
        let what = format!("mean and variance less the closed form's, {}, {}", kind.name(), prediction.name());
        checks.push(subject.check(what, difference(found, known), (0.0, 1e-10)));
    }
    if temperature == 0.0 {
        checks.push(subject.check("greatest distance from a mode", distance_from_modes(subject.kind), (0.0, 0.02)));
        return checks;
    }
    let ve = Schedule::new(ScheduleKind::VE, 1000).expect("a schedule of a paper");
    let error = |factor: usize| {
        let (size, repeats) = (0.1 * size / factor as f64, 10 * repeats * factor);
        let (plan, found) = run(SamplerKind::Langevin { size, repeats, temperature }, &ve, Prediction::Eps);
        difference(found, closed_form(&plan, repeats, |level| continuous(level, size, repeats, temperature)))
    };
    let measured = (error(1) / error(2)).log2();
    checks.push(subject.check("order in the step's size", measured, (0.75, 1.25)));
    checks
}

fn run(kind: SamplerKind, schedule: &Schedule, prediction: Prediction) -> (Vec<Step>, (f64, f64)) {
    let plan = sampler(kind, LEVELS, prediction).plan(schedule).expect("settings within their ranges");
    let found = moments(&plan, GAUSSIAN, prediction, GAUSSIAN.at(plan[0].at));
    (plan, found)
}

fn difference(one: (f64, f64), other: (f64, f64)) -> f64 {
    (one.0 - other.0).abs() + (one.1 - other.1).abs()
}

/// What a level does to a deviation from its mean, as a factor, and the variance that it adds.
type Dynamics = (f64, f64);

/// x - m to (1 - a / 2v)(x - m) + sqrt(temperature · a) z, `repeats` times: a geometric sum.
fn discrete(level: Level, size: f64, repeats: usize, temperature: f64) -> Dynamics {
    let step = size * level.sigma.powi(2);
    let factor = 1.0 - step / (2.0 * GAUSSIAN.at(level).1);
    let (power, square) = (factor.powi(repeats as i32), factor * factor);
    let sum = (1.0 - square.powi(repeats as i32)) / (1.0 - square);
    (power, temperature * step * sum)
}

/// The same with infinitely many steps that are as long together: the Ornstein-Uhlenbeck process.
fn continuous(level: Level, size: f64, repeats: usize, temperature: f64) -> Dynamics {
    let (time, variance) = (repeats as f64 * size * level.sigma.powi(2), GAUSSIAN.at(level).1);
    let power = (-0.5 * time / variance).exp();
    (power, temperature * variance * (1.0 - power * power))
}

/// Mean and variance behind all levels of `plan`, and behind the estimate of x0 at the end.
fn closed_form(plan: &[Step], repeats: usize, dynamics: impl Fn(Level) -> Dynamics) -> (f64, f64) {
    let levels: Vec<Level> = plan[..plan.len() - 1].iter().step_by(repeats).map(|step| step.at).collect();
    let (mut offset, mut variance) = (0.0, GAUSSIAN.at(levels[0]).1);
    for (i, level) in levels.iter().enumerate() {
        let (factor, added) = dynamics(*level);
        let scale = levels.get(i + 1).map_or(1.0, |next| next.alpha / level.alpha);
        offset *= factor * scale;
        variance = (factor * factor * variance + added) * scale * scale;
    }
    let level = levels[levels.len() - 1];
    let gain = level.alpha * GAUSSIAN.deviation.powi(2) / GAUSSIAN.at(level).1;
    (GAUSSIAN.mean + gain * offset, gain * gain * variance)
}

/// Annealed gradient ascent on the density of three far components in the plane ends at one of them.
fn distance_from_modes(kind: SamplerKind) -> f64 {
    let means = [[0.9, 0.1], [-0.6, 0.7], [-0.3, -0.8]];
    let component = |mean: [f64; 2]| Component { weight: 1.0 / 3.0, mean: mean.into(), deviation: 0.02 };
    let mixture = Mixture { components: means.map(component).into() };
    let schedule = Schedule::new(ScheduleKind::VE, 1000).expect("a schedule of a paper");
    let program = sampler(kind, 200, Prediction::Eps).program(&schedule).expect("settings within their ranges");
    let mut cloud = Cloud::draw(&mixture, Prediction::Eps, program.start(), 100, Random::new(3));
    let Ok(_) = program.run(&mut cloud);
    let nearest = |x: &[f64]| {
        let distance = |mean: &[f64; 2]| (x[0] - mean[0]).hypot(x[1] - mean[1]);
        means.iter().map(distance).fold(f64::INFINITY, f64::min)
    };
    cloud.x.chunks_exact(2).map(nearest).fold(0.0, f64::max)
}
