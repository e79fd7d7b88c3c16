//! Replays of a plan that say where the time goes: on the device dispatch by dispatch, on the host recording and
//! submission apart.

use std::time::{Duration, Instant};

use super::context::Context;
use super::memory::read_buffer;
use super::plan::{Plan, Prepared};
use super::step::Step;
use crate::error::{Error, Result};

/// Dispatches in one submission: few enough that systems which watch the GPU don't take it for hung, and that their
/// timestamps fit into one query set (WebGPU allows 4,096 queries).
const CHUNK: usize = 256;

/// Bytes of a timestamp pair.
const PAIR: u64 = 16;

/// Start and end of each dispatch in nanoseconds of the device's clock.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub start: f64,
    pub end: f64,
}

/// What the host did for one submission of a profiled run.
#[derive(Clone, Copy, Debug)]
pub struct HostSpan {
    /// The first dispatch of the submission.
    pub first: usize,
    /// When the first command was recorded.
    pub encode: Instant,
    /// When the commands were handed to the queue.
    pub submit: Instant,
    /// When the queue had taken them.
    pub submitted: Instant,
}

/// One profiled run.
pub struct Trace {
    /// In the order of the recording.
    pub dispatches: Vec<Span>,
    pub host: Vec<HostSpan>,
}

impl Plan {
    /// As [`Plan::run`], with a timestamp pair around every dispatch; waits.
    ///
    /// # Errors
    /// [`Error::Device`] if the device has no timestamps or fails.
    pub fn run_profiled(&self, context: &Context, step: &Step) -> Result<Vec<Span>> {
        Ok(self.run_traced(context, step)?.dispatches)
    }

    /// As [`Plan::run_profiled`], with what the host did meanwhile.
    ///
    /// # Errors
    /// As [`Plan::run_profiled`].
    pub fn run_traced(&self, context: &Context, step: &Step) -> Result<Trace> {
        if !context.has_timestamps() {
            return Err(Error::Device(format!("{} has no timestamp queries", context.info.name)));
        }
        if self.prepared.is_empty() {
            return Ok(Trace { dispatches: Vec::new(), host: Vec::new() });
        }
        let bytes = PAIR * self.prepared.len() as u64;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = context.create_buffer("timestamps", bytes, usage)?;
        self.write_step(context, step);
        let mut host = Vec::new();
        for (index, chunk) in self.prepared.chunks(CHUNK).enumerate() {
            let first = index * CHUNK;
            let encode = Instant::now();
            let commands = encode_timed(context, chunk, &resolved, PAIR * first as u64);
            let submit = Instant::now();
            context.submit(Some(commands));
            host.push(HostSpan { first, encode, submit, submitted: Instant::now() });
        }
        let words = read_buffer(context, &resolved, 0, bytes)?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&words);
        let period = context.queue().get_timestamp_period() as f64;
        let span = |pair: &[u64]| Span { start: pair[0] as f64 * period, end: pair[1] as f64 * period };
        Ok(Trace { dispatches: ticks.chunks_exact(2).map(span).collect(), host })
    }

    /// The time to record all commands of a replay, as [`Plan::run`] records them. Nothing is submitted, so that no
    /// driver's threads compete for the CPU.
    pub fn time_encoding(&self, context: &Context) -> Duration {
        let start = Instant::now();
        let commands = encode(context, &self.prepared);
        let time = start.elapsed();
        drop(commands);
        time
    }
}

fn encode(context: &Context, dispatches: &[Prepared]) -> wgpu::CommandBuffer {
    let mut encoder = context.device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    dispatches.iter().for_each(|prepared| prepared.record(&mut pass));
    drop(pass);
    encoder.finish()
}

/// Each dispatch in a pass of its own with a timestamp pair, resolved to `offset` of `resolved`.
fn encode_timed(
    context: &Context,
    dispatches: &[Prepared],
    resolved: &wgpu::Buffer,
    offset: u64,
) -> wgpu::CommandBuffer {
    let count = 2 * dispatches.len() as u32;
    let descriptor = wgpu::QuerySetDescriptor { label: Some("profile"), ty: wgpu::QueryType::Timestamp, count };
    let queries = context.device.create_query_set(&descriptor);
    let mut encoder = context.device.create_command_encoder(&Default::default());
    for (index, prepared) in dispatches.iter().enumerate() {
        let first = 2 * index as u32;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }),
        });
        prepared.record(&mut pass);
    }
    encoder.resolve_query_set(&queries, 0..count, resolved, offset);
    encoder.finish()
}
