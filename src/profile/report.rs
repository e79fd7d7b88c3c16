//! The figures of a profile, and their tables.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ceilings::{Bound, Ceilings, Floors};
use super::memory::{self, LayerMemory};
use super::trace::Timed;
use super::workload::{Options, Workload};
use crate::chart::roofline::{Point, Roofline};
use crate::gpu::Context;
use crate::gpu::context::mebibytes;
use crate::nn::UNet;

/// What was timed without timestamps.
pub(super) struct Times {
    /// From the end of one step to the end of the next.
    pub steps: Vec<Duration>,
    /// Recording all commands of a step.
    pub encodes: Vec<Duration>,
    /// Recording and submitting them.
    pub replays: Vec<Duration>,
}

/// A kernel's or a layer's part of the profiled step.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    pub name: String,
    /// Dispatches.
    pub calls: u64,
    pub ms: f64,
    /// Of the sum over all dispatches, 0 to 1.
    pub share: f64,
    pub gflops: f64,
    pub gbytes_per_s: f64,
    /// A multiply and an add are two.
    pub flops: u64,
    /// What must be moved at the least: each binding once, twice where it is read and written.
    pub bytes: u64,
    /// The ceiling that most of the floor is due to.
    pub bound: Bound,
    /// Sum over the dispatches of the time that the ceiling which binds allows.
    pub floor_ms: f64,
    /// The rest.
    pub lost_ms: f64,
    /// Floor to time, 0 to 1 (above 1 by what two measurements differ).
    pub of_ceiling: f64,
}

/// All figures of a profile; the fields are the keys of `--json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    pub adapter: String,
    pub driver: String,
    pub ceilings: Ceilings,
    /// `training step` or `denoising step`.
    pub mode: String,
    pub parameters: u64,
    pub batch: u32,
    /// Unprofiled steps that were timed; the next three are their median and range.
    pub steps: usize,
    pub step_ms: f64,
    pub step_ms_min: f64,
    pub step_ms_max: f64,
    pub images_per_s: f64,
    /// Time to record the commands of a step, median; nothing is submitted meanwhile.
    pub encode_ms: f64,
    pub encode_us_per_dispatch: f64,
    /// Time to record them and submit them to an idle device, median; a driver that computes on the CPU competes for it.
    pub replay_ms: f64,
    pub replay_us_per_dispatch: f64,
    pub dispatches: u64,
    /// Planned before anything is allocated.
    pub peak_bytes: u64,
    pub allocated_bytes: u64,
    /// Activations as they share slots.
    pub temporary_bytes: u64,
    /// Activations if none shared.
    pub temporary_bytes_without_reuse: u64,
    /// Activations that are alive at once, at the most: no packing needs less.
    pub live_bytes: u64,
    /// Weights, their gradients and moments, data: what outlives a step.
    pub persistent_bytes: u64,
    pub flops: u64,
    /// Sum over the dispatches of the profiled run; none without timestamps.
    pub profiled_ms: Option<f64>,
    /// Unprofiled median to that sum.
    pub unprofiled_to_profiled: Option<f64>,
    /// By the time lost, most first; empty without timestamps.
    pub kernels: Vec<Row>,
    /// Likewise.
    pub layers: Vec<Row>,
    /// Largest first.
    pub layer_memory: Vec<LayerMemory>,
}

pub(super) fn build(
    context: &Context,
    unet: &UNet,
    workload: &Workload,
    options: &Options,
    ceilings: Ceilings,
    times: &Times,
    dispatches: &[Timed],
) -> Report {
    let steps = sorted_ms(&times.steps);
    let step_ms = median(&steps);
    let count = workload.recordings.dispatches().count();
    let encode_ms = median(&sorted_ms(&times.encodes));
    let replay_ms = median(&sorted_ms(&times.replays));
    let (temporary_bytes, temporary_bytes_without_reuse) = workload.temporary_bytes();
    let (live_bytes, layer_memory) = memory::layers(&workload.recordings);
    let profiled = dispatches.iter().map(|dispatch| dispatch.duration).sum::<f64>() * 1e-3;
    let profiled_ms = (!dispatches.is_empty()).then_some(profiled);
    Report {
        adapter: context.info.name.clone(),
        driver: context.driver(),
        mode: if options.infer { "denoising step" } else { "training step" }.to_string(),
        parameters: unet.params.count(),
        batch: options.batch,
        steps: steps.len(),
        step_ms,
        step_ms_min: steps.first().copied().unwrap_or_default(),
        step_ms_max: steps.last().copied().unwrap_or_default(),
        images_per_s: rate(options.batch as f64 * 1e3, step_ms),
        encode_ms,
        encode_us_per_dispatch: rate(encode_ms * 1e3, count as f64),
        replay_ms,
        replay_us_per_dispatch: rate(replay_ms * 1e3, count as f64),
        dispatches: count as u64,
        peak_bytes: workload.recordings.peak_bytes(),
        allocated_bytes: workload.allocated_bytes(),
        temporary_bytes,
        temporary_bytes_without_reuse,
        live_bytes,
        persistent_bytes: workload.persistent_bytes(),
        flops: workload.recordings.iter().map(|(_, recording)| recording.flops()).sum(),
        profiled_ms,
        unprofiled_to_profiled: profiled_ms.map(|sum| rate(step_ms, sum)),
        kernels: rows(dispatches, &ceilings, |dispatch| &dispatch.kernel),
        layers: rows(dispatches, &ceilings, Timed::layer),
        layer_memory,
        ceilings,
    }
}

