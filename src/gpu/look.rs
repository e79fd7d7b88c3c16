//! One dispatch of a plan, looked at from both sides: what it read, what it wrote, and what its twin makes of the same numbers.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::f16;

use super::agreement::{Bound, Difference};
use super::context::Context;
use super::kernel::Binding;
use super::plan::Plan;
use super::recorder::{Dispatch, Recording, Tensor};
use super::step::Step;
use crate::error::Result;

/// Bytes of the bindings of one dispatch beyond which it is not brought to the host: the twins' f64 are twice to four times as many.
const MOST_BYTES: u64 = 256 << 20;

/// What a dispatch read and wrote.
pub struct Look {
    recording: Arc<Recording>,
    index: usize,
    step: Step,
    /// Values of each binding in front of it and behind it, padded layout; of what it doesn't write the same.
    before: Vec<Vec<f64>>,
    after: Vec<Vec<f64>>,
}

/// An element that isn't what it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    /// `down_blocks.0/resnets.0/conv1 · conv2d.tiled.forward`.
    pub label: String,
    /// See [`element`].
    pub element: String,
    pub found: f64,
    /// What the twin computes.
    pub expected: f64,
    /// Whether that is more than halves hold, as which it is stored.
    pub is_overflow: bool,
    /// What it read: each tensor's range.
    pub read: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong { label, element, found, expected, is_overflow, read, .. } = self;
        let overflow = if *is_overflow { ", more than halves hold" } else { "" };
        write!(f, "{label}: {element} is {found:.6e}, the twin in f64 has {expected:.6e}{overflow} ({read})")
    }
}

/// `y[0, 3, 2, 66]`: image, row, column, channel of an element of a bound tensor as it lies in memory; a channel behind the last is
/// padding.
pub fn element(binding: &Binding, tensor: Tensor, index: usize) -> String {
    let (stride, [_, h, w, _]) = (tensor.channels4() as usize * 4, tensor.shape.map(|extent| extent as usize));
    let row = index / stride;
    format!("{}{:?}", binding.name, [row / (h * w), row / w % h, row % w, index % stride])
}

/// How far `found`, the values of a bound tensor, is from what is `expected`. Integers and padding must be equal; elements that are not the
/// dispatch's own are not compared.
pub fn compare(
    bound: Bound,
    (binding, tensor): (&Binding, Tensor),
    (found, expected): (&[f64], &[f64]),
    is_own: impl Fn(usize) -> bool,
) -> Difference {
    let stride = tensor.channels4() as usize * 4;
    let are_own: Vec<bool> = (0..found.len()).map(is_own).collect();
    let own = |values: &[f64]| -> Vec<f64> {
        values.iter().zip(&are_own).map(|(value, is_own)| if *is_own { *value } else { 0.0 }).collect()
    };
    let is_padding = |index: usize| index % stride >= tensor.channels() as usize;
    bound.compare(&own(found), &own(expected), |index| binding.integer || is_padding(index) || !are_own[index])
}

/// Whether a dispatch's tensors can be brought to the host.
pub fn is_visible(recording: &Recording, dispatch: &Dispatch) -> bool {
    dispatch.io.iter().map(|id| recording.tensor_bytes(*id)).sum::<u64>() <= MOST_BYTES
}

impl Look {
    /// Runs dispatch `index` of `plan`, which is of `recording`, behind those before it; waits for the device.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the device failed.
    pub fn at(context: &Context, plan: &Plan, recording: &Arc<Recording>, index: usize, step: &Step) -> Result<Look> {
        let written = written(context, plan, recording, index)?;
        plan.run_part(context, step, index..index + 1);
        Look::behind(context, plan, recording, index, step, written)
    }

    /// Of a dispatch that was just run, with what stood before in the tensors that it wrote.
    fn behind(
        context: &Context,
        plan: &Plan,
        recording: &Arc<Recording>,
        index: usize,
        step: &Step,
        written: Vec<Vec<f32>>,
    ) -> Result<Look> {
        let mut written = written.into_iter();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (id, binding) in recording.dispatches[index].bindings() {
            let now = plan.read(context, recording.tensor(id))?;
            let then = if binding.writable { written.next().expect("it was read") } else { now.clone() };
            before.push(numbers(then, binding));
            after.push(numbers(now, binding));
        }
        Ok(Look { recording: recording.clone(), index, step: step.clone(), before, after })
    }

    fn dispatch(&self) -> &Dispatch {
        &self.recording.dispatches[self.index]
    }

    /// How far what was written is from the twin, over what the dispatch's bound allows, and what is wrong if that is more than 1.
    /// Nothing where it read what is not finite: of that right results may make anything.
    pub fn check(&self) -> (f64, Option<Wrong>) {
        let is_read = |binding: &Binding| binding.access.reads() && !binding.integer;
        let mut read = self.dispatch().bindings().zip(&self.before).filter(|((_, binding), _)| is_read(binding));
        if read.any(|(_, values)| values.iter().any(|value| !value.is_finite())) {
            return (0.0, None);
        }
        let compared = self.written().map(|written| (self.compare(&written), written));
        let Some((Difference { error, index, .. }, written)) =
            compared.max_by(|(a, _), (b, _)| a.error.total_cmp(&b.error))
        else {
            return (0.0, None);
        };
        (error, (error > 1.0).then(|| self.name(&written, index)))
    }

