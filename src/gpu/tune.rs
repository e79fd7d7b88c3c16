//! Times the ways to run a shape on this device, and checks that they agree.

use std::time::Instant;

use super::agreement::Bound;
use super::choices::{Candidate, Choices};
use super::context::Context;
use super::kernel::Precision;
use super::memory::Memory;
use super::plan::{Plan, PlanOptions};
use super::recorder::{Place, Recorder, Recording, Tensor, Ways};
use super::step::Step;
use crate::error::Result;

/// One way to run a shape, measured.
#[derive(Clone, Debug)]
pub struct Timing {
    pub candidate: &'static Candidate,
    /// Of the fastest run.
    pub seconds: f64,
    /// Largest deviation from what the variant `register` computes, over what two right ways may differ by: more than 1 is
    /// wrong.
    pub error: f64,
    /// Whether it gives the bits of the usual candidate.
    pub usual_bits: bool,
}

impl Timing {
    /// Whether it computes rightly: the plain variant is what others are held to.
    pub fn is_right(&self) -> bool {
        self.error <= 1.0 || self.candidate.is_plain()
    }
}

/// Runs after the first, which compiles; fewer where one alone takes longer than [`LONG`].
const RUNS: usize = 4;
const LONG: f64 = 0.02;

/// Outputs are read when all dispatches have run: none may give its buffer to a later one.
pub(super) const READABLE: PlanOptions = PlanOptions { reuse: false, guard: 0 };

/// A candidate that was run.
#[derive(Clone, Debug)]
pub struct Run {
    pub candidate: &'static Candidate,
    /// Of the fastest run.
    pub seconds: f64,
    /// What it writes, tensor by tensor.
    pub outputs: Vec<Vec<f32>>,
}

/// What is to be timed.
pub struct Contest<'a> {
    pub ways: &'a Ways,
    pub shape: &'a [u32],
    /// All of them run on the device.
    pub candidates: &'a [&'static Candidate],
    /// Says which one is usual for the shape.
    pub choices: &'a Choices,
}

/// Times each candidate, and compares what they compute with the usual one's.
///
/// # Errors
/// [`crate::error::Error::Device`] if the shape does not fit or the device fails.
pub fn time(context: &Context, contest: &Contest) -> Result<Vec<Timing>> {
    let Contest { ways, shape, candidates, choices } = *contest;
    let usual = choices.usual(ways, shape);
    let register = ways.register();
    let others = [register, usual].into_iter().filter(|other| !candidates.iter().any(|c| std::ptr::eq(*c, *other)));
    let runs =
        run(context, choices.precision, ways, shape, &candidates.iter().copied().chain(others).collect::<Vec<_>>())?;
    let outputs_of = |candidate: &Candidate| {
        let run = runs.iter().find(|run| std::ptr::eq(run.candidate, candidate)).expect("it was run");
        &run.outputs
    };
    let (plain, usual_bits) = (outputs_of(register), bits(outputs_of(usual)));
    let bound = |candidate: &Candidate| Bound::of(choices.precision, candidate.bound);
    let timing = |Run { candidate, seconds, outputs }: &Run| {
        let between = bound(candidate).plus(bound(register));
        let each = outputs.iter().zip(plain).map(|(found, plain)| error(between, found, plain));
        let usual_bits = bits(outputs) == usual_bits;
        Timing { candidate, seconds: *seconds, error: each.fold(0.0, f64::max), usual_bits }
    };
    Ok(runs[..candidates.len()].iter().map(timing).collect())
}

/// Runs one candidate after the other on the same inputs.
///
/// # Errors
/// As [`time`].
pub fn run(
    context: &Context,
    precision: Precision,
    ways: &Ways,
    shape: &[u32],
    candidates: &[&'static Candidate],
) -> Result<Vec<Run>> {
    let mut memory = Memory::default();
    let mut runs = Vec::new();
    for candidate in candidates.iter().copied() {
        let recording = recorded(context, precision, ways, shape, candidate);
        let plan = Plan::new(context, &recording, &mut memory, READABLE)?;
        if runs.is_empty() {
            fill(context, &recording, &memory, 0);
        }
        let seconds = fastest(context, &plan)?;
        let outputs = outputs(&recording).into_iter().map(|tensor| plan.read(context, tensor));
        let outputs = outputs.collect::<Result<_>>()?;
        runs.push(Run { candidate, seconds, outputs });
    }
    Ok(runs)
}

/// The entry point alone, as one candidate runs it.
pub(super) fn recorded(
    context: &Context,
    precision: Precision,
    ways: &Ways,
    shape: &[u32],
    candidate: &'static Candidate,
) -> Recording {
    let index = ways.candidates.iter().position(|other| std::ptr::eq(other, candidate));
    let index = index.expect("a candidate of the entry point");
    assert!(candidate.takes(shape), "{} can't run {shape:?}: another would run in its place", candidate.label());
    let choices = Choices::forced(context.kind(), precision, index);
    let mut r = Recorder::new().with_choices(&choices.into());
    (ways.record)(&mut r, shape);
    r.finish()
}

fn bits(outputs: &[Vec<f32>]) -> Vec<u32> {
    outputs.iter().flatten().map(|value| value.to_bits()).collect()
}

/// How far a result is from its reference, over what is allowed.
pub(super) fn error(bound: Bound, found: &[f32], reference: &[f32]) -> f64 {
    let [found, reference] =
        [found, reference].map(|values| values.iter().map(|value| *value as f64).collect::<Vec<_>>());
    bound.compare(&found, &reference, |_| false).error
}

/// The same numbers for every candidate, between -1/2 and 1/2; others for another seed. What a recording brings along stays: tables
/// of what is summed where.
pub(super) fn fill(context: &Context, recording: &Recording, memory: &Memory, seed: u32) {
    for (index, buffer) in recording.buffers.iter().enumerate().filter(|(_, buffer)| buffer.contents.is_empty()) {
        let mut state = 0x9e37_79b9u32.wrapping_mul(index as u32 + 1).wrapping_add(seed.wrapping_mul(0x85eb_ca6b));
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
pub(super) fn outputs(recording: &Recording) -> Vec<Tensor> {
    let bound = |id: u32| recording.dispatches.iter().any(|dispatch| dispatch.io.contains(&id));
    let temporary = |id: u32| recording.tensors[id as usize].place == Place::Temporary;
    let ids = (0..recording.tensors.len() as u32).filter(|id| temporary(*id) && bound(*id) && !recording.reads(*id));
    ids.map(|id| recording.tensor(id)).collect()
}
