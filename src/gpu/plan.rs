//! A recording made ready for one device: buffers, bind groups, pipelines. Replayed for ever.

use std::ops::Range;

use half::f16;

use super::context::{Context, mebibytes};
use super::fault::{Fault, Injected};
use super::memory::{Memory, STORAGE, read_buffer};
use super::pace::{Cost, Runs};
use super::recorder::{Dispatch, Place, Recording, Tensor};
use super::step::{self, Step};
use crate::error::{Error, Result};

/// How temporaries are laid out.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// Pack temporaries into shared slots. Off: every tensor can be read after a run.
    pub reuse: bool,
    /// Bytes behind each buffer that belong to nobody but are bound with it. They start as NaN that is
    /// told from any other, temporaries too.
    pub guard: u64,
}

impl Default for PlanOptions {
    fn default() -> PlanOptions {
        PlanOptions { reuse: true, guard: 0 }
    }
}

pub(crate) struct Prepared {
    pub pipeline: wgpu::ComputePipeline,
    pub bind_group: wgpu::BindGroup,
    pub grid: [u32; 3],
    pub cost: Cost,
}

/// The word that stands `behind` words before the end of guarded buffer `number`: a signalling NaN. Where a kernel reads
/// it, the result shows; where it writes, the bits are others: arithmetic makes it quiet, a copy brings those of
/// another place.
fn guard_word(number: usize, behind: u64) -> u32 {
    0x7f80_0001 + ((number as u64 * 4099 + behind) % 0x3f_0000) as u32
}

/// A recording on a device.
pub struct Plan {
    pub(crate) prepared: Vec<Prepared>,
    pub(super) runs: Runs,
    places: Vec<Option<(wgpu::Buffer, u64)>>,
    bytes: Vec<u64>,
    half: Vec<bool>,
    pub(crate) slots: Vec<wgpu::Buffer>,
    guarded: Vec<wgpu::Buffer>,
    guard: u64,
    uniform: wgpu::Buffer,
    params_bytes: u64,
    named_bytes: u64,
    fault: Option<Injected>,
}

impl Plan {
    /// Allocates buffers, compiles pipelines and binds everything.
    ///
    /// # Errors
    /// [`Error::Device`] if a buffer or a binding is more than the device has.
    pub fn new(context: &Context, recording: &Recording, memory: &mut Memory, options: PlanOptions) -> Result<Plan> {
        check_bindings(context, recording)?;
        let slots = recording.slots(options.reuse);
        let mut buffers = Vec::new();
        for (index, bytes) in slots.bytes.iter().enumerate() {
            let buffer = context.create_buffer(&format!("slot {index}"), bytes + options.guard, STORAGE)?;
            fill_guard(context, &buffer, index, if options.guard > 0 { bytes + options.guard } else { 0 });
            buffers.push(buffer);
        }
        let mut named = Vec::new();
        for buffer in &recording.buffers {
            named.push(memory.get_or_create(context, buffer, options.guard)?);
            fill_guard(context, &named[named.len() - 1], buffers.len() + named.len() - 1, options.guard);
        }
        let places: Vec<_> = recording
            .tensors
            .iter()
            .enumerate()
            .map(|(id, tensor)| match tensor.place {
                Place::Temporary => slots.slot_of[id].map(|slot| (buffers[slot].clone(), 0)),
                Place::Part { whole, offset } => {
                    slots.slot_of[whole as usize].map(|slot| (buffers[slot].clone(), offset))
                }
                Place::Buffer { buffer, offset } => Some((named[buffer].clone(), offset)),
            })
            .collect();
        let uniforms = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniform = context.create_buffer("step", step::layout().bytes as u64, uniforms)?;
        let params = context.create_buffer("params", recording.params_bytes(), uniforms)?;
        context.write(&params, 0, &params_lines(recording));
        let mut plan = Plan {
            prepared: Vec::new(),
            runs: Runs::of([].iter()),
            places,
            bytes: (0..recording.tensors.len()).map(|id| recording.tensor_bytes(id as u32)).collect(),
            half: (0..recording.tensors.len()).map(|id| recording.is_half(id as u32)).collect(),
            guarded: buffers.iter().chain(&named).cloned().collect(),
            guard: options.guard,
            slots: buffers,
            uniform,
            params_bytes: params.size(),
            named_bytes: named.iter().map(wgpu::Buffer::size).sum(),
            fault: None,
        };
        for (index, dispatch) in recording.dispatches.iter().enumerate() {
            let pipeline = context.pipelines.get(&context.device, dispatch, recording.precision, context.checked);
            let pipeline = pipeline.map_err(|error| {
                let (kernel, entry) = (dispatch.kernel.label(), dispatch.entry);
                Error::Device(format!("{kernel}.{entry} does not compile on {}: {error}", context.info.name))
            })?;
            let bind_group = plan.bind(context, &pipeline, dispatch, &params, index as u64 * 256);
            let bytes = dispatch.io.iter().map(|id| plan.bytes[*id as usize]).sum();
            let cost = Cost::guess(dispatch.flops, bytes, context.is_cpu());
            plan.prepared.push(Prepared { pipeline, bind_group, grid: dispatch.grid, cost });
        }
        plan.runs = Runs::of(plan.prepared.iter().map(|prepared| &prepared.cost));
        context.check()?;
        Ok(plan)
    }

