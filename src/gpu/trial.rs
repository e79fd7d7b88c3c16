//! Whether a doubtful way to run an entry point computes rightly on a device, whatever its speed.
//!
//! Drivers have been seen to lose the sums of matrix units that are kept across a loop, or to load matrices from a wrong place
//! where they don't begin at the first element: only results tell. So they are compared with the plain way's.

use super::agreement::Bound;
use super::choices::Candidate;
use super::context::Context;
use super::kernel::Precision;
use super::memory::Memory;
use super::plan::Plan;
use super::recorder::{Recording, Tensor, Ways};
use super::step::Step;
use super::tune::{READABLE, error, fill, outputs, recorded};
use crate::error::Result;

/// Random inputs for each shape.
const INPUTS: u32 = 20;
/// Runs on each of them: what is not synchronised is right at times.
const REPEATS: usize = 2;

/// An entry point in one way, ready to run.
struct Trial {
    recording: Recording,
    plan: Plan,
    outputs: Vec<Tensor>,
}

impl Trial {
    fn new(context: &Context, recording: Recording, memory: &mut Memory) -> Result<Trial> {
        let plan = Plan::new(context, &recording, memory, READABLE)?;
        let outputs = outputs(&recording);
        Ok(Trial { recording, plan, outputs })
    }

    fn run(&self, context: &Context) -> Result<Vec<Vec<f32>>> {
        self.plan.run(context, &Step::default());
        self.outputs.iter().map(|tensor| self.plan.read(context, *tensor)).collect()
    }
}

/// The largest deviation of each candidate from the plain way, on random inputs of each shape of [`Ways::trials`], over what two right
/// ways may differ by: more than 1 is wrong. Infinite for what the driver can't compile.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails.
pub fn check(
    context: &Context,
    precision: Precision,
    ways: &Ways,
    candidates: &[&'static Candidate],
) -> Result<Vec<f64>> {
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    assert!(
        !ways.trials.is_empty(),
        "{}.{} has doubtful candidates and no shapes to check them",
        ways.kernel,
        ways.entry
    );
    let register = ways.register();
    let bound = |candidate: &Candidate| Bound::of(precision, candidate.bound);
    let mut worst = vec![0.0f64; candidates.len()];
    for shape in ways.trials {
        let mut memory = Memory::default();
        let record = |candidate| recorded(context, precision, ways, shape, candidate);
        let plain = Trial::new(context, record(register), &mut memory)?;
        let mut trials = Vec::new();
        for candidate in candidates {
            let trial = Trial::new(context, record(candidate), &mut memory);
            context.check()?;
            trials.push(trial.map_err(|error| log::warn!("{error}")).ok());
        }
        for seed in 0..INPUTS {
            fill(context, &plain.recording, &memory, seed);
            let reference = plain.run(context)?;
            for ((candidate, trial), worst) in candidates.iter().zip(&trials).zip(&mut worst) {
                let Some(trial) = trial else {
                    *worst = f64::INFINITY;
                    continue;
                };
                let between = bound(candidate).plus(bound(register));
                for _ in 0..REPEATS {
                    let found = trial.run(context)?;
                    let errors = found.iter().zip(&reference).map(|(found, plain)| error(between, found, plain));
                    *worst = errors.fold(*worst, f64::max);
                }
            }
        }
    }
    Ok(worst)
}
