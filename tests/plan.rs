//! Recordings and plans: who shares a buffer, what is refused while recording, and that neither reuse nor profiling
//! changes a bit.

use std::collections::BTreeSet;
use std::time::Duration;

use diffuse::gpu::kernel::File;
use diffuse::gpu::recorder::{Place, TensorInfo};
use diffuse::gpu::{
    Context, GRADIENTS, Grid, Kernel, Memory, Plan, PlanOptions, Recorder, Recording, Step, Tensor, WEIGHTS, Work,
};
use diffuse::nn::{UNet, UNetConfig};
use diffuse::ops::add;
use diffuse::ops::conv2d::{self, Geometry};
use diffuse::ops::matrix::{Addend, Epilogue};
use diffuse::random::Random;

const SEED: u64 = 20;

/// Two levels, attention in one of them, class embedding; or one odd one with scale and shift.
fn networks() -> Vec<UNet> {
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let small = UNetConfig {
        in_channels: 1,
        out_channels: 1,
        down_block_types: names(&["DownBlock2D", "AttnDownBlock2D"]),
        up_block_types: names(&["AttnUpBlock2D", "UpBlock2D"]),
        block_out_channels: vec![8, 12],
        layers_per_block: 1,
        norm_num_groups: 4,
        attention_head_dim: Some(4),
        num_class_embeds: Some(3),
        ..UNetConfig::default()
    };
    let plain = UNetConfig {
        in_channels: 3,
        out_channels: 6,
        block_out_channels: vec![6, 9],
        layers_per_block: 2,
        norm_num_groups: 3,
        down_block_types: names(&["DownBlock2D", "DownBlock2D"]),
        up_block_types: names(&["UpBlock2D", "UpBlock2D"]),
        add_attention: false,
        resnet_time_scale_shift: "scale_shift".into(),
        num_class_embeds: None,
        ..small.clone()
    };
    [small, plain].map(|config| UNet::new(config).expect("a configuration that can be built")).into()
}

/// Forward and backward of `network`; inputs and the output are named buffers.
fn record(network: &UNet) -> Recording {
    let (n, size) = (2, 8);
    let mut r = Recorder::for_model(network.params.elements, WEIGHTS);
    let x = r.persistent("x", [n, size, size, network.config.in_channels]);
    let timestep = r.persistent("timestep", [1, 1, 1, n]);
    let labels = network.is_conditional().then(|| r.persistent("labels", [1, 1, 1, n]));
    let (y, saved) = network.forward(&mut r, x, timestep, labels);
    let out = r.persistent("out", y.shape);
    add::accumulate(&mut r, out, y);
    let dy = r.persistent("dy", y.shape);
    network.backward(&mut r, saved, dy);
    r.finish()
}

/// The named buffers of a recording, filled with the same values every time.
fn fill(context: &Context, network: &UNet, memory: &Memory) {
    let mut random = Random::new(SEED);
    memory.write(context, WEIGHTS, 0, &network.params.initialise(SEED));
    memory.write(context, "timestep", 0, &[17.0f32, 801.0, 0.0, 0.0]);
    if network.is_conditional() {
        memory.write(context, "labels", 0, &[2u32, 0, 0, 0]);
    }
    for (name, channels) in [("x", network.config.in_channels), ("dy", network.config.out_channels)] {
        let (count, stride) = (memory.buffer(name).size() as usize / 4, channels.next_multiple_of(4) as usize);
        let normal = |i: usize| if i % stride < channels as usize { random.normal() as f32 } else { 0.0 };
        memory.write(context, name, 0, &(0..count).map(normal).collect::<Vec<f32>>());
    }
}

/// Runs a plan of its own on fresh memory; the bits of the output and of all gradients.
fn bits(context: &Context, network: &UNet, options: PlanOptions, run: impl Fn(&Plan)) -> Vec<u32> {
    let mut memory = Memory::default();
    let plan = Plan::new(context, &record(network), &mut memory, options).expect("a small network fits");
    fill(context, network, &memory);
    run(&plan);
    let named = ["out", GRADIENTS].map(|name| memory.read(context, name).expect("the device works"));
    let values = named.concat();
    assert!(values.iter().all(|value| value.is_finite()));
    assert!(values.iter().filter(|value| **value != 0.0).count() > values.len() / 4, "hardly anything was computed");
    values.iter().map(|value| value.to_bits()).collect()
}

fn open() -> Context {
    Context::new(None).expect("GPU tests need an adapter")
}

fn plain_run(context: &Context) -> impl Fn(&Plan) {
    move |plan| {
        plan.run(context, &Step::default());
    }
}

