//! Every kernel on this adapter against its f64 twin.

pub mod model;
pub mod soak;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::error::Result;
use crate::gpu::agreement::Difference;
use crate::gpu::kernel::Binding;
use crate::gpu::look;
use crate::gpu::recorder::Dispatch;
use crate::gpu::{Choices, Context, Device, Memory, Plan, PlanOptions, Precision, Recording, Tensor};
use crate::ops::case::Values;
use crate::ops::{Case, Op, Which};

/// An entry point in one of the ways to run it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Entry {
    pub kernel: &'static str,
    /// Empty where there is but one.
    pub variant: &'static str,
    pub entry: &'static str,
    /// Values of the variant's `override` constants.
    #[serde(serialize_with = "as_map")]
    pub constants: &'static [(&'static str, u32)],
    /// How it stores.
    pub precision: Precision,
}

fn as_map<S: Serializer>(
    constants: &&'static [(&'static str, u32)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(constants.iter().copied())
}

impl Entry {
    /// What runs a dispatch of `recording`.
    pub fn of(recording: &Recording, dispatch: &Dispatch) -> Entry {
        let Dispatch { kernel, entry, constants, .. } = *dispatch;
        Entry { kernel: kernel.name, variant: kernel.variant, entry, constants, precision: recording.precision }
    }
}

impl std::fmt::Display for Entry {
    /// `conv2d.tiled.forward ROW_LANES=16 CHANNEL_LANES=16 f16`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Entry { kernel, variant, entry, constants, precision } = self;
        let dot = if variant.is_empty() { "" } else { "." };
        write!(f, "{kernel}{dot}{variant}.{entry}")?;
        constants.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))?;
        if *precision == Precision::F16 { write!(f, " f16") } else { Ok(()) }
    }
}

/// The worst of one entry point over its cases.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Worst {
    /// Largest |found - expected| over what the [`crate::gpu::Bound`] allows: more than 1 is wrong.
    pub error: f64,
    /// Largest |found - expected|.
    pub absolute: f64,
    /// Tensors compared.
    pub tensors: usize,
    /// Where the largest error was found, by [`Op::name`]: the case may be another kernel's.
    pub case: String,
    /// What was dispatched there: bindings and parameters.
    pub shape: String,
    /// What was wrong there, if anything was.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<Wrong>,
    /// All cases that were compared.
    #[serde(skip)]
    pub cases: BTreeSet<String>,
}

/// The element of the largest error.
#[derive(Clone, Debug, Serialize)]
pub struct Wrong {
    /// `y[0, 3, 2, 66]`; a channel behind the last is padding.
    pub element: String,
    pub found: f64,
    /// What the twin computes.
    pub expected: f64,
}

/// What checking found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub entries: BTreeMap<Entry, Worst>,
    /// Cases that wrote behind the end of a tensor, with the entry points that ran there.
    pub torn: Vec<String>,
}

impl Report {
    /// The entry points that are wrong.
    pub fn wrong(&self) -> impl Iterator<Item = (&Entry, &Worst)> {
        self.entries.iter().filter(|(_, worst)| worst.wrong.is_some())
    }

    /// Whether all that was compared agrees, and nothing was written behind an end.
    pub fn agrees(&self) -> bool {
        self.torn.is_empty() && self.wrong().next().is_none()
    }
}

/// Bytes behind every tensor that no kernel may touch.
const GUARD: u64 = 1024;

/// One random case in so many runs in each way but the first. It is odd, so that each way meets grids of one row and of two.
const SHARE: u64 = 5;

/// What checking `op` on `device` runs, and in which way: every corner and, of the `cases` random cases from seed `first` on, the
/// first way all, each other one a share.
pub fn trials(op: &Op, device: &Device, first: u64, cases: u64) -> Vec<(Which, Arc<Choices>)> {
    let share = SHARE.min(cases).max(1);
    let mut all = Vec::new();
    for (index, choices) in op.choices(device).into_iter().enumerate() {
        let corners = (0..op.corners.len()).map(Which::Corner);
        let drawn = (0..cases).filter(|case| index == 0 || case % share == index as u64 % share);
        let random = drawn.map(|case| Which::Random(first.wrapping_add(case)));
        all.extend(corners.chain(random).map(|which| (which, choices.clone())));
    }
    all
}

/// Runs one case on the device and through the twins; what each entry point wrote goes into `report`.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails.
pub fn check(context: &Context, op: &Op, which: Which, choices: &Arc<Choices>, report: &mut Report) -> Result<()> {
    compare(context, &Case::new(op, which, choices), &op.name(which), report)
}

