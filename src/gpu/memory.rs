//! Named buffers, which outlive a plan and may be shared by several.

use std::collections::HashMap;

use half::f16;

use super::context::Context;
use super::recorder::{NamedBuffer, Recording};
use crate::error::Result;

/// The named buffers on one device. A clone holds the same buffers.
#[derive(Clone, Default)]
pub struct Memory {
    buffers: HashMap<String, wgpu::Buffer>,
}

pub(crate) const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

impl Memory {
    /// The buffer, allocated and filled with its contents if it is new, `guard` bytes larger.
    pub(crate) fn get_or_create(&mut self, context: &Context, named: &NamedBuffer, guard: u64) -> Result<wgpu::Buffer> {
        if let Some(buffer) = self.buffers.get(&named.name) {
            assert_eq!(buffer.size(), named.bytes + guard, "{}: two sizes", named.name);
            return Ok(buffer.clone());
        }
        let buffer = context.create_buffer(&named.name, named.bytes + guard, STORAGE)?;
        if !named.contents.is_empty() {
            context.write(&buffer, 0, bytemuck::cast_slice(&named.contents));
        }
        self.buffers.insert(named.name.clone(), buffer.clone());
        Ok(buffer)
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> u64 {
        self.buffers.values().map(wgpu::Buffer::size).sum()
    }

    /// The buffer of that name; panics if no plan made it.
    pub fn buffer(&self, name: &str) -> &wgpu::Buffer {
        self.buffers.get(name).unwrap_or_else(|| panic!("no buffer {name}"))
    }

    /// Overwrites a buffer from element `offset` on.
    pub fn write<T: bytemuck::NoUninit>(&self, context: &Context, name: &str, offset: u64, values: &[T]) {
        context.write(self.buffer(name), offset * 4, bytemuck::cast_slice(values));
    }

    /// Overwrites buffer `index` of `recording` as its tensors are stored.
    pub(crate) fn fill(&self, context: &Context, recording: &Recording, index: usize, values: &[f32]) {
        let name = &recording.buffers[index].name;
        if recording.is_half_buffer(index) {
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            return self.write(context, name, 0, &halves);
        }
        self.write(context, name, 0, values);
    }

    /// Reads a whole buffer back; waits for all work before it.
    pub fn read(&self, context: &Context, name: &str) -> Result<Vec<f32>> {
        let buffer = self.buffer(name);
        read_buffer(context, buffer, 0, buffer.size())
    }

    /// Reads `count` numbers of a buffer back from number `first` on; waits for all work before it.
    pub fn read_at(&self, context: &Context, name: &str, first: u64, count: u64) -> Result<Vec<f32>> {
        read_buffer(context, self.buffer(name), first * 4, count * 4)
    }
}

/// Reads `bytes` of `buffer` from `offset` on; waits for all work before it.
pub(crate) fn read_buffer(context: &Context, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<f32>> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let staging = context.create_buffer("read back", bytes, usage)?;
    let mut encoder = context.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes);
    context.submit(Some(encoder.finish()));
    staging.map_async(wgpu::MapMode::Read, .., |_| {});
    context.wait()?;
    mapped_values(&staging)
}

/// The values of a buffer whose mapping was asked for and waited for.
pub(crate) fn mapped_values(buffer: &wgpu::Buffer) -> Result<Vec<f32>> {
    with_mapped(buffer, <[f32]>::to_vec)
}

/// Gives `take` the numbers of a buffer that is mapped.
pub(crate) fn with_mapped<T>(buffer: &wgpu::Buffer, take: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let view =
        buffer.get_mapped_range(..).map_err(|error| crate::error::Error::Device(format!("reading back: {error}")))?;
    Ok(take(bytemuck::cast_slice(&view)))
}