    fn bind(
        &self,
        context: &Context,
        pipeline: &wgpu::ComputePipeline,
        dispatch: &Dispatch,
        params: &wgpu::Buffer,
        line: u64,
    ) -> wgpu::BindGroup {
        let entry = dispatch.kernel.entry_point(dispatch.entry);
        let part = |binding: u32, buffer, offset, bytes| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset,
                size: wgpu::BufferSize::new(bytes),
            }),
        };
        let mut entries = Vec::new();
        for (id, binding) in dispatch.bindings() {
            let (buffer, offset) = self.places[id as usize].as_ref().expect("a bound tensor has a place");
            let bytes = self.bytes[id as usize];
            let last = offset + bytes + self.guard == buffer.size();
            entries.push(part(binding.index, buffer, *offset, bytes + if last { self.guard } else { 0 }));
        }
        if let Some(uniform) = &entry.params {
            entries.push(part(uniform.index, params, line, uniform.bytes as u64));
        }
        if let Some(uniform) = &entry.step {
            entries.push(part(uniform.index, &self.uniform, 0, uniform.bytes as u64));
        }
        context.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        })
    }

    pub(crate) fn write_step(&self, context: &Context, step: &Step) {
        context.write(&self.uniform, 0, &step.to_bytes());
    }

    /// Bytes that this plan allocated, its share of named buffers included.
    pub fn allocated_bytes(&self) -> u64 {
        self.own_bytes() + self.named_bytes
    }

    /// Bytes of this plan alone: slots, parameters, the step's uniform.
    pub fn own_bytes(&self) -> u64 {
        let slots: u64 = self.slots.iter().map(wgpu::Buffer::size).sum();
        slots + self.params_bytes + self.uniform.size()
    }

    /// The tensor's values in the padded layout; waits for the device. A temporary holds what the last dispatch that
    /// used its slot left there.
    pub fn read(&self, context: &Context, tensor: Tensor) -> Result<Vec<f32>> {
        let (buffer, offset) = self.place(tensor);
        let words = read_buffer(context, buffer, *offset, self.bytes[tensor.id as usize])?;
        if !self.half[tensor.id as usize] {
            return Ok(words);
        }
        let halves: &[f16] = bytemuck::cast_slice(&words);
        Ok(halves.iter().map(|value| value.to_f32()).collect())
    }

    /// Overwrites a tensor, padded layout.
    pub fn write<T: bytemuck::NoUninit>(&self, context: &Context, tensor: Tensor, values: &[T]) {
        assert_eq!(size_of_val(values) as u64, 4 * tensor.elements(), "values and shape disagree");
        let (buffer, offset) = self.place(tensor);
        if self.half[tensor.id as usize] {
            let values: &[f32] = bytemuck::cast_slice(values);
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            return context.write(buffer, *offset, bytemuck::cast_slice(&halves));
        }
        context.write(buffer, *offset, bytemuck::cast_slice(values));
    }

    /// The buffer and the byte offset where `tensor` lives.
    pub fn place(&self, tensor: Tensor) -> &(wgpu::Buffer, u64) {
        self.places[tensor.id as usize].as_ref().expect("a tensor that some dispatch uses")
    }

    /// For tests: lets the device err from now on.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no memory.
    pub fn inject(&mut self, context: &Context, recording: &Recording, fault: Fault) -> Result<()> {
        let id = recording.dispatches[fault.dispatch].io[fault.binding];
        let (buffer, offset) = self.place(recording.tensor(id)).clone();
        self.fault = Some(Injected::new(context, fault, buffer, offset)?);
        Ok(())
    }

    /// What the device shall do wrong behind one of the dispatches `part`.
    pub(crate) fn fault_within(&self, part: &Range<usize>) -> Option<&Injected> {
        self.fault.as_ref().filter(|fault| part.contains(&fault.dispatch()) && fault.strikes())
    }

    /// Whether a kernel wrote behind the end of a buffer.
    pub fn torn(&self, context: &Context) -> Result<bool> {
        for (number, buffer) in self.guarded.iter().enumerate() {
            let words = self.guard / 4;
            let found = read_buffer(context, buffer, buffer.size() - self.guard, self.guard)?;
            let whole =
                found.iter().zip((0..words).rev()).all(|(value, behind)| value.to_bits() == guard_word(number, behind));
            if !whole {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Fills the last `bytes` of buffer `number`.
fn fill_guard(context: &Context, buffer: &wgpu::Buffer, number: usize, bytes: u64) {
    if bytes > 0 {
        let values: Vec<u32> = (0..bytes / 4).rev().map(|behind| guard_word(number, behind)).collect();
        context.write(buffer, buffer.size() - bytes, bytemuck::cast_slice(&values));
    }
}

impl Prepared {
    pub(crate) fn record(&self, pass: &mut wgpu::ComputePass) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

fn check_bindings(context: &Context, recording: &Recording) -> Result<()> {
    let limit = context.device.limits().max_storage_buffer_binding_size;
    for dispatch in &recording.dispatches {
        for id in &dispatch.io {
            let bytes = recording.tensor_bytes(*id);
            if bytes > limit {
                let label = recording.label(dispatch);
                return Err(Error::Device(format!(
                    "{label} binds {}, this device binds at most {}",
                    mebibytes(bytes),
                    mebibytes(limit)
                )));
            }
        }
    }
    Ok(())
}

/// The parameters of every dispatch as WGSL lays them out, 256 bytes each.
fn params_lines(recording: &Recording) -> Vec<u8> {
    let mut lines = vec![0; recording.params_bytes() as usize];
    for (dispatch, line) in recording.dispatches.iter().zip(lines.chunks_exact_mut(256)) {
        let params = dispatch.params_bytes();
        line[..params.len()].copy_from_slice(&params);
    }
    lines
}