    fn compare(&self, written: &Written) -> Difference {
        let Written { binding, tensor, before, found, expected, .. } = written;
        // What neither changed is not of this dispatch: several may make a part of a tensor each, and elsewhere anything may stand.
        let is_same = |a: f64, b: f64| a.to_bits() == b.to_bits();
        let is_own = |index: usize| !is_same(found[index], before[index]) || !is_same(expected[index], before[index]);
        // Beyond what halves hold drivers differ.
        let told = |values: &[f64]| -> Vec<f64> {
            values
                .iter()
                .zip(expected)
                .map(|(value, expected)| if expected.is_finite() { *value } else { 0.0 })
                .collect()
        };
        compare(self.dispatch().bound, (binding, *tensor), (&told(found), &told(expected)), is_own)
    }

    /// The first element written that is not finite, if there is one.
    pub fn not_finite(&self) -> Option<Wrong> {
        self.written().filter(|written| !written.binding.integer).find_map(|written| {
            let Written { found, before, .. } = &written;
            let is_new =
                |index: &usize| !found[*index].is_finite() && found[*index].to_bits() != before[*index].to_bits();
            let index = (0..found.len()).find(is_new)?;
            Some(self.name(&written, index))
        })
    }

    fn name(&self, written: &Written, index: usize) -> Wrong {
        Wrong {
            label: self.recording.label(self.dispatch()),
            element: element(written.binding, written.tensor, index),
            found: written.found[index],
            expected: written.exact[index],
            is_overflow: written.is_half && written.exact[index].is_finite() && written.expected[index].is_infinite(),
            read: self.ranges(),
        }
    }

    /// `x -3.2 to 4.1, weight -0.2 to 0.3 with 2 not finite`.
    fn ranges(&self) -> String {
        let read = self.dispatch().bindings().zip(&self.before);
        let read = read.filter(|((_, binding), _)| binding.access.reads() && !binding.integer);
        let range = |((_, binding), values): ((u32, &Binding), &Vec<f64>)| {
            let finite = values.iter().copied().filter(|value| value.is_finite());
            let (least, most) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
            let others = values.iter().filter(|value| !value.is_finite()).count();
            let others = if others > 0 { format!(", {others} not finite") } else { String::new() };
            format!("{} {least:.3e} to {most:.3e}{others}", binding.name)
        };
        read.map(range).collect::<Vec<_>>().join("; ")
    }

    fn written(&self) -> impl Iterator<Item = Written<'_>> {
        let expected = self.recording.twin(self.dispatch(), &self.step, self.before.clone());
        let all = self.dispatch().bindings().zip(&self.before).zip(&self.after).zip(expected);
        let written = all.filter(|((((_, binding), _), _), _)| binding.writable);
        written.map(|((((id, binding), before), found), exact)| {
            let is_half = self.recording.is_half(id);
            let stored = |value: &f64| if is_half { f16::from_f64(*value).to_f64() } else { *value };
            let expected = exact.iter().map(stored).collect();
            Written { binding, tensor: self.recording.tensor(id), is_half, before, found, exact, expected }
        })
    }
}

/// A tensor that a dispatch wrote, padded layout.
struct Written<'a> {
    binding: &'static Binding,
    tensor: Tensor,
    is_half: bool,
    before: &'a [f64],
    found: &'a [f64],
    /// What the twin computes, and that as it is stored.
    exact: Vec<f64>,
    expected: Vec<f64>,
}

/// Runs the dispatches `part` of a plan one by one, up to the first that writes what is not finite, which it names.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device failed.
pub fn first_not_finite(
    context: &Context,
    plan: &Plan,
    recording: &Arc<Recording>,
    step: &Step,
    part: Range<usize>,
) -> Result<Option<Wrong>> {
    // What an earlier run left there.
    plan.clear(context);
    let is_new = |(after, before): (&f32, &f32)| !after.is_finite() && after.to_bits() != before.to_bits();
    for index in part {
        let before = written(context, plan, recording, index)?;
        plan.run_part(context, step, index..index + 1);
        let after = written(context, plan, recording, index)?;
        if after.iter().flatten().zip(before.iter().flatten()).any(is_new)
            && let Some(wrong) = Look::behind(context, plan, recording, index, step, before)?.not_finite()
        {
            return Ok(Some(wrong));
        }
    }
    Ok(None)
}

/// What stands in the tensors that a dispatch writes.
fn written(context: &Context, plan: &Plan, recording: &Recording, index: usize) -> Result<Vec<Vec<f32>>> {
    let writable = recording.dispatches[index].bindings().filter(|(_, binding)| binding.writable);
    writable.map(|(id, _)| plan.read(context, recording.tensor(id))).collect()
}

fn numbers(words: Vec<f32>, binding: &Binding) -> Vec<f64> {
    words.into_iter().map(|word| if binding.integer { word.to_bits() as f64 } else { word as f64 }).collect()
}
