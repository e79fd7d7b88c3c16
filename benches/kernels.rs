//! `cargo bench`: the standing shapes, every kernel's cases, and whole training and denoising steps, in FLOP/s.
//!
//! `cargo bench -- conv2d` runs those whose name holds `conv2d`; `DIFFUSE_BENCH_DEVICE` picks an adapter as `--device`
//! does. A sample is a batch of replays with one wait at its end.

use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use diffuse::gpu::{Context, Memory, Plan, PlanOptions};
use diffuse::nn::{UNet, preset};
use diffuse::ops::case::{Case, Values};
use diffuse::ops::{self, Which};
use diffuse::profile::{Options, Workload, measure, shapes};
use diffuse::run::Session;

/// Seconds on the device; a throughput of elements reads as FLOP/s.
struct GpuTime;

impl Measurement for GpuTime {
    type Intermediate = ();
    type Value = f64;

    fn start(&self) {}
    fn end(&self, (): ()) -> f64 {
        unreachable!("every bench gives its own times")
    }
    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }
    fn zero(&self) -> f64 {
        0.0
    }
    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for GpuTime {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        let (factor, unit) = if typical < 1e-3 {
            (1e6, "µs")
        } else if typical < 1.0 {
            (1e3, "ms")
        } else {
            (1.0, "s")
        };
        values.iter_mut().for_each(|value| *value *= factor);
        unit
    }

    fn scale_throughputs(&self, _typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        let (count, unit) = match throughput {
            Throughput::Elements(flops) => (*flops as f64, "GFLOP/s"),
            Throughput::Bytes(bytes) => (*bytes as f64, "GB/s"),
            _ => return "",
        };
        values.iter_mut().for_each(|value| *value = count * 1e-9 / *value);
        unit
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "s"
    }
}

type Group<'a> = BenchmarkGroup<'a, GpuTime>;

/// Times `run`, which submits that many replays and waits; `flops` and `bytes` are those of one.
fn bench(group: &mut Group, name: &str, flops: u64, bytes: u64, mut run: impl FnMut(u64) -> Duration) {
    group.throughput(if flops >= bytes { Throughput::Elements(flops) } else { Throughput::Bytes(bytes) });
    group.bench_function(name, |bencher| bencher.iter_custom(|count| run(count).as_secs_f64()));
}

fn standing_shapes(context: &Context, group: &mut Group, wanted: impl Fn(&str) -> bool) {
    let shapes = shapes::standing("", Session::new(context).choices());
    for (name, recording) in shapes.iter().filter(|(name, _)| wanted(name)) {
        let prepared = shapes::prepare(context, recording).expect("a standing shape fits");
        bench(group, name, recording.flops(), recording.moved_bytes(), |count| {
            measure::time_replays(context, &prepared.plan, &prepared.step, count).expect("the device works")
        });
    }
}

/// All entry points of each kernel on the first case that tests draw: small, so that this is what a dispatch costs.
fn cases(context: &Context, group: &mut Group, wanted: impl Fn(&str) -> bool) {
    for op in ops::ALL {
        let name = format!("case of {}", op.kernel.name);
        if !wanted(&name) {
            continue;
        }
        let case = Case::new(op, Which::Random(0), Session::new(context).choices());
        let recording = &case.recording;
        let plan = Plan::new(context, recording, &mut Memory::default(), PlanOptions::default()).expect("it fits");
        for (tensor, values) in &case.inputs {
            match values {
                Values::F32(values) => plan.write(context, *tensor, values),
                Values::U32(values) => plan.write(context, *tensor, values),
            }
        }
        bench(group, &name, recording.flops(), recording.moved_bytes(), |count| {
            measure::time_replays(context, &plan, &case.step, count).expect("the device works")
        });
    }
}

/// Training and DDIM steps of the presets: 64 images on a GPU, fewer where the driver computes on the CPU.
fn steps(context: &Context, group: &mut Group, wanted: impl Fn(&str) -> bool) {
    for (model, few) in [("mnist", 16), ("base", 4), ("cifar10", 1)] {
        let batch = if context.is_cpu() { few } else { 64 };
        for infer in [false, true] {
            let kind = if infer { "ddim" } else { "training" };
            let name = format!("{kind} step {model} batch {batch}");
            if !wanted(&name) {
                continue;
            }
            let unet = UNet::new(preset(model).expect("a preset")).expect("it can be built");
            let options = Options { batch, steps: 1, infer, recompute: false };
            let workload = Workload::new(Session::new(context), &unet, &options).expect("it fits");
            let (mut flops, mut bytes) = (0, 0);
            for (recording, dispatch) in workload.recordings.dispatches() {
                flops += dispatch.flops;
                bytes += recording.bytes(dispatch);
            }
            bench(group, &name, flops, bytes, |count| time_steps(context, &workload, count));
        }
    }
}

fn time_steps(context: &Context, workload: &Workload, count: u64) -> Duration {
    context.wait().expect("the device works");
    let start = std::time::Instant::now();
    let mut last = None;
    for step in 0..count {
        last = Some(workload.run(step));
    }
    context.wait_for(last).expect("the device works");
    start.elapsed()
}

fn main() {
    let mut criterion = Criterion::default().with_measurement(GpuTime).configure_from_args();
    // Criterion filters when a bench runs; what is not asked for should not even be allocated. Other options than
    // cargo's may have values, which are no names.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let all = arguments.is_empty() || arguments.iter().any(|argument| argument.starts_with('-'));
    let wanted = |name: &str| all || arguments.iter().any(|part| name.contains(part.as_str()));
    let device = std::env::var("DIFFUSE_BENCH_DEVICE").ok();
    let context = Context::new(device.as_deref()).expect("benches need an adapter");
    eprintln!("{}, {}", context.info.name, context.driver());
    let mut group = criterion.benchmark_group(&context.info.name);
    // Ten samples are the fewest that criterion takes.
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(4));
    standing_shapes(&context, &mut group, wanted);
    steps(&context, &mut group, wanted);
    cases(&context, &mut group, wanted);
    group.finish();
    criterion.final_summary();
}
