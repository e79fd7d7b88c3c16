//! What this adapter reaches at most: the roofline that kernels are measured by (Williams, Waterman & Patterson,
//! CACM 52(4), 2009).

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::measure;
use crate::error::Result;
use crate::gpu::{Choices, Context, Memory, Plan, PlanOptions, Precision, Recorder, Step, Tensor};
use crate::ops::ceiling::{self, FACTORS, LOOPS, Loop};

/// The most that one kind of arithmetic unit reaches.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Arithmetic {
    /// `f32`.
    pub unit: String,
    /// The fastest entry of `shaders/ceiling.wgsl`.
    pub entry: String,
    pub gflops: f64,
}

/// What a copy reaches on a working set of this size.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Bandwidth {
    /// Of both buffers together.
    pub bytes: u64,
    /// The fastest entry of `shaders/ceiling.wgsl`.
    pub entry: String,
    /// What is read and what is written, added up.
    pub gbytes_per_s: f64,
}

/// All ceilings of an adapter.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Ceilings {
    /// By unit; f32 multiplications and additions come first. Other units (those for matrices) go behind it.
    pub arithmetic: Vec<Arithmetic>,
    /// The smallest working set first. The last is larger than the last-level cache of any GPU and of nearly all CPUs
    /// (256 and 300 MiB are the largest in use): the memory itself. Drivers that compute on the CPU, and large caches, run most tensors of small models from a cache.
    pub copies: Vec<Bandwidth>,
}

/// What keeps a dispatch from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    Arithmetic,
    Memory,
}

const MIB: u64 = 1 << 20;
/// Working sets of the copies.
const SETS: [u64; 4] = [MIB, 8 * MIB, 64 * MIB, 512 * MIB];
/// Bytes of one copied buffer: half of the binding that every device takes.
const LARGEST: u64 = 64 * MIB;
/// Time for one ceiling, in short batches: one that nothing else disturbed is enough.
const BUDGET: Duration = Duration::from_millis(300);
const BATCH: Duration = Duration::from_millis(4);

impl Ceilings {
    /// Measures them, in about four seconds. The best of several batches counts: a ceiling is what was reached once.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the device fails.
    pub fn measure(context: &Context) -> Result<Ceilings> {
        let mut best = Arithmetic { unit: "f32".into(), entry: String::new(), gflops: 0.0 };
        for kind in LOOPS {
            let gflops = measure_loop(context, kind)?;
            if gflops > best.gflops {
                best = Arithmetic { gflops, entry: kind.entry.into(), ..best };
            }
        }
        let mut copies = Vec::new();
        for bytes in SETS {
            match measure_copy(context, bytes) {
                Ok(bandwidth) => copies.push(bandwidth),
                // A small device may not have the memory; the smaller sets will do.
                Err(problem) if !copies.is_empty() => {
                    context.check()?;
                    log::warn!("no copy of {} MiB: {problem}", bytes / MIB);
                }
                Err(problem) => return Err(problem),
            }
        }
        let mut arithmetic = vec![best];
        arithmetic.extend(measure_matrices(context)?);
        Ok(Ceilings { arithmetic, copies })
    }

    /// GFLOP/s of f32 multiplications and additions.
    pub fn gflops(&self) -> f64 {
        self.arithmetic[0].gflops
    }

    /// GB/s on a working set of `bytes`: of the smallest copy that is as large, or of a larger one if that was faster.
    pub fn bandwidth(&self, bytes: u64) -> f64 {
        let last = self.copies.len() - 1;
        let first = self.copies.iter().position(|copy| copy.bytes >= bytes).unwrap_or(last);
        self.copies[first..].iter().map(|copy| copy.gbytes_per_s).fold(0.0, f64::max)
    }

    /// The milliseconds below which nothing with this much work can get, and why.
    pub fn floor(&self, flops: u64, bytes: u64) -> (f64, Bound) {
        let arithmetic = flops as f64 * 1e-6 / self.gflops();
        let memory = bytes as f64 * 1e-6 / self.bandwidth(bytes);
        if arithmetic > memory { (arithmetic, Bound::Arithmetic) } else { (memory, Bound::Memory) }
    }
}

/// Floors of several dispatches, added up.
#[derive(Clone, Copy, Default)]
pub(super) struct Floors {
    pub ms: f64,
    memory_ms: f64,
}

impl Floors {
    pub fn add(&mut self, (ms, bound): (f64, Bound)) {
        self.ms += ms;
        self.memory_ms += if bound == Bound::Memory { ms } else { 0.0 };
    }

    /// What most of it is due to.
    pub fn bound(&self) -> Bound {
        if self.memory_ms > self.ms / 2.0 { Bound::Memory } else { Bound::Arithmetic }
    }
}