/// As [`check`], for a case that was already drawn.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails.
pub fn compare(context: &Context, case: &Case, name: &str, report: &mut Report) -> Result<()> {
    let recording = &case.recording;
    let mut memory = Memory::default();
    let plan = Plan::new(context, recording, &mut memory, PlanOptions { reuse: false, guard: GUARD })?;
    for (tensor, values) in &case.inputs {
        match values {
            Values::F32(values) => plan.write(context, *tensor, values),
            Values::U32(values) => plan.write(context, *tensor, values),
        }
    }
    plan.run(context, &case.step);
    let mut found = BTreeMap::new();
    for (id, writers) in writers(recording) {
        let integer = writers.iter().any(|(_, binding)| binding.integer);
        let number = |value: f32| if integer { value.to_bits() as f64 } else { value as f64 };
        let values: Vec<f64> = plan.read(context, recording.tensor(id))?.into_iter().map(number).collect();
        found.insert(id, (writers, values));
    }
    // Twins get the halves that the device stored: two right results may round to different ones, of which a later kernel makes
    // much. What is stored as f32 stays the twins' own.
    let mut parts: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    recording.run_cpu_watched(&mut case.state(), &case.step, |dispatch, state| {
        for id in &dispatch.io {
            let Some((writers, found)) = found.get(id) else { continue };
            let Some(number) = writers.iter().position(|(writer, _)| std::ptr::eq(*writer, dispatch)) else { continue };
            let (tensor, binding, is_last) = (recording.tensor(*id), writers[number].1, number + 1 == writers.len());
            let expected = state.read(recording, tensor);
            let before = |index: usize| parts.get(id).map_or(0.0, |values| values[index]);
            let is_own = |index: usize| {
                writers.len() == 1 || expected[index] != before(index) || is_last && before(index) == 0.0
            };
            let compared = Compared { name, recording, dispatch, binding, tensor, found, is_own: &is_own };
            report.add(&compared, &expected);
            if is_last && recording.is_half(tensor.id) {
                state.write(recording, tensor, found.clone());
            }
            parts.insert(*id, expected);
        }
    });
    if plan.torn(context)? {
        let names: Vec<String> =
            recording.dispatches.iter().map(|dispatch| Entry::of(recording, dispatch).to_string()).collect();
        report.torn.push(format!("{name}: one of {}", names.join(", ")));
    }
    Ok(())
}

/// The dispatch that wrote each tensor last, through which binding. Several that write one without reading it make a part each.
fn writers(recording: &Recording) -> BTreeMap<u32, Vec<(&Dispatch, &'static Binding)>> {
    let mut writers: BTreeMap<u32, Vec<(&Dispatch, &'static Binding)>> = BTreeMap::new();
    for dispatch in &recording.dispatches {
        for (id, binding) in dispatch.bindings().filter(|(_, binding)| binding.writable) {
            let writers = writers.entry(id).or_default();
            if binding.access.reads() {
                writers.clear();
            }
            writers.push((dispatch, binding));
        }
    }
    writers
}

/// A tensor that a dispatch of a case wrote.
struct Compared<'a> {
    name: &'a str,
    recording: &'a Recording,
    dispatch: &'a Dispatch,
    binding: &'static Binding,
    tensor: Tensor,
    found: &'a [f64],
    /// Of a tensor that several dispatches write, the elements that this one changed; of the last, those that none did, too.
    is_own: &'a dyn Fn(usize) -> bool,
}

impl Report {
    /// Compares with what is expected; padding and integers must be equal.
    fn add(&mut self, compared: &Compared, expected: &[f64]) {
        let Compared { name, recording, dispatch, binding, tensor, found, is_own } = *compared;
        let difference = look::compare(dispatch.bound, (binding, tensor), (found, expected), is_own);
        let worst = self.entries.entry(Entry::of(recording, dispatch)).or_default();
        worst.tensors += 1;
        worst.absolute = worst.absolute.max(difference.absolute);
        if difference.error > worst.error || worst.tensors == 1 {
            let Difference { error, index, .. } = difference;
            (worst.error, worst.case, worst.shape) = (error, name.into(), recording.shape(dispatch));
            let element = look::element(binding, tensor, index);
            let wrong = Wrong { element, found: found[index], expected: expected[index] };
            worst.wrong = (!difference.agrees()).then_some(wrong);
        }
        worst.cases.insert(name.into());
    }
}
