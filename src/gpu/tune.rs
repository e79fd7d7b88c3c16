//! Times the ways to run a shape on this device, and checks that they agree.

use std::time::Instant;

use super::choices::{Candidate, Choices, Ways};
use super::context::Context;
use super::memory::Memory;
use super::plan::{Plan, PlanOptions};
use super::recorder::{Place, Recorder, Recording, Tensor};
use super::step::Step;
use crate::error::Result;

/// One way to run a shape, measured.
#[derive(Clone, Debug)]
pub struct Timing {
    pub candidate: &'static Candidate,
    /// Of the fastest run.
    pub seconds: f64,
    /// Largest deviation from what the variant `register` computes, over that one's root mean square.
    pub deviation: f64,
}

/// More deviation than this is no rounding: such a way is not used.
pub const MOST_DEVIATION: f64 = 1e-3;

/// Runs after the first, which compiles; fewer where one alone takes longer than [`LONG`].
const RUNS: usize = 4;
const LONG: f64 = 0.02;

/// Times each candidate that suits this device, on buffers of its own.
///
/// # Errors
/// [`crate::error::Error::Device`] if the shape does not fit or the device fails.
pub fn time(context: &Context, ways: &Ways, shape: &[u32]) -> Result<Vec<Timing>> {
    let (device, precision) = (context.kind(), context.choices.precision);
    let mut memory = Memory::default();
    let mut all = Vec::new();
    for (index, candidate) in ways.candidates.iter().enumerate().filter(|(_, c)| c.suits(device, precision)) {
        let mut r = Recorder::new().with_choices(&Choices::forced(device, precision, index).into());
        (ways.record)(&mut r, shape);
        let recording = r.finish();
        let plan = Plan::new(context, &recording, &mut memory, PlanOptions::default())?;
        if all.is_empty() {
            fill(context, &recording, &memory);
        }
        let seconds = fastest(context, &plan)?;
        let outputs = outputs(&recording).into_iter().map(|tensor| plan.read(context, tensor));
        all.push((candidate, seconds, outputs.collect::<Result<Vec<_>>>()?));
    }
    let plain = all.iter().position(|(candidate, ..)| candidate.kernel.needs.is_empty() && candidate.is_register());
    let plain = all[plain.expect("every device runs the variant register")].2.clone();
    let timing = |(candidate, seconds, outputs): (_, _, Vec<Vec<f32>>)| {
        let each = outputs.iter().zip(&plain).map(|(found, plain)| deviation(found, plain));
        Timing { candidate, seconds, deviation: each.fold(0.0, f64::max) }
    };
    Ok(all.into_iter().map(timing).collect())
}

/// The same numbers for every candidate, between -1/2 and 1/2.
fn fill(context: &Context, recording: &Recording, memory: &Memory) {
    for (index, buffer) in recording.buffers.iter().enumerate() {
        let mut state = 0x9e37_79b9u32.wrapping_mul(index as u32 + 1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let values: Vec<f32> = (0..buffer.bytes / 4).map(|_| next()).collect();
        memory.fill(context, recording, index, &values);
    }
}

fn fastest(context: &Context, plan: &Plan) -> Result<f64> {
    let step = Step::default();
    plan.run(context, &step);
    context.wait()?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let seconds = match context.has_timestamps() {
            true => plan.run_profiled(context, &step)?.iter().map(|span| span.end - span.start).sum::<f64>() * 1e-9,
            false => {
                let start = Instant::now();
                plan.run(context, &step);
                context.wait()?;
                start.elapsed().as_secs_f64()
            }
        };
        best = best.min(seconds);
        if best > LONG {
            break;
        }
    }
    Ok(best)
}

/// Temporaries that are written and never read.
fn outputs(recording: &Recording) -> Vec<Tensor> {
    let reads = |id: u32| {
        recording.dispatches.iter().any(|dispatch| {
            let bindings = &dispatch.kernel.entry_point(dispatch.entry).storage;
            dispatch.io.iter().zip(bindings).any(|(bound, binding)| *bound == id && binding.access.reads())
        })
    };
    let bound = |id: u32| recording.dispatches.iter().any(|dispatch| dispatch.io.contains(&id));
    let temporary = |id: u32| recording.tensors[id as usize].place == Place::Temporary;
    let ids = (0..recording.tensors.len() as u32).filter(|id| temporary(*id) && bound(*id) && !reads(*id));
    ids.map(|id| recording.tensor(id)).collect()
}

fn deviation(found: &[f32], plain: &[f32]) -> f64 {
    let square: f64 = plain.iter().map(|value| (*value as f64).powi(2)).sum();
    let rms = (square / plain.len() as f64).sqrt();
    let differences = found.iter().zip(plain).map(|(found, plain)| (*found as f64 - *plain as f64).abs());
    // NaN is the worst of all.
    differences.fold(0.0, |worst, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) }) / rms.max(f64::MIN_POSITIVE)
}
