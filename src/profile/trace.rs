//! The profiled run: each dispatch on the host's clock, and the file that Perfetto opens.

use std::time::Instant;

use serde_json::{Value, json};

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
        layer_of(&self.scope)
    }
}

/// The first two levels of a scope.
pub(super) fn layer_of(scope: &str) -> &str {
    match scope.match_indices('/').nth(1) {
        Some((end, _)) => &scope[..end],
        None if scope.is_empty() => "(no layer)",
        None => scope,
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
    let traces = workload.plans().map(|(_, plan)| plan.run_traced(context, &values));
    let traces = traces.collect::<Result<Vec<Trace>>>()?;
    let offset = clock_offset(&traces, origin);
    let spans = traces.iter().flat_map(|trace| &trace.dispatches);
    let timed = workload.recordings.dispatches().zip(spans).map(|((recording, dispatch), span)| Timed {
        kernel: format!("{}.{}", dispatch.kernel.label(), dispatch.entry),
        scope: recording.scopes[dispatch.scope].clone(),
        grid: dispatch.grid,
        flops: dispatch.flops,
        bytes: recording.bytes(dispatch),
        start: span.start * 1e-3 + offset,
        duration: (span.end - span.start).max(0.0) * 1e-3,
    });
    let timed = timed.collect();
    let names = workload.plans().map(|(name, _)| name);
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

/// Processes of the trace: each is a group of rows.
const HOST: u32 = 1;
const GPU: u32 = 2;

/// A row of the device: a layer, or dispatches of it that overlap those of its first row.
struct Track<'a> {
    layer: &'a str,
    lane: usize,
    /// When its last dispatch ends.
    free: f64,
}

/// An array of the trace event format: complete events in microseconds, and the names of the rows. Each layer has a row
/// of its own, in the order of their first dispatches: forward runs down the rows, backward up again.
pub(super) fn to_json(mode: &str, adapter: &str, dispatches: &[Timed], host: &[HostEvent]) -> String {
    let mut tracks: Vec<Track> = Vec::new();
    let mut events: Vec<Value> = host.iter().map(host_event).collect();
    for dispatch in dispatches {
        let track = place(&mut tracks, dispatch);
        events.push(gpu_event(dispatch, track));
    }
    let mut order: Vec<usize> = (0..tracks.len()).collect();
    let first = |layer: &str| tracks.iter().position(|track| track.layer == layer);
    order.sort_by_key(|index| (first(tracks[*index].layer), tracks[*index].lane));
    let mut all = vec![
        name("process_name", HOST, 0, &format!("CPU: diffuse {mode}")),
        name("process_name", GPU, 0, &format!("GPU: {adapter}")),
        name("thread_name", HOST, 0, "encode and submit"),
        sort_index(HOST, 0, 0),
    ];
    for (row, index) in order.into_iter().enumerate() {
        let Track { layer, lane, .. } = tracks[index];
        let label = if lane == 0 { layer.to_string() } else { format!("{layer}, overlapping {lane}") };
        all.push(name("thread_name", GPU, index, &label));
        all.push(sort_index(GPU, index, row));
    }
    all.append(&mut events);
    let lines: Vec<String> = all.iter().map(Value::to_string).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// The first row of the dispatch's layer that is free: viewers want events of one row one after the other, dispatches may
/// overlap on the device.
fn place<'a>(tracks: &mut Vec<Track<'a>>, dispatch: &'a Timed) -> usize {
    let layer = dispatch.layer();
    let free = |track: &Track| track.layer == layer && track.free <= dispatch.start;
    let index = tracks.iter().position(free).unwrap_or_else(|| {
        let lane = tracks.iter().filter(|track| track.layer == layer).count();
        tracks.push(Track { layer, lane, free: 0.0 });
        tracks.len() - 1
    });
    tracks[index].free = dispatch.start + dispatch.duration;
    index
}

fn sort_index(process: u32, track: usize, index: usize) -> Value {
    json!({"name": "thread_sort_index", "ph": "M", "pid": process, "tid": track, "args": {"sort_index": index}})
}

fn name(kind: &str, process: u32, track: usize, label: &str) -> Value {
    json!({"name": kind, "ph": "M", "pid": process, "tid": track, "args": {"name": label}})
}

fn host_event(event: &HostEvent) -> Value {
    let HostEvent { name, start, duration } = event;
    json!({"name": name, "cat": "cpu", "ph": "X", "pid": HOST, "tid": 0, "ts": start, "dur": duration})
}

fn gpu_event(dispatch: &Timed, track: usize) -> Value {
    let Timed { kernel, scope, grid, flops, bytes, start, duration } = dispatch;
    json!({
        "name": kernel, "cat": "gpu", "ph": "X", "pid": GPU, "tid": track, "ts": start, "dur": duration,
        "args": {"scope": scope, "layer": dispatch.layer(), "grid": grid, "flops": flops, "bytes": bytes},
    })
}