impl Report {
    /// The kernels that compute, and the ceilings.
    pub fn roofline(&self) -> Roofline {
        let Ceilings { arithmetic, copies } = &self.ceilings;
        let point = |row: &Row| Point {
            name: row.name.clone(),
            intensity: row.flops as f64 / row.bytes as f64,
            gflops: row.gflops,
            share: row.share,
        };
        Roofline {
            title: format!("{}: {}, batch {}", self.adapter, self.mode, self.batch),
            peaks: arithmetic.iter().map(|unit| (unit.unit.clone(), unit.gflops)).collect(),
            bandwidths: copies.iter().map(|copy| (mebibytes(copy.bytes), copy.gbytes_per_s)).collect(),
            points: self.kernels.iter().filter(|row| row.gflops > 0.0).map(point).collect(),
        }
    }
}

fn sorted_ms(times: &[Duration]) -> Vec<f64> {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Of sorted values: the middle one, or the mean of the middle two.
pub(super) fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        count => (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
    }
}

/// 0 where a clock is too coarse to see any time.
pub(super) fn rate(amount: f64, time: f64) -> f64 {
    if time > 0.0 { amount / time } else { 0.0 }
}

#[derive(Default)]
struct Sum {
    calls: u64,
    ms: f64,
    flops: u64,
    bytes: u64,
    floors: Floors,
}

/// Adds up dispatches of the same name; the most time lost first.
fn rows(dispatches: &[Timed], ceilings: &Ceilings, name: impl Fn(&Timed) -> &str) -> Vec<Row> {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for dispatch in dispatches {
        let sum = sums.entry(name(dispatch)).or_default();
        sum.calls += 1;
        sum.ms += dispatch.duration * 1e-3;
        sum.flops += dispatch.flops;
        sum.bytes += dispatch.bytes;
        sum.floors.add(ceilings.floor(dispatch.flops, dispatch.bytes));
    }
    let total: f64 = sums.values().map(|sum| sum.ms).sum();
    let mut rows: Vec<Row> = sums.into_iter().map(|(name, sum)| row(name, &sum, total)).collect();
    rows.sort_by(|a, b| b.lost_ms.total_cmp(&a.lost_ms));
    rows
}

fn row(name: &str, sum: &Sum, total_ms: f64) -> Row {
    let Sum { calls, ms, flops, bytes, floors } = *sum;
    Row {
        name: name.to_string(),
        calls,
        ms,
        share: rate(ms, total_ms),
        gflops: rate(flops as f64 * 1e-6, ms),
        gbytes_per_s: rate(bytes as f64 * 1e-6, ms),
        flops,
        bytes,
        bound: floors.bound(),
        floor_ms: floors.ms,
        lost_ms: ms - floors.ms,
        of_ceiling: rate(floors.ms, ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ceilings::{Arithmetic, Bandwidth};

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!([median(&[]), median(&[3.0]), median(&[1.0, 2.0]), median(&[1.0, 5.0, 9.0])], [0.0, 3.0, 1.5, 5.0]);
    }

    #[test]
    fn rows_add_up_and_are_sorted() {
        let timed = |scope: &str, kernel: &str, duration| Timed {
            kernel: kernel.into(),
            scope: scope.into(),
            grid: [1; 3],
            flops: 1_000_000,
            bytes: 2_000_000,
            start: 0.0,
            duration,
        };
        let ceilings = Ceilings {
            arithmetic: vec![Arithmetic { unit: "f32".into(), entry: String::new(), gflops: 10.0 }],
            copies: vec![Bandwidth { bytes: 1 << 20, entry: String::new(), gbytes_per_s: 8.0 }],
        };
        let all =
            [timed("a/b/c", "x", 1000.0), timed("a/b", "y", 4000.0), timed("", "x", 1000.0), timed("a", "x", 0.0)];
        let names = |rows: &[Row]| rows.iter().map(|row| format!("{} {}", row.name, row.calls)).collect::<Vec<_>>();
        let layers = rows(&all, &ceilings, Timed::layer);
        assert_eq!(names(&layers), ["a/b 2", "(no layer) 1", "a 1"]);
        assert_eq!((layers[0].ms, layers[0].gflops, layers[0].gbytes_per_s), (5.0, 0.4, 0.8));
        assert_eq!(layers[2].gflops, 0.0);
        let kernels = rows(&all, &ceilings, |dispatch| &dispatch.kernel);
        assert_eq!(names(&kernels), ["y 1", "x 3"]);
        assert_eq!(kernels.iter().map(|row| row.share).sum::<f64>(), 1.0);
        // A millionth of 10 GFLOP/s takes 0.1 ms, 2 MB at 8 GB/s take 0.25.
        assert_eq!((kernels[0].floor_ms, kernels[0].lost_ms, kernels[0].of_ceiling), (0.25, 3.75, 0.0625));
        assert_eq!(kernels[0].bound, Bound::Memory);
    }
}