fn list(r: &mut Recorder, name: &str, bytes: u64) -> Tensor {
    r.persistent(name, [1, 1, 1, (bytes / 4) as u32])
}

/// GFLOP/s of one loop.
fn measure_loop(context: &Context, kind: Loop) -> Result<f64> {
    // Enough lanes to fill the device, and enough work to forget what it costs to start and to load x.
    let (quads, flops) = if context.is_cpu() { (1 << 13, 8e8) } else { (1 << 20, 1e11) };
    let rounds = flops / (8 * quads * kind.sums * kind.steps) as f64;
    let r = &mut Recorder::new();
    let [x, y] = ["x", "y"].map(|name| list(r, name, 16 * quads as u64));
    let factors = r.persistent("factors", FACTORS);
    ceiling::multiply(r, kind, x, factors, rounds.ceil() as u32, y);
    let recording = std::mem::take(r).finish();
    let plan = Plan::new(context, &recording, &mut Memory::default(), PlanOptions::default())?;
    // 1, kept there: neither infinite nor denormal, which some processors are slow at.
    plan.write(context, x, &vec![1f32; 4 * quads as usize]);
    plan.write(context, factors, &[0.5f32, 0.5, 0.0, 0.0].repeat(factors.elements() as usize / 4));
    let seconds = measure::sample(context, &plan, &Step::default(), BATCH, BUDGET)?[0];
    Ok(recording.flops() as f64 / seconds * 1e-9)
}

/// GFLOP/s of the matrix units, if there are any: f16 products, f32 sums.
fn measure_matrices(context: &Context) -> Result<Option<Arithmetic>> {
    let mut best: Option<Arithmetic> = None;
    let choices = Arc::new(Choices::new(context.kind(), Precision::F16));
    for candidate in ceiling::MATRICES.candidates.iter().filter(|c| c.runs_on(&choices.device, Precision::F16)) {
        let (workgroups, rounds) = if context.is_cpu() { (64, 2000) } else { (4096, 20_000) };
        let r = &mut Recorder::new().with_choices(&choices);
        let factors = r.persistent("factors", [1, 1, 1, 4]);
        ceiling::matrices(r, candidate, factors, workgroups, rounds);
        let recording = std::mem::take(r).finish();
        let plan = Plan::new(context, &recording, &mut Memory::default(), PlanOptions::default())?;
        plan.write(context, factors, &[0.5f32, 0.001, 0.0, 0.0]);
        let seconds = measure::sample(context, &plan, &Step::default(), BATCH, BUDGET)?[0];
        let gflops = recording.flops() as f64 / seconds * 1e-9;
        if best.as_ref().is_none_or(|best| gflops > best.gflops) {
            let entry = format!("matrices, {}", candidate.label());
            best = Some(Arithmetic { unit: "matrices f16 to f32".into(), entry, gflops });
        }
    }
    Ok(best)
}

/// The fastest copy over `bytes` of memory.
fn measure_copy(context: &Context, bytes: u64) -> Result<Bandwidth> {
    let mut best = Bandwidth { bytes, entry: String::new(), gbytes_per_s: 0.0 };
    let mut memory = Memory::default();
    for kind in ceiling::COPIES {
        let r = &mut Recorder::new();
        let pairs = (bytes / 2).div_ceil(LARGEST);
        for pair in 0..pairs {
            let [x, y] = ["x", "y"].map(|name| list(r, &format!("{name} {pair}"), bytes / 2 / pairs));
            ceiling::copy(r, kind, x, y);
        }
        let recording = std::mem::take(r).finish();
        let plan = Plan::new(context, &recording, &mut memory, PlanOptions::default())?;
        let seconds = measure::sample(context, &plan, &Step::default(), BATCH, BUDGET)?[0];
        let gbytes_per_s = bytes as f64 / seconds * 1e-9;
        if gbytes_per_s > best.gbytes_per_s {
            best = Bandwidth { bytes, entry: kind.0.into(), gbytes_per_s };
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roof_that_is_lower_binds() {
        let arithmetic = vec![Arithmetic { unit: "f32".into(), entry: "multiply_3".into(), gflops: 100.0 }];
        let copies = [(1, 50.0), (8, 20.0), (64, 30.0), (512, 10.0)];
        let copies =
            copies.map(|(size, gbytes_per_s)| Bandwidth { bytes: size * MIB, entry: String::new(), gbytes_per_s });
        let ceilings = Ceilings { arithmetic, copies: copies.to_vec() };
        assert_eq!(ceilings.floor(1_000_000_000, 1_000_000), (10.0, Bound::Arithmetic));
        assert_eq!(ceilings.floor(1_000_000, 1_000_000), (0.02, Bound::Memory));
        assert_eq!([1, 2, 64, 65, 9999].map(|size| ceilings.bandwidth(size * MIB)), [50.0, 30.0, 30.0, 10.0, 10.0]);
    }
}
