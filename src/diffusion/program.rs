//! A sampler made ready for a schedule, and what it runs on.

use super::denoiser::Denoiser;
use super::path::Level;
use super::runge_kutta::{Report, RungeKutta};
use super::step::{SLOTS, Step, Threshold};

/// What a sampler does on a schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Program {
    /// Steps that are known beforehand, an evaluation each.
    Steps(Vec<Step>),
    /// Steps that depend on what the network says.
    Adaptive(Box<RungeKutta>),
}

impl Program {
    /// The level at which it starts.
    pub fn start(&self) -> Level {
        match self {
            Program::Steps(steps) => steps.first().map_or(Level::CLEAN, |step| step.at),
            Program::Adaptive(runge_kutta) => runge_kutta.start(),
        }
    }

    /// Slots of the past that it needs, at least 1.
    pub fn slots(&self) -> usize {
        match self {
            // What is thresholded has two of its own, see Step::halves.
            Program::Steps(steps) => most_slots(steps) + if self.thresholds() { 2 } else { 0 },
            Program::Adaptive(_) => SLOTS,
        }
    }

    /// Whether any step thresholds the estimates of x0, which takes a step without the network behind each.
    pub fn thresholds(&self) -> bool {
        match self {
            Program::Steps(steps) => steps.iter().any(|step| step.threshold.is_some()),
            Program::Adaptive(_) => false,
        }
    }

    /// Whether the samples follow from the noise it starts from alone.
    pub fn is_deterministic(&self) -> bool {
        match self {
            Program::Steps(steps) => steps.iter().all(|step| step.noise == 0.0),
            Program::Adaptive(_) => true,
        }
    }

    /// Whether the network is to say the variance of the noise.
    pub fn learns_variance(&self) -> bool {
        match self {
            Program::Steps(steps) => steps.iter().any(|step| step.learned.is_some()),
            Program::Adaptive(_) => false,
        }
    }

    /// Runs it on `device`, whose x is at the first level.
    ///
    /// # Errors
    /// The device's.
    pub fn run<D: Denoiser>(&self, device: &mut D) -> Result<Report, D::Error> {
        match self {
            Program::Steps(steps) => {
                let raw = most_slots(steps);
                for step in steps {
                    match step.threshold {
                        Some(threshold) => run_thresholded(device, step, threshold, raw)?,
                        None => device.evaluate(step)?,
                    }
                }
                Ok(Report { evaluations: steps.len(), accepted: steps.len(), ..Report::default() })
            }
            Program::Adaptive(runge_kutta) => runge_kutta.run(device),
        }
    }
}

fn most_slots(steps: &[Step]) -> usize {
    steps.iter().map(Step::slots).max().unwrap_or(1)
}

fn run_thresholded<D: Denoiser>(device: &mut D, step: &Step, threshold: Threshold, raw: usize) -> Result<(), D::Error> {
    let [first, second] = step.halves(raw);
    device.evaluate(&first)?;
    device.threshold(threshold, raw, raw + 1)?;
    device.update(&second)?;
    // Behind the update, which may read what the slot held.
    step.keep.map_or(Ok(()), |slot| device.threshold(threshold, raw, slot))
}
