//! Times every dispatch of a plan with a timestamp pair.

use super::context::Context;
use super::memory::read_buffer;
use super::plan::Plan;
use super::step::Step;
use crate::error::{Error, Result};

/// Pairs in one query set: WebGPU allows 4,096 queries.
const PAIRS: usize = 2048;

/// Start and end of each dispatch in nanoseconds of the device's clock.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub start: f64,
    pub end: f64,
}

impl Plan {
    /// As [`Plan::run`], with a timestamp pair around every dispatch; waits.
    ///
    /// # Errors
    /// [`Error::Device`] if the device has no timestamps or fails.
    pub fn run_profiled(&self, context: &Context, step: &Step) -> Result<Vec<Span>> {
        if !context.has_timestamps() {
            return Err(Error::Device(format!("{} has no timestamp queries", context.info.name)));
        }
        self.write_step(context, step);
        let period = context.queue.get_timestamp_period() as f64;
        let mut spans = Vec::new();
        for chunk in self.prepared.chunks(PAIRS) {
            let queries = context.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * chunk.len() as u32,
            });
            let bytes = 16 * chunk.len() as u64;
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            let resolved = context.create_buffer("timestamps", bytes, usage)?;
            let mut encoder = context.device.create_command_encoder(&Default::default());
            for (index, prepared) in chunk.iter().enumerate() {
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
            encoder.resolve_query_set(&queries, 0..2 * chunk.len() as u32, &resolved, 0);
            context.queue.submit([encoder.finish()]);
            let words = read_buffer(context, &resolved, 0, bytes)?;
            let ticks: &[u64] = &bytemuck::pod_collect_to_vec::<f32, u64>(&words);
            spans.extend(
                ticks.chunks_exact(2).map(|pair| Span { start: pair[0] as f64 * period, end: pair[1] as f64 * period }),
            );
        }
        Ok(spans)
    }
}
