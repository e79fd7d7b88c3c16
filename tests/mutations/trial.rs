//! The dispatches of one entry point in a case, with what they must write.

use diffuse::gpu::agreement::Bound;
use diffuse::gpu::recorder::{Place, TensorInfo};
use diffuse::gpu::{Context, CpuState, Memory, Plan, PlanOptions, Recording, Step, Tensor};
use diffuse::ops::case::Values;
use diffuse::ops::{Case, Which};

use super::setting::Setting;

/// As many random cases as `tests/ops.rs` draws.
const CASES: u64 = 24;
/// Bytes behind every tensor that no kernel may touch.
const GUARD: u64 = 1024;

/// Where nothing was written yet: what no kernel computes, and halves hold.
const UNWRITTEN: f64 = 61_216.0;

/// Results that are nothing else are 0 but for rounding, and nothing can be told from rounding: with one token, where dP is D,
/// of which the twin's value is bound.
const NOTHING: f64 = 1e-12;

/// See above. Their inputs are the twins' values, so that a mistake shows where it is made.
pub struct Trial {
    recording: Recording,
    inputs: Vec<(Tensor, Values)>,
    expected: Vec<Expected>,
    step: Step,
}

struct Expected {
    tensor: Tensor,
    values: Vec<f64>,
    /// What may stand there as well; empty where all must be written.
    unwritten: Vec<f64>,
    integer: bool,
    bound: Bound,
}

/// What became of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Agrees,
    Differs,
    /// The driver, or the device's limits, refuse it.
    Refused,
}

/// The trials of one entry point: its corners and random cases, the cheapest first.
pub fn trials(setting: &Setting, entry: &'static str) -> Vec<Trial> {
    let corners = (0..setting.op.corners.len()).map(Which::Corner);
    let cases = corners.chain((0..CASES).map(Which::Random));
    let mut trials: Vec<Trial> = cases.filter_map(|which| Trial::new(setting, entry, which)).collect();
    trials.sort_by_key(|trial| trial.elements());
    trials
}

impl Trial {
    /// Takes the dispatches of `entry` out of a case; `None` if there are none.
    fn new(setting: &Setting, entry: &str, which: Which) -> Option<Trial> {
        let case = Case::new(setting.op, which, &setting.choices(entry));
        let mut trial = Trial::empty(&case);
        let mut state = case.state();
        // Without dispatches this fills the named buffers that have contents of their own.
        Recording { dispatches: Vec::new(), ..case.recording.clone() }.run_cpu(&mut state, &case.step);
        for dispatch in &case.recording.dispatches {
            let single = Recording { dispatches: vec![dispatch.clone()], ..case.recording.clone() };
            if dispatch.entry == entry && setting.runs(dispatch) {
                trial.append(&single, &mut state, &case.step);
            } else {
                single.run_cpu(&mut state, &case.step);
            }
        }
        (!trial.expected.is_empty()).then_some(trial)
    }

    /// About what it costs to run.
    fn elements(&self) -> u64 {
        self.inputs.iter().map(|(tensor, _)| tensor.elements()).sum()
    }

    fn empty(case: &Case) -> Trial {
        let mut recording = Recording { precision: case.recording.precision, ..Recording::default() };
        recording.scopes.push(String::new());
        Trial { recording, inputs: Vec::new(), expected: Vec::new(), step: case.step.clone() }
    }

    /// Adds the one dispatch of `single`, on temporaries of its own that hold what `state` has, and runs its twin. Then
    /// half of its workgroups alone: what one writes in another's place is written over where both run.
    fn append(&mut self, single: &Recording, state: &mut CpuState, step: &Step) {
        let before = state.clone();
        overwritten(single).for_each(|tensor| state.write(single, tensor, vec![UNWRITTEN; tensor.elements() as usize]));
        single.run_cpu(state, step);
        let [x, y, z] = single.dispatches[0].grid;
        self.add(single, &before, state, false);
        if x * y * z > 1 {
            self.add(&with_grid(single, [(x * y * z).div_ceil(2), 1, 1]), &before, state, true);
        }
        // What it leaves to others.
        for tensor in overwritten(single) {
            let was = before.read(single, tensor);
            let kept = state.read(single, tensor).into_iter().zip(was);
            let values = kept.map(|(value, was)| if value == UNWRITTEN { was } else { value }).collect();
            state.write(single, tensor, values);
        }
    }

