//! Do the cases of the kernels notice a wrong kernel? Each shader is changed in one place (a sign, a bound, a stride,
//! a dropped term), and some case must be out of tolerance.
//!
//! The mutants of an entry point run on its dispatches alone, taken out of the recordings that `verify` and
//! `tests/ops.rs` draw, with the twins' values as inputs: many cases in one plan, because compiling is what takes time.
//! Mutants of lib.wgsl run in every kernel that calls them. By default a seeded sample of every entry point runs;
//! `DIFFUSE_MUTATIONS=all` runs every mutant, `DIFFUSE_MUTATIONS=NAME` those whose `kernel.function` holds NAME.

mod mutants;

use std::collections::BTreeMap;

use diffuse::gpu::recorder::Place;
use diffuse::gpu::{Context, CpuState, Kernel, Recording};
use diffuse::ops::case::{Case, Values};
use diffuse::ops::{self, Op};
use diffuse::random::Random;
use diffuse::verify;

use mutants::{ALLOWED, Mutant, Source};

/// Seeds of the cases, and how many of them share a plan: `tests/ops.rs` draws as many.
const CASES: u64 = 24;
const CASES_AT_ONCE: u64 = 6;
/// Mutants of each entry point, and of each function of lib.wgsl, in the sample.
const SAMPLE: usize = 4;
const SEED: u64 = 1;

/// What became of a mutant.
enum Fate {
    /// It isn't WGSL any more, or naga's validation refuses it.
    Invalid,
    Caught,
    Survived,
}

/// Cases of one entry point, to be run as they are with another kernel.
struct Trial {
    entry: &'static str,
    case: Case,
}

/// The dispatches of `entry` in the cases `seeds`, all in one recording. Their step is that of the first case.
fn trial(op: &Op, entry: &'static str, seeds: std::ops::Range<u64>) -> Option<Trial> {
    let (mut recording, mut inputs, mut step) = (Recording::default(), Vec::new(), None);
    for seed in seeds {
        let case = Case::new(op.case, seed);
        let mut state = CpuState::default();
        for (tensor, values) in &case.inputs {
            let values: Vec<f64> = match values {
                Values::F32(values) => values.iter().map(|v| *v as f64).collect(),
                Values::U32(values) => values.iter().map(|v| *v as f64).collect(),
            };
            state.write(&case.recording, *tensor, values);
        }
        let whole = &case.recording;
        for dispatch in &whole.dispatches {
            let mut single = Recording { dispatches: vec![dispatch.clone()], ..whole.clone() };
            if (dispatch.kernel.name, dispatch.entry) == (op.kernel.name, entry) {
                step.get_or_insert(case.step.clone());
                append(&mut recording, &mut inputs, &single, &state, seed);
            }
            single.run_cpu(&mut state, &case.step);
        }
    }
    let case = Case { recording, inputs, gradients: Vec::new(), step: step? };
    Some(Trial { entry, case })
}

/// Adds the one dispatch of `single` to `recording`: tensors and buffers of its own, filled with what `state` holds.
fn append(
    recording: &mut Recording,
    inputs: &mut Vec<(diffuse::gpu::Tensor, Values)>,
    single: &Recording,
    state: &CpuState,
    seed: u64,
) {
    let (first_tensor, first_buffer) = (recording.tensors.len() as u32, recording.buffers.len());
    let number = recording.dispatches.len();
    recording.buffers.extend(single.buffers.iter().cloned().map(|mut buffer| {
        buffer.name = format!("case {seed} dispatch {number} {}", buffer.name);
        buffer
    }));
    recording.tensors.extend(single.tensors.iter().copied().map(|mut tensor| {
        if let Place::Buffer { buffer, .. } = &mut tensor.place {
            *buffer += first_buffer;
        }
        tensor
    }));
    let mut dispatch = single.dispatches[0].clone();
    let bindings = &dispatch.kernel.entry_point(dispatch.entry).storage;
    for (id, binding) in dispatch.io.iter_mut().zip(bindings) {
        if binding.access.reads() {
            let values = state.read(single, single.tensor(*id));
            let values = match binding.integer {
                true => Values::U32(values.iter().map(|v| *v as u32).collect()),
                false => Values::F32(values.iter().map(|v| *v as f32).collect()),
            };
            inputs.push((*id + first_tensor, values));
        }
        *id += first_tensor;
    }
    dispatch.scope = 0;
    recording.scopes = vec![String::new()];
    recording.dispatches.push(dispatch);
}
