//! The profiled run: each dispatch on the host's clock, and the file that Perfetto opens.

use std::time::Instant;

use serde_json::{Value, json};

use super::Profile;
use super::workload::Workload;
use crate::error::Result;
use crate::gpu::Context;
use crate::gpu::profile::Trace;

/// A dispatch of the profiled run.
#[derive(Clone, Debug)]
pub struct Timed {
    /// `conv2d.forward`.
    pub kernel: String,
    /// `down.1/resnet.0/conv1`.
    pub scope: String,
    pub grid: [u32; 3],
    pub flops: u64,
    pub bytes: u64,
    /// Microseconds since the profiled run began.
    pub start: f64,
    /// Microseconds.
    pub duration: f64,
}

impl Timed {
    /// The scope's first two levels: `down.1/resnet.0`.
    pub fn layer(&self) -> &str {
        match self.scope.match_indices('/').nth(1) {
            Some((end, _)) => &self.scope[..end],
            None if self.scope.is_empty() => "(no layer)",
            None => &self.scope,
        }
    }
}

/// Something that the host did during the profiled run.
pub(super) struct HostEvent {
    name: String,
    start: f64,
    duration: f64,
}

fn microseconds(from: Instant, to: Instant) -> f64 {
    (to - from).as_secs_f64() * 1e6
}

/// One profiled run of all plans.
pub(super) fn record(context: &Context, workload: &Workload) -> Result<(Vec<Timed>, Vec<HostEvent>)> {
    let origin = Instant::now();
    let values = workload.values(0);
    let traces = workload.parts.iter().map(|part| part.plan.run_traced(context, &values));
    let traces = traces.collect::<Result<Vec<Trace>>>()?;
    let offset = clock_offset(&traces, origin);
    let spans = traces.iter().flat_map(|trace| &trace.dispatches);
    let timed = workload.dispatches().zip(spans).map(|((recording, dispatch), span)| Timed {
        kernel: format!("{}.{}", dispatch.kernel.name, dispatch.entry),
        scope: recording.scopes[dispatch.scope].clone(),
        grid: dispatch.grid,
        flops: dispatch.flops,
        bytes: recording.bytes(dispatch),
        start: span.start * 1e-3 + offset,
        duration: (span.end - span.start).max(0.0) * 1e-3,
    });
    let timed = timed.collect();
    let names = workload.parts.iter().map(|part| part.name);
    Ok((timed, names.zip(&traces).flat_map(|(name, trace)| host_events(name, trace, origin)).collect()))
}

/// What to add to the device's microseconds to get those since `origin`. The two clocks have nothing in common, but no
/// dispatch runs before it is submitted, and the first of an idle device does so at once: the least offset that keeps
/// that order is late by no more than this latency.
fn clock_offset(traces: &[Trace], origin: Instant) -> f64 {
    let submissions = traces.iter().flat_map(|trace| trace.host.iter().map(move |host| (trace, host)));
    let least =
        submissions.map(|(trace, host)| microseconds(origin, host.submit) - trace.dispatches[host.first].start * 1e-3);
    least.fold(f64::NEG_INFINITY, f64::max)
}

fn host_events(name: &str, trace: &Trace, origin: Instant) -> Vec<HostEvent> {
    let event = |what: &str, from: Instant, to: Instant| HostEvent {
        name: format!("{what} {name}"),
        start: microseconds(origin, from),
        duration: microseconds(from, to),
    };
    let both = trace
        .host
        .iter()
        .map(|host| [event("encode", host.encode, host.submit), event("submit", host.submit, host.submitted)]);
    both.flatten().collect()
}

const PROCESS: u32 = 1;
const HOST_TRACK: usize = 0;
const GPU_TRACK: usize = 1;

/// An array of the trace event format: complete events in microseconds, and the names of the tracks.
pub(super) fn to_json(profile: &Profile) -> String {
    let mut free: Vec<f64> = Vec::new();
    let mut events: Vec<Value> = profile.host.iter().map(host_event).collect();
    for dispatch in &profile.dispatches {
        // Viewers want events of one track one after the other; dispatches may overlap on the device.
        let lane = free.iter().position(|end| *end <= dispatch.start).unwrap_or(free.len());
        free.resize(free.len().max(lane + 1), 0.0);
        free[lane] = dispatch.start + dispatch.duration;
        events.push(gpu_event(dispatch, GPU_TRACK + lane));
    }
    let mut tracks = vec![(HOST_TRACK, "CPU: encode and submit".to_string())];
    tracks.extend((0..free.len()).map(|lane| match lane {
        0 => (GPU_TRACK, format!("GPU: {}", profile.report.adapter)),
        _ => (GPU_TRACK + lane, format!("GPU: overlapping {lane}")),
    }));
    let mut all = vec![name("process_name", HOST_TRACK, &format!("diffuse {}", profile.report.mode))];
    for (track, label) in &tracks {
        all.push(name("thread_name", *track, label));
        all.push(json!({"name": "thread_sort_index", "ph": "M", "pid": PROCESS, "tid": track, "args": {"sort_index": track}}));
    }
    all.append(&mut events);
    let lines: Vec<String> = all.iter().map(Value::to_string).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

fn name(kind: &str, track: usize, label: &str) -> Value {
    json!({"name": kind, "ph": "M", "pid": PROCESS, "tid": track, "args": {"name": label}})
}

fn host_event(event: &HostEvent) -> Value {
    let HostEvent { name, start, duration } = event;
    json!({"name": name, "cat": "cpu", "ph": "X", "pid": PROCESS, "tid": HOST_TRACK, "ts": start, "dur": duration})
}

fn gpu_event(dispatch: &Timed, track: usize) -> Value {
    let Timed { kernel, scope, grid, flops, bytes, start, duration } = dispatch;
    json!({
        "name": kernel, "cat": "gpu", "ph": "X", "pid": PROCESS, "tid": track, "ts": start, "dur": duration,
        "args": {"scope": scope, "layer": dispatch.layer(), "grid": grid, "flops": flops, "bytes": bytes},
    })
}