    fn add(&mut self, single: &Recording, before: &CpuState, after: &CpuState, partly: bool) {
        let mut dispatch = single.dispatches[0].clone();
        dispatch.scope = 0;
        for (id, binding) in dispatch.io.iter_mut().zip(&dispatch.kernel.entry_point(dispatch.entry).storage) {
            let old = single.tensor(*id);
            self.recording.tensors.push(TensorInfo { place: Place::Temporary, ..single.tensors[*id as usize] });
            *id = self.recording.tensors.len() as u32 - 1;
            let tensor = self.recording.tensor(*id);
            let values = match binding.access.reads() {
                true => before.read(single, old),
                false => vec![UNWRITTEN; tensor.elements() as usize],
            };
            let written = if binding.writable { after.read(single, old) } else { Vec::new() };
            let was = before.read(single, old);
            let is_something = |(value, was): (&f64, &f64)| {
                *value != UNWRITTEN && (value.abs() > NOTHING || (value - was).abs() > NOTHING)
            };
            if written.iter().zip(&was).any(is_something) {
                let unwritten = if partly { values.clone() } else { Vec::new() };
                let values = after.read(single, old);
                self.expected.push(Expected {
                    tensor,
                    values,
                    unwritten,
                    integer: binding.integer,
                    bound: dispatch.bound,
                });
            }
            self.inputs.push((
                tensor,
                match binding.integer {
                    true => Values::U32(values.iter().map(|value| *value as u32).collect()),
                    false => Values::F32(values.iter().map(|value| *value as f32).collect()),
                },
            ));
        }
        self.recording.dispatches.push(dispatch);
    }

    /// Runs it with `kernel` in place of the right one.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run(&mut self, context: &Context, kernel: &'static diffuse::gpu::Kernel) -> diffuse::error::Result<Verdict> {
        self.recording.dispatches.iter_mut().for_each(|dispatch| dispatch.kernel = kernel);
        let mut memory = Memory::default();
        let options = PlanOptions { reuse: false, guard: GUARD };
        let plan = match Plan::new(context, &self.recording, &mut memory, options) {
            Err(error) if error.to_string().contains("does not compile") => return Ok(Verdict::Refused),
            plan => plan?,
        };
        for (tensor, values) in &self.inputs {
            match values {
                Values::F32(values) => plan.write(context, *tensor, values),
                Values::U32(values) => plan.write(context, *tensor, values),
            }
        }
        plan.run(context, &self.step);
        for expected in &self.expected {
            if !expected.agrees(&plan.read(context, expected.tensor)?) {
                return Ok(Verdict::Differs);
            }
        }
        Ok(if plan.torn(context)? { Verdict::Differs } else { Verdict::Agrees })
    }
}

/// What the dispatch of `single` writes without reading it, or in part: the rest is left to others.
fn overwritten(single: &Recording) -> impl Iterator<Item = Tensor> {
    let ids = single.dispatches[0].bindings().filter(|(_, binding)| binding.writable && !binding.access.reads());
    ids.map(|(id, _)| single.tensor(id))
}

fn with_grid(single: &Recording, grid: [u32; 3]) -> Recording {
    let mut single = single.clone();
    single.dispatches[0].grid = grid;
    single
}

impl Expected {
    /// Padding, integers and what is left to others must be the same.
    fn agrees(&self, found: &[f32]) -> bool {
        let stride = self.tensor.channels4() as usize * 4;
        let channels = self.tensor.channels() as usize;
        let number = |value: &f32| if self.integer { value.to_bits() as f64 } else { *value as f64 };
        let mut found: Vec<f64> = found.iter().map(number).collect();
        for (index, unwritten) in self.unwritten.iter().enumerate() {
            if found[index] == *unwritten {
                found[index] = self.values[index];
            }
        }
        let exact = |index: usize| self.integer || index % stride >= channels || self.values[index] == UNWRITTEN;
        self.bound.compare(&found, &self.values, exact).agrees()
    }
}