#[test]
fn no_two_live_temporaries_share_a_slot() {
    for network in networks() {
        let recording = record(&network);
        let (slots, lives) = (recording.slots(true), recording.lives());
        let housed: Vec<_> = (0..lives.len()).filter_map(|id| Some((id, lives[id]?))).collect();
        for (index, (a, life)) in housed.iter().enumerate() {
            let slot = slots.slot_of[*a].expect("a temporary that lives has a slot");
            for (b, other) in &housed[index + 1..] {
                let apart = slots.slot_of[*b] != Some(slot) || life.last < other.first || other.last < life.first;
                assert!(apart, "temporaries {a} {life:?} and {b} {other:?} share slot {slot}");
            }
        }
    }
}

#[test]
fn a_slot_is_as_large_as_its_largest_tenant() {
    for network in networks() {
        let recording = record(&network);
        for reuse in [true, false] {
            let slots = recording.slots(reuse);
            let mut largest = vec![0; slots.bytes.len()];
            for (id, slot) in slots.slot_of.iter().enumerate() {
                let Some(slot) = slot else { continue };
                largest[*slot] = largest[*slot].max(recording.tensor_bytes(id as u32));
            }
            assert_eq!(largest, slots.bytes);
        }
    }
}

/// Temporaries that others are parts of.
fn wholes(recording: &Recording) -> BTreeSet<u32> {
    let whole = |tensor: &TensorInfo| match tensor.place {
        Place::Part { whole, .. } => Some(whole),
        _ => None,
    };
    recording.tensors.iter().filter_map(whole).collect()
}

#[test]
fn reuse_saves_memory_and_no_reuse_gives_every_temporary_its_own() {
    for network in networks() {
        let recording = record(&network);
        let bytes = |reuse| recording.slots(reuse).bytes.iter().sum::<u64>();
        assert_eq!(bytes(false), recording.sum_bytes());
        // What is summed with others at the end lives until then.
        let waiting: u64 = wholes(&recording).into_iter().map(|whole| recording.tensor_bytes(whole)).sum();
        let (shared, all) = (bytes(true) - waiting, bytes(false) - waiting);
        assert!(2 * shared < all, "{shared} of {all} bytes");
        let named: u64 = recording.buffers.iter().map(|buffer| buffer.bytes).sum();
        let fixed = recording.peak_bytes() - bytes(true) - named;
        assert!(fixed <= recording.params_bytes() + 256, "{fixed} bytes are neither tensors nor parameters");
    }
}

#[test]
fn what_is_read_was_written_before() {
    for network in networks() {
        let recording = record(&network);
        let mut written = vec![false; recording.tensors.len()];
        for dispatch in &recording.dispatches {
            for (id, binding) in dispatch.bindings() {
                let temporary = recording.temporary(id).is_some();
                let part =
                    |part: &usize| matches!(recording.tensors[*part].place, Place::Part { whole, .. } if whole == id);
                let mut parts = (0..written.len()).filter(part).peekable();
                let by_parts = parts.peek().is_some() && parts.all(|part| written[part]);
                let fine = !temporary || written[id as usize] || by_parts || !binding.access.reads();
                assert!(fine, "{} reads {}, which nothing wrote", recording.label(dispatch), binding.name);
            }
            for (id, binding) in dispatch.bindings() {
                written[id as usize] |= binding.access.writes();
            }
        }
    }
}

#[test]
fn reuse_changes_no_bit() {
    let context = open();
    for network in networks() {
        let run = |reuse| bits(&context, &network, PlanOptions { reuse, guard: 0 }, plain_run(&context));
        assert!(run(true) == run(false));
    }
}

#[test]
fn two_plans_and_two_runs_of_one_give_equal_bits() {
    let context = open();
    for network in networks() {
        let once = bits(&context, &network, PlanOptions::default(), plain_run(&context));
        let again = bits(&context, &network, PlanOptions::default(), plain_run(&context));
        assert!(once == again, "two plans differ");
        // Slots hold what the first run left; the output adds up, the gradients must not.
        let twice = bits(&context, &network, PlanOptions::default(), |plan| {
            plan.run(&context, &Step::default());
            plan.run(&context, &Step::default());
        });
        let gradients = network.params.elements as usize;
        assert!(once[once.len() - gradients..] == twice[twice.len() - gradients..], "the second run differs");
    }
}

#[test]
fn planned_bytes_are_the_allocated_bytes() {
    let context = open();
    for network in networks() {
        let recording = record(&network);
        let mut memory = Memory::default();
        let plan = Plan::new(&context, &recording, &mut memory, PlanOptions::default()).expect("it fits");
        assert_eq!(plan.allocated_bytes(), recording.peak_bytes());
        assert_eq!(memory.bytes(), recording.buffers.iter().map(|buffer| buffer.bytes).sum::<u64>());
    }
}

