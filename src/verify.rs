//! Every kernel on this adapter against its f64 twin.

pub mod model;

use std::collections::BTreeMap;

use crate::error::Result;
use crate::gpu::recorder::Dispatch;
use crate::gpu::{Context, Memory, Plan, PlanOptions, Precision, Tensor};
use crate::ops::case::Values;
use crate::ops::{Case, Op};

/// The worst of one entry point over its cases.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Worst {
    /// Largest |gpu - twin| over what [`Tolerance`] allows: more than 1 is out of tolerance.
    pub error: f64,
    /// Largest |gpu - twin|.
    pub absolute: f64,
    /// Tensors compared.
    pub tensors: usize,
    /// The case where it was found.
    pub seed: u64,
}

/// What |gpu - twin| may be: `rms` of the tensor's root mean square and `relative` of the element.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub rms: f64,
    pub relative: f64,
}

impl Tolerance {
    /// The twins round what is stored in half precision as the device does; still a sum that lies between two halves may
    /// go to either, 2^-11 of it apart, and what follows is computed from the other.
    pub fn of(precision: Precision) -> Tolerance {
        match precision {
            Precision::F32 => Tolerance { rms: 1e-5, relative: 1e-4 },
            Precision::F16 => Tolerance { rms: 1e-3, relative: 2e-3 },
        }
    }
}

/// Bytes behind every tensor that no kernel may touch.
const GUARD: u64 = 1024;

/// Runs one case in every variant on the device and through the twins; folds what each entry point wrote into `worst`, by
/// `kernel.entry`.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails.
pub fn check_case(context: &Context, op: &Op, seed: u64, worst: &mut BTreeMap<String, Worst>) -> Result<()> {
    // The first way runs every case, each of the others every fourth.
    for (index, choices) in op.choices(context.kind()).iter().enumerate() {
        if index > 0 && seed % 4 != index as u64 % 4 {
            continue;
        }
        let case = Case::new(op.case, seed, choices);
        compare(context, &case, seed, worst)?;
    }
    Ok(())
}

/// As [`check_case`], for a case that was already drawn.
pub fn compare(context: &Context, case: &Case, seed: u64, worst: &mut BTreeMap<String, Worst>) -> Result<()> {
    let recording = &case.recording;
    let tolerance = Tolerance::of(recording.precision);
    let mut memory = Memory::default();
    let plan = Plan::new(context, recording, &mut memory, PlanOptions { reuse: false, guard: GUARD })?;
    for (tensor, values) in &case.inputs {
        match values {
            Values::F32(values) => plan.write(context, *tensor, values),
            Values::U32(values) => plan.write(context, *tensor, values),
        }
    }
    let mut state = case.state();
    recording.run_cpu(&mut state, &case.step);
    plan.run(context, &case.step);
    let mut writers: BTreeMap<u32, (String, bool)> = BTreeMap::new();
    for dispatch in &recording.dispatches {
        let entry = dispatch.kernel.entry_point(dispatch.entry);
        for (id, binding) in dispatch.io.iter().zip(&entry.storage) {
            if binding.writable {
                writers.insert(*id, (label(recording.precision, dispatch), binding.integer));
            }
        }
    }
    for (id, (name, integer)) in writers {
        let tensor = recording.tensor(id);
        let computed = plan.read(context, tensor)?;
        let reference = state.read(recording, tensor);
        let entry = worst.entry(name).or_default();
        let (error, absolute) = deviation(&computed, &reference, integer, tensor, tolerance);
        entry.tensors += 1;
        entry.absolute = entry.absolute.max(absolute);
        if error > entry.error || entry.tensors == 1 {
            (entry.error, entry.seed) = (error, seed);
        }
    }
    if plan.torn(context)? {
        let names: Vec<String> =
            recording.dispatches.iter().map(|dispatch| label(recording.precision, dispatch)).collect();
        worst.entry(format!("written behind the end by one of {}", names.join(" "))).or_default().error = f64::INFINITY;
    }
    Ok(())
}

/// `conv2d.subgroup.forward`, with ` f16` where that is how it stores.
fn label(precision: Precision, dispatch: &Dispatch) -> String {
    let name = format!("{}.{}", dispatch.kernel.label(), dispatch.entry);
    if precision == Precision::F32 { name } else { format!("{name} f16") }
}

/// Largest error in units of the tolerance, and largest absolute error. Padding is held to be exactly zero.
fn deviation(computed: &[f32], reference: &[f64], integer: bool, tensor: Tensor, tolerance: Tolerance) -> (f64, f64) {
    let stride = tensor.channels4() as usize * 4;
    let channels = tensor.channels() as usize;
    let rms = (reference.iter().map(|v| v * v).sum::<f64>() / tensor.count() as f64).sqrt();
    let (mut worst, mut absolute) = (0.0f64, 0.0f64);
    for (i, (computed, reference)) in computed.iter().zip(reference).enumerate() {
        let computed = if integer { computed.to_bits() as f64 } else { *computed as f64 };
        let difference = (computed - reference).abs();
        let exact = integer || i % stride >= channels;
        let allowed = if exact { 0.0 } else { tolerance.rms * rms + tolerance.relative * reference.abs() };
        let error = if difference == 0.0 { 0.0 } else { difference / allowed };
        worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        absolute = if difference.is_nan() { f64::INFINITY } else { absolute.max(difference) };
    }
    (worst, absolute)
}
