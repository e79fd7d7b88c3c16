//! Samplers that are one and the same, coefficient by coefficient.

use super::orders::sampler;
use super::subject::{Check, Subject};
use crate::diffusion::{Prediction, SLOTS, SamplerKind, Schedule, ScheduleKind, Step, Variance};

/// Steps of the compared plans.
const STEPS: usize = 40;

/// What a sampler must equal, on every schedule.
pub fn identities(subject: &Subject) -> Vec<Check> {
    let same: &[SamplerKind] = match subject.kind {
        // Song, Meng & Ermon 2020, section 4.1: eta = 1 is DDPM with beta-tilde.
        SamplerKind::Ddim { eta: 1.0 } => &[SamplerKind::Ddpm { variance: Variance::FixedSmall }],
        // Song, Meng & Ermon 2020, section 4.3: eta = 0 is Euler's rule in kappa.
        SamplerKind::Ddim { eta: 0.0 } => &[SamplerKind::Euler, SamplerKind::EulerAncestral { eta: 0.0 }],
        SamplerKind::Euler => &[SamplerKind::Ddim { eta: 0.0 }],
        // The noise that goes in after Euler's rule is beta-tilde's.
        SamplerKind::EulerAncestral { eta } => &[SamplerKind::Ddim { eta }],
        SamplerKind::Ddpm { variance: Variance::FixedSmall } => {
            &[SamplerKind::Ddim { eta: 1.0 }, SamplerKind::EulerAncestral { eta: 1.0 }]
        }
        SamplerKind::PredictorCorrector { snr, .. } => {
            &[SamplerKind::ReverseSde, SamplerKind::PredictorCorrector { snr, corrections: 0 }]
        }
        _ => &[],
    };
    let kind = match subject.kind {
        SamplerKind::PredictorCorrector { snr, .. } => SamplerKind::PredictorCorrector { snr, corrections: 0 },
        kind => kind,
    };
    let check = |other: &SamplerKind| {
        let what = format!("greatest difference from {other:?}");
        subject.check(what, greatest_difference(kind, *other), (0.0, 1e-9))
    };
    same.iter().map(check).collect()
}

/// Over all schedules and steps, of x' behind unit x, output and noise; relative to the coefficients where they are large.
fn greatest_difference(one: SamplerKind, other: SamplerKind) -> f64 {
    let mut greatest = 0.0f64;
    for (index, schedule) in ScheduleKind::ALL.into_iter().enumerate() {
        let schedule = Schedule::new(schedule, 1000).expect("a schedule of a paper");
        let prediction = Prediction::ALL[index % Prediction::ALL.len()];
        let plans = [one, other].map(|kind| sampler(kind, STEPS, prediction).plan(&schedule));
        let [Ok(one), Ok(other)] = plans else { continue };
        if one.len() != other.len() {
            return f64::INFINITY;
        }
        let differences = one.iter().zip(&other).flat_map(|(one, other)| {
            [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)].map(|(x, out, z)| {
                let after = |step: &Step| step.apply(x, out, &mut [0.0; SLOTS], z).0;
                (after(one) - after(other)).abs() / (1.0 + after(one).abs())
            })
        });
        greatest = differences.fold(greatest, f64::max);
    }
    greatest
}
