//! Runs a recording through the f64 twins: the CPU reference of anything that can be recorded.

use std::collections::HashMap;

use half::f16;

use super::recorder::{Dispatch, Place, Recording, Tensor, Value};
use super::step::Step;
use crate::cpu::{Array, Call};

/// The values of all tensors in f64: named buffers by name, temporaries by tensor.
#[derive(Clone, Default)]
pub struct CpuState {
    named: HashMap<String, Vec<f64>>,
    temporaries: HashMap<u32, Vec<f64>>,
}

impl CpuState {
    /// Sets a whole named buffer (padded layout). u32 buffers hold their integers as numbers.
    pub fn set(&mut self, name: &str, values: impl IntoIterator<Item = f64>) {
        self.named.insert(name.to_string(), values.into_iter().collect());
    }

    /// A whole named buffer; panics if there is none.
    pub fn get(&self, name: &str) -> &[f64] {
        self.named.get(name).unwrap_or_else(|| panic!("no buffer {name}"))
    }

    /// Whether a named buffer exists.
    pub fn contains(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// A tensor's values, padded layout.
    pub fn read(&self, recording: &Recording, tensor: Tensor) -> Vec<f64> {
        match recording.tensors[tensor.id as usize].place {
            Place::Temporary => {
                let elements = tensor.elements() as usize;
                // Of another length it is that of another recording, which ran on this state before.
                let own = self.temporaries.get(&tensor.id).filter(|values| values.len() == elements);
                own.cloned().unwrap_or_else(|| vec![0.0; elements])
            }
            Place::Part { whole, offset } => {
                let first = (offset / recording.element_bytes(tensor.id)) as usize;
                self.read(recording, recording.tensor(whole))[first..][..tensor.elements() as usize].to_vec()
            }
            Place::Buffer { buffer, offset } => {
                let name = &recording.buffers[buffer].name;
                let first = (offset / recording.element_bytes(tensor.id)) as usize;
                self.named[name][first..][..tensor.elements() as usize].to_vec()
            }
        }
    }

    /// Overwrites a tensor, padded layout; values are rounded where it is stored in half precision.
    pub fn write(&mut self, recording: &Recording, tensor: Tensor, mut values: Vec<f64>) {
        if recording.is_half(tensor.id) {
            values.iter_mut().for_each(|value| *value = f16::from_f64(*value).to_f64());
        }
        match recording.tensors[tensor.id as usize].place {
            Place::Temporary => {
                self.temporaries.insert(tensor.id, values);
            }
            Place::Part { whole, offset } => {
                let first = (offset / recording.element_bytes(tensor.id)) as usize;
                let mut all = self.read(recording, recording.tensor(whole));
                all[first..][..values.len()].copy_from_slice(&values);
                self.temporaries.insert(whole, all);
            }
            Place::Buffer { buffer, offset } => {
                let NamedRange { name, elements } = named(recording, buffer);
                let all = self.named.entry(name).or_insert_with(|| vec![0.0; elements]);
                let first = (offset / recording.element_bytes(tensor.id)) as usize;
                // Halves take half the bytes that the buffer's elements are counted by.
                all.resize(all.len().max(first + values.len()), 0.0);
                all[first..][..values.len()].copy_from_slice(&values);
            }
        }
    }
}

struct NamedRange {
    name: String,
    elements: usize,
}

fn named(recording: &Recording, buffer: usize) -> NamedRange {
    let buffer = &recording.buffers[buffer];
    NamedRange { name: buffer.name.clone(), elements: (buffer.bytes / 4) as usize }
}

impl Recording {
    /// Runs every dispatch through its twin. Named buffers that `state` lacks start as the recording's contents, or 0.
    pub fn run_cpu(&self, state: &mut CpuState, step: &Step) {
        self.run_cpu_watched(state, step, |_, _| {});
    }

    /// As [`Recording::run_cpu`]; `watch` sees the state behind each dispatch, and may change it.
    pub fn run_cpu_watched(&self, state: &mut CpuState, step: &Step, mut watch: impl FnMut(&Dispatch, &mut CpuState)) {
        for (index, buffer) in self.buffers.iter().enumerate() {
            if !state.contains(&buffer.name) {
                let mut values: Vec<f64> = buffer.contents.iter().map(|bits| f32::from_bits(*bits) as f64).collect();
                let element = if self.is_half_buffer(index) { 2 } else { 4 };
                values.resize((buffer.bytes / element) as usize, 0.0);
                state.set(&buffer.name, values);
            }
        }
        for dispatch in &self.dispatches {
            self.run_twin(dispatch, state, step);
            watch(dispatch, state);
        }
    }

    fn run_twin(&self, dispatch: &Dispatch, state: &mut CpuState, step: &Step) {
        let before = dispatch.io.iter().map(|id| state.read(self, self.tensor(*id))).collect();
        let bound = dispatch.bindings().zip(self.twin(dispatch, step, before));
        for ((id, _), after) in bound.filter(|((_, binding), _)| binding.writable) {
            state.write(self, self.tensor(id), after);
        }
    }

    /// What a dispatch's twin makes of the values of its bindings, padded layout: those behind it, in the same order.
    pub fn twin(&self, dispatch: &Dispatch, step: &Step, before: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let params: Vec<(&'static str, f64)> =
            dispatch.params.iter().map(|(name, value)| (*name, number(*value))).collect();
        let arguments = dispatch.bindings().zip(before).map(|((id, binding), data)| {
            let array = Array::zeros(self.tensor(id).shape.map(|extent| extent as usize));
            (binding.name.as_str(), Array { data, ..array })
        });
        let mut call = Call { params: &params, step: &|name| step.get(name), arguments: arguments.collect() };
        dispatch.kernel.twin(dispatch.entry)(&mut call);
        call.arguments.into_iter().map(|(_, array)| array.data).collect()
    }
}

fn number(value: Value) -> f64 {
    match value {
        Value::U32(value) => value as f64,
        Value::F32(value) => value as f64,
    }
}