#[test]
fn what_is_bound_in_two_places_is_moved_once() {
    let mut r = Recorder::new();
    let [x, residual] = ["x", "residual"].map(|name| r.persistent(name, [2, 5, 5, 4]));
    let (weight, bias) = (r.persistent("weight", [3, 3, 4, 4]), r.persistent("bias", [1, 1, 1, 4]));
    let added = Epilogue { addend: Addend::PerRow(residual), scale: 1.0 };
    for epilogue in [Epilogue::NONE, added] {
        conv2d::forward_with(&mut r, x, weight, bias, Geometry::same(3), epilogue);
    }
    let recording = r.finish();
    let bytes: Vec<u64> = recording.dispatches.iter().map(|dispatch| recording.bytes(dispatch)).collect();
    // x, weight, bias and y; of a residual as much as of x.
    assert_eq!(bytes, [800 + 576 + 16 + 800, 800 + 576 + 16 + 800 + 800]);
}

#[test]
fn profiling_changes_no_bit() {
    let context = open();
    if !context.has_timestamps() {
        println!("skipped: {} has no timestamp queries", context.info.name);
        return;
    }
    for network in networks() {
        let plain = bits(&context, &network, PlanOptions::default(), plain_run(&context));
        let profiled = bits(&context, &network, PlanOptions::default(), |plan| {
            let spans = plan.run_profiled(&context, &Step::default()).expect("the device has timestamps");
            assert_eq!(spans.len(), record(&network).dispatches.len());
            assert!(spans.iter().all(|span| span.end >= span.start));
        });
        assert!(plain == profiled);
    }
}

#[test]
fn where_a_submission_ends_changes_no_bit() {
    let (context, mut polite) = (open(), open());
    polite.be_polite();
    for network in networks() {
        let plain = bits(&context, &network, PlanOptions::default(), plain_run(&context));
        for most in [0, 100, 10_000].map(Duration::from_micros) {
            let bounded = bits(&context, &network, PlanOptions::default(), |plan| {
                let mut work = Work::of_at_most(&context, most);
                work.run(plan, &Step::default());
                work.finish();
            });
            assert!(plain == bounded, "at most {most:?} in a submission");
        }
        assert!(plain == bits(&polite, &network, PlanOptions::default(), plain_run(&polite)), "politely");
    }
}

/// y = factor x + y.
static KERNEL: Kernel = Kernel::new(
    "blend",
    &[File {
        name: "blend.wgsl",
        text: "struct Params { quads: u32, factor: f32 }
     @group(0) @binding(14) var<uniform> params: Params;
     @group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
     @group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
     @compute @workgroup_size(64) fn blend(@builtin(local_invocation_index) i: u32) {
         if (i < params.quads) { y[i] = params.factor * x[i] + y[i]; }
     }",
    }],
    &[],
);

const SHAPE: [u32; 4] = [1, 1, 1, 8];

/// Records one dispatch of the kernel above on a recorder with the persistent tensors `x` and `y`.
fn dispatch(io: impl Fn(&mut Recorder) -> Vec<Tensor>, factor: &'static str) {
    let mut r = Recorder::new();
    let io = io(&mut r);
    r.dispatch(&KERNEL, "blend", &[("quads", 2u32.into()), (factor, 1.0f32.into())], &io, Grid::Workgroups(1), 0);
}

#[test]
fn a_right_dispatch_is_recorded() {
    dispatch(|r| vec![r.persistent("x", SHAPE), r.persistent("y", SHAPE)], "factor");
}

#[test]
#[should_panic(expected = "blend.blend binds [\"x\", \"y\"]")]
fn a_missing_binding_is_refused() {
    dispatch(|r| vec![r.persistent("x", SHAPE)], "factor");
}

#[test]
#[should_panic(expected = "has no parameter scale")]
fn an_unknown_parameter_is_refused() {
    dispatch(|r| vec![r.persistent("x", SHAPE), r.persistent("y", SHAPE)], "scale");
}

#[test]
#[should_panic(expected = "the kind of quads")]
fn a_parameter_of_the_wrong_kind_is_refused() {
    dispatch(|r| vec![r.persistent("x", SHAPE), r.persistent("y", SHAPE)], "quads");
}

#[test]
#[should_panic(expected = "reads x [1, 1, 1, 8], which nothing wrote")]
fn a_read_of_what_nothing_wrote_is_refused() {
    dispatch(|r| vec![r.temp(SHAPE), r.persistent("y", SHAPE)], "factor");
}

#[test]
#[should_panic(expected = "x and y share a buffer")]
fn reading_what_is_written_is_refused() {
    dispatch(
        |r| {
            let y = r.persistent("y", SHAPE);
            vec![y, y]
        },
        "factor",
    );
}

#[test]
#[should_panic(expected = "x and y share a buffer")]
fn reading_another_range_of_a_buffer_that_is_written_is_refused() {
    dispatch(|r| vec![r.range("flat", 128, 0, SHAPE), r.range("flat", 128, 64, SHAPE)], "factor");
}

#[test]
#[should_panic(expected = "the range ends behind the buffer")]
fn a_range_behind_the_end_is_refused() {
    Recorder::new().range("flat", 64, 64, SHAPE);
}
