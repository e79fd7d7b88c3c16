//! Whether samples come as near to the truth as as many true samples do.

use super::cloud::Cloud;
use super::mixture::{Mixture, Quantiles};
use super::orders::{sampler, schedule};
use super::subject::{Check, Subject};
use crate::diffusion::{Level, Prediction, Program, SamplerKind};
use crate::random::Random;

/// Samples of a draw, and draws whose squared distances are averaged.
const COUNT: usize = 1000;
const DRAWS: u64 = 4;
/// Such averages of true samples.
const AVERAGES: u64 = 20;
/// Numbers of steps that are tried.
const LADDER: [usize; 8] = [4, 8, 16, 32, 64, 128, 256, 512];

/// What true samples show: the mean of their distances from the truth, and what hardly any draw exceeds: the mean and
/// three standard deviations.
pub struct Floor {
    mixture: Mixture,
    quantiles: Quantiles,
    pub mean: f64,
    pub most: f64,
}

impl Floor {
    /// The floor of the mixture of `dimensions` dimensions.
    pub fn new(dimensions: usize) -> Floor {
        let mixture = Mixture::new(dimensions);
        let quantiles = mixture.quantiles(COUNT);
        let nothing = Program::Steps(Vec::new());
        let average = |first: u64| average(&nothing, Level::CLEAN, Prediction::Eps, &mixture, &quantiles, first).0;
        let all: Vec<f64> = (0..AVERAGES).map(|i| average(100 + i * DRAWS)).collect();
        let mean = all.iter().sum::<f64>() / AVERAGES as f64;
        let variance = all.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (AVERAGES - 1) as f64;
        Floor { mixture, quantiles, mean, most: mean + 3.0 * variance.sqrt() }
    }
}

/// The root of the mean squared distance of several draws behind `program`, and the evaluations that each took.
fn average(
    program: &Program,
    start: Level,
    prediction: Prediction,
    mixture: &Mixture,
    quantiles: &Quantiles,
    first: u64,
) -> (f64, usize) {
    let mut evaluations = 0;
    let square = |seed: u64| {
        let mut cloud = Cloud::draw(mixture, prediction, start, COUNT, Random::new(seed));
        let Ok(report) = program.run(&mut cloud);
        evaluations = evaluations.max(report.evaluations);
        quantiles.distance(&cloud.x).powi(2)
    };
    let mean = (first..first + DRAWS).map(square).sum::<f64>() / DRAWS as f64;
    (mean.sqrt(), evaluations)
}

/// The number of steps at which samples reach the floor, which must be in reach.
pub fn floors(subject: &Subject, floors: &[Floor]) -> Vec<Check> {
    // Langevin dynamics needs neighbouring levels, and more steps at each than images do, which are forgiving; the
    // adaptive pair has no number of steps.
    let (kind, ladder) = match subject.kind {
        SamplerKind::Langevin { size, repeats, temperature } => {
            (SamplerKind::Langevin { size, repeats: 5 * repeats, temperature }, &LADDER[3..6])
        }
        kind @ SamplerKind::Rk45 { .. } => (kind, &LADDER[..1]),
        kind => (kind, &LADDER[..]),
    };
    let most = if subject.kind.order() > 1 { 64.0 } else { 512.0 };
    let check = |floor: &Floor| {
        let at = |steps: usize| {
            let program = sampler(kind, steps, Prediction::V).program(&schedule());
            let program = program.expect("the papers' settings");
            let start = program.start();
            average(&program, start, Prediction::V, &floor.mixture, &floor.quantiles, 1)
        };
        let reached =
            ladder.iter().map(|steps| (*steps, at(*steps))).find(|(_, (distance, _))| *distance <= floor.most);
        let dimensions = floor.mixture.dimensions();
        let Some((steps, (distance, evaluations))) = reached else {
            return subject.check(format!("steps to the floor in {dimensions}-d: not reached"), f64::NAN, (1.0, most));
        };
        let truth = format!("{dimensions}-d: W2 {distance:.4}, truth's own {:.4}", floor.mean);
        match kind {
            SamplerKind::Rk45 { .. } => {
                subject.check(format!("evaluations to the floor in {truth}"), evaluations as f64, (1.0, 200.0))
            }
            _ => subject.check(format!("steps to the floor in {truth}"), steps as f64, (1.0, most)),
        }
    };
    floors.iter().map(check).collect()
}
