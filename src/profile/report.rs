//! The figures of a profile, and their tables.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::trace::Timed;
use super::workload::Workload;
use super::{Options, Times};
use crate::gpu::Context;
use crate::nn::UNet;

/// A kernel's or a layer's part of the profiled step.
#[derive(Clone, Debug, Default, Serialize)]
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
}

/// All figures of a profile; the fields are the keys of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub adapter: String,
    pub driver: String,
    /// `training step` or `denoising step`.
    pub mode: &'static str,
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
    pub flops: u64,
    /// Sum over the dispatches of the profiled run; none without timestamps.
    pub profiled_ms: Option<f64>,
    /// Unprofiled median to that sum.
    pub unprofiled_to_profiled: Option<f64>,
    /// By time, longest first; empty without timestamps.
    pub kernels: Vec<Row>,
    /// Likewise.
    pub layers: Vec<Row>,
}

pub(super) fn build(
    context: &Context,
    unet: &UNet,
    workload: &Workload,
    options: &Options,
    times: &Times,
    dispatches: &[Timed],
) -> Report {
    let steps = sorted_ms(&times.steps);
    let step_ms = median(&steps);
    let count = workload.dispatches().count();
    let encode_ms = median(&sorted_ms(&times.encodes));
    let replay_ms = median(&sorted_ms(&times.replays));
    let (temporary_bytes, temporary_bytes_without_reuse) = workload.temporary_bytes();
    let profiled = dispatches.iter().map(|dispatch| dispatch.duration).sum::<f64>() * 1e-3;
    let profiled_ms = (!dispatches.is_empty()).then_some(profiled);
    Report {
        adapter: context.info.name.clone(),
        driver: context.driver(),
        mode: if options.infer { "denoising step" } else { "training step" },
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
        peak_bytes: workload.planned_bytes,
        allocated_bytes: workload.allocated_bytes(),
        temporary_bytes,
        temporary_bytes_without_reuse,
        flops: workload.parts.iter().map(|part| part.recording.flops()).sum(),
        profiled_ms,
        unprofiled_to_profiled: profiled_ms.map(|sum| rate(step_ms, sum)),
        kernels: rows(dispatches, |dispatch| &dispatch.kernel),
        layers: rows(dispatches, Timed::layer),
    }
}

fn sorted_ms(times: &[Duration]) -> Vec<f64> {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Of sorted values: the middle one, or the mean of the middle two.
fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        count => (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
    }
}

/// 0 where a clock is too coarse to see any time.
fn rate(amount: f64, time: f64) -> f64 {
    if time > 0.0 { amount / time } else { 0.0 }
}

/// Adds up dispatches of the same name; the longest first.
fn rows(dispatches: &[Timed], name: impl Fn(&Timed) -> &str) -> Vec<Row> {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for dispatch in dispatches {
        let row = rows.entry(name(dispatch)).or_default();
        row.calls += 1;
        row.ms += dispatch.duration * 1e-3;
        row.flops += dispatch.flops;
        row.bytes += dispatch.bytes;
    }
    let total: f64 = rows.values().map(|row| row.ms).sum();
    let finish = |(name, row): (&str, Row)| Row {
        name: name.to_string(),
        share: rate(row.ms, total),
        gflops: rate(row.flops as f64 * 1e-6, row.ms),
        gbytes_per_s: rate(row.bytes as f64 * 1e-6, row.ms),
        ..row
    };
    let mut rows: Vec<Row> = rows.into_iter().map(finish).collect();
    rows.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let all =
            [timed("a/b/c", "x", 1000.0), timed("a/b", "y", 4000.0), timed("", "x", 1000.0), timed("a", "x", 0.0)];
        let names = |rows: &[Row]| rows.iter().map(|row| format!("{} {}", row.name, row.calls)).collect::<Vec<_>>();
        let layers = rows(&all, Timed::layer);
        assert_eq!(names(&layers), ["a/b 2", "(no layer) 1", "a 1"]);
        assert_eq!((layers[0].ms, layers[0].gflops, layers[0].gbytes_per_s), (5.0, 0.4, 0.8));
        assert_eq!(layers[2].gflops, 0.0);
        let kernels = rows(&all, |dispatch| &dispatch.kernel);
        assert_eq!(names(&kernels), ["y 1", "x 3"]);
        assert_eq!(kernels.iter().map(|row| row.share).sum::<f64>(), 1.0);
    }
}
